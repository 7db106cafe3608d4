import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine, from_origin
from rio_cogeo.cogeo import cog_info, cog_validate

from deeplab.tiles import Window
from jobs.inputs.decoding import read_info
from jobs.inputs.raster_grid import parse_grid
from jobs.outputs.cog import NODATA, Legend, decode_piece, encode_piece, write_cog
from jobs.storage import Access
from jobs.windows import cut_blocks

HEIGHT, WIDTH = 1300, 2100


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


def pieces(mask, block):
    for part in cut_blocks(*mask.shape, block):
        core = part.core
        yield core, mask[core.row : core.stop_row, core.col : core.stop_col]


def profile(**georeferencing):
    given = {"crs": "EPSG:32633", "transform": from_origin(390_000, 5_820_000, 0.5, 0.5)}
    return {"height": HEIGHT, "width": WIDTH, **(georeferencing or given)}


def profile_of(source):
    info = read_info(source, Access())
    return {"height": info.height, "width": info.width, **parse_grid(info.grid)}


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Write a COG and say where."""

    def make(legend, found, made_of):
        path = tmp_path_factory.mktemp("cog") / "output"
        write_cog(path, profile=found, legend=legend, pieces=made_of)
        assert [one.name for one in path.parent.iterdir()] == ["output"]
        return path

    return make


@pytest.fixture
def cog(write, legend, mask):
    return write(legend, profile(), pieces(mask, 512))


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
    mask = np.arange(512 * 512, dtype=np.int64).reshape(512, 512) % 254
    found = profile() | {"height": 512, "width": 512}
    path = write(legend, found, pieces(mask.astype(np.uint8), 512))
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(1), mask)
        assert found.colormap(1)[253] == (*legend.bundle.classes[253].color, 255)
        assert len(json.loads(found.tags()["ATROUS_CLASSES"])) == 254


def test_overviews_hold_classes_that_occur_most(write, legend):
    """Nearest would take the corner, an average a class that is not there."""
    mask = np.zeros((1024, 1024), dtype=np.uint8)
    mask[1::2] = mask[:, 1::2] = 3
    found = profile() | {"height": 1024, "width": 1024}
    path = write(legend, found, pieces(mask, 512))
    with rasterio.open(path) as full:
        assert full.overviews(1) == [2]
    with rasterio.open(path, overview_level=0) as half:
        assert (half.read(1) == 3).all()


def test_overviews_reach_down_to_one_tile(cog):
    with rasterio.open(cog) as found:
        assert found.overviews(1) == [2, 4, 8]
    with rasterio.open(cog, overview_level=1) as quarter:
        assert set(np.unique(quarter.read(1))) <= {0, 1, 2, 3, NODATA}


def test_what_no_piece_covers_is_nodata(write, legend, mask):
    parts = list(pieces(mask, 512))
    absent, _ = parts.pop(4)
    path = write(legend, profile(), parts)
    expected = mask.copy()
    expected[absent.row : absent.stop_row, absent.col : absent.stop_col] = NODATA
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(1), expected)


def test_no_piece_at_all_is_all_nodata(write, legend):
    path = write(legend, profile(), [])
    with rasterio.open(path) as found:
        assert (found.read(1) == NODATA).all()
    assert cog_validate(path, strict=True)[0]


def test_the_file_does_not_depend_on_the_pieces(write, legend, mask):
    whole = Window(row=0, col=0, height=HEIGHT, width=WIDTH)
    cuts = [list(pieces(mask, block)) for block in (512, 1024, 2048)]
    shuffled = random.Random(3).sample(cuts[0], k=len(cuts[0]))
    cuts += [cuts[0][::-1], shuffled, [(whole, mask)]]
    # Nodata that is written and nodata that is left out are the same.
    cuts += [[(window, part) for window, part in cuts[0] if (part != NODATA).any()]]
    files = {write(legend, profile(), cut).read_bytes() for cut in cuts}
    assert len(files) == 1


def test_a_nodata_piece_may_be_left_out(write, legend, mask):
    hollow = mask.copy()
    hollow[512:1024, 512:1024] = NODATA
    every = list(pieces(hollow, 512))
    some = [(window, part) for window, part in every if (part != NODATA).any()]
    assert len(some) == len(every) - 1
    assert write(legend, profile(), every).read_bytes() == (
        write(legend, profile(), some).read_bytes()
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (512, 512), (513, 511), (700, 2)])
def test_small_rasters_are_cogs_too(write, legend, shape):
    mask = np.full(shape, 2, dtype=np.uint8)
    found = profile() | {"height": shape[0], "width": shape[1]}
    path = write(legend, found, pieces(mask, 512))
    assert cog_validate(path, strict=True)[0]
    with rasterio.open(path) as cog:
        np.testing.assert_array_equal(cog.read(1), mask)


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
    found = profile_of(source)
    path = write(legend, found, pieces(np.zeros((HEIGHT, WIDTH), dtype=np.uint8), 2048))
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
    path = write(legend, profile_of(source), [])
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
    path = write(legend, profile_of(source), [])
    with rasterio.open(path) as after:
        assert after.crs is None
        assert after.transform == Affine.identity()
    assert cog_validate(path, strict=True)[0]


# Pieces


@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (300, 2048), (513, 17)])
def test_a_piece_comes_back(shape):
    mask = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(decode_piece(encode_piece(mask)), mask)


def test_a_piece_has_one_file_for_one_mask(mask):
    part = mask[:512, :512]
    assert encode_piece(part) == encode_piece(part.copy())
    assert len(encode_piece(part)) < part.size / 10


def test_a_piece_is_a_geotiff_people_can_open(tmp_path, mask):
    path = Path(tmp_path, "piece.tif")
    path.write_bytes(encode_piece(mask[:512, :700]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, driver="GTiff") as piece:
            np.testing.assert_array_equal(piece.read(1), mask[:512, :700])
