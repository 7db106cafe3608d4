"""The label job: images become rows of a Parquet data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobs.errors import InputError, ItemError
from jobs.inputs.images import decode_image
from jobs.inputs.sources import IMAGE_SUFFIXES, find_items
from jobs.job import Image, Job
from jobs.ledger import DeadLetter, Record, dead_letter
from jobs.outputs.files import scratch_file, store_file
from jobs.outputs.masks import NODATA, MaskWriter
from jobs.prefetch import map_ahead
from jobs.shards import plan_shards
from jobs.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs.job import Result
    from jobs.shards import Item, Shard
    from jobs.spec import Spec

IMAGE_BANDS: Final = 3
_READERS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelJob(Job):
    """Images in, masks out: one Parquet file per shard."""

    spec: Spec
    fingerprint: str = ""

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
        items = find_items(store, self.spec.source, IMAGE_SUFFIXES, limit=self.spec.limit)
        cut = self.spec.cut
        yield from plan_shards(items, max_items=cut.shard_items, max_bytes=cut.shard_bytes)

    def read(self, shard: Shard) -> Iterator[Image | DeadLetter]:
        """Fetch and decode the shard's images, a few ahead."""
        return map_ahead(self._read, shard.items, threads=_READERS)

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """Write the masks as one Parquet file, unless every image is a dead letter."""
        letters: list[DeadLetter] = []
        done = pixels = nodata = 0
        store = open_store(self.spec.access)
        name = f"masks/part-{shard.output_key(self.fingerprint)}.parquet"
        with scratch_file(store, self.spec.run) as path:
            with MaskWriter(path, self.spec.bundle) as writer:
                for result in results:
                    if isinstance(result, DeadLetter):
                        letters.append(result)
                        continue
                    writer.add(result)
                    done += 1
                    pixels += result.segmentation.mask.size
                    nodata += int((result.segmentation.mask == NODATA).sum())
            outputs = (store_file(store, self.spec.run, name, path),) if done else ()
        return Record(
            shard=shard.index,
            fingerprint=self.fingerprint,
            items=len(shard.items),
            items_done=done,
            dead_letters=tuple(letters),
            pixels_done=pixels - nodata,
            pixels_nodata=nodata,
            outputs=outputs,
        )

    def _read(self, item: Item) -> Image | DeadLetter:
        try:
            data = open_store(self.spec.access).read(item.uri, etag=item.etag)
            pixels, valid = decode_image(data)
        except ItemError as error:
            return dead_letter(item, "read", error.code, error.message)
        return Image(item=item, pixels=pixels, valid=valid)
