"""An output where something stands: whose is it, and may it be replaced?

A COG is called like its raster in each pass of a run. What an attempt of an earlier
pass left there, and no record of this one names, gives way; all else is first, and
stays.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import rasterio
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from jobs.errors import ItemError, StoreError
from jobs.inputs.rasters import GDAL_OPTIONS
from jobs.outputs.files import describe, replace_file, store_file
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from jobs.ledger import Output
    from jobs.outputs.files import Stored
    from jobs.storage import Store

_NOT_FOUND: Final = "not_found"


def deliver(
    store: Store, run: str, name: str, path: Path, *, earlier: Collection[str]
) -> Stored:
    """Create an output from a local file, which is consumed.

    Args:
        store: Where the run lies.
        run: The run folder.
        name: Of a COG, or of what lies beside one.
        path: The file.
        earlier: Fingerprints of the passes before this one.

    Raises:
        StoreError: The store does not answer, or an earlier pass has just now written
            it; another attempt will see that.
    """
    old = _find(store, run, name) if earlier else None
    if old is not None and old[1] in earlier:
        return replace_file(store, run, old[0], path)
    stored = store_file(store, run, name, path)
    if stored.other is not None and read_maker(name, stored.other) in earlier:
        raise StoreError(f"{join(run, name)} was written late, by an earlier pass")
    return stored


def read_maker(name: str, data: bytes) -> str:
    """Fingerprint of the pass that made an output; empty where it does not say."""
    if name.endswith(".json"):
        return _read_item(data)
    return _read_cog(data) if name.endswith(".tif") else ""


def _find(store: Store, run: str, name: str) -> tuple[Output, str] | None:
    """What stands, and who made it."""
    try:
        output, data = describe(store, run, name)
    except ItemError as error:
        if error.code == _NOT_FOUND:
            return None
        raise StoreError(f"{join(run, name)} cannot be read now: {error}") from error
    return output, read_maker(name, data)


def _read_item(data: bytes) -> str:
    try:
        return str(json.loads(data)["properties"]["atrous:fingerprint"])
    except (ValueError, LookupError, TypeError):
        return ""


def _read_cog(data: bytes) -> str:
    try:
        with (
            MemoryFile(data) as memory,
            rasterio.Env(**GDAL_OPTIONS),
            memory.open(driver="GTiff") as cog,
        ):
            return str(cog.tags().get("ATROUS_FINGERPRINT", ""))
    except RasterioError:
        return ""
