"""Levels of a raster: its tiles, compressed, and the smaller images of them.

A pixel of the next level stands for two by two of this one, so each level comes from
the one before and no level depends on how the raster was cut into blocks.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pyarrow as pa

from jobs.outputs import tiff
from jobs.windows import COG_TILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

NODATA: Final = 255

Compression = Literal["zstd", "deflate"]

_CODES: Final = {"zstd": 50000, "deflate": 8}
"""In a TIFF; that of ZSTD is libtiff's."""

_ZSTD_LEVEL: Final = 1
"""A fifth of the CPU time of DEFLATE, at about its size."""

_DEFLATE_LEVEL: Final = 6


@dataclass(frozen=True, slots=True)
class Layer:
    """One value of each pixel, 8 bits."""

    name: str
    empty: int
    """Of pixels without data."""

    halve: Callable[[Pixels], Pixels]
    """The next smaller level."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How tiles are compressed."""

    compression: Compression

    @property
    def code(self) -> int:
        """Its number in a TIFF."""
        return _CODES[self.compression]

    def encode(self, tile: Pixels) -> bytes:
        """Compress a tile, uint8 (512, 512)."""
        data = tile.tobytes()
        if self.compression == "deflate":
            return zlib.compress(data, _DEFLATE_LEVEL)
        packed: bytes = pa.Codec("zstd", _ZSTD_LEVEL).compress(data, asbytes=True)
        return packed

    def decode(self, data: bytes) -> Pixels:
        """A tile, uint8 (512, 512)."""
        if self.compression == "deflate":
            plain = zlib.decompress(data)
        else:
            plain = pa.Codec("zstd").decompress(data, COG_TILE**2, asbytes=True)
        return np.frombuffer(plain, dtype=np.uint8).reshape(COG_TILE, COG_TILE)

    def encode_all(self, level: Pixels, empty: int) -> Iterator[bytes]:
        """The tiles of a level, row by row; what reaches over its edge is empty."""
        height, width = level.shape
        for row in range(0, height, COG_TILE):
            for col in range(0, width, COG_TILE):
                part = level[row : row + COG_TILE, col : col + COG_TILE]
                if part.shape != (COG_TILE, COG_TILE):
                    part = _pad(part, (COG_TILE, COG_TILE), empty)
                yield self.encode(part)


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns of a raster and of its overviews, down to a single tile."""
    sizes = [(height, width)]
    while max(sizes[-1]) > COG_TILE:
        rows, cols = sizes[-1]
        sizes.append((-(-rows // 2), -(-cols // 2)))
    return sizes


def count_tiles(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles that cover a level."""
    return -(-size[0] // COG_TILE), -(-size[1] // COG_TILE)


def own_levels(block: int) -> int:
    """How many overviews a block can make without its neighbours."""
    tiles = block // COG_TILE
    return (tiles & -tiles).bit_length() - 1


def halve_classes(mask: Pixels) -> Pixels:
    """The most frequent class of each two by two pixels; the first of several.

    No data wins only where there is nothing else.
    """
    four = _quarters(mask, NODATA)
    best, most = four[0], np.full(four[0].shape, -2, dtype=np.int8)
    for one in four:
        votes = sum((one == other).view(np.int8) for other in four)
        votes[one == NODATA] = -1
        best = np.where(votes > most, one, best)
        most = np.maximum(votes, most)
    return best


def halve_confidence(confidence: Pixels) -> Pixels:
    """The mean of each two by two pixels that have data, rounded; 0 has none."""
    four = _quarters(confidence, 0)
    total = sum(one.astype(np.uint16) for one in four)
    count = sum((one > 0).astype(np.uint16) for one in four)
    count = np.maximum(count, 1)
    mean: Pixels = ((total + count // 2) // count).astype(np.uint8)
    return mean


MASK: Final = Layer("mask", NODATA, halve_classes)
CONFIDENCE: Final = Layer("confidence", 0, halve_confidence)


def plain_tags(
    size: tuple[int, int], codec: Codec, *, reduced: bool
) -> dict[int, tiff.Tag]:
    """What a TIFF must say of an image of 8 bits, and no more."""
    return {
        tiff.NEW_SUBFILE_TYPE: tiff.long(int(reduced)),
        tiff.HEIGHT: tiff.long(size[0]),
        tiff.WIDTH: tiff.long(size[1]),
        tiff.BITS: tiff.short(8),
        tiff.COMPRESSION: tiff.short(codec.code),
        tiff.PHOTOMETRIC: tiff.short(1),
        tiff.SAMPLES: tiff.short(1),
        tiff.PLANAR: tiff.short(1),
        tiff.TILE_WIDTH: tiff.short(COG_TILE),
        tiff.TILE_HEIGHT: tiff.short(COG_TILE),
        tiff.SAMPLE_FORMAT: tiff.short(1),
    }


def _quarters(level: Pixels, empty: int) -> tuple[Pixels, Pixels, Pixels, Pixels]:
    height, width = level.shape
    if height % 2 or width % 2:
        level = _pad(level, (height + height % 2, width + width % 2), empty)
    return level[::2, ::2], level[::2, 1::2], level[1::2, ::2], level[1::2, 1::2]


def _pad(part: Pixels, shape: tuple[int, int], empty: int) -> Pixels:
    whole = np.full(shape, empty, dtype=np.uint8)
    whole[: part.shape[0], : part.shape[1]] = part
    return whole
