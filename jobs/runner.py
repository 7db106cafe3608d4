"""The one loop: plan, ledger, pool, summary. It knows no particular job.

Read ``run`` and then ``_drive`` for the order of everything.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cluster.outcomes import Lost, WorkerSpec
from jobs.errors import RunError, UnfinishedError
from jobs.folder import prepare, read_shards
from jobs.ledger import Ledger
from jobs.outputs.files import SCRATCH
from jobs.shards import Shard
from jobs.storage import join, open_store
from jobs.tally import Tally
from jobs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from cluster.outcomes import Done
    from jobs.folder import Planned
    from jobs.job import Job, Task
    from jobs.ledger import Record
    from jobs.spec import Spec
    from jobs.storage import Store


class Engine(Protocol):
    """Runs a worker over items: ``cluster.pool`` or ``cluster.local``."""

    def __call__(
        self, spec: WorkerSpec, take: Callable[[], Any]
    ) -> Generator[Done[Any] | Lost[Any]]:
        """Yield one outcome per item that ``take`` hands out."""
        ...


class Progress(Protocol):
    """Is told how far a run is."""

    def start(self, planned: Planned, tally: Tally) -> None:
        """A run begins, or goes on where ``tally`` says."""
        ...

    def update(self, tally: Tally) -> None:
        """A shard is in the ledger."""
        ...

    def stop(self) -> None:
        """The run ends or stops."""
        ...


@dataclass(slots=True)
class _Feed:
    """What is left to do; tasks go first, so that pieces do not pile up."""

    shards: Iterator[Shard]
    tasks: deque[Task] = field(default_factory=deque)
    problems: list[str] = field(default_factory=list)
    """Why something stays undone."""

    def take(self) -> Shard | Task | None:
        if self.tasks:
            return self.tasks.popleft()
        return next(self.shards, None)


def run(
    make_job: Callable[..., Job],
    spec: Spec,
    *,
    bundle: bytes,
    engine: Engine,
    progress: Progress,
) -> dict[str, Any]:
    """Do a job to its end, or go on with one that stopped.

    Args:
        make_job: The job's class.
        spec: What to do.
        bundle: The bundle file's bytes, for the replicas.
        engine: Where to do it.
        progress: Who is told.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        AtrousError: A user can act on it.
        cluster.outcomes.WorkerBugError: A bug.
    """
    store = open_store(spec.access)
    planned = prepare(store, spec, make_job(spec=spec).plan())
    job = make_job(spec=planned.spec, fingerprint=planned.fingerprint)
    tally, feed = _survey(store, job)
    progress.start(planned, tally)
    try:
        if feed.tasks or tally.shards < planned.totals.shards:
            worker = WorkerSpec(worker=Worker, arguments=(job, bundle))
            with contextlib.closing(engine(worker, feed.take)) as outcomes:
                _drive(job, outcomes, feed, tally, progress)
    finally:
        progress.stop()
    if not feed.problems:
        tally.check(planned.totals)
    return _conclude(store, planned, tally, feed.problems)


def _survey(store: Store, job: Job) -> tuple[Tally, _Feed]:
    """Take stock of a run: what the ledger holds, and what is left of the plan."""
    run_folder = job.spec.run
    tally, done = Tally(), set()
    tasks: deque[Task] = deque()
    names = {found.uri.removeprefix(f"{run_folder}/") for found in store.find(run_folder)}
    planned = read_shards(store, run_folder)
    for record in Ledger(store, run_folder).read():
        _check_record(record, job)
        tally.add(record)
        done.add(record.shard)
        # Both are in order of shard, so one pass over the plan serves them all.
        shard = next((one for one in planned if one.index == record.shard), None)
        if shard is None:
            raise RunError(
                f"{run_folder} has a record of shard {record.shard}, which its plan does "
                "not know; choose a new run folder"
            )
        tasks.extend(t for t in job.finish(shard, record) if not job.is_complete(t, names))
    left = (shard for shard in read_shards(store, run_folder) if shard.index not in done)
    return tally, _Feed(shards=left, tasks=tasks)


def _check_record(record: Record, job: Job) -> None:
    if record.fingerprint != job.fingerprint:
        raise RunError(
            f"{job.spec.run} has a record of another run (shard {record.shard} has "
            f"{record.fingerprint}, not {job.fingerprint}); choose a new run folder"
        )


def _drive(
    job: Job,
    outcomes: Iterator[Done[Any] | Lost[Any]],
    feed: _Feed,
    tally: Tally,
    progress: Progress,
) -> None:
    """Count outcomes as they come; finished shards may bring new tasks."""
    for outcome in outcomes:
        if isinstance(outcome, Lost):
            feed.problems.append(
                f"{_name(outcome.item)} lost its replica {outcome.attempts} times: "
                f"{outcome.reason}"
            )
        elif isinstance(outcome.item, Shard):
            tally.add(outcome.value)
            feed.tasks.extend(job.finish(outcome.item, outcome.value))
            progress.update(tally)
        elif outcome.value is not None:
            feed.problems.append(f"{outcome.item.name} is not written: {outcome.value}")


def _name(item: Shard | Task) -> str:
    return f"shard {item.index}" if isinstance(item, Shard) else item.name


def _conclude(
    store: Store, planned: Planned, tally: Tally, problems: list[str]
) -> dict[str, Any]:
    """Write the views of the ledger that people and programs look at first."""
    run_folder = planned.spec.run
    counts = tally.summary(planned.totals, whole=not problems)
    summary = {"run": run_folder, "job": planned.spec.job, **counts}
    store.replace(join(run_folder, "dead_letter.parquet"), tally.dead_letter_file())
    store.replace(join(run_folder, "summary.json"), json.dumps(summary, indent=1).encode())
    store.sweep(join(run_folder, SCRATCH))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UnfinishedError(f"{problems[0]}{more}; the same command tries again")
    return summary
