"""The line of items: what runs next, what runs alone, and what is given up.

Every rule about failures stands here, without Ray and without a clock of its
own, so that all of them can be tested in one process. What a call may meet:

    node dies          no fault of anybody: again at once
    postponed          again after a pause, longer each time and never even
    out of memory      again alone, and told so
    crash, kill        everything in that replica is suspect: again alone, where
                       a crash, or three kills, at one announced step
                       quarantine that step
    exception          once more, then the pool stops

Nothing is tried for ever: ``patience_s`` bounds what the surroundings cause.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from cluster.outcomes import Attempt, Lost

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.outcomes import Death

Item = TypeVar("Item")

PATIENCE_S: Final = 900.0

_DEATHS: Final = 3
_BUGS: Final = 2
_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_FRUITLESS: Final = 16
"""After so many new items in a row that had to wait, new ones only trickle in."""


@dataclass(slots=True, eq=False)
class Call(Generic[Item]):
    """An item that was begun, and what it went through."""

    item: Item
    number: int
    alone: bool = False
    avoid: str = ""
    """The node that its replica died on."""

    attempts: int = 0
    bugs: int = 0
    pauses: int = 0
    last: bool = False
    out_of_memory: int = 0
    quarantined: dict[str, Death] = field(default_factory=dict)
    blame: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Deaths alone, by kind and step."""

    nameless: int = 0
    """Deaths without a step."""

    hurt_at: float | None = None
    waits_since: float | None = None
    done_before: int = 0
    """What was done before it began to wait."""

    def begin(self) -> Attempt:
        """Count one more attempt."""
        self.attempts += 1
        return Attempt(
            number=self.attempts,
            alone=self.alone,
            quarantined=dict(self.quarantined),
            out_of_memory=self.out_of_memory,
            last=self.last,
        )


class Line(Generic[Item]):
    """Items that wait to be tried, new ones behind those that were tried before."""

    def __init__(
        self, take: Callable[[], Item | None], *, patience_s: float, now: float
    ) -> None:
        """Begin.

        Args:
            take: Next new item; None while there is none.
            patience_s: How long to bear with the surroundings.
            now: The time, on the clock that every other method is told too.
        """
        self._take = take
        self._patience_s = patience_s
        self._numbers = itertools.count()
        self._again: deque[Call[Item]] = deque()
        self._suspects: deque[Call[Item]] = deque()
        self._waiting: list[tuple[float, int, Call[Item]]] = []
        self._drained = False
        self._closed = False
        self._done = 0
        self._done_at = now
        self._fruitless = 0
        self._trickle_at = now

    @property
    def finished(self) -> bool:
        """Whether nothing is left to begin, as far as ``take`` said."""
        left = self._again or self._suspects or self._waiting
        return not left and (self._drained or self._closed)

    def pause(self, now: float) -> float:
        """Seconds until something may be tried that may not be tried now."""
        due = self._waiting[0][0] if self._waiting else self._trickle_at
        return min(_LONGEST_PAUSE_S, max(0.0, due - now))

    def next(self, now: float) -> Call[Item] | None:
        """Leave the line: somebody who may run beside others."""
        self._wake(now)
        if self._again:
            return self._again.popleft()
        dry = self._fruitless >= _FRUITLESS and now < self._trickle_at
        if self._closed or dry:
            return None
        item = self._take()
        self._drained = item is None
        if item is None:
            return None
        self._trickle_at = now + _LONGEST_PAUSE_S
        return Call(item, next(self._numbers))

    def suspects(self, now: float) -> list[Call[Item]]:
        """Those who must run alone; they stay in line until ``leave``."""
        self._wake(now)
        return list(self._suspects)

    def leave(self, call: Call[Item]) -> None:
        """Take one of the suspects out of the line."""
        self._suspects.remove(call)

    def put_back(self, call: Call[Item]) -> None:
        """Let a call that left the line, but did not run, be the first again."""
        (self._suspects if call.alone else self._again).appendleft(call)

    def done(self, now: float) -> None:
        """Note that an item was done, so the surroundings are sound."""
        self._done += 1
        self._done_at = now
        self._fruitless = 0
        self._closed = False
        self._drained = False

    def raised(self, call: Call[Item]) -> bool:
        """Count an exception, and tell whether it was one too many."""
        call.bugs += 1
        if call.bugs < _BUGS:
            self.put_back(call)
        return call.bugs >= _BUGS

    def postpone(self, call: Call[Item], reason: str, now: float) -> Lost[Item] | None:
        """Try a call again later, until there was time enough.

        Whoever waits while others get done is to do without, in a last attempt;
        where nobody gets done, nothing is to be said of this item.
        """
        if call.waits_since is None:
            call.waits_since, call.done_before = now, self._done
            self._fruitless += 1
        end = call.waits_since + self._patience_s
        if call.last:
            return self._lose(call, reason)
        if now < end:
            call.pauses += 1
            longest = min(_LONGEST_PAUSE_S, _PAUSE_S * 2.0 ** min(call.pauses, 16))
            due = min(now + random.uniform(0, longest), end)  # noqa: S311 - no secret
            heapq.heappush(self._waiting, (due, call.number, call))
        elif self._done > call.done_before:
            call.last = True
            self.put_back(call)
        else:
            self._closed = True
            return self._lose(call, f"{reason}; waited for {self._patience_s:g} s")
        return None

    def bury(
        self, call: Call[Item], death: Death, *, step: str, node: str, now: float
    ) -> Lost[Item] | None:
        """Try a call again whose replica died, unless it is to be given up.

        Args:
            call: One that the replica had.
            death: What is known of the death.
            step: Which the call had announced last; empty where it had none.
            node: Where it was, so that it is tried elsewhere.
            now: The time.
        """
        if call.hurt_at is None:
            call.hurt_at = now
        progress = False
        if death.kind != "node":
            hopeless, progress = self._judge(call, death, step)
            call.alone, call.avoid = True, node
            if hopeless:
                return self._lose(call, death.reason)
        if not progress and now - max(self._done_at, call.hurt_at) >= self._patience_s:
            self._closed = True
            return self._lose(
                call, f"{death.reason}; nothing was done for {self._patience_s:g} s"
            )
        self.put_back(call)
        return None

    def _judge(self, call: Call[Item], death: Death, step: str) -> tuple[bool, bool]:
        """Whether a death leaves no hope, and whether it taught which step to spare."""
        memory = death.kind == "memory"
        call.out_of_memory += memory
        if not step:
            call.nameless += call.alone or not memory
            return call.nameless >= _DEATHS, False
        if not call.alone:
            return False, False
        call.blame[death.kind, step] += 1
        if call.blame[death.kind, step] < (1 if death.kind == "crash" else _DEATHS):
            return False, False
        if step in call.quarantined:
            return True, False
        call.quarantined[step] = death
        return False, True

    def _wake(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            call = heapq.heappop(self._waiting)[2]
            (self._suspects if call.alone else self._again).append(call)

    def _lose(self, call: Call[Item], reason: str) -> Lost[Item]:
        self._drained = False
        return Lost(item=call.item, attempts=call.attempts, reason=reason)
