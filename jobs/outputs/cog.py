"""Finished masks of rasters as Cloud Optimized GeoTIFF (OGC 21-026).

Blocks are kept as pieces until all of a raster are there; then GDAL writes the
COG. Masks are compressed with ZSTD level 1, which takes a fifth of the CPU time
of DEFLATE at about its size; overviews take the most frequent class.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile
from rasterio.windows import Window as GdalWindow

from jobs.inputs.rasters import GDAL_OPTIONS
from jobs.windows import COG_TILE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rasterio.io import DatasetWriter

    from deeplab.bundle import Bundle
    from deeplab.tiles import Window

NODATA: Final = 255

_LAYOUT: Final = {
    "driver": "GTiff",
    "dtype": "uint8",
    "count": 1,
    "compress": "zstd",
    "zstd_level": 1,
    "tiled": True,
    "blockxsize": COG_TILE,
    "blockysize": COG_TILE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """What the pixels of a mask mean and where they came from."""

    bundle: Bundle
    fingerprint: str

    def tags(self) -> dict[str, str]:
        """Metadata of the file."""
        names = {str(i): info.name for i, info in enumerate(self.bundle.classes)}
        return {
            "ATROUS_CLASSES": json.dumps(names),
            "ATROUS_BUNDLE": self.bundle.digest,
            "ATROUS_FINGERPRINT": self.fingerprint,
        }

    def colors(self) -> dict[int, tuple[int, int, int, int]]:
        """Palette: opaque classes, transparent nodata."""
        palette = {i: (*info.color, 255) for i, info in enumerate(self.bundle.classes)}
        return palette | {NODATA: (0, 0, 0, 0)}


def encode_piece(mask: NDArray[np.uint8]) -> bytes:
    """Compress one block's mask, uint8 (H, W), as a small GeoTIFF."""
    height, width = mask.shape
    with MemoryFile() as memory:
        with (
            rasterio.Env(**GDAL_OPTIONS),
            memory.open(height=height, width=width, **_LAYOUT) as piece,
        ):
            piece.write(mask, 1)
        data: bytes = memory.read()
    return data


def decode_piece(data: bytes) -> NDArray[np.uint8]:
    """The mask, uint8 (H, W), of an encoded piece."""
    with (
        MemoryFile(data) as memory,
        rasterio.Env(**GDAL_OPTIONS),
        memory.open(driver="GTiff") as piece,
    ):
        mask: NDArray[np.uint8] = piece.read(1)
    return mask


def write_cog(
    path: Path,
    *,
    profile: dict[str, Any],
    legend: Legend,
    pieces: Iterable[tuple[Window, NDArray[np.uint8]]],
) -> None:
    """Write one COG; memory is bounded by a piece and GDAL's block cache.

    Args:
        path: Local file to write.
        profile: Size and georeferencing, ``parse_grid`` and the size.
        legend: Palette, names and provenance.
        pieces: Windows and their masks. What none covers is nodata.
    """
    plain = path.with_name("plain.tif")
    with rasterio.Env(**GDAL_OPTIONS):
        with rasterio.open(
            plain, "w", **_LAYOUT, **profile, nodata=NODATA, BIGTIFF="IF_SAFER"
        ) as target:
            _fill(target, legend, pieces)
        rasterio.shutil.copy(
            plain,
            path,
            driver="COG",
            BLOCKSIZE=COG_TILE,
            COMPRESS="ZSTD",
            LEVEL=1,
            OVERVIEW_RESAMPLING="MODE",
            BIGTIFF="IF_SAFER",
        )
    plain.unlink()


def _fill(
    target: DatasetWriter,
    legend: Legend,
    pieces: Iterable[tuple[Window, NDArray[np.uint8]]],
) -> None:
    target.write_colormap(1, legend.colors())
    target.update_tags(**legend.tags())
    for window, mask in pieces:
        box = GdalWindow(window.col, window.row, window.width, window.height)
        target.write(mask, 1, window=box)
