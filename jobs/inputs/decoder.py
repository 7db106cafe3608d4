"""A decoder's process: it answers one request after the other until nobody asks.

    python -m jobs.inputs.decoder DESCRIPTOR MODULE MEMORY_BYTES

``MODULE.ANSWERS`` names what it can do. What a decoder may take is held by the
kernel: memory by a limit of the address space, time by an alarm, which ends the
process even where native code hangs and whoever asked is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import re
import resource
import signal
import socket
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import ItemError
from jobs.inputs.frames import Sheet, receive_request, send_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Answers = Mapping[str, Callable[..., Any]]

GRACE_S: Final = 2.0
"""Whoever asks ends a decoder that is late; after so much longer it ends itself."""

_LOG: Final = 2
"""Descriptor of stderr, a file that is read when the process has died."""

MEMORY: Final = re.compile(
    r"bad_alloc|MemoryError|malloc|out ?of ?memory|(cannot|unable to|failed to) allocate"
    r"|memory allocation|(insufficient|not enough|no) memory|no space for",
    re.IGNORECASE,
)
"""How libraries say that they got no memory."""


def main() -> None:
    """Serve until the other side is gone."""
    descriptor, module, memory_bytes = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    _prepare()
    answers: Answers = importlib.import_module(module).ANSWERS
    _limit(memory_bytes)
    with (
        socket.socket(fileno=descriptor) as connection,
        contextlib.suppress(ConnectionError),
    ):
        send_reply(connection, {"ready": True})
        while request := receive_request(connection):
            _serve(connection, answers, *request)


def _prepare() -> None:
    faulthandler.enable()
    # Ctrl-C is for whoever asks, who then closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit(memory_bytes: int) -> None:
    """Let the process grow by so much over what it has loaded, in files too."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return
    used = int(status.read_text().split()[0]) * resource.getpagesize()
    _set_limit(resource.RLIMIT_AS, used + memory_bytes)
    _set_limit(resource.RLIMIT_FSIZE, memory_bytes)


def _set_limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def _serve(
    connection: socket.socket, answers: Answers, fields: dict[str, Any], data: bytes
) -> None:
    os.ftruncate(_LOG, 0)
    signal.setitimer(signal.ITIMER_REAL, fields["seconds"] + GRACE_S)
    sheet = Sheet()
    reply = _answer(answers, fields, data, sheet)
    if "result" in reply:
        send_reply(connection, reply | {"shape": sheet.shape}, sheet.descriptor)
    else:
        send_reply(connection, reply)
    sheet.close()
    signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(
    answers: Answers, fields: dict[str, Any], data: bytes, sheet: Sheet
) -> dict[str, Any]:
    try:
        return {"result": answers[fields["kind"]](fields, data, sheet.empty)}
    except ItemError as error:
        is_memory = error.code == "undecodable" and MEMORY.search(error.message)
        return {"refused": ["out_of_memory" if is_memory else error.code, error.message]}
    except MemoryError as error:
        text = f"decoding needs more memory than a decoder may take: {error}"
        return {"refused": ["out_of_memory", text]}
    except Exception:  # noqa: BLE001 - whoever asks raises it again
        return {"bug": traceback.format_exc()[-4000:]}


if __name__ == "__main__":
    main()
