"""How undecided a network is, against the plain formula in float64."""

import numpy as np
import pytest
import torch

import deeplab
from deeplab.bundle import Bundle, ClassInfo
from deeplab.entropy import enlarged_entropy, entropy_of
from deeplab.pictures import ENTROPY_SCALE, Picture, Wanted
from deeplab.resize import enlarged_winner, resize
from deeplab.segmenter import Segmenter
from deeplab.tiles import Tiling

ENTROPY = Wanted(entropy=True)


def exact(logits):
    """Entropy over log K of float64 logits (K, ...)."""
    log = torch.log_softmax(logits.double(), dim=0)
    return -(log.exp() * log).sum(0) / np.log(max(len(logits), 2))


@pytest.mark.parametrize("scale", [0, 0.1, 3, 30, 300])
@pytest.mark.parametrize("classes", [1, 2, 21])
def test_it_is_the_formula_rounded_once(scale, classes):
    random = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(2, classes, 9, 7, generator=random)
    _, best, sure = enlarged_winner(logits, (36, 28))
    found = enlarged_entropy(logits, best, sure, align_corners=False)
    assert (found.dtype, found.shape) == (torch.int16, (2, 36, 28))
    expected = torch.stack([exact(one) for one in resize(logits, (36, 28))])
    # 300 apart, float32 itself is coarser than a part.
    assert (found.double() - ENTROPY_SCALE * expected).abs().max() < 0.51 + scale / 200
    blended = torch.softmax(resize(logits, (36, 28))[0], dim=0)
    again = entropy_of(blended).double()
    assert (again - ENTROPY_SCALE * expected[0]).abs().max() < 0.51 + scale / 200


def test_all_alike_is_one_and_certain_is_nothing():
    assert (entropy_of(torch.full((5, 2, 2), 0.2)) == ENTROPY_SCALE).all()
    certain = torch.zeros(5, 2, 2)
    certain[3] = 1
    assert (entropy_of(certain) == 0).all()
    assert (entropy_of(torch.ones(1, 2, 2)) == 0).all()


@pytest.fixture(scope="module")
def segmenter():
    """A network of one layer, so that what it sees of a pixel is known."""
    torch.manual_seed(5)
    bundle = Bundle(
        architecture="linear",
        classes=tuple(ClassInfo(name=name, color=(9, 9, 9)) for name in "abcd"),
        bands=("red", "green", "blue"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        tile=32,
        overlap=8,
    )
    model = deeplab.build("linear", classes=4).eval()
    with Segmenter(model, bundle, batch=4, threads=1) as segmenter:
        yield segmenter


def picture(height, width, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (3, height, width), dtype=np.uint8)
    return Picture(pixels=pixels, valid=random.random((height, width)) < 0.8)


@pytest.mark.parametrize("size", [(20, 30), (70, 50), (33, 4200)])
def test_it_is_the_mean_over_pixels_with_data(segmenter, size):
    """Of one tile, of several that are blended, and of two strips."""
    given = picture(*size)
    (found,) = segmenter.segment_all([given], wanted=ENTROPY)
    weight, bias = (one.detach() for one in segmenter._model.parameters())
    x = (torch.from_numpy(given.pixels) / 255 - 0.5) / 0.25
    x[:, ~torch.from_numpy(given.valid)] = 0
    logits = torch.einsum("kb,bhw->khw", weight[:, :, 0, 0], x) + bias[:, None, None]
    expected = exact(logits).numpy()[given.valid]
    assert found.entropy.pixels == given.valid.sum()
    assert found.entropy.mean == pytest.approx(expected.mean(), abs=1e-5)


def test_nothing_else_changes_and_nobody_pays_who_does_not_ask(segmenter):
    given = picture(70, 50)
    (plain,) = segmenter.segment_all([given])
    (found,) = segmenter.segment_all([given], wanted=Wanted((1, 2), entropy=True))
    assert plain.entropy is None
    np.testing.assert_array_equal(plain.mask, found.mask)
    np.testing.assert_array_equal(plain.confidence, found.confidence)
    assert found.probabilities.shape == (2, 70, 50)


def test_it_does_not_depend_on_the_company(segmenter):
    """Pictures share batches, in any order and number."""
    sizes = [(20, 30), (32, 32), (70, 50), (1, 1), (40, 9)]
    given = [picture(*size, seed) for seed, size in enumerate(sizes)]
    alone = [segmenter.segment_all([one], wanted=ENTROPY)[0].entropy for one in given]
    for batch in (1, 3, 4):
        together = segmenter.segment_all(given[::-1], wanted=ENTROPY, batch=batch)
        assert [one.entropy for one in together[::-1]] == alone


def test_a_picture_without_data_has_none(segmenter):
    given = picture(40, 50)
    empty = Picture(pixels=given.pixels, valid=np.zeros((40, 50), np.bool_))
    (found,) = segmenter.segment_all(
        [empty], wanted=ENTROPY, tiling=Tiling(tile=32, overlap=8)
    )
    assert found.entropy == (0, 0)
    assert found.entropy.mean is None
