"""Items over replicas: each pulls its next, and whatever dies is replaced.

Ray places actors, carries messages and notices failures. This loop owns the
rest: which item runs where, how often it was tried, and when to give up; its
rules about failures are those of ``cluster.line``. Actors restart and retry
nothing by themselves (``max_restarts=0, max_task_retries=0``) and die with the
driver, so every death is seen and judged here.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import ray
from ray.exceptions import (
    NodeDiedError,
    RayError,
    RaySystemError,
    RayTaskError,
    RpcError,
    UnserializableException,
)

from cluster.connect import cluster_resources
from cluster.line import PATIENCE_S, Call, Line
from cluster.memory import Starved
from cluster.nodes import survey
from cluster.outcomes import (
    ClusterLostError,
    Death,
    Done,
    Lost,
    NoCapacityError,
    Postponed,
    WorkerBugError,
    WorkerSpec,
)
from cluster.replica import IN_FLIGHT, Actor, Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ray import ObjectRef

    from cluster.nodes import Survey

Item = TypeVar("Item")

_UNBORN: Final = 3
_POLL_S: Final = 1.0
_SURVEY_S: Final = 2.0
_SILENCE_S: Final = 30.0
"""How long the cluster may be silent; after 60 s Ray ends the driver by force."""

_BUGS: Final = (RayTaskError, UnserializableException, RaySystemError)
"""What ``ray.get`` raises where the worker raised, or its answer cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many replicas to hold, and what each one takes of its node."""

    replicas: int
    cpus: float
    gpus: float = 0
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the actors' processes; Ray logs them, so never a secret."""

    capacity_timeout_s: float = 300.0
    """How long to wait for a place while no replica has any."""

    patience_s: float = PATIENCE_S
    """How long to bear with a store that does not answer, or with dying nodes."""


def run_pool(
    spec: WorkerSpec, take: Callable[[], Item | None], size: Size
) -> Generator[Done[Item] | Lost[Item]]:
    """Run ``worker.process`` for every item that ``take`` hands out.

    Args:
        spec: Worker class and the arguments that each replica is made with.
        take: Next item; None while there is none. It is asked again after every
            outcome, so an outcome may lead to further items. After an item was
            lost because nothing at all gets done, it is asked no more.
        size: The pool.

    Yields:
        One outcome per item, in order of completion.

    Raises:
        WorkerBugError: A replica could not be made, or ``process`` raised twice
            for one item; what was under way then has been yielded before.
        NoCapacityError: No replica could be placed in time.
        ClusterLostError: The cluster does not answer any more.
    """
    pool = _Pool(spec, take, size)
    try:
        yield from pool.outcomes()
    finally:
        pool.close()


class _Pool(Generic[Item]):
    def __init__(
        self, spec: WorkerSpec, take: Callable[[], Item | None], size: Size
    ) -> None:
        now = time.monotonic()
        self._size = size
        self._line = Line(take, patience_s=size.patience_s, now=now)
        self._worker = spec.worker
        self._arguments = ray.put(spec.arguments)
        self._actor_class: Any = ray.remote(Actor).options(
            num_cpus=size.cpus,
            num_gpus=size.gpus,
            max_restarts=0,
            max_task_retries=0,
            # One more than the calls, so that a busy one can say goodbye.
            max_concurrency=IN_FLIGHT + 1,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": size.environment} if size.environment else None,
        )
        self._bug: WorkerBugError | None = None
        self._unborn = 0
        self._ready_at = self._placed_at = self._survey_at = now
        self._silent_since: float | None = None
        self._going: list[Replica[Item]] = []
        self._crew = [self._hire() for _ in range(size.replicas)]

    def outcomes(self) -> Iterator[Done[Item] | Lost[Item]]:
        self._fill()
        while self._goes_on():
            for replica, ref in self._wait():
                yield from self._settle(replica, ref)
            yield from self._see_off()
            self._look_around()
            self._fill()
        if self._bug is not None:
            raise self._bug

    def close(self) -> None:
        """End every replica, after the chance to clear up, if the cluster answers."""
        everyone = [*self._crew, *self._going]
        able = [one for one in everyone if one.stage != "dying"]
        if able and self._silent_since is None:
            with contextlib.suppress(RayError, OSError):
                words: list[Any] = [one.actor.leave.remote() for one in able]
                ray.wait(words, num_returns=len(words), timeout=_POLL_S)
        for one in everyone:
            one.kill()

    def _hire(self) -> Replica[Item]:
        actor = self._actor_class.remote()
        return Replica(actor=actor, chore=actor.place.remote())

    def _goes_on(self) -> bool:
        everyone = [*self._crew, *self._going]
        if any(one.calls or one.fallen for one in everyone):
            return True
        promised = any(one.reserved for one in everyone)
        return self._bug is None and (promised or not self._line.finished)

    def _wait(self) -> list[tuple[Replica[Item], ObjectRef[Any]]]:
        """Whatever has an answer; nothing at all after a while without any."""
        owners: dict[ObjectRef[Any], Replica[Item]] = {}
        for one in [*self._crew, *self._going]:
            owners |= dict.fromkeys(one.pending, one)
        # What may run at once but does not waits for a replica, not for the clock.
        limit = min(_POLL_S, self._line.pause(time.monotonic()) or _POLL_S)
        if not owners:
            time.sleep(limit)
            return []
        try:
            answered, _ = ray.wait([*owners], timeout=limit)
        except (RaySystemError, RpcError, ConnectionError) as error:
            raise ClusterLostError(f"the connection to Ray broke: {error}") from error
        return [(owners[ref], ref) for ref in answered]

    def _settle(
        self, replica: Replica[Item], ref: ObjectRef[Any]
    ) -> Iterator[Done[Item] | Lost[Item]]:
        if ref == replica.chore:
            self._advance(replica, ref)
            return
        call = replica.calls.pop(ref)
        try:
            value = ray.get(ref)
        except _BUGS as error:
            if self._line.raised(call) and self._bug is None:
                self._bug = WorkerBugError(str(error))
        except RayError as error:
            replica.fallen.append(call)
            self._replace(replica, error)
        else:
            yield from self._judge(replica, call, value)

    def _judge(
        self,
        replica: Replica[Item],
        call: Call[Item],
        value: Any,  # noqa: ANN401 - any value
    ) -> Iterator[Done[Item] | Lost[Item]]:
        now, lost = time.monotonic(), None
        if isinstance(value, Postponed):
            lost = self._line.postpone(call, value.reason, now)
        elif isinstance(value, Starved):
            death = Death(kind="memory", reason=value.reason)
            lost = self._line.bury(call, death, step=value.step, node=replica.node, now=now)
        else:
            self._line.done(now)
            yield Done(item=call.item, value=value)
        if lost is not None:
            yield lost

    def _advance(self, replica: Replica[Item], ref: ObjectRef[Any]) -> None:
        """Go on to the next stage of a replica's life."""
        replica.chore = None
        try:
            value = ray.get(ref)
        except _BUGS as error:
            if replica.stage in {"placing", "loading"}:
                raise WorkerBugError(str(error)) from error
        except RayError as error:
            if replica.stage != "dying":
                self._replace(replica, error)
        else:
            self._enter(replica, value)

    def _enter(self, replica: Replica[Item], value: Any) -> None:  # noqa: ANN401
        if replica.stage == "placing":
            replica.place = value
            replica.load(self._worker, self._arguments)
        elif replica.stage == "loading":
            replica.stage = "ready"
            self._unborn, self._ready_at = 0, time.monotonic()
        elif replica.stage == "dying":
            replica.remains = value

    def _replace(self, replica: Replica[Item], error: RayError) -> None:
        """Put a new replica in a dead one's place; it is judged when all is heard."""
        self._let_go(replica)
        replica.fall(error)

    def _let_go(self, replica: Replica[Item]) -> None:
        """Take a replica out of the crew, and hire another."""
        if replica.reserved is not None:
            self._line.put_back(replica.reserved)
            replica.reserved = None
        if replica in self._crew:
            self._crew[self._crew.index(replica)] = self._hire()
            self._going.append(replica)

    def _see_off(self) -> Iterator[Lost[Item]]:
        """Part with those that left, and judge those that died."""
        now = time.monotonic()
        for replica in self._going:
            if replica.is_idle and not replica.said_goodbye:
                replica.say_goodbye()
        over = [one for one in self._going if one.is_over(now)]
        self._going = [one for one in self._going if one not in over]
        for replica in over:
            if replica.stage == "leaving":
                replica.kill()
            else:
                yield from self._bury(replica, now)

    def _bury(self, replica: Replica[Item], now: float) -> Iterator[Lost[Item]]:
        death = replica.diagnose()
        if replica.unborn:
            self._count_unborn(death, now)
        for call in replica.victims():
            step = replica.step(call)
            lost = self._line.bury(call, death, step=step, node=replica.node, now=now)
            if lost is not None:
                yield lost

    def _count_unborn(self, death: Death, now: float) -> None:
        """Stop where replicas only die while they are made."""
        self._unborn += death.kind != "node"
        if self._unborn >= _UNBORN * self._size.replicas:
            raise WorkerBugError(
                f"{self._unborn} replicas in a row died while they were made: "
                f"{death.reason}\n{death.traceback}".rstrip()
            )
        if now - self._ready_at > self._size.patience_s:
            raise NoCapacityError(f"replicas die before they are ready: {death.reason}")

    def _look_around(self) -> None:
        """Notice what no call tells: nodes that leave, silence, want of room."""
        now = time.monotonic()
        if any(one.place for one in self._crew) or any(one.calls for one in self._going):
            self._placed_at = now
        if now < self._survey_at:
            return
        state = survey()
        self._survey_at = time.monotonic() + _SURVEY_S
        if state is None:
            self._silent_since = self._silent_since or now
            if now - self._silent_since > _SILENCE_S:
                raise ClusterLostError(f"Ray has not answered for {_SILENCE_S:.0f} s")
            return
        self._silent_since = None
        self._look_after(state)
        self._check_capacity(now)

    def _look_after(self, state: Survey) -> None:
        for replica in [one for one in self._crew if one.node in state.draining]:
            self._let_go(replica)
            replica.retire()
        for replica in [*self._crew, *self._going]:
            if replica.node in state.dead and replica.stage != "dying":
                self._replace(replica, _node_died(replica.node))
            elif (error := replica.listen()) is not None:
                self._replace(replica, error)

    def _check_capacity(self, now: float) -> None:
        waited = now - self._placed_at
        if waited > self._size.capacity_timeout_s:
            size = self._size
            raise NoCapacityError(
                f"no replica could be placed in {waited:.0f} s; each wants {size.cpus:g} "
                f"CPUs and {size.gpus:g} GPUs, the cluster has {describe_resources()}"
            )

    def _fill(self) -> None:
        """Give work to whoever has room for it."""
        if self._bug is not None:
            return
        now = time.monotonic()
        self._set_apart(now)
        # One for every replica before a second for any, so that few items spread.
        for depth, replica in itertools.product(range(IN_FLIGHT), self._crew):
            if replica.free and len(replica.calls) <= depth:
                call = self._line.next(now)
                if call is None:
                    return
                replica.start(call)

    def _set_apart(self, now: float) -> None:
        """Find a replica for each suspect: one that it will have to itself."""
        for call in self._line.suspects(now):
            ready = [one for one in self._crew if one.stage == "ready"]
            elsewhere = [one for one in ready if one.node != call.avoid] or ready
            free = [one for one in elsewhere if one.free]
            if free:
                chosen = min(free, key=lambda one: len(one.calls))
                self._line.leave(call)
                chosen.reserved = call
        for replica in self._crew:
            if replica.reserved is not None and not replica.calls:
                call, replica.reserved = replica.reserved, None
                replica.start(call)


def _node_died(node: str) -> RayError:
    return NodeDiedError(f"node {node} is dead")  # type: ignore[no-untyped-call]


def describe_resources() -> str:
    """What the cluster has in all, e.g. ``16 CPUs, 2 GPUs``."""
    total = cluster_resources()
    return f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
