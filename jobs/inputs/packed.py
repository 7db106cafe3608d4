"""Find the images of a source, also those that lie together in tars and tables."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jobs.errors import InputError, ItemError
from jobs.inputs.indexes import is_index
from jobs.inputs.sources import counts, find_named, find_objects, make_item, refresh
from jobs.inputs.tables import TABLE, find_rows, is_table
from jobs.inputs.tars import PACKED, TAR, find_members, refuse
from jobs.shards import Refusal
from jobs.spec import Pick

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from jobs.shards import Item
    from jobs.storage import Store

_OPENERS: Final = 8
_FIRST: Final = 4096
"""Items of a tar that are found before their turn comes."""

_WAITING: Final = 1024

_Opened = tuple["Item", "Iterator[Item] | None"]
"""An object, and what it holds; None for an image."""


def find_images(
    store: Store,
    source: str,
    suffixes: tuple[str, ...],
    *,
    limit: int | None = None,
    pick: Pick | None = None,
) -> Iterator[Item]:
    """The images of a source, in URI order, as they are found.

    A tar stands for its members that are images by their name, a Parquet file with a
    column of bytes for its rows, and an index for what it names, be it these.

    Args:
        store: Where to look.
        source: As in ``find_items``.
        suffixes: What an image's name ends in, in lower case.
        limit: Take the first so many only.
        pick: What of an index or a table to take.

    Raises:
        InputError: Nothing is there, nothing that counts, or an index is wrong.
        StoreError: The store does not answer.
    """
    found = _find_objects(store, source, suffixes, pick or Pick())
    first = next(found, None)
    if first is None:
        raise InputError(
            f"no image under {source}; images end in {', '.join(suffixes)}, in tars too"
        )
    yield from itertools.islice(itertools.chain([first], found), limit)


def _find_objects(
    store: Store, source: str, suffixes: tuple[str, ...], pick: Pick
) -> Iterator[Item]:
    root, found = store.match(source)
    first = next(found, None)
    if first is None:
        raise InputError(f"nothing at {source}; check the path, the prefix or the glob")
    alone = first.uri == source
    objects: Iterator[Item]
    if alone and source.lower().endswith(PACKED):
        raise InputError(f"{source} is compressed as a whole; unpack it to a plain .tar")
    if alone and is_index(source) and not is_table(store, make_item(first, root), pick):
        objects = find_named(store, first, None, pick)
        pick = Pick()
    elif pick.asset is not None:
        raise InputError(f"asset chooses from an index, and {source} is none; leave it out")
    else:
        listed = itertools.chain([first], found)
        objects = find_objects(listed, source, root, (*suffixes, TAR, *PACKED, TABLE))
    yield from _put_in_order(_open_ahead(store, objects, suffixes, pick))


def _holds_more(item: Item) -> bool:
    return counts(item.uri, (TABLE, TAR, *PACKED))


def _open(
    store: Store, suffixes: tuple[str, ...], pick: Pick, item: Item
) -> Iterator[Item]:
    """The items of a tar or a table, of which the first few are known already."""
    try:
        if not item.etag:  # it was not there, and something says why
            store.read_part(item.uri, 0, 1, etag="")
    except ItemError as error:
        return iter([refuse(item, 0, error.code, error.message)])
    if counts(item.uri, (TABLE,)):
        found = find_rows(store, item, pick)
    else:
        found = find_members(store, item, suffixes)
    return itertools.chain(list(itertools.islice(found, _FIRST)), found)


def _open_ahead(
    store: Store, items: Iterable[Item], suffixes: tuple[str, ...], pick: Pick
) -> Iterator[_Opened]:
    """Each object, opened if it holds others; a few of these are opened at once."""
    waiting: deque[tuple[Item, Future[Iterator[Item]] | None]] = deque()
    opening = met = 0
    with ThreadPoolExecutor(_OPENERS) as pool:
        for item in items:
            if _holds_more(item):
                met += counts(item.uri, (TABLE,))
                opening += 1
                task = pool.submit(functools.partial(_open, store, suffixes, pick), item)
                waiting.append((item, task))
            elif waiting:
                waiting.append((item, None))
            else:
                yield item, None
            while opening > _OPENERS or len(waiting) > _WAITING:
                first, future = waiting.popleft()
                opening -= future is not None
                yield first, future.result() if future is not None else None
        for first, future in waiting:
            yield first, future.result() if future is not None else None
    if pick.column is not None and not met:
        raise InputError(
            "source_column chooses from an index or a Parquet file with images, and there "
            "is none; leave it out"
        )


def _put_in_order(opened: Iterable[_Opened]) -> Iterator[Item]:
    """Items in order of URI, each once.

    What a tar holds comes behind the tar's own name, and so may other objects.

    Raises:
        InputError: Two have one URI.
    """
    last = ""
    for item in _merge(opened):
        if item.uri == last:
            raise InputError(f"two inputs are called {item.uri}; rename one")
        last = item.uri
        yield item


def _merge(opened: Iterable[_Opened]) -> Iterator[Item]:
    held: list[tuple[str, int, Item, Iterator[Item]]] = []
    for number, (item, inner) in enumerate(opened):
        while held and held[0][0] <= item.uri:
            yield _take(held)
        if inner is None:
            yield item
        elif (first := next(inner, None)) is not None:
            heapq.heappush(held, (first.uri, number, first, inner))
    while held:
        yield _take(held)


def _take(held: list[tuple[str, int, Item, Iterator[Item]]]) -> Item:
    """The first of several streams, which moves on."""
    _, number, item, inner = held[0]
    after = next(inner, None)
    if after is None:
        heapq.heappop(held)
    else:
        heapq.heapreplace(held, (after.uri, number, after, inner))
    return item


def refresh_image(store: Store, item: Item) -> Item:
    """An image as it is now, for a retry; where it lay in a tar is known of that alone."""
    if item.part is None:
        return refresh(store, item)
    try:
        found = store.stat(item.part.of)
    except ItemError:
        return item  # whoever reads it says why
    if found.etag == item.etag:
        return item
    message = f"{item.part.of} changed since it was planned; label it into a new run"
    refusal = Refusal(code="input_changed", message=message)
    return replace(item, part=replace(item.part, refusal=refusal))
