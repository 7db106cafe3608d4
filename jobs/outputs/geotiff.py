"""Plain GeoTIFFs: the demo's scenes, and windows of results to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window as GdalWindow

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from deeplab.tiles import Window


def write_geotiff(path: Path, pixels: NDArray[np.uint8], *, pixel_m: float) -> None:
    """Write bands as a tiled GeoTIFF in UTM zone 33N; an old file is replaced.

    Args:
        path: Local file to write.
        pixels: uint8 (bands, H, W).
        pixel_m: Side of a pixel, in metres.
    """
    bands, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=bands,
        height=height,
        width=width,
        crs="EPSG:32633",
        transform=from_origin(390_000, 5_820_000, pixel_m, pixel_m),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="zstd",
        zstd_level=1,
        predictor=2,
    ) as target:
        target.write(pixels)


def read_geotiff(path: Path, window: Window | None = None) -> NDArray[np.uint8]:
    """Read a local GeoTIFF of ours, uint8 (bands, H, W), or a window of it."""
    box = None
    if window is not None:
        box = GdalWindow(window.col, window.row, window.width, window.height)
    with rasterio.open(path, driver="GTiff") as source:
        pixels: NDArray[np.uint8] = source.read(window=box)
    return pixels
