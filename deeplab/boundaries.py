"""How well the outlines of classes match: boundary F1, as counts that add up.

Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?"
(BMVC), section 3: a boundary pixel is right where the other map has a boundary of
the same class within a distance, 0.75 % of the image's diagonal. Precision is the
share of the given boundary that is right, recall that of the true one.

A pixel lies on the boundary of its class where one of its four neighbours is known
and has another class: neither the frame of an image nor unknown truth makes one.
Distances are exact. Boundaries are thin, so they are looked up as sorted numbers, row
by row of the disk, and what has found its match is asked for no more: no array of the
image's size is made for any class.

Letters: H and W the image, K classes, n pixels of a boundary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from deeplab.metrics import FIRST_IGNORED, mean_of_known, share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deeplab.metrics import Shares

TOLERANCE: Final = 0.0075
"""Share of the diagonal that a boundary may be off by."""

_MASK_RANK: Final = 2


class Boundaries:
    """Pixels on the boundaries of each class, and those that are right."""

    def __init__(self, classes: int) -> None:
        """Start with no pixels, of K classes."""
        self.classes = classes
        self.counts = np.zeros((4, classes), np.int64)
        """int64 (4, K): true, of them found; given, of them right."""

    def add(
        self, truth: NDArray[np.uint8], given: NDArray[np.uint8], *, tolerance_px: float
    ) -> None:
        """Count one image, as a whole.

        Args:
            truth: Class ids, uint8 (H, W); 254 and 255 are unknown.
            given: Class ids, uint8 (H, W); 254 and 255 are no class.
            tolerance_px: Largest distance between the centres of two pixels that match.

        Raises:
            ValueError: Shapes differ, or the tolerance is negative.
        """
        if truth.ndim != _MASK_RANK or truth.shape != given.shape:
            raise ValueError(
                f"masks must be two images of one size, got {truth.shape} and {given.shape}"
            )
        if not 0 <= tolerance_px < math.inf:
            raise ValueError(f"tolerance must be at least 0 px, got {tolerance_px}")
        known = truth < FIRST_IGNORED
        points = [_points(ids, known, tolerance_px) for ids in (truth, given)]
        for row, (these, those) in enumerate((points, points[::-1])):
            ids, keys = these
            right = _find(keys, those[1], _pitch(truth, tolerance_px), tolerance_px)
            for line, chosen in ((2 * row, ids), (2 * row + 1, ids[right])):
                found = np.bincount(chosen, minlength=self.classes)
                self.counts[line] += found[: self.classes]

    def precision(self) -> Shares:
        """Share of the given boundary that is right (K,); NaN where there is none."""
        return share(self.counts[3], self.counts[2])

    def recall(self) -> Shares:
        """Share of the true boundary that was found (K,); NaN where there is none."""
        return share(self.counts[1], self.counts[0])

    def f1(self) -> Shares:
        """Harmonic mean of both (K,); NaN for a class without any boundary.

        0 where one of the maps has a boundary and the other has none.
        """
        true, found, given, right = (row.astype(np.float64) for row in self.counts)
        result = np.full(self.classes, np.nan)
        # 2pr / (p + r) with both shares multiplied out.
        np.divide(
            2 * found * right, right * true + found * given, out=result, where=found > 0
        )
        result[(true + given > 0) & (found * right == 0)] = 0.0
        return result

    def mean_f1(self) -> float:
        """Mean over the classes that have a boundary; NaN where none has."""
        return mean_of_known(self.f1())


def tolerance_of(height: int, width: int, share_of_diagonal: float = TOLERANCE) -> float:
    """Pixels that a boundary may be off by in an image of a size."""
    return share_of_diagonal * math.hypot(height, width)


def find_edges(ids: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Known pixels with a known neighbour, of four, of another class, bool (H, W)."""
    edges = np.zeros(ids.shape, dtype=np.bool_)
    for one, other in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        differ = (ids[one] != ids[other]) & known[one] & known[other]
        edges[one] |= differ
        edges[other] |= differ
    return edges


def _pitch(ids: NDArray[np.uint8], tolerance_px: float) -> tuple[int, int]:
    """Rows and columns between classes and rows, so that no disk reaches across."""
    reach = math.floor(tolerance_px) + 1
    height, width = ids.shape
    return height + reach, width + reach


def _points(
    ids: NDArray[np.uint8], known: NDArray[np.bool_], tolerance_px: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Boundary pixels: their classes (n,), and sorted numbers for where they lie (n,).

    A number is (class * rows + row) * columns + column.
    """
    rows, cols = np.nonzero(find_edges(ids, known) & (ids < FIRST_IGNORED))
    classes = ids[rows, cols].astype(np.int64)
    height, width = _pitch(ids, tolerance_px)
    keys = (classes * height + rows) * width + cols
    order = np.argsort(keys, kind="stable")
    return classes[order], keys[order]


def _find(
    keys: NDArray[np.int64],
    others: NDArray[np.int64],
    pitch: tuple[int, int],
    tolerance_px: float,
) -> NDArray[np.bool_]:
    """Which points have one of the others, of their class, within the tolerance."""
    found = np.zeros(keys.shape, dtype=np.bool_)
    if not others.size:
        return found
    left = np.arange(keys.size)
    reach = math.floor(tolerance_px)
    # The nearest rows first: most points are matched by the first few.
    for offset in sorted(range(-reach, reach + 1), key=abs):
        limit = math.floor(math.sqrt(tolerance_px**2 - offset**2))
        wanted = keys[left] + offset * pitch[1]
        after = np.searchsorted(others, wanted)
        gap_after = others[np.minimum(after, others.size - 1)] - wanted
        gap_before = wanted - others[np.maximum(after - 1, 0)]
        near = (np.abs(gap_after) <= limit) | (np.abs(gap_before) <= limit)
        found[left[near]] = True
        left = left[~near]
        if not left.size:
            break
    return found
