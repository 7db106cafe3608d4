"""GDAL's rasterize, and its way from CRS to CRS point by point, are the oracles."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform

from deeplab.tiles import TileGrid, Tiling, Window
from jobs.errors import InputError, ItemError
from jobs.inputs.area import Inside, find_needed, place_area
from jobs.inputs.geojson import MAX_BYTES, is_box, parse_box, parse_geojson

HEIGHT, WIDTH = 90, 130
WHOLE = Window(row=0, col=0, height=HEIGHT, width=WIDTH)


def grid_of(crs, place, gcps=()):
    text = None if crs is None else CRS.from_user_input(crs).to_wkt()
    points = [point.asdict() for point in gcps]
    return json.dumps({"crs": text, "transform": list(place)[:6], "gcps": points})


def geojson(*polygons, **more):
    fields = {"type": "MultiPolygon", "coordinates": polygons, **more}
    return parse_geojson(json.dumps(fields).encode(), "a.geojson")


def star(lon, lat, reach, *, points=9):
    """A ring with many corners around a place."""
    angle = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
    far = reach * np.where(np.arange(2 * points) % 2, 0.4, 1)
    ring = np.column_stack([lon + far * np.cos(angle), lat + far * np.sin(angle) * 0.6])
    return [*ring.round(7).tolist(), ring[0].round(7).tolist()]


def box_ring(west, south, east, north):
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


# What a user gives


@pytest.mark.parametrize("text", ["1,2,3,4", " -1.5 , 2 ,3e1,+4", "170,-10,-170,10"])
def test_a_box_is_told_from_a_file(text):
    assert is_box(text)
    assert json.loads(parse_box(text))["type"] == "MultiPolygon"


@pytest.mark.parametrize(
    "text", ["1,2,3", "a.geojson", "1,2,3,4.geojson", "s3://b/1,2,3,4"]
)
def test_a_file_is_told_from_a_box(text):
    assert not is_box(text)


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3,1",
        "1,2,1,4",
        "0,-91,1,0",
        "0,0,181,1",
        "400000,5800000,500000,5900000",
        "1,2,3,4e",
        "1,2,3,-",
        "0,0,1,1e999",
    ],
)
def test_numbers_that_are_no_box_are_refused(text):
    with pytest.raises(InputError, match=r"--aoi must be west,south,east,north in degrees"):
        parse_box(text)


def test_every_form_of_geojson_gives_the_same_area():
    ring = box_ring(10, 50, 11, 51)
    polygon = {"type": "Polygon", "coordinates": [ring]}
    forms = [
        polygon,
        {"type": "MultiPolygon", "coordinates": [[ring]]},
        {"type": "Feature", "properties": {}, "geometry": polygon},
        {"type": "GeometryCollection", "geometries": [polygon]},
        {
            "type": "FeatureCollection",
            "crs": {
                "type": "name",
                "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"},
            },
            "features": [
                {"type": "Feature", "properties": {}, "geometry": polygon},
                {"type": "Feature", "properties": {}, "geometry": None},
            ],
        },
        {"type": "Polygon", "coordinates": [[[*point, 250.5] for point in ring]]},
    ]
    areas = {parse_geojson(json.dumps(form).encode(), "a.json") for form in forms}
    assert areas == {parse_box("10,50,11,51")}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{", "is no GeoJSON"),
        (b"[" * 100_000, "is no GeoJSON"),
        (b"[]", "is no GeoJSON"),
        ({"type": "Point", "coordinates": [0, 0]}, "has a Point; an area is of polygons"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({"type": "FeatureCollection"}, "has a geometry that is none"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "a ring is not closed"),
        ({"type": "Polygon", "coordinates": []}, "a polygon has no ring"),
        ({"type": "Polygon", "coordinates": [[[0], [1]]]}, "has a geometry that is none"),
        ({"type": "Polygon", "coordinates": 7}, "has a geometry that is none"),
        (
            {"type": "Polygon", "coordinates": [box_ring(4e5, 5e6, 5e5, 6e6)]},
            "must be in longitude and latitude (WGS84), got 400000.0, 5000000.0",
        ),
        (
            {"type": "Polygon", "coordinates": [box_ring(np.nan, 0, 1, 1)]},
            "must be in longitude and latitude",
        ),
        (
            {
                "type": "Polygon",
                "coordinates": [box_ring(0, 0, 1, 1)],
                "crs": {"type": "name", "properties": {"name": "EPSG:3857"}},
            },
            "is in another CRS",
        ),
    ],
)
def test_what_is_no_area_is_refused(document, message):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(InputError) as caught:
        parse_geojson(data, "a.geojson")
    assert message in str(caught.value)
    assert "a.geojson" in str(caught.value)


def test_an_area_that_is_too_long_is_refused():
    many = [[star(i % 170, i % 80, 1, points=200)] for i in range(150)]
    with pytest.raises(InputError, match=rf"{MAX_BYTES} are allowed; simplify it"):
        geojson(*many)


# Where it lies in a raster

ROTATED = Affine.translation(390_000, 5_820_000) @ Affine.rotation(30) @ Affine.scale(9, -7)
PLACES = {
    "utm": ("EPSG:32633", from_origin(390_000, 5_820_000, 10, 10)),
    "rotated": ("EPSG:32633", ROTATED),
    "south-up": ("EPSG:32633", Affine(10, 0, 390_000, 0, 10, 5_820_000)),
    "degrees": ("EPSG:4326", from_origin(-71.5, 42.25, 0.01, 0.01)),
    "web mercator": ("EPSG:3857", from_origin(14_321_853, 4_533_021, 500, 500)),
    "conic": ("EPSG:5070", from_origin(-2_300_000, 3_100_000, 35_000, 30_000)),
    "around the pole": ("EPSG:3413", from_origin(-2.5e6, 2e6, 40_000, 42_000)),
    "antimeridian": ("EPSG:32660", from_origin(550_000, 5_000_000, 4_000, 4_000)),
    "degrees over 180": ("EPSG:4326", from_origin(170.3, 10.1, 0.2, 0.2)),
    "degrees under -180": ("EPSG:4326", from_origin(-189.7, 10.1, 0.2, 0.2)),
    "all degrees": ("EPSG:4326", from_origin(0, 89, 360 / WIDTH, 178 / HEIGHT)),
    "another datum": ("EPSG:31467", from_origin(3_500_000, 5_500_000, 200, 200)),
}


def centres(crs, place):
    """Longitude and latitude of the middle of each pixel."""
    row, col = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    a, b, c, d, e, f = tuple(place)[:6]
    xs, ys = a * col + b * row + c, d * col + e * row + f
    lon, lat = transform(crs, "EPSG:4326", xs.ravel(), ys.ravel())
    shape = (HEIGHT, WIDTH)
    return (np.array(lon) + 180).reshape(shape) % 360 - 180, np.array(lat).reshape(shape)


def is_in_rings(rings, lon, lat):
    """Even or odd, pixel by pixel, in plain longitude and latitude."""
    found = np.zeros(lon.shape, dtype=bool)
    for ring in rings:
        for (x, y), (x2, y2) in itertools.pairwise(ring):
            if y != y2:
                crosses = (lat >= min(y, y2)) & (lat < max(y, y2))
                found ^= crosses & (lon < x + (lat - y) * (x2 - x) / (y2 - y))
    return found


@pytest.mark.parametrize("shape", ["star", "box", "hole", "overlapping", "islands"])
@pytest.mark.parametrize("name", PLACES)
def test_a_pixel_is_inside_where_its_centre_is(name, shape):
    crs, place = PLACES[name]
    lon, lat = centres(crs, place)
    x, y = lon[30, 50], lat[30, 50]
    reach = min(np.abs(lat - y).max(), 40) * 0.8
    if shape == "box" or abs(x) + reach > 179 or abs(y) + reach > 89:
        shape, reach = "box", min(reach, 178 - abs(x), 89 - abs(y))
        if reach < 0.1 and (abs(x) > 170 or abs(y) > 80):
            reach, x, y = 0.9, np.sign(x) * 179, y if abs(y) < 88 else np.sign(y) * 88
    small = reach / 3
    polygons = {
        "star": [[star(x, y, reach)]],
        "box": [[box_ring(x - reach, y - reach, x + reach, y + reach)]],
        "hole": [[star(x, y, reach), star(x, y, small)]],
        "overlapping": [[star(x, y, reach)], [star(x + small, y, reach - small)]],
        "islands": [[star(x - small, y, small)], [star(x + small, y + small, small / 2)]],
    }[shape]
    found = place_area(geojson(*polygons), grid_of(crs, place), HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for rings in polygons:
        expected |= is_in_rings(rings, lon, lat)
    assert 0 < expected.sum() < expected.size
    cover = found.cover(WHOLE)
    assert (cover != expected).sum() <= 2, "centres on an edge, at most"
    assert found.touches


def test_pixels_are_those_of_gdal():
    random = np.random.default_rng(4)
    for _ in range(20):
        ring = random.uniform(-20, 140, (7, 2)) + 0.123
        ring = np.vstack([ring, ring[:1]])
        hole = np.array(box_ring(30.3, 20.2, 60.7, 50.1))
        inside = Inside(polygons=((ring, hole),), height=HEIGHT, width=WIDTH)
        shape = {"type": "Polygon", "coordinates": [ring.tolist(), hole.tolist()]}
        oracle = rasterize([shape], out_shape=(HEIGHT, WIDTH)) > 0
        np.testing.assert_array_equal(inside.cover(WHOLE), oracle)


@given(st.data())
def test_the_cut_changes_no_pixel(data):
    """Corners on centres and edges of pixels are where rounding would show."""
    number = st.integers(-8, 40).map(lambda n: n / 2)
    ring = data.draw(st.lists(st.tuples(number, number), min_size=3, max_size=8))
    corners = np.array([*ring, ring[0]], dtype=float)
    inside = Inside(polygons=((corners,),), height=17, width=16)
    whole = inside.cover(Window(row=0, col=0, height=17, width=16))
    side = data.draw(st.integers(1, 9))
    for row in range(0, 17, side):
        for col in range(0, 16, side):
            height, width = min(side, 17 - row), min(side, 16 - col)
            part = inside.cover(Window(row=row, col=col, height=height, width=width))
            assert (part == whole[row : row + height, col : col + width]).all()


@given(st.data())
def test_bounds_hold_every_pixel_and_reach_the_outermost_corners(data):
    number = st.floats(-30, 60, allow_nan=False)
    ring = data.draw(st.lists(st.tuples(number, number), min_size=3, max_size=6))
    corners = np.array([*ring, ring[0]])
    inside = Inside(polygons=((corners,),), height=17, width=16)
    bounds = inside.bounds
    assert (bounds is not None) == inside.touches
    if bounds is None:
        return
    covered = inside.cover(Window(row=0, col=0, height=17, width=16))
    rows, cols = np.nonzero(covered)
    assert ((rows >= bounds.row) & (rows < bounds.stop_row)).all()
    assert ((cols >= bounds.col) & (cols < bounds.stop_col)).all()
    assert bounds.row == max(0, int(np.floor(corners[:, 1].min())))
    assert bounds.stop_col == min(16, int(np.ceil(corners[:, 0].max())))
    assert 0 < bounds.height <= 17 - bounds.row


def test_neighbours_share_no_pixel_and_leave_none():
    crs, place = PLACES["degrees"]
    halves = ["-71.2,41.9,-70.8,42", "-71.2,42,-70.8,42.1", "-71.2,41.9,-70.8,42.1"]
    grid = grid_of(crs, place)
    low, high, both = (
        place_area(parse_box(one), grid, HEIGHT, WIDTH).cover(WHOLE) for one in halves
    )
    assert not (low & high).any()
    np.testing.assert_array_equal(low | high, both)
    assert both.sum() == 40 * 20


@pytest.mark.parametrize(
    ("area", "touches"),
    [
        ("-71.4,42,-71.3,42.1", True),
        ("-180,-90,180,90", True),
        ("-72,42,-71.5,42.1", False),  # beside it, along its edge
        ("-72,42,-71.499,42.1", True),
        ("10,50,11,51", False),
        ("170,-10,-170,10", False),
    ],
)
def test_a_raster_touches_an_area_or_not(area, touches):
    crs, place = PLACES["degrees"]
    found = place_area(parse_box(area), grid_of(crs, place), HEIGHT, WIDTH)
    assert found.touches is touches
    if not touches:
        assert not found.cover(WHOLE).any()


def test_a_raster_in_a_hole_does_not_touch():
    crs, place = PLACES["degrees"]
    area = geojson([box_ring(-80, 30, -60, 50), box_ring(-72, 41, -70, 43)])
    assert not place_area(area, grid_of(crs, place), HEIGHT, WIDTH).touches


def test_a_box_across_the_antimeridian_is_one_area():
    crs, place = PLACES["degrees over 180"]
    found = place_area(
        parse_box("175.1,0.1,-175.1,5.1"), grid_of(crs, place), HEIGHT, WIDTH
    )
    lon, lat = centres(crs, place)
    expected = ((lon > 175.1) | (lon < -175.1)) & (lat > 0.1) & (lat < 5.1)
    np.testing.assert_array_equal(found.cover(WHOLE), expected)


def test_control_points_say_where_a_raster_lies():
    corners = ((0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH))
    points = [
        GroundControlPoint(row=row, col=col, x=10 + col / 100, y=50 - row / 100, z=0)
        for row, col in corners
    ]
    grid = grid_of("EPSG:4326", Affine.identity(), points)
    found = place_area(parse_box("10.203,49.501,10.703,49.801"), grid, HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[20:50, 20:70] = True
    np.testing.assert_array_equal(found.cover(WHOLE), expected)


def test_a_raster_without_a_place_is_refused():
    with pytest.raises(ItemError, match="unsupported: it does not say where on Earth"):
        place_area(parse_box("1,2,3,4"), grid_of(None, Affine.identity()), 10, 10)


# What of a block is read


@pytest.mark.parametrize("side", [24, 64])
def test_only_tiles_with_a_wanted_pixel_are_needed(side):
    grid = TileGrid(height=100, width=120, tiling=Tiling(tile=16, overlap=4))
    core = Window(row=side, col=0, height=min(side, 100 - side), width=side)
    read = grid.reach(core)
    inside = np.zeros((core.height, core.width), dtype=bool)
    inside[3:9, 11:14] = inside[-1, -1] = True
    found = find_needed(grid, core, read, inside)
    expected = np.zeros((100, 120), dtype=bool)
    wanted = np.zeros((100, 120), dtype=bool)
    wanted[core.row : core.stop_row, core.col : core.stop_col] = inside
    for top in range(0, 100, 12):
        for left in range(0, 120, 12):
            tile = np.s_[top : top + 16, left : left + 16]
            if wanted[tile].any():
                expected[tile] = True
    rows, cols = slice(read.row, read.stop_row), slice(read.col, read.stop_col)
    np.testing.assert_array_equal(found, expected[rows, cols])
    assert expected.sum() == found.sum()
