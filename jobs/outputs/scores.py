"""What a shard of an evaluation counted: one JSON object, of whole numbers alone.

    {"confusion": [[...]], "confidence": [[...], [...]], "boundaries": [[...], ...],
     "images": [{"key": "a.jpg", "classes": {"3": [...]}, ...}], "record": {...}}

The first three are as in ``deeplab.metrics`` and ``deeplab.boundaries``. An image, or a
part of a raster, has seven numbers for each class that is in it: true, given and right
pixels; true boundary, of it found, given boundary, of it right.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from deeplab.boundaries import Boundaries
from deeplab.metrics import FIRST_IGNORED, Calibration, Confusion, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from jobs.job import Result, TrueMask
    from jobs.truth import Truth

FORMAT_VERSION: Final = 1
NODATA: Final = 255
NUMBERS: Final = 7
"""Of a class in an image."""


@dataclass(slots=True, kw_only=True)
class ImageScore:
    """How well one image, or a part of a raster, was done."""

    uri: str
    key: str
    truth: str
    """Where its mask was read."""

    truth_etag: str
    pixels: int
    """Pixels that were judged."""

    unknown: int
    """Pixels without a truth, or without data."""

    classes: dict[str, list[int]] = field(default_factory=dict)

    def add(self, other: ImageScore) -> None:
        """Take in another part of the same raster; a mask that changed shows itself."""
        if other.truth_etag not in self.truth_etag.split(", "):
            etags = {*self.truth_etag.split(", "), other.truth_etag}
            self.truth_etag = ", ".join(sorted(etags))
        self.pixels += other.pixels
        self.unknown += other.unknown
        for name, numbers in other.classes.items():
            held = self.classes.get(name, [0] * NUMBERS)
            self.classes[name] = [a + b for a, b in zip(held, numbers, strict=True)]

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that are there or were given; NaN without any."""
        return _mean(
            hits / (true + given - hits)
            for true, given, hits, *_ in self.classes.values()
            if true + given
        )

    @property
    def accuracy(self) -> float:
        """Share of pixels that are right; NaN without any."""
        return ratio(sum(one[2] for one in self.classes.values()), self.pixels)

    @property
    def boundary_f1(self) -> float:
        """Mean over the classes that have a boundary; NaN without any."""
        return _mean(
            2 * found * right / (right * true + found * given) if found * right else 0.0
            for *_, true, found, given, right in self.classes.values()
            if true + given
        )


class Scores:
    """All that was counted of some images; sums of it are the same in any order."""

    def __init__(self, classes: int) -> None:
        """Start with no image, of K classes."""
        self.confusion = Confusion(classes)
        self.calibration = Calibration()
        self.boundaries = Boundaries(classes)

    def add(self, other: Scores) -> None:
        """Take in another sum."""
        self.confusion.counts += other.confusion.counts
        self.calibration.counts += other.calibration.counts
        self.boundaries.counts += other.boundaries.counts

    def to_json(self) -> dict[str, Any]:
        """As lists."""
        return {
            "confusion": self.confusion.counts.tolist(),
            "confidence": self.calibration.counts.tolist(),
            "boundaries": self.boundaries.counts.tolist(),
        }

    @classmethod
    def parse(cls, fields: dict[str, Any], classes: int) -> Self:
        """Of what ``to_json`` gave.

        Raises:
            ValueError: It holds something else.
        """
        found = cls(classes)
        for name, counts in (
            ("confusion", found.confusion.counts),
            ("confidence", found.calibration.counts),
            ("boundaries", found.boundaries.counts),
        ):
            given = np.array(fields[name])
            if given.shape != counts.shape or given.dtype.kind != "i" or given.min() < 0:
                raise ValueError(f"{name} must be {counts.shape} counts, got {given.shape}")
            counts[:] = given
        return found


class Judge:
    """Holds masks against their truth, image by image."""

    def __init__(self, classes: int, truth: Truth, cell: int | None) -> None:
        """Start with no image.

        Args:
            classes: K.
            truth: What boundaries may be off by.
            cell: Side of the squares whose boundaries are compared, in px; None for
                images, which are compared as a whole.
        """
        self._classes, self._truth, self._cell = classes, truth, cell
        self.scores = Scores(classes)
        self.images: list[ImageScore] = []

    def add(self, result: Result, truth: TrueMask) -> ImageScore:
        """Judge one image, or a part of a raster."""
        found, ids = result.segmentation, truth.ids.copy()
        ids[found.mask == NODATA] = FIRST_IGNORED  # nothing was to be seen there
        one = Scores(self._classes)
        one.confusion.add(ids, found.mask)
        one.calibration.add(ids, found.mask, found.confidence)
        for rows, cols in self._cells(*ids.shape):
            side = (rows.stop - rows.start, cols.stop - cols.start)
            size = side if self._cell is None else (self._cell, self._cell)
            one.boundaries.add(
                ids[rows, cols],
                found.mask[rows, cols],
                tolerance_px=self._truth.tolerance_px(*size),
            )
        self.scores.add(one)
        pixels = one.confusion.pixels
        self.images.append(
            ImageScore(
                uri=result.item.uri,
                key=result.item.key,
                truth=truth.uri,
                truth_etag=truth.etag,
                pixels=pixels,
                unknown=ids.size - pixels,
                classes=_by_class(one),
            )
        )
        return self.images[-1]

    def _cells(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        side = self._cell or max(height, width)
        for row in range(0, height, side):
            for col in range(0, width, side):
                yield (
                    slice(row, min(row + side, height)),
                    slice(col, min(col + side, width)),
                )

    def to_json(self, record: str) -> bytes:
        """The shard's object; ``record`` is for an attempt that comes too late."""
        fields = {
            "format_version": FORMAT_VERSION,
            "record": json.loads(record),
            **self.scores.to_json(),
            "images": [asdict(one) for one in self.images],
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A shard's object, read again."""

    scores: Scores
    images: list[ImageScore]
    record: str


def parse_part(data: bytes, classes: int) -> Part:
    """Read a shard's object.

    Raises:
        ValueError: It is none of this version.
    """
    try:
        fields: dict[str, Any] = {**json.loads(data)}
        if fields["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {fields['format_version']}")
        return Part(
            scores=Scores.parse(fields, classes),
            images=[ImageScore(**one) for one in fields["images"]],
            record=json.dumps(fields["record"], sort_keys=True),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no scores of a shard: {error}") from error


def _by_class(one: Scores) -> dict[str, list[int]]:
    confusion, edges = one.confusion, one.boundaries.counts
    columns: NDArray[np.int64] = np.stack(
        [confusion.true, confusion.given, confusion.hits, *edges]
    ).T
    return {str(index): row.tolist() for index, row in enumerate(columns) if row.any()}


def _mean(values: Iterator[float]) -> float:
    found = [*values]
    return sum(found) / len(found) if found else float("nan")
