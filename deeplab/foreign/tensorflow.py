"""The authors' own checkpoints: tensorflow/models, ``research/deeplab`` and slim.

Every peculiarity is theirs: which unit gets which rate, low-level maps before the
addition or the activation, corners aligned, zeros below and right of even maps. What
a checkpoint has (decoder, branches, image-level view, separable convolutions) is
seen in its variables; the multi-grid of the "beta" ResNets is that of their flags.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final

from deeplab.foreign.keys import TORCH_COUNTER, length
from deeplab.foreign.origin import MismatchError, Origin, Preprocessing, unit
from deeplab.foreign.scopes import NORM, ROOTS, scopes
from deeplab.variant import RATES, Network, Norm, Variant

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from deeplab.foreign.origin import State

_HEAD: Final = ("aspp", "concat_projection/", "decoder/", "image_pooling/", "logits/")
_PROJECTION: Final = "decoder/feature_projection0/weights"
_CELL: Final = "meta_architecture/"
_AVERAGE: Final = "/ExponentialMovingAverage"
_NORM_NAMES: Final = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_MOBILE_WIDTH: Final = 32

_NORMS: Final = {
    "mobilenet": Norm(eps=1e-3, momentum=3e-3),
    "resnet": Norm(eps=1e-5, momentum=0.05),
    "xception": Norm(eps=1e-3, momentum=3e-4),
}
_IMAGENET_MEAN: Final = Preprocessing(
    mean=(123.15 / 255, 115.90 / 255, 103.06 / 255), std=(1 / 255, 1 / 255, 1 / 255)
)
"""Taken off the pixels, which are not divided."""

_IGNORED: Final = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r".+/(Momentum|RMSProp|RMSProp_1|Adam|Adam_1|Adagrad)", "the optimiser's state"),
        (r"global_step|beta[12]_power", "the optimiser's state"),
        (rf".+{_AVERAGE}", "given to the tensor that it is the average of"),
        (r"[^/]+/mean_rgb", "the mean colour of ImageNet's images"),
        (r"(xception|resnet)_[^/]+/logits/.+", "ImageNet's classifier"),
        (r"MobilenetV2/Logits/.+", "ImageNet's classifier"),
        (r"MobilenetV2/Conv_1/.+", "the last convolution, which is for whole images"),
    )
)


def _recognises(keys: Collection[str]) -> bool:
    starts = ("xception_", "resnet_v1_", "MobilenetV2/", "MobilenetV3/")
    is_theirs = any(key.startswith(starts) and "/" in key for key in keys)
    return is_theirs or "logits/semantic/weights" in keys


def _normalise(state: State) -> State:
    """Take the running average of a variable for the variable, where there is one."""
    averages = {
        key.removesuffix(_AVERAGE): value
        for key, value in state.items()
        if key.endswith(_AVERAGE)
    }
    return {**state, **averages} if averages else state


def _describe(state: State) -> Network:
    encoder = _encoder(state)
    variant, first = _encoder_variant(encoder, state)
    bands = length(state, first, 2)
    if not any(key.startswith(_HEAD) for key in state):
        return Network(
            architecture=f"deeplabv3plus_{encoder}",
            classes=1,
            bands=bands,
            variant=dataclasses.replace(variant, separable=True, decoder_separable=True),
        )
    head = "deeplabv3plus" if _PROJECTION in state else "deeplabv3"
    fused = "decoder/decoder_conv0_depthwise/depthwise_weights"
    return Network(
        architecture=f"{head}_{encoder}",
        classes=length(state, "logits/semantic/weights", 3),
        bands=bands,
        atrous_rates=_rates(state),
        variant=dataclasses.replace(
            variant,
            separable="aspp1_depthwise/depthwise_weights" in state,
            decoder_separable=fused in state,
            image_pool="global" if "image_pooling/weights" in state else "none",
        ),
    )


def _encoder(state: State) -> str:
    roots = {key.partition("/")[0] for key in state}
    found = [encoder for encoder, root in ROOTS.items() if root in roots]
    if len(found) != 1:
        raise MismatchError(
            f"variables must be in one of the scopes {', '.join(ROOTS.values())}, got "
            f"those in {', '.join(sorted(roots)[:8])}; another encoder is not supported"
        )
    if any(_CELL in key for key in state):
        raise MismatchError(
            "the head must be the authors' pyramid, got a dense prediction cell "
            f"({_CELL}...); use a checkpoint without one"
        )
    return found[0]


def _encoder_variant(encoder: str, state: State) -> tuple[Variant, str]:
    """The encoder's part of the variant, and the name of its first kernel."""
    family = encoder.rstrip("0123456789").removesuffix("_v")
    root = ROOTS[encoder]
    variant = Variant(
        dilation="tf",
        low_level="unit",
        padding="symmetric" if family == "xception" else "same",
        backbone_norm=_NORMS[family],
        head_norm=Norm(eps=1e-5, momentum=3e-4),
        align_corners=True,
    )
    if family == "mobilenet":
        first = "MobilenetV2/Conv/weights"
        check_width(length(state, first, 3))
        return variant, first
    if family == "xception":
        return variant, f"{root}/entry_flow/conv1_1/weights"
    if f"{root}/conv1_1/weights" not in state:
        return variant, f"{root}/conv1/weights"
    widths = [length(state, f"{root}/conv1_{i}/weights", 3) for i in (1, 2, 3)]
    beta = dataclasses.replace(variant, stem=tuple(widths), multi_grid=(1, 2, 4))
    return beta, f"{root}/conv1_1/weights"


def check_width(channels: int) -> None:
    """Refuse a MobileNetV2 whose first convolution has other than 32 channels.

    Raises:
        MismatchError: It has.
    """
    if channels != _MOBILE_WIDTH:
        raise MismatchError(
            "the depth multiplier of MobileNetV2 must be 1.0, which begins with "
            f"{_MOBILE_WIDTH} channels, got one that begins with {channels}; use a "
            "checkpoint of the full width"
        )


def _rates(state: State) -> tuple[int, ...] | None:
    """None for the three branches of the output stride, empty for none."""
    found = {match[1] for key in state if (match := re.match(r"aspp([1-9]\d*)[/_]", key))}
    if len(found) not in (0, len(RATES[16])):
        raise MismatchError(
            f"the pyramid must have 0 or {len(RATES[16])} atrous branches, got "
            f"{len(found)}; their rates are not in the checkpoint"
        )
    return None if found else ()


def rename(key: str, network: Network) -> str | None:
    """Give the authors' name of a tensor of ours; None for a counter."""
    layer, _, tensor = key.rpartition(".")
    scope = scopes(network).get(layer)
    if scope is None or tensor == TORCH_COUNTER:
        return None
    if scope.endswith(NORM):
        return f"{scope}/{_NORM_NAMES[tensor]}"
    if tensor == "bias":
        return f"{scope}/biases"
    return f"{scope}/{'depthwise_' if scope.endswith('depthwise') else ''}weights"


def to_ours(key: str, tensor: Tensor, network: Network) -> Tensor:
    """Bring a kernel's axes into our order."""
    if not _is_kernel(key, network):
        return tensor
    if _is_depthwise(key, network):
        return tensor.permute(2, 3, 0, 1)  # from rows, columns, channels, 1
    return tensor.permute(3, 2, 0, 1)  # from rows, columns, input, output


def to_theirs(key: str, tensor: Tensor, network: Network) -> Tensor:
    """Bring a kernel's axes into the authors' order."""
    if not _is_kernel(key, network):
        return tensor
    return tensor.permute(2, 3, *((0, 1) if _is_depthwise(key, network) else (1, 0)))


def _is_kernel(key: str, network: Network) -> bool:
    return (rename(key, network) or "").endswith("weights")


def _is_depthwise(key: str, network: Network) -> bool:
    return (rename(key, network) or "").endswith("depthwise_weights")


def _ignored(key: str) -> str | None:
    return next((reason for pattern, reason in _IGNORED if pattern.fullmatch(key)), None)


def _preprocessing(network: Network) -> Preprocessing:
    is_plain = network.encoder.startswith("resnet") and not network.choices.stem
    return _IMAGENET_MEAN if is_plain else unit(network)


TENSORFLOW: Final = Origin(
    name="tensorflow",
    recognises=_recognises,
    normalise=_normalise,
    describe=_describe,
    rename=rename,
    to_ours=to_ours,
    to_theirs=to_theirs,
    ignored=_ignored,
    preprocessing=_preprocessing,
)
