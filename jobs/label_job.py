"""The label job: images become rows of a Parquet data set."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from jobs.errors import InputError
from jobs.inputs.decoding import decode_sized
from jobs.inputs.sources import IMAGE_SUFFIXES, find_items, refresh
from jobs.job import Decoded, Image, Job
from jobs.ledger import DeadLetter, Record, parse_record, to_json
from jobs.outputs.files import scratch_file, store_file
from jobs.outputs.masks import NODATA, MaskWriter, read_record
from jobs.prefetch import map_ahead
from jobs.shards import plan_shards
from jobs.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs.job import Result
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
        items = find_items(
            store, spec.source, IMAGE_SUFFIXES, limit=spec.limit, pick=spec.pick
        )
        cut = self.spec.cut
        yield from plan_shards(items, max_items=cut.shard_items, max_bytes=cut.shard_bytes)

    def replan(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """Look at the images again and pack them anew."""
        look = functools.partial(refresh, open_store(self.spec.access))
        items = (item for shard in shards for item in shard.items)
        cut = self.spec.cut
        yield from plan_shards(
            map_ahead(look, items, threads=_LOOKERS),
            max_items=cut.shard_items,
            max_bytes=cut.shard_bytes,
        )

    def read(self, shard: Shard, item: Item) -> Image:  # noqa: ARG002 - as the job asks
        """Fetch and decode an image."""
        data = open_store(self.spec.access).read(item.uri, etag=item.etag)
        sizes, start = self.spec.sizes, time.perf_counter()
        (pixels, valid), size = decode_sized(
            data, limits=self.spec.limits, resize=sizes.resize
        )
        return Image(
            item=item,
            pixels=pixels,
            valid=valid,
            size=size if sizes.mask_size == "image" else None,
            decoded=Decoded(start=start, stop=time.perf_counter(), size=len(data)),
        )

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
