"""Regions of a mask as polygons, seamless, while only a block of it is held.

The mask is swept block by block. GDAL makes polygons of a block's regions; those that
touch a border to another block are kept until the sweep has passed the last block
that they reach into, and then united, so no polygon is cut. A region is pixels of one
class that share sides; where they meet at a corner alone there are two.

Everything here is in pixels: x is the column and y the row of a pixel's corner, so
coordinates are whole numbers and what is done to them is exact.
"""

from __future__ import annotations

import itertools
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes

from jobs.outputs.seams import Borders, Joined, Part, Seams
from jobs.windows import cut_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deeplab.tiles import Window

Polygons: TypeAlias = NDArray[np.object_]

SIDE: Final = 1024
"""Of the blocks that are swept: whole COG tiles. 50 MB, and of noise alone 800."""

_POLYGON: Final = shapely.GeometryType.POLYGON
_VALUES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """A window of a mask."""

    mask: NDArray[np.uint8]
    """(H, W): class ids; other values are gaps."""

    confidence: NDArray[np.uint8] | None = None
    """(H, W): 255 times the probability, 0 where it is not known; None for nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """Some regions of a mask, n of them."""

    polygons: Polygons
    """(n,): shapely polygons in pixels."""

    classes: NDArray[np.uint8]
    """(n,)."""

    confidence: NDArray[np.int64]
    """(n,): sum over the pixels of each."""

    known: NDArray[np.int64]
    """(n,): pixels of each that have a confidence."""

    def __len__(self) -> int:
        """How many."""
        return len(self.classes)

    def take(self, which: NDArray[Any]) -> Regions:
        """Some of them, by a mask or by their numbers."""
        return Regions(
            polygons=self.polygons[which],
            classes=self.classes[which],
            confidence=self.confidence[which],
            known=self.known[which],
        )


@dataclass(frozen=True, slots=True)
class _Edges:
    """The edges of polygons, from one corner to the next; int64 (m,) each."""

    x: NDArray[np.int64]
    """Of the corner that an edge leads to."""

    y: NDArray[np.int64]
    from_x: NDArray[np.int64]
    from_y: NDArray[np.int64]
    owner: NDArray[np.int64]
    """Number of the polygon."""


def sweep(
    read: Callable[[Window], Pixels],
    size: tuple[int, int],
    classes: frozenset[int],
    *,
    simplify: float = 0,
    side: int = SIDE,
) -> Iterator[Regions]:
    """All regions of a mask, as soon as nothing can be added to them.

    Memory is bounded by a block, and by the outlines of the regions that reach from
    what was swept into what was not.

    Args:
        read: Gives a window of the mask.
        size: Its height and width.
        classes: Ids of the classes to take; all else is a gap.
        simplify: Leave out corners that make triangles of less than its square with
            their neighbours, in px; 0 for none. Neighbours keep a common border, and
            the corners where three regions meet or a border leaves a block stay.
        side: Of the blocks that are held.
    """
    height, width = size
    wanted = np.zeros(_VALUES, dtype=np.bool_)
    wanted[sorted(classes)] = True
    seams = Seams(height, width)
    for block in cut_blocks(height, width, side):
        core, pixels = block.core, read(block.core)
        found = _trace(pixels, wanted, whole=simplify > 0)
        edges = _edges(found.polygons)
        found = _add_confidence(found, edges, pixels)
        borders = _borders(edges, core.height, core.width)
        if simplify:
            found, borders = _simplify(found, borders, wanted, simplify)
        polygons = _move(_drop_needless(found.polygons), core)
        moved = Regions(
            polygons=polygons,
            classes=found.classes,
            confidence=found.confidence,
            known=found.known,
        )
        open_ = seams.touching(core, borders)
        yield moved.take(np.setdiff1d(np.arange(len(moved)), open_))
        seams.add(core, borders, {int(i): _part(moved, int(i)) for i in open_})
        if core.stop_col == width:
            yield _unite(seams.close_row())


def _trace(pixels: Pixels, wanted: NDArray[np.bool_], *, whole: bool) -> Regions:
    """The regions of a block, gaps among them where the ``whole`` of it is asked for."""
    chosen = wanted[pixels.mask]
    if not chosen.any():
        return _regions([], [])
    points = array("d")
    rings, starts, classes = [0], [0], []
    for outline, value in shapes(pixels.mask, mask=None if whole else chosen):
        for ring in outline["coordinates"]:
            points.extend(itertools.chain.from_iterable(ring))
            rings.append(len(points) // 2)
        starts.append(len(rings) - 1)
        classes.append(int(value))
    offsets = (np.asarray(rings), np.asarray(starts))
    polygons = shapely.from_ragged_array(
        _POLYGON, np.frombuffer(points).reshape(-1, 2), offsets
    )
    return _regions(shapely.orient_polygons(polygons), classes)


def _regions(polygons: Any, classes: list[int]) -> Regions:  # noqa: ANN401 - any sequence
    none = np.zeros(len(classes), dtype=np.int64)
    return Regions(
        polygons=np.asarray(polygons, dtype=np.object_),
        classes=np.asarray(classes, dtype=np.uint8),
        confidence=none,
        known=none,
    )


def _edges(polygons: Polygons) -> _Edges:
    points, rings, starts = _corners(polygons)
    whole = np.rint(points).astype(np.int64)
    is_edge = np.ones(len(points), dtype=np.bool_)
    is_edge[rings[:-1]] = False  # from a ring's end to another's start there is none
    (ends,) = np.nonzero(is_edge)
    corners_of = np.diff(rings[starts])
    owner = np.repeat(np.arange(len(polygons)), corners_of)
    x, y = whole.T
    return _Edges(x[ends], y[ends], x[ends - 1], y[ends - 1], owner[ends])


def _corners(
    polygons: Polygons,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Points (m, 2), where each ring starts among them, and each polygon among rings."""
    if not len(polygons):
        return np.empty((0, 2)), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    _, points, (rings, starts) = shapely.to_ragged_array(polygons)
    return points, rings.astype(np.int64), starts.astype(np.int64)


def _add_confidence(found: Regions, edges: _Edges, pixels: Pixels) -> Regions:
    values = pixels.confidence
    if values is None or not len(found):
        return found
    return Regions(
        polygons=found.polygons,
        classes=found.classes,
        confidence=_sum_inside(edges, values, len(found)),
        known=_sum_inside(edges, values > 0, len(found)),
    )


def _sum_inside(edges: _Edges, values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Sum the values in each polygon, by Green's theorem: along its edges alone.

    What lies left of an edge, between its rows, is a difference of two sums from the
    block's corner. Outlines run counter-clockwise and holes the other way.
    """
    height, width = values.shape
    sums = np.zeros((height + 1, width + 1), dtype=np.int64)
    values.cumsum(axis=0, dtype=np.int64).cumsum(axis=1, out=sums[1:, 1:])
    left = sums[edges.y, edges.x] - sums[edges.from_y, edges.x]
    # In floats, which hold whole numbers to 2**53 exactly.
    return np.bincount(edges.owner, weights=left, minlength=count).astype(np.int64)


def _borders(edges: _Edges, height: int, width: int) -> Borders:
    """Which polygon lies at each pixel of a block's four borders; -1 where none does."""

    def paint(
        length: int, line: int, across: tuple[NDArray[Any], ...], along: tuple[Any, Any]
    ) -> NDArray[np.int64]:
        owners = np.full(length, -1, dtype=np.int64)
        (here,) = np.nonzero((across[0] == line) & (across[1] == line))
        first, last = np.minimum(*along)[here], np.maximum(*along)[here]
        for start, stop, owner in zip(first, last, edges.owner[here], strict=True):
            owners[start:stop] = owner
        return owners

    x, y = (edges.x, edges.from_x), (edges.y, edges.from_y)
    return Borders(
        top=paint(width, 0, y, x),
        bottom=paint(width, height, y, x),
        left=paint(height, 0, x, y),
        right=paint(height, width, x, y),
    )


def _simplify(
    found: Regions, borders: Borders, wanted: NDArray[np.bool_], tolerance: float
) -> tuple[Regions, Borders]:
    """Simplify all borders within a block, once for both sides, and drop the gaps."""
    if not len(found):
        return found, borders
    # With a corner at each pixel, what is one border for one side is one for the other.
    fine = shapely.transform(shapely.segmentize(found.polygons, 1), np.rint)
    polygons = shapely.coverage_simplify(fine, tolerance, simplify_boundary=False)
    kept = wanted[found.classes]
    numbers = np.append(np.where(kept, kept.cumsum() - 1, -1), -1)  # -1 stays -1
    simple = Regions(
        polygons=polygons,
        classes=found.classes,
        confidence=found.confidence,
        known=found.known,
    )
    return simple.take(kept), Borders(
        top=numbers[borders.top],
        bottom=numbers[borders.bottom],
        left=numbers[borders.left],
        right=numbers[borders.right],
    )


def _drop_needless(polygons: Polygons) -> Polygons:
    """Leave out corners on a straight line; exact, as coordinates are whole numbers."""
    if not len(polygons):
        return polygons
    points, rings, starts = _corners(polygons)
    first, last = rings[:-1], rings[1:] - 1  # which are the same point
    before, after = np.arange(-1, len(points) - 1), np.arange(1, len(points) + 1)
    before[first], after[last] = last - 1, first + 1
    after[last - 1], before[last] = first, last - 1
    (a, b), (c, d) = (points - points[before]).T, (points[after] - points).T
    kept = a * d != b * c
    kept[last] = False
    lengths = np.add.reduceat(kept, first)
    ends = (lengths + 1).cumsum()
    fewer = np.empty((ends[-1], 2))
    closing = np.zeros(len(fewer), dtype=np.bool_)
    closing[ends - 1] = True
    fewer[~closing] = points[kept]
    fewer[closing] = fewer[ends - lengths - 1]
    new: Polygons = shapely.from_ragged_array(_POLYGON, fewer, (np.append(0, ends), starts))
    return new


def _move(polygons: Polygons, core: Window) -> Polygons:
    """From a block's corner to the mask's."""
    if not len(polygons):
        return polygons
    corner = np.asarray([core.col, core.row])
    moved: Polygons = shapely.transform(polygons, lambda points: points + corner)
    return moved


def _part(found: Regions, number: int) -> Part:
    return Part(
        value=int(found.classes[number]),
        polygon=found.polygons[number],
        confidence=int(found.confidence[number]),
        known=int(found.known[number]),
    )


def _unite(joined: list[Joined]) -> Regions:
    """Regions of several parts, each as one polygon."""
    united = [_unite_parts(np.asarray(one.polygons)) for one in joined]
    return Regions(
        polygons=_drop_needless(np.asarray(united, dtype=np.object_)),
        classes=np.asarray([one.value for one in joined], dtype=np.uint8),
        confidence=np.asarray([one.confidence for one in joined], dtype=np.int64),
        known=np.asarray([one.known for one in joined], dtype=np.int64),
    )


def _unite_parts(parts: Polygons) -> shapely.Polygon:
    """One polygon of parts of a region that are found in several blocks.

    A part's holes touch no border of its block, and in them lies nothing that does, so
    they stay as they are: it is outlines alone that are united, which costs 7 us a
    corner, and a large region has most of its corners in holes.
    """
    rings, owners = shapely.get_rings(parts, return_index=True)
    is_outline = np.append(True, owners[1:] != owners[:-1])
    united = shapely.union_all(shapely.polygons(rings[is_outline]))
    if is_outline.all():
        return united
    holes = np.concatenate([rings[~is_outline], np.asarray(united.interiors, object)])
    return shapely.polygons(united.exterior, holes=holes)
