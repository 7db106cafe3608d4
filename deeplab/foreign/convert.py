"""From another project's state dict to ours, and back.

The network that a state belongs to says which tensors there must be. Each is looked
up under the origin's name for it, so the conversion is a bijection by construction:
what is not found is missing, what nobody asked for is left over.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from deeplab.foreign.origin import MismatchError
from deeplab.model import build_network
from deeplab.variant import Network, Variant

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from torch import Tensor

    from deeplab.foreign.origin import Origin, Preprocessing, State

_COUNTER: Final = ".num_batches_tracked"
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """Another project's weights under our names."""

    origin: str
    """Name of the origin."""

    network: Network
    """What the weights belong to."""

    tensors: dict[str, Tensor]
    """State dict of that network: contiguous float32, counters int64."""

    unused: dict[str, str]
    """Their keys that are not needed, with the reason."""

    untrained: tuple[str, ...]
    """Our keys whose tensors are random, since the origin has none."""

    preprocessing: Preprocessing
    """How images were normalised in training."""


def convert(  # noqa: PLR0913 - each is a choice that users make by name
    state: State,
    origin: Origin,
    *,
    output_stride: int | None = None,
    atrous_rates: Sequence[int] | None = None,
    classes: int | None = None,
    untrained_head: bool = False,
    overrides: Mapping[str, object] | None = None,
) -> Converted:
    """Convert another project's weights.

    Output stride, rates and some other choices leave no trace in a state dict. Each
    origin's defaults are those of its published weights; give what differs.
    mmsegmentation: ``overrides={"align_corners": True}`` for configurations trained
    at 769 pixels, ``{"multi_grid": (1, 2, 4)}`` and ``output_stride=16`` for
    ``d16-mg124``. Detectron2: ``{"multi_grid": (1, 1, 1)}`` for configurations
    without ``RES5_MULTI_GRID``, ``{"image_pool": "global", "pool_window": None}``
    for those without ``INPUT.CROP``. UniMatch: ``{"multi_grid": (2, 2, 4)}`` and
    ``output_stride=8`` where its configuration has ``multi_grid: True``.
    segmentation_models_pytorch: the rates and the output stride that the network
    was made with. TensorFlow: ``{"multi_grid": (1, 1, 1)}`` for "beta" ResNets trained
    without. Keras' Xception: ``{"padding": "symmetric"}`` for the authors' logits.
    transformers: ``{"align_corners": True}`` to enlarge logits as the authors do.

    Args:
        state: Their tensors, unwrapped and without a prefix of a trainer's.
        origin: Who wrote them.
        output_stride: 8, 16 or 32; None for the origin's default.
        atrous_rates: The pyramid's rates; None for the origin's default.
        classes: How many there must be. Needed where the state has no head.
        untrained_head: Accept an encoder alone and draw a head at random.
        overrides: Fields of ``Variant`` with other values than the origin's.

    Raises:
        MismatchError: Tensors are missing, left over, or of another shape.
        ValueError: The network is none of ours, or an argument is out of range.
    """
    state = origin.normalise(state)
    network = _adjust(origin.describe(state), output_stride, atrous_rates, overrides)
    if _has_head(state, origin, network):
        _check_head(network, classes, untrained_head=untrained_head)
        wanted, untrained = _expected(network), {}
    else:
        network = _with_head(network, classes, untrained_head=untrained_head)
        wanted = _expected(network)
        untrained = {key: wanted.pop(key) for key in list(wanted) if _is_head(key)}
    tensors, unused = _collect(state, origin, network, wanted)
    if untrained:
        tensors |= _draw(network, untrained)
    return Converted(
        origin=origin.name,
        network=network,
        tensors=tensors,
        unused=unused,
        untrained=tuple(untrained),
        preprocessing=origin.preprocessing(network),
    )


def revert(tensors: State, network: Network, origin: Origin) -> dict[str, Tensor]:
    """Give our weights the origin's names and layout, each of its keys once.

    Args:
        tensors: State dict of the network.
        network: What the tensors belong to, a network as ``convert`` gives it.
        origin: Who is to read them.
    """
    theirs: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = origin.rename(key, network)
        if name is None:
            continue
        value = origin.to_theirs(key, tensor, network).contiguous()
        theirs |= dict.fromkeys((name, *origin.aliases(key, network)), value)
    return theirs


def _adjust(
    network: Network,
    output_stride: int | None,
    atrous_rates: Sequence[int] | None,
    overrides: Mapping[str, object] | None,
) -> Network:
    variant = network.choices
    if overrides:
        allowed = [field.name for field in dataclasses.fields(Variant)]
        unknown = sorted(set(overrides) - set(allowed))
        if unknown:
            raise ValueError(
                f"overrides must be fields of Variant, got {', '.join(unknown)}; "
                f"allowed are {', '.join(allowed)}"
            )
        variant = dataclasses.replace(variant, **overrides)  # type: ignore[arg-type]
    rates = network.atrous_rates if atrous_rates is None else tuple(atrous_rates)
    return dataclasses.replace(
        network,
        output_stride=output_stride or network.output_stride,
        atrous_rates=rates,
        variant=variant,
    )


def _is_head(key: str) -> bool:
    return not key.startswith("backbone.")


def _has_head(state: State, origin: Origin, network: Network) -> bool:
    keys = [key for key in _expected(network) if _is_head(key)]
    return any(origin.rename(key, network) in state for key in keys)


def _check_head(network: Network, classes: int | None, *, untrained_head: bool) -> None:
    if untrained_head:
        raise ValueError(
            "an untrained head is for checkpoints of an encoder alone, got one with a "
            f"head of {network.classes} classes; ask for none"
        )
    if classes not in (None, network.classes):
        raise MismatchError(
            f"the checkpoint has {network.classes} classes, got classes={classes}; "
            "its own number is the one that its weights fit"
        )


def _with_head(network: Network, classes: int | None, *, untrained_head: bool) -> Network:
    if not untrained_head:
        raise MismatchError(
            f"the checkpoint holds an encoder alone ({network.encoder}), no head; ask "
            "for an untrained head and say how many classes, then train it"
        )
    if classes is None:
        raise ValueError(
            "an untrained head needs the number of classes, got none; say how many"
        )
    return dataclasses.replace(network, classes=classes)


def _expected(network: Network) -> dict[str, tuple[int, ...]]:
    """Our keys and shapes, without memory for them."""
    with torch.device("meta"):
        state = build_network(network).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _draw(network: Network, keys: Collection[str]) -> dict[str, Tensor]:
    """Random tensors of a new network, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_network(network).state_dict()
    return {key: state[key] for key in keys}


def _collect(
    state: State, origin: Origin, network: Network, wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Look up each wanted tensor, and give a reason for each other one."""
    tensors: dict[str, Tensor] = {}
    unused: dict[str, str] = {}
    missing: list[str] = []
    wrong: list[str] = []
    used: set[str] = set()
    for key, shape in wanted.items():
        name = origin.rename(key, network)
        if name is None or name not in state:
            if key.endswith(_COUNTER):
                tensors[key] = torch.zeros((), dtype=torch.int64)
            else:
                missing.append(name or key)
            continue
        used.add(name)
        theirs = state[name]
        ours = _to_ours(origin, key, theirs, network)
        if ours is None or tuple(ours.shape) != shape:
            wrong.append(f"{name} {tuple(theirs.shape)} for our {key} {shape}")
            continue
        dtype = torch.int64 if key.endswith(_COUNTER) else torch.float32
        tensors[key] = ours.detach().to(dtype).contiguous()
        for alias in origin.aliases(key, network):
            if alias in state and _are_equal(state[alias], theirs):
                unused[alias] = f"the same tensor as {name}"
    others = [key for key in state if key not in used and key not in unused]
    reasons = {key: origin.ignored(key) for key in others}
    unused |= {key: reason for key, reason in reasons.items() if reason is not None}
    left = [key for key, reason in reasons.items() if reason is None]
    _complain(origin, network, missing=missing, left=left, wrong=wrong)
    return tensors, unused


def _to_ours(origin: Origin, key: str, theirs: Tensor, network: Network) -> Tensor | None:
    """Their tensor in our layout; None where it has not even as many axes."""
    try:
        return origin.to_ours(key, theirs, network)
    except (RuntimeError, IndexError):
        return None


def _are_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _complain(
    origin: Origin,
    network: Network,
    *,
    missing: Sequence[str],
    left: Sequence[str],
    wrong: Sequence[str],
) -> None:
    parts = [
        f"{len(items)} {what} ({_listed(items)})"
        for items, what in (
            (missing, "missing"),
            (left, "left over"),
            (wrong, "of another shape"),
        )
        if items
    ]
    if not parts:
        return
    if missing and not left and not wrong:
        advice = "the file is cut short, or was saved from a part of the network"
    elif left and not missing and not wrong:
        advice = "take them out of the file if you know that they are not needed"
    else:
        advice = "the file is another variant, or another project's"
    raise MismatchError(
        f"the checkpoint is not a whole {network.architecture} of {network.classes} "
        f"classes as {origin.name} saves it: tensors {', '.join(parts)}; {advice}"
    )


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
