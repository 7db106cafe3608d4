"""Processes below one of ours, found in /proc; not a test.

Whoever adopts orphans keeps all of them below itself, also those whose parents are
killed, so that nothing that a storm starts can get away unseen.
"""

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    state: str
    title: str

    @property
    def is_replica(self):
        return self.title.startswith("ray::Actor")

    @property
    def works(self):
        """Whether it is a replica that has a shard."""
        return self.title.startswith("ray::Actor.process")

    @property
    def is_decoder(self):
        return "jobs.inputs.decoder" in self.title

    @property
    def lives(self):
        return self.state not in "ZX"


def adopt_orphans():
    ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)


def below(root):
    """All processes that descend from one."""
    children = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                process = look(folder)
                children.setdefault(process.parent, []).append(process)
    found, parents = [], [root]
    while parents:
        for process in children.get(parents.pop(), ()):
            found.append(process)
            parents.append(process.pid)
    return found


def look(folder):
    state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
    title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return Process(int(folder.name), int(parent), state, title.strip())


def lives(pid):
    try:
        return look(Path(f"/proc/{pid}")).lives
    except OSError:
        return False


def send(pid, number):
    """Send a signal; False where nobody is there any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_below(root):
    """End all processes below one, without a chance to clean up."""
    while found := [one.pid for one in below(root) if one.lives]:
        for pid in found:
            send(pid, signal.SIGKILL)
        time.sleep(0.1)


def bury(mine):
    """Take note of the deaths of adopted orphans; ``mine`` are looked after elsewhere."""
    for process in below(os.getpid()):
        orphan = process.parent == os.getpid() and process.pid not in mine
        if orphan and not process.lives:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
