"""Scenes of a mosaic: where they lie on its grid, and their pixels there.

The grid is that of the first scene, continued in whole pixels as far as the scenes
go, or one whose corners are whole multiples of the pixel size. A scene that lies on
it is read as it is; any other one is warped while it is read. So each scene is a
raster of its own on that grid, and its pixels do not depend on the others.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rasterio.crs import CRS
from rasterio.transform import Affine

from jobs.errors import ItemError
from jobs.inputs.raster_grid import (
    MAX_SIDE,
    Target,
    fit,
    floor,
    parse_grid,
    require_place,
)
from jobs.inputs.raster_values import choose
from jobs.inputs.rasters import check_claim, check_size, open_raster, read_part
from jobs.mosaic import write_time
from jobs.spec import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rasterio.io import DatasetReader

    from jobs.inputs.frames import Empty

_NEAR: Final = 1e-3
"""Parts of a pixel that a scene may miss the grid by and still lie on it."""

_CONSEQUENCE: Final = (
    "it has no place in a mosaic; leave it out, or map it without --mosaic"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a scene lies on a mosaic's grid, in px from its origin."""

    row: int
    col: int
    height: int
    width: int
    taken: str
    """When, as ISO 8601 in UTC; empty where it does not say."""


def begin_grid(raster: DatasetReader, reading: Reading) -> str:
    """The grid of a mosaic whose first scene this is, as JSON for ``parse_grid``.

    Args:
        raster: Open for reading.
        reading: Which CRS and pixel size the user wants.

    Raises:
        ItemError: ``unsupported``: it does not say where it lies.
    """
    crs = source = require_place(raster, _CONSEQUENCE)
    transform = raster.transform
    if reading.is_warped or not _is_plain(raster):
        crs = source if reading.crs is None else CRS.from_user_input(reading.crs)
        natural, _ = fit(raster, source, crs)
        size = reading.resolution or natural
        transform = Affine(size, 0.0, 0.0, 0.0, -size, 0.0)
    place = {"crs": crs.to_wkt(), "transform": list(transform)[:6], "gcps": []}
    return json.dumps(place | {"datetime": None})


def move_grid(grid: str, rows: int, cols: int) -> str:
    """The same grid with its origin further down and to the right."""
    fields = json.loads(grid)
    a, b, c, d, e, f = fields["transform"]
    return json.dumps(fields | {"transform": [a, b, c + cols * a, d, e, f + rows * e]})


def find_place(raster: DatasetReader, grid: str) -> tuple[int, int, Target | None]:
    """Row and column of a scene on a grid, and what it is to be put on; None to keep it.

    Args:
        raster: Open for reading.
        grid: North up, from ``begin_grid``.

    Raises:
        ItemError: ``unsupported``: it has no place there; ``too_large``.
    """
    fields = parse_grid(grid)
    crs, transform = fields["crs"], fields["transform"]
    source = require_place(raster, _CONSEQUENCE)
    corner = _find_corner(raster, source, crs, transform)
    if corner is not None:
        return *corner, None
    natural, (left, bottom, right, top) = fit(raster, source, crs)
    a, e = transform.a, transform.e
    col, row = floor((left - transform.c) / a), floor((top - transform.f) / e)
    width = max(-floor(-(right - transform.c) / a) - col, 1)
    height = max(-floor(-(bottom - transform.f) / e) - row, 1)
    if max(height, width, abs(row), abs(col)) > MAX_SIDE:
        text = f"it would be {width} x {height} px, {row} rows and {col} columns away"
        raise ItemError("too_large", f"{text} on the mosaic's grid")
    target = Target(
        height=height,
        width=width,
        transform=transform @ Affine.translation(col, row),
        crs=crs,
        scale=natural / a,
    )
    return row, col, target


def _find_corner(
    raster: DatasetReader, source: CRS, crs: CRS, transform: Affine
) -> tuple[int, int] | None:
    """Row and column of a scene that lies on a grid; None for any other."""
    own = raster.transform
    if not _is_plain(raster) or source != crs:
        return None
    wide = abs(own.a / transform.a - 1) * raster.width
    high = abs(own.e / transform.e - 1) * raster.height
    col, row = (own.c - transform.c) / transform.a, (own.f - transform.f) / transform.e
    misses = (wide, high, abs(col - round(col)), abs(row - round(row)))
    return (round(row), round(col)) if max(misses) <= _NEAR else None


def _is_plain(raster: DatasetReader) -> bool:
    """Whether rows go east and columns south."""
    points, _ = raster.gcps
    a, b, _, d, e, _ = tuple(raster.transform)[:6]
    return not points and (b, d) == (0, 0) and a > 0 > e


def _find_time(raster: DatasetReader) -> str:
    """When a scene was taken, as its metadata says; what names no zone is UTC."""
    said = raster.tags(ns="IMAGERY").get("ACQUISITIONDATETIME", "")
    try:
        found = datetime.fromisoformat(said.strip())
    except ValueError:
        said = raster.tags().get("TIFFTAG_DATETIME", "")
        try:
            found = datetime.strptime(said, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
        except ValueError:
            return ""
    return write_time(found)


# What a decoder answers


def _open(fields: dict[str, Any], raster: DatasetReader) -> None:
    """Refuse what cannot be read as wanted."""
    size, path = fields["size"], fields["path"]
    if size is None and Path(path).is_file():
        size = Path(path).stat().st_size
    check_claim(raster, size)
    choose(raster, fields["bands"], Reading.parse(fields["reading"]))


def _begin(fields: dict[str, Any], _data: bytes, _empty: Empty) -> dict[str, str]:
    with open_raster(fields["path"], fields["options"]) as raster:
        _open(fields, raster)
        grid = begin_grid(raster, Reading.parse(fields["reading"]))
        parse_grid(grid)
        return {"grid": grid, "taken": _find_time(raster)}


def _place(fields: dict[str, Any], _data: bytes, _empty: Empty) -> dict[str, Any]:
    with open_raster(fields["path"], fields["options"]) as raster:
        _open(fields, raster)
        row, col, target = find_place(raster, fields["grid"])
        height, width = (
            (raster.height, raster.width)
            if target is None
            else (target.height, target.width)
        )
        check_size(height, width, raster.count)
        taken = _find_time(raster) if fields["dated"] else ""
        place = Place(row=row, col=col, height=height, width=width, taken=taken)
        return asdict(place)


def _read(fields: dict[str, Any], _data: bytes, empty: Empty) -> None:
    """A window of a scene, in px of the grid from the scene's own corner."""
    with open_raster(fields["path"], fields["options"]) as raster:
        _, _, target = find_place(raster, fields["grid"])
        read_part(
            raster,
            target,
            fields["window"],
            bands=fields["bands"],
            empty=empty,
            reading=Reading.parse(fields["reading"]),
        )


ANSWERS: Final[Mapping[str, Callable[..., Any]]] = {
    "begin": _begin,
    "place": _place,
    "scene": _read,
}
"""What a decoder of scenes does, by name."""
