"""The one loop: plan, ledger, pool, proof. It knows no particular job.

Read ``run`` and then ``_drive`` for the order of everything.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cluster.outcomes import Lost, WorkerSpec
from jobs.conclude import conclude, write_views
from jobs.errors import RunError, UnfinishedError
from jobs.folder import prepare, read_shards
from jobs.ledger import Ledger
from jobs.merging import Merging
from jobs.outputs.files import SCRATCH
from jobs.shards import Shard
from jobs.storage import join, open_store
from jobs.tally import Tally
from jobs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from cluster.outcomes import Done
    from jobs.folder import Planned
    from jobs.job import Gather, Job, Task
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

    def plan(self, items: int, skipped: int) -> None:
        """So many items are planned, and so many were left out as done."""
        ...

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

    stopped: bool = False
    """Whether nothing more is to be begun."""

    def take(self) -> Shard | Task | None:
        if self.stopped:
            return None
        if self.tasks:
            return self.tasks.popleft()
        return next(self.shards, None)

    def stop(self, reason: str) -> None:
        if not self.stopped:
            self.stopped = True
            self.problems.insert(0, reason)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run under way."""

    job: Job
    planned: Planned
    tally: Tally
    feed: _Feed
    gather: Gather
    merging: Merging

    def is_open(self) -> bool:
        """Whether there is anything to begin."""
        left = self.tally.shards < self.planned.totals.shards
        return not self.feed.stopped and (left or bool(self.feed.tasks))

    def judge(self) -> None:
        """Stop where there are more dead letters than the user accepts."""
        policy, tally, totals = self.planned.spec.policy, self.tally, self.planned.totals
        # A raster may have a dead letter for each of its blocks.
        most = max(totals.items, totals.shards)
        verdict = policy.verdict(tally.stages, tally.newest, most)
        if verdict is not None:
            self.feed.stop(verdict)


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
    store.probe(spec.run)
    job = make_job(spec=spec).watch(progress.plan)
    planned = prepare(store, spec, job.plan())
    return work_off(
        store, make_job, planned, bundle=bundle, engine=engine, progress=progress
    )


def work_off(
    store: Store,
    make_job: Callable[..., Job],
    planned: Planned,
    *,
    bundle: bytes,
    engine: Engine,
    progress: Progress,
) -> dict[str, Any]:
    """Do all of a plan that is not done; see ``run``."""
    job = make_job(
        spec=planned.spec, fingerprint=planned.fingerprint, folder=planned.folder
    )
    with contextlib.closing(Merging(Ledger(store, planned.folder), planned)) as merging:
        here = _survey(store, job, planned, merging)
        here.judge()
        progress.start(planned, here.tally)
        try:
            if here.is_open():
                worker = WorkerSpec(worker=Worker, arguments=(job, bundle))
                with contextlib.closing(engine(worker, here.feed.take)) as outcomes:
                    _drive(here, outcomes, progress)
        finally:
            progress.stop()
        merging.finish()
    return _conclude(store, here)


def _survey(store: Store, job: Job, planned: Planned, merging: Merging) -> _Run:
    """Take stock of a run: what the ledger holds, and what is left of the plan."""
    ledger = Ledger(store, planned.folder)
    tally, gather, done = Tally(), job.gather(), ledger.task_keys()
    # After the tasks: what another driver leaves once it has recorded one is seen.
    leftovers = job.leftovers()
    tasks: deque[Task] = deque()
    shards = read_shards(store, planned.folder)
    for record in ledger.read():
        _check_record(record, planned)
        tally.add(record)
        merging.add(record.shard)
        # Both are in order of shard, so one pass over the plan serves them all.
        shard = next((one for one in shards if one.index == record.shard), None)
        if shard is None:
            raise RunError(
                f"{planned.folder} has a record of shard {record.shard}, which its plan "
                "does not know; choose a new run folder"
            )
        tasks.extend(
            task
            for task in gather(shard, record)
            if task.key not in done or job.has_leftovers(task, leftovers)
        )
    rest = read_shards(store, planned.folder)
    left = (shard for shard in rest if shard.index not in merging)
    feed = _Feed(shards=left, tasks=tasks)
    return _Run(job, planned, tally, feed, gather, merging)


def _check_record(record: Record, planned: Planned) -> None:
    if record.fingerprint != planned.fingerprint:
        raise RunError(
            f"{planned.folder} has a record of another run (shard {record.shard} has "
            f"{record.fingerprint}, not {planned.fingerprint}); choose a new run folder"
        )


def _drive(
    here: _Run, outcomes: Iterator[Done[Any] | Lost[Any]], progress: Progress
) -> None:
    """Count outcomes as they come; finished shards may bring new tasks."""
    for outcome in outcomes:
        if isinstance(outcome, Lost):
            here.feed.problems.append(
                f"{_name(outcome.item)} was given up after {outcome.attempts} attempts: "
                f"{outcome.reason}"
            )
        elif isinstance(outcome.item, Shard):
            here.tally.add(outcome.value)
            here.feed.tasks.extend(here.gather(outcome.item, outcome.value))
            here.merging.add(outcome.item.index)
            here.judge()
            progress.update(here.tally)
        elif outcome.value is not None:
            here.feed.problems.append(
                f"{outcome.item.name} is not written: {outcome.value}"
            )


def _name(item: Shard | Task) -> str:
    return f"shard {item.index}" if isinstance(item, Shard) else item.name


def _conclude(store: Store, here: _Run) -> dict[str, Any]:
    """Prove that all is done, and write what people and programs look at first."""
    run_folder, problems = here.planned.spec.run, here.feed.problems
    if not problems:
        here.job.publish()
        conclude(store, here.job, here.planned)
    summary = write_views(store, run_folder)
    store.sweep(join(run_folder, SCRATCH))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UnfinishedError(f"{problems[0]}{more}; the same command tries again")
    return summary
