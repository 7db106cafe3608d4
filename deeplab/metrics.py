"""How well class ids match the truth: counts that add up over any number of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST_IGNORED: Final = 254
"""Truth from here on is not counted: 254 is "ignore", 255 is nodata."""


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

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class (K,); NaN for one never seen."""
        hits = np.diagonal(self.counts).astype(np.float64)
        union = self.counts.sum(axis=1) + self.counts[:, :-1].sum(axis=0) - hits
        iou = np.full(self.classes, np.nan)
        np.divide(hits, union, out=iou, where=union > 0)
        return iou

    def mean_iou(self) -> float:
        """Mean over the classes that were seen; NaN before the first pixel."""
        iou = self.iou()
        seen = iou[~np.isnan(iou)]
        return float(seen.mean()) if seen.size else float("nan")

    def accuracy(self) -> float:
        """Share of pixels given their true class; NaN before the first pixel."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts)) / total if total else float("nan")
