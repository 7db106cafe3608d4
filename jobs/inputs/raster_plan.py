"""What is looked at while rasters are planned, besides their own headers."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.errors import ItemError
from jobs.inputs.raster_grid import is_nowhere
from jobs.shards import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from jobs.inputs.rasters import RasterInfo
    from jobs.shards import Item
    from jobs.storage import Store


def refuse_side_mask(store: Store, uri: str) -> None:
    """Refuse a raster whose mask lies in a file beside it.

    GDAL would read it, but it is another object: it may change or vanish on its own,
    and a plan holds one ETag for a raster. To pass over it would call pixels data
    that are none.

    Raises:
        ItemError: ``unsupported``.
        StoreError: The store did not answer.
    """
    try:
        is_there = store.exists(f"{uri}.msk")
    except ItemError:
        return  # Who may not look at it cannot mean it.
    if is_there:
        name = uri.rpartition("/")[2]
        raise ItemError(
            "unsupported",
            f"its mask is a file of its own, {name}.msk; put the mask inside, as "
            "gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES does, or move it away",
        )


def take_dates(
    rasters: Iterable[tuple[Item, RasterInfo | Refusal]], dates: Mapping[str, str]
) -> Iterator[tuple[Item, RasterInfo | Refusal]]:
    """Pass rasters on, with the time that an index says of them, before a tag's.

    Args:
        rasters: Items and their headers.
        dates: ISO 8601 in UTC, by location.
    """
    for item, header in rasters:
        taken = dates.get(item.uri)
        if taken is None or isinstance(header, Refusal):
            yield item, header
            continue
        grid = json.dumps({**json.loads(header.grid), "datetime": taken})
        yield item, replace(header, grid=grid)


def tell_nowhere(
    headers: Iterable[RasterInfo | Refusal],
) -> Iterator[RasterInfo | Refusal]:
    """Pass headers on, and say at the end on stderr how many rasters have no CRS."""
    count = nowhere = 0
    for header in headers:
        yield header
        if not isinstance(header, Refusal):
            count += 1
            nowhere += is_nowhere(header.grid)
    if nowhere:
        print(  # noqa: T201
            f"atrous: {nowhere} of {count} rasters have no CRS; they are mapped as they "
            "are, and their masks have none either",
            file=sys.stderr,
        )


@functools.lru_cache(maxsize=64)
def find_grid(inspect: Callable[[Item], RasterInfo | Refusal], item: Item) -> str:
    """Where a raster lies, by its header; an ItemError where it cannot be read."""
    header = inspect(item)
    if isinstance(header, Refusal):
        raise ItemError(header.code, header.message)
    return header.grid
