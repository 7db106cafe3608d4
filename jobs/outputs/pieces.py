"""Pieces: the finished tiles of one block, until its raster is put together.

A piece is a TIFF that GDAL reads: the block and the overviews that it can make by
itself, layer by layer. Its tiles go into the raster as they are.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.io import MemoryFile

from jobs.inputs.rasters import GDAL_OPTIONS
from jobs.outputs import tiff
from jobs.outputs.levels import level_sizes, own_levels, plain_tags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.outputs.levels import Codec, Layer, Pixels
    from jobs.shards import Block


def count_own(height: int, width: int, block: int) -> int:
    """How many levels of a raster, itself included, are in its pieces."""
    return min(own_levels(block), len(level_sizes(height, width)) - 1) + 1


def encode_piece(
    block: Block, layers: Sequence[tuple[Layer, Pixels]], *, side: int, codec: Codec
) -> bytes:
    """Compress one block and the overviews that it makes by itself.

    Args:
        block: Where it lies.
        layers: Its pixels, uint8 (H, W) of ``block.core``, by layer.
        side: Of the raster's blocks, in px.
        codec: How to compress.
    """
    directories: list[tiff.Directory] = []
    tiles: list[list[bytes]] = []
    for layer, level in layers:
        for number in range(count_own(block.height, block.width, side)):
            level = layer.halve(level) if number else level  # noqa: PLW2901
            tiles.append(list(codec.encode_all(level, layer.empty)))
            directories.append(_directory(level.shape, tiles[-1], codec, number))
    file = io.BytesIO()
    in_order = (tile for one in reversed(tiles) for tile in one)
    tiff.write_tiff(file, directories, in_order)
    return file.getvalue()


def _directory(
    size: tuple[int, ...], tiles: Sequence[bytes], codec: Codec, number: int
) -> tiff.Directory:
    height, width = size
    return tiff.Directory(
        tags=plain_tags((height, width), codec, reduced=number > 0),
        sizes=np.array([len(tile) for tile in tiles], dtype=np.uint64),
        offsets=np.zeros(len(tiles), dtype=np.uint64),
    )


def read_piece(data: bytes, levels: int) -> list[list[tiff.Directory]]:
    """The images of a piece, by layer and level.

    Args:
        data: The piece.
        levels: How many images each layer has.

    Raises:
        ValueError: It is no piece.
    """
    images = tiff.read_directories(data)
    return [images[at : at + levels] for at in range(0, len(images), levels)]


def decode_piece(data: bytes) -> Pixels:
    """The mask, uint8 (H, W), of a piece, as GDAL reads it."""
    with (
        MemoryFile(data) as memory,
        rasterio.Env(**GDAL_OPTIONS),
        memory.open(driver="GTiff") as piece,
    ):
        mask: Pixels = piece.read(1)
    return mask
