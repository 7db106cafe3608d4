"""What is known of each raster, over the passes that worked on it.

The blocks of a raster follow each other in a plan, so memory is bounded by one
raster, and in a run with retries by those that were retried.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs.assembly import RasterNames, output_name
from jobs.verify_folder import PLAN
from jobs.wholes import done_items
from jobs.windows import count_blocks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from deeplab.tiles import Window
    from jobs.ledger import Output, Record, TaskRecord
    from jobs.shards import Block, Shard
    from jobs.verify_folder import Pass
    from jobs.verify_report import Tell


@dataclass(frozen=True, slots=True)
class Part:
    """The newest that the ledger says of one block."""

    core: Window
    done: int
    """Pixels that have a class."""

    dead: bool
    piece: Output | None


@dataclass(slots=True)
class Raster:
    """One raster and what became of it."""

    key: str
    """Name of its COG."""

    height: int
    width: int
    side: int
    """Of its blocks, in px."""

    parts: dict[int, Part] = field(default_factory=dict)
    task: TaskRecord | None = None
    """The newest record of an assembly."""

    spent: list[Output] = field(default_factory=list)
    """Pieces of blocks that a later pass has done again."""

    claimed: list[str] = field(default_factory=list)
    """Pieces that are planned, and that a record may name one day."""

    open: bool = False
    """Whether the last pass has not recorded all of its blocks, or not the assembly."""

    lost: bool = False
    """Whether that is so although the pass came to its end."""

    @property
    def name(self) -> str:
        """Location of the COG below the run folder."""
        return self.names.mask

    @property
    def names(self) -> RasterNames:
        """Of all that may be made of it."""
        return RasterNames(self.key)

    @property
    def dead(self) -> bool:
        """Whether a block is a dead letter, so that pieces are kept."""
        return any(part.dead for part in self.parts.values())

    @property
    def keeps_pieces(self) -> bool:
        """Whether its pieces must be there."""
        return self.open or self.dead

    @property
    def pieces(self) -> list[Output]:
        """The pieces that its records name."""
        return [part.piece for part in self.parts.values() if part.piece is not None]

    def fit(self, block: Block) -> None:
        """Forget what was known of it where it has another size now."""
        if (self.height, self.width) != (block.height, block.width):
            self.height, self.width = block.height, block.width
            self.parts.clear()

    @property
    def whole(self) -> bool:
        """Whether each of its blocks has a record."""
        return len(self.parts) == count_blocks(self.height, self.width, self.side)


def _to_part(block: Block, record: Record) -> Part:
    return Part(
        core=block.core,
        done=record.pixels_done,
        dead=bool(record.dead_letters),
        piece=next(iter(record.outputs), None),
    )


class Rasters:
    """Collects the blocks of rasters, pass by pass."""

    def __init__(self, retried: Collection[str], tell: Tell) -> None:
        """Begin.

        Args:
            retried: URIs that retries plan, so that their rasters are not done before
                the last of them.
            tell: Is told what is wrong with the records of assemblies.
        """
        self.lost = False
        """Whether a record is not there although its pass came to its end."""

        self._retried, self._tell = retried, tell
        self._held: dict[str, Raster] = {}
        self._pass: Pass | None = None
        self._tasks: dict[str, TaskRecord] = {}
        self._last = ""
        self._lacks = self._news = False

    def begin(self, one: Pass, tasks: dict[str, TaskRecord]) -> None:
        """Take the shards of another pass, which has these records of assemblies."""
        self._pass, self._tasks = one, dict(tasks)

    def add(self, shard: Shard, record: Record | None, piece: str) -> Iterator[Raster]:
        """Take a shard, with its record and the name of its piece.

        Yields:
            A raster that no shard belongs to any more.
        """
        item, block = shard.items[0], shard.block
        if item.uri != self._last:
            yield from self._close()
        if shard.is_whole:
            self._give_way(shard, record)
        if block is None or shard.is_whole:
            return
        self._last = item.uri
        raster = self._held.get(item.uri)
        if raster is None:
            side = self._one.cut["block"]
            raster = Raster(output_name(item.key), block.height, block.width, side)
            self._held[item.uri] = raster
        raster.fit(block)
        before = raster.parts.get(block.number)
        if before is not None and not before.dead:
            plan = f"{self._one.prefix}{PLAN}"
            self._tell("wrong_plan", plan, "a dead block", f"shard {shard.index}")
        if record is None:
            self._lacks = True
            raster.claimed.append(piece)
        else:
            part = raster.parts[block.number] = _to_part(block, record)
            held = None if before is None else before.piece
            if held is not None:
                raster.spent.append(held)
            self._news = self._news or not part.dead or held != part.piece

    def end(self) -> Iterator[Raster]:
        """No shard of this pass is left."""
        yield from self._close()
        for key in self._tasks:
            self._say("extra_record", key, "a raster of the plan", "another one")

    def rest(self) -> Iterator[Raster]:
        """The rasters that were retried."""
        while self._held:
            yield self._held.pop(next(iter(self._held)))

    def _give_way(self, shard: Shard, record: Record | None) -> None:
        """Rasters that an earlier pass had cut into blocks, and this one has not."""
        done = [] if record is None else done_items(shard, record)
        for item in shard.items:
            raster = self._held.get(item.uri)
            if raster is not None and record is None:
                raster.open = True
            elif raster is not None and item in done:
                del self._held[item.uri]

    @property
    def _one(self) -> Pass:
        if self._pass is None:
            raise ValueError("begin comes before add")
        return self._pass

    def _close(self) -> Iterator[Raster]:
        """All blocks that this pass has of the last raster were seen."""
        if not self._last:
            return
        raster, lacks = self._held[self._last], self._lacks
        task = self._tasks.pop(raster.key, None)
        # One that stands is put together again only where a pass brings news.
        due = task is None and (self._news or raster.task is None)
        self._judge(raster, task, due=due, lacks=lacks)
        raster.open = lacks or due
        raster.lost = raster.open and self._one.complete
        self.lost = self.lost or raster.lost
        raster.task = task or raster.task
        if self._last not in self._retried:
            yield self._held.pop(self._last)
        self._last, self._lacks, self._news = "", False, False

    def _judge(
        self, raster: Raster, task: TaskRecord | None, *, due: bool, lacks: bool
    ) -> None:
        one = self._one
        if due and one.complete:
            self._say("missing_record", raster.key, "the assembly's record", "nothing")
        if task is None:
            return
        if lacks and not one.complete:
            self._say("missing_record", raster.key, "records of all its blocks", "fewer")
        if task.fingerprint != one.fingerprint:
            expected = f"fingerprint {one.fingerprint}"
            self._say("wrong_record", raster.key, expected, task.fingerprint)
        names = {output.name for output in task.outputs}
        if task.key != raster.key or not {raster.name} <= names <= {*raster.names}:
            self._say("wrong_record", raster.key, f"output {raster.name}", sorted(names))

    def _say(self, kind: str, key: str, expected: object, got: object) -> None:
        self._tell(kind, f"{self._one.prefix}ledger/tasks/{key}.json", expected, got)
