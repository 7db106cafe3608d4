"""The worker: one replica of the model, which reads, segments and writes shards.

Lives in an actor, or in the driver's own process. Two calls may be under way at
once: while the device is busy with one shard, the next one is being read.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import tempfile
import time
import traceback
import warnings
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from cluster.outcomes import Postponed
from deeplab.pictures import NODATA, Wanted
from jobs.errors import AtrousError, ItemError, RunError, StoreError
from jobs.gathering import gather, to_picture
from jobs.job import Result
from jobs.ledger import DeadLetter, Ledger, Record, TaskRecord, dead_letter
from jobs.meter import Meter
from jobs.prefetch import map_ahead
from jobs.shards import Shard
from jobs.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cluster.outcomes import Attempt, Death
    from deeplab.pictures import Segmentation
    from deeplab.seen import Seen
    from jobs.job import Image, Job, Task
    from jobs.shards import Item

Value = TypeVar("Value")

_MACHINE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE}
"""What goes wrong with a machine and not with an input: a full disk, and the like."""

_DEATHS: Final = {"memory": "out_of_memory"}


class Worker:
    """Does shards and tasks of one job with one model on one device."""

    def __init__(self, job: Job, bundle: bytes) -> None:
        """Load the model.

        Args:
            job: What to do.
            bundle: The bundle file's bytes, so that no node needs the file.
        """
        # Imported here, so that the driver does not carry torch.
        from deeplab.aspp import RateWarning
        from deeplab.segmenter import Segmenter

        # Each shape of small images would be told of, on each replica.
        warnings.simplefilter("ignore", RateWarning)
        compute = job.spec.compute
        with tempfile.TemporaryDirectory(prefix="atrous-") as folder:
            path = Path(folder, "bundle.safetensors")
            path.write_bytes(bundle)
            self._segmenter = Segmenter.load(
                path,
                device=compute.device,
                precision=compute.precision,
                batch=compute.batch,
                threads=compute.threads,
            )
        self._job = job
        self._ledger = Ledger(open_store(job.spec.access), job.folder)

    def process(
        self, work: Shard | Task, attempt: Attempt, announce: Callable[[str], None]
    ) -> Record | str | Postponed | None:
        """Do a shard and commit its record, or do a task.

        Args:
            work: What to do.
            attempt: How often it was tried, and what came of it.
            announce: Is told the next input, where the replica is this work's alone.

        Returns:
            The shard's record; None for a task that is done, and the reason for one
            that cannot be done now; Postponed where store or machine do not serve.

        Raises:
            MemoryError: It does not fit beside the replica's other work.
            RuntimeError: A bug, with its traceback as text: not every exception
                survives the way to the driver.
        """
        try:
            if isinstance(work, Shard):
                return self._process(work, attempt, announce)
            return self._complete(work, attempt, announce)
        except MemoryError:
            raise  # the pool tries it again alone
        except AtrousError as error:
            return Postponed(reason=str(error))
        except Exception as error:  # noqa: BLE001 - the shard guard
            if isinstance(error, OSError) and error.errno in _MACHINE:
                return Postponed(reason=f"{socket.gethostname()}: {error}")
            name = f"shard {work.index}" if isinstance(work, Shard) else work.name
            raise RuntimeError(f"{name}: {traceback.format_exc()}") from None

    def _process(
        self, shard: Shard, attempt: Attempt, announce: Callable[[str], None]
    ) -> Record:
        clock, meter = Clock(), Meter()
        images = clock.count("read", self._read_all(shard, attempt, announce))
        results = clock.count("segment", self._segment_all(shard, attempt, images, meter))
        record = self._job.write(shard, results)
        record = replace(
            record, seconds=clock.seconds(), worker=_whoami(), attempts=attempt.number
        )
        return self._ledger.commit(meter.complete(record))

    def _complete(
        self, task: Task, attempt: Attempt, announce: Callable[[str], None]
    ) -> str | None:
        if task.name in attempt.quarantined:
            return f"a replica died of it: {_describe(attempt.quarantined[task.name])}"
        announce(task.name)
        try:
            if not self._ledger.has_task(task.key):
                self._make(task)
            self._tidy(task)
        except ItemError as error:
            # Another driver may have recorded it, and taken its inputs away.
            return None if self._ledger.has_task(task.key) else str(error)
        return None

    def _tidy(self, task: Task) -> None:
        # Whoever may not delete may still write a run; atrous clean finds what is left.
        with contextlib.suppress(RunError):
            self._job.tidy(task)

    def _make(self, task: Task) -> None:
        start = time.perf_counter()
        record = TaskRecord(
            key=task.key,
            fingerprint=self._job.fingerprint,
            outputs=self._job.complete(task),
            worker=_whoami(),
            seconds=round(time.perf_counter() - start, 3),
        )
        self._ledger.commit_task(record)

    def _read_all(
        self, shard: Shard, attempt: Attempt, announce: Callable[[str], None]
    ) -> Iterator[Image | DeadLetter]:
        read = functools.partial(self._read, shard, attempt)
        if not attempt.alone:
            yield from map_ahead(read, shard.items, threads=self._job.readers)
            return
        for item in shard.items:
            announce(item.uri)
            yield read(item)

    def _read(self, shard: Shard, attempt: Attempt, item: Item) -> Image | DeadLetter:
        refusal = shard.refusal_of(item)
        if refusal is not None:
            return self._bury(shard, item, "plan", refusal.code, refusal.message)
        if item.uri in attempt.quarantined:
            death = attempt.quarantined[item.uri]
            code = _DEATHS.get(death.kind, "crashed")
            letter = self._bury(shard, item, "segment", code, _describe(death))
            return replace(letter, attempts=attempt.number)
        try:
            return self._job.read(shard, item)
        except ItemError as error:
            return self._bury(shard, item, "read", error.code, error.message)
        except StoreError as error:
            if not attempt.last:
                raise
            return self._bury(shard, item, "read", "unreachable", str(error))

    def _bury(
        self, shard: Shard, item: Item, stage: str, code: str, message: str
    ) -> DeadLetter:
        return self._job.bury(shard, item, dead_letter(item, stage, code, message))

    def _segment_all(
        self,
        shard: Shard,
        attempt: Attempt,
        images: Iterable[Image | DeadLetter],
        meter: Meter,
    ) -> Iterator[Result | DeadLetter]:
        """Segment images in groups, so that small ones fill the device's batches."""
        batch = max(1, self._segmenter.batch >> attempt.out_of_memory)
        together = 1 if attempt.alone else batch
        for group in gather(images, self._job.spec.tiling, together):
            meter.count_all(group)
            results = deque(self._segment(shard, attempt, group, (batch, meter.seen)))
            # Nothing is held while the caller works on: it may be a whole block.
            group.clear()
            while results:
                yield results.popleft()

    def _segment(
        self,
        shard: Shard,
        attempt: Attempt,
        group: list[Image | DeadLetter],
        how: tuple[int, Seen],
    ) -> Iterable[Result | DeadLetter]:
        images = [one for one in group if not isinstance(one, DeadLetter)]
        try:
            found = self._segmenter.segment_all(
                [to_picture(image) for image in images],
                tiling=self._job.spec.tiling,
                batch=how[0],
                wanted=Wanted(self._job.spec.probabilities, self._job.entropy),
                views=self._job.spec.views,
                seen=how[1],
            )
        except MemoryError as error:
            if not attempt.alone:
                raise
            code, message = "out_of_memory", str(error)
            return [
                one
                if isinstance(one, DeadLetter)
                else self._bury(shard, one.item, "segment", code, message)
                for one in group
            ]
        results = map(_to_result, images, found)
        return [one if isinstance(one, DeadLetter) else next(results) for one in group]


def _to_result(image: Image, found: Segmentation) -> Result:
    if image.wanted is not None:
        found.mask[~image.wanted] = NODATA
        found.confidence[~image.wanted] = 0
        if found.probabilities is not None:
            found.probabilities[:, ~image.wanted] = 0
    return Result(
        item=image.item,
        segmentation=found,
        place=image.place,
        origin=image.origin,
        truth=image.truth,
    )


def _whoami() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _describe(death: Death) -> str:
    where = f" on {death.node}" if death.node else ""
    trace = f"; {death.traceback}" if death.traceback else ""
    return f"{death.reason}{where}{trace}"


class Clock:
    """Where a shard's time goes: each stage without the one before it."""

    def __init__(self) -> None:
        """Start."""
        self._start = time.perf_counter()
        self._spent: dict[str, float] = {}

    def count(self, stage: str, values: Iterable[Value]) -> Iterator[Value]:
        """Pass values on and count the time that making them takes."""
        source = iter(values)
        while True:
            start = time.perf_counter()
            try:
                box = [next(source)]
            except StopIteration:
                return
            finally:
                spent = time.perf_counter() - start
                self._spent[stage] = self._spent.get(stage, 0.0) + spent
            # Not held while the caller works on: a value may be a whole block.
            yield box.pop()

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, to the millisecond."""
        total = time.perf_counter() - self._start
        read, segment = self._spent.get("read", 0.0), self._spent.get("segment", 0.0)
        parts = {"read": read, "segment": segment - read, "write": total - segment}
        return {name: round(value, 3) for name, value in {**parts, "total": total}.items()}
