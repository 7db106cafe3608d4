"""Read windows of masks that are GeoTIFFs: ids or colours, exactly as they are stored.

A mask must lie on the grid of what it judges, pixel on pixel. What is untrusted is read
in a process of its own, by ``jobs.inputs.truth_decoding``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rasterio.errors import CRSError
from rasterio.windows import Window

from jobs.errors import ItemError
from jobs.inputs.raster_grid import describe_grid, parse_grid
from jobs.inputs.rasters import open_raster
from jobs.inputs.wide_ids import split_wide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

    from jobs.inputs.frames import Empty

_COLORS: Final = 3
_CLOSE_PX: Final = 0.01
"""Corners may differ by so much: grids are written with few digits."""


def read_mask(
    path: str,
    options: Mapping[str, str],
    window: tuple[int, int, int, int],
    *,
    place: tuple[int, int, str],
    empty: Empty,
) -> None:
    """Read a window of a mask into arrays of 1, 2 or 3 bands.

    Args:
        path: What GDAL calls the file.
        options: How GDAL reaches S3.
        window: Row, column, height and width.
        place: Height, width and grid of the raster that it must lie on.
        empty: Gives the arrays to fill.

    Raises:
        ItemError: ``wrong_truth``: it lies elsewhere; ``unsupported``: it holds no ids;
            or as in ``open_raster``.
    """
    with open_raster(path, options) as raster:
        _check_place(raster, place)
        row, col, height, width = window
        box = Window(col, row, width, height)
        is_colored = raster.count >= _COLORS and raster.dtypes[0] == "uint8"
        samples = raster.read([1, 2, 3] if is_colored else [1], window=box)
        bands = samples if is_colored else _split(samples[0])
        pixels, valid = empty(len(bands), height, width)
        pixels[:], valid[:] = bands, raster.dataset_mask(window=box) > 0


def _split(ids: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Ids as one band, or as high and low bytes where they need two.

    Raises:
        ItemError: ``unsupported``: they are no whole numbers of 16 bits.
    """
    if ids.dtype == np.uint8:
        return ids[np.newaxis].astype(np.uint8, copy=False)
    return split_wide(ids)


def _check_place(raster: DatasetReader, place: tuple[int, int, str]) -> None:
    height, width, grid = place
    if (raster.height, raster.width) != (height, width):
        raise ItemError(
            "wrong_truth",
            f"it has {raster.width} x {raster.height} px where the raster has {width} x "
            f"{height}; put it on the raster's grid first",
        )
    ours, theirs = parse_grid(grid), parse_grid(describe_grid(raster))
    if "transform" not in ours or "transform" not in theirs:
        return  # control points and RPCs are never the same numbers twice
    here, there = ours["transform"], theirs["transform"]
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    back = ~here
    off = max(
        abs(got - wanted)
        for corner in corners
        for got, wanted in zip(back @ (there @ corner), corner, strict=True)
    )
    if off > _CLOSE_PX:
        raise ItemError(
            "wrong_truth",
            f"its pixels lie up to {off:g} px from the raster's; put it on the raster's "
            "grid first",
        )
    if ours["crs"] and theirs["crs"] and not _is_same(ours["crs"], theirs["crs"]):
        raise ItemError(
            "wrong_truth", "it has another CRS than the raster; put it on that first"
        )


def _is_same(one: CRS, other: CRS) -> bool:
    try:
        return bool(one == other or one.to_epsg() == other.to_epsg() is not None)
    except CRSError:
        return False


def _mask(fields: dict[str, Any], _data: bytes, empty: Empty) -> None:
    read_mask(
        fields["path"],
        fields["options"],
        fields["window"],
        place=tuple(fields["place"]),
        empty=empty,
    )


ANSWERS: Final[Mapping[str, Callable[..., Any]]] = {"mask": _mask}
"""What a decoder of masks that are rasters does, by name."""
