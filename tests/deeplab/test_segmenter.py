"""The segmenter against a slow twin, and against itself on other cuts."""

import itertools
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow_twins import MOBILENET, make_image, make_linear, twin_weights
from torch.utils._python_dispatch import TorchDispatchMode

import deeplab
from deeplab.aspp import RateWarning
from deeplab.fold import fold
from deeplab.pictures import Picture, Wanted, count_tiles
from deeplab.segmenter import Segmenter
from deeplab.tiles import BLENDS, Region, TileGrid, Tiling, Window
from deeplab.weights import save_bundle


def twin(model, bundle, pixels, valid, tiling=None):
    """Mask and confidence by plain loops over whole float arrays."""
    _, height, width = pixels.shape
    tiling = tiling or bundle.tiling
    tile, overlap = tiling.tile, tiling.overlap
    tops, lefts = (range(0, max(1, s - overlap), tile - overlap) for s in (height, width))
    total = np.zeros((len(bundle.classes), height, width), np.float32)
    folded = fold(model)
    for top in tops:
        for left in lefts:
            inside = np.s_[top : top + tile, left : left + tile]
            h, w = valid[inside].shape
            fill = ((0, tile - h), (0, tile - w))
            x = np.pad(pixels[:, *inside], ((0, 0), *fill), mode="reflect")
            x = x.astype(np.float32) - 255 * np.float32(bundle.mean)[:, None, None]
            x = x / (255 * np.float32(bundle.std))[:, None, None]
            x[:, ~np.pad(valid[inside], fill, mode="reflect")] = 0
            down, across = (
                twin_weights(tiling, starts, start)
                for starts, start in ((tops, top), (lefts, left))
            )
            weights = down[:, None] * across
            blended = twin_predict(folded, x) * weights
            total[:, *inside] += blended[:, :h, :w]
    mask = total.argmax(0).astype(np.uint8)
    confidence = np.minimum(np.round(total.max(0) * np.float32(255)), 255).astype(np.uint8)
    mask[~valid], confidence[~valid] = 255, 0
    return mask, confidence


def twin_predict(model, x):
    batch = torch.from_numpy(x)[None].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return model(batch).softmax(1)[0].numpy()


@pytest.fixture(scope="module")
def mobilenet():
    """A small network of random weights that gives each class some pixels."""
    torch.manual_seed(2)
    model = deeplab.build(MOBILENET, classes=4)
    images = [make_image(32, 32, seed=seed)[0] / 64 - 2 for seed in range(8)]
    x = torch.tensor(np.stack(images), dtype=torch.float32)
    with torch.no_grad():
        for _ in range(30):
            model(x)
        logits = model.eval()(x).transpose(0, 1).flatten(1)
        scale = 3 / logits.std(1)
        model.classifier.weight.mul_(scale[:, None, None, None])
        model.classifier.bias.copy_(-scale * logits.mean(1))
    return model.to(memory_format=torch.channels_last)


def segment_window(segmenter, pixels, valid, core, tiling=None):
    """Segment one window, given only the pixels that its tiles need."""
    height, width = valid.shape
    tiling = tiling or segmenter.bundle.tiling
    grid = TileGrid(height=height, width=width, tiling=tiling)
    read = grid.reach(core)
    inside = np.s_[read.row : read.stop_row, read.col : read.stop_col]
    region = Region(height=height, width=width, core=core, read=read)
    return segmenter.segment(
        pixels[:, *inside], valid[inside], region=region, tiling=tiling
    )


def segment_cut(segmenter, pixels, valid, side, tiling=None):
    """Segment in windows of ``side`` pixels and put them together."""
    height, width = valid.shape
    mask, confidence = np.zeros((2, height, width), np.uint8)
    for row in range(0, height, side[0]):
        for col in range(0, width, side[1]):
            h, w = min(side[0], height - row), min(side[1], width - col)
            core = Window(row=row, col=col, height=h, width=w)
            result = segment_window(segmenter, pixels, valid, core, tiling)
            mask[row : row + h, col : col + w] = result.mask
            confidence[row : row + h, col : col + w] = result.confidence
    return mask, confidence


@pytest.mark.parametrize("blend", BLENDS)
@settings(
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_linear_equals_the_twin_however_cut(make_bundle, blend, data):
    tile = data.draw(st.integers(1, 12), "tile")
    overlap = data.draw(st.integers(0, tile - 1), "overlap")
    tiling = Tiling(tile=tile, overlap=overlap, blend=blend)
    # At most a few hundred tiles.
    most = min(3 * tile + 2, overlap + 20 * (tile - overlap))
    height, width = data.draw(st.tuples(*[st.integers(1, most)] * 2), "size")
    bundle = make_bundle(bands=("a", "b"))
    pixels, valid = make_image(height, width, bands=2, seed=height)
    model = make_linear(bands=2)
    mask, confidence = twin(model, bundle, pixels, valid, tiling)
    with Segmenter(model, bundle, threads=1, batch=data.draw(st.integers(1, 3))) as seg:
        whole = seg.segment(pixels, valid, tiling=tiling)
        side = data.draw(st.tuples(st.integers(1, height), st.integers(1, width)), "cut")
        # At most a hundred windows.
        side = max(side[0], -(-height // 10)), max(side[1], -(-width // 10))
        cut = segment_cut(seg, pixels, valid, side, tiling)
    assert (whole.mask == mask).all()
    assert (whole.confidence == confidence).all()
    assert (cut[0] == mask).all()
    assert (cut[1] == confidence).all()


SIZES = [(1, 1), (1, 70), (5, 40), (32, 32), (33, 31), (52, 72), (70, 75)]
"""A pixel, a row, less than a tile, a tile, and with 32 and 12 px of overlap: one px
more, exactly 2 and 3 tiles, more."""


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", SIZES)
def test_network_equals_the_twin(mobilenet, make_bundle, size, blend):
    bundle = make_bundle(architecture=MOBILENET, tile=48, overlap=0)
    tiling = Tiling(tile=32, overlap=12, blend=blend)
    pixels, valid = make_image(*size)
    valid[0, 0] = True
    mask, confidence = twin(mobilenet, bundle, pixels, valid, tiling)
    with Segmenter(mobilenet, bundle, threads=1) as segmenter:
        result = segmenter.segment(pixels, valid, tiling=tiling)
    assert (result.mask == mask).all()
    assert (result.confidence == confidence).all()
    if min(size) > 60:
        assert np.bincount(mask[valid]).min() > 100  # no easy picture


def test_the_bundle_says_how_where_nobody_else_does(mobilenet, make_bundle):
    bundle = make_bundle(architecture=MOBILENET, tile=32, overlap=12)
    pixels, valid = make_image(70, 75)
    with Segmenter(mobilenet, bundle, threads=1) as segmenter:
        own = segmenter.segment(pixels, valid)
        results = {
            blend: segmenter.segment(
                pixels, valid, tiling=Tiling(tile=32, overlap=12, blend=blend)
            )
            for blend in BLENDS
        }
    np.testing.assert_array_equal(own.mask, results["hann"].mask)
    np.testing.assert_array_equal(own.confidence, results["hann"].confidence)
    for one, other in itertools.combinations(results.values(), 2):
        assert (one.mask != other.mask).any()


def test_tiles_too_small_for_the_rates_are_warned_of(mobilenet, make_bundle):
    bundle = make_bundle(architecture=MOBILENET)
    pixels, valid = make_image(289, 289)
    some, tiling = np.s_[:288, :288], Tiling(tile=320, overlap=0)
    with (
        Segmenter(mobilenet, bundle, threads=1) as segmenter,
        pytest.warns(RateWarning, match="rate 18 .* a map of 18 x 18 cells; use larger"),
    ):
        segmenter.segment(pixels[:, *some], valid[some], tiling=tiling)
    with Segmenter(mobilenet, bundle, threads=1) as segmenter, warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter.segment(pixels, valid, tiling=Tiling(tile=289, overlap=0))


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("overlap", [0, 11, 20])
def test_any_region_has_the_bits_of_the_whole(mobilenet, make_bundle, blend, overlap):
    tiling = Tiling(tile=32, overlap=overlap, blend=blend)
    pixels, valid = make_image(64, 70, seed=3)
    rng = np.random.default_rng(overlap)
    bundle = make_bundle(architecture=MOBILENET)
    with Segmenter(mobilenet, bundle, threads=1) as segmenter:
        whole = segmenter.segment(pixels, valid, tiling=tiling)
        for _ in range(4):
            row, col = rng.integers(0, (64, 70)).tolist()
            height, width = rng.integers(1, (65 - row, 71 - col)).tolist()
            core = Window(row=row, col=col, height=height, width=width)
            part = segment_window(segmenter, pixels, valid, core, tiling)
            inside = np.s_[row : row + height, col : col + width]
            np.testing.assert_array_equal(part.mask, whole.mask[inside])
            np.testing.assert_array_equal(part.confidence, whole.confidence[inside])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_network_gives_the_same_bits_however_cut(
    mobilenet, make_bundle, device, batch, precision
):
    bundle = make_bundle(architecture=MOBILENET, tile=32, overlap=12)
    pixels, valid = make_image(61, 77)
    with Segmenter(
        mobilenet, bundle, device=device, batch=batch, precision=precision, threads=1
    ) as segmenter:
        whole = segmenter.segment(pixels, valid)
        for side in [(61, 20), (23, 77), (31, 33)]:
            mask, confidence = segment_cut(segmenter, pixels, valid, side)
            assert (mask == whole.mask).all()
            assert (confidence == whole.confidence).all()
    mobilenet.to("cpu")


@pytest.mark.parametrize("blend", BLENDS)
def test_wide_images_are_blended_in_strips(mobilenet, make_bundle, monkeypatch, blend):
    tiling = Tiling(tile=16, overlap=4, blend=blend)
    pixels, valid = make_image(21, 90)
    with Segmenter(mobilenet, make_bundle(), threads=1) as segmenter:
        whole = segmenter.segment(pixels, valid, tiling=tiling)
        monkeypatch.setattr("deeplab.pictures.STRIP", 37)
        stripped = segmenter.segment(pixels, valid, tiling=tiling)
    np.testing.assert_array_equal(stripped.mask, whole.mask)
    np.testing.assert_array_equal(stripped.confidence, whole.confidence)


def test_what_is_not_valid_is_never_seen(mobilenet, make_bundle):
    bundle = make_bundle(architecture=MOBILENET, tile=32, overlap=12)
    pixels, valid = make_image(40, 50)
    valid[10:30, 5:25] = False
    other = np.where(valid, pixels, 255 - pixels)
    with Segmenter(mobilenet, bundle, threads=1) as segmenter:
        first, second = (segmenter.segment(image, valid) for image in (pixels, other))
        nothing = segmenter.segment(pixels, np.zeros_like(valid))
    assert (first.mask == second.mask).all()
    assert (first.confidence == second.confidence).all()
    assert (first.mask[~valid] == 255).all()
    assert (first.confidence[~valid] == 0).all()
    assert (first.mask[valid] < 4).all()
    assert (nothing.mask == 255).all()
    assert (nothing.confidence == 0).all()


def test_the_lowest_id_wins_a_tie(make_bundle):
    model = deeplab.build("linear", classes=4)
    torch.nn.init.zeros_(model.classifier.weight)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.0, 2.0, 2.0, 0.0]))
    pixels, _ = make_image(20, 30)
    with Segmenter(model, make_bundle(), threads=1) as segmenter:
        result = segmenter.segment(pixels, np.ones((20, 30), bool))
    share = 1 / (2 + 2 * np.exp(-2))
    assert (result.mask == 1).all()
    assert (result.confidence == round(255 * share)).all()


class Largest(TorchDispatchMode):
    """Notes how many values the largest tensor has."""

    values = 0

    def __torch_dispatch__(self, func, _, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.values = max(self.values, result.numel())
        return result


def find_largest(segmenter, pixels, valid, chosen, **options):
    largest, forward = Largest(), segmenter._segment

    def watched(*arguments, **more):
        with largest:
            return forward(*arguments, **more)

    segmenter._segment = watched
    for entropy in (False, True):
        wanted = Wanted(tuple(chosen), entropy)
        segmenter.segment_all(
            [Picture(pixels=pixels, valid=valid)], wanted=wanted, **options
        )
    return largest.values


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("chosen", [(), (0, 1, 2, 3)], ids=["", "chosen"])
@pytest.mark.parametrize("overlap", [4, 13])
def test_memory_is_bounded_by_a_row_of_tiles(make_bundle, overlap, chosen, blend):
    pixels, valid = make_image(300, 40)
    tiling = Tiling(tile=16, overlap=overlap, blend=blend)
    with Segmenter(make_linear(), make_bundle(), threads=1) as segmenter:
        values = find_largest(segmenter, pixels, valid, chosen, tiling=tiling)
    assert values == 4 * 16 * 40  # classes, tile, width


@pytest.mark.parametrize("chosen", [(), range(50)], ids=["", "chosen"])
def test_one_tile_alone_never_holds_its_logits_enlarged(make_bundle, chosen):
    class Coarse(torch.nn.Module):
        def classify(self, x):
            return x[:, :1, :4, :4].repeat(1, 50, 1, 1)

    bundle = make_bundle(tile=64, count=50)
    pixels, valid = make_image(60, 50)
    with Segmenter(Coarse(), bundle, threads=1) as segmenter:
        values = find_largest(segmenter, pixels, valid, chosen)
    # The image and where it is valid; 50 classes would be 12 times as much.
    assert values == 4 * 64 * 64


def test_pictures_share_batches_and_keep_their_bits(make_bundle):
    """One tile, many, some without data, a region: each as it is alone."""
    sizes = [(30, 30), (5, 3), (150, 90), (64, 64), (20, 20), (64, 200), (1, 1), (64, 64)]
    pictures = [
        Picture(pixels=pixels, valid=valid if number != 4 else np.zeros_like(valid))
        for number, (pixels, valid) in enumerate(
            make_image(*size, seed=number) for number, size in enumerate(sizes)
        )
    ]
    core = Window(row=10, col=20, height=70, width=40)
    region = Region(
        height=150, width=90, core=core, read=Window(row=0, col=0, height=150, width=90)
    )
    pictures.insert(3, replace(pictures[2], region=region))
    seen = []
    model = make_linear()
    model.classifier.register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
    with Segmenter(model, make_bundle(tile=64), batch=4, threads=1) as segmenter:
        tiling = segmenter.bundle.tiling
        found = segmenter.segment_all(pictures, wanted=Wanted((1,)))
        together = len(seen)
        assert segmenter.segment_all([]) == []
        for picture, one in zip(pictures, found, strict=True):
            alone = segmenter.segment(
                picture.pixels, picture.valid, region=picture.region, probabilities=(1,)
            )
            assert (one.mask == alone.mask).all()
            assert (one.confidence == alone.confidence).all()
            assert (one.probabilities == alone.probabilities).all()
    tiles = Counter()
    for picture in pictures:
        if picture.valid.any():
            shape, count = count_tiles(picture, tiling)
            tiles[shape] += count
    assert len(tiles) > 1
    assert set(seen) == {4}
    assert together == sum(-(-count // 4) for count in tiles.values())
    assert len(seen) - together > together


def test_one_thread_owns_the_device(make_bundle):
    pixels, valid = make_image(30, 30)
    seen = set()
    model = make_linear()
    model.classifier.register_forward_hook(
        lambda *_: seen.add((threading.get_ident(), torch.get_num_threads()))
    )
    with Segmenter(model, make_bundle(), threads=2) as segmenter:
        torch.set_num_threads(1)  # of this thread, and of those that never asked
        expected = segmenter.segment(pixels, valid).mask
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(segmenter.segment, pixels, valid) for _ in range(12)]
            assert all((f.result().mask == expected).all() for f in futures)
    assert len(seen) == 1
    assert {threads for _, threads in seen} == {2}
    assert torch.get_num_threads() == 1


def test_load_and_close(tmp_path, make_bundle):
    save_bundle(tmp_path / "x", make_linear(), make_bundle(), dtype=torch.float32)
    pixels, valid = make_image(20, 20)
    with Segmenter(make_linear(), make_bundle(), threads=1) as segmenter:
        expected = segmenter.segment(pixels, valid)
    loaded = Segmenter.load(tmp_path / "x", device="cpu", threads=1)
    assert (loaded.segment(pixels, valid).mask == expected.mask).all()
    loaded.close()
    loaded.close()
    with pytest.raises(ValueError, match="segmenter is closed"):
        loaded.segment(pixels, valid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "precision must be fp32 or bf16, got 'fp16'"),
        ({"batch": 0}, "at least 1, got batch=0"),
        ({"threads": 0}, "at least 1, got batch=1, threads=0"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda, got 'tpu'"),
    ],
)
def test_wrong_options_are_named(make_bundle, options, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(make_linear(), make_bundle(), **options)


def window(row, col, height, width):
    return Window(row=row, col=col, height=height, width=width)


@pytest.mark.parametrize(
    ("core", "read", "message"),
    [
        (window(0, 0, 31, 20), window(0, 0, 30, 20), "core must lie in the raster"),
        (window(0, 0, 0, 20), window(0, 0, 30, 20), "core must lie in the raster"),
        (window(12, 0, 4, 20), window(12, 0, 18, 20), "read must hold the core's tiles"),
        (window(0, 0, 30, 20), window(0, 0, 30, 21), "read must hold"),
        (window(0, 0, 10, 10), window(0, 0, 16, 16), "cover region.read, .16, 16., got"),
    ],
)
def test_wrong_regions_are_named(make_bundle, core, read, message):
    pixels, valid = make_image(30, 20)
    region = Region(height=30, width=20, core=core, read=read)
    with (
        Segmenter(make_linear(), make_bundle()) as segmenter,
        pytest.raises(ValueError, match=message),
    ):
        segmenter.segment(pixels, valid, region=region)


def test_wrong_arrays_are_named(make_bundle):
    pixels, valid = make_image(30, 20)
    with Segmenter(make_linear(), make_bundle()) as segmenter:
        with pytest.raises(ValueError, match=r"uint8 \(3, H, W\), got float64"):
            segmenter.segment(pixels / 255, valid)
        with pytest.raises(ValueError, match=r"uint8 \(3, H, W\), got uint8 \(2, 30, 20\)"):
            segmenter.segment(pixels[:2], valid)
        with pytest.raises(ValueError, match=r"bool \(30, 20\), got uint8"):
            segmenter.segment(pixels, valid.astype(np.uint8))


def test_wrong_networks_are_named(make_bundle):
    pixels, valid = make_image(20, 20)
    with (
        Segmenter(make_linear(), make_bundle(count=5)) as segmenter,
        pytest.raises(ValueError, match=r"shape \(1, 5, h, w\), got \(1, 4, 16, 16\)"),
    ):
        segmenter.segment(pixels, valid)
    model = make_linear()
    torch.nn.init.constant_(model.classifier.bias, torch.nan)
    with (
        Segmenter(model, make_bundle()) as segmenter,
        pytest.raises(FloatingPointError, match="not numbers"),
    ):
        segmenter.segment(pixels, valid)
