"""segmentation_models_pytorch's DeepLabV3 and DeepLabV3Plus.

Every unit of a stage that lost its stride has the new rate; the pyramid's rates are
12, 24, 36 unless asked for otherwise. V3+ refines the context by a separable
convolution and has one in the decoder, none of them normalised in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deeplab.foreign.keys import Order, length, renamer, resnet
from deeplab.foreign.origin import Origin
from deeplab.variant import RATES, Network, Variant

if TYPE_CHECKING:
    from collections.abc import Collection

    from deeplab.foreign.origin import State

_ORDER: Final = Order(pool_last=True)
_OLD: Final = {
    "decoder.0.": "decoder.aspp.",
    "decoder.1.": "decoder.conv.",
    "decoder.2.": "decoder.bn.",
}


def _recognises(keys: Collection[str]) -> bool:
    is_ours = "segmentation_head.0.weight" in keys
    pyramids = ("decoder.aspp.convs.", "decoder.aspp.0.convs.", "decoder.0.convs.")
    return is_ours and any(key.startswith(pyramids) for key in keys)


def _normalise(state: State) -> State:
    """Bring the keys of version 0.3 and before to today's."""
    if not any(key.startswith("decoder.0.") for key in state):
        return state
    return {
        next(
            (new + key[len(old) :] for old, new in _OLD.items() if key.startswith(old)), key
        ): value
        for key, value in state.items()
    }


def _describe(state: State) -> Network:
    is_mobile = "encoder.features.0.0.weight" in state
    encoder = "mobilenet_v2" if is_mobile else resnet(state, "encoder.layer3.")
    first = "encoder.features.0.0.weight" if is_mobile else "encoder.conv1.weight"
    is_plus = "decoder.block1.0.weight" in state
    pyramid = "decoder.aspp.0" if is_plus else "decoder.aspp"
    return Network(
        architecture=f"{'deeplabv3plus' if is_plus else 'deeplabv3'}_{encoder}",
        classes=length(state, "segmentation_head.0.weight"),
        bands=length(state, first, 1),
        output_stride=16 if is_plus else 8,
        atrous_rates=RATES[8],
        variant=Variant(
            dilation="all",
            last_conv=is_mobile,
            channels=length(state, "segmentation_head.0.weight", 1),
            separable=f"{pyramid}.convs.1.0.1.weight" in state,
            separable_norm=False,
            refine="separable" if is_plus else "dense",
            decoder_convs=1,
            decoder_separable=True,
            align_corners=True,
            dropout=0.5,
        ),
    )


def _ignored(key: str) -> str | None:
    if key.startswith("classification_head."):
        return "a head for whole images, beside segmentation"
    return None


def _rename(key: str, network: Network) -> str | None:
    return (_PLUS if network.head == "deeplabv3plus" else _V3)(key, network)


_ENCODER: Final = (
    (r"backbone\.stem\.0", "encoder.conv1"),
    (r"backbone\.stem\.1", "encoder.bn1"),
    (r"backbone\.(layer.+|features.+)", r"encoder.\1"),
    (r"classifier", "segmentation_head.0"),
)


def _pyramid(prefix: str) -> tuple[tuple[str, str], ...]:
    return (
        (r"aspp\.branches\.(\d)\.conv", rf"{prefix}.convs.\1.0"),
        (r"aspp\.branches\.(\d)\.depthwise", rf"{prefix}.convs.\1.0.0"),
        (r"aspp\.branches\.(\d)\.pointwise", rf"{prefix}.convs.\1.0.1"),
        (r"aspp\.branches\.(\d)\.bn", rf"{prefix}.convs.\1.1"),
        (r"aspp\.image_pool\.conv", f"{prefix}.convs.4.1"),
        (r"aspp\.image_pool\.bn", f"{prefix}.convs.4.2"),
        (r"aspp\.project\.conv", f"{prefix}.project.0"),
        (r"aspp\.project\.bn", f"{prefix}.project.1"),
    )


_V3: Final = renamer(
    *_ENCODER,
    *_pyramid("decoder.aspp"),
    (r"refine\.conv", "decoder.conv"),
    (r"refine\.bn", "decoder.bn"),
)
_PLUS: Final = renamer(
    *_ENCODER,
    *_pyramid("decoder.aspp.0"),
    (r"refine\.depthwise", "decoder.aspp.1.0"),
    (r"refine\.pointwise", "decoder.aspp.1.1"),
    (r"refine\.bn", "decoder.aspp.2"),
    (r"decoder\.low_level\.conv", "decoder.block1.0"),
    (r"decoder\.low_level\.bn", "decoder.block1.1"),
    (r"decoder\.fuse\.0\.depthwise", "decoder.block2.0.0"),
    (r"decoder\.fuse\.0\.pointwise", "decoder.block2.0.1"),
    (r"decoder\.fuse\.0\.bn", "decoder.block2.1"),
)

SMP: Final = Origin(
    name="smp",
    recognises=_recognises,
    normalise=_normalise,
    describe=_describe,
    rename=_rename,
    to_ours=_ORDER.to_ours,
    to_theirs=_ORDER.to_theirs,
    ignored=_ignored,
)
