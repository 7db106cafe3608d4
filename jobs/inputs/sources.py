"""Find the items of a source: a file, a folder, an S3 prefix, a glob or an index."""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from jobs.errors import InputError, ItemError
from jobs.inputs.indexes import is_index, max_bytes, read_dates, read_index
from jobs.prefetch import map_ahead
from jobs.shards import Item
from jobs.sorting import Sorter
from jobs.spec import Pick

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
) -> Iterator[Item]:
    """The items of a source, in URI order, as they are found.

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
    first = next(found, None)
    if first is None:
        raise InputError(f"nothing at {source}; check the path, the prefix or the glob")
    if is_index(source) and first.uri == source:
        yield from find_named(store, first, limit, pick)
        return
    if pick != _PICK:
        raise InputError(
            f"source_column and asset choose from an index, and {source} is none; leave "
            "them out"
        )
    objects = itertools.chain([first], found)
    yield from itertools.islice(find_objects(objects, source, root, suffixes), limit)


def find_objects(
    objects: Iterable[Object], source: str, root: str, suffixes: tuple[str, ...]
) -> Iterator[Item]:
    """The objects of a listing that count.

    Args:
        objects: In URI order.
        source: What was listed; an object of that very name always counts.
        root: What keys are below.
        suffixes: What counts, in lower case.

    Raises:
        InputError: None counts, a name is no text, or the store knows no order.
    """
    seen, last, is_empty = 0, "", True
    for one in objects:
        seen += 1
        if not one.uri.isprintable() and _is_not_utf8(one.uri):
            raise InputError(
                f"file names must be UTF-8, got {one.uri!r}; rename it or leave it out"
            )
        if one.uri <= last:
            raise InputError(
                f"{source} is listed without order, {one.uri} after {last}; give a list of "
                "locations, e.g. a .txt with one a line"
            )
        last = one.uri
        if one.uri == source or counts(one.uri, suffixes):
            is_empty = False
            yield make_item(one, root)
    if is_empty:
        raise InputError(
            f"no input under {source} among {seen} objects; "
            f"what counts ends in {', '.join(suffixes)}"
        )


def find_named(
    store: Store, index: Object, limit: int | None, pick: Pick
) -> Iterator[Item]:
    """What an index names, in URI order; without size and ETag where it is not there.

    Keys are what follows the deepest folder that holds all of them, so two files of
    one name keep the folders that tell them apart; without any, it is the whole URI.

    Raises:
        InputError: The index is wrong, or names nothing.
    """
    folders: list[str] | None = None
    with Sorter() as named:
        with _open_index(store, index) as file:
            for uri in read_index(index.uri, file, pick, allow_http=store.allow_http):
                named.add(uri)
                parts = uri.split("/")[:-1]
                folders = parts if folders is None else _common(folders, parts)
        if folders is None:
            raise InputError(f"{index.uri} names nothing; check the index")
        root = "".join(f"{part}/" for part in folders)
        once = (uri for (uri,), _ in itertools.groupby(named))
        items = (
            Item(uri=uri, key=uri.removeprefix(root), size=0, etag="")
            for uri in itertools.islice(once, limit)
        )
        yield from map_ahead(functools.partial(refresh, store), items, threads=_LOOKERS)


def _common(left: list[str], right: list[str]) -> list[str]:
    """What two paths have in common at their start."""
    if right[: len(left)] == left:
        return left
    pairs = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(left, right, strict=False)
    )
    return [part for part, _ in pairs]


def find_dates(store: Store, source: str, pick: Pick) -> dict[str, str]:
    """When the items of a source were taken, as an index says it; see ``read_dates``.

    Raises:
        InputError: The index is wrong.
        StoreError: The store does not answer.
    """
    if not is_index(source):
        return {}
    index = next(store.match(source)[1], None)
    if index is None or index.uri != source:
        return {}
    with _open_index(store, index) as file:
        return read_dates(source, file, pick)


@contextlib.contextmanager
def _open_index(store: Store, index: Object) -> Iterator[BinaryIO]:
    """An index as a local file."""
    most = max_bytes(index.uri)
    if most is not None and index.size > most:
        raise InputError(
            f"{index.uri} has {index.size} bytes, an index of its form may have "
            f"{most}; cut it in parts, or make it Parquet or JSON lines"
        )
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        path = Path(scratch, "index")
        try:
            store.save(index.uri, path)
        except ItemError as error:
            raise InputError(f"{error.message}; check the index") from error
        with path.open("rb") as file:
            yield file


def refresh(store: Store, item: Item) -> Item:
    """An item as it is now; without size and ETag where it cannot be had."""
    try:
        found = store.stat(item.uri)
    except ItemError:
        return replace(item, size=0, etag="")
    return replace(item, size=found.size, etag=found.etag)


def _is_not_utf8(name: str) -> bool:
    # Python stands lone surrogates in for bytes that it cannot decode.
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def counts(uri: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a name is that of an input."""
    name = uri.rpartition("/")[2]
    return name.lower().endswith(suffixes) and not name.startswith(".")


def make_item(found: Object, root: str) -> Item:
    """An object of a listing; its key is what follows the root."""
    return Item(
        uri=found.uri,
        # One separator alone: a//b is another object than a/b.
        key=found.uri.removeprefix(root.rstrip("/")).removeprefix("/"),
        size=found.size,
        etag=found.etag,
    )
