"""What a pool takes and gives, with Ray or without."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Item = TypeVar("Item")

Kind = Literal["crash", "killed", "memory", "node"]
"""How a replica died: of a fatal signal, which left a traceback; by something that
left none, such as SIGKILL; for want of memory; with its node."""


class PoolError(Exception):
    """The pool stopped before all items were done."""


class WorkerBugError(PoolError):
    """The worker raised: a bug, or something that it was made with is wrong."""


class NoCapacityError(PoolError):
    """The cluster has no room for a single replica, or for none any more."""


class ClusterLostError(PoolError):
    """The cluster does not answer any more."""


class UnauthenticatedError(PermissionError):
    """The cluster lets anybody in; the message says what to set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a replica died while it had an item."""

    kind: Kind
    reason: str
    """One line for people, with the signal where it is known."""

    node: str = ""
    """Its host's name; empty where it is not known."""

    traceback: str = ""
    """Where each thread was; empty where nothing was left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a worker should know of the earlier tries of an item."""

    number: int = 1
    """From 1."""

    alone: bool = False
    """Nothing else runs in this replica; announce each step before it is taken."""

    quarantined: Mapping[str, Death] = field(default_factory=dict)
    """Steps that replicas died of, which must not be taken again."""

    out_of_memory: int = 0
    """How often the item's replica ran out of memory."""

    last: bool = False
    """Whether waiting is over: what cannot be had now is to be done without."""


class Worker(Protocol):
    """What actors hold."""

    def process(
        self,
        item: Any,  # noqa: ANN401
        attempt: Attempt,
        announce: Callable[[str], None],
    ) -> Any:  # noqa: ANN401 - any item, any value
        """Do an item; ``announce`` names the step about to be taken.

        An exception is a bug, but for ``MemoryError`` and torch's
        ``OutOfMemoryError``: after these the item is tried again alone.

        Returns:
            Any small value, or ``Postponed``.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """How to make a worker."""

    worker: Callable[..., Worker]
    """Its class, which the actors import by name."""

    arguments: tuple[Any, ...]
    """What the class is called with; stored once, whatever the actors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponed:
    """Returned by a worker: what it needs does not answer now; ask again later."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[Item]):
    """An item and what ``process`` returned for it."""

    item: Item
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Generic[Item]):
    """An item that was given up; the reason is for people."""

    item: Item
    attempts: int
    reason: str
