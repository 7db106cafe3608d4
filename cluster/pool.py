"""Items over actors: the replicas pull, and whatever dies is replaced.

Ray places actors, carries messages and notices failures. This loop owns the
rest: which item runs where, how often it was tried, and when to give up. Actors
restart and retry nothing by themselves (``max_restarts=0, max_task_retries=0``)
and die with the driver, so every death is seen and counted here.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.connect import cluster_resources
from cluster.outcomes import Done, Lost, NoCapacityError, WorkerBugError, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ray import ObjectRef
    from ray.actor import ActorHandle

Item = TypeVar("Item")

IN_FLIGHT: Final = 2
"""Items in each actor at once, so that the device never waits for the next."""

_ATTEMPTS: Final = 3
_BUG_ATTEMPTS: Final = 2
_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many actors to hold, and what each one takes of its node."""

    replicas: int
    cpus: float
    gpus: float = 0
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the actors' processes; Ray logs them, so never a secret."""

    capacity_timeout_s: float = 300.0
    """How long to wait for a place for the first actor, or for a new one."""


def run_pool(
    spec: WorkerSpec, take: Callable[[], Item | None], size: Size
) -> Generator[Done[Item] | Lost[Item]]:
    """Run ``worker.process(item)`` for every item that ``take`` hands out.

    Args:
        spec: Worker class and the arguments that each actor is made with.
        take: Next item; None while there is none. It is asked again after every
            outcome, so an outcome may lead to further items.
        size: The pool.

    Yields:
        One outcome per item, in order of completion.

    Raises:
        WorkerBugError: An actor could not be made, or ``process`` raised twice
            for one item.
        NoCapacityError: No actor could be placed in time.
    """
    pool = _Pool(spec, take, size)
    try:
        yield from pool.outcomes()
    finally:
        pool.close()


@dataclass(slots=True, eq=False)
class _Call(Generic[Item]):
    item: Item
    deaths: int = 0
    bugs: int = 0


@dataclass(slots=True, eq=False)
class _Replica(Generic[Item]):
    actor: ActorHandle[Any]
    ready: ObjectRef[Any]
    born: float = field(default_factory=time.monotonic)
    calls: dict[ObjectRef[Any], _Call[Item]] = field(default_factory=dict)
    placed: bool = False

    @property
    def tests_suspect(self) -> bool:
        """Whether it runs an item that failed before."""
        return any(call.deaths or call.bugs for call in self.calls.values())


class _Pool(Generic[Item]):
    def __init__(
        self, spec: WorkerSpec, take: Callable[[], Item | None], size: Size
    ) -> None:
        self._take = take
        self._size = size
        self._again: deque[_Call[Item]] = deque()
        self._drained = False
        self._stillborn = 0
        self._arguments = ray.put(spec.arguments)
        self._actor_class: Any = ray.remote(_Actor).options(
            num_cpus=size.cpus,
            num_gpus=size.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=IN_FLIGHT,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": size.environment} if size.environment else None,
        )
        self._worker = spec.worker
        self._leaving: list[_Replica[Item]] = []
        self._replicas = [self._hire() for _ in range(size.replicas)]

    def outcomes(self) -> Iterator[Done[Item] | Lost[Item]]:
        self._fill()
        while waiting := self._waiting():
            finished, _ = ray.wait(list(waiting), timeout=_POLL_S)
            if not finished:
                self._check_capacity()
            for ref in finished:
                yield from self._settle(waiting[ref], ref)
            self._fill()

    def close(self) -> None:
        for replica in self._replicas:
            ray.kill(replica.actor)

    def _hire(self) -> _Replica[Item]:
        actor: ActorHandle[Any] = self._actor_class.remote(self._worker, self._arguments)
        return _Replica(actor=actor, ready=actor.ready.remote())

    def _waiting(self) -> dict[ObjectRef[Any], _Replica[Item]]:
        """Every call under way; empty when all work is done."""
        everyone = [*self._replicas, *self._leaving]
        calls = {ref: one for one in everyone for ref in one.calls}
        if not calls and not self._again and self._drained:
            return {}
        return calls | {one.ready: one for one in self._replicas if not one.placed}

    def _fill(self) -> None:
        # One for every replica before a second for any, so that few items spread.
        for depth, replica in itertools.product(range(IN_FLIGHT), self._replicas):
            if replica.placed and len(replica.calls) <= depth and not replica.tests_suspect:
                call = self._next(idle=not replica.calls)
                if call is not None:
                    replica.calls[replica.actor.process.remote(call.item)] = call

    def _next(self, *, idle: bool) -> _Call[Item] | None:
        # What failed before runs alone, so that it can only harm itself.
        if self._again and idle:
            return self._again.popleft()
        item = self._take()
        self._drained = item is None
        return None if item is None else _Call(item)

    def _settle(
        self, replica: _Replica[Item], ref: ObjectRef[Any]
    ) -> Iterator[Done[Item] | Lost[Item]]:
        call = replica.calls.pop(ref, None)
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            self._count_bug(call, error)
        except RayError as error:
            yield from self._replace(replica, call, error)
        else:
            if call is None:
                replica.placed = True
            else:
                yield Done(item=call.item, value=value)

    def _count_bug(self, call: _Call[Item] | None, error: RayTaskError) -> None:
        if call is None or call.bugs + 1 == _BUG_ATTEMPTS:
            raise WorkerBugError(str(error)) from error
        call.bugs += 1
        self._again.append(call)

    def _replace(
        self, replica: _Replica[Item], call: _Call[Item] | None, error: RayError
    ) -> Iterator[Lost[Item]]:
        """Put a new actor in a dead one's place and its item back in line.

        Its other calls settle by themselves: one may have ended in time.
        """
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise WorkerBugError(str(error)) from error
        if replica in self._replicas:
            self._dismiss(replica, error)
        if call is None:
            return
        call.deaths += 1
        if call.deaths < _ATTEMPTS:
            self._again.append(call)
        else:
            yield Lost(item=call.item, attempts=call.deaths, reason=str(error))

    def _dismiss(self, replica: _Replica[Item], error: RayError) -> None:
        self._stillborn = 0 if replica.placed else self._stillborn + 1
        if self._stillborn >= _ATTEMPTS * self._size.replicas:
            raise WorkerBugError(
                f"{self._stillborn} replicas in a row died while they were made: {error}"
            ) from error
        ray.kill(replica.actor)
        self._leaving = [one for one in self._leaving if one.calls] + [replica]
        self._replicas[self._replicas.index(replica)] = self._hire()

    def _check_capacity(self) -> None:
        if any(replica.placed for replica in self._replicas):
            return
        waited = min(time.monotonic() - replica.born for replica in self._replicas)
        if waited > self._size.capacity_timeout_s:
            size = self._size
            raise NoCapacityError(
                f"no replica could be placed in {waited:.0f} s; each wants {size.cpus:g} "
                f"CPUs and {size.gpus:g} GPUs, the cluster has {describe_resources()}"
            )


class _Actor:
    """The process that holds one worker."""

    def __init__(self, worker: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._worker = worker(*arguments)

    def ready(self) -> bool:
        """Answer once the worker is made."""
        return True

    def process(self, item: Any) -> Any:  # noqa: ANN401 - any worker, any item
        """Hand an item to the worker."""
        return self._worker.process(item)


def describe_resources() -> str:
    """What the cluster has in all, e.g. ``16 CPUs, 2 GPUs``."""
    total = cluster_resources()
    return f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
