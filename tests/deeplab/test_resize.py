"""The class of each pixel without its logits, against the logits themselves."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.resize import enlarged_argmax, resize

SIZES = st.integers(1, 40)


def whole(logits, size, *, align_corners):
    """All of it at once, as anybody would write it."""
    enlarged = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    return enlarged.argmax(1), enlarged.softmax(1).amax(1)


@settings(deadline=None, max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 30), SIZES, SIZES),
    size=st.tuples(SIZES, SIZES),
    align_corners=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_ids_have_the_bits_of_interpolate_and_argmax(shape, size, align_corners, seed):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 5
    ids, probability = enlarged_argmax(logits, size, align_corners=align_corners)
    expected, best = whole(logits, size, align_corners=align_corners)
    assert ids.dtype == torch.uint8
    assert torch.equal(ids.long(), expected)
    torch.testing.assert_close(probability, best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_ties_go_to_the_lowest_id(align_corners):
    logits = torch.randint(0, 2, (2, 6, 9, 9)).float()
    ids, _ = enlarged_argmax(logits, (9, 9), align_corners=align_corners)
    assert torch.equal(ids.long(), logits.argmax(1))


def test_layout_and_type_of_the_logits_do_not_matter():
    logits = torch.randn(2, 21, 33, 33)
    ids, probability = enlarged_argmax(logits, (129, 130))
    strided = logits.to(memory_format=torch.channels_last)
    assert torch.equal(enlarged_argmax(strided, (129, 130))[0], ids)
    reduced = logits.bfloat16()
    assert torch.equal(
        enlarged_argmax(reduced, (129, 130))[0],
        whole(reduced.float(), (129, 130), align_corners=False)[0].to(torch.uint8),
    )
    assert probability.dtype == torch.float32


def test_memory_is_that_of_a_few_classes(monkeypatch):
    """No plane of more than one class is ever enlarged."""
    seen, interpolate = [], F.interpolate

    def spy(x, *args, **options):
        seen.append(x.shape[1])
        return interpolate(x, *args, **options)

    monkeypatch.setattr("deeplab.resize.F.interpolate", spy)
    enlarged_argmax(torch.randn(1, 9, 3, 3), (7, 7))
    assert seen == [1] * 9


def test_values_far_apart_and_infinite():
    logits = torch.tensor([0.0, 1e4, -1e4]).view(1, 3, 1, 1)
    ids, probability = enlarged_argmax(logits, (2, 2))
    assert ids.unique().tolist() == [1]
    assert probability.unique().tolist() == [1]


def test_resize_to_the_same_size_is_free():
    x = torch.randn(1, 2, 5, 6)
    assert resize(x, (5, 6)) is x
    enlarged = resize(x, (9, 11), align_corners=True)
    assert torch.equal(enlarged[:, :, 0, 0], x[:, :, 0, 0])
    assert torch.equal(enlarged[:, :, -1, -1], x[:, :, -1, -1])
