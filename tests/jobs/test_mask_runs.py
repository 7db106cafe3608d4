"""Masks as run lengths, held against pycocotools and against slow readers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from jobs.outputs.runs import encode_boxes, encode_brush, encode_coco, find_runs

MASKS = arrays(
    np.uint8,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([0, 1, 2, 253, 254, 255]),
)


def large(kind):
    """Masks whose runs take many letters, or more than one run of a brush."""
    mask = np.full((700, 900), 255, dtype=np.uint8)
    if kind == "halves":
        mask[:, 450:] = 7
        mask[350:, :10] = 3
    elif kind == "one":
        mask[:] = 0
    elif kind == "noise":
        mask = np.random.default_rng(3).integers(0, 4, mask.shape, dtype=np.uint8)
    elif kind == "rare":
        mask[::211, ::173] = 1
    return mask


def hold_coco(mask):
    runs = find_runs(mask, by_column=True)
    classes = [int(one) for one in np.unique(mask) if one < 254]
    assert runs.classes == classes
    areas, boxes = runs.areas().tolist(), runs.boxes().tolist()
    for value, counts, area, box in zip(
        classes, encode_coco(runs), areas, boxes, strict=True
    ):
        twin = coco.encode(np.asfortranarray(mask == value, dtype=np.uint8))
        assert counts == twin["counts"].decode()
        assert area == coco.area(twin)
        assert box == coco.toBbox(twin).tolist()
        by_row = find_runs(mask)
        assert by_row.boxes()[classes.index(value)].tolist() == box
        assert by_row.areas()[classes.index(value)] == area


def read_boxes(mask):
    """The mask that CVAT would draw of its elements, pixel by pixel."""
    drawn = np.full(mask.shape, 255, dtype=np.uint8)
    for value, (left, top, width, height), counts in encode_boxes(find_runs(mask)):
        assert sum(counts) == width * height
        assert all(one > 0 for one in counts[1:])
        pixels = [
            i % 2 for i, count in enumerate(counts) for _ in range(count)
        ]  # zeros first
        box = np.array(pixels, dtype=bool).reshape(height, width)
        assert box[0].any()
        assert box[-1].any()
        assert box[:, 0].any()
        assert box[:, -1].any()
        drawn[top : top + height, left : left + width][box] = value
    return drawn


def hold_brush(mask, read_brush):
    found = dict(encode_brush(find_runs(mask)))
    assert sorted(found) == [one for one in np.unique(mask) if one < 254]
    for value, data in found.items():
        assert all(0 <= byte <= 255 for byte in data)
        pixels = read_brush(data)
        assert (pixels == pixels[:, :1]).all()
        assert set(np.unique(pixels)) <= {0, 255}
        drawn = pixels[:, 0].reshape(mask.shape) == 255
        np.testing.assert_array_equal(drawn, mask == value)


def without_others(mask):
    return np.where(mask < 254, mask, 255)


@given(MASKS)
def test_small_masks_of_any_kind(read_brush, mask):
    hold_coco(mask)
    np.testing.assert_array_equal(read_boxes(mask), without_others(mask))
    hold_brush(mask, read_brush)


@pytest.mark.parametrize("kind", ["halves", "one", "noise", "rare", "none"])
def test_large_masks(kind):
    mask = large(kind)
    hold_coco(mask)
    np.testing.assert_array_equal(read_boxes(mask), without_others(mask))


@pytest.mark.parametrize("kind", ["halves", "one", "rare"])
def test_large_masks_of_a_brush(read_brush, kind):
    hold_brush(large(kind)[:300], read_brush)


@pytest.mark.parametrize("length", [1, 2, 4, 16, 64, 16384, 16385, 65536, 65537])
def test_each_size_of_a_brush_up_to_its_limit(read_brush, length):
    mask = np.full((1, length + 3), 255, dtype=np.uint8)
    mask[0, 2 : 2 + length] = 0
    hold_brush(mask, read_brush)


def test_a_mask_without_a_class_has_no_runs():
    runs = find_runs(np.full((3, 4), 254, dtype=np.uint8), by_column=True)
    assert runs.classes == []
    assert encode_coco(runs) == []
    assert runs.areas().shape == (0,)
    assert runs.boxes().shape == (0, 4)
