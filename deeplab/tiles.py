"""One grid of overlapping tiles, and blend weights that sum to one.

Tiles start at multiples of the stride from the raster's origin, whatever part
of the raster is asked for, so a pixel's tiles and weights never depend on how
the work was cut. The last tile of an axis may reach past the raster's edge.
Weights are separable: the weight of a pixel in a tile is the product of one
weight per axis. Along an axis they are a triangle over the tile, divided by
the sum of the triangles of all tiles that cover the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A rectangle of whole pixels in a raster."""

    row: int
    col: int
    height: int
    width: int

    @property
    def stop_row(self) -> int:
        """First row below the window."""
        return self.row + self.height

    @property
    def stop_col(self) -> int:
        """First column right of the window."""
        return self.col + self.width

    @property
    def size(self) -> int:
        """Pixels in the window."""
        return self.height * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The tiles along one axis of a raster."""

    size: int
    """Pixels along the axis, at least 1."""

    tile: int
    """Pixels of a tile along the axis."""

    overlap: int
    """Pixels that neighbouring tiles share: 0 to half a tile."""

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.size < 1:
            raise ValueError(f"raster side must be at least 1 px, got {self.size}")
        if self.tile < 1:
            raise ValueError(f"tile must be at least 1 px, got {self.tile}")
        if not 0 <= self.overlap <= self.tile // 2:
            raise ValueError(
                f"overlap must be 0 to half a tile ({self.tile // 2} px), "
                f"got {self.overlap}"
            )

    @property
    def stride(self) -> int:
        """Pixels from one tile's start to the next one's."""
        return self.tile - self.overlap

    @property
    def count(self) -> int:
        """Tiles needed to cover the axis."""
        return max(1, -(-(self.size - self.overlap) // self.stride))

    def touching(self, start: int, stop: int) -> range:
        """Indices of the tiles that hold a pixel of ``[start, stop)``."""
        first = max(0, (start - self.tile) // self.stride + 1)
        return range(first, min(self.count, (stop - 1) // self.stride + 1))

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Pixels of the raster under all tiles that touch ``[start, stop)``."""
        tiles = self.touching(start, stop)
        first, last = tiles[0], tiles[-1]
        return first * self.stride, min(self.size, last * self.stride + self.tile)

    def weights(self, index: int) -> NDArray[np.float32]:
        """Blend weights of one tile, float32 (tile,), 0 to 1.

        Over all tiles that cover a pixel of the raster they sum to one.
        """
        ramp = _triangle(self.tile)
        total = ramp.copy()
        for neighbour in (index - 1, index + 1):
            if 0 <= neighbour < self.count:
                shift = (neighbour - index) * self.stride
                inner = slice(max(0, shift), min(self.tile, self.tile + shift))
                outer = slice(max(0, -shift), min(self.tile, self.tile - shift))
                total[inner] += ramp[outer]
        return (ramp / total).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """Tiles over a raster, anchored at its origin."""

    height: int
    width: int
    tile: int
    overlap: int

    def __post_init__(self) -> None:
        """Check the limits."""
        _ = self.rows, self.columns

    @property
    def rows(self) -> Axis:
        """Tiles down the raster."""
        return Axis(size=self.height, tile=self.tile, overlap=self.overlap)

    @property
    def columns(self) -> Axis:
        """Tiles across the raster."""
        return Axis(size=self.width, tile=self.tile, overlap=self.overlap)

    @property
    def count(self) -> int:
        """Tiles over the whole raster."""
        return self.rows.count * self.columns.count

    def reach(self, core: Window) -> Window:
        """The part of the raster that a core's tiles cover: what must be read."""
        top, bottom = self.rows.span(core.row, core.stop_row)
        left, right = self.columns.span(core.col, core.stop_col)
        return Window(row=top, col=left, height=bottom - top, width=right - left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of a raster to segment, with the halo that its tiles need."""

    height: int
    """Rows of the whole raster."""

    width: int
    """Columns of the whole raster."""

    core: Window
    """The pixels wanted, in raster coordinates."""

    read: Window
    """The pixels given, in raster coordinates: ``TileGrid.reach(core)``."""


def _triangle(tile: int) -> NDArray[np.float64]:
    """Weights that fall linearly from the middle and stay above zero."""
    position = np.arange(tile, dtype=np.float64) + 0.5
    ramp: NDArray[np.float64] = np.minimum(position, tile - position)
    return ramp
