"""The area that a map is limited to, and which pixels of a raster lie in it.

An area is polygons in longitude and latitude. On a raster they become polygons of
pixels: cut to the raster's surroundings, for a CRS means nothing far from its own
place, and with points added, for a straight edge is curved in another CRS. A pixel is
inside where its centre is. That is told for each row from where it crosses the edges,
in coordinates of the raster, so it does not depend on the block that asks.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError
from rasterio.transform import Affine, GCPTransformer
from rasterio.warp import transform

from deeplab.tiles import Window
from jobs.errors import InputError, ItemError
from jobs.outputs.footprint import WGS84, follow_edge, read_crs
from jobs.shards import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deeplab.tiles import TileGrid
    from jobs.inputs.rasters import RasterInfo
    from jobs.shards import Item

    Found = tuple[Item, RasterInfo | Refusal]
    """A raster and what its header says."""

_STEP: Final = 0.01
"""Longest edge in degrees: in any CRS less than 3 cm from the straight one."""

_TURN: Final = 360.0
_LEAST: Final = 1e-3
"""Pixels; less of a raster is not touched, but rounded."""

Ring = NDArray[np.float64]
"""(points, 2): x and y, or column and row; closed."""

Polygon = tuple[Ring, ...]
"""The outer ring and its holes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """An area as one raster sees it."""

    polygons: tuple[Polygon, ...]
    """In pixels of the raster: column and row."""

    height: int
    """Rows of the raster."""

    width: int
    """Its columns."""

    @property
    def touches(self) -> bool:
        """Whether any of the raster lies in the area."""
        box = (0, self.width), (0, self.height)
        return any(_size(polygon, box) > _LEAST for polygon in self.polygons)

    @property
    def bounds(self) -> Window | None:
        """The smallest window of the raster that holds all of it in the area."""
        if not self.touches:
            return None
        points = np.concatenate([polygon[0] for polygon in self.polygons])
        low = np.floor(points.min(axis=0)).clip(0).astype(int)
        high = np.ceil(points.max(axis=0)).clip(max=(self.width, self.height)).astype(int)
        (col, row), (width, height) = low.tolist(), (high - low).tolist()
        return Window(row=row, col=col, height=height, width=width)

    def cover(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels of a window lie in the area, bool (H, W)."""
        found = np.zeros((window.height, window.width), dtype=np.bool_)
        for polygon in self.polygons:
            found |= _fill(polygon, window)
        return found


@functools.lru_cache(maxsize=8)
def place_area(area: str, grid: str, height: int, width: int) -> Inside:
    """Put an area on a raster.

    Args:
        area: As ``jobs.inputs.geojson`` gives it.
        grid: Where the raster lies, from ``RasterInfo``.
        height: Its rows.
        width: Its columns.

    Raises:
        ItemError: ``unsupported``: nobody knows where on Earth the raster lies.
    """
    edge = follow_edge(grid, height, width)
    if edge is None:
        raise ItemError(
            "unsupported", "it does not say where on Earth it lies, and --aoi limits where"
        )
    box = tuple(_widen(*edge))
    west, east = box[0]
    turns = range(math.floor((west + 180) / _TURN), math.ceil((east + 180) / _TURN))
    fields = json.loads(grid)
    polygons = []
    for rings in _parse(area):
        for turn in turns:
            shift = np.array([turn * _TURN, 0])
            near = [_clip(ring + shift, box) for ring in rings]
            if len(near[0]):
                polygons.append(tuple(_to_pixels(fields, one) for one in near if len(one)))
    return Inside(polygons=tuple(polygons), height=height, width=width)


@functools.lru_cache(maxsize=2)
def _parse(area: str) -> tuple[Polygon, ...]:
    polygons = json.loads(area)["coordinates"]
    return tuple(tuple(np.array(ring) for ring in rings) for rings in polygons)


def _widen(lons: Ring, lats: Ring) -> Iterator[tuple[float, float]]:
    """The bounds of an edge, with a margin for what is between its points."""
    for values in (lons, lats):
        low, high = float(values.min()), float(values.max())
        margin = 0.02 * (high - low) + _STEP
        yield low - margin, high + margin


def _to_pixels(fields: dict[str, Any], ring: Ring) -> Ring:
    """Longitudes and latitudes as columns and rows."""
    lons, lats = _densify(ring).T
    try:
        xs, ys = transform(WGS84, read_crs(fields["crs"]), lons, lats.clip(-90, 90))[:2]
        if fields["gcps"]:
            points = [GroundControlPoint(**point) for point in fields["gcps"]]
            with GCPTransformer(points) as warp:
                rows, cols = warp.rowcol(xs, ys, op=np.positive)
        else:
            a, b, c, d, e, f = tuple(~Affine(*fields["transform"]))[:6]
            x, y = np.array(xs), np.array(ys)
            cols, rows = a * x + b * y + c, d * x + e * y + f
    except (RasterioError, CPLE_BaseError) as error:
        raise ItemError(
            "unsupported", f"--aoi cannot be put on its CRS: {error}"
        ) from error
    found = np.column_stack([cols, rows])
    if not np.isfinite(found).all():
        raise ItemError("unsupported", "--aoi cannot be put on its CRS")
    return found


def _densify(ring: Ring) -> Ring:
    """A ring with points added where its edges are long."""
    steps = np.ceil(np.abs(np.diff(ring, axis=0)).max(axis=1) / _STEP).astype(int)
    parts = [
        np.linspace(start, stop, count, endpoint=False)
        for start, stop, count in zip(ring, ring[1:], steps.clip(1), strict=False)
    ]
    return np.concatenate([*parts, ring[-1:]])


def _clip(ring: Ring, box: tuple[tuple[float, float], ...]) -> Ring:
    """What of a ring lies in a box, and is closed along it (Sutherland, Hodgman)."""
    for axis, limits in enumerate(box):
        for limit, sign in zip(limits, (1, -1), strict=True):
            ring = _cut(ring, axis, limit, sign)
            if not len(ring):
                return ring
    return ring


def _cut(ring: Ring, axis: int, limit: float, sign: int) -> Ring:
    """What of a ring lies on one side of a line along the other axis."""
    depth = sign * (ring[:, axis] - limit)
    above = depth >= 0
    if above.all():
        return ring
    start, step = ring[:-1], np.diff(ring, axis=0)
    crosses = above[:-1] != above[1:]
    share = depth[:-1] / np.where(crosses, depth[:-1] - depth[1:], 1)
    either = np.stack([start, start + step * share[:, np.newaxis]], axis=1)
    found = either[np.stack([above[:-1], crosses], axis=1)]
    return np.concatenate([found, found[:1]])


def _size(polygon: Polygon, box: tuple[tuple[float, float], ...]) -> float:
    """Area of a polygon inside a box."""
    outer, *holes = (abs(_area(_clip(ring, box))) for ring in polygon)
    return outer - sum(holes)


def _area(ring: Ring) -> float:
    if not len(ring):
        return 0.0
    x, y = (ring - ring[0]).T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def _fill(polygon: Polygon, window: Window) -> NDArray[np.bool_]:
    """Pixels of a window whose centre has an odd number of edges to its left."""
    edges = np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in polygon])
    # From top to bottom, whichever way the ring goes, so that neighbours agree.
    edges = np.where(edges[:, 1:2] <= edges[:, 3:4], edges, edges[:, [2, 3, 0, 1]])
    x, top, x_after, bottom = edges.T
    first = np.ceil(top - 0.5).clip(window.row, window.stop_row).astype(np.int64)
    stop = np.ceil(bottom - 0.5).clip(window.row, window.stop_row).astype(np.int64)
    which = np.repeat(np.arange(len(edges)), stop - first)
    start = np.repeat(np.cumsum(stop - first) - (stop - first), stop - first)
    row = first[which] + np.arange(len(which)) - start
    share = (row + 0.5 - top[which]) / (bottom - top)[which]
    crossing = x[which] + share * (x_after - x)[which]
    col = np.ceil(crossing - 0.5).clip(window.col, window.stop_col).astype(np.int64)
    flips = np.zeros((window.height, window.width + 1), dtype=np.uint8)
    np.bitwise_xor.at(flips, (row - window.row, col - window.col), 1)
    if not flips.any():
        return np.zeros((window.height, window.width), dtype=np.bool_)
    odd = np.bitwise_xor.accumulate(flips[:, :-1], axis=1)
    return odd.astype(np.bool_)


def keep_touching(area: str, rasters: Iterable[Found]) -> Iterator[Found]:
    """The rasters that an area touches; one whose place is unknown is refused.

    Raises:
        InputError: It touches none.
    """
    touched = count = 0
    for item, header in rasters:
        if isinstance(header, Refusal):
            yield item, header
            continue
        try:
            inside = place_area(area, header.grid, header.height, header.width)
        except ItemError as error:
            yield item, Refusal(code=error.code, message=error.message)
            continue
        count += 1
        if inside.touches:
            touched += 1
            yield item, header
    if not touched:
        raise InputError(
            f"the area touches none of {count} rasters; check --aoi, which is in longitude "
            "and latitude"
        )
    sys.stderr.write(f"{touched} of {count} rasters touch the area\n")


# What of a block is read


def find_needed(
    grid: TileGrid, core: Window, read: Window, inside: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Pixels that the tiles with a wanted pixel cover; no other has an effect.

    Args:
        grid: The raster's tiles.
        core: Output pixels of the block.
        read: What is read of the raster for them.
        inside: Wanted pixels, bool (H, W) of the core.

    Returns:
        bool (H, W) of what is read.
    """
    needed = np.zeros((read.height, read.width), dtype=np.bool_)
    for i in grid.rows.touching(core.row, core.stop_row):
        top = i * grid.rows.stride
        for k in grid.columns.touching(core.col, core.stop_col):
            left = k * grid.columns.stride
            if _part(inside, core, top, left, grid.tiling.tile).any():
                _part(needed, read, top, left, grid.tiling.tile)[...] = True
    return needed


def _part(
    pixels: NDArray[np.bool_], window: Window, top: int, left: int, side: int
) -> NDArray[np.bool_]:
    """What of a window's pixels a tile covers."""
    rows = slice(max(0, top - window.row), max(0, top + side - window.row))
    cols = slice(max(0, left - window.col), max(0, left + side - window.col))
    return pixels[rows, cols]
