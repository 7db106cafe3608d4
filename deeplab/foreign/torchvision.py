"""torchvision's DeepLabV3, with its auxiliary head or without.

Its pyramid has the rates of output stride 8 whatever the output stride is, a further
3x3 convolution follows it, and half of the channels are dropped in training.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from deeplab.foreign.keys import Order, length, renamer, resnet
from deeplab.foreign.origin import Origin
from deeplab.variant import RATES, Network, Variant, default_variant

if TYPE_CHECKING:
    from collections.abc import Collection

    from deeplab.foreign.origin import State

_ORDER: Final = Order(pool_last=True)
_CLASSIFIER: Final = "classifier.4.weight"


def _recognises(keys: Collection[str]) -> bool:
    return "classifier.0.convs.0.0.weight" in keys


def _describe(state: State) -> Network:
    is_mobile = "backbone.0.0.weight" in state
    if is_mobile:
        encoder, first = "mobilenet_v3_large", "backbone.0.0.weight"
    else:
        encoder, first = resnet(state, "backbone.layer3."), "backbone.conv1.weight"
    own = default_variant(f"deeplabv3_{encoder}") if is_mobile else Variant()
    return Network(
        architecture=f"deeplabv3_{encoder}",
        classes=length(state, _CLASSIFIER),
        bands=length(state, first, 1),
        output_stride=16 if is_mobile else 8,
        atrous_rates=RATES[8],
        variant=dataclasses.replace(
            own,
            separable=False,
            decoder_separable=False,
            refine="dense",
            dropout=0.5,
            aux="aux_classifier.0.weight" in state,
        ),
    )


TORCHVISION: Final = Origin(
    name="torchvision",
    recognises=_recognises,
    describe=_describe,
    rename=renamer(
        (r"backbone\.stem\.0", "backbone.conv1"),
        (r"backbone\.stem\.1", "backbone.bn1"),
        (r"backbone\.features\.(.+)", r"backbone.\1"),
        (r"backbone\.(layer.+)", r"backbone.\1"),
        (r"aspp\.branches\.(\d)\.conv", r"classifier.0.convs.\1.0"),
        (r"aspp\.branches\.(\d)\.bn", r"classifier.0.convs.\1.1"),
        (r"aspp\.image_pool\.conv", "classifier.0.convs.4.1"),
        (r"aspp\.image_pool\.bn", "classifier.0.convs.4.2"),
        (r"aspp\.project\.conv", "classifier.0.project.0"),
        (r"aspp\.project\.bn", "classifier.0.project.1"),
        (r"refine\.conv", "classifier.1"),
        (r"refine\.bn", "classifier.2"),
        (r"classifier", "classifier.4"),
        (r"aux\.conv", "aux_classifier.0"),
        (r"aux\.bn", "aux_classifier.1"),
        (r"aux\.classifier", "aux_classifier.4"),
    ),
    to_ours=_ORDER.to_ours,
    to_theirs=_ORDER.to_theirs,
)
