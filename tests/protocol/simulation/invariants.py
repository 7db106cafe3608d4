"""What must hold in every story, whatever went wrong in it.

``write`` and ``delete`` are asked before each change of the store; ``check_end`` when
every process and every request has ended. The observer knows the store alone and
none of the processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from simulation.records import BLOCKS, DEAD, GENERATIONS, GROUP, NODATA, Data, Record
from simulation.world import Violation

if TYPE_CHECKING:
    from simulation.records import Key, Raster
    from simulation.world import World

UNCHANGED: Final = "a committed object never changes"
DESCRIBED: Final = "a record describes the object that stands"
COVERED: Final = "every unit is exactly one of done and dead"
UNMIXED: Final = "no output mixes options or inputs"
MERGED: Final = "a merged group is the union of its records"
NAMED: Final = "the manifest names exactly what the records name"
SUCCESS: Final = "success comes last"
ROWS: Final = "the data folder holds each row once and nothing else"
RASTERS: Final = "a raster holds exactly its pieces"
VIEW: Final = "the summary that stays is of the latest records"
PROGRESS: Final = "without faults a driver finishes in bounded steps"


class Observer:
    """Holds a world against the invariants."""

    def __init__(self, world: World, *, mosaic: bool, nodata: int) -> None:
        self._world = world
        self._objects = world.objects
        self._mosaic = mosaic
        self._nodata = nodata
        self._checks = {
            "data": self._write_data,
            "piece": self._write_data,
            "record": self._write_record,
            "merged": self._write_merged,
            "manifest": self._write_manifest,
            "success": self._write_success,
            "raster": self._write_raster,
            "task": self._write_task,
        }

    def write(self, key: Key, value: Any) -> None:
        """Look at an object that is about to be written."""
        kind = key[0]
        if kind == "view":
            return
        if kind not in {"data", "piece", "raster"}:
            self._stays(key, value)
        check = self._checks.get(kind)
        if check is not None:
            check(key, value)

    def delete(self, key: Key) -> None:
        """Look at an object that is about to be deleted: a piece that has served."""
        if key[0] != "piece":
            raise Violation(UNCHANGED, f"{key} is deleted")
        record = self._record_of(key)
        if record is not None and record.key != key:
            return
        raster = self._objects.get(("raster", key[2] // BLOCKS))
        if record is None or raster is None or key[1] > raster.generation:
            raise Violation(RASTERS, f"{key} is deleted before its raster is there")
        if DEAD in raster.blocks:
            raise Violation(RASTERS, f"{key} is deleted, and a retry will want it")

    def _stays(self, key: Key, value: Any) -> None:
        standing = self._objects.get(key)
        if standing is not None and standing != value:
            raise Violation(UNCHANGED, f"{key} was {standing}, becomes {value}")

    def _write_data(self, key: Key, data: Data) -> None:
        generation = key[1]
        plan = self._objects[("plan", generation)]
        if data.options != plan[0] or data.generation != generation or data.stale:
            raise Violation(UNMIXED, f"{key} becomes {data}, planned for {plan[0]}")
        record = self._record_of(key)
        if record is not None and record.key == key:
            standing = self._objects.get(key)
            # A piece that is gone and comes back is an orphan: its raster is there.
            if standing is not None and standing != data:
                raise Violation(UNCHANGED, f"{key} was {standing}, becomes {data}")

    def _record_of(self, key: Key) -> Record | None:
        _, generation, number, _ = key
        if key[0] == "piece":
            shards = self._objects[("plan", generation)][1]
            number = next(n for n, shard in enumerate(shards) if shard[0][0] == number)
        record: Record | None = self._objects.get(("record", generation, number))
        return record

    def _write_record(self, key: Key, record: Record) -> None:
        plan = self._objects[("plan", key[1])]
        shard = plan[1][record.shard] if record.shard < len(plan[1]) else ()
        units = sum(1 << unit for unit, _ in shard)
        if record.done | record.dead != units or record.done & record.dead:
            raise Violation(COVERED, f"{record} of the units {units:b}")
        if record.fingerprint != self._objects[("job", key[1])][1]:
            raise Violation(UNMIXED, f"{record} in a run that is another")
        self._look_at_object(record)

    def _look_at_object(self, record: Record) -> None:
        if record.key is None:
            if record.done & ~(self._nodata if self._mosaic else 0):
                raise Violation(DESCRIBED, f"{record} names no object")
            return
        standing = self._objects.get(record.key)
        if standing is None:
            raise Violation(DESCRIBED, f"{record} names an object that is not there")
        same = standing == record.data and standing.whole
        if not same or (standing.done, standing.dead) != (record.done, record.dead):
            raise Violation(DESCRIBED, f"{record}, but there stands {standing}")

    def _write_merged(self, key: Key, content: Any) -> None:
        _, generation, group = key
        numbers = range(group * GROUP, group * GROUP + GROUP)
        wanted = tuple(self._objects.get(("record", generation, n)) for n in numbers)
        if content != wanted:
            raise Violation(MERGED, f"{key} becomes {content}, the records are {wanted}")

    def _write_manifest(self, key: Key, manifest: Any) -> None:
        records = self._records(key[1])
        if None in records:
            raise Violation(NAMED, f"{key} is written and records are missing: {records}")
        if manifest[1] != self._wanted(key[1], records):
            raise Violation(NAMED, f"{manifest} is not what the records name: {records}")

    def _records(self, generation: int) -> list[Record | None]:
        shards = self._objects[("plan", generation)][1]
        return [self._objects.get(("record", generation, n)) for n in range(len(shards))]

    def _wanted(self, generation: int, records: list[Any]) -> tuple[Any, ...]:
        if not self._mosaic:
            return tuple((record.key, record.data) for record in records if record.key)
        shards = self._objects[("plan", generation)][1]
        keys = [
            ("raster", number) for number in sorted({s[0][0] // BLOCKS for s in shards})
        ]
        return tuple((key, self._objects.get(key)) for key in keys)

    def _write_success(self, key: Key, success: Any) -> None:
        generation = key[1]
        manifest = self._objects.get(("manifest", generation))
        if manifest is None or success[0] != manifest:
            raise Violation(SUCCESS, f"{key} names {success[0]}, there stands {manifest}")
        records = self._records(generation)
        if None in records or success[1] != _union(records, "dead"):
            raise Violation(SUCCESS, f"{key} is written, the records are {records}")
        for name, _ in manifest[1]:
            if name not in self._objects:
                raise Violation(SUCCESS, f"{key} is written and {name} is not there")

    def _write_raster(self, key: Key, raster: Raster) -> None:
        standing = self._objects.get(key)
        if standing is not None and standing.generation >= raster.generation:
            if standing != raster:
                raise Violation(UNCHANGED, f"{key} was {standing}, becomes {raster}")
            return
        expected = self._expected(key[1], raster.generation)
        if raster.blocks != expected:
            raise Violation(RASTERS, f"{key} becomes {raster}, not {expected}")

    def _write_task(self, key: Key, raster: Raster) -> None:
        standing = self._objects.get(("raster", key[2]))
        if raster is None or standing != raster or raster.generation != key[1]:
            raise Violation(DESCRIBED, f"{key} becomes {raster}, there stands {standing}")

    def _expected(self, raster: int, generation: int) -> tuple[Any, ...]:
        """What the records up to a generation make of a raster's blocks."""
        blocks: dict[int, Any] = {}
        for number in range(generation + 1):
            for record in self._records(number):
                shard = self._objects[("plan", number)][1]
                if record is not None:
                    blocks[shard[record.shard][0][0]] = _block(record)
        first = raster * BLOCKS
        return tuple(blocks.get(unit) for unit in range(first, first + BLOCKS))

    # When all has ended.

    def check_end(self) -> int:
        """Look at the store as it stays; the number of orphaned pieces in it."""
        generations = [g for g in range(GENERATIONS) if ("plan", g) in self._objects]
        done = dead = 0
        for generation in generations:
            if ("success", generation) not in self._objects:
                raise Violation(PROGRESS, f"generation {generation} is not finished")
            records: list[Any] = self._records(generation)
            self._check_units(generation, records, done, dead)
            done, dead = done | _union(records, "done"), _union(records, "dead")
        view = self._objects.get(("view",))
        if view != (generations[-1], len(records), _union(records, "done"), dead):
            raise Violation(VIEW, f"{view} stays of generations {generations}")
        return (
            self._check_pieces(generations[-1]) if self._mosaic else self._check_rows(done)
        )

    def _check_units(
        self, generation: int, records: list[Any], done: int, dead: int
    ) -> None:
        new_done, new_dead = _union(records, "done"), _union(records, "dead")
        units = sum(r.done + r.dead for r in records)
        wanted = dead if generation else (1 << self._units) - 1
        if units != new_done | new_dead or units != wanted or new_done & done:
            raise Violation(COVERED, f"generation {generation}: {records}")

    @property
    def _units(self) -> int:
        return len(self._world.inputs) * (BLOCKS if self._mosaic else 1)

    def _check_rows(self, done: int) -> int:
        """All objects below the data folder, named by a manifest or not."""
        named = {
            name
            for generation in range(GENERATIONS)
            for name, _ in self._objects.get(("manifest", generation), (0, ()))[1]
        }
        rows = 0
        for key, data in self._objects.items():
            if key[0] != "data":
                continue
            if key not in named or rows & data.done:
                raise Violation(ROWS, f"{key} holds {data}, named are {named}")
            rows |= data.done
        if rows != done:
            raise Violation(ROWS, f"rows {rows:b}, done {done:b}")
        return 0

    def _check_pieces(self, latest: int) -> int:
        """Every raster is there; the pieces that stay are wanted, or orphans."""
        orphans = 0
        for raster in range(len(self._world.inputs)):
            standing = self._objects.get(("raster", raster))
            expected = self._expected(raster, latest)
            if standing is None or standing.blocks != expected:
                raise Violation(RASTERS, f"raster {raster} is {standing}, not {expected}")
            left = [
                key
                for key in self._objects
                if key[0] == "piece" and key[2] // BLOCKS == raster
            ]
            wanted = self._wanted_pieces(standing)
            if not wanted <= {self._objects[key] for key in left}:
                raise Violation(RASTERS, f"raster {raster} is {standing}, pieces {left}")
            orphans += len(left) - len(wanted)
        return orphans

    def _wanted_pieces(self, raster: Raster) -> set[Any]:
        if DEAD not in raster.blocks:
            return set()
        return {
            block for block in raster.blocks if block is not DEAD and block is not NODATA
        }


def _union(records: list[Any], name: str) -> int:
    union = 0
    for record in records:
        union |= getattr(record, name)
    return union


def _block(record: Record) -> Any:
    if record.dead:
        return DEAD
    return NODATA if record.key is None else record.data
