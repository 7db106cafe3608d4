import numpy as np
import pytest

from deeplab.metrics import Confusion


def slow_iou(truth, given, classes):
    """Count set by set: the definition, pixel by pixel."""
    result = []
    for name in range(classes):
        true = {i for i, t in enumerate(truth.ravel()) if t == name}
        said = {
            i
            for i, (t, g) in enumerate(zip(truth.ravel(), given.ravel(), strict=True))
            if g == name and t < 254
        }
        union = true | said
        result.append(len(true & said) / len(union) if union else float("nan"))
    return np.array(result)


@pytest.mark.parametrize("classes", [1, 2, 5, 254])
def test_equals_its_slow_twin(classes):
    rng = np.random.default_rng(classes)
    ids = [*range(classes), 254, 255]
    truth = rng.choice(ids, size=(23, 31)).astype(np.uint8)
    given = np.where(
        rng.random(truth.shape) < 0.6, truth, rng.choice(ids, size=truth.shape)
    )
    confusion = Confusion(classes)
    confusion.add(truth, given.astype(np.uint8))
    expected = slow_iou(truth, given, classes)
    np.testing.assert_allclose(confusion.iou(), expected, rtol=1e-12)
    assert confusion.mean_iou() == pytest.approx(np.nanmean(expected))


def test_parts_add_up_to_the_whole():
    rng = np.random.default_rng(1)
    truth, given = rng.integers(0, 4, size=(2, 40, 30), dtype=np.uint8)
    whole, parts = Confusion(4), Confusion(4)
    whole.add(truth, given)
    for rows in (slice(0, 7), slice(7, 8), slice(8, 40)):
        parts.add(truth[rows], given[rows])
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert whole.accuracy() == pytest.approx((truth == given).mean())


def test_unknown_truth_is_left_out_and_a_missing_answer_is_a_miss():
    confusion = Confusion(2)
    truth = np.array([0, 0, 1, 254, 255], np.uint8)
    confusion.add(truth, np.array([0, 255, 254, 1, 0], np.uint8))
    np.testing.assert_array_equal(confusion.counts, [[1, 0, 1], [0, 0, 1]])
    np.testing.assert_allclose(confusion.iou(), [0.5, 0.0])
    assert confusion.accuracy() == pytest.approx(1 / 3)


def test_class_that_never_occurs_has_no_iou():
    confusion = Confusion(3)
    assert np.isnan(confusion.mean_iou())
    assert np.isnan(confusion.accuracy())
    confusion.add(np.array([0, 1], np.uint8), np.array([0, 1], np.uint8))
    np.testing.assert_array_equal(confusion.iou(), [1.0, 1.0, np.nan])
    assert confusion.mean_iou() == 1.0


def test_add_is_checked():
    confusion = Confusion(3)
    ids = np.array([0, 1, 2], np.uint8)
    with pytest.raises(ValueError, match=r"shapes must be equal, got \(3,\) and \(2,\)"):
        confusion.add(ids, ids[:2])
    with pytest.raises(
        ValueError, match="truth must hold class ids below 3, 254 or 255, got 3"
    ):
        confusion.add(ids + np.uint8(1), ids)
    with pytest.raises(
        ValueError, match="given must hold class ids below 3, 254 or 255, got 4"
    ):
        confusion.add(ids, ids + np.uint8(2))
    assert not confusion.counts.any()


@pytest.mark.parametrize("classes", [0, 255])
def test_number_of_classes_is_checked(classes):
    with pytest.raises(ValueError, match=f"1 to 254, got {classes}"):
        Confusion(classes)
