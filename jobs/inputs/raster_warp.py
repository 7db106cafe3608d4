"""Read windows of rasters on another grid than their own.

The target grid is computed in chunks of a fixed size, counted from its corner, each
as a whole and on its own. So a pixel does not depend on the window that is read,
nor on how GDAL divides a request.

Values are interpolated over the four nearest pixels that are data, or over more where
pixels become larger; validity is that of the nearest pixel, and what lies outside the
raster is no data. Colours of a palette are those of the nearest pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject

from jobs.errors import ItemError
from jobs.inputs.raster_values import alpha_of, to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from jobs.inputs.raster_grid import Target
    from jobs.inputs.raster_values import Choice

CHUNK: Final = 256
"""Side of what is computed at once, in px of the target. Another one would change
pixels, in the last bits at least."""

_FAR: Final = -1e38
"""A value that no pixel has."""


def read_warped(
    raster: DatasetReader,
    target: Target,
    window: tuple[int, int, int, int],
    choice: Choice,
    arrays: tuple[NDArray[np.uint8], NDArray[np.bool_]],
) -> None:
    """Read a window of the target grid: row, column, height, width.

    Args:
        raster: Open for reading.
        target: The grid.
        window: Inside the grid.
        choice: What to make of it.
        arrays: Pixels (bands, H, W) and validity (H, W) to be filled.

    Raises:
        ItemError: ``unsupported``: bands have nodata values of their own.
    """
    nodata = {str(raster.nodatavals[band - 1]) for band in choice.bands}
    if len(nodata) > 1:
        text = f"its bands have several nodata values ({', '.join(sorted(nodata))})"
        raise ItemError("unsupported", f"{text}, so it cannot be put on another grid")
    pixels, valid = arrays
    row, col, height, width = window
    for top in _starts(row, row + height):
        for left in _starts(col, col + width):
            rows = slice(max(top, row), min(top + CHUNK, row + height))
            cols = slice(max(left, col), min(left + CHUNK, col + width))
            inner = _shifted(rows, top), _shifted(cols, left)
            outer = _shifted(rows, row), _shifted(cols, col)
            values, known = _read_chunk(raster, target, (top, left), choice)
            valid[outer] = known[inner]
            raw = values[(slice(None), *inner)]
            to_bytes(raw, choice, pixels[(slice(None), *outer)], valid[outer])


def _starts(first: int, last: int) -> Iterator[int]:
    return iter(range(first // CHUNK * CHUNK, last, CHUNK))


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)


def _read_chunk(
    raster: DatasetReader, target: Target, corner: tuple[int, int], choice: Choice
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values (bands, CHUNK, CHUNK), and which of them are data."""
    top, left = corner
    place = {
        "dst_transform": target.transform @ Affine.translation(left, top),
        "dst_crs": target.crs,
        # GDAL would find them for each chunk anew, and blur each in another way.
        "XSCALE": target.scale,
        "YSCALE": target.scale * abs(target.transform.a / target.transform.e),
    }
    bands = list(choice.bands)
    alpha = alpha_of(raster)
    nearest = _warp(raster, bands, place, resampling=Resampling.nearest)
    known: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(nearest))
    if alpha:
        # GDAL mixes what is half transparent with what lies below, where nothing is.
        known &= _warp(raster, [alpha], place, resampling=Resampling.nearest)[0] > 0
    if choice.colors is not None:
        return np.where(known, nearest, 0).astype(np.int64), known
    values = _warp(raster, bands, place, resampling=Resampling.bilinear, alpha=alpha)
    known &= np.logical_and.reduce(np.isfinite(values))
    values[:, ~known] = 0
    return (values if choice.scales else _to_uint8(values)), known


def _warp(
    raster: DatasetReader,
    bands: list[int],
    place: dict[str, Any],
    *,
    resampling: Resampling,
    alpha: int = 0,
) -> NDArray[np.float64]:
    """One chunk of some bands; NaN where none of them has data, unless alpha says so."""
    count = len(bands) + bool(alpha)
    # What is nowhere is multiplied by 0 where there is alpha, so it must be finite.
    nowhere = _FAR if alpha else np.nan
    values = np.full((count, CHUNK, CHUNK), nowhere)
    reproject(
        rasterio.band(raster, bands),
        values,
        **place,
        src_crs=_crs_of(raster),
        dst_nodata=nowhere,
        resampling=resampling,
        src_alpha=alpha,
        dst_alpha=count if alpha else 0,
        # Exact: what lies between computed points would depend on the chunk.
        tolerance=0,
        num_threads=1,
    )
    return values[: len(bands)]


def _to_uint8(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _crs_of(raster: DatasetReader) -> Any:  # noqa: ANN401 - None, or a CRS
    points, crs = raster.gcps
    return crs if points else raster.crs
