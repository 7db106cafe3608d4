"""COGs of several bands: rasterio and rio-cogeo read what ours writes."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_info, cog_validate

from jobs.assembly import RasterNames
from jobs.outputs import tiff
from jobs.outputs.cog import Assembler, Legend
from jobs.outputs.layers import fill_layers, list_layers
from jobs.outputs.levels import (
    MASK,
    NODATA,
    Codec,
    halve_known,
    halve_probability,
    probability_layer,
)
from jobs.outputs.pieces import decode_piece, encode_piece, read_piece
from jobs.spec import Product
from jobs.windows import cut_blocks

NAMES = ("water", "low vegetation & <more>", "Straße")
SHAPES = [(1, 1), (3, 700), (512, 512), (513, 511), (1025, 3000), (1300, 2100)]
LAYOUT = json.dumps(
    {
        "crs": CRS.from_epsg(32633).to_wkt(),
        "transform": list(from_origin(390_000, 5_820_000, 0.5, 0.5))[:6],
        "gcps": [],
    }
)


@pytest.fixture
def legend(make_bundle):
    return Legend(bundle=make_bundle(), fingerprint="0123456789abcdef", source="a.tif")


def make_planes(shape, count=3, seed=0):
    """Probabilities, of which many are 0, and where there is data."""
    rng = np.random.default_rng(seed)
    known = np.full(shape, 255, dtype=np.uint8)
    known[shape[0] // 4 : shape[0] // 2, shape[1] // 3 : shape[1] // 2 + 1] = 0
    planes = rng.integers(-128, 256, (count, *shape)).clip(0).astype(np.uint8)
    return [*np.where(known, planes, 0), known]


def write(tmp_path, legend, planes, block=512, *, codec="zstd", without=()):
    """Cut planes into blocks, write their pieces, put them together; say where."""
    path = tmp_path / f"{block}-{codec}.tif"
    layer, codec = probability_layer(NAMES[: len(planes) - 1]), Codec(codec)
    shape = planes[0].shape
    mask = np.where(planes[-1], 0, NODATA).astype(np.uint8)
    with path.with_suffix(".spool").open("w+b") as spool:
        raster = Assembler(shape, block, [MASK, layer], codec=codec, spool=spool)
        for part in cut_blocks(*shape, block):
            core = part.core
            inside = np.s_[core.row : core.stop_row, core.col : core.stop_col]
            if part.number in without or not planes[-1][inside].any():
                continue
            pixels = [(MASK, mask[inside]), (layer, [one[inside] for one in planes])]
            raster.add(core, encode_piece(part, pixels, side=block, codec=codec))
        raster.write(path, layer, grid=LAYOUT, legend=legend)
    return path


def slow_half(planes):
    """The mean of the values under each pixel that are known, one by one."""
    *values, known = planes
    shape = tuple(-(-side // 2) for side in known.shape)
    out = np.zeros((len(planes), *shape), dtype=np.uint8)
    for row, col in np.ndindex(shape):
        inside = np.s_[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
        where = known[inside] > 0
        if where.any():
            out[-1, row, col] = 255
            for number, one in enumerate(values):
                found = one[inside][where].tolist()
                out[number, row, col] = int(sum(found) / len(found) + 0.5)
    return list(out)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (7, 5), (8, 8), (33, 64)])
def test_smaller_levels_are_what_one_would_count(shape):
    planes = make_planes(shape, seed=3)
    expected = slow_half(planes)
    found = probability_layer(NAMES).shrink(planes)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_probability_of_0_counts_and_nodata_does_not():
    values = np.array([[0, 0], [0, 100]], dtype=np.uint8)
    known = np.full((2, 2), 255, dtype=np.uint8)
    assert halve_probability(values, known).tolist() == [[25]]
    known[0] = 0
    assert halve_probability(values, known).tolist() == [[50]]
    assert halve_known(known).tolist() == [[255]]
    assert halve_known(known * 0).tolist() == [[0]]


def test_each_class_has_a_band(tmp_path, legend):
    planes = make_planes((1300, 2100))
    path = write(tmp_path, legend, planes)
    with rasterio.open(path) as found:
        assert (found.count, set(found.dtypes), found.nodata) == (3, {"uint8"}, None)
        assert found.descriptions == NAMES
        assert found.scales == (1 / 255,) * 3
        assert found.colorinterp[0] == ColorInterp.gray
        assert found.interleaving.value == "BAND"
        assert found.mask_flag_enums == ([MaskFlags.per_dataset],) * 3
        np.testing.assert_array_equal(found.read(), planes[:-1])
        np.testing.assert_array_equal(found.dataset_mask(), planes[-1])
        tags = found.tags()
        assert found.crs.to_epsg() == 32633
        assert found.transform == from_origin(390_000, 5_820_000, 0.5, 0.5)
    assert tags["ATROUS_FINGERPRINT"] == legend.fingerprint
    assert (tags["ATROUS_SOURCE"], "ATROUS_CLASSES" in tags) == ("a.tif", False)


@pytest.mark.parametrize("codec", ["zstd", "deflate"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_cog_of_bands_is_valid(tmp_path, legend, count, codec):
    path = write(tmp_path, legend, make_planes((1300, 2100), count), codec=codec)
    assert cog_validate(path, strict=True) == (True, [], [])
    info = cog_info(path)
    assert info.Compression == codec.upper()
    assert {level.Blocksize for level in info.IFD} == {(512, 512)}
    with rasterio.open(path) as found:
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.overviews(1) == [2, 4, 8]


@pytest.mark.parametrize("block", [512, 1024, 1536, 4096])
def test_overviews_are_those_of_the_whole_array(tmp_path, legend, block):
    level = make_planes((1300, 2100), seed=block)
    path = write(tmp_path, legend, level, block)
    for number in range(3):
        level = probability_layer(NAMES).shrink(level)
        with rasterio.open(path, overview_level=number) as found:
            np.testing.assert_array_equal(found.read(), level[:-1])
            np.testing.assert_array_equal(found.dataset_mask(), level[-1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_the_file_does_not_depend_on_the_blocks(tmp_path, legend, shape, count):
    planes = make_planes(shape, count, seed=shape[0])
    blocks = (512, 1024, 1536, 2048, 8192)
    paths = [write(tmp_path, legend, planes, block) for block in blocks]
    assert len({path.read_bytes() for path in paths}) == 1
    assert cog_validate(paths[0], strict=True) == (True, [], [])
    with rasterio.open(paths[0]) as found:
        np.testing.assert_array_equal(found.read(), planes[:-1])
        np.testing.assert_array_equal(found.dataset_mask(), planes[-1])


def test_what_no_piece_covers_has_no_data(tmp_path, legend):
    planes = make_planes((1300, 2100))
    path = write(tmp_path, legend, planes, without={4})
    for plane in planes:
        plane[:512, 2048:] = 0
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(), planes[:-1])
        np.testing.assert_array_equal(found.dataset_mask(), planes[-1])
    (tmp_path / "again").mkdir()
    again = write(tmp_path / "again", legend, planes)
    assert again.read_bytes() == path.read_bytes()


def test_no_piece_at_all_is_all_nodata(tmp_path, legend):
    path = write(tmp_path, legend, [np.zeros((600, 1100), dtype=np.uint8)] * 4)
    with rasterio.open(path) as found:
        assert not found.read().any()
        assert not found.dataset_mask().any()
    assert cog_validate(path, strict=True)[0]


def test_a_large_file_is_a_bigtiff(tmp_path, legend, monkeypatch):
    planes = make_planes((600, 1100))
    monkeypatch.setattr(tiff, "_LIMIT", 1000)
    path = write(tmp_path, legend, planes)
    assert path.read_bytes()[2] == 43
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(), planes[:-1])
        np.testing.assert_array_equal(found.dataset_mask(), planes[-1])


def test_tiles_of_a_band_lie_together_between_their_sizes_and_ends(tmp_path, legend):
    """Smallest image first; in each image the mask, then band by band, row by row."""
    data = write(tmp_path, legend, make_planes((1300, 2100))).read_bytes()
    images = tiff.read_directories(data)
    assert [len(one.sizes) for one in images] == [45, 15, 18, 6, 6, 2, 3, 1]
    places = [place for one in reversed(images) for place in one.offsets.tolist()]
    assert all(left < right for left, right in itertools.pairwise(places))
    for one in images:
        for at, size in zip(one.offsets.tolist(), one.sizes.tolist(), strict=True):
            assert int.from_bytes(data[at - 4 : at], "little") == size
            assert data[at + size : at + size + 4] == data[at + size - 4 : at + size]


def test_254_classes_fit(tmp_path, make_bundle, legend):
    layer = probability_layer([one.name for one in make_bundle(count=254).classes])
    planes = [*np.arange(254, dtype=np.uint8)[:, None, None].repeat(9, 2)]
    planes.append(np.full((1, 9), 255, dtype=np.uint8))
    (part,) = cut_blocks(1, 9, 512)
    codec, path = Codec("zstd"), tmp_path / "254.tif"
    with (tmp_path / "spool").open("w+b") as spool:
        raster = Assembler((1, 9), 512, [layer], codec=codec, spool=spool)
        raster.add(part.core, encode_piece(part, [(layer, planes)], side=512, codec=codec))
        raster.write(path, layer, grid=LAYOUT, legend=legend)
    with rasterio.open(path) as found:
        assert found.descriptions == layer.bands
        np.testing.assert_array_equal(found.read(), planes[:-1])


# Pieces


@pytest.fixture
def piece():
    """A piece of a mask and of three bands."""
    planes, layer = make_planes((600, 700)), probability_layer(NAMES)
    mask = np.where(planes[-1], 2, NODATA).astype(np.uint8)
    (part,) = cut_blocks(600, 700, 1024)
    pixels = [(MASK, mask), (layer, planes)]
    data = encode_piece(part, pixels, side=1024, codec=Codec("zstd"))
    return data, mask, planes


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_piece_is_a_geotiff_people_can_open(tmp_path, piece):
    data, mask, planes = piece
    np.testing.assert_array_equal(decode_piece(data), mask)
    path = tmp_path / "piece.tif"
    path.write_bytes(data)
    with rasterio.open(f"GTIFF_DIR:3:{path}") as image:
        np.testing.assert_array_equal(image.read(), planes[:-1])
    with rasterio.open(f"GTIFF_DIR:4:{path}") as image:
        np.testing.assert_array_equal(image.read(1) > 0, planes[-1] > 0)


@pytest.mark.parametrize("layers", [[MASK], [probability_layer(NAMES)], [MASK] * 2])
def test_a_piece_of_other_layers_is_none(piece, layers):
    with pytest.raises(ValueError, match="no piece: it has 6 images, not "):
        read_piece(piece[0], 2, layers)


# What a run writes


def test_layers_are_those_that_were_asked_for(make_spec):
    def names(**fields):
        layers = list_layers(make_spec(product=Product(**fields)))
        return [RasterNames("a.tif").cog(layer.name) for layer in layers]

    assert names() == ["rasters/a.tif"]
    asked = {"confidence": True, "probabilities": ("all",)}
    expected = ["rasters/a.tif", "confidence/a.tif", "probabilities/a.tif"]
    assert names(**asked) == expected
    assert set(expected) <= {*RasterNames("a.tif")}
    spec = make_spec(product=Product(probabilities=("class 3", "0")))
    assert list_layers(spec)[1].bands == ("class 3", "class 0")


def test_layers_are_filled_with_what_was_found(make_spec, make_result):
    bare = make_result(np.array([[0, 255]], dtype=np.uint8)).segmentation
    planes = np.array([[[7, 0]], [[9, 0]]], dtype=np.uint8)
    found = dataclasses.replace(bare, probabilities=planes)
    layers = list_layers(make_spec(product=Product(probabilities=("1", "0"))))
    (_, [mask]), (_, [first, second, known]) = fill_layers(layers, found)
    assert mask.tolist() == [[0, 255]]
    assert (first.tolist(), second.tolist()) == ([[7, 0]], [[9, 0]])
    assert known.tolist() == [[255, 0]]
    with pytest.raises(ValueError, match="the segmenter was not told so"):
        fill_layers(layers, bare)
