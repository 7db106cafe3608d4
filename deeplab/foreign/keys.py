"""What the origins' tables are made of: names, order of channels, probes of a state."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from deeplab.foreign.origin import MismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from deeplab.foreign.origin import State
    from deeplab.variant import Network

TORCH_COUNTER: Final = "num_batches_tracked"

_INPUT_AXES: Final = {"conv": 1, "depthwise": 0, "depthwise_bn": 0, "pointwise": 1}
"""Axis of a layer's tensors that counts its input's channels."""

_LAYERS: Final = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
}
"""Encoder by the blocks of layer 3, and whether a block has a third convolution."""


def renamer(*rules: tuple[str, str]) -> Callable[[str, Network], str | None]:
    """Make an origin's ``rename`` of a table.

    Args:
        rules: Our layer as a regular expression that must match all of it, and
            theirs, with the expression's groups. The first that matches counts. The
            tensor's own name (``weight``, ``running_var``) is the same in both.
    """
    table = [(re.compile(ours), theirs) for ours, theirs in rules]

    def rename(key: str, network: Network) -> str | None:  # noqa: ARG001
        layer, _, tensor = key.rpartition(".")
        for ours, theirs in table:
            if match := ours.fullmatch(layer):
                return f"{match.expand(theirs)}.{tensor}"
        return None

    return rename


class Order(NamedTuple):
    """Where an origin concatenates maps in another order than the authors do."""

    pool_last: bool = False
    """The image-level view comes after the pyramid's branches, not before."""

    low_first: bool = False
    """The low-level map comes before the context, not after."""

    def to_ours(self, key: str, tensor: Tensor, network: Network) -> Tensor:
        """Bring their channels into our order."""
        return self._roll(key, tensor, network, sign=1)

    def to_theirs(self, key: str, tensor: Tensor, network: Network) -> Tensor:
        """Bring our channels into their order."""
        return self._roll(key, tensor, network, sign=-1)

    def _roll(self, key: str, tensor: Tensor, network: Network, *, sign: int) -> Tensor:
        variant = network.choices
        pooled = variant.image_pool != "none"
        if self.pool_last and pooled and key == "aspp.project.conv.weight":
            return tensor.roll(sign * variant.channels, 1)
        if self.low_first and key.startswith("decoder.fuse.0."):
            layer, name = key.split(".")[-2:]
            if layer in _INPUT_AXES and name != TORCH_COUNTER:
                shift = -sign * variant.low_level_channels
                return tensor.roll(shift, _INPUT_AXES[layer])
        return tensor


def length(state: State, key: str, axis: int = 0) -> int:
    """Size of a tensor along an axis.

    Raises:
        MismatchError: There is no such tensor, or it has no such axis.
    """
    if key not in state or state[key].ndim <= axis:
        raise MismatchError(
            f"the checkpoint is not a whole network: it lacks {key}; the file is cut "
            "short, or another project's"
        )
    return int(state[key].shape[axis])


def count_units(state: State, prefix: str) -> int:
    """Numbers ``0, 1, 2, ...`` that follow a prefix in the state's keys."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    found = {int(match[1]) for key in state if (match := pattern.match(key))}
    return max(found) + 1 if found else 0


def resnet(state: State, layer3: str) -> str:
    """Name of the ResNet whose third layer's blocks have this prefix.

    Raises:
        MismatchError: It is none of ours.
    """
    blocks = count_units(state, layer3)
    is_deep = any(key.startswith(f"{layer3}0.conv3.") for key in state)
    if (blocks, is_deep) not in _LAYERS:
        raise MismatchError(
            f"the encoder must be one of {', '.join(_LAYERS.values())}, got a ResNet "
            f"with {blocks} blocks in its third layer"
        )
    return _LAYERS[blocks, is_deep]


def refuse(state: State, allowed: str, reasons: Mapping[str, str]) -> None:
    """Refuse a project's networks that are not built here.

    Args:
        state: Their tensors.
        allowed: What is built, for the message.
        reasons: What such a network is and why it is refused, by the prefix that some
            of its keys have.

    Raises:
        MismatchError: A key has one of the prefixes.
    """
    for prefix, reason in reasons.items():
        if any(key.startswith(prefix) for key in state):
            raise MismatchError(f"the network must be of {allowed}, got {reason}")
