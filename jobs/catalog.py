"""The STAC Collection of a run: a view over the rasters of all its passes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.assembly import COLLECTION, RasterNames, output_name
from jobs.folder import list_folders, read_shards
from jobs.ledger import Ledger
from jobs.outputs.stac import write_collection
from jobs.spec import digest_of
from jobs.storage import join, open_store
from jobs.wholes import done_items, names_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.shards import Block, Item
    from jobs.spec import Spec
    from jobs.storage import Store


def collection_id(spec: Spec) -> str:
    """Id of the Collection: the same for a run and its retries."""
    return f"atrous-{digest_of(spec.identity())}"


def write_catalog(spec: Spec) -> None:
    """Write the Collection over what a run and its retries have mapped."""
    store, run = open_store(spec.access), spec.run
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        path = Path(scratch, "collection.json")
        rasters = _list_rasters(store, run)
        write_collection(path, rasters, bundle=spec.bundle, collection=collection_id(spec))
        store.replace(join(run, COLLECTION), path.read_bytes())


def _list_rasters(store: Store, run: str) -> Iterator[tuple[RasterNames, Block]]:
    """Each raster that was made, as the last pass that did so knew it.

    Memory is bounded by the rasters that were retried.
    """
    folder, *retries = list_folders(store, run)
    again: dict[str, Block | None] = {}
    for retry in retries:
        for shard in read_shards(store, retry):
            again |= dict.fromkeys(item.key for item in shard.items)
    for one in (folder, *retries):
        for item, block in _list_made(store, one):
            if item.key in again:
                again[item.key] = block
            else:
                yield names_of(item), block
    for key, found in again.items():
        if found is not None:
            yield RasterNames(output_name(key)), found


def _list_made(store: Store, folder: str) -> Iterator[tuple[Item, Block]]:
    """Rasters of a pass with their first block; of those of one block, if it is done."""
    records = Ledger(store, folder).read()
    record = next(records, None)
    for shard in read_shards(store, folder):
        here = record if record is not None and record.shard == shard.index else None
        if here is not None:
            record = next(records, None)
        made = [] if here is None else done_items(shard, here)
        for item, block in shard.rasters:
            if block is None or not block.grid:
                continue
            if item in made or not shard.is_whole:
                yield item, block
