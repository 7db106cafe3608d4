"""VainF/DeepLabV3Plus-Pytorch: both heads on ResNet and MobileNetV2.

torchvision's rates and pyramid at output stride 16, one 3x3 convolution in the
decoder, the low-level map first. Its MobileNetV2 pads a unit's input before the
expansion and its first convolution not at all, so weights trained with it expect at
the border what expansion makes of zeros.
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
_PLUS: Final = "classifier.aspp"
_V3: Final = "classifier.classifier.0"
_MOBILE: Final = "backbone.low_level_features.0.0.weight"
_REFUSED: Final = {
    "backbone.stage4.": "an HRNet, which is not built here; its constructors take the "
    "number of classes for the output stride and give every network 4 classes",
    "backbone.block1.": "Chollet's Xception, whose max pooling and unpadded borders the "
    "aligned Xception has not",
}


def _recognises(keys: Collection[str]) -> bool:
    return any(f"{pyramid}.convs.0.0.weight" in keys for pyramid in (_PLUS, _V3))


def _describe(state: State) -> Network:
    refuse(state, "resnet50, resnet101, mobilenet_v2", _REFUSED)
    is_mobile = _MOBILE in state
    encoder = "mobilenet_v2" if is_mobile else resnet(state, "backbone.layer3.")
    is_plus = f"{_PLUS}.convs.0.0.weight" in state
    pyramid, last = (_PLUS, 3) if is_plus else (_V3, 4)
    # Its switch makes the pyramid's and the decoder's convolutions separable at once.
    is_separable = f"{pyramid}.convs.1.0.body.0.weight" in state
    refine = "separable" if is_separable else "dense"
    return Network(
        architecture=f"{'deeplabv3plus' if is_plus else 'deeplabv3'}_{encoder}",
        classes=length(state, f"classifier.classifier.{last}.weight"),
        bands=length(state, _MOBILE if is_mobile else "backbone.conv1.weight", 1),
        variant=Variant(
            padding="expanded_valid" if is_mobile else "symmetric",
            separable=is_separable,
            separable_norm=False,
            refine="none" if is_plus else refine,  # type: ignore[arg-type]
            decoder_convs=1,
            decoder_separable=is_separable,
        ),
    )


def _rename(key: str, network: Network) -> str | None:
    return _HEADS[network.head](key, network)


_ENCODER: Final = (
    (r"backbone\.stem\.0", "backbone.conv1"),
    (r"backbone\.stem\.1", "backbone.bn1"),
    (r"backbone\.(layer.+)", r"backbone.\1"),
    (r"backbone\.features\.([0-3]\..+)", r"backbone.low_level_features.\1"),
    (r"backbone\.features\.(.+)", r"backbone.high_level_features.\1"),
)


def _pyramid(prefix: str) -> tuple[tuple[str, str], ...]:
    return (
        (r"aspp\.branches\.(\d)\.conv", rf"{prefix}.convs.\1.0"),
        (r"aspp\.branches\.(\d)\.depthwise", rf"{prefix}.convs.\1.0.body.0"),
        (r"aspp\.branches\.(\d)\.pointwise", rf"{prefix}.convs.\1.0.body.1"),
        (r"aspp\.branches\.(\d)\.bn", rf"{prefix}.convs.\1.1"),
        (r"aspp\.image_pool\.conv", f"{prefix}.convs.4.1"),
        (r"aspp\.image_pool\.bn", f"{prefix}.convs.4.2"),
        (r"aspp\.project\.conv", f"{prefix}.project.0"),
        (r"aspp\.project\.bn", f"{prefix}.project.1"),
    )


_HEADS: Final = {
    "deeplabv3": renamer(
        *_ENCODER,
        *_pyramid(_V3),
        (r"refine\.conv", "classifier.classifier.1"),
        (r"refine\.depthwise", "classifier.classifier.1.body.0"),
        (r"refine\.pointwise", "classifier.classifier.1.body.1"),
        (r"refine\.bn", "classifier.classifier.2"),
        (r"classifier", "classifier.classifier.4"),
    ),
    "deeplabv3plus": renamer(
        *_ENCODER,
        *_pyramid(_PLUS),
        (r"decoder\.low_level\.conv", "classifier.project.0"),
        (r"decoder\.low_level\.bn", "classifier.project.1"),
        (r"decoder\.fuse\.0\.conv", "classifier.classifier.0"),
        (r"decoder\.fuse\.0\.depthwise", "classifier.classifier.0.body.0"),
        (r"decoder\.fuse\.0\.pointwise", "classifier.classifier.0.body.1"),
        (r"decoder\.fuse\.0\.bn", "classifier.classifier.1"),
        (r"classifier", "classifier.classifier.3"),
    ),
}

VAINF: Final = Origin(
    name="vainf",
    recognises=_recognises,
    describe=_describe,
    rename=_rename,
    to_ours=_ORDER.to_ours,
    to_theirs=_ORDER.to_theirs,
)
