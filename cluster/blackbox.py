"""A flight recorder: what a process was about to do when it died.

A fatal signal gives no time to send anything, so each replica keeps a file on its
node. It holds the step that every call announced last, in a slot of its own, and
behind the slots whatever ``faulthandler`` writes while the process goes down.
Who lives keeps a lock on its file; files without one are swept away in the end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import struct
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PREFIX: Final = "atrous-box-"
_SLOTS: Final = 4
_SLOT_BYTES: Final = 8192
_HEADER: Final = struct.Struct("<qq")
_TRACE_BYTES: Final = 65536
_STALE_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """What a dead process left."""

    traceback: str = ""
    """Of all threads, the one that failed first; empty without a fatal signal."""

    steps: dict[int, str] = field(default_factory=dict)
    """What each call announced last, by the call's number."""


class BlackBox:
    """The recorder of this process."""

    def __init__(self, folder: str | None = None) -> None:
        """Open a file in a folder, by default that of temporary files.

        Raises:
            OSError: The folder takes no file.
        """
        folder = folder or tempfile.gettempdir()
        _sweep(folder)
        # Open as long as the process lives, for whatever ends it.
        self._handle, self.path = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        os.truncate(self._handle, _SLOTS * _SLOT_BYTES)
        os.lseek(self._handle, 0, os.SEEK_END)
        self._free = list(range(_SLOTS))
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Have fatal signals leave their traceback in the file, not on stderr."""
        faulthandler.enable(self._handle, all_threads=True)

    @contextlib.contextmanager
    def record(self, call: int) -> Iterator[Callable[[str], None]]:
        """Lend a slot to a call, which announces its steps into it."""
        with self._lock:
            slot = self._free.pop()
        offset = slot * _SLOT_BYTES

        def announce(step: str) -> None:
            text = step.encode()[: _SLOT_BYTES - _HEADER.size]
            os.pwrite(self._handle, _HEADER.pack(call, len(text)) + text, offset)

        announce("")
        try:
            yield announce
        finally:
            announce("")
            with self._lock:
                self._free.append(slot)

    def remove(self) -> None:
        """Delete the file; steps may still be announced, to nobody."""
        Path(self.path).unlink(missing_ok=True)


def read_box(path: str) -> Remains | None:
    """Read what a process left and delete it; None where there is nothing."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    Path(path).unlink(missing_ok=True)
    steps = {}
    for offset in range(0, _SLOTS * _SLOT_BYTES, _SLOT_BYTES):
        call, length = _HEADER.unpack_from(data, offset)
        start = offset + _HEADER.size
        if length:
            steps[call] = data[start : start + length].decode(errors="replace")
    trace = data[_SLOTS * _SLOT_BYTES :][:_TRACE_BYTES].decode(errors="replace")
    return Remains(traceback=_order(trace.strip()), steps=steps)


def _order(trace: str) -> str:
    """Put the thread that failed right under the headline."""
    head, *threads = trace.split("\n\n")
    threads.sort(key=lambda thread: not thread.startswith("Current thread"))
    return "\n\n".join([head, *threads])


def _sweep(folder: str) -> None:
    """Delete old files of processes that are gone and that nobody read."""
    for path in Path(folder).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
