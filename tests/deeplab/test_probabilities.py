"""Probabilities of chosen classes, against whole arrays in double precision.

The twin holds all classes of all pixels, blends them with weights that it counts for
itself, and knows nothing of rows, strips, batches or bytes.
"""

import numpy as np
import pytest
import torch
from torch import nn

from deeplab.resize import enlarged_probability, enlarged_winner, resize
from deeplab.segmenter import Segmenter
from deeplab.tiles import BLENDS, Region, TileGrid, Tiling, Window

ALL = (0, 1, 2, 3)
ROUNDING = 0.5 + 1e-3
"""Counts between a byte and what it was rounded from."""


class Small(nn.Module):
    """Logits of 4 px a cell, with some context."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 4, 3, stride=2, padding=1),
        )
        nn.init.normal_(self.encoder[0].weight, std=0.3)
        nn.init.normal_(self.encoder[2].weight, std=0.5)
        nn.init.zeros_(self.encoder[2].bias)

    def classify(self, x):
        return self.encoder(x)

    def forward(self, x):
        return resize(self.classify(x), tuple(x.shape[2:]))


@pytest.fixture
def segmenter(make_bundle):
    with Segmenter(Small().eval(), make_bundle(), threads=1) as segmenter:
        yield segmenter


def make_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, -(-height // 5), -(-width // 5)))
    pixels = np.kron(coarse, np.ones((1, 5, 5)))[:, :height, :width].astype(np.uint8)
    valid = rng.random((height, width)) > 0.1
    valid[0, 0] = True
    return pixels, valid


def count_weights(size, tiling):
    """What each tile counts at each pixel of an axis: float64 (tiles, pixels)."""
    tile, stride = tiling.tile, tiling.tile - tiling.overlap
    starts = range(0, max(1, size - tiling.overlap), stride)
    at = np.arange(starts[-1] + tile) + 0.5
    counts = np.zeros((len(starts), len(at)))
    for count, start in zip(counts, starts, strict=True):
        inside = slice(start, start + tile)
        sine = np.sin(np.pi * (at[inside] - start) / tile) ** 2
        count[inside] = sine if tiling.blend == "hann" else 1
    if tiling.blend == "crop":
        middles = np.array(starts) + tile / 2
        nearest = np.abs(at - middles[:, None]).argmin(0)
        counts = (nearest == np.arange(len(starts))[:, None]).astype(float)
    return starts, counts / counts.sum(0)


def twin(bundle, pixels, valid, tiling):
    """Probabilities float64 (K, H, W), 0 where not valid."""
    model = Small().eval().double()
    height, width = valid.shape
    (tops, down), (lefts, across) = (count_weights(one, tiling) for one in valid.shape)
    tile = tiling.tile
    total = np.zeros((4, tops[-1] + tile, lefts[-1] + tile))
    mean, std = (np.array(one)[:, None, None] for one in (bundle.mean, bundle.std))
    for row, top in enumerate(tops):
        for col, left in enumerate(lefts):
            inside = np.s_[top : top + tile, left : left + tile]
            known = valid[inside]
            if not known.any():
                continue
            fill = ((0, tile - known.shape[0]), (0, tile - known.shape[1]))
            x = (
                np.pad(pixels[:, *inside] / 255, ((0, 0), *fill), mode="reflect") - mean
            ) / std
            x *= np.pad(known, fill, mode="reflect")
            with torch.inference_mode():
                found = model(torch.from_numpy(x)[None]).softmax(1)[0].numpy()
            weights = down[row, top : top + tile, None] * across[col, left : left + tile]
            total[:, *inside] += found * weights
    return total[:, :height, :width] * valid


CASES = [
    ((1, 1), 32, 12),
    ((7, 32), 32, 12),
    ((31, 30), 32, 0),  # one tile
    ((33, 31), 32, 12),
    ((52, 72), 32, 12),
    ((61, 77), 24, 17),
]


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(("size", "tile", "overlap"), CASES, ids=str)
def test_every_pixel_is_what_whole_arrays_give(segmenter, size, tile, overlap, blend):
    tiling = Tiling(tile=tile, overlap=overlap, blend=blend)
    pixels, valid = make_image(*size)
    expected = twin(segmenter.bundle, pixels, valid, tiling)
    found = segmenter.segment(pixels, valid, tiling=tiling, probabilities=ALL)
    assert found.probabilities.dtype == np.uint8
    assert np.abs(found.probabilities - 255 * expected).max() < ROUNDING
    second, first = np.sort(expected, axis=0)[-2:]
    clear = valid & (first - second > 1e-5)
    np.testing.assert_array_equal(found.mask[clear], expected.argmax(0)[clear])
    assert (found.probabilities[:, ~valid] == 0).all()


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(("size", "tile", "overlap"), CASES, ids=str)
def test_all_classes_make_one_and_the_winner_is_the_confidence(
    segmenter, size, tile, overlap, blend
):
    tiling = Tiling(tile=tile, overlap=overlap, blend=blend)
    pixels, valid = make_image(*size, seed=1)
    found = segmenter.segment(pixels, valid, tiling=tiling, probabilities=ALL)
    total = found.probabilities.astype(int).sum(0)
    assert np.abs(total - 255)[valid].max() <= len(ALL) / 2
    np.testing.assert_array_equal(found.probabilities.max(0), found.confidence)
    rows, cols = valid.nonzero()
    winner = found.probabilities[found.mask[rows, cols], rows, cols]
    np.testing.assert_array_equal(winner, found.confidence[rows, cols])
    # And asking changes nothing of what is given anyway.
    plain = segmenter.segment(pixels, valid, tiling=tiling)
    assert plain.probabilities is None
    np.testing.assert_array_equal(plain.mask, found.mask)
    np.testing.assert_array_equal(plain.confidence, found.confidence)


def test_there_is_something_to_choose_between(segmenter):
    pixels, valid = make_image(60, 60)
    found = segmenter.segment(pixels, valid, probabilities=ALL)
    assert np.bincount(found.mask[valid], minlength=4).min() > 50
    assert 0 in found.probabilities[:, valid]
    assert found.probabilities[:, valid].std() > 20


def test_chosen_classes_come_in_the_order_asked_for(segmenter):
    pixels, valid = make_image(60, 50)
    every = segmenter.segment(pixels, valid, probabilities=ALL).probabilities
    some = segmenter.segment(pixels, valid, probabilities=[3, 1]).probabilities
    np.testing.assert_array_equal(some, every[[3, 1]])


@pytest.mark.parametrize("blend", BLENDS)
def test_any_region_has_the_bits_of_the_whole(segmenter, monkeypatch, blend):
    tiling = Tiling(tile=32, overlap=11, blend=blend)
    height, width = 64, 90
    pixels, valid = make_image(height, width, seed=3)
    whole = segmenter.segment(pixels, valid, tiling=tiling, probabilities=ALL)
    monkeypatch.setattr("deeplab.pictures.STRIP", 37)
    grid = TileGrid(height=height, width=width, tiling=tiling)
    for row, col, rows, cols in ((0, 0, 64, 90), (0, 50, 20, 40), (31, 7, 33, 77)):
        core = Window(row=row, col=col, height=rows, width=cols)
        read = grid.reach(core)
        inside = np.s_[read.row : read.stop_row, read.col : read.stop_col]
        part = segmenter.segment(
            pixels[:, *inside],
            valid[inside],
            region=Region(height=height, width=width, core=core, read=read),
            tiling=tiling,
            probabilities=ALL,
        )
        expected = whole.probabilities[:, row : row + rows, col : col + cols]
        np.testing.assert_array_equal(part.probabilities, expected)


@pytest.mark.parametrize("size", [(20, 30), (50, 60)])
def test_nothing_to_see_has_no_probability(segmenter, size):
    pixels, _ = make_image(*size)
    found = segmenter.segment(pixels, np.zeros(size, dtype=bool), probabilities=(1, 2))
    assert found.probabilities.shape == (2, *size)
    assert not found.probabilities.any()


@pytest.mark.parametrize("chosen", [(4,), (-1,), (0, 7)])
def test_a_class_that_is_not_there_is_refused(segmenter, chosen):
    pixels, valid = make_image(8, 8)
    with pytest.raises(ValueError, match="must be classes 0 to 3, got"):
        segmenter.segment(pixels, valid, probabilities=chosen)


def test_one_class_at_a_time_is_the_softmax_of_all():
    logits = torch.randn(1, 21, 9, 9, generator=torch.Generator().manual_seed(1)) * 4
    ids, best, sure = enlarged_winner(logits, (33, 35))
    expected = resize(logits, (33, 35)).softmax(1)
    for index in range(21):
        one = enlarged_probability(logits, index, best, sure, align_corners=False)
        torch.testing.assert_close(one, expected[:, index], rtol=1e-5, atol=1e-6)
        assert torch.equal(one[ids == index], sure[ids == index])
