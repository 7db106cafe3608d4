"""jfzhang95/pytorch-deeplab-xception: DeepLabV3+ on ResNet-101 and MobileNetV2.

Every unit of a stage that lost its stride has the new rate, ResNet's last ones times
1, 2, 4; in MobileNetV2 a whole row of units keeps the old rate. MobileNetV2 pads
before a unit's expansion, and is saved twice: whole, and as the two halves that the
decoder and the pyramid look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deeplab.foreign.keys import Order, length, refuse, renamer, resnet
from deeplab.foreign.origin import Origin
from deeplab.variant import Network, Variant

if TYPE_CHECKING:
    from collections.abc import Collection

    from deeplab.foreign.origin import State

_ORDER: Final = Order(pool_last=True)
_MOBILE: Final = "backbone.features.0.0.weight"
_HALVES: Final = 4  # its first half is the units below this number
_REFUSED: Final = {
    "backbone.block1.": "its Xception: it rectifies the shortcuts and taps 128 channels, "
    "unlike the authors', and no trained weights of it were published",
    "backbone.layer5.": "its DRN, a dilated residual network, which is not built here",
}


def _recognises(keys: Collection[str]) -> bool:
    return "aspp.aspp1.atrous_conv.weight" in keys


def _describe(state: State) -> Network:
    refuse(state, "resnet101, mobilenet_v2", _REFUSED)
    is_mobile = _MOBILE in state
    encoder = "mobilenet_v2" if is_mobile else resnet(state, "backbone.layer3.")
    return Network(
        architecture=f"deeplabv3plus_{encoder}",
        classes=length(state, "decoder.last_conv.8.weight"),
        bands=length(state, _MOBILE if is_mobile else "backbone.conv1.weight", 1),
        variant=Variant(
            dilation="stage" if is_mobile else "all",
            multi_grid=(1, 1, 1) if is_mobile else (1, 2, 4),
            padding="expanded" if is_mobile else "symmetric",
            align_corners=True,
            dropout=0.5,
        ),
    )


def _aliases(key: str, network: Network) -> tuple[str, ...]:
    """The same tensor in the half of MobileNetV2 that it lies in."""
    name = _rename(key, network) or ""
    if not name.startswith("backbone.features."):
        return ()
    unit = int(name.split(".")[2])
    half = "low_level_features" if unit < _HALVES else "high_level_features"
    return (name.replace("features", half, 1),)


_rename: Final = renamer(
    (r"backbone\.stem\.0", "backbone.conv1"),
    (r"backbone\.stem\.1", "backbone.bn1"),
    (r"backbone\.(layer.+)", r"backbone.\1"),
    (r"backbone\.(features\.0\..+)", r"backbone.\1"),
    # Its units are flat: layers count on over ReLU6. The first has no expansion.
    (r"backbone\.features\.1\.conv\.0\.([01])", r"backbone.features.1.conv.\1"),
    (r"backbone\.features\.1\.conv\.1", "backbone.features.1.conv.3"),
    (r"backbone\.features\.1\.conv\.2", "backbone.features.1.conv.4"),
    *(
        (
            rf"backbone\.features\.(\d+)\.conv\.{ours}",
            rf"backbone.features.\1.conv.{theirs}",
        )
        for ours, theirs in (
            (r"0\.0", 0),
            (r"0\.1", 1),
            (r"1\.0", 3),
            (r"1\.1", 4),
            ("2", 6),
            ("3", 7),
        )
    ),
    *(
        rule
        for branch in range(4)
        for rule in (
            (rf"aspp\.branches\.{branch}\.conv", f"aspp.aspp{branch + 1}.atrous_conv"),
            (rf"aspp\.branches\.{branch}\.bn", f"aspp.aspp{branch + 1}.bn"),
        )
    ),
    (r"aspp\.image_pool\.conv", "aspp.global_avg_pool.1"),
    (r"aspp\.image_pool\.bn", "aspp.global_avg_pool.2"),
    (r"aspp\.project\.conv", "aspp.conv1"),
    (r"aspp\.project\.bn", "aspp.bn1"),
    (r"decoder\.low_level\.conv", "decoder.conv1"),
    (r"decoder\.low_level\.bn", "decoder.bn1"),
    (r"decoder\.fuse\.0\.conv", "decoder.last_conv.0"),
    (r"decoder\.fuse\.0\.bn", "decoder.last_conv.1"),
    (r"decoder\.fuse\.1\.conv", "decoder.last_conv.4"),
    (r"decoder\.fuse\.1\.bn", "decoder.last_conv.5"),
    (r"classifier", "decoder.last_conv.8"),
)

JFZHANG: Final = Origin(
    name="jfzhang",
    recognises=_recognises,
    describe=_describe,
    rename=_rename,
    to_ours=_ORDER.to_ours,
    to_theirs=_ORDER.to_theirs,
    aliases=_aliases,
)
