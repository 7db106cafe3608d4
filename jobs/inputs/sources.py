"""Find the items of a source: a file, a folder, an S3 prefix, a glob or an index."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from jobs.errors import InputError, ItemError
from jobs.inputs.decoding import image_size
from jobs.inputs.indexes import is_index, max_bytes, read_dates, read_index
from jobs.prefetch import map_ahead
from jobs.shards import Item
from jobs.spec import Pick

if TYPE_CHECKING:
    from jobs.disk import Object
    from jobs.spec import Reading
    from jobs.storage import Store

IMAGE_SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"),
    *(".gif", ".bmp", ".avif", ".heic", ".heif"),
)
RASTER_SUFFIXES: Final = (".tif", ".tiff")
_LOOKERS: Final = 32
_PICK: Final = Pick()
_HEADER_BYTES: Final = 2**18
"""More than the largest EXIF block that comes before a JPEG's size."""


def raster_suffixes(reading: Reading) -> tuple[str, ...]:
    """What counts as a raster; VRTs only where the user allows them."""
    return (*RASTER_SUFFIXES, ".vrt") if reading.allow_vrt else RASTER_SUFFIXES


def find_items(
    store: Store,
    source: str,
    suffixes: tuple[str, ...],
    *,
    limit: int | None,
    pick: Pick = _PICK,
) -> list[Item]:
    """The items of a source, in URI order.

    Args:
        store: Where to look.
        source: Absolute location. A folder or prefix is searched to its full
            depth; in a glob, ``*`` stays within a name and ``**`` does not. One
            file that is an index, by its name, stands for what it names.
        suffixes: What counts as an item, in lower case; one named file always does,
            and so does what an index names.
        limit: Take the first so many only.
        pick: What of an index to take.

    Raises:
        InputError: Nothing is there, nothing that counts, or an index is wrong.
        StoreError: The store does not answer.
    """
    root, found = store.match(source)
    if not found:
        raise InputError(f"nothing at {source}; check the path, the prefix or the glob")
    if is_index(source) and [one.uri for one in found] == [source]:
        return _find_named(store, found[0], limit, pick)
    if pick != _PICK:
        raise InputError(
            f"source_column and asset choose from an index, and {source} is none; leave "
            "them out"
        )
    for one in found:
        if not one.uri.isprintable() and _is_not_utf8(one.uri):
            raise InputError(
                f"file names must be UTF-8, got {one.uri!r}; rename it or leave it out"
            )
    items = [
        _item(item, root)
        for item in found
        if item.uri == source or _counts(item.uri, suffixes)
    ]
    if not items:
        raise InputError(
            f"no input under {source} among {len(found)} objects; "
            f"what counts ends in {', '.join(suffixes)}"
        )
    return items[:limit]


def _find_named(store: Store, index: Object, limit: int | None, pick: Pick) -> list[Item]:
    """What an index names, in URI order; without size and ETag where it is not there.

    Keys are what follows the deepest folder that holds all of them, so two files of
    one name keep the folders that tell them apart; without any, it is the whole URI.
    """
    data = _read_index(store, index)
    uris = read_index(index.uri, data, pick)
    if not uris:
        raise InputError(f"{index.uri} names nothing; check the index")
    folders = [uri.split("/")[:-1] for uri in uris]
    ends = zip(min(folders), max(folders), strict=False)
    common = itertools.takewhile(lambda pair: pair[0] == pair[1], ends)
    root = "".join(f"{part}/" for part, _ in common)
    named = (
        Item(uri=uri, key=uri.removeprefix(root), size=0, etag="") for uri in uris[:limit]
    )
    return list(map_ahead(functools.partial(refresh, store), named, threads=_LOOKERS))


def find_dates(store: Store, source: str, pick: Pick) -> dict[str, str]:
    """When the items of a source were taken, as an index says it; see ``read_dates``.

    Raises:
        InputError: The index is wrong.
        StoreError: The store does not answer.
    """
    if not is_index(source):
        return {}
    _, found = store.match(source)
    if [one.uri for one in found] != [source]:
        return {}
    return read_dates(source, _read_index(store, found[0]), pick)


def _read_index(store: Store, index: Object) -> bytes:
    if index.size > max_bytes(index.uri):
        raise InputError(
            f"{index.uri} has {index.size} bytes, an index of its form may have "
            f"{max_bytes(index.uri)}; cut it in parts, or make it Parquet"
        )
    try:
        return store.read(index.uri, etag=index.etag)
    except ItemError as error:
        raise InputError(f"{error.message}; check the index") from error


def refresh(store: Store, item: Item) -> Item:
    """An item as it is now; without size and ETag where it cannot be had."""
    try:
        found = store.stat(item.uri)
    except ItemError:
        return replace(item, size=0, etag="")
    return replace(item, size=found.size, etag=found.etag)


def read_size(store: Store, item: Item) -> tuple[int, int] | None:
    """Height and width that an image's header says; None where it says nothing."""
    try:
        return image_size(store.read_head(item.uri, _HEADER_BYTES))
    except ItemError:
        return None


def _is_not_utf8(name: str) -> bool:
    # Python stands lone surrogates in for bytes that it cannot decode.
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def _counts(uri: str, suffixes: tuple[str, ...]) -> bool:
    path = PurePosixPath(uri)
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def _item(found: Object, root: str) -> Item:
    return Item(
        uri=found.uri,
        # One separator alone: a//b is another object than a/b.
        key=found.uri.removeprefix(root.rstrip("/")).removeprefix("/"),
        size=found.size,
        etag=found.etag,
    )
