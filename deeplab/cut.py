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

    def tiles(self) -> Iterator[Tile]:
        """List the tiles that touch the core and hold data, row by row."""
        core = self.region.core
        for row in self.grid.rows.touching(core.row, core.stop_row):
            for col in self.grid.columns.touching(core.col, core.stop_col):
                rows, cols = self._inside(Tile(row, col))
                if self.valid[rows, cols].any():
                    yield Tile(row, col)

    def copy(self, tile: Tile, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        """Fill ``pixels`` (bands, tile, tile) and ``valid`` (tile, tile)."""
        rows, cols = self._inside(tile)
        height, width = rows.stop - rows.start, cols.stop - cols.start
        side = self.grid.tile
        if height == width == side:
            pixels[...] = self.pixels[:, rows, cols]
            valid[...] = self.valid[rows, cols]
        else:
            where = np.ix_(mirror(height, side), mirror(width, side))
            pixels[...] = self.pixels[:, rows, cols][:, where[0], where[1]]
            valid[...] = self.valid[rows, cols][where]

    def _inside(self, tile: Tile) -> tuple[slice, slice]:
        """Rows and columns of ``pixels`` under a tile, up to the raster's edge."""
        grid, read = self.grid, self.region.read
        top, left = tile.row * grid.rows.stride, tile.col * grid.columns.stride
        bottom, right = min(top + grid.tile, grid.height), min(left + grid.tile, grid.width)
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
