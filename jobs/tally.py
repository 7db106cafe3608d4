"""Add up ledger records: what a run has done so far."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from jobs.ledger import DeadLetter, Record
    from jobs.plan import Totals

_SCHEMA: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("row", pa.int32()),
        pa.field("col", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)


class Tally:
    """Running sums over records. Every item and pixel is counted once."""

    def __init__(self) -> None:
        """Start at zero."""
        self.shards = 0
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.dead_letters: list[DeadLetter] = []

    def add(self, record: Record) -> None:
        """Count one shard."""
        self.shards += 1
        self.counts["items_done"] += record.items_done
        self.counts["items_dead"] += len(record.dead_letters)
        self.counts["pixels_done"] += record.pixels_done
        self.counts["pixels_nodata"] += record.pixels_nodata
        self.counts["pixels_dead"] += record.pixels_dead
        self.counts["bytes_written"] += sum(output.size for output in record.outputs)
        self.seconds.update(record.seconds)
        self.dead_letters.extend(record.dead_letters)

    @property
    def refused(self) -> int:
        """Items that were known as dead letters when the run was planned."""
        return sum(letter.stage == "plan" for letter in self.dead_letters)

    def summary(self, totals: Totals, *, whole: bool) -> dict[str, Any]:
        """What ``summary.json`` holds and ``status --json`` prints.

        Args:
            totals: Of the plan.
            whole: Whether all that finished shards make possible is done.
        """
        return {
            "finished": whole and self.shards == totals.shards,
            "items": totals.items,
            "shards": {"planned": totals.shards, "done": self.shards},
            "bytes_planned": totals.size,
            "pixels": {
                name: self.counts[f"pixels_{name}"] for name in ("done", "nodata", "dead")
            },
            "dead_letters": len(self.dead_letters),
            "bytes_written": self.counts["bytes_written"],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    def check(self, totals: Totals) -> None:
        """Hold the sums against the plan.

        Raises:
            RuntimeError: A planned shard or pixel is not accounted for.
        """
        done = self.counts
        pixels = done["pixels_done"] + done["pixels_nodata"] + done["pixels_dead"]
        if self.shards != totals.shards or (totals.pixels and pixels != totals.pixels):
            raise RuntimeError(
                f"the ledger accounts for {self.shards} shards and {pixels} pixels, "
                f"the plan has {totals.shards} and {totals.pixels}"
            )

    def dead_letter_file(self) -> bytes:
        """The dead letters as a Parquet file, in the order of the plan."""
        rows = [
            {name: getattr(letter, name) for name in _SCHEMA.names}
            for letter in sorted(
                self.dead_letters, key=lambda one: (one.uri, one.row or 0, one.col or 0)
            )
        ]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink)
        data: bytes = sink.getvalue().to_pybytes()
        return data
