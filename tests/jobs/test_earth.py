"""Places and areas, held against closed forms and PROJ asked in other ways."""

from __future__ import annotations

import math

import numpy as np
import pyproj
import pytest
import rasterio.warp
import shapely
from rasterio.crs import CRS
from rasterio.transform import from_origin

from jobs.errors import InputError
from jobs.outputs.earth import Ground, Place, is_same_crs, name_crs

A, F = 6378137.0, 1 / 298.257223563
E = math.sqrt(F * (2 - F))


def ground(crs, transform, size=(1000, 1000)):
    wkt = None if crs is None else CRS.from_string(crs).to_wkt()
    return Ground(
        name="a.tif", height=size[0], width=size[1], crs=wkt, transform=tuple(transform)[:6]
    )


def box_area(south, north, degrees):
    """Area between two parallels on WGS 84, in closed form (Snyder 1987, 3-12)."""

    def to_pole(lat):
        s = math.sin(math.radians(lat))
        return s / (1 - (E * s) ** 2) + math.atanh(E * s) / E

    return math.radians(degrees) * A**2 * (1 - E**2) / 2 * (to_pole(north) - to_pole(south))


@pytest.mark.parametrize("north", [1.0, 45.0, -60.0, 80.0])
@pytest.mark.parametrize("pixel", [1e-5, 1e-4, 0.01])
def test_areas_between_parallels_are_those_of_the_closed_form(north, pixel):
    place = Place(ground("EPSG:4326", from_origin(20, north, pixel, pixel)), wgs84=False)
    boxes = [(0, 0, 1000, 1000), (10, 500, 800, 501), (3, 3, 4, 900)]
    polygons = shapely.box(*np.array(boxes, dtype=float).T)
    expected = [
        box_area(north - bottom * pixel, north - top * pixel, (right - left) * pixel)
        for left, top, right, bottom in boxes
    ]
    assert place.areas(polygons) == pytest.approx(expected, rel=1e-6)


def test_an_uneven_outline_is_measured_as_well_as_its_pixels():
    """Straight above and stepped below: errors of the two sides do not cancel."""
    pixel, north = 1e-4, 60.0
    place = Place(ground("EPSG:4326", from_origin(20, north, pixel, pixel)), wgs84=False)
    steps = [(x, 2 + x // 50) for x in range(0, 1000, 50)]
    columns = [shapely.box(x, 0, x + 50, y) for x, y in steps]
    (area,) = place.areas(np.array([shapely.union_all(columns)]))
    exact = sum(box_area(north - y * pixel, north, 50 * pixel) for _, y in steps)
    assert area == pytest.approx(exact, rel=1e-6)


def test_areas_in_utm_differ_from_the_grid_by_its_scale():
    """0.9996 squared in the middle; a hole counts less, a turned grid the same."""
    place = Place(
        ground("EPSG:32633", from_origin(499_750, 5_800_250, 0.5, 0.5)), wgs84=False
    )
    square = shapely.box(0, 0, 1000, 1000)
    holed = square.difference(shapely.box(400, 400, 600, 600))
    areas = place.areas(np.array([square, holed]))
    assert areas == pytest.approx([250_000 / 0.9996**2, 240_000 / 0.9996**2], rel=1e-8)
    c, s = 0.5 * math.cos(0.7), 0.5 * math.sin(0.7)
    turned = Place(ground("EPSG:32633", (c, -s, 500_000, s, c, 5_800_000)), wgs84=False)
    assert turned.areas(np.array([square])) == pytest.approx(areas[:1], rel=1e-7)


def test_areas_in_utm_are_those_of_an_equal_area_projection():
    """Far from the middle, against the plane area of a finely cut outline."""
    transform = from_origin(780_000, 6_700_000, 10, 10)
    place = Place(ground("EPSG:32633", transform), wgs84=False)
    shape = shapely.box(0, 0, 900, 900).difference(shapely.box(100, 100, 101, 700))
    equal = pyproj.Transformer.from_crs(
        "EPSG:32633", "+proj=laea +lat_0=60 +lon_0=20 +datum=WGS84", always_xy=True
    )

    def project(points):
        x, y = points.T
        return np.stack(equal.transform(780_000 + 10 * x, 6_700_000 - 10 * y), axis=1)

    expected = shapely.transform(shapely.segmentize(shape, 0.25), project).area
    assert place.areas(np.array([shape]))[0] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:3413", from_origin(-50_000, 50_000, 100, 100)),  # the pole in its middle
        ("EPSG:27572", from_origin(600_000, 2_400_000, 5, 5)),  # Paris, in grads
        ("EPSG:2263", from_origin(980_000, 200_000, 3, 3)),  # in feet
    ],
)
def test_areas_hold_in_other_projections(crs, transform):
    given = ground(crs, transform)
    place = Place(given, wgs84=False)
    own = pyproj.CRS.from_user_input(crs)
    lon, lat = np.ravel(
        pyproj.Transformer.from_crs(own, own.geodetic_crs, always_xy=True).transform(
            *(transform * (500, 500))
        )
    )
    factor = pyproj.Proj(own).get_factors(lon, lat) if crs != "EPSG:27572" else None
    (area,) = place.areas(np.array([shapely.box(495, 495, 505, 505)]))
    unit = own.axis_info[0].unit_conversion_factor
    expected = 100 * (transform.a * unit) ** 2
    if factor is not None:
        expected /= factor.areal_scale
    assert area == pytest.approx(expected, rel=1e-3 if factor is None else 2e-5)


def test_areas_in_web_mercator_are_those_of_the_ellipsoid():
    """Which it is not made for: on the equator it is wrong by 0.7 %."""
    transform = from_origin(3_600_000, 40_000, 0.15, 0.15)
    place = Place(ground("EPSG:3857", transform), wgs84=False)
    (area,) = place.areas(np.array([shapely.box(0, 0, 1000, 1000)]))
    south, north = (math.degrees(math.atan(math.sinh(y / A))) for y in (39_850, 40_000))
    assert area == pytest.approx(box_area(south, north, math.degrees(150 / A)), rel=1e-7)


def test_a_polygon_around_the_pole_is_measured():
    place = Place(ground("EPSG:3413", from_origin(-50_000, 50_000, 100, 100)), wgs84=False)
    whole, half = shapely.box(0, 0, 1000, 1000), shapely.box(0, 0, 1000, 500)
    areas = place.areas(np.array([whole, half]))
    assert areas[0] == pytest.approx(2 * areas[1], rel=1e-6)


def test_coordinates_are_those_of_rasterio():
    transform = from_origin(390_000, 5_820_000, 0.5, 0.5)
    shape = shapely.box(3, 4, 300, 20)
    given = ground("EPSG:32633", transform)
    (own,) = Place(given, wgs84=False).put(np.array([shape]))
    assert own.bounds == (390_001.5, 5_819_990.0, 390_150.0, 5_819_998.0)
    assert own.exterior.is_ccw
    (there,) = Place(given, wgs84=True).put(np.array([shape]))
    assert there.exterior.is_ccw
    outline = rasterio.warp.transform_geom(
        "EPSG:32633", "EPSG:4326", shapely.segmentize(own, 0.5).__geo_interface__
    )
    twin = shapely.geometry.shape(outline)
    # Edges of 64 px are straight here, which is 0.03 mm beside the other's.
    assert there.symmetric_difference(twin).area < 1e-5 * twin.area


def test_what_crosses_180_degrees_is_cut_there():
    transform = from_origin(700_000, 1_000, 1, 1)
    lon, _ = pyproj.Transformer.from_crs(
        "EPSG:32660", "EPSG:4326", always_xy=True
    ).transform(830_000, 0)
    assert lon > 179.9
    shape = shapely.box(0, 0, 200_000, 1000)
    place = Place(ground("EPSG:32660", transform, (1000, 200_000)), wgs84=True)
    (there,) = place.put(np.array([shape]))
    west, east = sorted(there.geoms, key=lambda part: part.bounds[0])
    assert west.bounds[0] == -180
    assert east.bounds[2] == 180
    assert west.exterior.is_ccw
    assert east.exterior.is_ccw
    assert -180 < west.bounds[2] < -178
    assert 178 < east.bounds[0] < 180


def test_without_crs_nothing_is_known_of_metres():
    place = Place(ground(None, (1, 0, 5, 0, 1, 7)), wgs84=False)
    square = np.array([shapely.box(0, 0, 2, 2)])
    assert np.isnan(place.areas(square)).all()
    assert place.put(square)[0].bounds == (5, 7, 7, 9)


def test_a_local_crs_has_no_longitude():
    wkt = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    given = Ground(name="a.tif", height=9, width=9, crs=wkt, transform=(1, 0, 0, 0, -1, 0))
    assert np.isnan(
        Place(given, wgs84=False).areas(np.array([shapely.box(0, 0, 1, 1)]))
    ).all()
    with pytest.raises(InputError, match=r"leads to no longitude"):
        Place(given, wgs84=True)


def test_names():
    assert name_crs("OGC:CRS84") == "OGC:CRS84"
    utm = CRS.from_epsg(32633).to_wkt()
    assert name_crs(utm) == "EPSG:32633"
    assert is_same_crs(utm, pyproj.CRS.from_epsg(32633).to_wkt())
    assert not is_same_crs(utm, CRS.from_epsg(32634).to_wkt())
