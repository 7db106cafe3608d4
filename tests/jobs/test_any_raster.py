"""Rasters of every kind, made here and read again; rasterio and numpy are the twin."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.rpc import RPC
from rasterio.transform import Affine, from_origin
from rasterio.warp import calculate_default_transform, reproject
from rasterio.warp import transform as transform_points

from deeplab.tiles import Window
from jobs.errors import InputError, ItemError
from jobs.inputs.decoding import read_info, read_window
from jobs.inputs.raster_grid import check_crs, describe_grid, parse_grid
from jobs.inputs.raster_plan import refuse_side_mask
from jobs.inputs.raster_warp import CHUNK
from jobs.map_job import MapJob
from jobs.spec import Reading
from jobs.storage import Access

LOCAL = Access()
HEIGHT, WIDTH = 70, 110
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
RGBA = (*RGB, ColorInterp.alpha)

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning",
)


def noise(dtype, bands=3, seed=0, *, low=None, high=None):
    """(bands, H, W) over all that the type holds, or from ``low`` to ``high``."""
    random = np.random.default_rng(seed)
    shape = (bands, HEIGHT, WIDTH)
    if np.issubdtype(dtype, np.floating):
        return random.uniform(low or -2.0, high or 3.0, shape).astype(dtype)
    info = np.iinfo(dtype)
    low, high = info.min if low is None else low, info.max if high is None else high
    return random.integers(low, high, shape, dtype=dtype, endpoint=True)


def hole():
    """Validity, bool (H, W)."""
    row, col = np.mgrid[:HEIGHT, :WIDTH]
    return ((row - 30) ** 2 + (col - 50) ** 2 > 300) & (col < 100)


def to_bytes(values, low, high):
    """What the network is to see of physical values, by the book."""
    scaled = (values.astype(np.float64) - low) / (high - low) * 255
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def read_all(uri, reading=None, *, bands=3):
    """Plan a raster and read it as a whole."""
    reading = reading or Reading()
    info = read_info(uri, LOCAL, bands=bands, reading=reading)
    window = Window(row=0, col=0, height=info.height, width=info.width)
    return info, *read_window(uri, LOCAL, window, bands=bands, reading=reading)


def refusal(uri, reading=None, *, bands=3):
    with pytest.raises(ItemError) as caught:
        read_info(uri, LOCAL, bands=bands, reading=reading or Reading())
    assert caught.value.code == "unsupported"
    return caught.value.message


# Types


RANGES = {
    "int8": (-100.0, 100.0),
    "uint16": (0.0, 10_000.0),
    "int16": (-500.0, 20_000.0),
    "uint32": (1e6, 4e9),
    "int32": (-1e9, 1e9),
    "float32": (0.0, 1.0),
    "float64": (-1.5, 2.5),
}


@pytest.mark.parametrize("dtype", RANGES)
def test_any_type_is_brought_to_bytes(write_raster, dtype):
    pixels = noise(dtype)
    reading = Reading(value_range=RANGES[dtype])
    _, found, valid = read_all(write_raster(pixels), reading)
    np.testing.assert_array_equal(found, to_bytes(pixels, *RANGES[dtype]))
    assert valid.all()
    assert len(np.unique(found)) > 200


@pytest.mark.parametrize("dtype", RANGES)
def test_a_type_without_range_is_refused(write_raster, dtype):
    assert refusal(write_raster(noise(dtype))) == (
        f"its bands are {dtype}; say which values are black and white with "
        "-c value_range=LOW,HIGH"
    )


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "int64", "uint64"])
def test_other_types_are_refused_with_a_sentence(write_raster, dtype):
    uri = write_raster(np.ones((3, HEIGHT, WIDTH), dtype=dtype))
    text = refusal(uri, Reading(value_range=(0, 1)))
    assert text.startswith(f"its bands are {dtype}; they must be of one type, among uint8")


def test_bytes_stay_as_they_are(write_raster):
    pixels = noise("uint8")
    for reading in (Reading(), Reading(value_range=(0.0, 255.0))):
        _, found, _ = read_all(write_raster(pixels), reading)
        np.testing.assert_array_equal(found, pixels)


def test_bytes_may_be_stretched(write_raster):
    pixels = noise("uint8")
    _, found, _ = read_all(write_raster(pixels), Reading(value_range=(20, 120)))
    np.testing.assert_array_equal(found, to_bytes(pixels, 20, 120))


@pytest.fixture
def scaled(write_raster):
    """Write a raster whose bands have scales and offsets."""

    def write(pixels, scales, offsets):
        uri = write_raster(pixels)
        with rasterio.open(uri, "r+") as target:
            target.scales, target.offsets = scales, offsets
        return uri

    return write


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_scale_and_offset_come_before_the_range(scaled, dtype):
    scales, offsets = (0.001, 0.002, 1.0), (-0.1, 0.0, 5.0)
    pixels = noise(dtype)
    uri = scaled(pixels, scales, offsets)
    _, found, _ = read_all(uri, Reading(value_range=(0.0, 1.0)))
    shape = (3, 1, 1)
    values = pixels.astype(np.float64) * np.reshape(scales, shape)
    values += np.reshape(offsets, shape)
    np.testing.assert_array_equal(found, to_bytes(values, 0, 1))


def test_scaled_bytes_need_a_range(scaled):
    uri = scaled(noise("uint8"), (0.1, 0.1, 0.1), (0, 0, 0))
    assert "its bands are uint8 with scale and offset; say which" in refusal(uri)


def test_a_scale_that_is_no_number_is_refused(scaled):
    uri = scaled(noise("uint16"), (np.nan, 1, 1), (0, 0, 0))
    assert "no numbers" in refusal(uri, Reading(value_range=(0, 1)))


# Bands


@pytest.mark.parametrize("bands", [(4, 3, 2), (1, 1, 1), (8, 1, 8), (3, 2, 1)])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_bands_are_those_that_were_named(write_raster, bands, interleave):
    pixels = noise("uint8", 8)
    uri = write_raster(pixels, interleave=interleave)
    _, found, _ = read_all(uri, Reading(bands=bands))
    np.testing.assert_array_equal(found, pixels[[band - 1 for band in bands]])


def test_the_first_bands_are_taken_but_never_alpha(write_raster):
    pixels = noise("uint8", 4)
    nothing = ColorInterp.undefined
    color = (ColorInterp.gray, ColorInterp.alpha, nothing, nothing)
    uri = write_raster(pixels, color=color, photometric="minisblack", alpha="no")
    _, found, valid = read_all(uri)
    np.testing.assert_array_equal(found, pixels[[0, 2, 3]])
    np.testing.assert_array_equal(valid, pixels[1] > 0)


def test_one_band_is_repeated_only_where_asked(write_raster):
    uri = write_raster(noise("uint8", 1))
    assert refusal(uri) == (
        "the raster has 1 band of uint8; the bundle needs 3; say which to take, e.g. "
        "-c bands=1,1,1"
    )
    _, found, _ = read_all(uri, Reading(bands=(1, 1, 1)))
    np.testing.assert_array_equal(found, np.repeat(noise("uint8", 1), 3, axis=0))


@pytest.mark.parametrize("count", [1, 4, 13])
def test_a_bundle_of_any_number_of_bands(write_raster, count):
    pixels = noise("uint16", 13)
    reading = Reading(value_range=(0, 65_535))
    _, found, _ = read_all(write_raster(pixels), reading, bands=count)
    np.testing.assert_array_equal(found, to_bytes(pixels[:count], 0, 65_535))


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        ((1, 2, 5), "the raster has 4 bands, there is no band 5"),
        ((4, 2, 1), "band 4 is alpha, which says where there is data"),
    ],
)
def test_bands_that_are_none_are_refused(write_raster, bands, words):
    uri = write_raster(noise("uint8", 4), color=RGBA)
    assert (
        refusal(uri, Reading(bands=bands))
        == f"{words}; choose others with -c bands=N,N,..."
    )


# Palettes


@pytest.fixture
def paletted(write_raster):
    """Write a raster of indices with a palette; its colours as (entries, 4)."""

    def write(dtype="uint8", entries=256, **options):
        colors = np.random.default_rng(3).integers(0, 256, (entries, 4), dtype=np.uint8)
        colors[:, 3] = 255
        pixels = noise(dtype, 1, high=entries - 1)
        uri = write_raster(pixels, photometric="palette", **options)
        with rasterio.open(uri, "r+") as target:
            target.write_colormap(1, dict(enumerate(map(tuple, colors.tolist()))))
        return uri, pixels[0], colors

    return write


@pytest.mark.parametrize(("dtype", "entries"), [("uint8", 256), ("uint16", 3000)])
def test_a_palette_is_expanded(paletted, dtype, entries):
    uri, indices, colors = paletted(dtype, entries)
    _, found, valid = read_all(uri)
    np.testing.assert_array_equal(found, np.moveaxis(colors[indices], 2, 0)[:3])
    assert valid.all()


def test_colours_may_change_places(paletted):
    uri, indices, colors = paletted()
    _, found, _ = read_all(uri, Reading(bands=(3, 2, 1)))
    np.testing.assert_array_equal(found, np.moveaxis(colors[indices], 2, 0)[2::-1])


def test_a_transparent_colour_is_no_data(paletted):
    uri, indices, _ = paletted(nodata=7)
    _, _, valid = read_all(uri)
    np.testing.assert_array_equal(valid, indices != 7)
    assert not valid.all()


def test_a_palette_makes_three_bands_and_no_other_number(paletted):
    uri, *_ = paletted()
    assert "has a palette, which makes 3 bands; the bundle needs 1" in refusal(uri, bands=1)
    assert "there is no band 4" in refusal(uri, Reading(bands=(4, 1, 1)))


# Validity


def test_alpha_of_any_type(write_raster):
    pixels = noise("uint16", 4)
    pixels[3] = np.where(hole(), 1, 0)  # all but transparent is not transparent
    uri = write_raster(pixels, color=RGBA)
    _, _, valid = read_all(uri, Reading(value_range=(0, 1)))
    np.testing.assert_array_equal(valid, hole())


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
def test_alpha_counts_in_a_file_of_any_number_of_bands(write_raster, count):
    pixels = noise("uint8", count)
    pixels[-1] = np.where(hole(), 9, 0)
    color = (ColorInterp.gray, *[ColorInterp.undefined] * (count - 2), ColorInterp.alpha)
    uri = write_raster(pixels, color=color, photometric="minisblack", alpha="no")
    for reading in (Reading(bands=(1, 1, 1)), Reading(bands=(1, 1, 1), resolution=0.5)):
        _, _, valid = read_all(uri, reading)
        np.testing.assert_array_equal(valid, hole())


def test_an_internal_mask(write_raster):
    mask = np.where(hole(), 255, 0).astype(np.uint8)
    uri = write_raster(noise("float32"), validity=mask)
    _, _, valid = read_all(uri, Reading(value_range=(0, 1)))
    np.testing.assert_array_equal(valid, hole())


@pytest.mark.parametrize("nodata", [0, 9, -9999, np.nan, -3.4028234663852886e38])
def test_nodata_of_any_kind(write_raster, nodata):
    pixels = noise("float32")
    pixels[:, ~hole()] = nodata
    pixels[0, 3, 3] = np.inf if np.isnan(nodata) else nodata
    uri = write_raster(pixels, nodata=nodata)
    _, _, valid = read_all(uri, Reading(value_range=(0, 1)))
    expected = hole()
    expected[3, 3] &= not np.isnan(nodata)
    np.testing.assert_array_equal(valid, expected)


def test_only_the_chosen_bands_say_what_is_nodata(write_raster):
    pixels = noise("int16", 4, low=1)
    pixels[:3, ~hole()] = 0
    uri = write_raster(pixels, nodata=0)
    with rasterio.open(uri) as oracle:
        assert (oracle.dataset_mask() != 0).all()
        masks = oracle.read_masks([1, 2, 3])
    _, _, valid = read_all(uri, Reading(value_range=(0, 1)))
    np.testing.assert_array_equal(valid, hole())
    np.testing.assert_array_equal(valid, masks.any(axis=0))
    _, _, valid = read_all(uri, Reading(value_range=(0, 1), bands=(1, 2, 4)))
    assert valid.all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_no_data(write_raster, value):
    pixels = noise("float64")
    pixels[1, ~hole()] = value
    _, found, valid = read_all(write_raster(pixels), Reading(value_range=(-2, 3)))
    np.testing.assert_array_equal(valid, hole())
    expected = to_bytes(np.where(np.isfinite(pixels), pixels, -2), -2, 3)
    np.testing.assert_array_equal(found, expected)


def test_a_mask_in_a_file_beside_the_raster_is_refused(write_raster, make_spec, tmp_path):
    uri = write_raster(noise("uint8"), "source/a.tif")
    write_raster(noise("uint8"), "source/b.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(uri, "r+") as target:
        target.write_mask(hole())
    assert (tmp_path / "source/a.tif.msk").exists()
    first, second = MapJob(spec=make_spec(job="map")).plan()
    assert first.refusal.code == "unsupported"
    assert "its mask is a file of its own, a.tif.msk; put the" in first.refusal.message
    assert second.refusal is None


def test_a_mask_beside_is_looked_for_where_the_raster_lies(place):
    uri = place.at("scenes/a.tif")
    refuse_side_mask(place.store, uri)
    place.store.create(f"{uri}.msk", b"mask")
    with pytest.raises(ItemError, match=r"its mask is a file of its own, a\.tif\.msk"):
        refuse_side_mask(place.store, uri)


def test_who_may_not_look_for_a_mask_has_none():
    asked = []

    class Store:
        def exists(self, uri):
            asked.append(uri)
            raise ItemError("forbidden", uri)

    refuse_side_mask(Store(), "s3://bucket/a.tif")
    assert asked == ["s3://bucket/a.tif.msk"]


# Layouts


LAYOUTS = {
    "strips": {},
    "one strip": {"blockysize": HEIGHT},
    "tiles": {"tiled": True, "blockxsize": 32, "blockysize": 16},
    "pixel by pixel": {"interleave": "pixel", "compress": "deflate"},
    "band by band": {"interleave": "band", "compress": "zstd", "tiled": True},
    "BigTIFF": {"BIGTIFF": "YES", "compress": "lzw", "predictor": 2},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(write_raster, layout, dtype):
    pixels = noise(dtype)
    uri = write_raster(pixels, **LAYOUTS[layout])
    reading = Reading(value_range=(0, np.iinfo(dtype).max))
    expected = to_bytes(pixels, 0, np.iinfo(dtype).max)
    for row, col, height, width in (
        (0, 0, HEIGHT, WIDTH),
        (13, 31, 40, 7),
        (69, 109, 1, 1),
    ):
        window = Window(row=row, col=col, height=height, width=width)
        found, valid = read_window(uri, LOCAL, window, bands=3, reading=reading)
        box = slice(row, row + height), slice(col, col + width)
        np.testing.assert_array_equal(found, expected[:, *box])
        assert valid.all()


def test_what_is_not_in_a_sparse_file_is_zero_or_nodata(tmp_path):
    for nodata, expected in ((None, True), (0, False)):
        path = tmp_path / f"{nodata}.tif"
        layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": True}
        place = {"crs": "EPSG:32633", "transform": from_origin(0, 0, 1, 1)}
        size = {"height": 256, "width": 256, "count": 3, "dtype": "uint8"}
        with rasterio.open(
            path, "w", driver="GTiff", nodata=nodata, **layout, **place, **size
        ):
            pass
        _, found, valid = read_all(str(path))
        assert not found.any()
        assert (valid == expected).all()


def test_jpeg_is_rgb(write_raster):
    layout = {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel"}
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[:HEIGHT, :WIDTH], 90)).astype(np.uint8)
    uri = write_raster(smooth, tiled=True, blockxsize=64, blockysize=64, **layout)
    with rasterio.open(uri) as oracle:
        expected = oracle.read()
    _, found, _ = read_all(uri)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found.astype(int) - smooth).max() < 12


@pytest.mark.parametrize(
    "reading", [Reading(), Reading(resolution=4.0)], ids=["", "warped"]
)
def test_overviews_are_never_read(write_raster, reading):
    uri = write_raster(noise("uint8"), transform=from_origin(0, 0, 1, 1), tiled=True)
    before = read_all(uri, reading)
    with rasterio.open(uri, "r+") as target:
        target.build_overviews([2, 4], Resampling.nearest)
        assert target.overviews(1) == [2, 4]
    # Were an overview read, its pixels would be seen.
    with rasterio.open(uri, "r+", overview_level=0) as target:
        assert target.shape == (HEIGHT // 2, WIDTH // 2)
    for one, other in zip(read_all(uri, reading), before, strict=True):
        assert np.array_equal(one, other)


def test_huge_values_are_read_in_parts(write_raster, monkeypatch):
    """Rows are cut at whole blocks of the file, and no cut shows."""
    from jobs.inputs import raster_values, rasters

    monkeypatch.setattr(raster_values, "_VALUES_AT_ONCE", 1000)
    pixels = noise("uint16")
    uri = write_raster(pixels, tiled=True, blockxsize=16, blockysize=16, nodata=5)
    seen = []
    real = raster_values._strips

    def strips(*arguments):
        seen.extend(real(*arguments))
        return iter(seen)

    monkeypatch.setattr(raster_values, "_strips", strips)

    def empty(bands, height, width):
        return np.zeros((bands, height, width), np.uint8), np.zeros((height, width), bool)

    found, valid = rasters.read_window(
        uri,
        {},
        (3, 5, 60, 100),
        bands=3,
        empty=empty,
        reading=Reading(value_range=(0, 65535)),
    )
    assert seen == [(3, 16), (16, 32), (32, 48), (48, 63)]
    expected = to_bytes(pixels, 0, 65535)[:, 3:63, 5:105]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(valid, (pixels != 5).any(axis=0)[3:63, 5:105])


# Where rasters lie


def rpcs():
    numbers = [1.0, *[0.0] * 19]
    return RPC(
        height_off=100.0,
        height_scale=500.0,
        lat_off=52.5,
        lat_scale=0.1,
        line_den_coeff=numbers,
        line_num_coeff=[0.0, 0.0, -1.0, *[0.0] * 17],
        line_off=HEIGHT / 2,
        line_scale=HEIGHT / 2,
        long_off=13.4,
        long_scale=0.1,
        samp_den_coeff=numbers,
        samp_num_coeff=[0.0, 1.0, *[0.0] * 18],
        samp_off=WIDTH / 2,
        samp_scale=WIDTH / 2,
    )


def points():
    corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)]
    return [
        GroundControlPoint(row=r, col=c, x=390_000 + 2.0 * c, y=5_820_000 - 2.0 * r, z=1)
        for r, c in corners
    ]


ROTATED = Affine.translation(390_000, 5_820_000) @ Affine.rotation(30) @ Affine.scale(2, -2)
GRIDS = {
    "north up": {"transform": from_origin(390_000, 5_820_000, 0.5, 0.25)},
    "south up": {"transform": Affine(0.5, 0, 390_000, 0, 0.5, 5_820_000)},
    "rotated": {"transform": ROTATED},
    "no CRS": {"crs": None},
    "control points": {"transform": None, "gcps": points()},
    "RPCs": {"transform": None, "crs": None, "rpcs": rpcs()},
    "nowhere": {"transform": None, "crs": None},
}


def place_of(raster):
    points, crs = raster.gcps
    found = [(p.row, p.col, p.x, p.y, p.z) for p in points]
    return raster.crs, raster.transform, found, crs, raster.rpcs


@pytest.mark.parametrize("name", GRIDS)
def test_what_is_written_lies_where_its_source_does(write_raster, name, tmp_path):
    uri = write_raster(noise("uint8"), **GRIDS[name])
    grid = parse_grid(read_info(uri, LOCAL).grid)
    assert ("rpcs" in grid) == (name == "RPCs")
    size = {"height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "out.tif", "w", driver="GTiff", **size, **grid):
        pass
    with rasterio.open(uri) as source, rasterio.open(tmp_path / "out.tif") as target:
        assert place_of(target) == place_of(source)
        assert not (tmp_path / "out.tif.aux.xml").exists()


def test_damaged_rpcs_are_an_item_error():
    """GDAL checks those of a TIFF, but not whether they are numbers in other places."""

    class Damaged:
        gcps, crs, transform = ([], None), None, Affine.identity()

        @property
        def rpcs(self):
            return RPC.from_gdal({**rpcs().to_gdal(), "LINE_OFF": "x"})

    with pytest.raises(ItemError, match="its RPCs are damaged: ValueError") as caught:
        describe_grid(Damaged())
    assert caught.value.code == "undecodable"


def test_one_line_says_how_many_rasters_are_nowhere(write_raster, make_spec, capsys):
    for name in ("a", "b"):
        write_raster(noise("uint8"), f"source/{name}.tif", **GRIDS["no CRS"])
    write_raster(noise("uint8"), "source/c.tif")
    write_raster(noise("uint8"), "source/d.tif", **GRIDS["RPCs"])
    write_raster(noise("uint8", 1), "source/e.tif", **GRIDS["no CRS"])
    group, refused = MapJob(spec=make_spec(job="map")).plan()
    assert (len(group.blocks), group.refusal) == (4, None)
    assert [item.key for item in refused.items] == ["e.tif"]
    assert refused.refusal is not None
    assert capsys.readouterr().err == (
        "atrous: 2 of 4 rasters have no CRS; they are mapped as they are, and their masks "
        "have none either\n"
    )


@pytest.mark.parametrize("text", ["EPSG:1", "nonsense", "", "EPSG:5703", "EPSG:4978"])
def test_a_crs_that_no_raster_lies_in_is_refused(text):
    check_crs("EPSG:3857")
    check_crs("EPSG:4326")
    with pytest.raises(InputError, match=rf"crs must be a CRS such as .*, got '{text}'"):
        check_crs(text)


@pytest.mark.parametrize("reading", [Reading(), Reading(resolution=0.7)], ids=str)
def test_a_damaged_block_is_an_item_error(write_raster, reading):
    uri = write_raster(
        noise("uint8"), tiled=True, compress="deflate", blockxsize=32, blockysize=32
    )
    with rasterio.open(uri) as raster:
        start = int(raster.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    data = bytearray(Path(uri).read_bytes())
    data[start + 10 : start + 200] = b"\xff" * 190
    Path(uri).write_bytes(data)
    with pytest.raises(ItemError) as caught:
        read_all(uri, reading)
    assert caught.value.code == "undecodable"


@pytest.mark.s3
def test_a_warp_reads_from_s3(write_raster, remote):
    path = write_raster(noise("uint8"))
    uri, access = remote.at("a.tif"), remote.store._access
    remote.store.create(uri, Path(path).read_bytes())
    reading = Reading(crs="EPSG:3857", resolution=0.7)
    info, expected, mask = read_all(path, reading)
    assert read_info(uri, access, bands=3, reading=reading) == info
    window = Window(row=0, col=0, height=info.height, width=info.width)
    found, valid = read_window(uri, access, window, bands=3, reading=reading)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(valid, mask)


# Other grids


WARPS = {
    "another CRS": Reading(crs="EPSG:3857"),
    "another CRS and size": Reading(crs="EPSG:3857", resolution=0.7),
    "smaller pixels": Reading(resolution=0.2),
    "larger pixels": Reading(crs="EPSG:25833", resolution=2.5),
    "degrees": Reading(crs="EPSG:4326", resolution=1e-5),
}


def warp_whole(uri, target, resampling, bands=(1, 2, 3)):
    """What GDAL makes of a whole raster at once; NaN where nothing is."""
    shape = (len(bands), target.height, target.width)
    values = np.full(shape, np.nan)
    grid = parse_grid(target.grid)
    with rasterio.open(uri) as source:
        points, crs = source.gcps
        natural, *_ = calculate_default_transform(
            crs or source.crs,
            grid["crs"],
            source.width,
            source.height,
            **({"gcps": points} if points else source.bounds._asdict()),
        )
        scale = natural.a / grid["transform"].a
        reproject(
            rasterio.band(source, list(bands)),
            values,
            dst_transform=grid["transform"],
            dst_crs=grid["crs"],
            dst_nodata=np.nan,
            resampling=resampling,
            tolerance=0,
            XSCALE=scale,
            YSCALE=scale,
        )
    return values


@pytest.mark.parametrize("kind", ["plain", "nodata", "mask"])
@pytest.mark.parametrize("name", WARPS)
def test_a_warp_is_what_gdal_makes_of_the_whole(write_raster, name, kind):
    pixels = noise("uint8", low=1)
    options = {"plain": {}, "nodata": {"nodata": 0}, "mask": {"validity": hole()}}[kind]
    if kind == "nodata":
        pixels[:, ~hole()] = 0
    uri = write_raster(pixels, **options)
    info, found, valid = read_all(uri, WARPS[name])
    nearest = warp_whole(uri, info, Resampling.nearest)
    values = warp_whole(uri, info, Resampling.bilinear)
    np.testing.assert_array_equal(valid, np.isfinite(nearest).all(axis=0))
    assert 0.3 < valid.mean() <= 1
    # A half may be rounded either way: scales differ in the last bits.
    assert np.abs(found[:, valid] - values[:, valid]).max() <= 0.55


@pytest.mark.parametrize("name", WARPS)
def test_a_warp_keeps_places(write_raster, name):
    """Values that are coordinates are those of the pixels that they come out at."""
    transform = from_origin(390_000, 5_820_000, 0.5, 0.5)
    col, row = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    x, y = transform @ (col, row)
    pixels = np.stack([x - 390_000, 5_820_000 - y, x * 0]).astype(np.float32)
    uri = write_raster(pixels, transform=transform)
    reading = Reading(value_range=(0, 60), crs=WARPS[name].crs, resolution=1.0)
    if name == "degrees":
        reading = Reading(value_range=(0, 60), crs="EPSG:4326", resolution=1e-5)
    info, found, valid = read_all(uri, reading)
    grid = parse_grid(info.grid)
    col, row = np.meshgrid(np.arange(info.width) + 0.5, np.arange(info.height) + 0.5)
    xs, ys = grid["transform"] @ (col.ravel(), row.ravel())
    xs, ys = transform_points(grid["crs"], "EPSG:32633", xs, ys)
    shape = info.height, info.width
    east = np.reshape(xs, shape) - 390_000
    south = 5_820_000 - np.reshape(ys, shape)
    inside = (east > 0) & (east < WIDTH / 2) & (south > 0) & (south < HEIGHT / 2)
    np.testing.assert_array_equal(valid, inside)
    # A pixel's width from the edge, where there are neighbours on all sides.
    deep = (east > 1) & (east < WIDTH / 2 - 1) & (south > 1) & (south < HEIGHT / 2 - 1)
    assert deep.sum() > 500
    for band, expected in zip(found, (east, south), strict=False):
        error = np.abs(band[deep] - expected[deep] / 60 * 255)
        assert error.max() < 0.5 + 0.1 * 0.5 / 60 * 255  # a tenth of a pixel


def test_the_target_grid_lies_on_multiples_of_the_pixel_size(write_raster):
    for name, step in (("a.tif", 0.0), ("b.tif", 17.3)):
        place = from_origin(390_000.1 + step, 5_820_000.2, 0.5, 0.5)
        uri = write_raster(noise("uint8"), name, transform=place)
        info = read_info(uri, LOCAL, reading=Reading(crs="EPSG:3857", resolution=0.8))
        transform = parse_grid(info.grid)["transform"]
        assert (transform.a, transform.e, transform.b, transform.d) == (0.8, -0.8, 0, 0)
        for corner in (transform.c, transform.f):
            assert abs(corner / 0.8 - round(corner / 0.8)) < 1e-6


def test_a_grid_that_fits_already_is_kept(write_raster):
    uri = write_raster(
        noise("uint8"), transform=from_origin(390_000.3, 5_820_000.1, 0.1, 0.1)
    )
    info, found, valid = read_all(uri, Reading(crs="EPSG:32633", resolution=0.1))
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(found, noise("uint8"))
    assert valid.all()


@pytest.mark.parametrize("name", ["rotated", "south up", "control points"])
def test_odd_grids_become_straight(write_raster, name):
    pixels = noise("uint8")
    uri = write_raster(pixels, **GRIDS[name])
    info, _, valid = read_all(uri, Reading(resolution=1.0))
    nearest = warp_whole(uri, info, Resampling.nearest)
    np.testing.assert_array_equal(valid, np.isfinite(nearest).all(axis=0))
    area = {"rotated": 4, "south up": 0.25, "control points": 4}[name]
    assert abs(valid.sum() / (HEIGHT * WIDTH * area) - 1) < 0.02
    grid = parse_grid(info.grid)
    assert grid.keys() == {"transform", "crs"}
    assert grid["crs"] == "EPSG:32633"


@pytest.mark.parametrize("name", ["no CRS", "nowhere", "RPCs"])
def test_what_is_nowhere_cannot_go_elsewhere(write_raster, name):
    uri = write_raster(noise("uint8"), **GRIDS[name])
    text = refusal(uri, Reading(crs="EPSG:3857"))
    assert text.endswith(
        "so it cannot be put on another grid; leave crs and resolution out"
    )


def test_a_grid_without_end_is_refused(write_raster):
    with pytest.raises(ItemError) as caught:
        read_info(write_raster(noise("uint8")), LOCAL, reading=Reading(resolution=1e-9))
    assert caught.value.code == "too_large"


def test_transparent_colours_do_not_bleed(write_raster):
    pixels = np.full((4, HEIGHT, WIDTH), 200, dtype=np.uint8)
    pixels[:3, ~hole()] = 0
    pixels[3] = np.where(hole(), noise("uint8", 1, low=1)[0], 0)
    uri = write_raster(pixels, color=RGBA)
    info, found, valid = read_all(uri, Reading(resolution=0.35))
    alpha = warp_whole(uri, info, Resampling.nearest, bands=(4,))[0]
    np.testing.assert_array_equal(valid, alpha > 0)
    assert (found[:, valid] == 200).all()


def test_a_palette_is_not_interpolated(paletted):
    uri, _, colors = paletted()
    info, found, valid = read_all(uri, Reading(crs="EPSG:3857", resolution=0.6))
    nearest = warp_whole(uri, info, Resampling.nearest, bands=(1,))[0]
    np.testing.assert_array_equal(valid, np.isfinite(nearest))
    expected = colors[nearest[valid].astype(int)][:, :3]
    np.testing.assert_array_equal(found[:, valid].T, expected)


@pytest.fixture
def large(tmp_path):
    """Noise with holes, of several chunks in each direction once it is warped."""
    path = tmp_path / "large.tif"
    random = np.random.default_rng(5)
    pixels = random.normal(0, 1, (3, 400, 500)).astype(np.float32)
    pixels[:, random.random((400, 500)) < 0.1] = np.nan
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": np.nan}
    place = {"crs": "EPSG:32633", "transform": ROTATED}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        **layout,
        **place,
        height=400,
        width=500,
        count=3,
        dtype="float32",
    ) as target:
        target.write(pixels)
    return str(path)


@pytest.mark.parametrize("size", [1.6, 9.0])
def test_a_warped_pixel_does_not_depend_on_the_window(large, size):
    reading = Reading(value_range=(-3, 3), crs="EPSG:3857", resolution=size)
    info, found, valid = read_all(large, reading)
    assert (max(info.height, info.width) > 2 * CHUNK) == (size < 2)
    edges = (0, 3, CHUNK - 1, CHUNK, CHUNK + 77, 10**6)
    for (top, bottom), (left, right) in itertools.product(
        itertools.pairwise(edges), repeat=2
    ):
        rows = slice(min(top, info.height), min(bottom, info.height))
        cols = slice(min(left, info.width), min(right, info.width))
        height, width = rows.stop - rows.start, cols.stop - cols.start
        if height < 1 or width < 1:
            continue
        window = Window(row=rows.start, col=cols.start, height=height, width=width)
        part, known = read_window(large, LOCAL, window, bands=3, reading=reading)
        np.testing.assert_array_equal(part, found[:, rows, cols])
        np.testing.assert_array_equal(known, valid[rows, cols])


def test_blocks_are_blocks_of_the_target_grid(large, make_spec):
    reading = Reading(value_range=(-3, 3), crs="EPSG:3857", resolution=1.0)
    spec = make_spec(job="map", source=large, reading=reading, block=512)
    shards = list(MapJob(spec=spec).plan())
    info = read_info(large, LOCAL, reading=reading)
    assert (shards[0].block.height, shards[0].block.width) == (info.height, info.width)
    assert shards[0].block.grid == info.grid
    assert len(shards) == -(-info.height // 512) * -(-info.width // 512) > 4
    job = MapJob(spec=spec, fingerprint="f")
    last = job.read(shards[-1], shards[-1].items[0])
    assert last.region.core == shards[-1].block.core
    window = last.region.read
    expected, valid = read_window(large, LOCAL, window, bands=3, reading=reading)
    np.testing.assert_array_equal(last.pixels, expected)
    rows = slice(last.region.core.row - window.row, None)
    cols = slice(last.region.core.col - window.col, None)
    if valid[rows, cols].any():
        np.testing.assert_array_equal(last.valid, valid)
    else:
        assert not last.valid.any()


def test_several_nodata_values_cannot_be_warped():
    from jobs.inputs.raster_values import Choice
    from jobs.inputs.raster_warp import read_warped

    raster = SimpleNamespace(nodatavals=(0, 1, None))
    with pytest.raises(ItemError, match=r"several nodata values \(0, 1, None\)"):
        read_warped(raster, None, (0, 0, 1, 1), Choice(bands=(1, 2, 3)), (None, None))
