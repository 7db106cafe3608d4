"""One line on stderr: how far, how fast, how long still.

Redrawn in place on a terminal; elsewhere a new line every 30 seconds.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from jobs.folder import Planned
    from jobs.tally import Tally

_LOG_EVERY_S: Final = 30.0
_DRAW_EVERY_S: Final = 0.2
_PLAN_EVERY_S: Final = 5.0
_LOOK_EVERY: Final = 256
"""Items between two looks at the clock."""
_OFTEN: Final = 2.0
_MINUTE: Final = 60
_HOUR: Final = 3600


class ProgressLine:
    """Progress for people."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to ``stream``, or to stderr."""
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._shards = self._base_shards = self._base_pixels = 0
        self._started = self._drawn = self._planning = 0.0
        self._skipped = 0

    def plan(self, items: int, skipped: int) -> None:
        """Draw a line of the plan, unless one was drawn a moment ago."""
        self._skipped = skipped
        if (items + skipped) % _LOOK_EVERY:
            return
        now = time.monotonic()
        self._planning = self._planning or now
        pause = _DRAW_EVERY_S if self._live else _PLAN_EVERY_S
        if now - max(self._drawn, self._planning) < pause:
            return
        self._drawn = now
        rate = (items + skipped) / (now - self._planning)
        done = f", {skipped} left out as done" if skipped else ""
        line = f"planning: {items} items{done}, {rate:.0f} a second"
        self._stream.write(f"\r\x1b[K{line}" if self._live else f"{line}\n")
        self._stream.flush()

    def start(self, planned: Planned, tally: Tally) -> None:
        """Say what there is to do."""
        if self._live and self._drawn:
            self._stream.write("\r\x1b[K")
        totals = planned.totals
        self._shards = totals.shards
        self._base_shards = tally.shards
        self._base_pixels = tally.counts["pixels_done"]
        self._started = self._drawn = time.monotonic()
        verb = f"resuming at {tally.shards} of" if planned.resumed else "planned"
        self._stream.write(
            f"{planned.spec.job}: {verb} {totals.shards} shards, {totals.items} items, "
            f"{totals.size / 1e6:.1f} MB\n"
        )
        if self._skipped:
            self._stream.write(
                f"{planned.spec.job}: {self._skipped} items left out, which are done\n"
            )
        often = totals.read_amplification or 0
        if often >= _OFTEN:
            self._stream.write(
                f"{planned.spec.job}: each pixel is decoded {often} times on average; "
                "larger blocks, e.g. -c block=8192, and rasters in tiles need fewer\n"
            )
        self._stream.flush()

    def update(self, tally: Tally) -> None:
        """Draw the line, unless it was drawn a moment ago."""
        now = time.monotonic()
        last = tally.shards == self._shards
        pause = _DRAW_EVERY_S if self._live else _LOG_EVERY_S
        if now - self._drawn < pause and not last:
            return
        self._drawn = now
        line = self._line(tally, now - self._started)
        self._stream.write(f"\r\x1b[K{line}" if self._live else f"{line}\n")
        self._stream.flush()

    def stop(self) -> None:
        """Leave the line standing."""
        if self._live:
            self._stream.write("\n")
            self._stream.flush()

    def _line(self, tally: Tally, elapsed: float) -> str:
        shards = tally.shards - self._base_shards
        rate = (tally.counts["pixels_done"] - self._base_pixels) / 1e6 / elapsed
        left = (self._shards - tally.shards) * elapsed / shards
        dead = tally.dead
        return (
            f"{tally.shards}/{self._shards} shards  {rate:.2f} MP/s  "
            f"{format_seconds(left)} left" + (f"  {dead} dead letters" if dead else "")
        )


class Silence:
    """Progress for nobody."""

    def plan(self, items: int, skipped: int) -> None:
        """Say nothing."""

    def start(self, planned: Planned, tally: Tally) -> None:
        """Say nothing."""

    def update(self, tally: Tally) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Say nothing."""


def format_seconds(seconds: float) -> str:
    """Write a span of time for people, e.g. ``1 h 05 min``."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"
