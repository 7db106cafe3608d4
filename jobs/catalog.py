"""The STAC Collection of a run: a view over the rasters of all its passes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.assembly import COLLECTION, RasterNames, output_name
from jobs.folder import list_folders, read_shards
from jobs.outputs.stac import write_collection
from jobs.spec import digest_of
from jobs.storage import join, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.shards import Block
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
    """Each raster that was cut into blocks, as the last pass that did so knew it.

    Memory is bounded by the rasters that were retried.
    """
    folder, *retries = list_folders(store, run)
    again: dict[str, Block | None] = {}
    for retry in retries:
        again |= {shard.items[0].key: None for shard in read_shards(store, retry)}
    for one in (folder, *retries):
        for shard in read_shards(store, one):
            key, block = shard.items[0].key, shard.block
            if block is None or not block.grid:
                continue
            if key in again:
                again[key] = block
            else:
                yield RasterNames(output_name(key)), block
    for key, block in again.items():
        if block is not None:
            yield RasterNames(output_name(key)), block
