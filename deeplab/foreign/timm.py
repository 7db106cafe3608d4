"""timm's aligned Xceptions and ResNets: encoders alone, trained on ImageNet.

Built for output stride 8, timm's ``xception71`` lacks the shortcut of its last entry
block, so such a state is not a whole Xception-71.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deeplab.foreign.keys import count_units, length, renamer, resnet
from deeplab.foreign.origin import MismatchError, Origin, Preprocessing, imagenet, unit
from deeplab.variant import Network, default_variant

if TYPE_CHECKING:
    from collections.abc import Collection

    from deeplab.foreign.origin import State

_XCEPTIONS: Final = {13: "xception41", 21: "xception65", 23: "xception71"}
"""Encoder by its number of blocks."""


def _recognises(keys: Collection[str]) -> bool:
    return "blocks.0.stack.conv1.conv_dw.weight" in keys or (
        "layer1.0.conv1.weight" in keys and "conv1.weight" in keys
    )


def _describe(state: State) -> Network:
    if "conv1.weight" in state:
        encoder, first = resnet(state, "layer3."), "conv1.weight"
    else:
        blocks = count_units(state, "blocks.")
        if blocks not in _XCEPTIONS:
            raise MismatchError(
                f"the encoder must be one of {', '.join(_XCEPTIONS.values())}, got an "
                f"Xception with {blocks} blocks"
            )
        encoder, first = _XCEPTIONS[blocks], "stem.0.conv.weight"
    return Network(
        architecture=f"deeplabv3plus_{encoder}",
        classes=1,
        bands=length(state, first, 1),
        variant=default_variant(f"deeplabv3plus_{encoder}"),
    )


def _ignored(key: str) -> str | None:
    if key.startswith(("head.fc.", "fc.")):
        return "ImageNet's classifier"
    return None


def _preprocessing(network: Network) -> Preprocessing:
    return (unit if network.encoder.startswith("xception") else imagenet)(network)


TIMM: Final = Origin(
    name="timm",
    recognises=_recognises,
    describe=_describe,
    rename=renamer(
        (r"backbone\.stem\.([01])\.(conv|bn)", r"stem.\1.\2"),
        (r"backbone\.stem\.0", "conv1"),
        (r"backbone\.stem\.1", "bn1"),
        (r"backbone\.(layer.+)", r"\1"),
        (r"backbone\.blocks\.(\d+)\.shortcut\.(\w+)", r"blocks.\1.shortcut.\2"),
        *(
            (
                rf"backbone\.blocks\.(\d+)\.convs\.{i}\.{ours}",
                rf"blocks.\1.stack.conv{i + 1}.{theirs}",
            )
            for i in range(3)
            for ours, theirs in (
                ("depthwise", "conv_dw"),
                ("depthwise_bn", "bn_dw"),
                ("pointwise", "conv_pw"),
                ("bn", "bn_pw"),
            )
        ),
    ),
    ignored=_ignored,
    preprocessing=_preprocessing,
)
