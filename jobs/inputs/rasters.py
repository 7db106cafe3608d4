"""Read windows of GeoTIFFs with GDAL, local or on S3, and only windows.

The driver is always named, never guessed: a file that calls itself .tif may be
a VRT, which reads any local file and makes requests. A GeoTIFF may name other files
too, so no other address may be opened with it. GDAL reads side files and folders
only when told to, so the same object gives the same pixels everywhere.

What is untrusted is read in a process of its own, by ``jobs.inputs.decoding``.
"""

from __future__ import annotations

import json
import logging
import math
import re
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError, CPLE_OutOfMemoryError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window as GdalWindow

from jobs.errors import ItemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rasterio.io import DatasetReader

    from jobs.inputs.frames import Arrays, Empty

GDAL_OPTIONS: Final = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # GDAL's own default is 5 % of the machine, in each process.
    "GDAL_CACHEMAX": 64 * 2**20,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_HTTP_CONNECTTIMEOUT": 5,
    "GDAL_HTTP_TIMEOUT": 30,
    # A server that falls silent is noticed soon, a slow one is not disturbed.
    "GDAL_HTTP_LOW_SPEED_TIME": 5,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    # A replica lives long: what it remembers of an object may be stale.
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/",
}

MAX_PIXELS: Final = 10**12
"""Width times height of the largest raster: sixty thousand blocks of 4096 px."""

MAX_BLOCK: Final = 64 * 2**20
"""Pixels of the largest tile or strip, which is always read as a whole."""

MAX_BANDS: Final = 1024

_MAX_POINTS: Final = 10_000

_ENTRY_BYTES: Final = 4
"""The least that a TIFF needs for where a tile lies and how long it is."""

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

    grid: str
    """CRS, transform and control points as JSON, for ``parse_grid``; and the file's
    ``datetime``, for STAC."""


def read_info(
    path: str, options: Mapping[str, str], *, size: int | None = None
) -> RasterInfo:
    """Read a raster's header.

    Args:
        path: What GDAL calls the file.
        options: How GDAL reaches S3.
        size: Bytes of the file, None where that is not known.

    Raises:
        ItemError: ``undecodable``: it is no readable GeoTIFF, or its CRS means
            nothing; or ``too_large``.
    """
    with open_raster(path, options) as raster:
        _check_size(raster, size)
        grid = json.dumps(_describe_grid(raster))
        parse_grid(grid)
        alpha = sum(kind.name == "alpha" for kind in raster.colorinterp)
        return RasterInfo(
            height=raster.height,
            width=raster.width,
            bands=raster.count - alpha,
            dtype=raster.dtypes[0],
            paletted=raster.colorinterp[0].name == "palette",
            grid=grid,
        )


def read_window(
    path: str,
    options: Mapping[str, str],
    window: tuple[int, int, int, int],
    *,
    bands: int,
    empty: Empty,
) -> Arrays:
    """Read the first bands of a window: row, column, height, width.

    Returns:
        Pixels, uint8 (bands, H, W); and validity, bool (H, W): False where
        alpha, the internal mask or nodata says that there is no data.

    Raises:
        ItemError: ``undecodable``: a block of the file is damaged; ``too_large``; or
            ``input_changed``: the raster is smaller than that.
    """
    row, col, height, width = window
    box = GdalWindow(col, row, width, height)
    with open_raster(path, options) as raster:
        if not _holds(raster, window, bands):
            raise ItemError("input_changed", "the raster is smaller than it was")
        pixels, valid = empty(bands, height, width)
        raster.read(list(range(1, bands + 1)), window=box, out=pixels)
        np.not_equal(raster.dataset_mask(window=box), 0, out=valid)
    return pixels, valid


def parse_grid(grid: str) -> dict[str, Any]:
    """What ``rasterio.open`` needs, besides the size, to write on the same grid.

    Raises:
        ItemError: ``undecodable``: the CRS means nothing.
    """
    fields = json.loads(grid)
    text = fields["crs"]
    try:
        crs = CRS.from_wkt(text) if text else text
    except CRSError as error:
        raise ItemError("undecodable", f"its CRS means nothing: {error}"[:300]) from error
    if fields["gcps"]:
        points = [GroundControlPoint(**point) for point in fields["gcps"]]
        return {"gcps": points, "crs": crs or CRS()}
    return {"transform": Affine(*fields["transform"]), "crs": crs}


@contextmanager
def open_raster(path: str, options: Mapping[str, str]) -> Iterator[DatasetReader]:
    """Open a GeoTIFF; GDAL's errors inside the block become ItemErrors.

    Raises:
        ItemError: ``undecodable``, ``too_large``, ``out_of_memory``, ``not_found``,
            or ``unreachable`` where it was the network that failed.
    """
    remote = path.startswith("/vsis3/")
    # Metadata of a GeoTIFF may name another file, which GDAL then looks for.
    allowed = {"CPL_VSIL_CURL_ALLOWED_FILENAME": path if remote else "none"}
    noise = {"CPL_DEBUG": "S3"} if remote else {}
    with _Faults() as faults:
        try:
            with (
                rasterio.Env(**GDAL_OPTIONS, **allowed, **noise, **options),
                rasterio.open(path, driver="GTiff") as raster,
            ):
                _check_blocks(raster)
                yield raster
        except (RasterioError, CPLE_BaseError, CRSError) as error:
            raise _explain(error, faults.newest if remote else None) from error


def _describe_grid(raster: DatasetReader) -> dict[str, Any]:
    points, points_crs = raster.gcps
    if len(points) > _MAX_POINTS:
        text = f"{len(points)} control points exceed {_MAX_POINTS}"
        raise ItemError("too_large", text)
    crs = points_crs if points else raster.crs
    return {
        "crs": None if crs is None else crs.to_wkt(),
        "transform": list(raster.transform)[:6],
        # Their ids are made anew each time that a file is opened.
        "gcps": [point.asdict() | {"id": str(i)} for i, point in enumerate(points)],
        # Not where but when, for it is wanted where the grid is: at the end.
        "datetime": raster.tags().get("TIFFTAG_DATETIME"),
    }


def _holds(raster: DatasetReader, window: tuple[int, int, int, int], bands: int) -> bool:
    row, col, height, width = window
    inside = row + height <= raster.height and col + width <= raster.width
    return bool(inside and bands <= raster.count)


def _check_blocks(raster: DatasetReader) -> None:
    """Refuse what must not be read, before anything of it is.

    Raises:
        ItemError: ``too_large``.
    """
    if raster.width * raster.height > MAX_PIXELS:
        raise ItemError(
            "too_large",
            f"{raster.width} x {raster.height} px exceed {MAX_PIXELS} pixels",
        )
    if raster.count > MAX_BANDS:
        raise ItemError("too_large", f"{raster.count} bands exceed {MAX_BANDS}")
    height, width = max(raster.block_shapes, key=math.prod)
    if height * width > MAX_BLOCK:
        raise ItemError(
            "too_large",
            f"its blocks of {width} x {height} px exceed {MAX_BLOCK} pixels; "
            "rewrite it in tiles",
        )


def _check_size(raster: DatasetReader, size: int | None) -> None:
    """Refuse a header that claims more blocks than the file has room to list.

    Raises:
        ItemError: ``undecodable``.
    """
    height, width = raster.block_shapes[0]
    blocks = math.ceil(raster.height / height) * math.ceil(raster.width / width)
    is_large = raster.height * raster.width > MAX_BLOCK
    if size is not None and is_large and blocks * _ENTRY_BYTES > size:
        raise ItemError(
            "undecodable",
            f"a file of {size} bytes cannot hold {raster.width} x {raster.height} px "
            f"in {blocks} blocks",
        )


_NOT_FOUND: Final = "HTTP status 404"


class _Faults(logging.Handler):
    """The network's last fault, which GDAL tells its log but not who reads pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.newest: str | None = None

    def __enter__(self) -> Self:
        logger = logging.getLogger("rasterio")
        self._level = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("rasterio")
        logger.removeHandler(self)
        logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        status = re.search(r"response_code=(\d+)", text)
        if "S3: Downloading" in text:
            self.newest = None
        elif "response_code=" in text and "msg=" in text:
            self.newest = text.partition("msg=")[2]
        elif status and not status[1].startswith("2"):
            self.newest = f"HTTP status {status[1]}"


def _explain(error: BaseException, fault: str | None) -> ItemError:
    causes = [error]
    while cause := causes[-1].__cause__:
        causes.append(cause)
    root = causes[1] if len(causes) > 1 else error
    text = " ".join(f"{type(root).__name__}: {root}".split())[:300]
    if any(isinstance(one, CPLE_OutOfMemoryError) for one in causes):
        return ItemError("out_of_memory", text)
    if fault == _NOT_FOUND:
        return ItemError("not_found", "the object is gone")
    is_network = any(re.search(r"AWS|Http", type(one).__name__) for one in causes)
    if fault is not None or is_network:
        return ItemError("unreachable", f"{fault or text}")
    return ItemError("undecodable", text)


def _info(fields: dict[str, Any], _data: bytes, _empty: Empty) -> dict[str, Any]:
    size, path = fields["size"], fields["path"]
    if size is None and Path(path).is_file():
        size = Path(path).stat().st_size
    return asdict(read_info(path, fields["options"], size=size))


def _window(fields: dict[str, Any], _data: bytes, empty: Empty) -> None:
    window, bands = fields["window"], fields["bands"]
    read_window(fields["path"], fields["options"], window, bands=bands, empty=empty)


ANSWERS: Final[Mapping[str, Callable[..., Any]]] = {
    "info": _info,
    "window": _window,
}
"""What a decoder of rasters does, by name."""
