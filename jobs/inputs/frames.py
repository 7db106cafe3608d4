"""What a replica and its decoders send each other: JSON, bytes and arrays.

Never pickles: what comes from a process that reads untrusted files is data, not
code. Arrays lie in a file in memory, whose descriptor travels over the socket:
the decoder writes into it and the replica maps it, so that no pixel is copied.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import math
import mmap
import os
import re
import socket
import struct
import tempfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jobs.errors import ItemError
from jobs.job import Origin
from jobs.sizes import resized_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Arrays = tuple[NDArray[np.uint8], NDArray[np.bool_]]
    Empty = Callable[[int, int, int], Arrays]

_REQUEST: Final = struct.Struct("<IQ")
"""Bytes of JSON, bytes of data."""

_REPLY: Final = struct.Struct("<I")
"""Bytes of JSON; at most one descriptor comes along."""

_LONGEST_REPLY: Final = 64 * 2**20
_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_HAS_MEMORY_FILES: Final = hasattr(os, "memfd_create")


def send_request(connection: socket.socket, fields: dict[str, Any], data: bytes) -> None:
    """Send what is asked, and the bytes that it is asked about."""
    text = json.dumps(fields).encode()
    connection.sendall(_REQUEST.pack(len(text), len(data)) + text)
    if data:
        connection.sendall(data)


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """Wait for a request; None when nobody will ask any more."""
    head = _take(connection, _REQUEST.size)
    if len(head) < _REQUEST.size:
        return None
    text_bytes, data_bytes = _REQUEST.unpack(head)
    text = _take(connection, text_bytes)
    data = _take(connection, data_bytes)
    if (len(text), len(data)) != (text_bytes, data_bytes):
        return None
    return json.loads(text), data


def _take(connection: socket.socket, size: int) -> bytes:
    # In one call, as a rule, so that hundreds of megabytes are held once.
    data = connection.recv(size, socket.MSG_WAITALL) if size else b""
    while 0 < len(data) < size:
        more = connection.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            break
        data += more
    return data


def send_reply(
    connection: socket.socket, fields: dict[str, Any], descriptor: int | None = None
) -> None:
    """Send an answer, with the file of its arrays where it has some."""
    text = json.dumps(fields).encode()
    message = _REPLY.pack(len(text)) + text
    if descriptor is not None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        message = message[connection.sendmsg([message], [rights]) :]
    connection.sendall(message)


def receive_reply(
    connection: socket.socket, wait: Callable[[], None]
) -> tuple[dict[str, Any], int | None]:
    """Take an answer from a process that may be hung, dead or hostile.

    Args:
        connection: To the decoder.
        wait: Returns once something is there to be read, or raises.

    Returns:
        The fields, and a descriptor that the caller must close.

    Raises:
        EOFError: The other side is gone.
        ValueError: This is no answer.
    """
    wait()
    head, descriptors, _, _ = socket.recv_fds(connection, _REPLY.size, 1, _CLOSE_ON_EXEC)
    with contextlib.ExitStack() as unless_read:
        for descriptor in descriptors:
            unless_read.callback(os.close, descriptor)
        head += _take_waiting(connection, _REPLY.size - len(head), wait, at_start=not head)
        (size,) = _REPLY.unpack(head)
        if size > _LONGEST_REPLY:
            raise ValueError(f"an answer of {size} bytes")
        fields = json.loads(_take_waiting(connection, size, wait))
        if not isinstance(fields, dict):
            raise ValueError("an answer without fields")  # noqa: TRY004
        unless_read.pop_all()
    return fields, descriptors[0] if descriptors else None


def _take_waiting(
    connection: socket.socket,
    size: int,
    wait: Callable[[], None],
    *,
    at_start: bool = False,
) -> bytes:
    if at_start:
        raise EOFError
    parts = []
    while size:
        wait()
        parts.append(connection.recv(min(size, 2**20)))
        if not parts[-1]:
            raise EOFError
        size -= len(parts[-1])
    return b"".join(parts)


def memory_file(name: str) -> int:
    """Descriptor of an empty file that has no path, in memory where that exists."""
    if _HAS_MEMORY_FILES:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Sheet:
    """The decoder's end of the arrays of one answer."""

    def __init__(self) -> None:
        """Nothing is reserved yet."""
        self.descriptor: int | None = None
        self.shape: tuple[int, int, int] | None = None

    def empty(self, bands: int, height: int, width: int) -> Arrays:
        """Reserve pixels, uint8 (bands, H, W), and validity, bool (H, W).

        Raises:
            MemoryError: They do not fit.
        """
        self.close()
        self.shape = (bands, height, width)
        self.descriptor = memory_file("atrous-pixels")
        try:
            os.ftruncate(self.descriptor, _size_of(self.shape))
            return _map(self.descriptor, self.shape)
        except OSError as error:
            raise MemoryError(f"{self.shape} pixels: {error}") from error

    def close(self) -> None:
        """Forget the file; arrays that exist stay valid."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = self.shape = None


def open_sheet(descriptor: int, shape: tuple[int, int, int]) -> Arrays:
    """The replica's end: the arrays hold the mapping, and free it with themselves.

    Raises:
        ValueError: The file is not what arrays of this shape need.
    """
    try:
        if _HAS_MEMORY_FILES:
            # Were it cut shorter while it is mapped, reading it would be fatal.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        if min(shape) < 1 or os.fstat(descriptor).st_size < _size_of(shape):
            raise ValueError(f"no arrays of {shape}")
        return _map(descriptor, shape)
    except OSError as error:
        raise ValueError(f"no file of arrays: {error}") from error


def _size_of(shape: tuple[int, int, int]) -> int:
    bands, height, width = shape
    return (bands + 1) * height * width


def _map(descriptor: int, shape: tuple[int, int, int]) -> Arrays:
    memory = mmap.mmap(descriptor, _size_of(shape))
    count = math.prod(shape)
    pixels = np.frombuffer(memory, np.uint8, count).reshape(shape)
    valid = np.frombuffer(memory, np.bool_, offset=count).reshape(shape[1:])
    return pixels, valid


_ORIGIN: Final = {
    "format": str,
    "orientation": int,
    "frames": int,
    "height": int,
    "width": int,
}
"""What a decoder says of a file."""

_ORIENTATIONS: Final = range(1, 9)
_MOST_FRAMES: Final = 2**31
_FORMAT: Final = re.compile(r"[A-Z0-9]{1,16}")


def origin_fields(origin: Origin) -> dict[str, Any]:
    """What to answer of a decoded file, for JSON."""
    return {name: getattr(origin, name) for name in _ORIGIN}


def read_origin(
    fields: Any,  # noqa: ANN401 - from JSON
    arrays: Arrays,
    asked: Mapping[str, Any],
) -> Origin:
    """What a decoder says of a file that it gave the pixels of.

    Args:
        fields: What it says.
        arrays: The pixels and validity that it gave.
        asked: The request: ``resize`` as in ``jobs.sizes``, and ``max_pixels``.

    Raises:
        ItemError: ``crashed_decoder``: it says something else, or of another image.
    """
    if isinstance(fields, dict) and {k: type(v) for k, v in fields.items()} == _ORIGIN:
        size = fields["height"], fields["width"]
        if (
            fields["orientation"] in _ORIENTATIONS
            and 0 < fields["frames"] < _MOST_FRAMES
            and _FORMAT.fullmatch(fields["format"])
            and min(size) > 0
            and math.prod(size) <= asked["max_pixels"]
            and resized_size(asked["resize"], *size) == arrays[1].shape
        ):
            return Origin(**fields)
    raise ItemError("crashed_decoder", "the decoder's answer makes no sense")
