"""Leave out of a plan what an earlier run has done: for a source that grows.

Both are in order of URI, so the two are read side by side, and neither is held.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from jobs.errors import InputError
from jobs.folder import list_folders, read_shards, require_job
from jobs.ledger import Ledger
from jobs.sorting import Sorter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jobs.shards import Item
    from jobs.storage import Store

Done = tuple[str, ...]
"""URI and ETag of what was labelled."""


def leave_out(
    items: Iterable[Item], done: Iterator[Done], tell: Callable[[], None]
) -> Iterator[Item]:
    """The items that are not done as they are now.

    Args:
        items: In order of URI, each once.
        done: In order of URI; one may come with several ETags.
        tell: Is called for each item that is left out.
    """
    ahead = next(done, None)
    for item in items:
        etags = []
        while ahead is not None and ahead[0] <= item.uri:
            if ahead[0] == item.uri:
                etags.append(ahead[1])
            ahead = next(done, None)
        if item.etag and item.etag in etags:
            tell()
        else:
            yield item


def find_done(store: Store, run: str) -> Iterator[Done]:
    """All that a run has labelled, and what it left out as done elsewhere, in order.

    Args:
        store: Where the run folders lie.
        run: The run, which need not be finished.

    Raises:
        InputError: It is no run, or one of rasters.
    """
    runs = _follow(store, run)
    folders = [list_folders(store, one) for one in runs]
    with Sorter() as retried:
        # A retry is planned in the order of the dead letters of several folders.
        for folder in itertools.chain.from_iterable(one[1:] for one in folders):
            for row in _read(store, folder):
                retried.add(*row)
        firsts = [_read(store, one[0]) for one in folders]
        yield from heapq.merge(*firsts, retried)


def _follow(store: Store, run: str) -> list[str]:
    """A run, the one that it left out, and so on."""
    found: list[str] = []
    after: str | None = run
    while after and after not in found:
        identity = require_job(store, after).get("identity") or {}
        if identity.get("job") != "label":
            raise InputError(f"{after} labels no images; --skip-done-in takes a label run")
        found.append(after)
        after = identity.get("skip_done_in")
    return found


def _read(store: Store, folder: str) -> Iterator[Done]:
    """What one plan and its ledger say, in the order of the plan."""
    shards = read_shards(store, folder)
    for record in Ledger(store, folder).read():
        # Both are in order of shard, so one pass over the plan serves them all.
        shard = next(one for one in shards if one.index == record.shard)
        dead = {letter.uri for letter in record.dead_letters}
        yield from ((item.uri, item.etag) for item in shard.items if item.uri not in dead)
