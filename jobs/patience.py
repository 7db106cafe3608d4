"""How long to go on asking a store, and how much to ask of it at once.

A failed request is tried again after a pause drawn at random below a limit that
doubles, so that clients which failed together do not come back together. A call
ends when its budget of waiting is spent. Bytes that move are no waiting: a large
object on a slow line arrives, and a server that says nothing holds nobody.

The number of requests under way falls by half when a store asks to slow down, and
grows by one with every round of successes, as the window of TCP does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_REQUESTS: Final = 64
_SLOWEST: Final = 64 * 2**10
_BETWEEN_HALVINGS_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The limits of one call to a store."""

    budget_s: float = 45.0
    """Waiting after which a call is not tried again."""

    connect_s: float = 4.0
    """Longest wait for a connection."""

    silence_s: float = 10.0
    """Longest wait for the next byte, in either direction."""

    first_pause_s: float = 0.5
    """Upper limit of the first pause."""

    longest_pause_s: float = 8.0
    """Upper limit of all pauses."""

    bad_bodies: int = 6
    """Short or damaged bodies in a row after which the object is to blame."""

    def pause_s(self, failures: int) -> float:
        """How long to wait after so many failures, at least one."""
        limit = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 30))
        return random.uniform(0, limit)  # noqa: S311 - no secret


class Effort:
    """The time that one call has taken, over all its tries. Of one event loop."""

    def __init__(
        self, patience: Patience, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock, which must be that of the event loop."""
        self._patience = patience
        self._clock = clock
        self._limit: asyncio.Timeout | None = None
        self.restart()

    def restart(self) -> None:
        """Begin again with a full budget."""
        self._start = self._last = self._clock()
        self._moving_s = 0.0

    @property
    def waited_s(self) -> float:
        """Time in which no byte moved, or far too few."""
        return self._clock() - self._start - self._moving_s

    def allows(self, pause_s: float) -> bool:
        """Whether there is time for another try after a pause."""
        return self.waited_s + pause_s < self._patience.budget_s

    def until_spent(self) -> asyncio.Timeout:
        """A time limit for what comes before a request."""
        return asyncio.timeout_at(self._end)

    def attempt(self) -> asyncio.Timeout:
        """A time limit for one request, which every byte that moves extends."""
        patience = self._patience
        self._last = self._clock()
        longest = patience.connect_s + patience.silence_s
        self._limit = asyncio.timeout_at(min(self._last + longest, self._hard_end))
        return self._limit

    def moved(self, count: int) -> None:
        """Note that so many bytes went through."""
        now = self._clock()
        self._moving_s += min(now - self._last, count / _SLOWEST)
        self._last = now
        if self._limit is not None and not self._limit.expired():
            silent = now + self._patience.silence_s
            self._limit.reschedule(min(silent, self._hard_end))

    def leave(self) -> None:
        """Note that a request is over: bytes that still move do not count."""
        self._limit = None

    @property
    def _end(self) -> float:
        return self._start + self._moving_s + self._patience.budget_s

    @property
    def _hard_end(self) -> float:
        return self._end + self._patience.silence_s


class Pace:
    """How many requests may be under way at once. Of one event loop."""

    def __init__(
        self, most: int = MOST_REQUESTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with the most."""
        self.limit = most
        self._most = most
        self._clock = clock
        self._active = 0
        self._successes = 0
        self._halved = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a turn, in order of asking."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the turn to the next."""
        self._active -= 1
        self._wake()

    def succeeded(self) -> None:
        """Note an answer: one more at once after as many as there may be."""
        self._successes += 1
        if self._successes >= self.limit:
            self._successes = 0
            self.limit = min(self._most, self.limit + 1)
            self._wake()

    def slow_down(self) -> None:
        """Note that the store is overloaded: half at once, once in a second."""
        now = self._clock()
        self._successes = 0
        if now - self._halved >= _BETWEEN_HALVINGS_S:
            self._halved = now
            self.limit = max(1, self.limit // 2)

    def _wake(self) -> None:
        while self._waiting and self._active < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._active += 1
                turn.set_result(None)
