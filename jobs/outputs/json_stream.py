"""JSON of any length, written as its parts come."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class JsonArray:
    """Writes the elements of an array, one a line; the brackets are its own."""

    def __init__(self, file: IO[str]) -> None:
        """Begin the array in a file that is open for text."""
        self._file, self.count = file, 0
        file.write("[")

    def add(self, element: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        """Append an element."""
        self.add_text(to_text(element))

    def add_text(self, text: str) -> None:
        """Append an element that is JSON already."""
        self._file.write(f",\n{text}" if self.count else f"\n{text}")
        self.count += 1

    def end(self) -> None:
        """Close the array."""
        self._file.write("\n]")


def to_text(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """JSON in ASCII without spaces, which any reader takes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def copy_text(source: Path, target: IO[str]) -> None:
    """Append a text file to another, a little at a time."""
    with source.open(encoding="ascii") as file:
        while part := file.read(2**20):
            target.write(part)
