"""Images that people should label next: those of which the network is least certain.

Rows are sorted on disk, so that memory does not grow with their number.
"""

from __future__ import annotations

import csv
import itertools
import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from deeplab.bundle import ClassInfo
    from jobs.outputs.label_rows import LabelRow

By = Literal["mean_confidence", "mean_entropy", "uncertain_share"]

MEASURES: Final[tuple[By, ...]] = ("mean_confidence", "mean_entropy", "uncertain_share")
"""Columns to sort by: low confidence first, else high values first."""

SUFFIXES: Final = (".csv", ".jsonl", ".parquet")
COLUMNS: Final = ("uri", "key", "height", "width", "class_pixels", "ignored_pixels")
"""Of the rows that are needed, besides the measure."""

NAMES: Final = ("rank", "uri", "key", "score", "classes", "height", "width")
"""Of what is written."""

_ROWS: Final = 10_000
_DIGITS: Final = 6
_MOST_CLASSES: Final = 3
_CACHE_KIB: Final = 32 * 1024
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet may take for a formula."""

_SCHEMA: Final = pa.schema(
    [
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("classes", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
    ]
)


def write_worklist(
    path: Path,
    rows: Iterable[LabelRow],
    classes: Sequence[ClassInfo],
    *,
    by: By,
    limit: int | None,
) -> int:
    """Write the least certain images first.

    An image of which nothing is certain enough, so that all is "ignore", comes first
    of all; one that has no data comes last.

    Args:
        path: Local file to write; its suffix says the format.
        rows: Of all images, without masks.
        classes: Their names.
        by: The column to sort by.
        limit: Most images to write.

    Returns:
        How many were written.

    Raises:
        LookupError: No image has a value in that column.
    """
    store = sqlite3.connect(path.with_name(f"{path.name}.sort"), isolation_level=None)
    try:
        # A file that is thrown away needs no journal.
        for setting in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE"):
            store.execute(f"PRAGMA {setting}")
        store.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        store.execute("CREATE TABLE work (place, uri, key, score, classes, height, width)")
        store.execute("BEGIN")
        fields = (_fields(row, classes, by) for row in rows)
        store.executemany("INSERT INTO work VALUES (?, ?, ?, ?, ?, ?, ?)", fields)
        store.execute("COMMIT")
        ((images, scores),) = store.execute("SELECT COUNT(*), COUNT(score) FROM work")
        if images and not scores and by != MEASURES[0]:
            raise LookupError(f"no image has a {by}")
        found = store.execute(
            "SELECT uri, key, score, classes, height, width FROM work "
            "ORDER BY place, uri LIMIT ?",
            (-1 if limit is None else limit,),
        )
        ranked = ((rank, *row) for rank, row in enumerate(found, start=1))
        return _WRITERS[path.suffix.lower()](path, ranked)
    finally:
        store.close()


def _fields(row: LabelRow, classes: Sequence[ClassInfo], by: By) -> tuple[Any, ...]:
    score = row.fields.get(by)
    return (
        _place(row, score, by),
        row.uri,
        row.key,
        None if score is None else round(score, _DIGITS),
        describe_classes(row.fields["class_pixels"], classes),
        row.fields["height"],
        row.fields["width"],
    )


def _place(row: LabelRow, score: float | None, by: By) -> float:
    if score is None:
        return float("-inf") if row.fields.get("ignored_pixels") else float("inf")
    return score if by == "mean_confidence" else -score


def describe_classes(pixels: Sequence[int], classes: Sequence[ClassInfo]) -> str:
    """The classes that have most of the pixels, e.g. ``road 62%, sky 30%``."""
    total = sum(pixels)
    order = sorted(range(len(pixels)), key=lambda one: -pixels[one])
    return ", ".join(
        f"{classes[one].name} {round(100 * pixels[one] / total)}%"
        for one in order[:_MOST_CLASSES]
        if pixels[one]
    )


def _write_csv(path: Path, rows: Iterator[tuple[Any, ...]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        for count, row in enumerate(rows, start=1):  # noqa: B007 - the last one counts
            writer.writerow([_harmless(value) for value in row])
    return count


def _harmless(value: object) -> object:
    """Text that a spreadsheet takes for text; keys are others' to choose."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _write_jsonl(path: Path, rows: Iterator[tuple[Any, ...]]) -> int:
    count = 0
    with path.open("w", encoding="ascii") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007 - the last one counts
            file.write(f"{json.dumps(dict(zip(NAMES, row, strict=True)))}\n")
    return count


def _write_parquet(path: Path, rows: Iterator[tuple[Any, ...]]) -> int:
    count = 0
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        while group := list(itertools.islice(rows, _ROWS)):
            columns = dict(zip(NAMES, map(list, zip(*group, strict=True)), strict=True))
            writer.write_table(pa.table(columns, schema=_SCHEMA))
            count += len(group)
    return count


_WRITERS: Final = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
