"""The pool's interface in this one process, without Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from cluster.outcomes import Done

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from cluster.outcomes import WorkerSpec

Item = TypeVar("Item")


def run_local(spec: WorkerSpec, take: Callable[[], Item | None]) -> Generator[Done[Item]]:
    """Process every item that ``take`` hands out, one after the other.

    What the worker raises is not caught: it shows where it was raised.
    """
    worker = spec.worker(*spec.arguments)
    while (item := take()) is not None:
        yield Done(item=item, value=worker.process(item))
