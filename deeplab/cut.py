"""Tiles cut out of pixels, filled up past the raster's edge by reflection.

A tile that reaches past the edge shows the network its own inside part,
mirrored, so that what it sees depends on the raster alone and never on how
much of it was read at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from deeplab.tiles import Region, TileGrid


class Tile(NamedTuple):
    """Position of a tile on its grid."""

    row: int
    col: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutter:
    """The tiles of one region, and the pixels to cut them from."""

    grid: TileGrid
    region: Region

    pixels: NDArray[np.uint8]
    """uint8 (bands, H, W) over ``region.read``."""

    valid: NDArray[np.bool_]
    """bool (H, W) over ``region.read``: False where there is no data."""

    size: tuple[int, int] | None = None
    """Rows and columns of the result; None for those of the core."""

    def tiles(self) -> Iterator[Tile]:
        """List the tiles that touch the core and hold data, row by row."""
        core = self.region.core
        for row in self.grid.rows.touching(core.row, core.stop_row):
            for col in self._columns:
                rows, cols = self._inside(Tile(row, col))
                if self.valid[rows, cols].any():
                    yield Tile(row, col)

    @property
    def width(self) -> int:
        """Columns of a band, in px."""
        columns = self._columns
        axis = self.grid.columns
        return (len(columns) - 1) * axis.stride + axis.tile

    def fill(self, row: int, band: NDArray[np.uint8]) -> None:
        """Fill ``band``, uint8 (bands + 1, tile's rows, width), with a row of tiles.

        The last plane is 1 where there is data.
        """
        first = self._inside(Tile(row, self._columns.start))
        last = self._inside(Tile(row, self._columns.stop - 1))
        rows, cols = first[0], slice(first[1].start, last[1].stop)
        height, width = rows.stop - rows.start, cols.stop - cols.start
        band[:-1, :height, :width] = self.pixels[:, rows, cols]
        band[-1, :height, :width] = self.valid[rows, cols]
        tile_height, tile_width = self.grid.shape
        inside = last[1].stop - last[1].start
        beyond = width - inside + mirror(inside, tile_width)[inside:]
        band[:, :height, width:] = band[:, :height, beyond]
        band[:, height:] = band[:, mirror(height, tile_height)[height:]]

    def left(self, tile: Tile) -> int:
        """Column of a band where a tile begins."""
        return (tile.col - self._columns.start) * self.grid.columns.stride

    def inside(self, tile: Tile) -> int:
        """Pixels of a tile that lie in the raster."""
        rows, cols = self._inside(tile)
        return self.valid[rows, cols].size

    @property
    def _columns(self) -> range:
        """Columns of tiles that touch the core."""
        core = self.region.core
        return self.grid.columns.touching(core.col, core.stop_col)

    def _inside(self, tile: Tile) -> tuple[slice, slice]:
        """Rows and columns of ``pixels`` under a tile, up to the raster's edge."""
        grid, read = self.grid, self.region.read
        top, left = tile.row * grid.rows.stride, tile.col * grid.columns.stride
        bottom = min(top + grid.rows.tile, grid.height)
        right = min(left + grid.columns.tile, grid.width)
        return (
            slice(top - read.row, bottom - read.row),
            slice(left - read.col, right - read.col),
        )


def mirror(size: int, length: int) -> NDArray[np.intp]:
    """Indices 0 to ``size - 1``, then back and forth, ``length`` in all.

    The edge itself is not repeated, as in ``numpy.pad`` with ``reflect``.
    """
    period = max(1, 2 * (size - 1))
    position = np.arange(length) % period
    index: NDArray[np.intp] = np.minimum(position, period - position)
    return index if size > 1 else np.zeros(length, dtype=np.intp)
