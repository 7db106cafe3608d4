"""What there is to know of another project's state dicts.

A stranger's keys are never parsed. An origin says which network a state belongs to;
that network's own keys and shapes are then known exactly, and each of them is looked
up under the name that the origin gives it (``deeplab.foreign.convert``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torch import Tensor

if TYPE_CHECKING:
    from deeplab.variant import Network

State = Mapping[str, Tensor]
"""Tensors by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How images were normalised: (pixel / 255 - mean) / std, per band."""

    mean: tuple[float, ...]
    """In units of pixel / 255."""

    std: tuple[float, ...]
    """In units of pixel / 255."""


IMAGENET: Final = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
UNIT: Final = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def same_keys(state: State) -> State:
    """Leave a state as it is."""
    return state


def same_tensor(key: str, tensor: Tensor, network: Network) -> Tensor:  # noqa: ARG001
    """Leave a tensor as it is."""
    return tensor


def no_aliases(key: str, network: Network) -> tuple[str, ...]:  # noqa: ARG001
    """Say that the origin has one name for each tensor."""
    return ()


def nothing_ignored(key: str) -> str | None:  # noqa: ARG001
    """Say that every tensor of the origin is needed."""
    return None


def imagenet(network: Network) -> Preprocessing:  # noqa: ARG001
    """ImageNet's mean and standard deviation."""
    return IMAGENET


def unit(network: Network) -> Preprocessing:  # noqa: ARG001
    """From -1 to 1, as TensorFlow's DeepLab has it."""
    return UNIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """How one project writes its networks' weights."""

    name: str
    """As on the command line."""

    recognises: Callable[[Collection[str]], bool]
    """Whether these keys are the project's; no two origins say yes to one state."""

    describe: Callable[[State], Network]
    """The network a state belongs to, at the project's default output stride and
    rates; with 1 class where the state has no head. Raises ValueError."""

    rename: Callable[[str, Network], str | None]
    """Our key to theirs; None where the project has no such tensor, which must be a
    ``num_batches_tracked``."""

    normalise: Callable[[State], State] = same_keys
    """Rewrite the keys of older files, so that ``describe`` and ``rename`` know one
    spelling alone."""

    to_ours: Callable[[str, Tensor, Network], Tensor] = same_tensor
    """Our key and their tensor to our tensor: axes, and order of channels."""

    to_theirs: Callable[[str, Tensor, Network], Tensor] = same_tensor
    """The inverse of ``to_ours``."""

    aliases: Callable[[str, Network], tuple[str, ...]] = no_aliases
    """Further names, of theirs, of the tensor that we call so."""

    ignored: Callable[[str], str | None] = nothing_ignored
    """Their key to the reason why it is not needed; None where it should be."""

    preprocessing: Callable[[Network], Preprocessing] = imagenet
    """How images were normalised in training."""


class MismatchError(ValueError):
    """A state does not hold what its network needs, all of it and nothing else."""
