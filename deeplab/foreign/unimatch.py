"""LiheYoung/UniMatch: DeepLabV3+ on ResNet-50 and -101 of three-convolution stem.

torchvision's rates at output stride 16, two dense 3x3 convolutions in the decoder,
the low-level map first. Its first configuration for Cityscapes had output stride 8
and a multi-grid, which leave no trace in a state dict (``convert``). Nor does its
change detection, whose network has the same keys and compares two images: such weights
convert, but one image alone gives them nothing to compare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deeplab.foreign.keys import Order, length, refuse, renamer, resnet
from deeplab.foreign.origin import Origin
from deeplab.variant import Network, Variant

if TYPE_CHECKING:
    from collections.abc import Collection

    from deeplab.foreign.origin import State

_ORDER: Final = Order(pool_last=True, low_first=True)
_STEM: Final = tuple(f"backbone.conv1.{index}.weight" for index in (0, 3, 6))
_REFUSED: Final = {
    "backbone.block1.": "its Xception, which rectifies the shortcuts of its middle flow, "
    "unlike the authors'",
}


def _recognises(keys: Collection[str]) -> bool:
    return "head.b4.gap.1.weight" in keys and "reduce.0.weight" in keys


def _describe(state: State) -> Network:
    refuse(state, "resnet50, resnet101", _REFUSED)
    return Network(
        architecture=f"deeplabv3plus_{resnet(state, 'backbone.layer3.')}",
        classes=length(state, "classifier.weight"),
        bands=length(state, _STEM[0], 1),
        variant=Variant(
            stem=tuple(length(state, key) for key in _STEM),
            align_corners=True,
            dropout=0.0,
        ),
    )


UNIMATCH: Final = Origin(
    name="unimatch",
    recognises=_recognises,
    describe=_describe,
    rename=renamer(
        # Numbered over its ReLUs too; the last normalisation stands apart.
        *(
            (rf"backbone\.stem\.{ours}", f"backbone.conv1.{theirs}")
            for ours, theirs in enumerate((0, 1, 3, 4, 6))
        ),
        (r"backbone\.stem\.5", "backbone.bn1"),
        (r"backbone\.(layer.+)", r"backbone.\1"),
        (r"aspp\.branches\.(\d)\.conv", r"head.b\1.0"),
        (r"aspp\.branches\.(\d)\.bn", r"head.b\1.1"),
        (r"aspp\.image_pool\.conv", "head.b4.gap.1"),
        (r"aspp\.image_pool\.bn", "head.b4.gap.2"),
        (r"aspp\.project\.conv", "head.project.0"),
        (r"aspp\.project\.bn", "head.project.1"),
        (r"decoder\.low_level\.conv", "reduce.0"),
        (r"decoder\.low_level\.bn", "reduce.1"),
        (r"decoder\.fuse\.0\.conv", "fuse.0"),
        (r"decoder\.fuse\.0\.bn", "fuse.1"),
        (r"decoder\.fuse\.1\.conv", "fuse.3"),
        (r"decoder\.fuse\.1\.bn", "fuse.4"),
        (r"classifier", "classifier"),
    ),
    to_ours=_ORDER.to_ours,
    to_theirs=_ORDER.to_theirs,
)
