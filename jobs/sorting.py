"""Sort what does not fit in memory: runs of bounded size on disk, read as one."""

from __future__ import annotations

import contextlib
import heapq
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Row = tuple[str, ...]

MOST_ROWS: Final = 250_000
"""In memory: 100 MB of ordinary locations."""

MOST_LETTERS: Final = 64 * 2**20
"""In memory, where locations are long."""

MOST_RUNS: Final = 64
"""Files that are open at once."""


class Sorter:
    """Takes rows in any order and gives them back in theirs.

    Use as a context manager: its temporary folder ends with it. What fits in memory
    never reaches the disk.
    """

    def __init__(self, *, most_rows: int = MOST_ROWS, most_runs: int = MOST_RUNS) -> None:
        """Hold nothing yet.

        Args:
            most_rows: To hold in memory.
            most_runs: To read at once.
        """
        self._most_rows, self._most_runs = most_rows, most_runs
        self._rows: list[Row] = []
        self._letters = self._written = 0
        self._runs: list[Path] = []
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what lies on disk."""
        self._stack.close()

    def add(self, *row: str) -> None:
        """Take a row."""
        self._rows.append(row)
        self._letters += sum(map(len, row))
        if len(self._rows) >= self._most_rows or self._letters > MOST_LETTERS:
            self._spill()

    def __iter__(self) -> Iterator[Row]:
        """All rows in order; equal ones each as often as they were taken."""
        self._rows.sort()
        if not self._runs:
            return iter(self._rows)
        return heapq.merge(*map(_read, self._runs), self._rows)

    def _spill(self) -> None:
        self._rows.sort()
        self._runs.append(self._write(self._rows))
        self._rows, self._letters = [], 0
        if len(self._runs) >= self._most_runs:
            merged = self._write(heapq.merge(*map(_read, self._runs)))
            for run in self._runs:
                run.unlink()
            self._runs = [merged]

    def _write(self, rows: Iterable[Row]) -> Path:
        if self._folder is None:
            folder = tempfile.TemporaryDirectory(prefix="atrous-")
            self._folder = Path(self._stack.enter_context(folder))
        self._written += 1
        path = self._folder / f"{self._written}.jsonl"
        with path.open("w", encoding="ascii") as file:
            # As JSON: a name may hold a line break, or no text at all.
            file.writelines(f"{json.dumps(row)}\n" for row in rows)
        return path


def _read(path: Path) -> Iterator[Row]:
    with path.open(encoding="ascii") as file:
        for line in file:
            yield tuple(json.loads(line))
