"""Parts of regions joined across the borders of the blocks that they were found in.

Blocks come row by row. Which part lies at each pixel of a border is all that is
remembered of a block; of two parts with a side in common and one class, one region is
made. Pure arithmetic: what a part looks like is nothing to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deeplab.tiles import Window

_NONE: Final = -1
_CLASS_BITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Borders:
    """Number of the part at each pixel along a block's borders; -1 where none is."""

    top: NDArray[np.int64]
    bottom: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one block holds of a region."""

    value: int
    """Its class, 0 to 255."""

    polygon: Any
    confidence: int
    known: int


@dataclass(slots=True, kw_only=True)
class Joined:
    """A region, as far as it is known."""

    value: int
    polygons: list[Any] = field(default_factory=list)
    """Of its parts."""

    confidence: int = 0
    known: int = 0


class Seams:
    """The regions that reach from the blocks so far into those to come."""

    def __init__(self, height: int, width: int) -> None:
        """Begin at the first block of a mask."""
        self._height, self._width = height, width
        # A part's key holds its class, so that one comparison of keys tells classes.
        self._above = np.full(width, _NONE, dtype=np.int64)
        self._below = self._above.copy()
        self._left = np.empty(0, dtype=np.int64)
        self._next = 0
        self._parent: dict[int, int] = {}
        self._open: dict[int, Joined] = {}

    def touching(self, core: Window, borders: Borders) -> NDArray[np.int64]:
        """Numbers of a block's parts at borders to other blocks."""
        lines = [
            borders.top if core.row else None,
            borders.left if core.col else None,
            borders.bottom if core.stop_row < self._height else None,
            borders.right if core.stop_col < self._width else None,
        ]
        found = np.unique(np.concatenate([[_NONE], *(x for x in lines if x is not None)]))
        touching: NDArray[np.int64] = found[found >= 0].astype(np.int64)
        return touching

    def add(self, core: Window, borders: Borders, parts: dict[int, Part]) -> None:
        """Take the next block, row by row.

        Args:
            core: Where it lies.
            borders: Its parts by number.
            parts: Those that touch another block.
        """
        keys = np.full(max(parts, default=0) + 2, _NONE, dtype=np.int64)
        for number, part in parts.items():
            keys[number] = key = self._next << _CLASS_BITS | part.value
            self._next += 1
            self._parent[key] = key
            self._open[key] = Joined(
                value=part.value,
                polygons=[part.polygon],
                confidence=part.confidence,
                known=part.known,
            )

        def keys_at(line: NDArray[np.int64]) -> NDArray[np.int64]:
            # A part that touches this border may touch none to another block.
            known: NDArray[np.int64] = keys[np.where(line < len(keys), line, _NONE)]
            return known

        columns = slice(core.col, core.stop_col)
        if core.row:
            self._join(self._above[columns], keys_at(borders.top))
        if core.col:
            self._join(self._left, keys_at(borders.left))
        self._left = keys_at(borders.right)
        if core.stop_row < self._height:
            self._below[columns] = keys_at(borders.bottom)

    def close_row(self) -> list[Joined]:
        """End a row of blocks; the regions that no block to come can add to."""
        keys, places = np.unique(self._below, return_inverse=True)
        roots = np.asarray([self._root(int(key)) for key in keys], dtype=np.int64)
        self._above = roots[places]
        self._below = np.full(self._width, _NONE, dtype=np.int64)
        alive = set(roots.tolist()) - {_NONE}
        closed = [one for key, one in self._open.items() if key not in alive]
        self._open = {key: one for key, one in self._open.items() if key in alive}
        self._parent = {key: key for key in alive}
        return closed

    def _join(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        classes = (1 << _CLASS_BITS) - 1
        same = (one >= 0) & (other >= 0) & ((one & classes) == (other & classes))
        for left, right in np.unique(np.stack([one[same], other[same]]), axis=1).T.tolist():
            a, b = self._root(left), self._root(right)
            if a == b:
                continue
            if len(self._open[a].polygons) < len(self._open[b].polygons):
                a, b = b, a
            small = self._open.pop(b)
            large = self._open[a]
            large.polygons += small.polygons
            large.confidence += small.confidence
            large.known += small.known
            self._parent[b] = a

    def _root(self, key: int) -> int:
        """Of the part that stands for a region; those on the way learn it too."""
        if key == _NONE:
            return key
        way = []
        while self._parent[key] != key:
            way.append(key)
            key = self._parent[key]
        for one in way:
            self._parent[one] = key
        return key
