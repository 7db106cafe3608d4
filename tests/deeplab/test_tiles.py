"""The grid of tiles and its weights, against plain searches over every tile."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.cut import Cutter, Tile, mirror
from deeplab.ramps import compute_ramp
from deeplab.tiles import BLENDS, Axis, Region, TileGrid, Tiling, Window

SETTINGS = settings(derandomize=True, deadline=None, max_examples=150)


@st.composite
def tilings(draw, blend=None):
    """Every tile up to 40 px, every overlap that there may be."""
    tile = draw(st.integers(1, 40), "tile")
    return Tiling(
        tile=tile,
        overlap=draw(st.integers(0, tile - 1), "overlap"),
        blend=blend or draw(st.sampled_from(BLENDS), "blend"),
    )


@st.composite
def axes(draw, blend=None):
    tiling = draw(tilings(blend))
    return Axis(size=draw(st.integers(1, 3 * tiling.tile), "size"), tiling=tiling)


def holders(axis, start, stop):
    """By plain search: the tiles that hold a pixel of ``[start, stop)``."""
    starts = range(0, axis.count * axis.stride, axis.stride)
    pairs = enumerate(starts)
    return [index for index, one in pairs if one < stop and one + axis.tile > start]


def nearest(axis, pixel):
    """By plain search: the tile whose centre is nearest, the first one of two."""
    distances = [
        abs(Fraction(2 * pixel + 1, 2) - index * axis.stride - Fraction(axis.tile, 2))
        for index in range(axis.count)
    ]
    return distances.index(min(distances))


def ramps_of(axis):
    """The weights of each tile at each pixel of the axis: (tiles, pixels)."""
    ramps = np.zeros((axis.count, axis.count * axis.stride + axis.tile))
    for index, ramp in enumerate(ramps):
        weights = compute_ramp(axis, index)
        assert weights.dtype == np.float32
        start = index * axis.stride
        ramp[start : start + axis.tile] = weights
    return ramps[:, : axis.size]


@pytest.mark.parametrize("blend", BLENDS)
@SETTINGS
@given(data=st.data())
def test_weights_sum_to_one_at_every_pixel(blend, data):
    axis = data.draw(axes(blend))
    ramps = ramps_of(axis)
    assert ramps.min() >= 0
    np.testing.assert_allclose(ramps.sum(0), 1, atol=1e-6, rtol=0)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("tile", range(1, 9))
def test_every_raster_of_small_tiles_is_covered_whole(blend, tile):
    """No chance: each overlap, each two sides up to three tiles and one more."""
    for overlap in range(tile):
        tiling = Tiling(tile=tile, overlap=overlap, blend=blend)
        columns = [
            ramps_of(Axis(size=size, tiling=tiling)).sum(0)
            for size in range(1, 3 * tile + 2)
        ]
        for down, across in itertools.product(columns, columns):
            np.testing.assert_allclose(np.outer(down, across), 1, atol=1e-6, rtol=0)


@SETTINGS
@given(axes("crop"))
def test_crop_takes_each_pixel_from_the_tile_whose_centre_is_nearest(axis):
    ramps = ramps_of(axis)
    assert set(np.unique(ramps)) <= {0, 1}
    expected = [nearest(axis, pixel) for pixel in range(axis.size)]
    assert ramps.argmax(0).tolist() == expected


@SETTINGS
@given(axes("mean"))
def test_mean_counts_all_tiles_alike(axis):
    ramps = ramps_of(axis)
    for pixel in range(axis.size):
        held = holders(axis, pixel, pixel + 1)
        assert np.flatnonzero(ramps[:, pixel]).tolist() == held
        np.testing.assert_array_equal(ramps[held, pixel], np.float32(1 / len(held)))


@pytest.mark.parametrize("tile", [2, 8, 64, 512])
def test_hann_of_half_a_tile_is_the_hann_window_itself(tile):
    axis = Axis(size=4 * tile, tiling=Tiling(tile=tile, overlap=tile // 2))
    hann = (1 - np.cos(2 * np.pi * (np.arange(tile) + 0.5) / tile)) / 2
    np.testing.assert_allclose(compute_ramp(axis, 2), hann, atol=1e-6, rtol=0)


@SETTINGS
@given(axes("hann"))
def test_hann_falls_to_the_edges_and_is_the_same_both_ways(axis):
    for index in range(axis.count):
        ramp = compute_ramp(axis, index)
        assert ramp.min() > 0
        if 0 < index < axis.count - 1 and axis.tiling.overlap <= axis.tile // 2:
            assert (np.diff(ramp[: axis.tile // 2]) >= 0).all()
            np.testing.assert_allclose(ramp, ramp[::-1], atol=1e-6, rtol=0)


@SETTINGS
@given(axes(), st.data())
def test_touching_lists_exactly_the_tiles_that_have_a_weight(axis, data):
    start = data.draw(st.integers(0, axis.size - 1))
    stop = data.draw(st.integers(start + 1, axis.size))
    weights = ramps_of(axis)[:, start:stop].sum(1)
    touching = axis.touching(start, stop)
    assert list(touching) == np.flatnonzero(weights).tolist()
    assert list(axis.covering(start, stop)) == holders(axis, start, stop)
    first, end = axis.span(start, stop)
    assert first == touching[0] * axis.stride <= start
    assert stop <= end == min(axis.size, touching[-1] * axis.stride + axis.tile)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tile": 0}, "tile must be 1 to 8192 px, got 0"),
        ({"tile": 8193}, "tile must be 1 to 8192 px, got 8193"),
        ({"overlap": -1}, "overlap must be less than a tile, 0 to 15 px, got -1"),
        ({"overlap": 16}, "overlap must be less than a tile, 0 to 15 px, got 16"),
        ({"blend": "max"}, "blend must be hann, crop or mean, got 'max'"),
    ],
)
def test_wrong_tilings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Tiling(**{"tile": 16, "overlap": 4} | fields)


def test_wrong_sides_are_named():
    with pytest.raises(ValueError, match="raster side must be at least 1 px, got 0"):
        TileGrid(height=5, width=0, tiling=Tiling(tile=16, overlap=4))


def test_waste_is_what_the_network_sees_of_a_large_raster():
    tiling = Tiling(tile=64, overlap=16)
    assert tiling.waste == (64 / 48) ** 2
    grid = TileGrid(height=100_000, width=100_000, tiling=tiling)
    seen = grid.count * tiling.tile**2
    assert seen / 100_000**2 == pytest.approx(tiling.waste, rel=1e-3)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("length", [1, 7, 16, 40])
def test_mirror_equals_numpy_reflect(size, length):
    values = np.arange(size)
    expected = np.pad(values, (0, max(0, length - size)), mode="reflect")[:length]
    assert mirror(size, length).tolist() == expected.tolist()


def test_cutter_gives_the_raster_then_its_reflection():
    pixels = np.arange(2 * 5 * 7, dtype=np.uint8).reshape(2, 5, 7)
    valid = pixels[0] % 3 > 0
    whole = Window(row=0, col=0, height=5, width=7)
    cutter = Cutter(
        grid=TileGrid(height=5, width=7, tiling=Tiling(tile=4, overlap=1)),
        region=Region(height=5, width=7, core=whole, read=whole),
        pixels=pixels,
        valid=valid,
    )
    tiles = list(cutter.tiles())
    assert tiles == [(0, 0), (0, 1), (1, 0), (1, 1)]
    band = np.zeros((3, 4, cutter.width), np.uint8)
    for row, col in tiles:
        cutter.fill(row, band)
        left = cutter.left(Tile(row, col))
        tile = band[:, :, left : left + 4]
        inside = np.s_[3 * row : 3 * row + 4, 3 * col : 3 * col + 4]
        lack = 4 - valid[inside].shape[0]
        expected = np.pad(pixels[:, *inside], ((0, 0), (0, lack), (0, 0)), mode="reflect")
        assert (tile[:2] == expected).all()
        assert (tile[2] == np.pad(valid[inside], ((0, lack), (0, 0)), "reflect")).all()


@st.composite
def windows(draw, height, width):
    row, col = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    rows, cols = draw(st.integers(1, height - row)), draw(st.integers(1, width - col))
    return Window(row=row, col=col, height=rows, width=cols)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(4, 9), st.data())
def test_a_band_holds_each_tile_and_its_reflection(height, width, side, data):
    grid = TileGrid(height=height, width=width, tiling=Tiling(tile=side, overlap=side // 3))
    core = data.draw(windows(height, width))
    read = grid.reach(core)
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width), np.uint8)
    valid = pixels[0] > 50
    inside = np.s_[read.row : read.stop_row, read.col : read.stop_col]
    cutter = Cutter(
        grid=grid,
        region=Region(height=height, width=width, core=core, read=read),
        pixels=pixels[:, *inside],
        valid=valid[inside],
    )
    band = np.zeros((3, side, cutter.width), np.uint8)
    for tile in cutter.tiles():
        cutter.fill(tile.row, band)
        top, left = tile.row * grid.rows.stride, tile.col * grid.columns.stride
        rows = top + mirror(min(side, height - top), side)
        cols = left + mirror(min(side, width - left), side)
        found = band[:, :, cutter.left(tile) : cutter.left(tile) + side]
        assert (found[:2] == pixels[:, rows[:, None], cols]).all()
        assert (found[2] == valid[rows[:, None], cols]).all()


def test_cutter_skips_tiles_without_data():
    valid = np.zeros((8, 8), bool)
    valid[7, 0] = True
    whole = Window(row=0, col=0, height=8, width=8)
    cutter = Cutter(
        grid=TileGrid(height=8, width=8, tiling=Tiling(tile=4, overlap=0)),
        region=Region(height=8, width=8, core=whole, read=whole),
        pixels=np.zeros((1, 8, 8), np.uint8),
        valid=valid,
    )
    assert list(cutter.tiles()) == [(1, 0)]
