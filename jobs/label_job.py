"""The label job: images become rows of a Parquet data set."""

from __future__ import annotations

import functools
import itertools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from jobs.errors import InputError
from jobs.inputs.decoding import decode_image
from jobs.inputs.packed import find_images, refresh_image
from jobs.inputs.parts import read_part
from jobs.inputs.sources import IMAGE_SUFFIXES
from jobs.job import Decoded, Image, Job, say_nothing
from jobs.ledger import DeadLetter, Record
from jobs.outputs.mask_files import MaskFiles
from jobs.outputs.mask_rows import find_levels, ignore_unsure
from jobs.outputs.masks import MaskWriter, make_row
from jobs.prefetch import map_ahead
from jobs.shards import plan_shards
from jobs.skipping import find_done, leave_out
from jobs.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from jobs.job import Result, Tell
    from jobs.shards import Item, Shard
    from jobs.spec import Spec

IMAGE_BANDS: Final = 3
_LOOKERS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelJob(Job):
    """Images in, masks out: a Parquet file per shard, or several where it is large."""

    spec: Spec
    fingerprint: str = ""
    folder: str = ""
    readers: ClassVar[int] = 4
    entropy: ClassVar[bool] = True
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
        yield from plan_shards(
            items, max_items=spec.shard_items, max_bytes=spec.cut.shard_bytes
        )

    def replan(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """Look at the images again and pack them anew."""
        look = functools.partial(refresh_image, open_store(self.spec.access))
        items = (item for shard in shards for item in shard.items)
        yield from plan_shards(
            map_ahead(look, items, threads=_LOOKERS),
            max_items=self.spec.shard_items,
            max_bytes=self.spec.cut.shard_bytes,
        )

    def read(self, shard: Shard, item: Item) -> Image:
        """Fetch and decode an image."""
        limits, sizes = self.spec.limits, self.spec.sizes
        limits.check_bytes(item.size)
        store = open_store(self.spec.access)
        sidecars: dict[str, str] = {}
        if item.part is None:
            data = store.read(item.uri, etag=item.etag)
        else:
            data, sidecars = read_part(store, shard, item)
        start = time.perf_counter()
        (pixels, valid), origin = decode_image(data, limits=limits, resize=sizes.resize)
        return Image(
            item=item,
            pixels=pixels,
            valid=valid,
            size=(origin.height, origin.width) if sizes.mask_size == "image" else None,
            decoded=Decoded(start=start, stop=time.perf_counter(), size=len(data)),
            origin=replace(origin, sidecars=sidecars),
        )

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """Write the masks as Parquet, in as many files as their size asks for."""
        files = MaskFiles(
            store=open_store(self.spec.access),
            run=self.spec.run,
            fingerprint=self.fingerprint,
            limit=self.spec.cut.file_bytes,
            open=self._open,
        )
        return files.write(shard, self._make_rows(results))

    def _open(self, path: Path) -> MaskWriter:
        provenance = {"fingerprint": self.fingerprint, "options": self.spec.results()}
        return MaskWriter(
            path,
            self.spec.bundle,
            encoding=self.spec.masks.mask_encoding,
            provenance=provenance,
        )

    def _make_rows(
        self, results: Iterable[Result | DeadLetter]
    ) -> Iterator[dict[str, Any] | DeadLetter]:
        spec, floors = self.spec, self.spec.floors
        levels = find_levels(floors)
        for result in results:
            if isinstance(result, DeadLetter):
                yield result
                continue
            found = result.segmentation
            if floors:
                ignore_unsure(found.mask, found.confidence, levels)
            yield make_row(result, spec.bundle, encoding=spec.masks.mask_encoding)


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
