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
    from collections.abc import Callable, Iterator, Sequence

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
    """What becomes a COG: a value of 8 bits of each pixel, or bands of them.

    Bands have no value to spare for pixels without data, so a last plane tells these: 0,
    and 255 elsewhere. It is kept as what TIFF calls a mask, a bit of each pixel.
    """

    name: str
    empty: int
    """Of pixels without data."""

    halve: Callable[..., Pixels]
    """The next smaller level of a plane; of a band, with the plane that tells data."""

    bands: tuple[str, ...] = ()
    """Names of the bands; none where there is one plane alone."""

    @property
    def images(self) -> int:
        """How many planes are values."""
        return len(self.bands) or 1

    @property
    def planes(self) -> int:
        """How many planes there are."""
        return len(self.bands) + 1

    def shrink(self, planes: Sequence[Pixels]) -> list[Pixels]:
        """The next smaller level of all planes."""
        if not self.bands:
            return [self.halve(one) for one in planes]
        *values, known = planes
        return [*(self.halve(one, known) for one in values), halve_known(known)]

    def encode(self, planes: Sequence[Pixels], codec: Codec) -> list[bytes]:
        """The tiles of a level, plane by plane and row by row."""
        return [
            tile
            for number, plane in enumerate(planes)
            for tile in codec.encode_all(plane, self.empty, bits=number >= self.images)
        ]


@dataclass(frozen=True, slots=True)
class Codec:
    """How tiles are compressed."""

    compression: Compression

    @property
    def code(self) -> int:
        """Its number in a TIFF."""
        return _CODES[self.compression]

    def encode(self, tile: Pixels, *, bits: bool = False) -> bytes:
        """Compress a tile, uint8 (512, 512); as ``bits``, whether each is above 0."""
        data = (np.packbits(tile > 0, axis=1) if bits else tile).tobytes()
        if self.compression == "deflate":
            return zlib.compress(data, _DEFLATE_LEVEL)
        packed: bytes = pa.Codec("zstd", _ZSTD_LEVEL).compress(data, asbytes=True)
        return packed

    def decode(self, data: bytes, *, bits: bool = False) -> Pixels:
        """A tile, uint8 (512, 512); of bits 0 or 255."""
        if self.compression == "deflate":
            plain = zlib.decompress(data)
        else:
            size = COG_TILE**2 // (8 if bits else 1)
            plain = pa.Codec("zstd").decompress(data, size, asbytes=True)
        values = np.frombuffer(plain, dtype=np.uint8)
        if bits:
            values = np.unpackbits(values) * np.uint8(255)
        return values.reshape(COG_TILE, COG_TILE)

    def encode_all(
        self, level: Pixels, empty: int, *, bits: bool = False
    ) -> Iterator[bytes]:
        """The tiles of a level, row by row; what reaches over its edge is empty."""
        height, width = level.shape
        for row in range(0, height, COG_TILE):
            for col in range(0, width, COG_TILE):
                part = level[row : row + COG_TILE, col : col + COG_TILE]
                if part.shape != (COG_TILE, COG_TILE):
                    part = _pad(part, (COG_TILE, COG_TILE), empty)
                yield self.encode(part, bits=bits)


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


def halve_probability(values: Pixels, known: Pixels) -> Pixels:
    """The mean of each two by two pixels that have data, rounded.

    Args:
        values: uint8 (H, W), 0 where there is no data.
        known: uint8 (H, W), 0 where there is none.
    """
    total = sum(one.astype(np.uint16) for one in _quarters(values, 0))
    count = sum((one > 0).astype(np.uint16) for one in _quarters(known, 0))
    count = np.maximum(count, 1)
    mean: Pixels = ((total + count // 2) // count).astype(np.uint8)
    return mean


def halve_known(known: Pixels) -> Pixels:
    """Whether any of each two by two pixels has data: 255, or 0."""
    any_of_them: Pixels = np.maximum.reduce(_quarters(known, 0))
    return any_of_them


MASK: Final = Layer("mask", NODATA, halve_classes)
CONFIDENCE: Final = Layer("confidence", 0, halve_confidence)


def probability_layer(classes: Sequence[str]) -> Layer:
    """A band for each class; 255 times a probability takes all that 8 bits can be."""
    return Layer("probabilities", 0, halve_probability, tuple(classes))


def plain_tags(
    size: tuple[int, int], codec: Codec, *, reduced: bool, planes: int = 1
) -> dict[int, tiff.Tag]:
    """What a TIFF must say of an image of 8 bits, and no more.

    Args:
        size: Rows and columns.
        codec: How its tiles are compressed.
        reduced: Whether it is an overview.
        planes: Values of a pixel, each in tiles of its own.
    """
    tags = _plain_tags(size, codec, reduced=reduced)
    if planes > 1:
        tags[tiff.PLANAR] = tiff.short(2)
        tags[tiff.SAMPLES] = tiff.short(planes)
        tags[tiff.BITS] = tiff.shorts([8] * planes)
        tags[tiff.SAMPLE_FORMAT] = tiff.shorts([1] * planes)
        tags[tiff.EXTRA_SAMPLES] = tiff.shorts([0] * (planes - 1))
    return tags


def mask_tags(size: tuple[int, int], codec: Codec, *, reduced: bool) -> dict[int, tiff.Tag]:
    """What a TIFF must say of the mask of an image, of which each pixel is a bit."""
    tags = _plain_tags(size, codec, reduced=reduced)
    tags[tiff.NEW_SUBFILE_TYPE] = tiff.long(4 | int(reduced))
    tags[tiff.BITS] = tiff.short(1)
    tags[tiff.PHOTOMETRIC] = tiff.short(4)
    return tags


def _plain_tags(
    size: tuple[int, int], codec: Codec, *, reduced: bool
) -> dict[int, tiff.Tag]:
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
