"""The worker: one replica of the model, which reads, segments and writes shards.

Lives in an actor, or in the driver's own process. Two calls may be under way at
once: while the device is busy with one shard, the next one is being read.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jobs.errors import ItemError
from jobs.job import Result
from jobs.ledger import DeadLetter, Ledger, Record
from jobs.shards import Shard
from jobs.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs.job import Image, Job, Task

Value = TypeVar("Value")


class Worker:
    """Does shards and tasks of one job with one model on one device."""

    def __init__(self, job: Job, bundle: bytes) -> None:
        """Load the model.

        Args:
            job: What to do.
            bundle: The bundle file's bytes, so that no node needs the file.
        """
        # Imported here, so that the driver does not carry torch.
        from deeplab.segmenter import Segmenter

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
        self._ledger = Ledger(open_store(job.spec.access), job.spec.run)

    def process(self, work: Shard | Task) -> Record | str | None:
        """Do a shard and commit its record, or do a task.

        Returns:
            The shard's record; or None for a task that is done, and the reason
            for one that cannot be done now.

        Raises:
            RuntimeError: A bug, with its traceback as text: not every exception
                survives the way to the driver.
        """
        try:
            if isinstance(work, Shard):
                return self._process(work)
            self._job.complete(work)
        except ItemError as error:
            return str(error)
        except Exception:  # noqa: BLE001 - the shard guard
            name = f"shard {work.index}" if isinstance(work, Shard) else work.name
            raise RuntimeError(f"{name}: {traceback.format_exc()}") from None
        return None

    def _process(self, shard: Shard) -> Record:
        clock = Clock()
        images = clock.count("read", self._job.read(shard))
        results = clock.count("segment", map(self._segment, images))
        record = self._job.write(shard, results)
        record = replace(
            record, seconds=clock.seconds(), worker=f"{socket.gethostname()}:{os.getpid()}"
        )
        self._ledger.commit(record)
        return record

    def _segment(self, image: Image | DeadLetter) -> Result | DeadLetter:
        if isinstance(image, DeadLetter):
            return image
        segmentation = self._segmenter.segment(
            image.pixels, image.valid, region=image.region
        )
        return Result(item=image.item, segmentation=segmentation)


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
