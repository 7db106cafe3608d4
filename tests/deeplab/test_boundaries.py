"""Boundary F1 against its definition, pixel by pixel."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab.boundaries import Boundaries, find_edges, tolerance_of


def slow_edges(ids, known, name):
    """Pixels of a class with a known neighbour that is none of it."""
    found = set()
    for row, col in itertools.product(*map(range, ids.shape)):
        if not known[row, col] or ids[row, col] != name:
            continue
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            there = row + down, col + right
            inside = 0 <= there[0] < ids.shape[0] and 0 <= there[1] < ids.shape[1]
            if inside and known[there] and ids[there] != name:
                found.add((row, col))
    return found


def slow_counts(truth, given, classes, tolerance):
    """Every boundary pixel held against every other one."""
    known = truth < 254
    counts = np.zeros((4, classes), np.int64)
    for name in range(classes):
        true, said = (slow_edges(ids, known, name) for ids in (truth, given))

        def near(these, those):
            return sum(
                any(math.dist(one, other) <= tolerance for other in those) for one in these
            )

        counts[:, name] = len(true), near(true, said), len(said), near(said, true)
    return counts


@given(st.integers(0, 2**32), st.sampled_from([0, 1, 1.5, 2.4, 5, 40]))
def test_equals_its_definition(seed, tolerance):
    random = np.random.default_rng(seed)
    classes = int(random.integers(1, 4))
    shape = random.integers(1, 12, 2)
    truth, mask = (
        random.choice([*range(classes), *odd], size=shape).astype(np.uint8)
        for odd in ([254, 255], [255])
    )
    if seed % 2:  # large areas, which noise has not
        coarse = random.integers(0, classes, (2, 3, 3))
        truth, mask = (np.kron(one, np.ones((4, 4))).astype(np.uint8) for one in coarse)
    found = Boundaries(classes)
    found.add(truth, mask, tolerance_px=tolerance)
    expected = slow_counts(truth, mask, classes, tolerance)
    np.testing.assert_array_equal(found.counts, expected)


def test_a_boundary_that_is_off_by_more_than_the_tolerance_is_wrong():
    truth, mask = np.zeros((2, 20, 30), np.uint8)
    truth[:, 15:], mask[:, 18:] = 1, 1
    scores = []
    for tolerance in (2.9, 3.0):
        found = Boundaries(2)
        found.add(truth, mask, tolerance_px=tolerance)
        scores.append(found.mean_f1())
    assert scores == [0.0, 1.0]


def test_f1_is_the_harmonic_mean_of_both_shares():
    found = Boundaries(3)
    found.counts[:] = [[10, 0, 4], [5, 0, 0], [4, 0, 0], [4, 0, 0]]
    np.testing.assert_array_equal(found.precision(), [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(found.recall(), [0.5, np.nan, 0.0])
    np.testing.assert_allclose(found.f1(), [2 * 0.5 / 1.5, np.nan, 0.0])
    assert found.mean_f1() == pytest.approx(1 / 3)


def test_neither_the_frame_nor_unknown_truth_is_a_boundary():
    truth = np.array([[0, 0, 255, 1, 1]] * 3, np.uint8)
    assert not find_edges(truth, truth < 254).any()
    found = Boundaries(2)
    found.add(truth, np.array([[0, 0, 1, 1, 1]] * 3, np.uint8), tolerance_px=9)
    assert not found.counts.any()
    assert math.isnan(found.mean_f1())


def test_tolerance_is_a_share_of_the_diagonal():
    assert tolerance_of(300, 400) == pytest.approx(3.75)


@pytest.mark.parametrize(
    ("shapes", "tolerance", "words"),
    [
        (((2, 3), (3, 2)), 1, r"one size, got \(2, 3\) and \(3, 2\)"),
        (((6,), (6,)), 1, r"two images of one size, got \(6,\)"),
        (((2, 3), (2, 3)), -1, "at least 0 px, got -1"),
        (((2, 3), (2, 3)), math.nan, "at least 0 px, got nan"),
    ],
)
def test_add_is_checked(shapes, tolerance, words):
    truth, mask = (np.zeros(shape, np.uint8) for shape in shapes)
    with pytest.raises(ValueError, match=words):
        Boundaries(2).add(truth, mask, tolerance_px=tolerance)
