"""Tell from what Ray says, and from what was left behind, how a replica died.

Ray's classes alone do not: a crash, a kill and the end of a node all come as
``ActorDiedError``, a full memory as a class of its own, and a broken connection,
which is often the first sign of a dead node, as ``ActorUnavailableError``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ray.exceptions import (
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)

from cluster.outcomes import Death

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.blackbox import Remains

_SIGNALS: Final = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}
_HEADLINE: Final = re.compile(r"Fatal Python error: (.+)")
_NODE: Final = re.compile(r"its node has died|node was terminated[^\n]*")
_EXIT: Final = re.compile(r"exit code \d+")
_TRACEBACK: Final = 8000


class SilentError(RayError):
    """A replica's process is there, but answers nothing."""


def diagnose(
    errors: Sequence[RayError], remains: Remains | None, *, node: str = ""
) -> Death:
    """Say how a replica died.

    Args:
        errors: What Ray said of it and of its calls, one at least.
        remains: What its black box held; None where it could not be read.
        node: Its host.

    Returns:
        The death. What has no better explanation is the node's doing: it is then
        nobody's fault.
    """
    trace = remains.traceback if remains is not None else ""
    starved = [error for error in errors if isinstance(error, OutOfMemoryError)]
    if starved:
        return Death(kind="memory", reason=_shorten(str(starved[0])), node=node)
    gone = [reason for error in errors if (reason := _node_reason(error))]
    if gone:
        return Death(kind="node", reason=gone[0], node=node)
    if trace:
        return Death(
            kind="crash", reason=_headline(trace), node=node, traceback=trace[:_TRACEBACK]
        )
    first = errors[0]
    if isinstance(first, RayActorError | WorkerCrashedError | SilentError):
        out_of_reach = isinstance(first, ActorUnavailableError) and remains is None
        if out_of_reach:
            return Death(kind="node", reason=_shorten(str(first)), node=node)
        return Death(kind="killed", reason=_exit_reason(first), node=node)
    return Death(kind="node", reason=f"{type(first).__name__}: {_shorten(str(first))}")


def _node_reason(error: RayError) -> str:
    if getattr(error, "preempted", False):
        return "its node was preempted"
    if not isinstance(error, RayActorError):
        return ""
    found = _NODE.findall(str(error))
    return f"its {found[-1].removeprefix('its ')}" if found else ""


def _headline(trace: str) -> str:
    found = _HEADLINE.search(trace)
    name = found[1] if found else "fatal signal"
    return f"{name.lower()} ({_SIGNALS[name]})" if name in _SIGNALS else name


def _exit_reason(error: RayError) -> str:
    text = str(error)
    if isinstance(error, SilentError):
        return text
    found = _EXIT.search(text)
    if found and "connection error code" not in text:
        return f"its process ended with {found[0]}"
    return "its process ended without a trace, as after SIGKILL"


def _shorten(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason given"
