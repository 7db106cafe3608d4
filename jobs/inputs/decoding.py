"""Decode what is untrusted, in processes that may hang, crash or eat memory.

A few decoders live beside the replica, and cost an item what it did to them: one
that is late, dies or wants too much memory is ended and replaced, and its item is a
dead letter with the reason. A decoder that was killed from outside, like one whose
replica was frozen for a while, is no reason: the item gets another.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import queue
import random
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import ItemError, StoreError
from jobs.inputs.child import Child, KilledError, StalledError
from jobs.inputs.frames import read_origin
from jobs.inputs.gdal_names import gdal_path, s3_options
from jobs.sizes import KEEP
from jobs.spec import Limits, Reading
from jobs.storage import S3, open_store

if TYPE_CHECKING:
    from deeplab.tiles import Window
    from jobs.inputs.frames import Arrays
    from jobs.inputs.rasters import RasterInfo
    from jobs.job import Origin
    from jobs.storage import Access

PROCESSES: Final = {
    "jobs.inputs.images": 2,
    "jobs.inputs.rasters": 4,
    "jobs.inputs.raster_mosaic": 4,
    "jobs.inputs.raster_scenes": 4,
}
"""Most decoders of a process, by what they decode; they start when they are needed."""

MEMORY_BYTES: Final = 1700 * 2**20
"""What a decoder may take over its libraries: 100 million pixels fit, 2 GB do not."""

RASTER_FACTOR: Final = 6
"""A block of a raster may take so many times longer than an image."""

_OF_SCENES: Final = {"begin", "place", "scene"}
"""What is asked about scenes of a mosaic."""

_REQUESTS: Final = 1000
"""A decoder answers so many, in case that its libraries leak."""

_TRIES: Final = 3
_DELAY_S: Final = 0.5
_LIMITS: Final = Limits()
_PLAINLY: Final = Reading()

_LONGEST_VRT: Final = 16 * 2**20 + 1
"""One byte more than a decoder takes, so that it sees what is too long."""


class Decoders:
    """Processes that decode. Safe to use from many threads."""

    def __init__(
        self, module: str, *, processes: int = 2, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        """Start nothing yet.

        Args:
            module: Its ``ANSWERS`` name what can be asked.
            processes: Most at a time; who asks for more waits.
            memory_bytes: What one may take over its libraries.
        """
        self._module = module
        self._memory_bytes = memory_bytes
        # The last one back goes first, so no more are started than are needed.
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)

    def ask(
        self, kind: str, fields: dict[str, Any], data: bytes = b"", *, seconds: float
    ) -> tuple[Any, Arrays | None]:
        """Have a request answered by a decoder.

        Args:
            kind: One of the module's answers.
            fields: What else it needs, for JSON.
            data: Bytes that it is about.
            seconds: Most time that it may take.

        Returns:
            The answer, and its arrays where it has some; they belong to the caller.

        Raises:
            ItemError: The decoder refused, was late, died or ran out of memory.
            RuntimeError: The decoder has a bug, or none starts.
        """
        request = fields | {"kind": kind}
        with contextlib.suppress(KilledError):
            return self._ask(request, data, seconds)
        return self._ask(request, data, seconds)

    def close(self) -> None:
        """End those that nobody uses; asking again starts new ones."""
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for child in idle:
            if child is not None:
                child.end()
            self._idle.put(None)

    def _ask(
        self, request: dict[str, Any], data: bytes, seconds: float
    ) -> tuple[Any, Arrays | None]:
        child = self._idle.get()
        is_sound = False
        try:
            if child is None or child.asked >= _REQUESTS or not child.is_fit:
                child = self._replace(child)
            try:
                answer = child.ask(request, data, seconds=seconds)
            except ItemError as error:
                is_sound = error.code in _SOUND
                raise
            is_sound = True
            return answer
        finally:
            if child is not None and not is_sound:
                child.end()
            self._idle.put(child if is_sound else None)

    def _replace(self, child: Child | None) -> Child:
        if child is not None:
            child.end()
        return Child(self._module, memory_bytes=self._memory_bytes)


_SOUND: Final = {
    "undecodable",
    "unsupported",
    "too_large",
    "unreachable",
    "not_found",
    "input_changed",
}
"""After these a decoder is as good as before."""


def decode_image(
    data: bytes, *, limits: Limits = _LIMITS, resize: str = KEEP
) -> tuple[Arrays, Origin]:
    """Decode an image file in a decoder, which resizes it too; see ``jobs.inputs.images``.

    Args:
        data: The file's bytes.
        limits: What it may take.
        resize: As in ``jobs.sizes``.


    Returns:
        Pixels, uint8 (3, H, W), RGB, and validity, bool (H, W); and what the file is.

    Raises:
        ItemError: ``undecodable``, ``too_large``, ``unsupported``, ``timed_out``,
            ``crashed_decoder`` or ``out_of_memory``.
    """
    limits.check_bytes(len(data))
    fields = {"max_pixels": limits.max_pixels, "resize": resize}
    decoders = _decoders("jobs.inputs.images", os.getpid())
    answer, found = decoders.ask("decode", fields, data, seconds=limits.seconds)
    arrays = checked(found, bands=3)
    return arrays, read_origin(answer, arrays, fields)


def image_size(head: bytes, *, limits: Limits = _LIMITS) -> tuple[int, int]:
    """Height and width, before EXIF orientation, from the first bytes of a file.

    Raises:
        ItemError: As in ``decode_image``.
    """
    decoders = _decoders("jobs.inputs.images", os.getpid())
    (height, width), _ = decoders.ask("size", {}, head, seconds=limits.seconds)
    return height, width


def read_info(
    uri: str,
    access: Access,
    *,
    size: int | None = None,
    bands: int | None = None,
    reading: Reading = _PLAINLY,
    limits: Limits = _LIMITS,
) -> RasterInfo:
    """Read a raster's header in a decoder.

    Args:
        uri: Location of the raster.
        access: How to reach it.
        size: Bytes of the file, to see through a header that claims what no file
            of that size can hold.
        bands: How many the bundle needs; None to look at any raster's header.
        reading: What is read of the raster, and how.
        limits: What it may take.

    Raises:
        ItemError: As in ``decode_image``.
        StoreError: The store did not answer.
    """
    from jobs.inputs.rasters import RasterInfo

    fields = {"size": size, "bands": bands, **reading_fields(reading)}
    data = _read_vrt(uri, access, reading) if is_vrt(uri) else b""
    info, _ = ask_raster("info", fields, uri, access, limits, data)
    stored = info.pop("stored")
    return RasterInfo(**info, stored=None if stored is None else tuple(stored))


def read_window(
    uri: str,
    access: Access,
    window: Window,
    *,
    bands: int,
    reading: Reading = _PLAINLY,
    limits: Limits = _LIMITS,
) -> Arrays:
    """Read a window of a raster in a decoder.

    Args:
        uri: Location of the raster.
        access: How to reach it.
        window: Inside the raster, on the grid that it is put on.
        bands: How many the bundle needs.
        reading: What is read of the raster, and how.
        limits: What it may take.

    Returns:
        Pixels, uint8 (bands, H, W); and validity, bool (H, W): False where
        alpha, the internal mask or nodata says that there is no data.

    Raises:
        ItemError: As in ``decode_image``.
        StoreError: The store did not answer.
    """
    box = [window.row, window.col, window.height, window.width]
    fields = {"window": box, "bands": bands, **reading_fields(reading)}
    if is_vrt(uri):
        data = _read_vrt(uri, access, reading)
        sources, _ = ask_raster("sources", fields, uri, access, limits, data)
        before = _etags(sources, access)
        _, arrays = ask_raster("window", fields, uri, access, limits, data)
        if _etags(sources, access) != before:
            raise ItemError("input_changed", "a source of the VRT changed meanwhile")
    else:
        _, arrays = ask_raster("window", fields, uri, access, limits)
    pixels, valid = checked(arrays, bands=bands)
    if valid.shape != (window.height, window.width):
        raise ItemError("crashed_decoder", f"the decoder gave {valid.shape} for {window}")
    return pixels, valid


def close_decoders() -> None:
    """End the decoders of this process that nobody uses."""
    for module in PROCESSES:
        _decoders(module, os.getpid()).close()


@functools.lru_cache(maxsize=8)
def _decoders(module: str, _process: int) -> Decoders:
    """The decoders of this process: a copy of it, made by fork, has its own."""
    decoders = Decoders(module, processes=PROCESSES[module])
    atexit.register(decoders.close)
    return decoders


def checked(arrays: Arrays | None, *, bands: int) -> Arrays:
    """Pixels and validity of an answer.

    Raises:
        ItemError: ``crashed_decoder``: they are none.
    """
    if arrays is None or len(arrays[0]) != bands:
        raise ItemError("crashed_decoder", "the decoder's answer makes no sense")
    return arrays


def is_vrt(uri: str) -> bool:
    """Whether a raster is one by its name; what calls itself otherwise is none."""
    return uri.lower().endswith(".vrt")


def reading_fields(reading: Reading) -> dict[str, Any]:
    """What a decoder must know of a reading, for JSON."""
    roots = [gdal_path(root) for root in reading.allow_vrt]
    return {"reading": asdict(reading), "roots": roots}


def _read_vrt(uri: str, access: Access, reading: Reading) -> bytes:
    """The text of a VRT, where the user allows it.

    Raises:
        ItemError: ``unsupported``: not one is allowed.
    """
    if not reading.allow_vrt:
        text = "it is a VRT, which may name any file; say where its sources lie with"
        raise ItemError("unsupported", f"{text} -c allow_vrt=FOLDER")
    return open_store(access).read_head(uri, _LONGEST_VRT)


def _etags(paths: list[str], access: Access) -> list[str]:
    """ETags of files, of which GDAL's names are given."""
    store, remote, found = open_store(access), "/vsis3/", []
    for path in paths:
        is_remote = path.startswith(remote)
        uri = f"{S3}{path.removeprefix(remote)}" if is_remote else path
        try:
            found.append(store.stat(uri).etag)
        except ItemError as error:
            name = uri.rpartition("/")[2]
            raise ItemError(error.code, f"its source {name}: {error.message}") from error
    return found


def ask_raster(
    kind: str,
    fields: dict[str, Any],
    uri: str,
    access: Access,
    limits: Limits,
    data: bytes = b"",
) -> tuple[Any, Arrays | None]:
    """Have a question about a raster answered by a decoder, asked again if S3 fails.

    Args:
        kind: An answer of the module that reads it.
        fields: What else it needs, for JSON.
        uri: Location of the raster.
        access: How to reach it.
        limits: What it may take.
        data: See ``Decoders.ask``.

    Raises:
        ItemError: As in ``decode_image``.
        StoreError: The store did not answer.
    """
    module = "jobs.inputs.raster_mosaic" if is_vrt(uri) else "jobs.inputs.rasters"
    if kind in _OF_SCENES:
        module = "jobs.inputs.raster_scenes"
    decoders = _decoders(module, os.getpid())
    place = {"path": gdal_path(uri), "options": s3_options(access)}
    ask = functools.partial(decoders.ask, kind, fields | place, data)
    end = time.monotonic() + RASTER_FACTOR * limits.seconds
    for number in range(_TRIES):
        try:
            return ask(seconds=max(end - time.monotonic(), _DELAY_S))
        except ItemError as error:
            is_late = error.code == "timed_out"
            # A later try has less time, so that it says nothing of the raster.
            is_network = isinstance(error, StalledError) or (is_late and number > 0)
            if not uri.startswith(S3) or not (is_network or error.code == "unreachable"):
                raise
            reason = error
            if is_late:
                break
        time.sleep(random.uniform(0, _DELAY_S * 2**number))  # noqa: S311
    raise StoreError(f"{uri} cannot be read: {reason.message}") from reason
