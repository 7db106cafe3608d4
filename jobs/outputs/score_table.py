"""How well each image was done, as a Parquet table: for people who look for the worst."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import pyarrow as pa

from jobs.outputs.tables import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from jobs.outputs.scores import ImageScore

SCHEMA: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("truth", pa.string(), nullable=False),
        pa.field("truth_etag", pa.string(), nullable=False),
        # Judged, and without a truth or without data.
        pa.field("pixels", pa.int64(), nullable=False),
        pa.field("unknown", pa.int64(), nullable=False),
        # Null where no pixel was judged, or no class has a boundary.
        pa.field("mean_iou", pa.float64()),
        pa.field("accuracy", pa.float64()),
        pa.field("boundary_f1", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """One image, or one raster."""

    uri: str
    key: str
    truth: str
    truth_etag: str
    pixels: int
    unknown: int
    mean_iou: float | None
    accuracy: float | None
    boundary_f1: float | None

    @classmethod
    def of(cls, one: ImageScore) -> Self:
        """The row of what was counted."""
        return cls(
            uri=one.uri,
            key=one.key,
            truth=one.truth,
            truth_etag=one.truth_etag,
            pixels=one.pixels,
            unknown=one.unknown,
            mean_iou=_known(one.mean_iou),
            accuracy=_known(one.accuracy),
            boundary_f1=_known(one.boundary_f1),
        )


def write_image_rows(path: Path, rows: Iterable[ImageRow]) -> None:
    """Write rows to a local Parquet file as they come."""
    write_rows(path, SCHEMA, rows)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
