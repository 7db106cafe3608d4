"""What a run of the evaluate job comes to, added up from its folder alone.

Every part holds whole numbers, so the sum does not depend on shards, on their order, or
on what was retried. Memory does not grow with the number of images, but for rasters, whose
parts lie in many shards.
"""

from __future__ import annotations

import heapq
import json
import math
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplab.metrics import BINS, LEVELS, mean_of_known
from jobs.errors import ItemError, RunError
from jobs.evaluation_figure import draw_evaluation
from jobs.folder import list_folders, require_job
from jobs.ledger import Ledger
from jobs.letters import open_letters
from jobs.outputs.score_table import ImageRow, write_image_rows
from jobs.outputs.scores import Scores, parse_part
from jobs.prefetch import map_ahead
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.outputs.scores import ImageScore, Part
    from jobs.storage import Store

EVALUATION: Final = "evaluation.json"
FIGURE: Final = "evaluation.svg"
IMAGES: Final = "evaluation.parquet"

FORMAT_VERSION: Final = 1
_READERS: Final = 16
_WORST: Final = 10
_FINE: Final = 2**40
"""Means over images are summed in such parts of one, so that order changes no bit."""


def publish_evaluation(store: Store, run: str) -> None:
    """Write what a run comes to: for programs, for people, and image by image.

    Raises:
        RunError: The folder is damaged.
        StoreError: The store does not answer.
    """
    total = Total(store, run)
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        path = Path(scratch, IMAGES)
        write_image_rows(path, total.rows())
        store.replace(join(run, IMAGES), path.read_bytes())
    found = total.describe()
    store.replace(join(run, FIGURE), draw_evaluation(found).encode())
    store.replace(join(run, EVALUATION), write_evaluation(found))


def write_evaluation(found: dict[str, Any]) -> bytes:
    """The bytes of ``evaluation.json``."""
    return json.dumps(found, indent=1, allow_nan=False).encode()


def read_evaluation(store: Store, run: str) -> dict[str, Any]:
    """What ``evaluation.json`` holds.

    Raises:
        ItemError: It is not there.
        RunError: It is damaged.
    """
    uri = join(run, EVALUATION)
    try:
        found: dict[str, Any] = {**json.loads(store.read(uri))}
    except (ValueError, TypeError) as error:
        raise RunError(f"{uri} is damaged ({error}); see atrous verify {run}") from error
    return found


@dataclass(slots=True)
class _Mean:
    """A mean that does not depend on the order of its values."""

    parts: int = 0
    count: int = 0

    def add(self, value: float) -> None:
        if not math.isnan(value):
            self.parts += round(value * _FINE)
            self.count += 1

    def value(self) -> float | None:
        return self.parts / _FINE / self.count if self.count else None


class Total:
    """The sum over a run and its retries."""

    def __init__(self, store: Store, run: str) -> None:
        """Look at the run; ``rows`` reads what it counted.

        Raises:
            InputError: The folder holds no run.
            RunError: It is damaged.
        """
        self._store, self._run = store, run
        self._held = require_job(store, run)
        try:
            self._identity: dict[str, Any] = self._held["identity"]
            self._classes: list[dict[str, Any]] = self._held["bundle"]["classes"]
            self._truth: dict[str, Any] = self._identity["truth"] or {}
        except (KeyError, TypeError) as error:
            raise RunError(f"{run}/job.json is damaged ({error})") from error
        self._scores = Scores(len(self._classes))
        self._counts: Counter[str] = Counter()
        self._means = {name: _Mean() for name in ("mean_iou", "accuracy", "boundary_f1")}
        self._worst: list[tuple[float, str, ImageScore]] = []

    def rows(self) -> Iterator[ImageRow]:
        """Every image's row, in order of the plan, while all is added up."""
        rasters: dict[str, ImageScore] = {}
        for part in self._parts():
            self._scores.add(part.scores)
            for one in part.images:
                if self._truth.get("form") != "raster":
                    yield self._take(one)
                elif one.uri in rasters:
                    rasters[one.uri].add(one)
                else:
                    rasters[one.uri] = one
        for _, one in sorted(rasters.items()):
            yield self._take(one)

    def _parts(self) -> Iterator[Part]:
        names = (
            output.name
            for folder in list_folders(self._store, self._run)
            for record in Ledger(self._store, folder).read()
            for output in record.outputs
        )
        yield from map_ahead(self._read, names, threads=_READERS)

    def _read(self, name: str) -> Part:
        try:
            data = self._store.read(join(self._run, name))
            return parse_part(data, len(self._classes))
        except (ItemError, ValueError) as error:
            raise RunError(
                f"{self._run}/{name} cannot be read ({error}); see atrous verify"
            ) from error

    def _take(self, one: ImageScore) -> ImageRow:
        self._counts["images"] += 1
        self._counts["pixels"] += one.pixels
        self._counts["unknown"] += one.unknown
        for name, mean in self._means.items():
            mean.add(getattr(one, name))
        if one.pixels:
            self._worst.append((one.mean_iou, one.key, one))
        if len(self._worst) > 100 * _WORST:
            self._worst = heapq.nsmallest(_WORST, self._worst, key=lambda worst: worst[:2])
        return ImageRow.of(one)

    def describe(self) -> dict[str, Any]:
        """All numbers, once ``rows`` was read through; null where there is none."""
        codes = Counter(one.code for one in open_letters(self._store, self._run))
        worst = heapq.nsmallest(_WORST, self._worst, key=lambda one: one[:2])
        return {
            "format_version": FORMAT_VERSION,
            "fingerprint": self._held["fingerprint"],
            "source": self._identity["source"],
            "bundle": self._held["bundle"]["digest"],
            "truth": self._truth,
            "images": self._counts["images"],
            "dead_letters": dict(sorted(codes.items())),
            "pixels": {name: self._counts[name] for name in ("pixels", "unknown")},
            "measures": self._measures(),
            "mean_over_images": {name: one.value() for name, one in self._means.items()},
            "classes": self._by_class(),
            "confusion": self._scores.confusion.counts.tolist(),
            "calibration": self._calibration(),
            "boundaries": self._scores.boundaries.counts.tolist(),
            "worst": [
                {"key": key, "mean_iou": iou, "accuracy": _number(one.accuracy)}
                for iou, key, one in worst
            ],
        }

    def _measures(self) -> dict[str, float | None]:
        confusion, calibration = self._scores.confusion, self._scores.calibration
        found = {
            "mean_iou": confusion.mean_iou(),
            "weighted_iou": confusion.weighted_iou(),
            "accuracy": confusion.accuracy(),
            "mean_accuracy": confusion.mean_accuracy(),
            "mean_precision": mean_of_known(confusion.precision()),
            "mean_f1": mean_of_known(confusion.f1()),
            "mean_boundary_f1": self._scores.boundaries.mean_f1(),
            "calibration_error": calibration.error(),
            "largest_calibration_error": calibration.largest_error(),
        }
        return {name: _number(value) for name, value in found.items()}

    def _by_class(self) -> list[dict[str, Any]]:
        confusion, edges = self._scores.confusion, self._scores.boundaries
        columns = {
            "iou": confusion.iou(),
            "precision": confusion.precision(),
            "recall": confusion.recall(),
            "f1": confusion.f1(),
            "boundary_f1": edges.f1(),
            "boundary_precision": edges.precision(),
            "boundary_recall": edges.recall(),
        }
        return [
            {
                "id": index,
                "name": info["name"],
                "color": "#{:02x}{:02x}{:02x}".format(*info["color"]),
                "true": int(confusion.true[index]),
                "given": int(confusion.given[index]),
                "right": int(confusion.hits[index]),
                **{name: _number(values[index]) for name, values in columns.items()},
            }
            for index, info in enumerate(self._classes)
        ]

    def _calibration(self) -> dict[str, Any]:
        calibration = self._scores.calibration
        pixels, right, sure = calibration.table()
        return {
            "bins": [
                {
                    "from": index / BINS,
                    "to": min(1.0, (index + 1) / BINS),
                    "pixels": int(pixels[index]),
                    "accuracy": _number(right[index]),
                    "confidence": _number(sure[index]),
                }
                for index in range(len(pixels))
            ],
            "levels": LEVELS,
            "wrong": calibration.counts[0].tolist(),
            "right": calibration.counts[1].tolist(),
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
