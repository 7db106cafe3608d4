"""Read ahead: do the next few calls in threads while this one is used."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Argument = TypeVar("Argument")
Value = TypeVar("Value")


def map_ahead(
    function: Callable[[Argument], Value], arguments: Iterable[Argument], *, threads: int
) -> Iterator[Value]:
    """Yield ``function(argument)`` in order, at most ``threads`` calls ahead.

    What was yielded is not held, so the caller decides how long it lives.
    """
    rest = iter(arguments)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(function, one) for one in islice(rest, threads))
        while waiting:
            waiting.extend(pool.submit(function, one) for one in islice(rest, 1))
            yield waiting.popleft().result()
