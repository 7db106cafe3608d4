"""Results at another size than the network saw, against torch on whole arrays."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from slow_twins import make_image, make_linear, twin_weights

from deeplab.pictures import Picture, Wanted, nearest
from deeplab.segmenter import Segmenter
from deeplab.stretch import Stretch
from deeplab.tiles import Tiling

SIZES = st.tuples(st.integers(1, 30), st.integers(1, 12))


@given(
    SIZES,
    SIZES,
    st.lists(st.integers(1, 29), max_size=4),
    st.integers(0, 9),
    st.integers(1, 200),
)
def test_rows_that_come_in_parts_are_those_of_torch(source, target, cuts, seed, band):
    """And so are those that are made a band at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deeplab.stretch.BAND_PIXELS", band)
        check_rows(source, target, cuts, seed, band)


def check_rows(source, target, cuts, seed, band):
    sums = torch.rand(3, *source, generator=torch.Generator().manual_seed(seed))
    expected = F.interpolate(sums[None], size=target, mode="bilinear")[0]
    stretch = Stretch(source, target, device=torch.device("cpu"))
    edges = sorted({0, source[0], *(cut for cut in cuts if cut < source[0])})
    found, row = torch.full_like(expected, torch.nan), 0
    for top, bottom in itertools.pairwise(edges):
        for first, stop, planes in stretch.take(sums[:, top:bottom]):
            assert first == row < stop
            assert (stop - first) * target[1] <= max(band, target[1])
            row = stop
            assert len(planes) == 3
            found[:, first:stop] = torch.stack([planes[index] for index in range(3)])
    assert row == target[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@given(SIZES, SIZES)
def test_validity_is_that_of_the_nearest_pixel(source, target):
    valid = np.random.default_rng(source).random(source) > 0.5
    plane = torch.from_numpy(valid.astype(np.float32))[None, None]
    expected = F.interpolate(plane, size=target, mode="nearest-exact")[0, 0] > 0
    # Torch computes places as floats, of which some just miss a border.
    assert (nearest(valid, target) != expected.numpy()).mean() < 0.02


def blend_slowly(model, bundle, pixels, valid, tiling):
    """Probabilities float32 (K, H, W) over the pixels, by loops over square tiles."""
    _, height, width = pixels.shape
    tile, overlap = tiling.tile, tiling.overlap
    tops, lefts = (range(0, max(1, s - overlap), tile - overlap) for s in (height, width))
    mean, std = (np.float32(v)[:, None, None] for v in (bundle.mean, bundle.std))
    x = (pixels.astype(np.float32) / 255 - mean) / std
    x[:, ~valid] = 0
    total = np.zeros((len(bundle.classes), height, width), np.float32)
    for top, left in itertools.product(tops, lefts):
        inside = np.s_[:, top : top + tile, left : left + tile]
        with torch.inference_mode():
            seen = model(torch.from_numpy(x[inside].copy())[None]).softmax(1)[0].numpy()
        weights = [
            twin_weights(tiling, starts, start)[:size]
            for starts, start, size in zip(
                (tops, lefts), (top, left), seen.shape[1:], strict=True
            )
        ]
        total[inside] += seen * weights[0][:, None] * weights[1]
    return torch.from_numpy(total)


@pytest.mark.parametrize("size", [(140, 45), (9, 200), (30, 30), (70, 64), (1, 1)])
@pytest.mark.parametrize("seen", [(70, 64), (30, 20)])
def test_probabilities_are_interpolated_before_the_best_is_taken(make_bundle, seen, size):
    model, bundle = make_linear(), make_bundle(tile=32, overlap=8)
    pixels, valid = make_image(*seen, seed=3)
    picture = Picture(pixels=pixels, valid=valid, size=size)
    with Segmenter(model, bundle, threads=1) as segmenter:
        (found,) = segmenter.segment_all([picture], wanted=Wanted((2,)))
        plain = segmenter.segment(pixels, valid)
    total = blend_slowly(model, bundle, pixels, valid, Tiling(tile=32, overlap=8))
    expected = F.interpolate(total[None], size=size, mode="bilinear")[0].numpy()
    here = nearest(valid, size)
    assert found.mask.shape == found.confidence.shape == size
    assert ((found.mask == 255) == ~here).all()
    second, first = np.sort(expected, axis=0)[-2:]
    clear = here & (first - second > 1e-4)
    assert clear.sum() >= 0.9 * here.sum()
    assert (found.mask[clear] == expected.argmax(0)[clear]).all()
    for plane, values in (
        (found.confidence, first),
        (found.probabilities[0], expected[2]),
    ):
        assert np.abs(plane - 255 * values)[here].max(initial=0) < 0.51
        assert (plane[~here] == 0).all()
    if size == seen:
        assert (found.mask == plain.mask).all()


def test_nothing_seen_is_nodata_at_any_size(make_bundle):
    pixels, valid = np.zeros((3, 40, 20), np.uint8), np.zeros((40, 20), bool)
    with Segmenter(make_linear(), make_bundle(), threads=1) as segmenter:
        (found,) = segmenter.segment_all(
            [Picture(pixels=pixels, valid=valid, size=(7, 9))], wanted=Wanted((0, 1))
        )
    assert found.mask.tolist() == [[255] * 9] * 7
    assert found.probabilities.shape == (2, 7, 9)


def test_sizes_that_cannot_be_are_refused(make_bundle):
    pixels, valid = np.zeros((3, 4, 4), np.uint8), np.ones((4, 4), bool)
    with (
        Segmenter(make_linear(), make_bundle(), threads=1) as segmenter,
        pytest.raises(ValueError, match=r"two positive numbers .* got \(0, 9\)"),
    ):
        segmenter.segment_all([Picture(pixels=pixels, valid=valid, size=(0, 9))])
