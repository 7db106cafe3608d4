"""From what Ray says to a cause; the sentences are Ray's own, as it sent them."""

from __future__ import annotations

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
)

from cluster.blackbox import Remains
from cluster.diagnosis import SilentError, diagnose

GONE = "The actor is dead because its worker process has died. "
LOST = (
    "The actor died because its node has died. Node Id: 29\n\tthe actor's node was "
    "terminated unexpectedly: health check failed due to missing too many heartbeats"
)
TRACE = 'Fatal Python error: Bus error\n\nCurrent thread 0x1\n  File "a.py", line 1 in f'


def died(message, **options):
    error = ActorDiedError()
    error.error_msg = message
    error._preempted = options.get("preempted", False)
    return error


UNAVAILABLE = ActorUnavailableError("rpc broke", None)
EOF = died(f"{GONE}Worker exits with connection error code 2. End of file.")
EMPTY = Remains()
CRASHED = Remains(traceback=TRACE)


@pytest.mark.parametrize(
    ("errors", "remains", "kind", "reason"),
    [
        ([EOF], CRASHED, "crash", "bus error (SIGBUS)"),
        ([EOF], EMPTY, "killed", "its process ended without a trace, as after SIGKILL"),
        ([EOF], None, "killed", "its process ended without a trace, as after SIGKILL"),
        (
            [died(f"{GONE}exit code 3.")],
            EMPTY,
            "killed",
            "its process ended with exit code 3",
        ),
        ([UNAVAILABLE], CRASHED, "crash", "bus error (SIGBUS)"),
        ([UNAVAILABLE], EMPTY, "killed", "its process ended without a trace"),
        ([UNAVAILABLE], None, "node", "is unavailable: rpc broke"),
        ([UNAVAILABLE, died(LOST)], None, "node", "its node was terminated unexpectedly"),
        ([died(LOST)], None, "node", "health check failed"),
        ([died("", preempted=True)], EMPTY, "node", "its node was preempted"),
        ([OutOfMemoryError("low on memory\nmore")], EMPTY, "memory", "low on memory"),
        ([EOF, OutOfMemoryError("low on memory")], EMPTY, "memory", "low on memory"),
        ([NodeDiedError("node x is dead")], None, "node", "NodeDiedError: node x is dead"),
        ([SilentError("answered nothing")], EMPTY, "killed", "answered nothing"),
        (
            [SilentError("answered nothing"), died(LOST)],
            None,
            "node",
            "health check failed",
        ),
        ([ObjectLostError("0" * 56, None, "")], None, "node", "ObjectLostError: Failed"),
    ],
)
def test_kinds(errors, remains, kind, reason):
    death = diagnose(errors, remains, node="host7")
    assert death.kind == kind
    assert reason in death.reason
    assert "\n" not in death.reason
    assert bool(death.traceback) == (kind == "crash")


def test_tells_the_node_and_no_endless_traceback():
    death = diagnose([EOF], Remains(traceback=TRACE + "\n" * 99_999), node="host7")
    assert death.node == "host7"
    assert len(death.traceback) < 10_000
