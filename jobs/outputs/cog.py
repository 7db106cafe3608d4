"""Finished rasters as Cloud Optimized GeoTIFF (OGC 21-026), put together from pieces.

The tiles of pieces are copied as they are; only overviews that no block can make by
itself are computed here, from the smallest ones that it could, a row of blocks at a
time. A file has the same bytes whatever its blocks were.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import rasterio
from rasterio.io import MemoryFile

from jobs.inputs.raster_grid import parse_grid
from jobs.inputs.rasters import GDAL_OPTIONS
from jobs.outputs import tiff
from jobs.outputs.levels import CONFIDENCE, MASK, count_tiles, level_sizes
from jobs.outputs.pieces import count_own, list_images, read_piece
from jobs.windows import COG_TILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray
    from rasterio.io import DatasetWriter

    from deeplab.bundle import Bundle
    from deeplab.tiles import Window
    from jobs.outputs.levels import Codec, Layer, Pixels

_OF_OVERVIEWS: Final[tuple[int, ...]] = (
    tiff.BITS,
    tiff.COMPRESSION,
    tiff.PHOTOMETRIC,
    tiff.SAMPLES,
    tiff.PLANAR,
    tiff.PALETTE,
    tiff.TILE_WIDTH,
    tiff.TILE_HEIGHT,
    tiff.EXTRA_SAMPLES,
    tiff.SAMPLE_FORMAT,
    tiff.GDAL_NODATA,
)
"""Tags that an overview shares with its image."""

_LAYOUT: Final[dict[bool, dict[str, str]]] = {
    False: {},
    True: {"interleave": "band", "photometric": "minisblack"},
}
"""Options of GDAL for a layer without and with bands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """What the pixels of a mask mean and where they came from."""

    bundle: Bundle
    fingerprint: str
    source: str = ""
    """Key of the raster that was mapped."""

    more: Mapping[str, str] = field(default_factory=dict)
    """Further metadata."""

    def tags(self) -> dict[str, str]:
        """Metadata of the file."""
        names = {str(i): info.name for i, info in enumerate(self.bundle.classes)}
        return {
            "ATROUS_CLASSES": json.dumps(names),
            "ATROUS_BUNDLE": self.bundle.digest,
            "ATROUS_FINGERPRINT": self.fingerprint,
            "ATROUS_SOURCE": self.source,
            **self.more,
        }

    def colors(self) -> dict[int, tuple[int, int, int, int]]:
        """Palette: opaque classes, transparent nodata."""
        palette = {i: (*info.color, 255) for i, info in enumerate(self.bundle.classes)}
        return palette | {MASK.empty: (0, 0, 0, 0)}


class Assembler:
    """Collects the pieces of one raster, and writes a COG of each of its layers.

    Memory is bounded by one piece, the tables of tiles, and a row of blocks at the
    smallest level that they make themselves; compressed tiles wait on disk.
    """

    def __init__(
        self,
        size: tuple[int, int],
        side: int,
        layers: Sequence[Layer],
        *,
        codec: Codec,
        spool: BinaryIO,
    ) -> None:
        """Begin with a raster without data.

        Args:
            size: Its rows and columns.
            side: Of its blocks, in px.
            layers: As they follow each other in the pieces.
            codec: How to compress.
            spool: A local file for reading and writing, empty.
        """
        self._side, self._codec, self._spool = side, codec, spool
        self._own = count_own(*size, side)
        self._pyramids = {
            layer: _Pyramid(layer, level_sizes(*size), self._own, codec=codec)
            for layer in layers
        }
        self._block_rows = -(-size[0] // side)
        self._row = 0

    def add(self, core: Window, data: bytes) -> None:
        """Take the piece of a block; they come row by row.

        Raises:
            ValueError: It is no piece of this raster.
        """
        self._go_to(core.row // self._side)
        start = self._spool.seek(0, 2)
        self._spool.write(data)
        layers = read_piece(data, self._own, [*self._pyramids])
        for pyramid, levels in zip(self._pyramids.values(), layers, strict=True):
            pyramid.add(core, levels, data, start)

    def write(self, path: Path, layer: Layer, *, grid: str, legend: Legend) -> None:
        """Write a layer's COG, once all the pieces are there.

        Args:
            path: Local file to write.
            layer: One of those that the pieces have.
            grid: Where the raster lies, from ``RasterInfo``.
            legend: What the pixels mean.
        """
        self._go_to(self._block_rows)
        pyramid = self._pyramids[layer]
        sizes = [level.size for level in pyramid.levels]
        main = _describe(layer, sizes[0], grid=grid, legend=legend, codec=self._codec)
        shared = {number: main[number] for number in _OF_OVERVIEWS if number in main}
        directories: list[tiff.Directory] = []
        for (height, width), level in zip(sizes, pyramid.levels, strict=True):
            tags = {
                tiff.NEW_SUBFILE_TYPE: tiff.long(1),
                tiff.HEIGHT: tiff.long(height),
                tiff.WIDTH: tiff.long(width),
            }
            directories += list_images(
                layer,
                {**tags, **shared} if directories else main,
                level.tile_sizes(pyramid.empty),
                self._codec,
            )
        with path.open("wb") as file:
            tiff.write_tiff(file, directories, self._tiles(pyramid))

    def _go_to(self, row: int) -> None:
        """Finish the rows of blocks before one."""
        while self._row < row:
            self._row += 1
            for pyramid in self._pyramids.values():
                pyramid.advance(self._side, self._spool, last=self._row == self._block_rows)

    def _tiles(self, pyramid: _Pyramid) -> Iterator[bytes]:
        images = range(pyramid.layer.images)
        masks = range(len(images), pyramid.layer.planes)
        for level in reversed(pyramid.levels):
            for plane in (*masks, *images):
                yield from self._plane(level, plane, pyramid.empty[plane])

    def _plane(self, level: _Level, plane: int, empty: bytes) -> Iterator[bytes]:
        places = zip(level.sizes[plane].flat, level.places[plane].flat, strict=True)
        for size, place in places:
            if not size:
                yield empty
                continue
            self._spool.seek(int(place))
            yield self._spool.read(int(size))


@dataclass(frozen=True, slots=True)
class _Level:
    """Where the tiles of one level are in the spool."""

    size: tuple[int, int]
    sizes: NDArray[np.uint32]
    """Bytes of each tile, (planes, rows, cols); 0 where it is empty."""

    places: NDArray[np.uint64]

    def tile_sizes(self, empty: Sequence[bytes]) -> NDArray[np.uint64]:
        sizes = self.sizes.astype(np.uint64)
        for plane, tile in zip(sizes, empty, strict=True):
            plane[plane == 0] = len(tile)
        return sizes


class _Pyramid:
    """All levels of one layer."""

    def __init__(
        self, layer: Layer, sizes: Sequence[tuple[int, int]], own: int, *, codec: Codec
    ) -> None:
        self.layer, self._own, self._codec = layer, own, codec
        self.empty = layer.encode(self._make_empty(COG_TILE, COG_TILE), codec)
        """A tile of each plane."""

        self.levels = [
            _Level(
                size,
                np.zeros((layer.planes, *count_tiles(size)), dtype=np.uint32),
                np.zeros((layer.planes, *count_tiles(size)), dtype=np.uint64),
            )
            for size in sizes
        ]
        self._is_cascading = own < len(sizes)
        self._rows = [0] * len(sizes)
        """Rows of tiles that are written, by level that no block has."""

        self._waiting = [self._make_empty(0, width) for _, width in sizes]
        self._strip: list[Pixels] | None = None

    def add(
        self, core: Window, images: Sequence[tiff.Directory], data: bytes, start: int
    ) -> None:
        """Note where a block's tiles are, and keep the smallest level's pixels."""
        for number, (level, image) in enumerate(zip(self.levels, images, strict=False)):
            row, col = (at // (COG_TILE << number) for at in (core.row, core.col))
            extent = tuple(-(-side >> number) for side in (core.height, core.width))
            rows, cols = count_tiles((extent[0], extent[1]))
            inside = np.s_[:, row : row + rows, col : col + cols]
            level.sizes[inside] = image.sizes.reshape(-1, rows, cols)
            level.places[inside] = image.offsets.reshape(-1, rows, cols) + np.uint64(start)
        if self._is_cascading:
            self._keep(core, images[self._own - 1], data)

    def _keep(self, core: Window, image: tiff.Directory, data: bytes) -> None:
        """Decode the last level of a block, which the next one is made from."""
        number = self._own - 1
        height, width = self.levels[number].size
        if self._strip is None:
            top = core.row >> number
            rows = min(height - top, -(-core.height >> number))
            self._strip = self._make_empty(rows, width)
        tops = range(0, len(self._strip[0]), COG_TILE)
        lefts = range(core.col >> number, -(-(core.col + core.width) >> number), COG_TILE)
        places = itertools.product(range(self.layer.planes), tops, lefts)
        for (plane, top, left), at, size in zip(
            places, image.offsets.tolist(), image.sizes.tolist(), strict=True
        ):
            part = self._strip[plane][top : top + COG_TILE, left : left + COG_TILE]
            is_mask = plane >= self.layer.images
            tile = self._codec.decode(data[at : at + size], bits=is_mask)
            part[:] = tile[: part.shape[0], : part.shape[1]]

    def advance(self, side: int, spool: BinaryIO, *, last: bool) -> None:
        """A row of blocks is complete: make what follows from it."""
        if not self._is_cascading:
            return
        number = self._own - 1
        height, width = self.levels[number].size
        if self._strip is None:
            full = side >> number
            rows = height - (-(-height // full) - 1) * full if last else full
            self._strip = self._make_empty(rows, width)
        strip, self._strip = self._strip, None
        self._push(self._own, self.layer.shrink(strip), spool, last=last)

    def _push(
        self, number: int, rows: Sequence[Pixels], spool: BinaryIO, *, last: bool
    ) -> None:
        """Take further rows of a level; whole rows of tiles go on to the next."""
        held = zip(self._waiting[number], rows, strict=True)
        waiting = [np.vstack(parts) for parts in held]
        count = len(waiting[0])
        ready = count if last else count // COG_TILE * COG_TILE
        # Copies, so that what has gone on is not held.
        self._waiting[number] = [plane[ready:].copy() for plane in waiting]
        whole = [plane[:ready] for plane in waiting]
        if ready:
            self._store(number, whole, spool)
        if number + 1 < len(self.levels) and (ready or last):
            self._push(number + 1, self.layer.shrink(whole), spool, last=last)

    def _store(self, number: int, planes: Sequence[Pixels], spool: BinaryIO) -> None:
        level = self.levels[number]
        tiles = self.layer.encode(planes, self._codec)
        start, at = self._rows[number], spool.seek(0, 2)
        height, width = planes[0].shape
        rows, cols = count_tiles((height, width))
        sizes = np.array([len(tile) for tile in tiles], dtype=np.uint64)
        places = np.cumsum(sizes) - sizes + np.uint64(at)
        inside = np.s_[:, start : start + rows]
        level.sizes[inside] = sizes.reshape(-1, rows, cols)
        level.places[inside] = places.reshape(-1, rows, cols)
        spool.write(b"".join(tiles))
        self._rows[number] += rows

    def _make_empty(self, rows: int, width: int) -> list[Pixels]:
        """Each plane of some rows without data."""
        shape, empty = (rows, width), self.layer.empty
        return [np.full(shape, empty, np.uint8) for _ in range(self.layer.planes)]


def _describe(
    layer: Layer, size: tuple[int, int], *, grid: str, legend: Legend, codec: Codec
) -> dict[int, tiff.Tag]:
    """The tags that GDAL gives a raster like this: georeferencing, palette, metadata."""
    options: dict[str, Any] = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": layer.images,
        "height": size[0],
        "width": size[1],
        "compress": codec.compression,
        "tiled": True,
        "blockxsize": COG_TILE,
        "blockysize": COG_TILE,
        "bigtiff": "yes",
        "sparse_ok": True,
        **_LAYOUT[bool(layer.bands)],
    }
    if not layer.bands:
        options["nodata"] = layer.empty
    place = parse_grid(grid)
    rpcs = place.pop("rpcs", None)
    with MemoryFile() as memory:
        with (
            rasterio.Env(**GDAL_OPTIONS),
            memory.open(**options, **place) as target,
        ):
            if rpcs is not None:
                target.rpcs = rpcs
            _explain(target, layer, legend)
        (directory,) = tiff.read_directories(memory.read())
    return dict(directory.tags)


def _explain(target: DatasetWriter, layer: Layer, legend: Legend) -> None:
    tags = legend.tags()
    if layer.bands:
        target.scales = (1 / 255,) * len(layer.bands)
        for number, name in enumerate(layer.bands, start=1):
            target.set_band_description(number, name)
        del tags["ATROUS_CLASSES"]
    elif layer is CONFIDENCE:
        target.scales = (1 / 255,)
        target.set_band_description(1, "probability of the class in the mask")
        del tags["ATROUS_CLASSES"]
    else:
        target.write_colormap(1, legend.colors())
    target.update_tags(**tags)
