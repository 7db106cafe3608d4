"""mmsegmentation's DeepLabV3 and V3+ on ResNet, mostly at output stride 8.

The views are concatenated as the authors do and joined by a 3x3 convolution, of 512
channels (128 on ResNet-18), and none follows it. Of a basic block the first
convolution alone has the rate, and multi-grid replaces rates instead of multiplying
them. The stem has three convolutions (V1c) or one (the configurations with a ``b``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deeplab.foreign.keys import length, refuse, renamer, resnet
from deeplab.foreign.origin import Origin
from deeplab.variant import Network, Variant

if TYPE_CHECKING:
    from collections.abc import Collection

    from deeplab.foreign.origin import State

_STEM: Final = "backbone.stem.0.weight"
_LOW: Final = "decode_head.c1_bottleneck.conv.weight"
_REFUSED: Final = {
    "backbone.conv1.conv.": "its MobileNetV2, where the first unit of a row alone has a "
    "rate and the auxiliary head 256 channels, which is not built here",
}


def _recognises(keys: Collection[str]) -> bool:
    return "decode_head.aspp_modules.0.conv.weight" in keys


def _describe(state: State) -> Network:
    refuse(state, "resnet18, resnet34, resnet50, resnet101", _REFUSED)
    is_plus = _LOW in state
    head = "deeplabv3plus" if is_plus else "deeplabv3"
    return Network(
        architecture=f"{head}_{resnet(state, 'backbone.layer3.')}",
        classes=length(state, "decode_head.conv_seg.weight"),
        bands=length(state, _STEM if _STEM in state else "backbone.conv1.weight", 1),
        output_stride=8,
        variant=Variant(
            stem=_stem(state),
            dilation="mmseg_mg",
            channels=length(state, "decode_head.bottleneck.conv.weight"),
            separable=is_plus,
            project_kernel=3,
            low_level_channels=length(state, _LOW) if is_plus else 48,
            decoder_separable=is_plus,
            aux="auxiliary_head.conv_seg.weight" in state,
        ),
    )


def _stem(state: State) -> tuple[int, ...]:
    if _STEM not in state:
        return ()
    return tuple(length(state, f"backbone.stem.{index}.weight") for index in (0, 3, 6))


def _ignored(key: str) -> str | None:
    if key.startswith("data_preprocessor."):
        return "how images are normalised, which every configuration has the same"
    return None


def _rename(key: str, network: Network) -> str | None:
    variant = network.choices
    return _TABLES[bool(variant.stem), variant.separable](key, network)


_STEMS: Final = {
    # Numbered over its ReLUs too.
    True: tuple(
        (rf"backbone\.stem\.{ours}", f"backbone.stem.{theirs}")
        for ours, theirs in enumerate((0, 1, 3, 4, 6, 7))
    ),
    False: (
        (r"backbone\.stem\.0", "backbone.conv1"),
        (r"backbone\.stem\.1", "backbone.bn1"),
    ),
}


def _separable(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"{ours}\.depthwise", f"{theirs}.depthwise_conv.conv"),
        (rf"{ours}\.depthwise_bn", f"{theirs}.depthwise_conv.bn"),
        (rf"{ours}\.pointwise", f"{theirs}.pointwise_conv.conv"),
        (rf"{ours}\.bn", f"{theirs}.pointwise_conv.bn"),
    )


_BRANCHES: Final = {
    True: (
        (r"aspp\.branches\.0\.(conv|bn)", r"decode_head.aspp_modules.0.\1"),
        *_separable(r"aspp\.branches\.(\d)", r"decode_head.aspp_modules.\1"),
    ),
    False: ((r"aspp\.branches\.(\d)\.(conv|bn)", r"decode_head.aspp_modules.\1.\2"),),
}
_REST: Final = (
    (r"backbone\.(layer.+)", r"backbone.\1"),
    (r"aspp\.image_pool\.(conv|bn)", r"decode_head.image_pool.1.\1"),
    (r"aspp\.project\.(conv|bn)", r"decode_head.bottleneck.\1"),
    (r"decoder\.low_level\.(conv|bn)", r"decode_head.c1_bottleneck.\1"),
    *_separable(r"decoder\.fuse\.(\d)", r"decode_head.sep_bottleneck.\1"),
    (r"classifier", "decode_head.conv_seg"),
    (r"aux\.(conv|bn)", r"auxiliary_head.convs.0.\1"),
    (r"aux\.classifier", "auxiliary_head.conv_seg"),
)
_TABLES: Final = {
    (has_stem, is_separable): renamer(*stem, *branches, *_REST)
    for has_stem, stem in _STEMS.items()
    for is_separable, branches in _BRANCHES.items()
}

MMSEG: Final = Origin(
    name="mmseg",
    recognises=_recognises,
    describe=_describe,
    rename=_rename,
    ignored=_ignored,
)
