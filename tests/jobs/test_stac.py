"""pystac reads and validates what ours writes; rasterio says where rasters lie.

pystac holds the schemas of the core alone, so the extensions are read back field by
field through its classes for them.
"""

import dataclasses
import itertools
import json
import random
from pathlib import PurePath

import numpy as np
import pystac
import pytest
import rasterio
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.validation.local_validator import get_local_schema_cache
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.features import is_valid_geom, rasterize
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform, transform_bounds

from deeplab.bundle import ClassInfo
from jobs.assembly import RasterNames, output_name
from jobs.inputs.rasters import read_info
from jobs.ledger import Output
from jobs.outputs.footprint import find_footprint
from jobs.outputs.stac import describe_raster, write_collection
from jobs.shards import Block
from jobs.windows import cut_blocks

GIVEN = {
    "source": "s3://imagery/a b.tif",
    "fingerprint": "f" * 16,
    "collection": "atrous-run",
}


def output_of(name="rasters/scene.tif", sha256="ab" * 32):
    return Output(name=name, size=1234, sha256=sha256, etag="e")


def grid_of(crs="EPSG:32633", place=None, *, gcps=(), taken=None):
    place = from_origin(390_000, 5_820_000, 0.5, 0.5) if place is None else place
    points = [point.asdict() for point in gcps]
    text = None if crs is None else CRS.from_user_input(crs).to_wkt()
    fields = {"crs": text, "transform": list(place)[:6], "gcps": points}
    return json.dumps(fields | {"datetime": taken})


def block_of(grid, height=300, width=400):
    (block,) = cut_blocks(height, width, 512, grid=grid)
    return block


def read(data):
    """An Item or a Collection, validated without a network."""
    fields = json.loads(data)
    pystac.validation.validate_dict(fields, extensions=[])
    return pystac.read_dict(fields)


@pytest.fixture(autouse=True)
def _offline():
    """Schemas are those that pystac brings along; another one fails the test."""
    validator = pystac.validation.RegisteredValidator.get_validator()
    validator.schema_cache = get_local_schema_cache()


@pytest.fixture
def describe(make_bundle):
    def call(grid=None, *, outputs=None, bundle=None, height=300, width=400, **given):
        block = block_of(grid_of() if grid is None else grid, height, width)
        return describe_raster(
            block,
            outputs or (output_of(),),
            bundle=bundle or make_bundle(),
            **(GIVEN | given),
        )

    return call


def test_every_field_is_read_back(describe):
    item = read(describe(outputs=(output_of(), output_of("confidence/scene.tif"))))
    assert (item.id, item.collection_id) == ("scene", "atrous-run")
    place = ProjectionExtension.ext(item)
    assert (place.code, place.shape) == ("EPSG:32633", [300, 400])
    assert place.transform == [0.5, 0, 390_000, 0, -0.5, 5_820_000]
    assert place.bbox == [390_000, 5_819_850, 390_200, 5_820_000]
    assert item.properties["atrous:bundle"] == "d" * 64
    assert item.properties["processing:software"].keys() == {"atrous"}
    (source,) = item.get_links("derived_from")
    assert source.target == "s3://imagery/a b.tif"
    data, sure = item.assets["data"], item.assets["confidence"]
    assert (data.href, sure.href) == ("./scene.tif", "../confidence/scene.tif")
    assert data.media_type == sure.media_type == pystac.MediaType.COG
    assert (data.roles, sure.roles) == (["data"], ["metadata"])
    (band,) = RasterExtension.ext(data).bands
    assert (band.nodata, band.data_type, band.sampling) == (255, "uint8", "area")
    assert band.spatial_resolution == 0.5
    (band,) = RasterExtension.ext(sure).bands
    assert (band.nodata, band.data_type) == (None, "uint8")
    file = FileExtension.ext(data)
    assert (file.size, file.checksum) == (1234, "1220" + "ab" * 32)


@pytest.mark.parametrize("others", [(), ("confidence/scene.tif",)])
def test_probabilities_name_their_bands(describe, others):
    names = ["rasters/scene.tif", *others, "probabilities/scene.tif"]
    item = read(describe(outputs=tuple(map(output_of, names)), chosen=(2, 0)))
    assert len(item.assets) == len(names)
    asset = item.assets["probabilities"]
    assert (asset.href, asset.roles) == ("../probabilities/scene.tif", ["data"])
    assert [one["name"] for one in asset.extra_fields["bands"]] == ["class 2", "class 0"]
    bands = RasterExtension.ext(asset).bands
    assert [(one.scale, one.nodata, one.data_type) for one in bands] == [
        (1 / 255, None, "uint8")
    ] * 2
    assert FileExtension.ext(asset).size == 1234


def test_classes_say_what_pixels_mean(describe, make_bundle):
    names = ["road", "low vegetation", "Straße", "???"]
    classes = tuple(
        ClassInfo(name=name, color=(i, 255, 10)) for i, name in enumerate(names)
    )
    item = read(describe(bundle=make_bundle(classes=classes)))
    found = ClassificationExtension.ext(item.assets["data"]).classes
    assert [one.value for one in found] == [0, 1, 2, 3, 255]
    assert [one.title for one in found] == [*names, "No data"]
    assert [one.name for one in found] == [
        "road",
        "low-vegetation",
        "Stra-e",
        "3",
        "nodata",
    ]
    assert [one.color_hint for one in found[:-1]] == [f"0{i}FF0A" for i in range(4)]
    assert [one.nodata for one in found] == [None] * 4 + [True]


def test_the_same_raster_gives_the_same_bytes(describe):
    assert describe() == describe()
    assert describe() != describe(fingerprint="0" * 16)
    fields = json.loads(describe())
    assert list(fields) == sorted(fields)


@pytest.mark.parametrize(
    ("taken", "datetime"),
    [
        ("2022:01:17 10:43:43", "2022-01-17T10:43:43Z"),
        (None, None),
        ("", None),
        ("0000:00:00 00:00:00", None),
        ("yesterday", None),
    ],
)
def test_the_time_is_what_the_raster_says(describe, taken, datetime):
    item = read(describe(grid_of(taken=taken)))
    if datetime is None:
        assert item.datetime is None
        assert item.common_metadata.start_datetime.year == 1858
        assert item.common_metadata.end_datetime.year == 2261
    else:
        assert pystac.utils.datetime_to_str(item.datetime) == datetime


def test_a_tag_of_a_file_comes_into_its_item(describe, write_raster):
    path = write_raster(np.ones((1, 300, 400), np.uint8))
    with rasterio.open(path, "r+") as target:
        target.update_tags(TIFFTAG_DATETIME="1999:12:31 23:59:59")
    item = read(describe(read_info(path, {}).grid))
    assert item.datetime.year == 1999


def test_other_crs_are_told_in_full(describe):
    ours = "+proj=laea +lat_0=10 +lon_0=20 +ellps=GRS80 +units=m"
    item = read(describe(grid_of(ours, from_origin(0, 0, 10, 10))))
    place = ProjectionExtension.ext(item)
    assert place.code is None
    assert CRS.from_wkt(place.wkt2) == CRS.from_user_input(ours)


def test_without_a_crs_there_is_no_geometry(describe):
    item = read(describe(grid_of(None)))
    assert (item.geometry, item.bbox) == (None, None)
    place = ProjectionExtension.ext(item)
    assert (place.code, place.bbox, place.shape) == (None, None, [300, 400])
    (band,) = RasterExtension.ext(item.assets["data"]).bands
    assert band.spatial_resolution is None


def test_an_edge_that_is_nowhere_on_earth_gives_no_geometry(describe):
    seen = "+proj=geos +h=35785831 +lon_0=-75 +sweep=x +ellps=GRS80"
    disk = from_origin(-5_434_895, 5_434_895, 36_233, 36_233)
    item = read(describe(grid_of(seen, disk), height=300, width=300))
    assert (item.geometry, item.bbox) == (None, None)


@pytest.mark.parametrize(
    ("crs", "place", "expected"),
    [
        ("EPSG:32633", from_origin(390_000, 5_820_000, 0.5, 0.5), 0.5),
        ("EPSG:2225", from_origin(6_500_000, 2_000_000, 1, 1), 0.304801),  # US feet
        ("EPSG:4326", from_origin(10, 0.015, 0.0001, 0.0001), 11.1195),
        ("EPSG:4326", from_origin(10, 60, 0.0001, 0.0001), 7.8627),  # rounded below
    ],
)
def test_a_pixel_has_its_side_in_metres(describe, crs, place, expected):
    item = read(describe(grid_of(crs, place)))
    (band,) = RasterExtension.ext(item.assets["data"]).bands
    assert band.spatial_resolution == pytest.approx(expected, rel=1e-3)


# Where rasters lie

ROTATED = Affine.translation(390_000, 5_820_000) @ Affine.rotation(30) @ Affine.scale(9, -7)
PLACES = {
    "utm": ("EPSG:32633", from_origin(390_000, 5_820_000, 10, 10)),
    "rotated": ("EPSG:32633", ROTATED),
    "south-up": ("EPSG:32633", Affine(10, 0, 390_000, 0, 10, 5_820_000)),
    "mirrored": ("EPSG:32633", Affine(-10, 0, 390_000, 0, -10, 5_820_000)),
    "degrees": ("EPSG:4326", from_origin(-71.5, 42.25, 0.01, 0.01)),
    "web mercator": ("EPSG:3857", from_origin(14_321_853, 4_533_021, 500, 500)),
    "conic": ("EPSG:5070", from_origin(-2_300_000, 3_100_000, 11_000, 9_000)),
    "polar, beside the pole": ("EPSG:3413", from_origin(500_000, -500_000, 900, 900)),
}


@pytest.mark.parametrize("name", PLACES)
def test_bounds_are_those_of_gdal(name):
    crs, place = PLACES[name]
    geometry, bounds = find_footprint(grid_of(crs, place), 300, 400)
    corners = [place @ corner for corner in ((0, 0), (400, 0), (0, 300), (400, 300))]
    if name != "rotated":  # GDAL takes a rectangle
        (left, *_, right) = sorted(x for x, _ in corners)
        (bottom, *_, top) = sorted(y for _, y in corners)
        oracle = transform_bounds(crs, "EPSG:4326", left, bottom, right, top)
        assert bounds == pytest.approx(oracle, abs=2e-2)
    for lon, lat in zip(
        *transform(crs, "EPSG:4326", *zip(*corners, strict=True)), strict=True
    ):
        ring = np.array(geometry["coordinates"][0])
        assert np.abs(ring - [lon, lat]).sum(axis=1).min() < 1e-6
    assert_is_sound(geometry)


def assert_is_sound(geometry):
    """Closed rings that go counterclockwise, in the range of degrees."""
    assert is_valid_geom(geometry)
    alone = geometry["type"] == "Polygon"
    for rings in [geometry["coordinates"]] if alone else geometry["coordinates"]:
        (ring,) = rings
        assert ring[0] == ring[-1]
        x, y = np.array(ring).T
        assert np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0
        assert (np.abs(x) <= 180).all()
        assert (np.abs(y) <= 90).all()
        assert all(left != right for left, right in itertools.pairwise(ring))


def covered(geometry):
    """Which whole degrees of the Earth a geometry covers, bool (180, 360)."""
    world = from_origin(-180, 90, 1, 1)
    return rasterize([geometry], out_shape=(180, 360), transform=world) > 0


def is_inside(crs, place, height, width):
    """The same, asked of each degree's middle by its pixel."""
    lat, lon = np.mgrid[89.5:-90:-1, -179.5:180]
    near = (np.abs(lat) < 80) & (np.abs(lon) > 150) if crs == "EPSG:32660" else lat < 90
    points = transform("EPSG:4326", crs, lon[near].tolist(), lat[near].tolist())
    a, b, c, d, e, f = list(~place)[:6]
    xs, ys = np.array(points)
    cols, rows = a * xs + b * ys + c, d * xs + e * ys + f
    inside = np.zeros((180, 360), dtype=bool)
    inside[near] = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    return inside


WIDE = {
    "across the antimeridian": ("EPSG:32660", from_origin(100_000, 6e6, 4000, 4000)),
    "all around": ("EPSG:4326", from_origin(-180, 75, 0.9, 0.5)),
    "from 0 to 360": ("EPSG:4326", from_origin(0, 75, 0.9, 0.5)),
    "from the antimeridian": ("EPSG:4326", from_origin(-180, 10, 0.1, 0.1)),
    "to the antimeridian": ("EPSG:4326", from_origin(140, 10, 0.1, 0.1)),
    "around the north pole": ("EPSG:3413", from_origin(-2.5e6, 2e6, 12_000, 14_000)),
    "around the south pole": ("EPSG:3031", from_origin(-2e6, 2.5e6, 12_000, 14_000)),
    "the world as it is drawn": (
        "EPSG:3857",
        from_origin(-20_037_508.34, 15e6, 100_187.5417, 1e5),
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_wide_footprints_cover_what_they_should(name):
    """One degree in a thousand may lie on an edge and fall to the other side."""
    crs, place = WIDE[name]
    geometry, (west, south, east, north) = find_footprint(grid_of(crs, place), 300, 400)
    assert_is_sound(geometry)
    found = covered(geometry)
    if name == "from 0 to 360":
        place @= Affine.translation(-200, 0)  # the same band around the world
    expected = is_inside(crs, place, 300, 400)
    assert found.any()
    assert (found != expected).mean() < 2e-3
    lat, lon = np.argwhere(found).T
    lat, lon = 89.5 - lat, lon - 179.5
    assert south - 1 < lat.min() < lat.max() < north + 1
    if west <= east:
        assert west - 1 < lon.min() < lon.max() < east + 1
    else:
        assert name == "across the antimeridian"
        assert ((lon > west - 1) | (lon < east + 1)).all()


def test_control_points_say_where_a_raster_lies(describe):
    corners = ((0, 0), (0, 400), (300, 0), (300, 400))
    points = [
        GroundControlPoint(row=row, col=col, x=10 + col / 400, y=50 - row / 300, z=0)
        for row, col in corners
    ]
    item = read(describe(grid_of("EPSG:4326", Affine.identity(), gcps=points)))
    assert item.bbox == pytest.approx([10, 49, 11, 50], abs=1e-6)
    assert ProjectionExtension.ext(item).code is None
    assert ProjectionExtension.ext(item).transform is None


@pytest.mark.parametrize("number", [0, np.nan, np.inf])
def test_a_grid_that_means_nothing_gives_no_geometry(describe, number):
    place = Affine(number, 0, 390_000, 0, -0.5, 5_820_000)
    assert read(describe(grid_of(place=place))).geometry is None


# The Collection


def write(path, rasters, bundle):
    rasters = ((RasterNames(PurePath(name).name), block) for name, block in rasters)
    write_collection(path, rasters, bundle=bundle, collection="atrous-run")
    return read(path.read_bytes())


def test_the_collection_holds_all_items(describe, make_bundle, tmp_path):
    grids = [
        grid_of(taken="2001:01:01 00:00:00"),
        grid_of("EPSG:4326", from_origin(-71, 42, 0.01, 0.01), taken="2020:01:01 00:00:00"),
        grid_of(None, taken="2010:01:01 00:00:00"),
    ]
    rasters = [(f"rasters/{i}.tif", block_of(grid)) for i, grid in enumerate(grids)]
    for name, block in rasters:
        path = tmp_path / RasterNames(PurePath(name).name).item
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(describe(block.grid, outputs=(output_of(name),)))
    folder = tmp_path / "rasters"
    write(folder / "collection.json", rasters, make_bundle())
    found = pystac.Collection.from_file(str(folder / "collection.json"))
    items = list(found.get_items())
    assert [item.id for item in items] == ["0", "1", "2"]
    assert all(item.get_collection() is found for item in items)
    boxes = [item.bbox for item in items if item.bbox]
    lows, highs = np.min(boxes, axis=0), np.max(boxes, axis=0)
    assert found.extent.spatial.bboxes == [[*lows[:2], *highs[2:]]]
    ((start, end),) = found.extent.temporal.intervals
    assert (start.year, end.year) == (2001, 2020)
    for item, (name, _) in zip(items, rasters, strict=True):
        assert item.assets["data"].get_absolute_href() == str(tmp_path / name)


@pytest.mark.parametrize("grids", [[], [None]])
def test_a_collection_of_nothing_is_valid(make_bundle, tmp_path, grids):
    rasters = [("rasters/a.tif", block_of(grid_of(None))) for _ in grids]
    found = write(tmp_path / "c.json", rasters, make_bundle())
    assert found.extent.spatial.bboxes == [[-180, -90, 180, 90]]


def test_an_item_across_the_antimeridian_widens_to_the_world(make_bundle, tmp_path):
    crs, place = WIDE["across the antimeridian"]
    rasters = [("rasters/a.tif", block_of(grid_of(crs, place)))]
    found = write(tmp_path / "c.json", rasters, make_bundle())
    west, south, east, north = found.extent.spatial.bboxes[0]
    assert (west, east) == (-180, 180)
    assert 40 < south < north < 60


def test_items_never_take_the_collections_name():
    keys = ["a.tif", "collection.tif", "%63ollection.tif", "collection.tiff", "A.tif"]
    keys += ["collection.tif.tif", "x/collection.tif", "COLLECTION.tif", "Collection.tif"]
    keys += ["collection", "a/b.tif", "a.tiff"]
    names = [RasterNames(output_name(key)).item for key in keys]
    assert names[:2] == ["rasters/a.json", "rasters/%63ollection.json"]
    assert len({name.lower() for name in [*names, "rasters/collection.json"]}) == 13


def test_a_collection_needs_no_memory_for_its_items(make_bundle, tmp_path):
    """Neither rasters nor links are held: only what comes next is asked for."""
    alive = set()

    class Watched(Block):
        __slots__ = ()

        def __del__(self):
            alive.discard(id(self))

    def rasters():
        for number in random.Random(1).sample(range(1000), k=1000):
            fields = dataclasses.asdict(block_of(grid_of())) | {"number": number}
            one = Watched(**fields)
            alive.add(id(one))
            assert len(alive) <= 2
            yield f"rasters/{number}.tif", one
            del one

    found = write(tmp_path / "c.json", rasters(), make_bundle())
    assert len(found.get_item_links()) == 1000
