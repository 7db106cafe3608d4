"""The pool's interface in this one process, without Ray."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from cluster.line import PATIENCE_S, Call, Line
from cluster.memory import Starved, process
from cluster.outcomes import Death, Done, Lost, Postponed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from cluster.outcomes import Worker, WorkerSpec

Item = TypeVar("Item")


def run_local(
    spec: WorkerSpec, take: Callable[[], Item | None], *, patience_s: float = PATIENCE_S
) -> Generator[Done[Item] | Lost[Item]]:
    """Process every item that ``take`` hands out, one after the other.

    What the worker raises twice for one item is not caught: it shows where it was
    raised. What is postponed comes back by the same rules as in a pool.
    """
    worker = spec.worker(*spec.arguments)
    line = Line(take, patience_s=patience_s, now=time.monotonic())
    while not line.finished:
        now = time.monotonic()
        call = _next(line, now)
        if call is not None:
            yield from _attempt(worker, line, call)
        elif not line.finished:
            time.sleep(line.pause(now))


def _next(line: Line[Item], now: float) -> Call[Item] | None:
    suspects = line.suspects(now)
    if not suspects:
        return line.next(now)
    line.leave(suspects[0])
    return suspects[0]


def _attempt(
    worker: Worker, line: Line[Item], call: Call[Item]
) -> Generator[Done[Item] | Lost[Item]]:
    try:
        value = process(worker, call.item, call.begin(), lambda _: None)
    except Exception:
        if line.raised(call):
            raise
        return
    now = time.monotonic()
    lost = None
    if isinstance(value, Postponed):
        lost = line.postpone(call, value.reason, now)
    elif isinstance(value, Starved):
        death = Death(kind="memory", reason=value.reason)
        lost = line.bury(call, death, step=value.step, node="", now=now)
    else:
        line.done(now)
        yield Done(item=call.item, value=value)
    if lost is not None:
        yield lost
