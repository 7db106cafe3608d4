"""One replica: the process that holds a worker, and the driver's view of it.

A life goes ``placing`` (Ray looks for a node), ``loading`` (the worker is made),
``ready``, and ends as ``leaving`` (does what it has, gets nothing new) or ``dying``
(its black box is being read). Besides its calls it has one chore at most: the
request that leads to the next stage.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.blackbox import BlackBox, Remains, read_box
from cluster.diagnosis import SilentError, diagnose
from cluster.memory import process
from cluster.nodes import own_node

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.exceptions import RayError

    from cluster.line import Call
    from cluster.outcomes import Attempt, Death, Worker

Item = TypeVar("Item")

IN_FLIGHT: Final = 2
"""Items in each replica at once, so that the device never waits for the next."""

_SIGN_OF_LIFE_S: Final = 30.0
"""So often a replica is asked whether it still answers."""

_SILENCE_S: Final = {"loading": 900.0, "ready": 300.0, "leaving": 300.0}
"""How long one may owe an answer, or be made, before it is taken for dead."""

_LAST_WORDS_S: Final = 10.0
"""How long a dead replica's calls and black box are waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a replica is."""

    node: str
    """Ray's id."""

    host: str
    process: int
    box: str
    """Path of its black box; empty where none could be opened."""


class Actor:
    """The process that holds one worker."""

    def __init__(self) -> None:
        """Start the recorder; without a place for it deaths are only less clear."""
        # A core would hold the model, pixels and credentials, and fill the disk.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._box: BlackBox | None = None
        with contextlib.suppress(OSError):
            self._box = BlackBox()
            self._box.watch()

    def place(self) -> Place:
        """Say where it is."""
        return Place(
            node=ray.get_runtime_context().get_node_id(),
            host=socket.gethostname(),
            process=os.getpid(),
            box=self._box.path if self._box is not None else "",
        )

    def load(self, worker: Callable[..., Worker], arguments: tuple[Any, ...]) -> None:
        """Make the worker."""
        self._worker = worker(*arguments)

    def process(self, number: int, item: Any, attempt: Attempt) -> Any:  # noqa: ANN401
        """Hand an item to the worker."""
        if self._box is None:
            return process(self._worker, item, attempt, lambda _: None)
        with self._box.record(number) as announce:
            return process(self._worker, item, attempt, announce)

    def answer(self) -> None:
        """Show that this process is able to."""

    def leave(self) -> None:
        """Leave nothing behind."""
        if self._box is not None:
            self._box.remove()


@dataclass(slots=True, eq=False)
class Replica(Generic[Item]):
    """What the driver knows of an actor."""

    actor: ActorHandle[Any]
    chore: ObjectRef[Any] | None
    stage: Literal["placing", "loading", "ready", "leaving", "dying"] = "placing"
    place: Place | None = None
    calls: dict[ObjectRef[Any], Call[Item]] = field(default_factory=dict)
    reserved: Call[Item] | None = None
    """A suspect that it will run once it has nothing else."""

    deadline: float = math.inf
    """When to stop waiting for a dead one's calls and black box, or for a goodbye."""

    asked_at: float = 0.0
    """When its present chore began."""

    said_goodbye: bool = False
    unborn: bool = False
    """It died before it was ready."""

    errors: list[RayError] = field(default_factory=list)
    fallen: list[Call[Item]] = field(default_factory=list)
    """Calls that it took with it."""

    remains: Remains | None = None

    @property
    def node(self) -> str:
        """Ray's id of its node; empty before it has one."""
        return self.place.node if self.place is not None else ""

    @property
    def free(self) -> bool:
        """Whether it may get a call, or promise to take one."""
        alone = any(call.alone for call in self.calls.values())
        return self.stage == "ready" and self.reserved is None and not alone

    @property
    def pending(self) -> list[ObjectRef[Any]]:
        """Everything that it owes an answer to."""
        return [*self.calls, *([self.chore] if self.chore is not None else [])]

    @property
    def is_idle(self) -> bool:
        """Whether it leaves and has nothing to do any more."""
        return self.stage == "leaving" and not self.pending

    def start(self, call: Call[Item]) -> None:
        """Send it a call."""
        attempt = call.begin()
        self.calls[self.actor.process.remote(call.number, call.item, attempt)] = call

    def load(self, worker: Callable[..., Worker], arguments: ObjectRef[Any]) -> None:
        """Have it make the worker."""
        self.stage, self.asked_at = "loading", time.monotonic()
        self.chore = self.actor.load.remote(worker, arguments)

    def listen(self) -> SilentError | None:
        """Ask it for a sign of life now and then; the error if none came for long.

        A process may be stopped, or hang without giving others a turn, and then
        nothing that it was asked would ever end.
        """
        waited = time.monotonic() - self.asked_at
        if self.said_goodbye or self.stage not in _SILENCE_S:
            return None
        if self.chore is not None and waited > _SILENCE_S[self.stage]:
            return SilentError(f"its process answered nothing for {waited:.0f} s")
        if self.chore is None and waited > _SIGN_OF_LIFE_S:
            self.asked_at = time.monotonic()
            self.chore = self.actor.answer.remote()
        return None

    def fall(self, error: RayError) -> None:
        """Note that it is dead, make sure of it, and have its black box read."""
        self.errors.append(error)
        if self.stage == "dying":
            return
        self.unborn = self.stage in {"placing", "loading"}
        self.stage = "dying"
        self.chore = None
        self.deadline = time.monotonic() + _LAST_WORDS_S
        self.kill()
        if self.place is not None and self.place.box:
            self._find_box(self.place)

    def _find_box(self, place: Place) -> None:
        """Read the black box, on its node where that is another one."""
        if place.node == own_node():
            self.remains = read_box(place.box)
        if self.remains is None:
            where = NodeAffinitySchedulingStrategy(place.node, soft=False)
            reader = ray.remote(read_box).options(
                num_cpus=0, max_retries=0, scheduling_strategy=where
            )
            self.chore = reader.remote(place.box)

    def retire(self) -> None:
        """Give it nothing new."""
        self.stage = "leaving"

    def say_goodbye(self) -> None:
        """Ask one that has no calls any more to clear up."""
        self.said_goodbye = True
        self.deadline = time.monotonic() + _LAST_WORDS_S
        self.chore = self.actor.leave.remote()

    def is_over(self, now: float) -> bool:
        """Whether nothing more is to be heard of one that is leaving or dying."""
        return not self.pending or now > self.deadline

    def victims(self) -> list[Call[Item]]:
        """Every call that a dead one did not do."""
        return [*self.fallen, *self.calls.values()]

    def diagnose(self) -> Death:
        """How it died."""
        host = self.place.host if self.place is not None else ""
        return diagnose(self.errors, self.remains, node=host)

    def step(self, call: Call[Item]) -> str:
        """What one of its calls announced last; empty where it is not known."""
        return self.remains.steps.get(call.number, "") if self.remains else ""

    def kill(self) -> None:
        """End the process."""
        with contextlib.suppress(Exception):  # it may be gone, and Ray too
            ray.kill(self.actor)
