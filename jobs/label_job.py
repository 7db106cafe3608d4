"""The label job: images become rows of a Parquet data set."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Final

from jobs.errors import InputError
from jobs.inputs.decoding import decode_image
from jobs.inputs.packed import find_images, refresh_image
from jobs.inputs.parts import read_part
from jobs.inputs.sources import IMAGE_SUFFIXES
from jobs.job import Image, Job, Origin, say_nothing
from jobs.ledger import DeadLetter, Record, parse_record, to_json
from jobs.outputs.files import scratch_file, store_file
from jobs.outputs.masks import NODATA, MaskWriter, read_record
from jobs.prefetch import map_ahead
from jobs.shards import plan_shards
from jobs.skipping import find_done, leave_out
from jobs.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs.job import Result, Tell
    from jobs.shards import Item, Shard
    from jobs.spec import Spec

IMAGE_BANDS: Final = 3
_LOOKERS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelJob(Job):
    """Images in, masks out: one Parquet file per shard."""

    spec: Spec
    fingerprint: str = ""
    folder: str = ""
    readers: ClassVar[int] = 4
    tell: Tell = field(default=say_nothing, compare=False)
    """Is told how far the plan is."""

    def watch(self, tell: Tell) -> LabelJob:
        """The same, which tells of its plan."""
        return replace(self, tell=tell)

    def plan(self) -> Iterator[Shard]:
        """Pack the images of the source into shards.

        Raises:
            InputError: There is no image, or the bundle wants other bands.
        """
        bands = self.spec.bundle.bands
        if len(bands) != IMAGE_BANDS:
            raise InputError(
                f"label reads red, green and blue; the bundle wants {', '.join(bands)}"
            )
        store = open_store(self.spec.access)
        spec = self.spec
        items = find_images(store, spec.source, IMAGE_SUFFIXES, pick=spec.pick)
        count = Planning(self.tell)
        if spec.skip_done_in:
            done = find_done(store, spec.skip_done_in)
            items = leave_out(items, done, count.skip)
        items = count.pass_on(itertools.islice(items, spec.limit))
        cut = self.spec.cut
        yield from plan_shards(items, max_items=cut.shard_items, max_bytes=cut.shard_bytes)

    def replan(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """Look at the images again and pack them anew."""
        look = functools.partial(refresh_image, open_store(self.spec.access))
        items = (item for shard in shards for item in shard.items)
        cut = self.spec.cut
        yield from plan_shards(
            map_ahead(look, items, threads=_LOOKERS),
            max_items=cut.shard_items,
            max_bytes=cut.shard_bytes,
        )

    def read(self, shard: Shard, item: Item) -> Image:
        """Fetch and decode an image."""
        store = open_store(self.spec.access)
        sidecars: dict[str, str] = {}
        if item.part is None:
            data = store.read(item.uri, etag=item.etag)
        else:
            data, sidecars = read_part(store, shard, item)
        pixels, valid = decode_image(data, limits=self.spec.limits)
        origin = Origin(sidecars=sidecars)
        return Image(item=item, pixels=pixels, valid=valid, origin=origin)

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """Write the masks as one Parquet file, which is there even without a row.

        So of two attempts that read differently one is first, in everything.
        """
        store = open_store(self.spec.access)
        name = f"masks/part-{shard.output_key(self.fingerprint)}.parquet"
        with scratch_file(store, self.spec.run) as path:
            with MaskWriter(path, self.spec.bundle) as writer:
                record = self._fill(writer, shard, results)
                writer.sign(to_json(record).decode())
            stored = store_file(store, self.spec.run, name, path)
        if stored.other is not None:
            record = parse_record(name, read_record(stored.other))
        return replace(record, outputs=(stored.output,))

    def _fill(
        self, writer: MaskWriter, shard: Shard, results: Iterable[Result | DeadLetter]
    ) -> Record:
        letters: list[DeadLetter] = []
        done = pixels = nodata = 0
        for result in results:
            if isinstance(result, DeadLetter):
                letters.append(result)
                continue
            writer.add(result)
            done += 1
            pixels += result.segmentation.mask.size
            nodata += int((result.segmentation.mask == NODATA).sum())
        return Record(
            shard=shard.index,
            fingerprint=self.fingerprint,
            items=len(shard.items),
            items_done=done,
            dead_letters=tuple(letters),
            pixels_done=pixels - nodata,
            pixels_nodata=nodata,
        )


class Planning:
    """How far a plan is."""

    def __init__(self, tell: Tell) -> None:
        """Nothing is planned yet."""
        self._tell = tell
        self._items = self._skipped = 0

    def skip(self) -> None:
        """An item is left out."""
        self._skipped += 1
        self._tell(self._items, self._skipped)

    def pass_on(self, items: Iterable[Item]) -> Iterator[Item]:
        """Items as they come, counted."""
        for item in items:
            self._items += 1
            self._tell(self._items, self._skipped)
            yield item
