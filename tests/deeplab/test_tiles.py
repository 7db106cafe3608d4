import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.cut import Cutter, Tile, mirror
from deeplab.tiles import Axis, Region, TileGrid, Window

SETTINGS = settings(derandomize=True, deadline=None, max_examples=150)


@st.composite
def axes(draw):
    tile = draw(st.integers(1, 40))
    return Axis(
        size=draw(st.integers(1, 3 * tile)),
        tile=tile,
        overlap=draw(st.integers(0, tile // 2)),
    )


@SETTINGS
@given(axes())
def test_weights_sum_to_one_at_every_pixel(axis):
    total = np.zeros(axis.count * axis.stride + axis.tile)
    for index in range(axis.count):
        start = index * axis.stride
        weights = axis.weights(index)
        assert weights.dtype == np.float32
        assert weights.min() >= 0
        total[start : start + axis.tile] += weights
    np.testing.assert_allclose(total[: axis.size], 1, atol=1e-6, rtol=0)


@SETTINGS
@given(axes(), st.data())
def test_touching_lists_exactly_the_tiles_that_hold_a_pixel(axis, data):
    start = data.draw(st.integers(0, axis.size - 1))
    stop = data.draw(st.integers(start + 1, axis.size))
    holds = [
        index
        for index in range(axis.count)
        if index * axis.stride < stop and index * axis.stride + axis.tile > start
    ]
    assert list(axis.touching(start, stop)) == holds
    assert axis.span(start, stop)[0] <= start
    assert axis.span(start, stop)[1] >= stop


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
        grid=TileGrid(height=5, width=7, tile=4, overlap=1),
        region=Region(height=5, width=7, core=whole, read=whole),
        pixels=pixels,
        valid=valid,
    )
    tiles = list(cutter.tiles())
    assert tiles == [(0, 0), (0, 1), (1, 0), (1, 1)]
    tile, tile_valid = np.zeros((2, 4, 4), np.uint8), np.zeros((4, 4), bool)
    for row, col in tiles:
        cutter.copy(Tile(row, col), tile, tile_valid)
        inside = np.s_[3 * row : 3 * row + 4, 3 * col : 3 * col + 4]
        lack = 4 - valid[inside].shape[0]
        expected = np.pad(pixels[:, *inside], ((0, 0), (0, lack), (0, 0)), mode="reflect")
        assert (tile == expected).all()
        assert (tile_valid == np.pad(valid[inside], ((0, lack), (0, 0)), "reflect")).all()


def test_cutter_skips_tiles_without_data():
    valid = np.zeros((8, 8), bool)
    valid[7, 0] = True
    whole = Window(row=0, col=0, height=8, width=8)
    cutter = Cutter(
        grid=TileGrid(height=8, width=8, tile=4, overlap=0),
        region=Region(height=8, width=8, core=whole, read=whole),
        pixels=np.zeros((1, 8, 8), np.uint8),
        valid=valid,
    )
    assert list(cutter.tiles()) == [(1, 0)]
