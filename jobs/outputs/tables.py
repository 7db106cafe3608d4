"""Parquet tables of small rows, written as the rows come."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_ROWS_A_GROUP: Final = 65536


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[object]) -> None:
    """Write one row an object, of its attributes; one row group is in memory at a time.

    Args:
        path: Local file to write.
        schema: Its names are the attributes to take.
        rows: What to write.
    """
    rest = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(itertools.islice(rest, _ROWS_A_GROUP)):
            fields = [{name: getattr(one, name) for name in schema.names} for one in group]
            writer.write_table(pa.Table.from_pylist(fields, schema=schema))
