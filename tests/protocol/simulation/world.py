"""Processes that meet in one store, and a scheduler that wishes them no good.

A process is a generator that yields a request whenever it would talk to the store,
and is resumed with the reply. Between two requests of one process any others may
run. The store is atomic for each key and consistent: reads and listings see every
write that came before.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from simulation.invariants import Observer

GET: Final = "get"
CREATE: Final = "create"
"""Put if absent; the reply is whether this request created the object."""
PUT: Final = "put"
"""Put whatever stands: no honest process does."""
SWAP: Final = "swap"
"""Put if what stands is still what was read (None: absent)."""
DELETE: Final = "delete"
LIST: Final = "list"
READ: Final = "read"
"""Read an input if it still has the version given; None reads any."""
INPUTS: Final = "inputs"
"""List the inputs with their versions."""
WAIT: Final = ("wait",)
"""Wait for a child; the reply is its work and its value."""

CHANGED: Final = -1
FAILED: Final = -2
LOST: Final = "lost"
"""The value of a child that died, or that is thought dead."""

Code = "Generator[tuple[Any, ...], Any, Any]"


class Violation(Exception):  # noqa: N818 - it is a finding
    """An invariant does not hold."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


class Climate(NamedTuple):
    """How hard a world is on its processes."""

    rate: float
    """Share of steps at which something goes wrong."""

    flaky: float
    """Share of reads of inputs that fail for no lasting reason."""

    zombies: bool = True
    """Whether requests and processes outlive those who gave them up."""


@dataclass(slots=True, eq=False)
class Process:
    code: Any
    name: str
    parent: Process | None = None
    work: Any = None
    reply: Any = None
    pending: tuple[Any, ...] | None = None
    """A request that got no answer and is sent again."""

    inbox: list[Any] = field(default_factory=list)
    waiting: bool = False
    children: list[Process] = field(default_factory=list)
    outcome: Any = None


class World:
    """One store, its inputs and its processes."""

    def __init__(self, seed: int, climate: Climate, inputs: int) -> None:
        self.random = random.Random(seed)
        self.climate = climate
        self.objects: dict[tuple[Any, ...], Any] = {}
        self.inputs = [0] * inputs
        self.observer: Observer
        self.ready: list[Process] = []
        self.asleep: list[Process] = []
        self.limbo: list[tuple[Any, ...]] = []
        """Requests under way whose process has died or has gone on."""

        self.fingerprints: dict[Any, int] = {}
        self.steps = 0
        self.log: list[str] | None = None
        self._running: Process | None = None
        self._apply = {
            GET: self._get,
            CREATE: self._create,
            PUT: self._put,
            SWAP: self._swap,
            DELETE: self._delete,
            LIST: self._list,
            READ: self._read,
            INPUTS: lambda _: tuple(self.inputs),
        }
        self._harm = [
            self._crash,
            self._crash_in_flight,
            self._stall,
            self._lose_reply,
            self._lose_request,
            self._duplicate,
            self._wake,
            self._deliver,
            self._replace_input,
        ]

    # What processes may do.

    def start(self, code: Any, name: str) -> Process:
        process = Process(code, name)
        self.ready.append(process)
        return process

    def spawn(self, code: Any, work: Any, name: str) -> None:
        """Start a child of the process that runs; its end is told to it."""
        parent = self._running
        assert parent is not None
        child = Process(code, name, parent, work)
        parent.children.append(child)
        self.ready.append(child)

    def fingerprint(self, content: Any) -> int:
        return self.fingerprints.setdefault(content, len(self.fingerprints))

    # The scheduler.

    def run(self, steps: int, *, calm: bool = False) -> None:
        """Let processes run until all have ended, wait or sleep, or steps are over."""
        ready, draw = self.ready, self.random.random
        rate = 0.0 if calm else self.climate.rate
        flaky = self.climate.flaky
        if calm:
            self.climate = self.climate._replace(flaky=0.0)
        for _ in range(steps):
            if not ready:
                break
            luck = draw()
            if luck < rate:
                self._harm[int(luck / rate * len(self._harm))](self._pick())
            else:
                self._step(ready[int((luck - rate) / (1 - rate) * len(ready))])
            self.steps += 1
        self.climate = self.climate._replace(flaky=flaky)

    def wake_all(self) -> None:
        """Let every zombie go on, in a world without new faults."""
        while self.asleep or self.limbo:
            self._wake(None)
            self._deliver(None)
            self.run(self.random.randrange(9), calm=True)
        self.run(9999, calm=True)

    def _pick(self) -> Process:
        return self.ready[int(self.random.random() * len(self.ready))]

    def _step(self, process: Process) -> None:
        request = self._next_request(process)
        if request is not None:
            process.reply = self._do(process, request)

    def _next_request(self, process: Process) -> tuple[Any, ...] | None:
        """The request that a process is about to send; None if it ended or waits."""
        request = process.pending
        if request is not None:
            process.pending = None
            return request
        self._running = process
        try:
            request = process.code.send(process.reply)
        except StopIteration as end:
            process.outcome = end.value
            self.ready.remove(process)
            self._tell(process, end.value)
            return None
        if request is not WAIT:
            return request
        if process.inbox:
            process.reply = process.inbox.pop(0)
        else:
            process.waiting = True
            self.ready.remove(process)
        return None

    def _do(self, process: Process | None, request: tuple[Any, ...]) -> Any:
        reply = self._apply[request[0]](request)
        if self.log is not None:
            name = "nobody" if process is None else process.name
            self.log.append(f"{name}: {' '.join(map(str, request))} -> {reply}")
        return reply

    def _note(self, text: str) -> None:
        if self.log is not None:
            self.log.append(f"*** {text}")

    def _tell(self, process: Process, value: Any) -> None:
        """Tell a parent how its child ended, unless it gave the child up."""
        parent, process.parent = process.parent, None
        if parent is None:
            return
        parent.children.remove(process)
        if parent.waiting:
            parent.waiting = False
            parent.reply = (process.work, value)
            self.ready.append(parent)
        else:
            parent.inbox.append((process.work, value))

    # What can go wrong. Each is handed a process that could go on.

    def _crash(self, process: Process) -> None:
        if process.parent is not None and self.random.random() < 0.3:
            process = process.parent
        self._end(process)

    def _end(self, process: Process) -> None:
        self._note(f"{process.name} dies")
        if process.waiting:
            process.waiting = False
        else:
            (self.ready if process in self.ready else self.asleep).remove(process)
        process.code.close()
        orphans, process.children = process.children, []
        for child in orphans:
            child.parent = None
            # Actors outlive their driver for a while, or die with it.
            if not self._zombies or self.random.random() < 0.5:
                self._end(child)
        self._tell(process, LOST)

    def _crash_in_flight(self, process: Process) -> None:
        """It dies with a request under way, which arrives later."""
        request = self._next_request(process)
        if request is None:
            return
        if self._zombies:
            self.limbo.append(request)
            self._note(f"under way: {request}")
        self._end(process)

    def _stall(self, process: Process) -> None:
        if not self._zombies:
            return
        self._note(f"{process.name} stalls")
        self.ready.remove(process)
        self.asleep.append(process)
        if self.random.random() < 0.8:
            self._tell(process, LOST)

    def _lose_reply(self, process: Process) -> None:
        request = self._next_request(process)
        if request is not None:
            self._note(f"{process.name} gets no reply")
            self._do(process, request)
            process.pending = request

    def _lose_request(self, process: Process) -> None:
        process.pending = self._next_request(process)

    def _duplicate(self, process: Process) -> None:
        request = self._next_request(process)
        if request is not None:
            process.reply = self._do(process, request)
            if self._zombies:
                self.limbo.append(request)
                self._note(f"twice: {request}")

    def _wake(self, _process: Process | None) -> None:
        if self.asleep:
            process = self.asleep.pop(self.random.randrange(len(self.asleep)))
            self.ready.append(process)
            self._note(f"{process.name} wakes")

    def _deliver(self, _process: Process | None) -> None:
        if self.limbo:
            self._do(None, self.limbo.pop(self.random.randrange(len(self.limbo))))

    def _replace_input(self, _process: Process) -> None:
        number = self.random.randrange(3 * len(self.inputs))
        if number < len(self.inputs):
            self._note(f"input {number} is replaced")
            self.inputs[number] += 1

    @property
    def _zombies(self) -> bool:
        return self.climate.zombies

    # The store.

    def _get(self, request: tuple[Any, ...]) -> Any:
        return self.objects.get(request[1])

    def _create(self, request: tuple[Any, ...]) -> bool:
        _, key, value = request
        if key in self.objects:
            return False
        self.observer.write(key, value)
        self.objects[key] = value
        return True

    def _put(self, request: tuple[Any, ...]) -> bool:
        _, key, value = request
        self.observer.write(key, value)
        self.objects[key] = value
        return True

    def _swap(self, request: tuple[Any, ...]) -> bool:
        _, key, value, match = request
        if self.objects.get(key) != match:
            return False
        return self._put((PUT, key, value))

    def _delete(self, request: tuple[Any, ...]) -> None:
        key = request[1]
        if key in self.objects:
            self.observer.delete(key)
            del self.objects[key]

    def _list(self, request: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        kind, generation = request[1], request[2]
        return [key for key in self.objects if key[0] == kind and key[1] == generation]

    def _read(self, request: tuple[Any, ...]) -> int:
        _, number, version = request
        if self.climate.flaky and self.random.random() < self.climate.flaky:
            return FAILED
        found = self.inputs[number]
        return found if version is None or version == found else CHANGED
