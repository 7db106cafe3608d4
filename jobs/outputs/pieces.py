"""Pieces: the finished tiles of one block, until its raster is put together.

A piece is a TIFF that GDAL reads: the block and the overviews that it can make by
itself, layer by layer. Its tiles go into the raster as they are.
"""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.io import MemoryFile

from jobs.inputs.rasters import GDAL_OPTIONS
from jobs.outputs import tiff
from jobs.outputs.levels import level_sizes, mask_tags, own_levels, plain_tags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from jobs.outputs.levels import Codec, Layer, Pixels
    from jobs.shards import Block


def count_own(height: int, width: int, block: int) -> int:
    """How many levels of a raster, itself included, are in its pieces."""
    return min(own_levels(block), len(level_sizes(height, width)) - 1) + 1


def encode_piece(
    block: Block,
    layers: Sequence[tuple[Layer, Pixels | Sequence[Pixels]]],
    *,
    side: int,
    codec: Codec,
) -> bytes:
    """Compress one block and the overviews that it makes by itself.

    Args:
        block: Where it lies.
        layers: Its pixels, uint8 (H, W) of ``block.core``, by layer; where a layer has
            bands, a list of them and of the plane that tells where there is data.
        side: Of the raster's blocks, in px.
        codec: How to compress.
    """
    directories: list[tiff.Directory] = []
    tiles: list[list[bytes]] = []
    for layer, pixels in layers:
        planes = [pixels] if isinstance(pixels, np.ndarray) else list(pixels)
        for number in range(count_own(block.height, block.width, side)):
            planes = layer.shrink(planes) if number else planes
            encoded = layer.encode(planes, codec)
            height, width = planes[0].shape
            size, reduced = (height, width), number > 0
            tags = plain_tags(size, codec, reduced=reduced, planes=layer.images)
            sizes = np.array([len(tile) for tile in encoded], dtype=np.uint64)
            images = list_images(layer, tags, sizes.reshape(layer.planes, -1), codec)
            directories += images
            left = iter(encoded)
            tiles += [list(itertools.islice(left, one.sizes.size)) for one in images]
    file = io.BytesIO()
    in_order = (tile for one in reversed(tiles) for tile in one)
    tiff.write_tiff(file, directories, in_order)
    return file.getvalue()


def list_images(
    layer: Layer, tags: Mapping[int, tiff.Tag], sizes: NDArray[np.uint64], codec: Codec
) -> list[tiff.Directory]:
    """The directory of one level of a layer, and that of its mask if it has bands.

    Args:
        layer: What it is of.
        tags: What the image says.
        sizes: Bytes of each tile, (planes, ...).
        codec: How they are compressed.
    """
    images = [_directory(tags, sizes[: layer.images])]
    if layer.bands:
        height, width = (tiff.number(tags[one]) for one in (tiff.HEIGHT, tiff.WIDTH))
        kind = tags.get(tiff.NEW_SUBFILE_TYPE)
        reduced = kind is not None and tiff.number(kind) > 0
        of_mask = mask_tags((height, width), codec, reduced=reduced)
        images.append(_directory(of_mask, sizes[layer.images :]))
    return images


def _directory(tags: Mapping[int, tiff.Tag], sizes: NDArray[np.uint64]) -> tiff.Directory:
    flat = sizes.ravel()
    return tiff.Directory(tags=tags, sizes=flat, offsets=np.zeros_like(flat))


def read_piece(
    data: bytes, levels: int, layers: Sequence[Layer]
) -> list[list[tiff.Directory]]:
    """The images of a piece, by layer and level, each with the tiles of its mask.

    Args:
        data: The piece.
        levels: How many images each layer has.
        layers: Those that it has.

    Raises:
        ValueError: It is no piece of these layers.
    """
    images = tiff.read_directories(data)
    counts = [2 if layer.bands else 1 for layer in layers for _ in range(levels)]
    if len(images) != sum(counts):
        raise ValueError(f"no piece: it has {len(images)} images, not {sum(counts)}")
    left = iter(images)
    merged = [_merge(list(itertools.islice(left, count))) for count in counts]
    return [merged[at : at + levels] for at in range(0, len(merged), levels)]


def _merge(images: Sequence[tiff.Directory]) -> tiff.Directory:
    return tiff.Directory(
        tags=images[0].tags,
        sizes=np.concatenate([one.sizes for one in images]),
        offsets=np.concatenate([one.offsets for one in images]),
    )


def decode_piece(data: bytes) -> Pixels:
    """The mask, uint8 (H, W), of a piece, as GDAL reads it."""
    with (
        MemoryFile(data) as memory,
        rasterio.Env(**GDAL_OPTIONS),
        memory.open(driver="GTiff") as piece,
    ):
        mask: Pixels = piece.read(1)
    return mask
