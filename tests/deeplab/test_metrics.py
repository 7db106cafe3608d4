import importlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional import classification as peer

from deeplab.metrics import BINS, Calibration, Confusion, mean_of_known


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


@st.composite
def masks(draw):
    """Class count, truth with unknown pixels, and a mask that agrees now and then."""
    classes = draw(st.integers(2, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Of some classes there may be nothing, in one of both or in either.
    some = random.choice(classes, size=(2, draw(st.integers(1, classes))))
    truth = random.choice([*some[0], 254, 255], size=(9, 13)).astype(np.uint8)
    truth[0, 0] = some[0, 0]
    mask = random.choice(some[1], size=truth.shape).astype(np.uint8)
    agree = (random.random(truth.shape) < draw(st.floats(0, 1))) & (truth < 254)
    return classes, truth, np.where(agree, truth, mask)


@given(made=masks())
def test_equals_torchmetrics(double_precision, made):
    classes, truth, mask = made
    confusion = Confusion(classes)
    confusion.add(truth, mask)
    target = torch.from_numpy(np.where(truth == 254, 255, truth).astype(np.int64))
    preds = torch.from_numpy(mask.astype(np.int64))
    given = {"num_classes": classes, "ignore_index": 255, "validate_args": False}
    seen = confusion.true + confusion.given > 0
    by_class = {
        peer.multiclass_jaccard_index: confusion.iou(),
        peer.multiclass_precision: confusion.precision(),
        peer.multiclass_recall: confusion.recall(),
        peer.multiclass_f1_score: confusion.f1(),
    }
    means = {
        (peer.multiclass_jaccard_index, "macro"): confusion.mean_iou(),
        (peer.multiclass_jaccard_index, "weighted"): confusion.weighted_iou(),
        (peer.multiclass_recall, "macro"): confusion.mean_accuracy(),
        (peer.multiclass_precision, "macro"): mean_of_known(confusion.precision()),
        (peer.multiclass_f1_score, "macro"): mean_of_known(confusion.f1()),
        (peer.multiclass_accuracy, "micro"): confusion.accuracy(),
    }
    with double_precision():
        counts = peer.multiclass_confusion_matrix(preds, target, **given).numpy()
        np.testing.assert_array_equal(confusion.counts[:, :-1], counts)
        assert not confusion.counts[:, -1].any()
        for measure, ours in by_class.items():
            theirs = measure(preds, target, average="none", **given).numpy()
            np.testing.assert_allclose(ours[seen], theirs[seen], rtol=0, atol=1e-9)
            assert np.isnan(ours[~seen]).all()
        for (measure, average), ours in means.items():
            theirs = float(measure(preds, target, average=average, **given))
            assert ours == pytest.approx(theirs, rel=0, abs=1e-9)


@given(st.integers(0, 2**32), st.integers(1, 400))
def test_calibration_equals_torchmetrics(seed, pixels):
    random = np.random.default_rng(seed)
    truth = random.choice([0, 1, 2, 254], size=pixels).astype(np.uint8)
    mask = random.integers(0, 3, size=pixels, dtype=np.uint8)
    # Levels on the borders of bins, and certainty itself, come up often.
    levels = np.append(random.integers(0, 256, 9), [0, 17, 34, 238, 254, 255])
    confidence = random.choice(levels, size=pixels).astype(np.uint8)
    calibration = Calibration()
    calibration.add(truth, mask, confidence)
    known = truth < 254
    if not known.any():
        assert np.isnan(calibration.error())
        return
    sure = torch.from_numpy(confidence[known] / 255)
    right = torch.from_numpy((truth == mask)[known].astype(np.float64))
    borders = torch.from_numpy(np.arange(BINS + 1) * 17 / 255)
    theirs = importlib.import_module(
        "torchmetrics.functional.classification.calibration_error"
    )
    for norm, ours in (
        ("l1", calibration.error()),
        ("max", calibration.largest_error()),
    ):
        expected = float(theirs._ce_compute(sure, right, borders, norm=norm))
        assert ours == pytest.approx(expected, abs=1e-9)


def test_bins_are_seventeen_levels_each_and_certainty():
    calibration = Calibration()
    levels = np.arange(256, dtype=np.uint8)
    calibration.add(np.zeros(256, np.uint8), levels % 2, levels)
    pixels, right, sure = calibration.table()
    assert pixels.tolist() == [17] * BINS + [1]
    assert right[-1] == 0.0
    assert sure[-1] == 1.0
    assert sure[0] == pytest.approx(8 / 255)


def test_a_class_that_is_there_or_given_alone_counts_as_none_right():
    confusion = Confusion(4)
    confusion.add(np.array([0, 0, 1], np.uint8), np.array([0, 2, 0], np.uint8))
    np.testing.assert_array_equal(confusion.precision(), [0.5, 0.0, 0.0, np.nan])
    np.testing.assert_array_equal(confusion.recall(), [0.5, 0.0, 0.0, np.nan])
    np.testing.assert_array_equal(confusion.f1(), [0.5, 0.0, 0.0, np.nan])
    assert confusion.mean_accuracy() == pytest.approx(0.5 / 3)


def test_calibration_is_checked():
    ids = np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match=r"got \(3,\), \(3,\) and \(2,\)"):
        Calibration().add(ids, ids, ids[:2])
