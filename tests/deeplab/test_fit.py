"""Tiles that fit whole images: their shapes, and what they waste."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_twins import make_linear

from deeplab.pictures import Picture, count_tiles
from deeplab.seen import Seen
from deeplab.segmenter import Segmenter
from deeplab.tiles import STEP, Axis, TileGrid, Tiling


@st.composite
def tilings(draw):
    tile = draw(st.integers(1, 600))
    return Tiling(tile=tile, overlap=draw(st.integers(0, tile // 2)))


@given(tilings(), st.integers(1, 3000))
def test_there_are_as_many_tiles_and_they_reach_just_past_the_edge(tiling, size):
    plain, fitted = Axis(size=size, tiling=tiling), Axis(size=size, tiling=tiling.fit(size))
    assert fitted.count == plain.count
    assert fitted.tile <= plain.tile
    assert fitted.tile % STEP == 0 or fitted.tile == tiling.tile
    end = (fitted.count - 1) * fitted.stride + fitted.tile
    last = (plain.count - 1) * plain.stride + plain.tile
    assert size <= end <= min(last, size + STEP * fitted.count)
    if fitted.count > 1:
        assert tiling.fit(size).overlap == tiling.overlap
    # One step smaller would not do, unless there is none.
    smaller = fitted.tile - (fitted.tile % STEP or STEP)
    overlap = tiling.overlap if fitted.count > 1 else 0
    assert fitted.count * (smaller - overlap) + overlap < size


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "expected"),
    [
        ((1, 1), 512, 128, ((32, 32), 1)),
        ((360, 480), 512, 128, ((384, 480), 1)),
        ((427, 640), 512, 128, ((448, 384), 2)),  # two of 384 px share 128 and end at 640
        ((512, 513), 512, 128, ((512, 352), 2)),
        ((1280, 896), 512, 128, ((512, 512), 6)),  # the map job's own grid
        ((20, 100), 48, 16, ((32, 48), 3)),
        ((9, 9), 20, 5, ((20, 20), 1)),
    ],
)
def test_shapes(size, tile, overlap, expected):
    picture = Picture(pixels=np.zeros((3, *size), np.uint8), valid=np.ones(size, bool))
    assert count_tiles(picture, Tiling(tile=tile, overlap=overlap)) == expected


def test_a_raster_keeps_square_tiles():
    grid = TileGrid(height=9, width=700, tiling=Tiling(tile=512, overlap=128))
    assert grid.shape == (512, 512)
    assert TileGrid(height=9, width=700, tiling=grid.tiling, fitted=True).shape == (32, 416)


def test_what_is_seen_is_counted(make_bundle):
    """Four tiles of 32 x 64 px in batches of three, one of them without data."""
    sizes = [(20, 50), (32, 64), (30, 64), (1, 64), (5, 5)]
    pictures = [
        Picture(
            pixels=np.zeros((3, *size), np.uint8), valid=np.full(size, size != (30, 64))
        )
        for size in sizes
    ]
    seen = Seen(tiles=100)
    with Segmenter(make_linear(), make_bundle(tile=64), threads=1, batch=3) as segmenter:
        segmenter.segment_all(pictures, seen=seen)
        once = Seen()
        segmenter.segment_all(pictures[:1], seen=once)
    assert (seen.tiles, seen.pixels) == (104, 3 * 32 * 64 + 3 * 32 * 32)
    assert seen.padding == seen.pixels - 20 * 50 - 32 * 64 - 64 - 25
    assert (once.tiles, once.pixels, once.padding) == (1, 3 * 2048, 3 * 2048 - 1000)
    assert seen.seconds > once.seconds > 0
