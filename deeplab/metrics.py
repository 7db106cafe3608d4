"""How well class ids match the truth: counts that add up over any number of images.

All that is kept are whole numbers, so images, parts of images and shards may be
counted in any order and anywhere: the sum is the same, and so is every measure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Shares = NDArray[np.float64]

FIRST_IGNORED: Final = 254
"""Truth from here on is not counted: 254 is "ignore", 255 is nodata."""

LEVELS: Final = 256
"""Of a confidence that is a byte."""

BINS: Final = 15
"""Of a reliability table, as in Guo et al. 2017, arXiv:1706.04599, section 3."""


class Confusion:
    """Pixels of each true class by the class they were given."""

    def __init__(self, classes: int) -> None:
        """Start with no pixels.

        Args:
            classes: K, 1 to 254.

        Raises:
            ValueError: ``classes`` is out of range.
        """
        if not 1 <= classes <= FIRST_IGNORED:
            raise ValueError(f"classes must be 1 to {FIRST_IGNORED}, got {classes}")
        self.classes = classes
        self.counts = np.zeros((classes, classes + 1), np.int64)
        """int64 (K, K + 1): row true, column given; the last column is "no class"."""

    def add(self, truth: NDArray[np.uint8], given: NDArray[np.uint8]) -> None:
        """Count one image, or a part of one.

        Pixels of unknown truth (254, 255) are left out. A pixel of known truth
        that was given no class (254, 255) is a miss.

        Args:
            truth: Class ids, uint8, any shape.
            given: Class ids, uint8, the same shape.

        Raises:
            ValueError: Shapes differ, or an id is neither a class nor 254 or 255.
        """
        if truth.shape != given.shape:
            raise ValueError(f"shapes must be equal, got {truth.shape} and {given.shape}")
        known = truth < FIRST_IGNORED
        rows, columns = truth[known], given[known]
        for name, ids in (("truth", rows), ("given", columns[columns < FIRST_IGNORED])):
            if ids.size and int(ids.max()) >= self.classes:
                raise ValueError(
                    f"{name} must hold class ids below {self.classes}, 254 or 255, "
                    f"got {int(ids.max())}"
                )
        width = self.classes + 1
        pairs = rows * np.intp(width) + np.minimum(columns, self.classes)
        counted = np.bincount(pairs, minlength=self.counts.size)
        self.counts += counted.reshape(self.counts.shape)

    @property
    def hits(self) -> NDArray[np.int64]:
        """Pixels that were given their true class, by class (K,)."""
        return np.diagonal(self.counts)

    @property
    def true(self) -> NDArray[np.int64]:
        """Pixels by true class (K,)."""
        found: NDArray[np.int64] = self.counts.sum(axis=1)
        return found

    @property
    def given(self) -> NDArray[np.int64]:
        """Pixels by the class they were given (K,)."""
        found: NDArray[np.int64] = self.counts[:, :-1].sum(axis=0)
        return found

    @property
    def pixels(self) -> int:
        """Pixels of known truth."""
        return int(self.counts.sum())

    def iou(self) -> Shares:
        """Intersection over union of each class (K,); NaN for one never seen."""
        return share(self.hits, self.true + self.given - self.hits)

    def mean_iou(self) -> float:
        """Mean over the classes that were seen; NaN before the first pixel."""
        return mean_of_known(self.iou())

    def accuracy(self) -> float:
        """Share of pixels given their true class; NaN before the first pixel."""
        return ratio(int(self.hits.sum()), self.pixels)

    def precision(self) -> Shares:
        """Hits among what was given a class (K,); NaN for one never seen.

        A class that is there and was never given has 0.
        """
        return self._of_seen(self.given)

    def recall(self) -> Shares:
        """Hits among what is a class (K,), its accuracy; NaN for one never seen.

        A class that was given and is not there has 0.
        """
        return self._of_seen(self.true)

    def mean_accuracy(self) -> float:
        """Mean recall over the classes that were seen; NaN before the first pixel."""
        return mean_of_known(self.recall())

    def f1(self) -> Shares:
        """Harmonic mean of precision and recall, or Dice (K,); NaN for one never seen."""
        return share(2 * self.hits, self.true + self.given)

    def weighted_iou(self) -> float:
        """IoU weighted by the truth's pixels of each class; NaN before the first."""
        iou, weights = self.iou(), self.true
        known = weights > 0
        return ratio(float((iou[known] * weights[known]).sum()), self.pixels)

    def _of_seen(self, whole: NDArray[np.int64]) -> Shares:
        found = share(self.hits, whole)
        found[(whole == 0) & (self.true + self.given > 0)] = 0.0
        return found


class Calibration:
    """Pixels by how sure the network was of their class, and whether it was right."""

    def __init__(self) -> None:
        """Start with no pixels."""
        self.counts = np.zeros((2, LEVELS), np.int64)
        """int64 (2, 256): wrong and right, by 255 times the winner's probability."""

    def add(
        self,
        truth: NDArray[np.uint8],
        given: NDArray[np.uint8],
        confidence: NDArray[np.uint8],
    ) -> None:
        """Count the pixels of one image, or a part, that have a truth and a class.

        Args:
            truth: Class ids, uint8, any shape.
            given: Class ids, uint8, the same shape.
            confidence: 255 times the probability of the class given, uint8, the same.

        Raises:
            ValueError: Shapes differ.
        """
        if not truth.shape == given.shape == confidence.shape:
            raise ValueError(
                f"shapes must be equal, got {truth.shape}, {given.shape} and "
                f"{confidence.shape}"
            )
        known = (truth < FIRST_IGNORED) & (given < FIRST_IGNORED)
        right = (truth[known] == given[known]).astype(np.intp)
        counted = np.bincount(right * LEVELS + confidence[known], minlength=2 * LEVELS)
        self.counts += counted.reshape(2, LEVELS)

    def table(self) -> tuple[NDArray[np.int64], Shares, Shares]:
        """What a reliability diagram shows.

        Bin b holds confidences from b / 15 to below (b + 1) / 15, which are 17 levels
        of the byte; certainty itself, 255, is bin 15, as it is in torchmetrics.

        Returns:
            By bin (16,): pixels, share of them that is right, and mean confidence, 0 to
            1; NaN where there is no pixel.
        """
        bins = np.arange(LEVELS) * BINS // (LEVELS - 1)
        levels = self.counts.sum(axis=0)
        pixels, right, sure = (
            np.bincount(bins, weights=values, minlength=BINS + 1).astype(np.int64)
            for values in (levels, self.counts[1], levels * np.arange(LEVELS))
        )
        return pixels, share(right, pixels), share(sure, (LEVELS - 1) * pixels)

    def error(self) -> float:
        """Expected calibration error: |right - confidence| over bins, by their pixels.

        NaN before the first pixel.
        """
        pixels, right, sure = self.table()
        known = pixels > 0
        gaps = np.abs(right[known] - sure[known]) * pixels[known]
        return ratio(float(gaps.sum()), int(pixels.sum()))

    def largest_error(self) -> float:
        """The largest gap of a bin that holds pixels; NaN before the first pixel."""
        _, right, sure = self.table()
        gaps = np.abs(right - sure)
        known = gaps[~np.isnan(gaps)]
        return float(known.max()) if known.size else float("nan")


def share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Shares:
    """One array over another; NaN where there is nothing to share."""
    found = np.full(part.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def ratio(part: float, whole: int) -> float:
    """One number over another; NaN where there is nothing to share."""
    return part / whole if whole else float("nan")


def mean_of_known(values: Shares) -> float:
    """Mean of what is not NaN; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
