"""Ways to stop a run."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager

import pytest

from jobs.commands import stoppable


@contextmanager
def ray_waits():
    """What Ray makes of an exit that a signal asks for."""
    try:
        yield
    except SystemExit:
        sys.exit(1)


def test_sigterm_keeps_its_code_where_ray_gives_another():
    with pytest.raises(SystemExit) as end, stoppable(), ray_waits():
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 128 + signal.SIGTERM


def test_another_exit_keeps_its_code():
    with pytest.raises(SystemExit) as end, stoppable():
        sys.exit(7)
    assert end.value.code == 7
