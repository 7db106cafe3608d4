"""Where a raster lies on Earth, as GeoJSON (RFC 7946) wants it.

A raster's edge is followed point by point, for a straight edge of one CRS is
curved in another. Across the antimeridian the outline is cut in two, around a
pole it is led to the pole, so that no map draws it around the world instead.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import GCPTransformer
from rasterio.warp import transform

WGS84: Final = "EPSG:4326"
WORLD: Final = (-180.0, -90.0, 180.0, 90.0)
_STEPS: Final = 20
"""Parts of each edge."""

_DIGITS: Final = 7
"""Of degrees: 1 cm. More would differ between versions of PROJ."""

_TURN: Final = 360.0

Point = tuple[float, float]
"""Longitude and latitude."""

Degrees = NDArray[np.float64]

Box = tuple[float, float, float, float]
"""West, south, east, north; west is the greater one across the antimeridian."""


@functools.lru_cache(maxsize=16)
def read_crs(text: str) -> CRS:
    """The CRS of a grid."""
    return CRS.from_wkt(text)


def find_footprint(
    grid: str, height: int, width: int
) -> tuple[dict[str, Any] | None, Box | None]:
    """The outline of a raster in WGS84, and its bounds.

    Args:
        grid: Where it lies, from ``RasterInfo``.
        height: Its rows.
        width: Its columns.

    Returns:
        A Polygon, or a MultiPolygon where it is cut; None for both where the raster
        has no CRS, or a corner that is nowhere on Earth.
    """
    found = _outline(grid, height, width)
    if found is None:
        return None, None
    west, south, east, north = bounds = _bound(*found)
    ring = [(lon, lat) for lon, lat in zip(*map(np.ndarray.tolist, found), strict=True)]
    if np.ptp(found[0]) > _TURN:
        ring = [(west, south), (east, south), (east, north), (west, north)]
    parts = [part for part in _split(ring) if _area(part)]
    if not parts:
        return None, None
    rings = [[_wind(part)] for part in parts]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}, bounds
    return {"type": "MultiPolygon", "coordinates": rings}, bounds


def find_bounds(grid: str, height: int, width: int) -> Box | None:
    """The bounds alone; see ``find_footprint``."""
    found = _outline(grid, height, width)
    return None if found is None else _bound(*found)


def _bound(lons: Degrees, lats: Degrees) -> Box:
    west, east = float(lons.min()), float(lons.max())
    if east - west >= _TURN:
        west, east = -180.0, 180.0
    elif east > 180:  # noqa: PLR2004
        east = round(east - _TURN, _DIGITS)
    return west, float(lats.min()), east, float(lats.max())


def locate(
    fields: dict[str, Any], rows: Degrees, cols: Degrees
) -> tuple[list[float], list[float]] | None:
    """Longitudes and latitudes of places in a raster; None where there are none.

    Args:
        fields: Where the raster lies, the JSON of ``RasterInfo.grid``.
        rows: From the upper edge of the raster, in px.
        cols: From its left edge, in px.
    """
    if not (fields["crs"] and all(map(math.isfinite, fields["transform"]))):
        return None
    if fields["gcps"]:
        points = [GroundControlPoint(**point) for point in fields["gcps"]]
        with GCPTransformer(points) as warp:
            xs, ys = warp.xy(rows, cols, offset="ul")
    else:
        a, b, c, d, e, f = fields["transform"]
        xs, ys = a * cols + b * rows + c, d * cols + e * rows + f
    try:
        lons, lats = transform(read_crs(fields["crs"]), WGS84, xs, ys)[:2]
    except (RasterioError, CPLE_BaseError):
        return None
    return (lons, lats) if np.isfinite([lons, lats]).all() else None


def follow_edge(grid: str, height: int, width: int) -> tuple[Degrees, Degrees] | None:
    """Longitudes and latitudes along the edge of a raster, open; None where it has none.

    Longitudes go on past 180 or -180 without a jump, from where the CRS has them, and
    all around where there is a pole inside, which then is part of the edge.
    """
    down, across = np.linspace(0, height, _STEPS + 1), np.linspace(0, width, _STEPS + 1)
    top, left = np.zeros(_STEPS), np.zeros(_STEPS)
    rows = np.concatenate([top, down[:-1], top + height, down[:0:-1]])
    cols = np.concatenate([across[:-1], left + width, across[:0:-1], left])
    found = locate(json.loads(grid), rows, cols)
    if found is None:
        return None
    lons, lats = np.round(found, _DIGITS)
    lats = lats.clip(-90, 90)
    *_, last = around = np.unwrap([*lons, lons[0]], period=_TURN)
    if abs(last - lons[0]) <= 1:
        return around[:-1], lats
    # The edge goes once around a pole: the nearer one, which is inside.
    pole = math.copysign(90, lats.mean())
    return np.array([*around, last, lons[0]]), np.array([*lats, lats[0], pole, pole])


def _outline(grid: str, height: int, width: int) -> tuple[Degrees, Degrees] | None:
    """The edge in longitudes that begin from -180 to 180."""
    found = follow_edge(grid, height, width)
    if found is None:
        return None
    shift = _TURN * math.floor((found[0].min() + 180) / _TURN)
    return (found[0] - shift).round(_DIGITS), found[1]


def _split(ring: list[Point]) -> list[list[Point]]:
    """The parts of a ring on either side of longitude 180, all from -180 to 180."""
    if max(ring)[0] <= 180:  # noqa: PLR2004
        return [ring]
    mirrored = [(_TURN - lon, lat) for lon, lat in ring]
    beyond = [(round(-lon, _DIGITS), lat) for lon, lat in _clip(mirrored)]
    return [_clip(ring), beyond]


def _clip(ring: list[Point]) -> list[Point]:
    """What of a ring lies west of longitude 180."""
    found: list[Point] = []
    for (lon, lat), (next_lon, next_lat) in itertools.pairwise([*ring, ring[0]]):
        if lon <= 180:  # noqa: PLR2004
            found.append((lon, lat))
        if (lon - 180) * (next_lon - 180) < 0:
            share = (180 - lon) / (next_lon - lon)
            found.append((180.0, round(lat + share * (next_lat - lat), _DIGITS)))
    return found


def _area(ring: list[Point]) -> float:
    """Twice the area of an open ring, positive where it goes counterclockwise."""
    pairs = itertools.pairwise([*ring, ring[0]]) if ring else ()
    return math.fsum(x * next_y - next_x * y for (x, y), (next_x, next_y) in pairs)


def _wind(ring: list[Point]) -> list[list[float]]:
    """A ring closed, counterclockwise, each point once."""
    ordered = ring if _area(ring) > 0 else ring[::-1]
    kept = [list(point) for point, _ in itertools.groupby(ordered)]
    if kept[0] != kept[-1]:
        kept.append(kept[0])
    return kept
