import io
import json
import warnings
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine, from_origin
from rio_cogeo.cogeo import cog_info, cog_validate

from jobs.inputs.decoding import read_info
from jobs.outputs import tiff
from jobs.outputs.classes import class_table
from jobs.outputs.cog import Assembler, Legend
from jobs.outputs.levels import (
    CONFIDENCE,
    MASK,
    NODATA,
    Codec,
    halve_classes,
    halve_confidence,
)
from jobs.outputs.pieces import decode_piece, encode_piece
from jobs.storage import Access
from jobs.windows import cut_blocks

HEIGHT, WIDTH = 1300, 2100
ZEROS = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def legend(make_bundle):
    return Legend(bundle=make_bundle(), fingerprint="0123456789abcdef")


@pytest.fixture(scope="module")
def mask():
    """Classes in patches, with a hole of nodata."""
    patches = np.random.default_rng(1).integers(0, 4, (HEIGHT // 20, WIDTH // 20))
    mask = patches.repeat(20, axis=0).repeat(20, axis=1).astype(np.uint8)
    mask[300:700, 900:1500] = NODATA
    return mask


def grid_of(crs="EPSG:32633", transform=None, gcps=()):
    transform = transform or from_origin(390_000, 5_820_000, 0.5, 0.5)
    return json.dumps(
        {
            "crs": CRS.from_user_input(crs).to_wkt() if crs else None,
            "transform": list(transform)[:6],
            "gcps": [point.asdict() for point in gcps],
        }
    )


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Cut masks into blocks, write their pieces, put them together; say where."""

    def make(  # noqa: PLR0913
        legend, mask, block=512, *, layer=MASK, codec="zstd", grid=None, without=()
    ):
        path = tmp_path_factory.mktemp("cog") / "output"
        codec = Codec(codec)
        layers = [(MASK, mask), (CONFIDENCE, confidence_of(mask))]
        with path.with_name("spool").open("w+b") as spool:
            raster = Assembler(
                mask.shape, block, [MASK, CONFIDENCE], codec=codec, spool=spool
            )
            for part in cut_blocks(*mask.shape, block):
                core = part.core
                inside = np.s_[core.row : core.stop_row, core.col : core.stop_col]
                pixels = [(kind, whole[inside]) for kind, whole in layers]
                if part.number not in without and (mask[inside] != NODATA).any():
                    piece = encode_piece(part, pixels, side=block, codec=codec)
                    raster.add(core, piece)
            raster.write(path, layer, grid=grid or grid_of(), legend=legend)
        return path

    return make


def confidence_of(mask):
    """Like probabilities: none where there is no class."""
    noise = np.random.default_rng(5).integers(64, 256, mask.shape)
    return np.where(mask == NODATA, 0, noise).astype(np.uint8)


@pytest.fixture
def cog(write, legend, mask):
    return write(legend, mask)


def test_a_cog_holds_the_mask(cog, mask):
    with rasterio.open(cog) as found:
        assert (found.count, found.dtypes, found.nodata) == (1, ("uint8",), NODATA)
        assert found.shape == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(found.read(1), mask)
        np.testing.assert_array_equal(found.dataset_mask() != 0, mask != NODATA)


def test_a_cog_is_valid(cog):
    assert cog_validate(cog, strict=True) == (True, [], [])
    info = cog_info(cog)
    assert [level.Blocksize for level in info.IFD] == [(512, 512)] * len(info.IFD)
    assert info.Compression == "ZSTD"


def test_palette_names_and_provenance(cog, legend):
    with rasterio.open(cog) as found:
        assert found.colorinterp == (ColorInterp.palette,)
        palette = found.colormap(1)
        tags = found.tags()
    for i, info in enumerate(legend.bundle.classes):
        assert palette[i] == (*info.color, 255)
    assert palette[NODATA][3] == 0
    assert json.loads(tags["ATROUS_CLASSES"]) == {
        str(i): info.name for i, info in enumerate(legend.bundle.classes)
    }
    assert tags["ATROUS_BUNDLE"] == legend.bundle.digest
    assert tags["ATROUS_FINGERPRINT"] == legend.fingerprint


def test_254_classes_fit(write, make_bundle):
    legend = Legend(bundle=make_bundle(count=254), fingerprint="f")
    mask = (np.arange(512 * 512).reshape(512, 512) % 254).astype(np.uint8)
    with rasterio.open(write(legend, mask)) as found:
        np.testing.assert_array_equal(found.read(1), mask)
        assert found.colormap(1)[253] == (*legend.bundle.classes[253].color, 255)
        assert len(json.loads(found.tags()["ATROUS_CLASSES"])) == 254


def test_classes_have_names_beside_the_file(make_bundle):
    root = ET.fromstring(class_table(make_bundle(count=3).classes))  # noqa: S314 - ours
    names = [one.name for one in make_bundle(count=3).classes]
    assert [one.text for one in root.iter("Category")] == names
    rows = [[field.text for field in row] for row in root.iter("Row")]
    assert [row[:2] for row in rows] == [[str(i), name] for i, name in enumerate(names)]
    assert tuple(map(int, rows[1][2:])) == make_bundle(count=3).classes[1].color


def test_probabilities_have_a_file_of_their_own(write, legend, mask):
    path = write(legend, mask, layer=CONFIDENCE)
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(1), confidence_of(mask))
        assert (found.nodata, found.scales) == (0, (1 / 255,))
        assert found.colorinterp == (ColorInterp.gray,)
        assert "ATROUS_CLASSES" not in found.tags()
    assert cog_validate(path, strict=True) == (True, [], [])


@pytest.mark.parametrize("codec", ["zstd", "deflate"])
def test_tiles_are_compressed_as_was_asked(write, legend, mask, codec):
    path = write(legend, mask, codec=codec)
    assert cog_info(path).Compression == codec.upper()
    assert cog_validate(path, strict=True)[0]
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(1), mask)


def test_a_large_file_is_a_bigtiff(write, legend, mask, monkeypatch):
    plain = write(legend, mask)
    monkeypatch.setattr(tiff, "_LIMIT", 1000)
    large = write(legend, mask)
    assert (plain.read_bytes()[2], large.read_bytes()[2]) == (42, 43)
    assert cog_validate(large, strict=True) == (True, [], [])
    for level in (None, 0, 2):
        option = {} if level is None else {"overview_level": level}
        with rasterio.open(plain, **option) as one, rasterio.open(large, **option) as other:
            np.testing.assert_array_equal(one.read(), other.read())


def test_gdal_knows_how_the_file_is_laid_out(cog):
    """So that it may read a tile and its size at once."""
    with rasterio.open(cog) as found:
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "ZSTD"


def test_each_tile_stands_between_its_size_and_its_end(cog):
    """GDAL trusts both, and reads a tile without its table."""
    data = cog.read_bytes()
    places = [
        (int(at), int(size))
        for one in tiff.read_directories(data)
        for at, size in zip(one.offsets, one.sizes, strict=True)
    ]
    assert len(places) == 15 + 6 + 2 + 1
    for at, size in places:
        assert int.from_bytes(data[at - 4 : at], "little") == size
        assert data[at + size : at + size + 4] == data[at + size - 4 : at + size]


# Overviews


def slow_classes(mask):
    """Count the classes under each pixel, one by one."""
    height, width = (-(-side // 2) for side in mask.shape)
    out = np.full((height, width), NODATA, dtype=np.uint8)
    for row, col in np.ndindex(height, width):
        four = mask[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].ravel().tolist()
        known = [value for value in four if value != NODATA]
        if known:
            out[row, col] = max(known, key=known.count)
    return out


def slow_confidence(level):
    height, width = (-(-side // 2) for side in level.shape)
    out = np.zeros((height, width), dtype=np.uint8)
    for row, col in np.ndindex(height, width):
        four = level[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].ravel().tolist()
        known = [value for value in four if value]
        if known:
            out[row, col] = int(sum(known) / len(known) + 0.5)
    return out


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (7, 5), (8, 8), (33, 64)])
def test_smaller_levels_are_what_one_would_count(shape):
    random = np.random.default_rng(7)
    mask = random.choice([0, 1, 2, 254, NODATA], shape).astype(np.uint8)
    np.testing.assert_array_equal(halve_classes(mask), slow_classes(mask))
    level = random.choice([0, 1, 2, 200, 255], shape).astype(np.uint8)
    np.testing.assert_array_equal(halve_confidence(level), slow_confidence(level))


@pytest.mark.parametrize(
    ("layer", "whole"), [(MASK, lambda mask: mask), (CONFIDENCE, confidence_of)]
)
@pytest.mark.parametrize("block", [512, 1024, 1536, 4096])
def test_overviews_are_those_of_the_whole_array(write, legend, mask, block, layer, whole):
    path = write(legend, mask, block, layer=layer)
    with rasterio.open(path) as found:
        assert found.overviews(1) == [2, 4, 8]
    level = whole(mask)
    for number in range(3):
        level = layer.halve(level)
        with rasterio.open(path, overview_level=number) as found:
            np.testing.assert_array_equal(found.read(1), level)


# Blocks


def test_what_no_piece_covers_is_nodata(write, legend, mask):
    path = write(legend, mask, without={4})
    expected = mask.copy()
    expected[:512, 2048:] = NODATA
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(1), expected)
    assert write(legend, expected).read_bytes() == path.read_bytes()


def test_no_piece_at_all_is_all_nodata(write, legend):
    path = write(legend, np.full((HEIGHT, WIDTH), NODATA, dtype=np.uint8))
    with rasterio.open(path) as found:
        assert (found.read(1) == NODATA).all()
    assert cog_validate(path, strict=True)[0]


@pytest.mark.parametrize("layer", [MASK, CONFIDENCE])
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 700), (512, 512), (513, 511), (1025, 5000), (HEIGHT, WIDTH)]
)
def test_the_file_does_not_depend_on_the_blocks(write, legend, shape, layer):
    patches = np.random.default_rng(4).integers(
        0, 5, (shape[0] // 9 + 1, shape[1] // 9 + 1)
    )
    mask = patches.repeat(9, axis=0).repeat(9, axis=1)[: shape[0], : shape[1]]
    mask = np.where(mask == 4, NODATA, mask).astype(np.uint8)
    mask[600:1200, 400:1100] = NODATA
    blocks = (512, 1024, 1536, 2048, 8192)
    paths = [write(legend, mask, block, layer=layer) for block in blocks]
    assert len({path.read_bytes() for path in paths}) == 1
    assert cog_validate(paths[0], strict=True) == (True, [], [])
    with rasterio.open(paths[0]) as cog:
        expected = mask if layer is MASK else confidence_of(mask)
        np.testing.assert_array_equal(cog.read(1), expected)


def test_a_tile_that_is_not_what_was_announced_is_an_error():
    directory = tiff.Directory(
        tags={},
        sizes=np.array([9, 9], dtype=np.uint64),
        offsets=np.zeros(2, dtype=np.uint64),
    )
    with pytest.raises(ValueError, match="a tile of 0 bytes, 9 were announced"):
        tiff.write_tiff(io.BytesIO(), [directory], [b"123456789", b""])


@pytest.mark.parametrize("cut", [0, 3, 8, 60, 200, 400])
def test_a_piece_cut_short_is_no_piece(mask, cut):
    part = next(cut_blocks(512, 512, 512))
    data = encode_piece(part, [(MASK, mask[:512, :512])], side=512, codec=Codec("zstd"))
    with pytest.raises(ValueError, match=r"no .*TIFF|after the file"):
        tiff.read_directories(data[:cut])


# Georeferencing: what is read from a source lies on the same grid when written.


def points():
    corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)]
    return [
        GroundControlPoint(row=r, col=c, x=13 + c * 1e-5 + r * 1e-7, y=52 - r * 1e-5)
        for r, c in corners
    ]


GRIDS = {
    "north up": {
        "crs": "EPSG:32633",
        "transform": from_origin(390_000, 5_820_000, 0.5, 0.5),
    },
    "no CRS": {"crs": None, "transform": from_origin(10, 20, 0.5, 0.25)},
    "rotated": {
        "crs": "EPSG:3857",
        "transform": Affine.translation(1e6, 6e6)
        @ Affine.rotation(30)
        @ Affine.scale(2, -2),
    },
    "south up": {"crs": "EPSG:32633", "transform": Affine(1, 0, 390_000, 0, 1, 5_000_000)},
    "degrees": {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 13.4, 0, -1e-5, 52.5)},
    "custom CRS": {
        "crs": "+proj=laea +lat_0=47 +lon_0=11 +x_0=5 +ellps=GRS80 +units=m +no_defs",
        "transform": from_origin(10, 20, 1, 1),
    },
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_cog_lies_on_its_source(write, legend, write_raster, name):
    source = write_raster(np.zeros((1, HEIGHT, WIDTH), dtype=np.uint8), **GRIDS[name])
    path = write(legend, ZEROS, 2048, grid=read_info(source, Access()).grid)
    with rasterio.open(source) as before, rasterio.open(path) as after:
        assert (after.height, after.width) == (before.height, before.width)
        assert after.transform == before.transform
        assert after.crs == before.crs
        assert after.bounds == before.bounds
    assert cog_validate(path, strict=True)[0]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:4326",
        "",
    ],
)
def test_a_cog_keeps_the_control_points_of_its_source(write, legend, write_raster, crs):
    crs = CRS.from_user_input(crs) if crs else CRS()
    source = write_raster(
        np.zeros((1, HEIGHT, WIDTH), dtype=np.uint8), transform=None, gcps=points(), crs=crs
    )
    path = write(legend, ZEROS, grid=read_info(source, Access()).grid)
    with rasterio.open(source) as before, rasterio.open(path) as after:
        old, new = before.gcps, after.gcps
        assert [(p.row, p.col, p.x, p.y) for p in new[0]] == [
            (p.row, p.col, p.x, p.y) for p in old[0]
        ]
        assert len(new[0]) == 4
        assert new[1] == old[1]
    assert cog_validate(path, strict=True)[0]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_raster_of_nowhere_stays_there(write, legend, write_raster):
    source = write_raster(
        np.zeros((1, HEIGHT, WIDTH), dtype=np.uint8), transform=None, crs=None
    )
    path = write(legend, ZEROS, grid=read_info(source, Access()).grid)
    with rasterio.open(path) as after:
        assert after.crs is None
        assert after.transform == Affine.identity()
    assert cog_validate(path, strict=True)[0]


# Pieces


def piece_of(mask, side=4096):
    part = next(cut_blocks(*mask.shape, side))
    return encode_piece(part, [(MASK, mask)], side=side, codec=Codec("zstd"))


@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (300, 2048), (513, 17)])
def test_a_piece_comes_back(shape):
    mask = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(decode_piece(piece_of(mask)), mask)


def test_a_piece_has_one_file_for_one_mask(mask):
    part = mask[:512, :512]
    assert piece_of(part) == piece_of(part.copy())
    assert len(piece_of(part)) < part.size / 10


def test_a_piece_is_a_geotiff_people_can_open(tmp_path, mask):
    path = Path(tmp_path, "piece.tif")
    path.write_bytes(piece_of(mask[:600, :700]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, driver="GTiff") as piece:
            np.testing.assert_array_equal(piece.read(1), mask[:600, :700])
            assert piece.overviews(1) == [2]
