"""How far an export is: a line every few seconds on stderr, none of a short one."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, TextIO, TypeVar

from jobs.progress import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Value = TypeVar("Value")

_EVERY_S: Final = 5.0


def show_progress(
    rows: Iterable[Value], total: int, what: str, stream: TextIO | None = None
) -> Iterator[Value]:
    """The same rows; meanwhile it says how many there were.

    Args:
        rows: What is exported.
        total: How many there are.
        what: How the line begins.
        stream: Where to write; stderr.
    """
    out = sys.stderr if stream is None else stream
    started = shown = time.monotonic()
    for count, row in enumerate(rows):
        now = time.monotonic()
        if now - shown >= _EVERY_S:
            shown = now
            rate = count / (now - started)
            left = format_seconds((total - count) / rate) if rate else "?"
            out.write(f"{what}: {count} of {total} images, {rate:.0f}/s, {left} left\n")
            out.flush()
        yield row
