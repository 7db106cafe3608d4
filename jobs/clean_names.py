"""Which outputs of a run something names, or may name yet: those are never removed.

Names are planned before anything is written, so a plan says what an attempt under
way may write, and a record, of which there is only ever one, what it never will.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.assembly import COLLECTION
from jobs.errors import RunError
from jobs.outputs.mask_files import first_name
from jobs.verify import read_retried
from jobs.verify_folder import (
    DamagedError,
    fetch_plan,
    list_passes,
    read_checked,
    retry_names,
)
from jobs.verify_ledger import pair, read_found, read_tasks
from jobs.verify_objects import Names
from jobs.verify_rasters import Rasters
from jobs.verify_record import check_record, output_names

if TYPE_CHECKING:
    from jobs.shards import Shard
    from jobs.storage import Store
    from jobs.verify_folder import Pass
    from jobs.verify_ledger import Found
    from jobs.verify_rasters import Raster


class References:
    """What a run's plans and ledgers say of names; eight bytes for each of them."""

    def __init__(self, store: Store, run: str) -> None:
        """Read them all.

        Raises:
            RunError: Something in them is wrong, so that nothing is certain.
        """
        self._store, self._run = store, run
        self._kept = Names()
        self._kept.add(COLLECTION)
        self._spent = Names()
        self._named = Names()
        self._refused = Names()
        self.finished = False
        """Whether the run and its retries are done, so that nobody writes any more."""

        try:
            self._read()
        except DamagedError as error:
            raise RunError(f"{run} is damaged; see atrous verify {run}") from error

    def reason(self, name: str) -> str | None:
        """Why an output is left over; None where it must stay.

        ``spent``: a piece of a raster that is assembled without a gap. ``unnamed``:
        the shard's record names no such output, or the run is finished and no record
        does.
        """
        # Of a shard without a record, only the first of its files of masks is kept in mind.
        if name in self._kept or first_name(name) in self._kept:
            return None
        if name in self._spent:
            return "spent"
        if name in self._named:
            return None
        return "unnamed" if self.finished or name in self._refused else None

    def _read(self) -> None:
        store, run = self._store, self._run
        passes = list_passes(store, run, self._tell)
        retried = read_retried(store, passes)
        rasters = Rasters(retried.uris, self._tell)
        for one in passes:
            rasters.begin(one, read_tasks(store, one, self._tell))
            with fetch_plan(store, one, self._tell) as path:
                shards = read_checked(path, one, self._tell)
                found = read_found(store, one, self._tell, deep=False)
                for shard, held in pair(shards, found, one, self._tell):
                    self._take(one, shard, held, rasters)
            for raster in rasters.end():
                self._take_raster(raster)
        for raster in rasters.rest():
            self._take_raster(raster)
        # A retry that is only being planned, or has lost its description, may name more.
        known = len(retry_names(store, run)) == len(passes) - 1
        self.finished = known and all(one.has_success for one in passes)

    def _take(self, one: Pass, shard: Shard, held: Found | None, rasters: Rasters) -> None:
        record, names = None if held is None else held.record, output_names(shard, one)
        given: set[str] = set()
        if held is not None and record is not None:
            check_record(shard, held, one, self._tell)
            given = {output.name for output in record.outputs}
        for name in given.union(names):
            if record is None:
                self._kept.add(name)
            else:
                (self._named if name in given else self._refused).add(name)
        if not one.has_rasters:
            return
        for raster in rasters.add(shard, record, names[0]):
            self._take_raster(raster)

    def _take_raster(self, raster: Raster) -> None:
        for name in (*raster.names, *raster.claimed):
            self._kept.add(name)
        pieces = self._kept if raster.keeps_pieces else self._spent
        for piece in raster.pieces:
            pieces.add(piece.name)
        for piece in raster.spent:
            (self._kept if raster.open else self._spent).add(piece.name)

    def _tell(self, kind: str, name: str, expected: object, got: object) -> None:
        raise RunError(
            f"{self._run}/{name} is not sound ({kind}: expected {expected}, got {got}), so "
            f"what is left over cannot be told; see atrous verify {self._run}"
        )
