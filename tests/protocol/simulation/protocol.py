"""The protocol: what drivers, attempts and assemblies ask of the store, in order.

Each method is a piece of a process, and each rule that safety rests on is one
method, so that a mutant can break it alone. Keys are tuples: the kind of object,
the generation (0 for the run, from 1 for its retries), then what tells it apart.

Label: an input is a unit, several units are a shard, and a shard has one object,
even where all its units are dead letters. Map: an input is a raster of two blocks,
a block is a unit and a shard, and has a piece unless it is dead or nodata.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from simulation.records import (
    BLOCKS,
    DEAD,
    FINISHED,
    GENERATIONS,
    GROUP,
    IN_FLIGHT,
    NODATA,
    NOTHING,
    REFUSED,
    Data,
    Job,
    Raster,
    Record,
    Stuck,
)
from simulation.world import CREATE, DELETE, GET, INPUTS, LIST, LOST, READ, SWAP, WAIT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulation.records import Key
    from simulation.world import Code, World


class Protocol:
    """All the rules kept."""

    mosaic = False
    """Whether this is the map job."""

    nodata = 0
    """Units of a map that hold nodata alone."""

    def __init__(self, world: World) -> None:
        self.world = world

    # Commands.

    def run(self, options: int, cut: int) -> Code:
        """Do the run, or go on with it."""
        job = yield from self.adopt(0, options, self.cut_inputs(cut))
        if job is None:
            return REFUSED
        return (yield from self.drive(job, {}))

    def retry(self, options: int, cut: int) -> Code:
        """Do again what the run, and its retries so far, left as dead letters."""
        held = yield (GET, ("job", 0))
        if held is not None and not self.same(held[0], options):
            return REFUSED
        known: dict[Any, Any] = {}
        for generation in range(1, GENERATIONS):
            before = yield (GET, ("success", generation - 1))
            if before is None or not before[1]:
                return NOTHING
            yield from self.learn(generation - 1, known)
            if (yield (GET, ("success", generation))) is None:
                job = yield from self.adopt(
                    generation, options, self.cut_dead(known, before[1], cut)
                )
                return (yield from self.drive(job, known)) if job else REFUSED
        return NOTHING

    def clean(self) -> Code:
        """Remove the pieces of finished generations that nobody can need.

        Those that no record names, and those of rasters whose latest record has no dead
        block. No clock is asked: neither can be wanted again, however late one wakes.
        """
        for generation in range(GENERATIONS if self.mosaic else 0):
            if (yield (GET, ("success", generation))) is None:
                return NOTHING
            plan = yield (GET, ("plan", generation))
            records = yield from self.survey(Job(generation, 0, 0, plan[1]))
            named = {record.key for record in records.values()}
            for key in (yield (LIST, "piece", generation)):
                if key not in named or (yield from self.has_served(key)):
                    yield (DELETE, key)
        return NOTHING

    def has_served(self, piece: Key) -> Code:
        for generation in reversed(range(GENERATIONS)):
            raster = yield (GET, ("task", generation, piece[2] // BLOCKS))
            if raster is not None:
                return DEAD not in raster.blocks
        return False

    # The plan.

    def adopt(self, generation: int, options: int, cut: Code) -> Code:
        """Plan a generation, or take up the plan that stands; None for other options."""
        held = yield (GET, ("job", generation))
        if held is None:
            plan = (options, (yield from cut))
            if not (yield (CREATE, ("plan", generation), plan)):
                plan = yield (GET, ("plan", generation))
            if not self.same(plan[0], options):
                return None
            held = (plan[0], self.world.fingerprint((generation, *plan)))
            yield (CREATE, ("job", generation), held)
        if not self.same(held[0], options):
            return None
        plan = yield (GET, ("plan", generation))
        return Job(generation, options, held[1], plan[1])

    def same(self, held: int, options: int) -> bool:
        return held == options

    def cut_inputs(self, cut: int) -> Code:
        versions = yield (INPUTS,)
        if self.mosaic:
            units = [(unit, versions[unit // BLOCKS]) for unit in range(len(versions) * 2)]
            cut = 1
        else:
            units = list(enumerate(versions))
        return _pack(units, cut)

    def cut_dead(self, known: dict[Any, Any], dead: int, cut: int) -> Code:
        """Images are planned as they are now; a raster stays the one it was."""
        versions = yield (INPUTS,)
        units = [unit for unit in range(dead.bit_length()) if dead >> unit & 1]
        if self.mosaic:
            return _pack([(unit, known[unit][1]) for unit in units], 1)
        return _pack([(unit, versions[unit]) for unit in units], cut)

    def learn(self, generation: int, known: dict[Any, Any]) -> Code:
        """Of each unit of a finished generation its part and its planned version.

        And of each raster the one that the generation left.
        """
        plan = yield (GET, ("plan", generation))
        job = Job(generation, 0, 0, plan[1])
        records = yield from self.survey(job)
        for number, shard in enumerate(plan[1]):
            for unit, version in shard:
                known[unit] = (_part(records[number], unit), version)
        for raster in self.rasters(job):
            known["raster", raster] = yield (GET, ("task", generation, raster))

    # The driver.

    def drive(self, job: Job, known: dict[Any, Any]) -> Code:
        """Do what is left of a generation, and finish it."""
        records = yield from self.survey(job)
        todo = deque(n for n in range(len(job.shards)) if n not in records)
        yield from self.merge_all(job, records)
        tasks: deque[int] = deque()
        rasters: dict[int, Any] = {}
        wanted = self.rasters(job)
        tasks.extend(r for r, blocks in wanted.items() if records.keys() >= blocks)
        under_way = 0
        while True:
            while under_way < IN_FLIGHT and (tasks or todo):
                self._start(job, tasks, todo, records, known)
                under_way += 1
            if not under_way:
                break
            (kind, number), value = yield WAIT
            under_way -= 1
            if value is LOST:
                self.give_back(kind, number, tasks, todo)
            elif kind == "raster":
                rasters[number] = value
            else:
                records[number] = value
                yield from self.merge(job, records, number // GROUP)
                tasks.extend(
                    r
                    for r, blocks in wanted.items()
                    if number in blocks and records.keys() >= blocks
                )
        return (yield from self.finish(job, records, rasters))

    def _start(
        self,
        job: Job,
        tasks: deque[int],
        todo: deque[int],
        records: dict[int, Record],
        known: dict[Any, Any],
    ) -> None:
        if tasks:
            number = tasks.popleft()
            parts = self.parts(job, number, records, known)
            code = self.assemble(job, number, parts, known.get(("raster", number)))
            self.world.spawn(code, ("raster", number), f"raster {number}")
        else:
            number = todo.popleft()
            code = self.attempt(job, number)
            self.world.spawn(code, ("shard", number), f"attempt at {number}")

    def give_back(
        self, kind: str, number: int, tasks: deque[int], todo: deque[int]
    ) -> None:
        (tasks if kind == "raster" else todo).append(number)

    def survey(self, job: Job) -> Code:
        """The records that stand, from merged groups and one by one."""
        records: dict[int, Record] = {}
        for group in range((len(job.shards) + GROUP - 1) // GROUP):
            merged = yield (GET, ("merged", job.generation, group))
            if merged is None:
                merged = []
                for key in (yield (LIST, "record", job.generation)):
                    if key[2] // GROUP == group:
                        merged.append((yield (GET, key)))
            for record in merged:
                records[record.shard] = record
        return records

    def merge_all(self, job: Job, records: dict[int, Record]) -> Code:
        for group in range(len(job.shards) // GROUP):
            yield from self.merge(job, records, group)

    def merge(self, job: Job, records: dict[int, Record], group: int) -> Code:
        """Keep the records of a complete group in one object too."""
        members = range(group * GROUP, group * GROUP + GROUP)
        if all(member in records for member in members):
            content = tuple(records[member] for member in members)
            yield (CREATE, ("merged", job.generation, group), content)

    def finish(self, job: Job, records: dict[int, Record], rasters: dict[int, Any]) -> Code:
        if None in rasters.values():
            raise Stuck("a raster cannot be put together")
        done, dead = self.account(job, records)
        manifest = (job.fingerprint, self.outputs(records, rasters))
        view = (job.generation, len(records), done, dead)
        yield from self.conclude(job, manifest, view)
        return FINISHED

    def account(self, job: Job, records: dict[int, Record]) -> tuple[int, int]:
        """Hold the records against the plan; the units that are done, and dead."""
        done = dead = 0
        for number, shard in enumerate(job.shards):
            record = records[number]
            units = sum(1 << unit for unit, _ in shard)
            if record.done | record.dead != units or record.done & record.dead:
                raise Stuck(f"shard {number} is not accounted for")
            done, dead = done | record.done, dead | record.dead
        return done, dead

    def conclude(self, job: Job, manifest: Any, view: tuple[int, ...]) -> Code:
        """Say what there is, and last of all that it is all."""
        yield (CREATE, ("manifest", job.generation), manifest)
        standing = yield (GET, ("manifest", job.generation))
        # Before success: whoever finds a generation finished does nothing more for it.
        yield from self.show(view)
        yield (CREATE, ("success", job.generation), (standing, view[3]))

    def outputs(self, records: dict[int, Record], rasters: dict[int, Any]) -> Any:
        if self.mosaic:
            return tuple(
                (("raster", number), rasters[number]) for number in sorted(rasters)
            )
        ordered = (records[number] for number in sorted(records))
        return tuple((record.key, record.data) for record in ordered if record.key)

    def show(self, view: tuple[int, ...]) -> Code:
        """Replace the summary unless a later one stands."""
        while True:
            standing = yield (GET, ("view",))
            if standing is not None and standing >= view:
                return
            if (yield (SWAP, ("view",), view, standing)):
                return

    # An attempt at a shard.

    def attempt(self, job: Job, number: int) -> Code:
        """Read the units, write the object, then the record; the record that stands."""
        own = yield from self.read(job, job.shards[number])
        if not self.holds(own):
            record = Record(job.fingerprint, number, own.done, own.dead, None, None)
            return (yield from self.commit(job, record))
        key = self.key(job, number)
        standing = yield from self.put(key, own)
        if standing is None:
            return (yield from self.find_served(job, number))
        record = self.describe(job, number, own, standing)
        return (yield from self.commit(job, record))

    def read(self, job: Job, shard: tuple[tuple[int, int], ...]) -> Code:
        done = dead = stale = 0
        for unit, version in shard:
            found = yield (READ, unit // BLOCKS if self.mosaic else unit, version)
            if found < 0:
                dead |= 1 << unit
            else:
                done |= 1 << unit
                stale |= (found != version) << unit
        device = self.world.random.randrange(2)
        return Data(job.options, job.generation, done, dead, stale, device)

    def holds(self, data: Data) -> bool:
        """Whether a shard has an object; images always, so that one PUT decides."""
        return not self.mosaic or bool(data.done & ~self.nodata)

    def key(self, job: Job, number: int) -> Key:
        if self.mosaic:
            return ("piece", job.generation, job.shards[number][0][0], job.fingerprint)
        return ("data", job.generation, number, job.fingerprint)

    def put(self, key: Key, data: Data) -> Code:
        """Create an object once; the one that stands, None if it is gone again."""
        if (yield (CREATE, key, data)):
            return data
        return (yield (GET, key))

    def describe(self, job: Job, number: int, _own: Data, standing: Data) -> Record:
        done, dead = standing.done, standing.dead
        key = self.key(job, number)
        return Record(job.fingerprint, number, done, dead, key, standing)

    def commit(self, job: Job, record: Record) -> Code:
        """Create the record once; the one that stands."""
        if (yield (CREATE, ("record", job.generation, record.shard), record)):
            return record
        return (yield from self.find_record(job, record.shard))

    def find_served(self, job: Job, number: int) -> Code:
        """The record of a piece that is gone again, since its raster is there."""
        return (yield from self.find_record(job, number))

    def find_record(self, job: Job, number: int) -> Code:
        record = yield (GET, ("record", job.generation, number))
        if record is None:
            raise Stuck(f"shard {number} has neither its object nor a record")
        return record

    # A raster.

    def rasters(self, job: Job) -> dict[int, set[int]]:
        """The shards that each raster of a generation waits for."""
        wanted: dict[int, set[int]] = {}
        if self.mosaic:
            for number, shard in enumerate(job.shards):
                wanted.setdefault(shard[0][0] // BLOCKS, set()).add(number)
        return wanted

    def parts(
        self, job: Job, raster: int, records: dict[int, Record], known: dict[Any, Any]
    ) -> tuple[Any, ...]:
        """Of each block: the key of its piece, ``NODATA`` or ``DEAD``."""
        parts = {}
        for record in records.values():
            unit = job.shards[record.shard][0][0]
            parts[unit] = _part(record, unit)
        units = range(raster * BLOCKS, raster * BLOCKS + BLOCKS)
        return tuple(parts[unit] if unit in parts else known[unit][0] for unit in units)

    def assemble(
        self, job: Job, raster: int, parts: tuple[Any, ...], old: Raster | None
    ) -> Code:
        """Put a raster together, record it, then drop its pieces unless one is missing.

        Returns the raster on record; None if pieces are gone and there is no record.
        """
        recorded = yield (GET, ("task", job.generation, raster))
        if recorded is None:
            made = yield from self.build(job, parts)
            if made is not None:
                standing = yield from self.store_raster(raster, made, old)
                recorded = yield from self.record_raster(job, raster, standing, parts)
            else:
                recorded = yield from self.look_again(job, raster)
            if recorded is None:
                return None
        yield from self.drop(parts)
        return recorded

    def store_raster(self, raster: int, made: Raster, old: Raster | None) -> Code:
        """Put a raster in the place of the one on record; the one that stands."""
        if (yield (SWAP, ("raster", raster), made, old)):
            return made
        return (yield (GET, ("raster", raster)))

    def record_raster(
        self,
        job: Job,
        raster: int,
        standing: Raster,
        parts: tuple[Any, ...],  # noqa: ARG002
    ) -> Code:
        key = ("task", job.generation, raster)
        if (yield (CREATE, key, standing)):
            return standing
        return (yield (GET, key))

    def look_again(self, job: Job, raster: int) -> Code:
        """Where pieces are gone, somebody else has recorded their raster."""
        return (yield (GET, ("task", job.generation, raster)))

    def build(self, job: Job, parts: tuple[Any, ...]) -> Code:
        blocks = []
        for part in parts:
            block = part
            if block is not DEAD and block is not NODATA:
                block = yield (GET, part)
                if block is None:
                    return None
            blocks.append(block)
        return Raster(job.generation, tuple(blocks))

    def drop(self, parts: Iterable[Any]) -> Code:
        if DEAD in parts:
            return
        for part in parts:
            if part is not NODATA:
                yield (DELETE, part)


def _part(record: Record, unit: int) -> Any:
    if record.dead >> unit & 1:
        return DEAD
    return NODATA if record.key is None else record.key


def _pack(units: list[tuple[int, int]], cut: int) -> Any:
    return tuple(tuple(units[at : at + cut]) for at in range(0, len(units), cut))
