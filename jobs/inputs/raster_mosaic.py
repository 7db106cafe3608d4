"""Read windows of VRTs: the parts of the GeoTIFFs that they name, put side by side."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rasterio.windows import Window as GdalWindow

from jobs.errors import ItemError
from jobs.inputs.raster_grid import describe_grid, parse_grid
from jobs.inputs.raster_values import alpha_of, choose, to_bytes
from jobs.inputs.raster_vrt import Vrt, parse_vrt
from jobs.inputs.rasters import RasterInfo, check_size, open_raster
from jobs.spec import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from jobs.inputs.frames import Arrays, Empty
    from jobs.inputs.raster_values import Choice
    from jobs.inputs.raster_vrt import Box, Source


def describe_vrt(vrt: Vrt, bands: int | None, reading: Reading) -> RasterInfo:
    """What a VRT is good for; no source is opened.

    Args:
        vrt: As it was parsed.
        bands: How many the bundle needs; None to look at any VRT.
        reading: What is read of it, and how.

    Raises:
        ItemError: ``too_large``, or ``unsupported``: it cannot be read as wanted.
    """
    check_size(vrt.height, vrt.width, vrt.count)
    if reading.is_warped:
        text = "it is a VRT, which cannot be put on another grid; leave crs and resolution"
        raise ItemError("unsupported", f"{text} out, or name its sources themselves")
    if bands is not None:
        choose(vrt, bands, reading)
    grid = describe_grid(vrt)
    parse_grid(grid)
    return RasterInfo(
        height=vrt.height,
        width=vrt.width,
        bands=vrt.count - sum(kind.name == "alpha" for kind in vrt.colorinterp),
        dtype=vrt.dtypes[0],
        paletted=False,
        grid=grid,
    )


def read_mosaic(
    vrt: Vrt, options: Mapping[str, str], window: Box, choice: Choice, empty: Empty
) -> Arrays:
    """Read a window.

    Args:
        vrt: As it was parsed.
        options: How GDAL reaches S3.
        window: Inside the VRT.
        choice: What to make of it.
        empty: Makes the arrays.

    Raises:
        ItemError: A source cannot be read, or is not what the VRT says.
    """
    _, _, height, width = window
    bands = _bands_of(vrt, choice)
    dtype = vrt.dtypes[choice.bands[0] - 1]
    raw = np.zeros((len(bands), height, width), dtype=dtype)
    covered = np.zeros(raw.shape, dtype=bool)
    for path, parts in _by_file(vrt, bands, window):
        try:
            with open_raster(path, options) as raster:
                for index, source in parts:
                    _copy(raster, source, window, raw[index], covered[index])
        except ItemError as error:
            name = path.rpartition("/")[2]
            text = f"its source {name}: {error.message}"
            raise ItemError(error.code, text) from error
    pixels, valid = empty(choice.count, height, width)
    valid[...] = _is_data(vrt, choice, raw, covered)
    if len(bands) > len(choice.bands):
        valid &= raw[-1] > 0
    to_bytes(raw[: len(choice.bands)], choice, pixels, valid)
    return pixels, valid


def _bands_of(vrt: Vrt, choice: Choice) -> list[int]:
    """Bands to be read: those that were chosen, and alpha."""
    alpha = alpha_of(vrt)
    if alpha and vrt.dtypes[alpha - 1] != vrt.dtypes[choice.bands[0] - 1]:
        raise ItemError("unsupported", "its alpha is of another type than its bands")
    return [*choice.bands, *([alpha] if alpha else [])]


def _by_file(
    vrt: Vrt, bands: list[int], window: Box
) -> Iterator[tuple[str, list[tuple[int, Source]]]]:
    """Sources that touch the window, each with the place of its band among ``bands``.

    In each band they come in the order of the VRT; a file that is next in several is
    opened once for all of them.
    """
    queues = [
        deque(one for one in vrt.sources[band - 1] if _overlap(one.box, window))
        for band in bands
    ]
    while left := [queue for queue in queues if queue]:
        path, parts = left[0][0].path, []
        for index, queue in enumerate(queues):
            while queue and queue[0].path == path:
                parts.append((index, queue.popleft()))
        yield path, parts


def _overlap(one: Box, other: Box) -> Box | None:
    row, col = max(one[0], other[0]), max(one[1], other[1])
    height = min(one[0] + one[2], other[0] + other[2]) - row
    width = min(one[1] + one[3], other[1] + other[3]) - col
    return (row, col, height, width) if min(height, width) > 0 else None


def _copy(
    raster: DatasetReader,
    source: Source,
    window: Box,
    values: NDArray[Any],
    covered: NDArray[np.bool_],
) -> None:
    """Copy what lies in the window, over what lies there already."""
    found = _overlap(source.box, window)
    if found is None:
        return
    row, col, height, width = found
    first_row = source.row + row - source.box[0]
    first_col = source.col + col - source.box[1]
    is_inside = (
        min(first_row, first_col) >= 0
        and first_row + height <= raster.height
        and first_col + width <= raster.width
    )
    if source.band > raster.count or not is_inside:
        raise ItemError("unsupported", "the VRT wants more of it than there is")
    dtype = raster.dtypes[source.band - 1]
    if dtype != values.dtype.name:
        text = f"it has {dtype} where the VRT says {values.dtype.name}"
        raise ItemError("unsupported", text)
    box = GdalWindow(first_col, first_row, width, height)
    part = raster.read(source.band, window=box)
    place = (
        slice(row - window[0], row - window[0] + height),
        slice(col - window[1], col - window[1] + width),
    )
    taken = ~_equals(part, source.nodata)
    np.copyto(values[place], part, where=taken)
    covered[place] |= taken


def _is_data(
    vrt: Vrt, choice: Choice, raw: NDArray[Any], covered: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Where any of the chosen bands has a source, and no nodata there."""
    found = np.zeros(raw.shape[1:], dtype=bool)
    for index, band in enumerate(choice.bands):
        found |= covered[index] & ~_equals(raw[index], vrt.nodatavals[band - 1])
    return found


def _equals(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    if nodata is None:
        return np.zeros(values.shape, dtype=bool)
    found: NDArray[np.bool_]
    if math.isnan(nodata):
        found = np.isnan(values)
        return found
    # As the file holds it: 0.1 in a VRT is the nearest value of the band's type.
    is_float = np.issubdtype(values.dtype, np.floating)
    wanted = values.dtype.type(nodata) if is_float else nodata
    found = np.equal(values, wanted)
    return found


def _parse(fields: dict[str, Any], data: bytes) -> tuple[Vrt, Reading]:
    vrt = parse_vrt(data, fields["path"], tuple(fields["roots"]))
    return vrt, Reading.parse(fields["reading"])


def _info(fields: dict[str, Any], data: bytes, _empty: Empty) -> dict[str, Any]:
    vrt, reading = _parse(fields, data)
    return asdict(describe_vrt(vrt, fields["bands"], reading))


def _sources(fields: dict[str, Any], data: bytes, _empty: Empty) -> list[str]:
    """Files that a window needs."""
    vrt, reading = _parse(fields, data)
    choice = choose(vrt, fields["bands"], reading)
    window = tuple(fields["window"])
    return sorted({path for path, _ in _by_file(vrt, _bands_of(vrt, choice), window)})


def _window(fields: dict[str, Any], data: bytes, empty: Empty) -> None:
    vrt, reading = _parse(fields, data)
    row, col, height, width = fields["window"]
    if row + height > vrt.height or col + width > vrt.width:
        raise ItemError("input_changed", "the VRT is smaller than it was")
    choice = choose(vrt, fields["bands"], reading)
    read_mosaic(vrt, fields["options"], (row, col, height, width), choice, empty)


ANSWERS: Final[Mapping[str, Callable[..., Any]]] = {
    "info": _info,
    "sources": _sources,
    "window": _window,
}
"""What a decoder of VRTs does, by name."""
