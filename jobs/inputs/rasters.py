"""Read windows of GeoTIFFs with GDAL, local or on S3, and only windows.

The driver is always named, never guessed: a file that calls itself .tif may be
a VRT, which reads any local file and makes requests. A GeoTIFF may name other files
too, so no other address may be opened with it. GDAL reads side files and folders
only when told to, so the same object gives the same pixels everywhere.

What is untrusted is read in a process of its own, by ``jobs.inputs.decoding``.
"""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from jobs.errors import ItemError
from jobs.inputs.raster_faults import GDAL_ERRORS, Faults, explain
from jobs.inputs.raster_grid import describe_grid, find_target, parse_grid
from jobs.inputs.raster_values import choose, read_pixels
from jobs.inputs.raster_warp import read_warped
from jobs.spec import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rasterio.io import DatasetReader

    from jobs.inputs.frames import Arrays, Empty
    from jobs.inputs.raster_grid import Target

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

_ENTRY_BYTES: Final = 4
"""The least that a TIFF needs for where a tile lies and how long it is."""

# A raster without georeferencing is mapped like any other.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterInfo:
    """What a raster's header says."""

    height: int
    """Rows, on the grid that the raster is put on."""

    width: int
    bands: int
    """Bands without alpha."""

    dtype: str
    """Of the first band, e.g. ``uint8``."""

    paletted: bool
    """Whether pixels are indices into a colour table."""

    grid: str
    """CRS, transform, control points and RPCs as JSON, for ``parse_grid``; and the
    file's ``datetime``, for STAC."""

    stored: tuple[int, int] | None = None
    """Rows and columns of the tiles or strips that the file decodes as a whole; None
    where its pixels are not read as they lie there."""


_PLAINLY: Final = Reading()


def read_info(
    path: str,
    options: Mapping[str, str],
    *,
    size: int | None = None,
    bands: int | None = None,
    reading: Reading = _PLAINLY,
) -> RasterInfo:
    """Read a raster's header.

    Args:
        path: What GDAL calls the file.
        options: How GDAL reaches S3.
        size: Bytes of the file, None where that is not known.
        bands: How many the bundle needs; None to look at any raster's header.
        reading: What is read of the raster, and how.

    Raises:
        ItemError: ``undecodable``: it is no readable GeoTIFF, or its CRS means
            nothing; ``too_large``; or ``unsupported``: it cannot be read as wanted.
    """
    with open_raster(path, options) as raster:
        check_claim(raster, size)
        if bands is not None:
            choose(raster, bands, reading)
        target = find_target(raster, reading)
        grid = describe_grid(raster, target)
        parse_grid(grid)
        place = raster if target is None else target
        check_size(place.height, place.width, raster.count)
        alpha = sum(kind.name == "alpha" for kind in raster.colorinterp)
        return RasterInfo(
            height=place.height,
            width=place.width,
            bands=raster.count - alpha,
            dtype=raster.dtypes[0],
            paletted=raster.colorinterp[0].name == "palette",
            grid=grid,
            stored=tuple(raster.block_shapes[0]) if target is None else None,
        )


def read_window(
    path: str,
    options: Mapping[str, str],
    window: tuple[int, int, int, int],
    *,
    bands: int,
    empty: Empty,
    reading: Reading = _PLAINLY,
) -> Arrays:
    """Read a window: row, column, height, width, of the grid it is put on.

    Args:
        path: What GDAL calls the file.
        options: How GDAL reaches S3.
        window: Inside the raster.
        bands: How many the bundle needs.
        empty: Makes the arrays.
        reading: What is read of the raster, and how.

    Returns:
        Pixels, uint8 (bands, H, W); and validity, bool (H, W): False where
        alpha, the internal mask or nodata says that there is no data, see
        ``raster_values``.

    Raises:
        ItemError: ``undecodable``: a block of the file is damaged; ``too_large``;
            ``unsupported``; or ``input_changed``: the raster is smaller than that.
    """
    with open_raster(path, options) as raster:
        target = find_target(raster, reading)
        return read_part(raster, target, window, bands=bands, empty=empty, reading=reading)


def read_part(
    raster: DatasetReader,
    target: Target | None,
    window: tuple[int, int, int, int],
    *,
    bands: int,
    empty: Empty,
    reading: Reading,
) -> Arrays:
    """Read a window of a raster that is open; see ``read_window``.

    Args:
        raster: Open for reading.
        target: The grid that it is put on; None where it stays on its own.
        window: Row, column, height and width on that grid.
        bands: How many the bundle needs.
        empty: Makes the arrays.
        reading: What is read of the raster, and how.

    Raises:
        ItemError: As in ``read_window``.
    """
    row, col, height, width = window
    place = raster if target is None else target
    needed = max(reading.bands or (bands,))
    is_inside = row + height <= place.height and col + width <= place.width
    is_colored = raster.colorinterp[0].name == "palette"
    if not is_inside or not (is_colored or needed <= raster.count):
        raise ItemError("input_changed", "the raster is smaller than it was")
    choice = choose(raster, bands, reading)
    pixels, valid = empty(bands, height, width)
    if target is None:
        read_pixels(raster, window, choice, pixels, valid)
    else:
        read_warped(raster, target, window, choice, (pixels, valid))
    return pixels, valid


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
    with Faults() as faults:
        try:
            with (
                rasterio.Env(**GDAL_OPTIONS, **allowed, **noise, **options),
                rasterio.open(path, driver="GTiff") as raster,
            ):
                _check_blocks(raster)
                yield raster
        except GDAL_ERRORS as error:
            raise explain(error, faults.newest if remote else None) from error


def check_size(height: int, width: int, bands: int) -> None:
    """Refuse a raster that is too large, whatever is in it.

    Raises:
        ItemError: ``too_large``.
    """
    if width * height > MAX_PIXELS:
        raise ItemError("too_large", f"{width} x {height} px exceed {MAX_PIXELS} pixels")
    if bands > MAX_BANDS:
        raise ItemError("too_large", f"{bands} bands exceed {MAX_BANDS}")


def _check_blocks(raster: DatasetReader) -> None:
    """Refuse what must not be read, before anything of it is.

    Raises:
        ItemError: ``too_large``.
    """
    check_size(raster.height, raster.width, raster.count)
    height, width = max(raster.block_shapes, key=math.prod)
    if height * width > MAX_BLOCK:
        raise ItemError(
            "too_large",
            f"its blocks of {width} x {height} px exceed {MAX_BLOCK} pixels; "
            "rewrite it in tiles",
        )


def check_claim(raster: DatasetReader, size: int | None) -> None:
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


def _info(fields: dict[str, Any], _data: bytes, _empty: Empty) -> dict[str, Any]:
    size, path = fields["size"], fields["path"]
    if size is None and Path(path).is_file():
        size = Path(path).stat().st_size
    info = read_info(
        path,
        fields["options"],
        size=size,
        bands=fields["bands"],
        reading=Reading.parse(fields["reading"]),
    )
    return asdict(info)


def _window(fields: dict[str, Any], _data: bytes, empty: Empty) -> None:
    read_window(
        fields["path"],
        fields["options"],
        fields["window"],
        bands=fields["bands"],
        empty=empty,
        reading=Reading.parse(fields["reading"]),
    )


ANSWERS: Final[Mapping[str, Callable[..., Any]]] = {
    "info": _info,
    "window": _window,
}
"""What a decoder of rasters does, by name."""
