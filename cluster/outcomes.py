"""What a pool takes and gives, with Ray or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Item = TypeVar("Item")


class PoolError(Exception):
    """The pool stopped before all items were done."""


class WorkerBugError(PoolError):
    """The worker raised: a bug, or something that it was made with is wrong."""


class NoCapacityError(PoolError):
    """The cluster has no room for a single actor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """How to make a worker: an object with ``process(item)``."""

    worker: Callable[..., Any]
    """Its class, which the actors import by name."""

    arguments: tuple[Any, ...]
    """What the class is called with; stored once, whatever the actors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[Item]):
    """An item and what ``process`` returned for it."""

    item: Item
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Generic[Item]):
    """An item whose actor died every time it was tried."""

    item: Item
    attempts: int
    reason: str
