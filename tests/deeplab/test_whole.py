"""A raster in tiles against one forward pass over the whole of it.

Where a network's context is local, a tile knows all there is to know of the pixels
that lie further from its edges than that context reaches; so they must come out as if
the raster had been seen at once. The image is seen at once by the network itself, on
whole arrays, without the segmenter.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

import deeplab
from deeplab.resize import resize
from deeplab.segmenter import Segmenter
from deeplab.tiles import BLENDS, TileGrid, Tiling
from deeplab.variant import default_variant

MOBILENET = "deeplabv3plus_mobilenet_v2"
SIDES = st.integers(1, 3 * 96)
CELL = 4
"""Px of a cell of the small network."""


class Local(nn.Module):
    """Two strides and two holes: logits of 4 px a cell, with context on all sides."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(12, 4, 3, padding=1),
        )
        for layer in self.encoder[::2]:
            nn.init.normal_(layer.weight, std=(2 / layer.weight[0].numel()) ** 0.5)
        nn.init.normal_(self.encoder[-1].weight, std=0.4)

    def classify(self, x):
        return self.encoder(x)

    def forward(self, x):
        return resize(self.classify(x), tuple(x.shape[2:]))


def make_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, -(-height // 9), -(-width // 9)))
    smooth = np.kron(coarse, np.ones((1, 9, 9)))[:, :height, :width]
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def see_whole(model, bundle, pixels):
    """Probabilities float32 (K, H, W) of one forward pass."""
    mean, std = (np.float32(v)[:, None, None] for v in (bundle.mean, bundle.std))
    x = torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std)
    with torch.inference_mode():
        return model.eval()(x[None]).softmax(1)[0].numpy()


def assert_same(result, probabilities, where):
    """The class and its confidence, but for ties and the last bit of rounding."""
    second, first = np.sort(probabilities, axis=0)[-2:]
    clear = where & (first - second > 1e-4)
    assert clear.sum() > 0.9 * where.sum() > 0
    assert (result.mask[clear] == probabilities.argmax(0)[clear]).all()
    assert np.abs(result.confidence - 255 * first)[where].max() < 0.51


def measure_reach(model, side):
    """Furthest pixel that the logits of a cell depend on, in px."""
    x = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    middle = side // 2
    inside = np.s_[0, :, middle : middle + CELL, middle : middle + CELL]
    model.double()(x)[inside].sum().backward()
    rows = x.grad[0].abs().sum((0, 2)).nonzero()
    model.float()
    assert 0 < rows.min() < rows.max() < side - 1, "the image must be larger"
    return int(max(middle + CELL - 1 - rows.min(), rows.max() - middle))


def far_from_edges(axis, reach):
    """Pixels, bool (size,), that lie further than ``reach`` from what ends their tiles.

    The raster's own edge ends nothing that the whole image would not end as well,
    unless a tile reaches past it.
    """
    far = np.ones(axis.size, dtype=bool)
    for pixel in range(axis.size):
        for index in axis.touching(pixel, pixel + 1):
            start = index * axis.stride
            stop = start + axis.tile
            far[pixel] &= index == 0 or pixel - start >= reach
            far[pixel] &= stop == axis.size or min(stop, axis.size) - pixel > reach
    return far


def assert_tiles_equal_the_whole(model, bundle, tiling, size, reach):
    grid = TileGrid(height=size[0], width=size[1], tiling=tiling)
    assert grid.count >= 4, "nothing to show"
    pixels = make_image(*size)
    grid = TileGrid(height=size[0], width=size[1], tiling=tiling, fitted=True)
    far = far_from_edges(grid.rows, reach)[:, None] & far_from_edges(grid.columns, reach)
    with Segmenter(model, bundle, threads=1) as segmenter:
        result = segmenter.segment(pixels, np.ones(size, dtype=bool), tiling=tiling)
    assert_same(result, see_whole(model, bundle, pixels), far)
    return far


@pytest.fixture(scope="module")
def local():
    """The small network, and how far it looks."""
    model = Local().eval()
    reach = measure_reach(model, 128)
    assert 20 < reach <= 32
    return model, reach


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(
    ("tile", "overlap", "fits"),
    [(96, 64, True), (128, 64, True), (128, 104, True), (128, 64, False), (96, 72, False)],
)
def test_a_local_network_sees_in_tiles_what_it_sees_at_once(
    local, make_bundle, tile, overlap, fits, blend
):
    model, reach = local
    assert overlap >= 2 * reach, "no tile would know enough of some pixels"
    stride = tile - overlap
    size = (tile + 3 * stride, tile + 2 * stride)
    if not fits:
        size = (size[0] - CELL, size[1] - 3 * CELL)
    tiling = Tiling(tile=tile, overlap=overlap, blend=blend)
    far = assert_tiles_equal_the_whole(model, make_bundle(), tiling, size, reach)
    if blend == "crop" and fits:
        assert far.all()
    if blend == "crop":
        assert far[:-reach, :-reach].all()


def far_from_inner_edges(axis, reach):
    """The same for an image that is seen at once with the mirrored px past its edge."""
    far = np.ones(axis.size, dtype=bool)
    for pixel in range(axis.size):
        for index in axis.touching(pixel, pixel + 1):
            start, last = index * axis.stride, index == axis.count - 1
            far[pixel] &= index == 0 or pixel - start >= reach
            # A tile mirrors what it holds, and the image all that there is.
            stop = 2 * axis.size - 1 - start if last else start + axis.tile
            far[pixel] &= axis.count == 1 or stop - pixel > reach
    return far


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIDES, SIDES, st.sampled_from(BLENDS))
@example(1, 1, "hann")
@example(96, 97, "hann")
@example(288, 288, "mean")
def test_an_image_of_any_size_is_what_it_is_at_once(
    local, make_bundle, height, width, blend
):
    """1 x 1 px to three tiles each way, where tiles fit the image."""
    model, reach = local
    tiling = Tiling(tile=96, overlap=2 * reach, blend=blend)
    grid = TileGrid(height=height, width=width, tiling=tiling, fitted=True)
    pixels = make_image(height, width)
    with Segmenter(model, make_bundle(), threads=1) as segmenter:
        result = segmenter.segment(pixels, np.ones(pixels.shape[1:], bool), tiling=tiling)
    axes = (grid.rows, grid.columns)
    ends = [(axis.count - 1) * axis.stride + axis.tile for axis in axes]
    lack = [(0, end - axis.size) for end, axis in zip(ends, axes, strict=True)]
    whole = see_whole(model, make_bundle(), np.pad(pixels, ((0, 0), *lack), "reflect"))
    down, across = (far_from_inner_edges(axis, reach) for axis in axes)
    assert_same(result, whole[:, :height, :width], down[:, None] & across)
    if grid.count == 1:
        assert down.all()
        assert across.all()


def test_a_tile_of_the_images_own_size_is_the_image(local, make_bundle):
    """Nothing is mirrored, so that each bit is that of a plain forward pass."""
    model, _ = local
    pixels = make_image(64, 96)
    with Segmenter(model, make_bundle(), threads=1) as segmenter:
        result = segmenter.segment(
            pixels, np.ones((64, 96), dtype=bool), tiling=Tiling(tile=512, overlap=128)
        )
    assert_same(result, see_whole(model, make_bundle(), pixels), result.mask < 255)


@pytest.mark.parametrize("blend", BLENDS)
def test_too_little_overlap_is_seen(local, make_bundle, blend):
    """The comparison can fail: closer to a tile's edge pixels do differ."""
    model, reach = local
    tiling = Tiling(tile=96, overlap=0, blend=blend)
    far = assert_tiles_equal_the_whole(model, make_bundle(), tiling, (192, 192), reach)
    assert not far.all()
    with pytest.raises(AssertionError):
        assert_tiles_equal_the_whole(model, make_bundle(), tiling, (192, 192), 0)


@pytest.fixture(scope="module")
def make_mobilenet():
    """DeepLabV3+ whose statistics are of images, so that each layer has a say."""

    def make(**choices):
        torch.manual_seed(2)
        variant = dataclasses.replace(default_variant(MOBILENET), **choices)
        model = deeplab.build(MOBILENET, classes=4, atrous_rates=(1, 2), variant=variant)
        images = np.stack([make_image(128, 128, seed=seed) for seed in range(4)])
        x = torch.from_numpy((images / 255 - 0.45) / 0.25).float()
        with torch.no_grad():
            for _ in range(20):
                model(x)
            logits = model.eval()(x).transpose(0, 1).flatten(1)
            scale = 3 / logits.std(1)
            model.classifier.weight.mul_(scale[:, None, None, None])
            model.classifier.bias.copy_(-scale * logits.mean(1))
        return model, variant

    return make


@pytest.mark.parametrize(
    "choices",
    [{"image_pool": "window", "pool_window": (3, 3)}, {"image_pool": "none"}],
    ids=["window", "none"],
)
def test_deeplab_of_local_context_sees_in_tiles_what_it_sees_at_once(
    make_mobilenet, make_bundle, choices
):
    """Its cells see 309 px up and left; gradients show it, in a minute."""
    model, variant = make_mobilenet(**choices)
    bundle = make_bundle(
        architecture=MOBILENET, atrous_rates=(1, 2), variant=variant, tile=32, overlap=0
    )
    tiling = Tiling(tile=736, overlap=656, blend="crop")
    far = assert_tiles_equal_the_whole(model, bundle, tiling, (816, 816), 325)
    assert far.all()


def test_the_mean_of_the_whole_map_makes_tiles_differ(make_mobilenet, make_bundle):
    """What an image-level view of the whole image costs: bench_seams.py measures it."""
    model, variant = make_mobilenet()
    bundle = make_bundle(architecture=MOBILENET, atrous_rates=(1, 2), variant=variant)
    tiling = Tiling(tile=192, overlap=64, blend="crop")
    pixels = make_image(320, 320)
    with Segmenter(model, bundle, threads=1) as segmenter:
        result = segmenter.segment(pixels, np.ones((320, 320), dtype=bool), tiling=tiling)
    whole = see_whole(model, bundle, pixels).argmax(0)
    assert 0 < (result.mask != whole).mean() < 0.5


def test_hann_leaves_less_of_a_seam_than_mean(local, make_bundle):
    """Where tiles know too little at their edges, hann lets them say little there."""
    model, _ = local
    pixels = make_image(320, 320, seed=4)
    whole = see_whole(model, make_bundle(), pixels).argmax(0)
    shares = {}
    with Segmenter(model, make_bundle(), threads=1) as segmenter:
        for blend in BLENDS:
            tiling = Tiling(tile=96, overlap=40, blend=blend)
            valid = np.ones((320, 320), dtype=bool)
            mask = segmenter.segment(pixels, valid, tiling=tiling).mask
            shares[blend] = (mask != whole).mean()
    assert 0 < shares["hann"] < shares["mean"]
