"""Prove from a run folder alone that nothing of the run is lost, doubled or changed.

One pass over plan and ledger, side by side, for the run and each of its retries. The
folders of outputs are listed once; an object is read where its ETag is not what was
recorded, or where every byte is asked for. Memory grows with the number of outputs
by 33 bytes each, with the number of rasters, and with what was retried; never with
the size of an output on a local disk, of which a window is held at a time.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Final

from jobs.assembly import COLLECTION
from jobs.folder import require_job
from jobs.prefetch import map_ahead
from jobs.storage import join
from jobs.tally import Tally
from jobs.verify_folder import (
    DamagedError,
    fetch_plan,
    list_passes,
    read_checked,
    retry_names,
)
from jobs.verify_ledger import pair, read_found, read_tasks
from jobs.verify_letters import Due, Letters, Retried
from jobs.verify_masks import ShardMasks
from jobs.verify_objects import Inventory
from jobs.verify_outputs import Outputs, inspect_made, inspect_piece
from jobs.verify_proof import Manifest, check_success, check_views
from jobs.verify_rasters import Rasters
from jobs.verify_record import check_record, later_name, output_names
from jobs.verify_report import NOT_FINISHED, Report
from jobs.verify_scores import check_evaluation, inspect_scores
from jobs.verify_wholes import Wholes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.ledger import Record
    from jobs.shards import Shard
    from jobs.storage import Store
    from jobs.verify_folder import Pass
    from jobs.verify_ledger import Found
    from jobs.verify_outputs import Look
    from jobs.verify_rasters import Raster
    from jobs.verify_report import Tell

_READERS: Final = 4
"""Objects that are read at once."""


def verify_run(store: Store, run: str, *, deep: bool) -> Report:
    """Check a run and its retries, finished or not.

    Args:
        store: Where the run folder lies.
        run: The run folder.
        deep: Read every output and count its pixels again.

    Raises:
        InputError: The folder holds no run.
        RunError: The run is of another version.
        StoreError: The store does not answer.
    """
    held = require_job(store, run)
    report = Report(run=run, job=str(held.get("identity", {}).get("job")), deep=deep)
    looks = _Check(store, report).looks()
    for differences in map_ahead(lambda look: look(), looks, threads=_READERS):
        for one in differences:
            report.tell(one.kind, one.object, one.expected, one.got)
    return report


def read_retried(store: Store, passes: list[Pass]) -> Retried:
    """What the retries of a run have planned; what is wrong with them is told later."""
    found = Retried()
    for one in passes[1:]:
        try:
            with fetch_plan(store, one, _ignore) as path:
                held = read_found(store, one, _ignore, deep=False)
                for shard, record in pair(
                    read_checked(path, one, _ignore), held, one, _ignore
                ):
                    recorded = record is not None and record.record is not None
                    found.add(one.number, shard, recorded=recorded)
        except DamagedError:
            continue
    return found


def _ignore(kind: str, name: str, expected: object, got: object) -> None:
    """Tell nobody."""


class _Check:
    """One check of one run."""

    def __init__(self, store: Store, report: Report) -> None:
        self._store, self._report = store, report
        self._tell: Tell = report.tell
        # Listed before any plan is read: so a plan is known to each object.
        self._inventory = Inventory(store, report.run)
        self._outputs = Outputs(store, self._inventory, report)
        self._tally, self._letters = Tally(), Letters()
        self._blind = False
        """Whether a plan is not known, so that what it names seems unnamed."""

    def looks(self) -> Iterator[Look]:
        """Check all; what is left to be read comes out, for other threads."""
        self._report.leftovers = self._inventory.temporary
        try:
            yield from self._passes()
        except DamagedError:
            return
        if not self._blind:
            self._inventory.find(COLLECTION)
            for name, found in self._inventory.unnamed():
                self._tell("extra", name, "no object", f"one of {found.size} bytes")

    def _passes(self) -> Iterator[Look]:
        store, report = self._store, self._report
        passes = list_passes(store, report.run, self._tell)
        report.retries = len(passes) - 1
        self._unfinished = not all(one.has_success for one in passes)
        self._blind = len(retry_names(store, report.run)) != report.retries
        self._retried = read_retried(store, passes)
        self._due = Due(self._retried)
        self._rasters = Rasters(self._retried.uris, self._tell)
        for one in passes:
            try:
                yield from self._pass(one)
            except DamagedError:
                self._blind = True
            if not one.has_success:
                name = f"{one.prefix}_SUCCESS"
                self._tell(NOT_FINISHED, name, "the proof of the end", "nothing")
        for raster in self._rasters.rest():
            yield from self._raster(passes[0], raster)
        known = report.recorded == report.planned and not self._blind
        if report.finished and known:
            self._check_sums(passes)

    def _check_sums(self, passes: list[Pass]) -> None:
        first, letters = passes[0], self._letters
        done = self._tally.counts["items_done"]
        if first.has_images and done + letters.tally.dead != first.totals.items:
            got = f"{done} done and {letters.tally.dead} dead letters"
            self._tell("wrong_count", "ledger", f"{first.totals.items} items", got)
        check_views(self._store, passes, self._tally, letters, self._tell)
        if first.job == "evaluate":
            check_evaluation(self._store, first, self._tell, deep=self._report.deep)

    def _pass(self, one: Pass) -> Iterator[Look]:
        store, tell, report = self._store, self._tell, self._report
        tally = Tally()
        manifest = Manifest(store, one, tell)
        self._due.begin()
        tasks = read_tasks(store, one, tell)
        self._rasters.begin(one, tasks)
        with fetch_plan(store, one, tell) as path:
            shards = read_checked(path, one, tell)
            found = read_found(store, one, tell, deep=report.deep)
            for shard, held in pair(shards, found, one, tell):
                report.planned += 1
                self._take(one, shard, held, tally, manifest)
                yield from self._shard(one, shard, held)
        for raster in self._rasters.end():
            yield from self._raster(one, raster)
        if self._rasters.lost:
            manifest.stop()
        for task in tasks.values():
            for output in task.outputs:
                manifest.expect(output)
        if one.complete:
            manifest.end()
        if one.has_success and tally.shards == one.totals.shards:
            check_success(store, one, tally, manifest, tell)

    def _take(
        self,
        one: Pass,
        shard: Shard,
        held: Found | None,
        tally: Tally,
        manifest: Manifest,
    ) -> None:
        """Count a shard and hold its record against it."""
        for uri in self._due.lacking(shard) if one.number else ():
            name = f"{one.prefix}plan.parquet"
            self._tell("wrong_plan", name, "dead letters that held", uri)
        if held is None or held.record is None:
            manifest.stop()
            return
        record = held.record
        self._report.recorded += 1
        check_record(shard, held, one, self._tell)
        tally.add(record)
        self._tally.add(record)
        self._due.add(shard, record.dead_letters)
        self._take_letters(one, record)
        if not one.has_rasters or shard.is_whole:
            for output in record.outputs:
                manifest.expect(output)

    def _take_letters(self, one: Pass, record: Record) -> None:
        """Count the dead letters that hold; a block that was done again is no more."""
        settled = []
        for letter in record.dead_letters:
            if self._retried.settles(letter, one.number):
                settled.append(letter)
            else:
                self._letters.add(letter)
        self._tally.forget(record, settled)

    def _shard(self, one: Pass, shard: Shard, held: Found | None) -> Iterator[Look]:
        """Look at what a shard wrote."""
        record, names = None if held is None else held.record, output_names(shard, one)
        if self._unfinished or record is None:
            self._find_planned(one, shard, names)
        if one.has_rasters:
            for raster in self._rasters.add(shard, record, names[0]):
                yield from self._raster(one, raster)
        if record is not None:
            yield from self._made(one, shard, record)

    def _made(self, one: Pass, shard: Shard, record: Record) -> Iterator[Look]:
        """Look at what a shard finished by itself."""
        if one.job == "label":
            yield from self._masks(one, shard, record)
        elif one.job == "evaluate":
            scores = functools.partial(inspect_scores, shard, record, one)
            for output in record.outputs:
                yield from self._outputs.look(output, scores)
        elif shard.is_whole:
            wholes = Wholes(shard, record, one)
            for output in record.outputs:
                inspect = functools.partial(wholes.inspect, output.name)
                yield from self._outputs.look(output, inspect)

    def _find_planned(self, one: Pass, shard: Shard, names: tuple[str, ...]) -> None:
        """What an attempt may have written is not unnamed."""
        for name in names:
            self._inventory.find(name)
        # Further files of masks come one after the other.
        more = itertools.count(1) if one.job == "label" else ()
        for number in more:
            if self._inventory.find(later_name(shard, one, number)) is None:
                return

    def _masks(self, one: Pass, shard: Shard, record: Record) -> Iterator[Look]:
        masks = ShardMasks(shard, record, one)
        for output in record.outputs:
            inspect = functools.partial(masks.inspect, output.name)
            yield from self._outputs.look(output, inspect)

    def _raster(self, one: Pass, raster: Raster) -> Iterator[Look]:
        """Look at a raster and at its pieces."""
        for name in raster.claimed:
            self._inventory.find(name)
        if raster.open:
            self._open_raster(raster)
        else:
            if not raster.whole:
                got = f"{len(raster.parts)}"
                self._tell("wrong_count", raster.name, "a record of each block", got)
            for output in raster.task.outputs if raster.task is not None else ():
                inspect = functools.partial(inspect_made, raster, one, output.name)
                yield from self._outputs.look(output, inspect)
        yield from self._pieces(one, raster)

    def _open_raster(self, raster: Raster) -> None:
        """Look at one whose last assembly has no record: it may be another COG now."""
        mask, *_ = [self._inventory.find(name) for name in raster.names]
        if raster.task is not None and mask is None:
            expected = "what an earlier pass assembled"
            self._tell("missing", raster.name, expected, "nothing")

    def _pieces(self, one: Pass, raster: Raster) -> Iterator[Look]:
        """Pieces are there until their raster is assembled without a gap."""
        if raster.lost:
            return
        needless = raster.spent + ([] if raster.keeps_pieces else raster.pieces)
        found = [self._inventory.find(piece.name) for piece in needless]
        if not self._unfinished:  # else they are taken away when the run goes on
            self._report.leftovers += len(found) - found.count(None)
        if not raster.keeps_pieces:
            return
        for part in raster.parts.values():
            if part.piece is not None and not self._is_spent(one, raster, part.piece.name):
                inspect = functools.partial(inspect_piece, part, one)
                yield from self._outputs.look(part.piece, inspect)

    def _is_spent(self, one: Pass, raster: Raster, name: str) -> bool:
        """Whether a piece is gone since the assembly was recorded, a moment ago."""
        if not raster.open or self._outputs.is_there(name):
            return False
        return self._store.exists(join(one.uri, "ledger", "tasks", f"{raster.key}.json"))
