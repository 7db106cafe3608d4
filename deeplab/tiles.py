"""One grid of overlapping tiles over a raster.

Tiles start at multiples of the stride from the raster's origin, whatever part
of the raster is asked for, so a pixel's tiles and weights never depend on how
the work was cut. The last tile of an axis may reach past the raster's edge.

Whatever the blend, the weight of a pixel in a tile is the product of one weight
per axis; ``deeplab.ramps`` has them. This module needs neither torch nor numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

MAX_TILE: Final = 8192
"""Rows and columns; a larger one in a stranger's bundle would fill the memory."""

STEP: Final = 32
"""Tiles that fit an image have sides of a multiple of this, the largest output stride.

Of photographs of 640 by 360 to 640 px in tiles of at most 512 px, 11 shapes arise and
2.7 % of what the network sees lies past the edge; by steps of 16 px it is 23 shapes and
1.1 %, by 64 px 5 and 5.8 %. Of tiles of at most 256 px it is 12 % by steps of 64 px.
"""

BlendKind = Literal["hann", "crop", "mean"]
BLENDS: Final[tuple[BlendKind, ...]] = get_args(BlendKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How rasters are cut into tiles, and how tiles are blended."""

    tile: int
    """Rows and columns that the network sees at once."""

    overlap: int
    """Pixels that neighbouring tiles share, less than a tile."""

    blend: BlendKind = "hann"
    """How a pixel is made of the tiles that cover it. ``hann``: each counts by a Hann
    window over the tile, so that no tile's edge is seen; ``crop``: the one alone whose
    centre is nearest, the upper or left one of two; ``mean``: all count alike."""

    def __post_init__(self) -> None:
        """Check the limits."""
        if not 1 <= self.tile <= MAX_TILE:
            raise ValueError(f"tile must be 1 to {MAX_TILE} px, got {self.tile}")
        if not 0 <= self.overlap < self.tile:
            raise ValueError(
                f"overlap must be less than a tile, 0 to {self.tile - 1} px, "
                f"got {self.overlap}"
            )
        if self.blend not in BLENDS:
            raise ValueError(f"blend must be hann, crop or mean, got {self.blend!r}")

    @property
    def stride(self) -> int:
        """Pixels from one tile's start to the next one's."""
        return self.tile - self.overlap

    def fit(self, size: int) -> Tiling:
        """The same along an axis of ``size`` px, in tiles no larger than it needs.

        There are as many as otherwise, as even as can be, so that the last one ends at
        the edge or less than ``STEP`` px past it for each tile.
        """
        count = Axis(size=size, tiling=self).count
        overlap = self.overlap if count > 1 else 0
        share = -(-(size + (count - 1) * overlap) // count)
        tile = min(self.tile, -(-share // STEP) * STEP)
        return replace(self, tile=tile, overlap=overlap)

    @property
    def waste(self) -> float:
        """Pixels that the network sees for each pixel of a large raster: 1 or more."""
        return (self.tile / self.stride) ** 2


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

    tiling: Tiling

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.size < 1:
            raise ValueError(f"raster side must be at least 1 px, got {self.size}")

    @property
    def tile(self) -> int:
        """Pixels of a tile along the axis."""
        return self.tiling.tile

    @property
    def stride(self) -> int:
        """Pixels from one tile's start to the next one's."""
        return self.tiling.stride

    @property
    def count(self) -> int:
        """Tiles needed to cover the axis."""
        return max(1, -(-(self.size - self.tiling.overlap) // self.stride))

    def covering(self, start: int, stop: int) -> range:
        """Indices of the tiles that hold a pixel of ``[start, stop)``."""
        first = max(0, (start - self.tile) // self.stride + 1)
        return range(first, min(self.count, (stop - 1) // self.stride + 1))

    def touching(self, start: int, stop: int) -> range:
        """Indices of the tiles that pixels of ``[start, stop)`` are made of."""
        if self.tiling.blend == "crop":
            return range(self._nearest(start), self._nearest(stop - 1) + 1)
        return self.covering(start, stop)

    def nearest_to(self, index: int) -> tuple[int, int]:
        """First pixel that this tile's centre is the nearest one to, and the end.

        Of two centres that are equally far the first one counts as nearer.
        """
        first, stop = (
            ((2 * tile - 1) * self.stride + self.tile + 1) // 2
            for tile in (index, index + 1)
        )
        is_last = index == self.count - 1
        return first if index else 0, self.size if is_last else stop

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Pixels of the raster under all tiles that touch ``[start, stop)``."""
        tiles = self.touching(start, stop)
        first, last = tiles[0], tiles[-1]
        return first * self.stride, min(self.size, last * self.stride + self.tile)

    def _nearest(self, pixel: int) -> int:
        """Index of the tile whose centre is nearest; the first one of two."""
        # Twice the distances: centres and pixels may both lie at halves.
        past = 2 * pixel + 1 - self.tile - self.stride
        return min(max(0, -(-past // (2 * self.stride))), self.count - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """Tiles over a raster, anchored at its origin."""

    height: int
    width: int
    tiling: Tiling

    fitted: bool = False
    """Whether tiles fit the raster's size: for whole images, which come in all sizes."""

    rows: Axis = field(init=False)
    """Tiles down the raster."""

    columns: Axis = field(init=False)
    """Tiles across the raster."""

    def __post_init__(self) -> None:
        """Check the limits."""
        for name, size in (("rows", self.height), ("columns", self.width)):
            axis = Axis(size=size, tiling=self.tiling)
            if self.fitted:
                axis = replace(axis, tiling=self.tiling.fit(size))
            object.__setattr__(self, name, axis)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        return self.rows.tile, self.columns.tile

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

    @classmethod
    def whole(cls, height: int, width: int) -> Region:
        """All of a raster, in the tiles that its regions have."""
        window = Window(row=0, col=0, height=height, width=width)
        return cls(height=height, width=width, core=window, read=window)
