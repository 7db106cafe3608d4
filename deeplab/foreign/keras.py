"""bonlime's Keras port, with the authors' weights in ``.h5`` files.

A layer is called by the authors' scopes, shortened and joined by underscores. Its
Xception pads the first convolution as MobileNetV2 does, the authors' does not: on even
sizes their logits differ. ``overrides={"padding": "symmetric"}`` gives the authors'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deeplab.foreign import tensorflow
from deeplab.foreign.keys import length
from deeplab.foreign.origin import MismatchError, Origin, unit
from deeplab.foreign.scopes import NORM, ROOTS
from deeplab.variant import Network, Norm, Variant

if TYPE_CHECKING:
    from collections.abc import Collection

    from deeplab.foreign.origin import State

_CLASSIFIER: Final = "logits_semantic/"
_FIRST: Final = {
    "xception65": "entry_flow_conv1_1/kernel",
    "mobilenet_v2": "Conv/kernel",
}
_KINDS: Final = {
    "weights": "kernel",
    "depthwise_weights": "depthwise_kernel",
    "biases": "bias",
}


def _recognises(keys: Collection[str]) -> bool:
    return any(
        _short(key) in ("concat_projection/kernel", *_FIRST.values()) for key in keys
    )


def _normalise(state: State) -> State:
    """Of each path keep layer and variable, which are there in every layout.

    Raises:
        MismatchError: Two tensors then have one name.
    """
    short = {_short(key): value for key, value in state.items()}
    if len(short) < len(state):
        raise MismatchError(
            f"each layer must be in the file once, got {len(state)} tensors of "
            f"{len(short)} names; save the weights of one model alone"
        )
    return short


def _short(key: str) -> str:
    """``layer/variable`` of ``layer/layer/variable:0``."""
    if key.startswith("optimizer_weights/"):
        return key
    name = "/".join(key.removesuffix(":0").split("/")[-2:])
    # The port's own name where there are not 21 or 19 classes.
    return name.removeprefix("custom_") if _CLASSIFIER in name else name


def _describe(state: State) -> Network:
    encoder = next((name for name, key in _FIRST.items() if key in state), None)
    if encoder is None:
        raise MismatchError(
            f"the first layer must be one of {', '.join(_FIRST.values())}, got neither; "
            "the file is cut short, or another project's"
        )
    is_mobile = encoder == "mobilenet_v2"
    if is_mobile:
        tensorflow.check_width(length(state, _FIRST[encoder], 3))
    return Network(
        architecture="deeplabv3_mobilenet_v2" if is_mobile else "deeplabv3plus_xception65",
        classes=length(state, f"{_CLASSIFIER}kernel", 3),
        bands=length(state, _FIRST[encoder], 2),
        output_stride=8 if is_mobile else 16,
        atrous_rates=() if is_mobile else None,
        variant=Variant(
            dilation="tf",
            padding="same",
            low_level="unit",
            backbone_norm=Norm(eps=1e-3, momentum=1e-3 if is_mobile else 1e-2),
            separable=True,
            decoder_separable=True,
            head_norm=Norm(eps=1e-5, momentum=1e-2),
            align_corners=True,
        ),
    )


def _rename(key: str, network: Network) -> str | None:
    """Shorten the authors' name as the port does."""
    name = tensorflow.rename(key, network)
    if name is None:
        return None
    scope, _, variable = name.rpartition("/")
    scope = scope.removeprefix(f"{ROOTS[network.encoder]}/").removeprefix("decoder/")
    scope = scope.replace("middle_flow/block1", "middle_flow").replace(NORM, "_BN")
    scope = scope.replace("/xception_module", "")
    if not scope.startswith("middle_flow"):
        scope = scope.replace("/unit_1", "")
    return f"{scope.replace('/', '_')}/{_KINDS.get(variable, variable)}"


def _ignored(key: str) -> str | None:
    return "the optimiser's state" if key.startswith("optimizer_weights/") else None


KERAS: Final = Origin(
    name="keras",
    recognises=_recognises,
    normalise=_normalise,
    describe=_describe,
    rename=_rename,
    to_ours=tensorflow.to_ours,
    to_theirs=tensorflow.to_theirs,
    ignored=_ignored,
    preprocessing=unit,
)
