"""Where the pixels of a raster lie on the Earth, and how large they are there.

Areas are geodesic (Karney 2013, doi:10.1007/s00190-012-0578-z, in PROJ): a polygon
gets a corner at each pixel of its outline first, as a straight line of a projection, or
a parallel, is no geodesic. Then both differ by less than a millionth of the area.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from jobs.errors import InputError

Polygons: TypeAlias = NDArray[np.object_]

WGS84: Final = "OGC:CRS84"
"""Longitude and latitude, in this order."""

_EDGE_M: Final = 1000.0
"""Longest edge that is taken for a straight line elsewhere; of a pixel at least."""

_EDGE_PIXELS: Final = 64
_HALF_TURN: Final = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Size and place of a raster."""

    name: str
    """For people."""

    height: int
    width: int
    crs: str | None
    """As WKT; None where it has none."""

    transform: tuple[float, ...]
    """Six numbers: x and y of a column and a row."""


class Place:
    """Puts polygons of a raster, in pixels, where they lie, and measures them."""

    def __init__(self, ground: Ground, *, wgs84: bool) -> None:
        """Prepare.

        Args:
            ground: Of the raster.
            wgs84: Whether to give longitude and latitude in WGS 84, where it has a
                CRS; else coordinates are the raster's own.

        Raises:
            InputError: Its CRS means nothing, or leads to no longitude and latitude.
        """
        self._ground = ground
        self._ellipsoid = self._convert = None
        self._edge = 1.0
        if ground.crs is None:
            return
        try:
            crs = pyproj.CRS.from_wkt(ground.crs)
            self._ellipsoid = _ellipsoid_of(crs)
            if wgs84:
                self._convert = pyproj.Transformer.from_crs(crs, WGS84, always_xy=True)
        except ProjError as error:
            raise InputError(
                f"the CRS of {ground.name} leads to no longitude and latitude ({error}); "
                "give --crs source and write Parquet"
            ) from error
        self._is_straight = crs.is_geographic
        self._edge = _EDGE_M / self._pixel_m()

    def put(self, polygons: Polygons) -> Polygons:
        """The polygons where they lie, outlines counter-clockwise.

        Raises:
            InputError: A corner has no longitude and latitude.
        """
        if self._convert is None:
            placed = shapely.transform(polygons, self._affine)
            return _orient(placed)
        if not self._is_straight:
            edge = min(max(self._edge, 1.0), _EDGE_PIXELS)
            polygons = shapely.segmentize(polygons, edge)
        placed = shapely.transform(polygons, self._to_wgs84)
        return _orient(_cut_at_half_turn(placed))

    def areas(self, polygons: Polygons) -> NDArray[np.float64]:
        """Square metres on the ellipsoid of the CRS; NaN where that cannot be told."""
        if self._ellipsoid is None or not len(polygons):
            return np.full(len(polygons), np.nan)
        measure = self._ellipsoid.geod.polygon_area_perimeter
        # An outline runs the other way than its holes, whatever way that is.
        fine = shapely.segmentize(shapely.orient_polygons(polygons), min(self._edge, 1.0))
        _, points, (rings, starts) = shapely.to_ragged_array(fine)
        lon, lat = self._ellipsoid.to_degrees(self._affine(points))
        pairs = zip(rings[:-1].tolist(), rings[1:].tolist(), strict=True)
        signed = [measure(lon[start:stop], lat[start:stop])[0] for start, stop in pairs]
        areas: NDArray[np.float64] = np.abs(np.add.reduceat(signed, starts[:-1]))
        return areas

    def _pixel_m(self) -> float:
        """Longer side of the pixel in the middle; infinite where that is unknown."""
        if self._ellipsoid is None:
            return np.inf
        x, y = self._ground.width // 2, self._ground.height // 2
        corners = np.asarray([(x, y), (x + 1, y), (x, y + 1)], dtype=np.float64)
        lon, lat = self._ellipsoid.to_degrees(self._affine(corners))
        sides = self._ellipsoid.geod.inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])[2]
        return float(np.max(sides)) if np.isfinite(sides).all() else np.inf

    def _affine(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c, d, e, f = self._ground.transform
        x, y = points.T
        return np.stack([c + a * x + b * y, f + d * x + e * y], axis=1)

    def _to_wgs84(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._convert is None:
            raise ValueError("no conversion was asked for")
        ground = self._ground
        middle = np.asarray([(ground.width / 2, ground.height / 2)])
        ((east, _),) = np.stack(self._convert.transform(*self._affine(middle).T), axis=1)
        lon, lat = self._convert.transform(*self._affine(points).T)
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            raise InputError(
                f"a corner of a polygon of {ground.name} has no longitude and latitude; "
                "give --crs source and write Parquet"
            )
        # Near the middle, so that no polygon jumps from 180 to -180.
        near = lon - 2 * _HALF_TURN * np.rint((lon - east) / (2 * _HALF_TURN))
        return np.stack([near, lat], axis=1)


def describe_crs(crs: str) -> dict[str, Any]:
    """PROJJSON of WKT or of an authority's code."""
    found: dict[str, Any] = pyproj.CRS.from_user_input(crs).to_json_dict()
    return found


def name_crs(crs: str) -> str:
    """Its authority's code, such as EPSG:32633, or else its name."""
    found = pyproj.CRS.from_user_input(crs)
    code = found.to_authority()
    return ":".join(code) if code else str(found.name)


def is_same_crs(one: str, other: str) -> bool:
    """Whether two texts of WKT mean the same."""
    first, second = pyproj.CRS.from_wkt(one), pyproj.CRS.from_wkt(other)
    return bool(one == other or first.equals(second, ignore_axis_order=True))


class _Ellipsoid:
    """The figure of the Earth that a CRS has, and the way to it."""

    def __init__(self, crs: pyproj.CRS, geographic: pyproj.CRS, geod: pyproj.Geod) -> None:
        self._convert = pyproj.Transformer.from_crs(crs, geographic, always_xy=True)
        # A few old ones have grads, and what follows wants degrees.
        self._factor = geographic.axis_info[0].unit_conversion_factor
        self.geod = geod

    def to_degrees(self, points: NDArray[np.float64]) -> tuple[Any, Any]:
        """Longitude and latitude on the CRS's own datum, of (n, 2) coordinates."""
        lon, lat = self._convert.transform(*points.T)
        return np.degrees(lon * self._factor), np.degrees(lat * self._factor)


def _ellipsoid_of(crs: pyproj.CRS) -> _Ellipsoid | None:
    geographic, geod = crs.geodetic_crs, crs.get_geod()
    if geographic is None or geod is None or not geographic.is_geographic:
        return None
    return _Ellipsoid(crs, geographic, geod)


def _orient(polygons: Polygons) -> Polygons:
    oriented: Polygons = shapely.orient_polygons(polygons)
    return oriented


def _cut_at_half_turn(polygons: Polygons) -> Polygons:
    """Cut what crosses 180 degrees in two, each in its own range (RFC 7946, 3.1.9)."""
    if not len(polygons):
        return polygons
    bounds = shapely.bounds(polygons)
    west, east = bounds[:, 0] < -_HALF_TURN, bounds[:, 2] > _HALF_TURN
    for number in np.flatnonzero(west | east):
        parts = []
        for turn in (-2, 0, 2):
            start = -_HALF_TURN + turn * _HALF_TURN
            box = shapely.box(start, -90, start + 2 * _HALF_TURN, 90)
            part = shapely.intersection(polygons[number], box)
            parts.append(shapely.transform(part, lambda xy, s=start: xy - (s + 180, 0)))
        flat = shapely.get_parts(parts)
        areal = flat[shapely.area(flat) > 0]
        polygons[number] = areal[0] if len(areal) == 1 else shapely.multipolygons(areal)
    return polygons
