"""Try the dead letters of a run again, into a folder of their own below the run.

A retry has its own plan and ledger, and writes its outputs beside those of the run;
whoever reads the run sees both. The inputs are looked at anew: what was missing may
have come, and what was changed is taken as it is now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.errors import UnfinishedError
from jobs.folder import is_finished, list_folders, prepare, prepare_retry, read_shards
from jobs.ledger import Ledger
from jobs.letters import settled_by

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from jobs.folder import Planned
    from jobs.job import Job
    from jobs.shards import Shard
    from jobs.spec import Spec
    from jobs.storage import Store


def plan_retry(
    store: Store, make_job: Callable[..., Job], spec: Spec, codes: Collection[str]
) -> Planned | None:
    """Plan a retry, or take up one that stopped; None where nothing is to be retried.

    Args:
        store: Where the run folder lies.
        make_job: The job's class.
        spec: Of the run, as it was started.
        codes: Take dead letters of these reasons only; all, where it is empty. A retry
            that is taken up keeps those that it was planned with.

    Raises:
        UnfinishedError: The run itself is not finished.
        RunError: The folder holds another run.
    """
    first = prepare(store, spec, ())
    folders = list_folders(store, spec.run)
    if not is_finished(store, spec.run):
        raise UnfinishedError(
            f"{spec.run} is not finished; run its own command again before a retry"
        )
    number = len(folders) - 1
    if number and not is_finished(store, folders[-1]):
        return prepare_retry(store, first, number, ())
    job = make_job(spec=first.spec, fingerprint=first.fingerprint, folder=spec.run)
    chosen = choose(store, folders, codes)
    start = next(chosen, None)
    if start is None:
        return None
    shards = job.replan(_chain(start, chosen))
    return prepare_retry(store, first, number + 1, shards)


def choose(store: Store, folders: list[str], codes: Collection[str]) -> Iterator[Shard]:
    """Shards as they were planned, of those items alone whose dead letter holds.

    Args:
        store: Where the folders lie.
        folders: The run's and those of its retries, in order.
        codes: Take dead letters of these reasons only; all, where it is empty.
    """
    for number, folder in enumerate(folders):
        settled = settled_by(store, folders[number + 1 :])
        shards = read_shards(store, folder)
        for record in Ledger(store, folder).read():
            wanted = {
                letter.uri
                for letter in record.dead_letters
                if (letter.code in codes or not codes) and not settled.holds(letter)
            }
            if wanted:
                # Both are in order of shard, so one pass over the plan serves them all.
                shard = next(one for one in shards if one.index == record.shard)
                # A mosaic's block is done again with all that it is made of.
                yield shard if shard.is_mosaic else shard.select(wanted)


def _chain(first: Shard, rest: Iterator[Shard]) -> Iterator[Shard]:
    yield first
    yield from rest
