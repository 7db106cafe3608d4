"""What a job must know how to do. The engine knows no job but through this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from deeplab.segmenter import Segmentation
    from deeplab.tiles import Region
    from jobs.ledger import DeadLetter, Record
    from jobs.shards import Item, Shard
    from jobs.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image, or a part of a raster, ready for the network."""

    item: Item
    pixels: NDArray[np.uint8]
    """(bands, H, W)."""

    valid: NDArray[np.bool_]
    """(H, W); False where there is no data."""

    region: Region | None = None
    """Where the pixels lie in their raster; None for a whole image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An item and what the network saw in it."""

    item: Item
    segmentation: Segmentation


class Task(Protocol):
    """Work that finished shards make possible, e.g. one raster's assembly."""

    @property
    def name(self) -> str:
        """What it makes, for people."""
        ...


class Job(Protocol):
    """One kind of work from source to outputs; picklable, without open handles."""

    spec: Spec
    fingerprint: str
    """Of the run; empty while it is planned."""

    def plan(self) -> Iterator[Shard]:
        """On the driver: all the shards, in order."""
        ...

    def read(self, shard: Shard) -> Iterator[Image | DeadLetter]:
        """On a replica: the shard's images in order; bad ones as dead letters."""
        ...

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """On a replica: create the shard's output, whole, and say what it holds."""
        ...

    def finish(self, shard: Shard, record: Record) -> Iterable[Task]:  # noqa: ARG002
        """On the driver: what this record makes possible, each task once."""
        return ()

    def is_complete(self, task: Any, names: Container[str]) -> bool:  # noqa: ANN401
        """Whether nothing is left to do for a task, given what the run holds."""
        return task.name in names

    def complete(self, task: Any) -> None:  # noqa: ANN401 - each job has its own tasks
        """On a replica: do a task unless its output exists.

        Raises:
            ItemError: It cannot be done now; its inputs stay as they are.
        """
        raise TypeError(f"{type(self).__name__} has no tasks, got {task}")
