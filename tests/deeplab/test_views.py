"""Tiles in several scales and mirrored, against plain loops."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from slow_twins import MOBILENET, make_image, make_linear, twin_weights

import deeplab
from deeplab.pictures import Picture
from deeplab.segmenter import Segmenter
from deeplab.tiles import Region, Tiling, Window
from deeplab.views import PLAIN, Views


@pytest.fixture(scope="module")
def mobilenet(request):
    torch.manual_seed(4)
    return request.getfixturevalue("randomise")(deeplab.build(MOBILENET, classes=4))


def see_slowly(model, x, views):
    """Mean probability (K, H, W) of all views of (bands, H, W)."""
    parts = []
    for scale, flip in itertools.product(views.scales, {False, views.flip}):
        image = x.flip(2) if flip else x
        size = [int((side - 1) * scale + 1) for side in x.shape[1:]]
        image = F.interpolate(image[None], size=size, mode="bilinear")
        logits = model.classify(image)
        cells = max(1.0, scale) / 4
        size = [int((side - 1) * cells + 1) for side in x.shape[1:]]
        logits = F.interpolate(logits, size=size, mode="bilinear")
        logits = F.interpolate(logits, size=x.shape[1:], mode="bilinear")[0]
        parts.append((logits.flip(2) if flip else logits).softmax(0))
    return torch.stack(parts).mean(0).numpy()


def twin(model, bundle, pixels, views):
    """Blended probabilities (K, H, W) of an image that its tiles cover to the pixel."""
    tile, overlap = bundle.tile, bundle.overlap
    tops, lefts = (range(0, s - overlap, tile - overlap) for s in pixels.shape[1:])
    mean, std = (np.float32(v)[:, None, None] for v in (bundle.mean, bundle.std))
    x = torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std)
    total = np.zeros((len(bundle.classes), *pixels.shape[1:]), np.float32)
    for top, left in itertools.product(tops, lefts):
        inside = np.s_[:, top : top + tile, left : left + tile]
        down, across = (
            twin_weights(bundle.tiling, starts, start)
            for starts, start in ((tops, top), (lefts, left))
        )
        with torch.inference_mode():
            seen = see_slowly(model, x[inside], views)
        total[inside] += seen * down[:, None] * across
    return total


@pytest.mark.parametrize(
    "views",
    [
        Views(scales=(0.75, 1.0, 1.25), flip=True),
        Views(scales=(0.5,)),
        Views(flip=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(48, 48), (80, 112)])
def test_views_of_each_tile_are_averaged(mobilenet, make_bundle, views, size):
    bundle = make_bundle(architecture=MOBILENET, tile=48, overlap=16)
    pixels, _ = make_image(*size, seed=1)
    picture = Picture(pixels=pixels, valid=np.ones(size, bool))
    with Segmenter(mobilenet, bundle, threads=1) as segmenter:
        (found,) = segmenter.segment_all([picture], views=views)
        (plain,) = segmenter.segment_all([picture])
    expected = twin(mobilenet, bundle, pixels, views)
    second, first = np.sort(expected, axis=0)[-2:]
    clear = first - second > 1e-3
    assert clear.mean() > 0.9
    assert (found.mask[clear] == expected.argmax(0)[clear]).all()
    assert np.abs(found.confidence - 255 * first).max() < 0.6
    assert (found.confidence != plain.confidence).any()


def test_one_view_has_the_bits_of_none(mobilenet, make_bundle):
    bundle = make_bundle(architecture=MOBILENET, tile=48, overlap=16)
    pictures = [
        Picture(pixels=pixels, valid=valid)
        for pixels, valid in (make_image(40, 30), make_image(70, 100))
    ]
    with Segmenter(mobilenet, bundle, threads=1, batch=2) as segmenter:
        plain = segmenter.segment_all(pictures)
        asked = segmenter.segment_all(pictures, views=Views(scales=(1.0,)))
    assert Views(scales=(1.0,)) == PLAIN
    assert PLAIN.is_plain
    for one, other in zip(plain, asked, strict=True):
        assert (one.mask == other.mask).all()
        assert (one.confidence == other.confidence).all()


def test_a_cut_changes_no_bit_of_views(mobilenet, make_bundle):
    bundle = make_bundle(architecture=MOBILENET, tile=32, overlap=8)
    pixels, valid = make_image(64, 70, seed=3)
    whole = Window(row=0, col=0, height=64, width=70)
    core = replace(whole, row=20, col=31, height=30, width=9)
    regions = [Region(height=64, width=70, core=one, read=whole) for one in (whole, core)]
    pictures = [Picture(pixels=pixels, valid=valid, region=one) for one in regions]
    views = Views(scales=(1.0, 1.5), flip=True)
    with Segmenter(mobilenet, bundle, threads=1) as segmenter:
        first, second = segmenter.segment_all(
            pictures, views=views, tiling=Tiling(tile=32, overlap=8)
        )
    assert (first.mask[20:50, 31:40] == second.mask).all()
    assert (first.confidence[20:50, 31:40] == second.confidence).all()


def test_the_view_of_a_classifier_of_pixels_is_its_own(make_bundle):
    """Mirrored, each pixel says what it says; a cell is a pixel."""
    pixels, valid = make_image(30, 50)
    picture = Picture(pixels=pixels, valid=valid)
    with Segmenter(make_linear(), make_bundle(), threads=1) as segmenter:
        (plain,) = segmenter.segment_all([picture])
        (found,) = segmenter.segment_all([picture], views=Views(flip=True))
    assert (found.mask == plain.mask).mean() > 0.999
    assert np.abs(found.confidence.astype(int) - plain.confidence).max() <= 1


@pytest.mark.parametrize(
    "scales", [(), (1.0, 1.0), (0.0,), (float("nan"),), (5.0,), tuple(range(1, 10))]
)
def test_scales_that_cannot_be_are_named(scales):
    with pytest.raises(ValueError, match="scales must be 1 to 8 different numbers of"):
        Views(scales=scales)
