"""One decoder's process, as the replica holds it: ask it, or end it.

A process that was late, that died or that answered nonsense must not be asked
again; its owner ends it and starts another.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import CODES, ItemError
from jobs.inputs.decoder import MEMORY
from jobs.inputs.frames import memory_file, open_sheet, receive_reply, send_request

if TYPE_CHECKING:
    from jobs.inputs.frames import Arrays

START_S: Final = 120.0
"""To load the libraries, on a busy machine with a cold disk."""

_SLICE_S: Final = 0.5
_END_S: Final = 5.0
_ROOT: Final = str(Path(__file__).parents[2])
_OUTSIDE: Final = {
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGALRM,
}
"""Signals that somebody sends; a decoder dies of others by itself."""

_FRAME: Final = re.compile(r'File "(?:.*/)?([^/"]+)", line (\d+) in (\S+)')

# Drivers that follow names or addresses which stand inside a file. With one driver
# allowed a raster cannot reach them, but a file that it names can.
_SKIPPED_DRIVERS: Final = (
    "VRT GTI DERIVED HTTP WMS WCS WMTS WFS OAPIF OGCAPI STACIT STACTA DAAS PLMOSAIC "
    "PLSCENES EEDA EEDAI NGW PDF MBTiles GPKG SQLite Rasterlite MRF MVT ESRIC "
    "KMLSUPEROVERLAY netCDF HDF5 HDF5Image HDF4 HDF4Image BAG S102 S104 S111 Zarr TileDB "
    "GDALG GeoJSON GeoJSONSeq ESRIJSON TopoJSON OSM AIVector CAD Elasticsearch GMLAS GML "
    "NITF RPFTOC ECRGTOC SENTINEL2 SAFE DIMAP ENVI GNMFile GNMDatabase"
)

_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Each of the allocator's arenas takes 64 MiB of addresses, used or not.
    "MALLOC_ARENA_MAX": "1",
    # Two blocks kept for the next image: 2.4 ms instead of 2.8 for 500 x 500 px.
    "PILLOW_BLOCKS_MAX": "2",
    "GDAL_SKIP": ",".join(_SKIPPED_DRIVERS.split()),
    "GDAL_DRIVER_PATH": "disable",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "CPL_CURL_VERBOSE": "NO",
    # Grids that are fetched on the way would make pixels depend on the network.
    "PROJ_NETWORK": "OFF",
}


class KilledError(ItemError):
    """A decoder was ended from outside, which the item may not be to blame for."""


class StalledError(ItemError):
    """A decoder was late although it computed nothing: it waited for something."""


class Child:
    """A decoder's process. For one thread at a time."""

    def __init__(self, module: str, *, memory_bytes: int) -> None:
        """Start it, and wait until it has loaded its libraries.

        Raises:
            KilledError: Something ended it meanwhile.
            RuntimeError: It does not start.
            OSError: This machine starts no more processes.
        """
        self.asked = 0
        self.access = access_of_environment()
        self._log = memory_file("atrous-decoder-log")
        fcntl.fcntl(self._log, fcntl.F_SETFL, os.O_APPEND)
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = _start(theirs.fileno(), self._log, module, memory_bytes)
        except OSError:
            self._connection.close()
            os.close(self._log)
            raise
        try:
            self._receive(START_S)
        except KilledError:
            self.end()
            raise
        except (ItemError, TimeoutError) as error:
            tail = self._read_log()[-2000:]
            self.end()
            raise RuntimeError(f"a decoder did not start: {error!r}\n{tail}") from error

    @property
    def is_fit(self) -> bool:
        """Whether it lives, and reaches S3 as this process does now."""
        return self.process.poll() is None and self.access == access_of_environment()

    def ask(
        self, fields: dict[str, Any], data: bytes, *, seconds: float
    ) -> tuple[Any, Arrays | None]:
        """Have a request answered.

        Args:
            fields: The request, for JSON; ``kind`` names it.
            data: Bytes that it is about.
            seconds: Most time that it may take.

        Returns:
            The answer, from JSON, and its arrays where it has some.

        Raises:
            ItemError: It was refused, or the decoder was late, died or talks nonsense.
            RuntimeError: The decoder has a bug.
        """
        self.asked += 1
        worked_s = self._cpu_s()
        try:
            self._connection.settimeout(seconds)
            # Where it died of what it got, its last words say more than the pipe.
            with contextlib.suppress(ConnectionError):
                send_request(self._connection, fields | {"seconds": seconds}, data)
            reply, arrays = self._receive(seconds)
        except TimeoutError as error:
            worked_s = self._cpu_s() - worked_s
            kind = ItemError if worked_s > seconds / 2 else StalledError
            text = f"the decoder did not end within {seconds:g} s"
            raise kind("timed_out", text) from error
        return _result(reply), arrays

    def end(self) -> None:
        """End the process, whatever it does, and leave nothing of it."""
        self._connection.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self.process.kill()
        # What waits for a dead network disk cannot be ended, only left alone.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)

    def _receive(self, seconds: float) -> tuple[dict[str, Any], Arrays | None]:
        try:
            reply, descriptor = receive_reply(self._connection, self._waiter(seconds))
            if descriptor is None:
                return reply, None
            try:
                return reply, open_sheet(descriptor, _shape(reply))
            finally:
                os.close(descriptor)
        except (EOFError, ConnectionError) as error:
            raise self._death() from error
        except (ValueError, RecursionError) as error:
            text = f"the decoder's answer makes no sense: {error}"
            raise ItemError("crashed_decoder", text[:200]) from error

    def _waiter(self, seconds: float) -> Any:  # noqa: ANN401
        """Wait for the decoder, ``seconds`` in all.

        The time counts in slices, so that a machine which stood still for minutes
        has not made an item late.
        """
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        left = seconds

        def wait() -> None:
            nonlocal left
            while left > 0:
                span, start = min(left, _SLICE_S), time.monotonic()
                if poll.poll(span * 1000):
                    return
                left -= min(span, time.monotonic() - start)
            raise TimeoutError

        return wait

    def _death(self) -> ItemError:
        """What it died of: its connection is closed, so it ends or has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
        code, log = self.process.poll(), self._read_log()
        if MEMORY.search(_words(log)):
            text = "decoding needs more memory than a decoder may take"
            return ItemError("out_of_memory", text)
        if code is None or code >= 0:
            kind = KilledError if code == 0 else ItemError
            return kind("crashed_decoder", f"the decoder's process left with status {code}")
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        kind = KilledError if -code in _OUTSIDE else ItemError
        text = f"the decoder's process died of {name}{_place(log)}"
        return kind("crashed_decoder", text)

    def _read_log(self) -> str:
        size = os.fstat(self._log).st_size
        tail = os.pread(self._log, 2**14, max(0, size - 2**14))
        return tail.decode(errors="replace")

    def _cpu_s(self) -> float:
        """Seconds that it has computed; for ever where that is not known."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2]
        except OSError:
            return math.inf
        user, system = fields.split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def access_of_environment() -> dict[str, str]:
    """What the environment says of credentials and servers."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def _start(
    descriptor: int, log: int, module: str, memory_bytes: int
) -> subprocess.Popen[bytes]:
    # The folders that this process finds its modules in, and in no case the
    # folder that the user happens to be in, which may have a jobs/ of its own.
    folders = [folder for folder in sys.path if os.path.isabs(folder)]  # noqa: PTH117
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [
            *(sys.executable, "-P", "-m", "jobs.inputs.decoder"),
            *(str(descriptor), module, str(memory_bytes)),
        ],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env={
            **os.environ,
            **_ENVIRONMENT,
            "PYTHONPATH": os.pathsep.join([*folders, _ROOT]),
        },
        process_group=0,  # Ctrl-C on a terminal goes to a whole group
    )


def _shape(reply: dict[str, Any]) -> tuple[int, int, int]:
    shape = reply.get("shape")
    if (
        not isinstance(shape, list)
        or [type(side) for side in shape] != [int] * 3
        or min(shape) < 1
    ):
        raise ValueError(f"arrays of shape {shape}")
    bands, height, width = shape
    return bands, height, width


def _result(reply: dict[str, Any]) -> Any:  # noqa: ANN401 - from JSON
    if "result" in reply:
        return reply["result"]
    if "bug" in reply:
        raise RuntimeError(f"a decoder has a bug:\n{reply['bug']}")
    match reply.get("refused"):
        case [str(code), str(message)] if code in CODES:
            raise ItemError(code, " ".join(message.split())[:300])
    raise ItemError("crashed_decoder", "the decoder's answer makes no sense")


def _words(log: str) -> str:
    """A log without the places in it, which may be called like anything."""
    return "\n".join(line for line in log.splitlines() if not line.startswith("  "))


def _place(log: str) -> str:
    """Where a process was when it died, from the traceback that it left."""
    frames = _FRAME.findall(log)[:3]
    places = [f"{name}:{line} {function}" for name, line, function in frames]
    return f" in {' < '.join(places)}" if places else ""
