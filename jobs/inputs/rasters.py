"""Read windows of GeoTIFFs with GDAL, local or on S3, and only windows.

The driver is always named, never guessed: a file that calls itself .tif may be
a VRT, which reads any local file and makes requests. GDAL reads side files and
folders only when told to, so the same object gives the same pixels everywhere.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as GdalWindow

from jobs.errors import ItemError
from jobs.storage import S3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from deeplab.tiles import Window
    from jobs.storage import Access

GDAL_OPTIONS: Final = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # GDAL's own default is 5 % of the machine, in each process.
    "GDAL_CACHEMAX": 64 * 2**20,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_HTTP_CONNECTTIMEOUT": 5,
    "GDAL_HTTP_TIMEOUT": 30,
    # A replica lives long: what it remembers of an object may be stale.
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/",
}

# A raster without georeferencing is mapped like any other.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterInfo:
    """What a raster's header says."""

    height: int
    width: int
    bands: int
    """Bands without alpha."""

    dtype: str
    """Of the first band, e.g. ``uint8``."""

    paletted: bool
    """Whether pixels are indices into a colour table."""


def read_info(uri: str, access: Access) -> RasterInfo:
    """Read a raster's header.

    Raises:
        ItemError: ``undecodable``: it is no readable GeoTIFF.
    """
    with open_raster(uri, access) as raster:
        alpha = sum(kind.name == "alpha" for kind in raster.colorinterp)
        return RasterInfo(
            height=raster.height,
            width=raster.width,
            bands=raster.count - alpha,
            dtype=raster.dtypes[0],
            paletted=raster.colorinterp[0].name == "palette",
        )


def read_window(
    uri: str, access: Access, window: Window, *, bands: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read the first bands of a window.

    Returns:
        Pixels, uint8 (bands, H, W); and validity, bool (H, W): False where
        alpha, the internal mask or nodata says that there is no data.

    Raises:
        ItemError: ``undecodable``: a block of the file is damaged.
    """
    box = GdalWindow(window.col, window.row, window.width, window.height)
    with open_raster(uri, access) as raster:
        pixels = raster.read(list(range(1, bands + 1)), window=box)
        mask = raster.dataset_mask(window=box)
    # In place: a block's mask is tens of megabytes.
    valid = np.not_equal(mask, 0, out=mask.view(np.bool_))
    return pixels.astype(np.uint8, copy=False), valid


def read_profile(uri: str, access: Access) -> dict[str, Any]:
    """Size and georeferencing of a raster, for an output that lies on it."""
    with open_raster(uri, access) as raster:
        points, points_crs = raster.gcps
        profile: dict[str, Any] = {"height": raster.height, "width": raster.width}
        if points:
            return profile | {"gcps": points, "crs": points_crs or CRS()}
        return profile | {"transform": raster.transform, "crs": raster.crs}


@contextmanager
def open_raster(uri: str, access: Access) -> Iterator[DatasetReader]:
    """Open a GeoTIFF; GDAL's errors inside the block become ItemErrors."""
    try:
        with (
            rasterio.Env(**GDAL_OPTIONS, **_s3_options(access)),
            rasterio.open(_gdal_path(uri), driver="GTiff") as raster,
        ):
            yield raster
    except (RasterioError, CPLE_BaseError) as error:
        cause = error.__cause__ or error
        text = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
        raise ItemError("undecodable", text) from error


def _gdal_path(uri: str) -> str:
    return f"/vsis3/{uri.removeprefix(S3)}" if uri.startswith(S3) else uri


def _s3_options(access: Access) -> dict[str, str]:
    options = {}
    if access.endpoint_url is not None:
        parts = urlsplit(access.endpoint_url)
        options["AWS_S3_ENDPOINT"] = parts.netloc
        options["AWS_HTTPS"] = "YES" if parts.scheme == "https" else "NO"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"
    if access.anon:
        options["AWS_NO_SIGN_REQUEST"] = "YES"
    if access.requester_pays:
        options["AWS_REQUEST_PAYER"] = "requester"
    return options
