"""What is left of processes that really die."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.blackbox import BlackBox, read_box

DYING = """
import ctypes, os, signal, sys, threading, time
from cluster.blackbox import BlackBox

def fall():
    {act}

box = BlackBox({folder!r})
box.watch()
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
with box.record(7) as announce:
    announce("first")
    announce("second of ä")
    with box.record(8) as other:
        other("beside it" + "!" * {extra})
        fall()
"""


def die(folder, act, *, extra=0):
    code = DYING.format(act=act, folder=str(folder), extra=extra)
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
    )
    (path,) = Path(folder).iterdir()
    remains = read_box(str(path))
    assert not path.exists()
    return done.returncode, remains


@pytest.mark.parametrize(
    ("act", "code", "headline"),
    [
        ("ctypes.string_at(0)", -11, "Segmentation fault"),
        ("os.abort()", -6, "Aborted"),
        ("os.kill(os.getpid(), signal.SIGBUS)", -7, "Bus error"),
        ("os.kill(os.getpid(), signal.SIGFPE)", -8, "Floating point exception"),
        ("os.kill(os.getpid(), signal.SIGILL)", -4, "Illegal instruction"),
    ],
)
def test_fatal_signal_leaves_steps_and_traceback(tmp_path, act, code, headline):
    returned, remains = die(tmp_path, act)
    assert returned == code
    assert remains.steps == {7: "second of ä", 8: "beside it"}
    lines = remains.traceback.splitlines()
    assert lines[0].replace("-", " ") == f"Fatal Python error: {headline}"
    assert lines[2].startswith("Current thread")
    assert "in fall" in remains.traceback
    assert "\nThread" in remains.traceback, "the others follow"


def test_kill_leaves_steps_alone(tmp_path):
    returned, remains = die(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert returned == -9
    assert remains.traceback == ""
    assert remains.steps[7] == "second of ä"


def test_long_steps_are_cut(tmp_path):
    _, remains = die(tmp_path, "os._exit(1)", extra=50_000)
    assert remains.steps[7] == "second of ä"
    assert 8_000 < len(remains.steps[8]) < 8_200


def test_ended_calls_leave_nothing(tmp_path):
    box = BlackBox(str(tmp_path))
    for number in range(20):
        with box.record(number) as announce:
            announce("step")
    assert read_box(box.path).steps == {}
    assert read_box(box.path) is None


def test_old_files_of_the_dead_are_swept(tmp_path):
    alive = BlackBox(str(tmp_path))
    names = {name: tmp_path / f"atrous-box-{name}" for name in ("old", "new")}
    for path in names.values():
        path.touch()
    for path in (names["old"], Path(alive.path)):
        os.utime(path, (1, 1))
    other = BlackBox(str(tmp_path))
    left = {str(path) for path in tmp_path.iterdir()}
    assert left == {alive.path, other.path, str(names["new"])}
    for box in (alive, other):
        box.remove()


def test_folder_that_takes_no_file(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        BlackBox(str(tmp_path / "missing"))
