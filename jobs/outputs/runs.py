"""Masks as runs of pixels, in the forms in which other programs keep them.

A mask is cut into runs of one value once, for all its classes; each form is then
made of whole arrays of runs, never pixel by pixel. 254 and 255 are no class and
are left out.

COCO's compressed form is that of ``rleToString`` in its ``maskApi.c``: counts column
by column, zeros first, each from the fourth on as the difference to the one two
before it, in groups of five bits from the low end, offset by 48. Label Studio's is
that of its ``brush`` converter: a stream of bits over red, green, blue and alpha.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FIRST_OTHER: Final = 254
"""Values from here on are no class: "ignore" and nodata."""

_CHANNELS: Final = 4
_BRUSH_SIZES: Final = (3, 4, 8, 16)
"""Bits that Label Studio counts a run in; the smallest that holds it is taken."""

_WORD: Final = 8
_FLAG: Final = 3
_BITS: Final = 8
"""Of a class."""

_ONE: Final = np.zeros(1, dtype=np.int64)
_AT_ONCE: Final = 2**16
_LONGEST: Final = _FLAG + _BRUSH_SIZES[-1] + _WORD
"""Most bits of one run: whether it is one, the size of its count, both values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Runs of the pixels of masks that have a class, by mask, then class, then place."""

    height: int
    width: int
    by_column: bool
    """Whether pixels are counted down the columns, as COCO does, or along the rows."""

    starts: NDArray[np.int64]
    """(R,): the first pixel of each."""

    ends: NDArray[np.int64]
    """(R,): the pixel after the last of each."""

    heads: NDArray[np.int64]
    """(C,): where the runs of each class that occurs begin among the others."""

    owners: list[int]
    """(C): the mask of each of these classes, from 0."""

    classes: list[int]
    """(C): the classes."""

    @property
    def tails(self) -> NDArray[np.int64]:
        """(C,): where the runs of each class end."""
        return np.append(self.heads, self.starts.size)[1:]

    def areas(self) -> NDArray[np.int64]:
        """(C,): pixels of each class that occurs."""
        return _reduce(np.add, self.ends - self.starts, self.heads)

    def boxes(self) -> NDArray[np.int64]:
        """(C, 4): left, top, width and height of each class that occurs."""
        side = self.height if self.by_column else self.width
        line, across = np.divmod(self.starts, side)
        last_line, last_across = np.divmod(self.ends - 1, side)
        # A run that goes on in the next line touches both sides.
        wraps = last_line > line
        low = _reduce(np.minimum, np.where(wraps, 0, across), self.heads)
        high = _reduce(np.maximum, np.where(wraps, side - 1, last_across), self.heads)
        first = _reduce(np.minimum, line, self.heads)
        last = _reduce(np.maximum, last_line, self.heads)
        lines, sides = (first, last - first + 1), (low, high - low + 1)
        (left, width), (top, height) = (lines, sides) if self.by_column else (sides, lines)
        return np.stack([left, top, width, height], axis=1)


def find_runs(masks: NDArray[np.uint8], *, by_column: bool = False) -> Runs:
    """The runs of the classes of a mask, or of several of one size at once.

    Args:
        masks: uint8 (H, W), or (N, H, W).
        by_column: Count down the columns.
    """
    *_, height, width = masks.shape
    stack = masks.reshape(-1, height, width)
    flat = (stack.transpose(0, 2, 1) if by_column else stack).ravel()
    is_start = np.ones(flat.size, dtype=bool)
    is_start[1:] = flat[1:] != flat[:-1]
    is_start[:: height * width] = True
    starts = np.flatnonzero(is_start)
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    owners, starts = np.divmod(starts, height * width)
    ends -= owners * (height * width)
    keys = owners << _BITS | values
    order = np.argsort(keys, kind="stable")
    order = order[values[order] < FIRST_OTHER]
    keys = keys[order]
    is_head = np.ones(keys.size, dtype=bool)
    is_head[1:] = keys[1:] != keys[:-1]
    heads = np.flatnonzero(is_head)
    return Runs(
        height=height,
        width=width,
        by_column=by_column,
        starts=starts[order],
        ends=ends[order],
        heads=heads,
        owners=(keys[heads] >> _BITS).tolist(),
        classes=(keys[heads] & ((1 << _BITS) - 1)).tolist(),
    )


# COCO


def encode_coco(runs: Runs) -> list[str]:
    """COCO's compressed counts for each class that occurs, of runs by column."""
    counts, heads = _close(_alternate(runs.starts, runs.ends, runs.heads), runs)
    rest = counts.copy()
    rest[2:] -= counts[:-2]
    # The first three of each class stay as they are.
    firsts = (heads[:, None] + np.arange(3)).ravel()
    firsts = firsts[firsts < counts.size]
    rest[firsts] = counts[firsts]
    letters, lengths = _write_groups(rest)
    stops = np.cumsum(lengths)
    bounds = [*np.append(0, stops)[heads], letters.size]
    return [
        letters[begin:end].tobytes().decode("ascii")
        for begin, end in itertools.pairwise(bounds)
    ]


def _alternate(
    starts: NDArray[np.int64], ends: NDArray[np.int64], heads: NDArray[np.int64] = _ONE
) -> NDArray[np.int64]:
    """Counts of zeros and ones in turn for each class, up to the last one."""
    before = np.zeros_like(ends)
    before[1:] = ends[:-1]
    before[heads] = 0
    counts = np.empty(2 * starts.size, dtype=np.int64)
    counts[0::2] = starts - before
    counts[1::2] = ends - starts
    return counts


def _close(
    counts: NDArray[np.int64], runs: Runs
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Add the zeros that follow the last run of each class, where there are any.

    Returns:
        The counts, and where those of each class begin.
    """
    left = runs.height * runs.width - runs.ends[runs.tails - 1]
    open_ = left > 0
    counts = np.insert(counts, 2 * runs.tails[open_], left[open_])
    return counts, 2 * runs.heads + np.cumsum(open_) - open_


def _write_groups(
    rest: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Letters of all numbers, five bits each, and how many letters each takes."""
    columns = []
    more = np.ones(rest.size, dtype=bool)
    lengths = np.zeros(rest.size, dtype=np.int64)
    while more.any():
        lengths += more
        low = rest & 0x1F
        rest = rest >> 5
        # The highest bit of the last group is the sign.
        more = more & np.where(low & 0x10, rest != -1, rest != 0)
        columns.append((low + 48 + np.where(more, 0x20, 0)).astype(np.uint8))
    if not columns:
        return np.empty(0, dtype=np.uint8), lengths
    table = np.stack(columns, axis=1)
    return table[np.arange(table.shape[1]) < lengths[:, None]], lengths


def _reduce(
    how: np.ufunc, values: NDArray[np.int64], heads: NDArray[np.int64]
) -> NDArray[np.int64]:
    """One number for each class."""
    if not heads.size:
        return np.empty(0, dtype=np.int64)
    found: NDArray[np.int64] = how.reduceat(values, heads)
    return found


# CVAT


def encode_boxes(runs: Runs) -> Iterator[tuple[int, list[int], list[int]]]:
    """What CVAT keeps of a class: its box, and counts along the rows of that box.

    Args:
        runs: Along the rows.

    Yields:
        Class; left, top, width, height; and counts of zeros and ones in turn, zeros
        first, which fill the box.
    """
    parts = zip(runs.classes, runs.heads, runs.tails, runs.boxes(), strict=True)
    for value, head, tail, box in parts:
        left, top, width, height = (int(one) for one in box)
        starts, ends = runs.starts[head:tail], runs.ends[head:tail]
        counts = _crop(runs, starts, ends, (left, top, width, height))
        yield value, [left, top, width, height], counts


def _crop(
    runs: Runs,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    box: tuple[int, int, int, int],
) -> list[int]:
    """Counts along the rows of a box."""
    _, top, width, height = box
    if width < runs.width:
        # Then no run goes on in the next row, but runs that end a row of the box and
        # begin the next one become neighbours.
        starts = _move(starts, runs.width, box)
        ends = _move(ends - 1, runs.width, box) + 1
        apart = starts[1:] != ends[:-1]
        starts = starts[np.append(True, apart)]
        ends = ends[np.append(apart, True)]
    else:
        starts, ends = starts - top * width, ends - top * width
    found: list[int] = _alternate(starts, ends).tolist()
    rest = width * height - int(ends[-1])
    return [*found, rest] if rest else found


def _move(
    places: NDArray[np.int64], width: int, box: tuple[int, int, int, int]
) -> NDArray[np.int64]:
    """Places of pixels in a box, of those in the mask."""
    row, col = np.divmod(places, width)
    return (row - box[1]) * box[2] + col - box[0]


# Label Studio


def encode_brush(runs: Runs) -> Iterator[tuple[int, list[int]]]:
    """What Label Studio's brush keeps of a class: bytes of a stream of bits.

    Args:
        runs: Along the rows.

    Yields:
        Class; and the bytes, for values of 0 and 255 in four channels.
    """
    size = runs.height * runs.width
    for value, head, tail in zip(runs.classes, runs.heads, runs.tails, strict=True):
        starts, ends = runs.starts[head:tail], runs.ends[head:tail]
        counts = np.append(_alternate(starts, ends), size - ends[-1]) * _CHANNELS
        values = np.zeros(counts.size, dtype=np.int64)
        values[1::2] = 255
        yield value, _pack(counts, values, size * _CHANNELS).tolist()


def _pack(
    counts: NDArray[np.int64], values: NDArray[np.int64], total: int
) -> NDArray[np.uint8]:
    """Bytes of the header and of all runs, those that are too long cut in several."""
    most = 1 << _BRUSH_SIZES[-1]
    pieces = -(-counts // most)
    values = np.repeat(values, pieces)
    lasts = np.cumsum(pieces) - 1
    held = np.full(values.size, most, dtype=np.int64)
    given = pieces > 0
    held[lasts[given]] = counts[given] - (pieces[given] - 1) * most

    parts = range(0, held.size, _AT_ONCE)
    bits = (_spell(held[i : i + _AT_ONCE], values[i : i + _AT_ONCE]) for i in parts)
    return np.packbits(np.concatenate([_brush_header(total), *bits]))


def _spell(held: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Bits of some runs, a byte each."""
    kind = np.searchsorted(1 << np.array(_BRUSH_SIZES), held)
    bits = np.array(_BRUSH_SIZES)[kind]
    # A one says that the value repeats; then the size of the count, the count less
    # one, and the value.
    words = (0b100 | kind) << (bits + _WORD) | (held - 1) << _WORD | values
    shifts = (_FLAG + bits + _WORD)[:, None] - 1 - np.arange(_LONGEST)
    table = (words[:, None] >> np.maximum(shifts, 0) & 1).astype(np.uint8)
    found: NDArray[np.uint8] = table[shifts >= 0]
    return found


def _brush_header(total: int) -> NDArray[np.uint8]:
    """Bits of the number of values, of the size of one, and of the sizes of counts."""
    fields = [(total, 32), (_WORD - 1, 5), *((size - 1, 4) for size in _BRUSH_SIZES)]
    text = "".join(f"{value:0{width}b}" for value, width in fields)
    return np.array([int(one) for one in text], dtype=np.uint8)
