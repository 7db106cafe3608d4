"""Lack of memory that shows as an exception, while the process lives on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.outcomes import Attempt, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Starved:
    """What takes the place of a value where memory was short."""

    reason: str
    step: str
    """Announced last; empty where none was."""


def process(
    worker: Worker,
    item: Any,  # noqa: ANN401
    attempt: Attempt,
    announce: Callable[[str], None],
) -> Any:  # noqa: ANN401 - any item, any value
    """Let a worker do an item; want of memory comes back as ``Starved``.

    A device's has no common class: torch calls it ``OutOfMemoryError``, which is
    known here by its name, so that nobody has to import torch.
    """
    step = ""

    def note(text: str) -> None:
        nonlocal step
        step = text
        announce(text)

    try:
        return worker.process(item, attempt, note)
    except MemoryError as error:
        return Starved(reason=_sentence(error), step=step)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return Starved(reason=_sentence(error), step=step)


def _sentence(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"out of memory: {lines[0]}" if lines else "out of memory"
