"""The protocol with one rule broken: each must be found out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulation.protocol import Protocol
from simulation.records import (
    BLOCKS,
    DEAD,
    GENERATIONS,
    GROUP,
    NOTHING,
    Job,
    Record,
    Stuck,
)
from simulation.world import CREATE, DELETE, GET, LIST, PUT, READ

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable

    from simulation.records import Data, Key, Raster
    from simulation.world import Code


class OverwritingData(Protocol):
    """Data is written whatever stands."""

    def put(self, key: Key, data: Data) -> Code:
        yield (PUT, key, data)
        return data


class OverwritingRecord(Protocol):
    """The record is written whatever stands."""

    def commit(self, job: Job, record: Record) -> Code:
        yield (PUT, ("record", job.generation, record.shard), record)
        return record


class LookThenPut(Protocol):
    """Data is written where a look has found nothing: no condition on the write."""

    def put(self, key: Key, data: Data) -> Code:
        standing = yield (GET, key)
        if standing is None:
            yield (PUT, key, data)
            return data
        return standing


class LookThenCommit(Protocol):
    """The record is written where a look has found nothing."""

    def commit(self, job: Job, record: Record) -> Code:
        key = ("record", job.generation, record.shard)
        standing = yield (GET, key)
        if standing is None:
            yield (PUT, key, record)
            return record
        return standing


class SingleDriver(LookThenPut, LookThenCommit):
    """For stores without conditional writes: sound while nothing else is alive."""


class AnyOptions(Protocol):
    """Options are neither compared nor part of a key."""

    def same(self, held: int, options: int) -> bool:  # noqa: ARG002
        return True


class AnyGeneration(Protocol):
    """A retry writes under the keys of the run."""

    def key(self, job: Job, number: int) -> Key:
        kind, _, name, _ = super().key(job, number)
        return (kind, 0, name, 0)


class AnyVersion(Protocol):
    """Inputs are read in whatever version they have."""

    def read(self, job: Job, shard: tuple[tuple[int, int], ...]) -> Code:
        code = super().read(job, shard)
        reply = None
        while True:
            try:
                name, number, _ = code.send(reply)
            except StopIteration as end:
                return end.value
            reply = yield (name, number, None)


class OwnPlan(Protocol):
    """A second driver goes by the plan that it has made itself."""

    def adopt(self, generation: int, options: int, cut: Code) -> Code:
        plan = (options, (yield from cut))
        yield (CREATE, ("plan", generation), plan)
        held = (options, self.world.fingerprint((generation, *plan)))
        yield (CREATE, ("job", generation), held)
        standing = yield (GET, ("job", generation))
        return Job(generation, *held, plan[1]) if standing[0] == options else None


class Streamed(Protocol):
    """Data is written piece by piece under its final name, and skipped if it is there."""

    def put(self, key: Key, data: Data) -> Code:
        standing = yield (GET, key)
        if standing is not None:
            return standing
        yield (PUT, key, data._replace(whole=False))
        yield (PUT, key, data)
        return data


class Marker(Protocol):
    """An empty marker after an overwriting write says that a shard is done."""

    def put(self, key: Key, data: Data) -> Code:
        yield (PUT, key, data)
        return data

    def commit(self, job: Job, record: Record) -> Code:
        yield (PUT, ("record", job.generation, record.shard), record)
        return record


class RecordFirst(Protocol):
    """The record is written before the object."""

    def attempt(self, job: Job, number: int) -> Code:
        own = yield from self.read(job, job.shards[number])
        if not self.holds(own):
            record = Record(job.fingerprint, number, own.done, own.dead, None, None)
            return (yield from self.commit(job, record))
        record = self.describe(job, number, own, own)
        standing = yield from self.commit(job, record)
        yield from self.put(self.key(job, number), own)
        return standing


class OwnAccount(Protocol):
    """The loser of a race records its own attempt."""

    def describe(self, job: Job, number: int, own: Data, _standing: Data) -> Record:
        return super().describe(job, number, own, own)


class OwnCounts(Protocol):
    """The loser names the object that stands, with the counts of its own attempt."""

    def describe(self, job: Job, number: int, own: Data, standing: Data) -> Record:
        record = super().describe(job, number, own, standing)
        return record._replace(done=own.done, dead=own.dead)


class OwnRecord(Protocol):
    """The loser of the record's race tells its driver of the record it wanted."""

    def commit(self, job: Job, record: Record) -> Code:
        yield (CREATE, ("record", job.generation, record.shard), record)
        return record


class NoEmptyObject(Protocol):
    """Images that are all dead letters leave no object, only a record."""

    def holds(self, data: Data) -> bool:
        return bool(data.done & ~self.nodata if self.mosaic else data.done)


class NoLookForRecord(Protocol):
    """A piece that is gone is an error, though its raster is there."""

    def find_served(self, _job: Job, number: int) -> Code:
        raise Stuck(f"no piece of shard {number}")
        yield


class EarlyMerge(Protocol):
    """A group is merged before all its records are there."""

    def merge(self, job: Job, records: dict[int, Record], group: int) -> Code:
        members = range(group * GROUP, group * GROUP + GROUP)
        content = tuple(records[member] for member in members if member in records)
        yield (CREATE, ("merged", job.generation, group), content)


class OverwritingMerge(Protocol):
    """Each driver writes what it knows of a group, whatever stands."""

    def merge(self, job: Job, records: dict[int, Record], group: int) -> Code:
        members = range(group * GROUP, group * GROUP + GROUP)
        content = tuple(records[member] for member in members if member in records)
        yield (PUT, ("merged", job.generation, group), content)


class EarlyDrop(Protocol):
    """Pieces are deleted before the raster is there."""

    def build(self, job: Job, parts: tuple[Any, ...]) -> Code:
        made = yield from super().build(job, parts)
        yield from self.drop(parts)
        return made


class DropBeforeRecord(Protocol):
    """Pieces are deleted once the raster is there, before that is on record."""

    def record_raster(
        self, job: Job, raster: int, standing: Raster, parts: tuple[Any, ...]
    ) -> Code:
        yield from self.drop(parts)
        return (yield from super().record_raster(job, raster, standing, parts))


class DropAlways(Protocol):
    """Pieces are deleted although a block is dead."""

    def drop(self, parts: Iterable[Any]) -> Code:
        return super().drop([part for part in parts if part is not DEAD])


class NoSecondLook(Protocol):
    """An assembly that finds a piece gone gives up, though its raster is on record."""

    def look_again(self, _job: Job, _raster: int) -> Code:
        return None
        yield


class SourceForGrid(Protocol):
    """An assembly reads the raster's grid from its source, as it was planned."""

    def build(self, job: Job, parts: tuple[Any, ...]) -> Code:
        plan = yield (GET, ("plan", 0))
        for raster in {part[2] // BLOCKS for part in parts if isinstance(part, tuple)}:
            version = plan[1][raster * BLOCKS][0][1]
            if (yield (READ, raster, version)) != version:
                return None
        return (yield from super().build(job, parts))


class OverwritingRaster(Protocol):
    """A raster is written whatever stands."""

    def store_raster(self, raster: int, made: Raster, _old: Raster | None) -> Code:
        yield (PUT, ("raster", raster), made)
        return made


class AnyRaster(Protocol):
    """A retry replaces the raster that it finds, even one of a later retry."""

    def store_raster(self, raster: int, made: Raster, old: Raster | None) -> Code:
        standing = old and (yield (GET, ("raster", raster)))
        return (yield from super().store_raster(raster, made, standing))


class ByListing(Protocol):
    """A shard is done if its object is listed; no record is asked for."""

    def survey(self, job: Job) -> Code:
        records = yield from super().survey(job)
        for key in (yield (LIST, "data", job.generation)):
            standing = yield (GET, key)
            records.setdefault(key[2], self.describe(job, key[2], standing, standing))
        return records


class GivingUp(Protocol):
    """A shard whose attempt is lost is not tried again, and the run is finished."""

    def give_back(
        self, kind: str, number: int, tasks: deque[int], todo: deque[int]
    ) -> None:
        if kind == "raster":
            super().give_back(kind, number, tasks, todo)

    def account(self, job: Job, records: dict[int, Record]) -> tuple[int, int]:
        shards = tuple(job.shards[number] for number in sorted(records))
        numbered = dict(enumerate(records[number] for number in sorted(records)))
        return super().account(job._replace(shards=shards), numbered)


class SuccessFirst(Protocol):
    """Success is said before the manifest is there."""

    def conclude(self, job: Job, manifest: Any, view: tuple[int, ...]) -> Code:
        yield from self.show(view)
        yield (CREATE, ("success", job.generation), (manifest, view[3]))
        yield (CREATE, ("manifest", job.generation), manifest)


class OwnManifest(Protocol):
    """Success names the manifest that its driver wrote, which has a time in it."""

    def conclude(self, job: Job, manifest: Any, view: tuple[int, ...]) -> Code:
        timed = (*manifest, self.world.steps)
        yield (CREATE, ("manifest", job.generation), timed)
        yield from self.show(view)
        yield (CREATE, ("success", job.generation), (timed, view[3]))


class OverwritingView(Protocol):
    """The summary is replaced by whoever comes last."""

    def show(self, view: tuple[int, ...]) -> Code:
        yield (PUT, ("view",), view)


class ViewAfterSuccess(Protocol):
    """The summary is written once success is said."""

    def conclude(self, job: Job, manifest: Any, view: tuple[int, ...]) -> Code:
        yield (CREATE, ("manifest", job.generation), manifest)
        standing = yield (GET, ("manifest", job.generation))
        yield (CREATE, ("success", job.generation), (standing, view[3]))
        yield from self.show(view)


class CleanByRaster(Protocol):
    """Cleaning looks at the rasters that are there, on record or not."""

    def has_served(self, piece: Key) -> Code:
        raster = yield (GET, ("raster", piece[2] // BLOCKS))
        return DEAD not in raster.blocks


class CleanByManifest(Protocol):
    """Cleaning deletes every piece, since no manifest names one."""

    def clean(self) -> Code:
        if (yield (GET, ("success", 0))) is None:
            return NOTHING
        for generation in range(GENERATIONS):
            for key in (yield (LIST, "piece", generation)):
                yield (DELETE, key)
        return NOTHING
