"""The evaluate job: masks are held against a truth, and only counts are kept.

Images are read as the label job reads them and rasters as the map job does, so whatever
these can take can be judged. No mask is written: a shard's output is one small object of
counts, and the sum over a run's objects is its result.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Final

from jobs.errors import InputError, ItemError
from jobs.evaluation import publish_evaluation
from jobs.inputs.raster_plan import find_grid
from jobs.inputs.truths import RasterTruths, open_truths
from jobs.job import Image, Job
from jobs.label_job import LabelJob
from jobs.ledger import DeadLetter, Record, parse_record, to_json
from jobs.map_job import MapJob
from jobs.outputs.files import scratch_file, store_file
from jobs.outputs.scores import Judge, parse_part
from jobs.shards import plan_shards
from jobs.spec import Reading
from jobs.storage import open_store
from jobs.truth import CELL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jobs.job import Result, TrueMask
    from jobs.ledger import Output
    from jobs.shards import Item, Shard
    from jobs.spec import Spec

_PLAIN: Final = Reading()


def choose_evaluation(spec: Spec) -> Callable[..., Job]:
    """The job that an evaluation is: of rasters where its truth is one."""
    return EvaluateRasterJob if spec.truth.form == "raster" else EvaluateJob


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob(LabelJob):
    """Images and their masks in, counts out."""

    entropy: ClassVar[bool] = False

    def plan(self) -> Iterator[Shard]:
        """Pack the images that are to be judged into shards, as ``label`` would.

        Raises:
            InputError: There is none, or the rasters' settings were given.
        """
        spec = self.spec
        if replace(spec.reading, allow_vrt=()) != _PLAIN:
            raise InputError(
                "bands, value_range, crs and resolution are of rasters, and this truth is "
                "of images; leave them out, or give GeoTIFFs and --truth-format raster"
            )
        index = -1
        for index, shard in enumerate(_first_items(self._judged(), spec.limit)):
            yield replace(shard, index=index)
        if index < 0:
            raise InputError(
                f"no image under {spec.source} belongs to {spec.truth.split} of "
                f"{spec.truth.where}; check SOURCE, --truth and -c truth_split=..."
            )

    def _judged(self) -> Iterator[Shard]:
        """Shards of what the truth is of; what is refused stays so."""
        spec, truths = self.spec, open_truths(self.spec)
        left = set(truths.expected())
        # What a split leaves out does not count for the limit.
        label = replace(self, spec=replace(spec, limit=None))
        for is_refused, group in itertools.groupby(
            LabelJob.plan(label), key=lambda shard: shard.refusal is not None
        ):
            if is_refused:
                yield from group
                continue
            items = (item for one in group for item in one.items if truths.wants(item))
            for shard in plan_shards(
                items, max_items=spec.shard_items, max_bytes=spec.cut.shard_bytes
            ):
                left.difference_update(PurePosixPath(one.key).stem for one in shard.items)
                yield shard
        if left:
            raise InputError(
                f"the list {spec.truth.split} of {spec.truth.where} names {len(left)} "
                f"images that are not under {spec.source}, the first is {min(left)}; check "
                "SOURCE, or judge what is there with --truth-format folder"
            )

    def read(self, shard: Shard, item: Item) -> Image:
        """Fetch and decode an image's mask, and then the image."""
        truth = open_truths(self.spec).read(item)
        image = LabelJob.read(self, shard, item)
        (height, width), (rows, columns) = image.size or image.valid.shape, truth.ids.shape
        if (rows, columns) != (height, width):
            raise ItemError(
                "wrong_truth",
                f"truth {truth.uri}: it has {columns} x {rows} px where the image has "
                f"{width} x {height}; give masks of the images' own size",
            )
        return replace(image, truth=truth)

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """Write the counts as one object."""
        return _write(self, shard, results, None)

    def publish(self) -> None:
        """Add up the run."""
        publish_evaluation(open_store(self.spec.access), self.spec.run)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRasterJob(MapJob):
    """Rasters and their masks in, block by block; counts out."""

    def read(self, shard: Shard, item: Item) -> Image:
        """Read a block's mask, and then the block with its halo."""
        block = shard.block_of(item)
        if block is None:
            raise ValueError(f"shard {shard.index} has no block of {item.key}")
        grid = block.grid or find_grid(self._inspect_unchanged, item)
        place = (block.height, block.width, grid)
        truth = RasterTruths(self.spec).read(item, block.core, place)
        return replace(MapJob.read(self, shard, item), truth=truth)

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """Write the counts as one object."""
        return _write(self, shard, results, CELL)

    def publish(self) -> None:
        """Add up the run."""
        publish_evaluation(open_store(self.spec.access), self.spec.run)

    # Nothing is put together of blocks, so there are no tasks.
    delivered = Job.delivered
    gather = Job.gather
    complete = Job.complete
    leftovers = Job.leftovers
    has_leftovers = Job.has_leftovers
    tidy = Job.tidy


def _first_items(shards: Iterator[Shard], limit: int | None) -> Iterator[Shard]:
    for shard in shards:
        kept = shard.items[:limit]
        yield replace(shard, items=kept)
        if limit is not None:
            limit -= len(kept)
            if not limit:
                return


def _write(
    job: EvaluateJob | EvaluateRasterJob,
    shard: Shard,
    results: Iterable[Result | DeadLetter],
    cell: int | None,
) -> Record:
    """Judge results as they come; the object is there even without one.

    So of two attempts that read differently one is first, in everything.
    """
    spec = job.spec
    judge = Judge(len(spec.bundle.classes), spec.truth, cell)
    record = _judge(judge, job.fingerprint, shard, results)
    store = open_store(spec.access)
    name = f"scores/part-{shard.output_key(job.fingerprint)}.json"
    with scratch_file(store, spec.run) as path:
        path.write_bytes(judge.to_json(to_json(record).decode()))
        stored = store_file(store, spec.run, name, path)
    if stored.other is not None:
        part = parse_part(stored.other, len(spec.bundle.classes))
        record = parse_record(name, part.record)
    outputs: tuple[Output, ...] = (stored.output,)
    return replace(record, outputs=outputs)


def _judge(
    judge: Judge, fingerprint: str, shard: Shard, results: Iterable[Result | DeadLetter]
) -> Record:
    letters: list[DeadLetter] = []
    done = unknown = dead = 0
    for (_, block), result in zip(shard.parts, results, strict=True):
        if isinstance(result, DeadLetter):
            letters.append(result)
            dead += 0 if block is None else block.core.size
            continue
        score = judge.add(result, _truth_of(result))
        done += score.pixels
        unknown += score.unknown
    return Record(
        shard=shard.index,
        fingerprint=fingerprint,
        items=len(shard.items),
        items_done=len(shard.items) - len(letters),
        dead_letters=tuple(letters),
        pixels_done=done,
        pixels_nodata=unknown,
        pixels_dead=dead,
    )


def _truth_of(result: Result) -> TrueMask:
    if result.truth is None:
        raise ValueError(f"{result.item.key} came without its truth")
    return result.truth
