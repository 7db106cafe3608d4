"""The end of a run: proof that all is there, and views of it for readers.

A run is finished when ``_SUCCESS`` exists, and that is created last: after every
planned shard was found in the ledger once, after items and pixels added up, and
after ``manifest.parquet`` named every object that readers should take.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from jobs.errors import RunError
from jobs.folder import SUCCESS, read_shards
from jobs.ledger import Ledger
from jobs.letters import open_letters, write_letters
from jobs.outputs.files import measure
from jobs.outputs.tables import write_rows
from jobs.status import read_status
from jobs.storage import join
from jobs.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.folder import Planned
    from jobs.job import Job
    from jobs.ledger import Output, Record
    from jobs.shards import Shard
    from jobs.storage import Store

MANIFEST: Final = "manifest.parquet"

_SCHEMA: Final = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
    ]
)


def conclude(store: Store, job: Job, planned: Planned) -> None:
    """Prove that a plan is done in full, and say so for good.

    Raises:
        RunError: It is not, so that something is wrong with the run folder.
    """
    folder = planned.folder
    cover = _Cover(store, job, planned)
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        path = Path(scratch, MANIFEST)
        write_rows(path, _SCHEMA, cover.outputs())
        size, sha256 = measure(path)
        uri = join(folder, MANIFEST)
        if store.create_from(uri, path, sha256=sha256) is None:
            data = store.read(uri)
            size, sha256 = len(data), hashlib.sha256(data).hexdigest()
    proof = {
        "fingerprint": planned.fingerprint,
        "manifest": {"name": MANIFEST, "size": size, "sha256": sha256},
        **cover.tally.summary(planned.totals, finished=True),
    }
    store.create(join(folder, SUCCESS), json.dumps(proof, indent=1).encode())


def write_views(store: Store, run: str) -> dict[str, Any]:
    """Write dead letters and summary for people and programs; the summary."""
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        path = Path(scratch, "dead_letter.parquet")
        write_letters(open_letters(store, run), path)
        store.replace(join(run, path.name), path.read_bytes())
    summary = read_status(store, run)
    store.replace(join(run, "summary.json"), json.dumps(summary, indent=1).encode())
    return summary


class _Cover:
    """One pass over plan and ledger, side by side."""

    def __init__(self, store: Store, job: Job, planned: Planned) -> None:
        self.tally = Tally()
        self._store, self._job, self._planned = store, job, planned
        self._ledger = Ledger(store, planned.folder)
        self._tasks = 0

    def outputs(self) -> Iterator[Output]:
        """Every object for readers, while every record is held against its shard."""
        shards, gather = read_shards(self._store, self._planned.folder), self._job.gather()
        for shard, record in zip_longest(shards, self._ledger.read()):
            _check(self._planned, shard, record)
            self.tally.add(record)
            self._tasks += len(tuple(gather(shard, record)))
            yield from self._job.delivered(record)
        for task in self._ledger.read_tasks():
            self._tasks -= 1
            yield from task.outputs
        self._add_up()

    def _add_up(self) -> None:
        totals, tally = self._planned.totals, self.tally
        whole = tally.shards == totals.shards and not self._tasks
        if not whole or (totals.pixels and tally.pixels != totals.pixels):
            raise RunError(
                f"the ledger of {self._planned.folder} accounts for {tally.shards} shards "
                f"and {tally.pixels} pixels, the plan has {totals.shards} and "
                f"{totals.pixels}; tasks without a record: {self._tasks}; see atrous verify"
            )


def _check(planned: Planned, shard: Shard | None, record: Record | None) -> None:
    folder = planned.folder
    if shard is None or record is None or shard.index != record.shard:
        here = "nothing" if record is None else f"shard {record.shard}"
        there = "nothing" if shard is None else f"shard {shard.index}"
        raise RunError(
            f"the ledger of {folder} has {here} where the plan has {there}; see atrous "
            "verify"
        )
    if record.fingerprint != planned.fingerprint or record.items != len(shard.items):
        raise RunError(
            f"the ledger of {folder} has a record of another run for shard {shard.index}; "
            "see atrous verify"
        )
