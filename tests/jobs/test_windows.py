import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import InputError
from jobs.windows import check_block, count_blocks, count_decoded, cut_blocks

SIDES = st.integers(1, 90)


@given(height=SIDES, width=SIDES, block=st.integers(1, 40))
def test_blocks_cover_every_pixel_once(height, width, block):
    seen = np.zeros((height, width), dtype=int)
    blocks = list(cut_blocks(height, width, block))
    for part in blocks:
        core = part.core
        assert core.stop_row <= height
        assert core.stop_col <= width
        assert (part.height, part.width) == (height, width)
        seen[core.row : core.stop_row, core.col : core.stop_col] += 1
    assert (seen == 1).all()
    assert len(blocks) == count_blocks(height, width, block)


@given(SIDES, SIDES, st.integers(1, 40), st.tuples(SIDES, SIDES))
def test_whole_tiles_are_decoded(height, width, block, stored):
    pixels = np.indices((height, width))
    tiles = pixels[0] // stored[0] * 100 + pixels[1] // stored[1]
    for part in cut_blocks(height, width, block):
        core = part.core
        touched = tiles[core.row : core.stop_row, core.col : core.stop_col]
        expected = np.isin(tiles, touched).sum()
        assert count_decoded(core, stored, (height, width)) == expected


@given(height=SIDES, width=SIDES, block=st.integers(1, 40))
def test_blocks_are_numbered_row_by_row_on_one_grid(height, width, block):
    blocks = list(cut_blocks(height, width, block))
    assert [part.number for part in blocks] == list(range(len(blocks)))
    corners = [(part.core.row, part.core.col) for part in blocks]
    assert corners == sorted(corners)
    assert all(row % block == 0 and col % block == 0 for row, col in corners)


@pytest.mark.parametrize("block", [512, 1024, 4096, 5 * 512])
def test_whole_cog_tiles_are_allowed(block):
    check_block(block)


@pytest.mark.parametrize("block", [-512, 0, 1, 256, 511, 513, 1000, 2047])
def test_other_blocks_are_refused_by_name(block):
    with pytest.raises(
        InputError, match=rf"^block must be a multiple of 512 px, got {block}$"
    ):
        check_block(block)
