"""Objects on web servers, read where the user allows it; nothing is ever written.

What a manifest names may be anybody's server, so an answer has limits of time, size
and redirects, and a redirect never leads from http to another kind of address, or
from https to http. A server that fails is the item's misfortune and no reason to wait.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp

from jobs.access import WEB
from jobs.disk import Object, changed
from jobs.errors import InputError, ItemError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

Value = TypeVar("Value")

MOST_BYTES: Final = 256 * 2**20
"""Of an object; images have less."""

SECONDS: Final = 60.0
"""For an answer, from the first byte asked to the last one read."""

_REDIRECTS: Final = 5
_TRIES: Final = 3
_PAUSE_S: Final = 0.5
_CHUNK: Final = 2**16
_DIGITS: Final = 18
"""Of a size, at most, so that a plan can hold it."""
_MOVED: Final = {301, 302, 303, 307, 308}
_OK: Final = {200, 206}
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}
_NO_HEAD: Final = {400, 403, 405, 501}
_EMPTY_RANGE: Final = 416
_REFUSED: Final = {404: "not_found", 410: "not_found", 401: "forbidden", 403: "forbidden"}
_SAID: Final = {"not_found": "does not exist", "forbidden": "may not be read"}


def is_web(location: str) -> bool:
    """Whether a location is an address of the web."""
    return location.startswith(WEB)


class _Answer:
    """Status, headers and the first bytes of an answer."""

    def __init__(self, reply: aiohttp.ClientResponse, data: bytes) -> None:
        self.status, self.headers, self.data = reply.status, reply.headers, data


class _Again(Exception):  # noqa: N818 - no error yet
    """A failure that another try may mend."""


class Web:
    """Reads objects of web servers. Safe to use from many threads."""

    name = "the web"

    def __init__(
        self, *, allowed: bool, seconds: float = SECONDS, most_bytes: int = MOST_BYTES
    ) -> None:
        """Connect to nothing yet.

        Args:
            allowed: Whether the user wants the web to be read at all.
            seconds: Most time for an answer.
            most_bytes: Of an object that is read.
        """
        self._allowed, self._seconds, self._most = allowed, seconds, most_bytes

    def iterate(self, prefix: str) -> Iterator[Object]:
        """The object at an address: the web lists nothing.

        Raises:
            InputError: It cannot be had.
        """
        try:
            yield self.stat(prefix)
        except ItemError as error:
            raise InputError(f"{error.message}; check the address") from error

    def stat(self, uri: str) -> Object:
        """Size, as far as the server says it, and ETag of an object."""
        answer = self._run(self._ask(uri, "HEAD", 0, {}))
        if answer.status in _NO_HEAD:
            # Servers that know no HEAD, or have no right for it, may know this.
            answer = self._run(self._ask(uri, "GET", 0, {"Range": "bytes=0-0"}))
        if answer.status != _EMPTY_RANGE:
            _check(uri, answer.status)
        return Object(uri=uri, size=_size(answer), etag=_etag(answer))

    def read(self, uri: str, etag: str | None) -> bytes:
        """All bytes of an object, which is ``etag`` if the server tells."""
        answer = self._run(self._ask(uri, "GET", self._most + 1, {}))
        _check(uri, answer.status)
        if len(answer.data) > self._most:
            raise ItemError("too_large", f"{uri} has more than {self._most} bytes")
        # What could not be looked at while planning has no ETag.
        if etag and _etag(answer, len(answer.data)) != etag:
            raise changed(uri)
        return answer.data

    def read_head(self, uri: str, size: int) -> bytes:
        """The first bytes of an object."""
        wanted = {"Range": f"bytes=0-{size - 1}"}
        answer = self._run(self._ask(uri, "GET", size, wanted))
        if answer.status == _EMPTY_RANGE:
            return b""
        _check(uri, answer.status)
        return answer.data[:size]

    def read_part(self, uri: str, start: int, size: int, etag: str | None) -> bytes:  # noqa: ARG002
        """Nothing: what is packed in one object is not read from the web.

        Raises:
            ItemError: Always.
        """
        raise ItemError(
            "unsupported",
            f"{uri} is read as one image alone; copy tars and tables to a disk or S3",
        )

    def _run(self, work: Coroutine[None, None, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @functools.cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="web", daemon=True).start()
        return loop

    async def _ask(
        self, uri: str, method: str, most: int, headers: Mapping[str, str]
    ) -> _Answer:
        """Ask until there is an answer that counts, a few times at most."""
        if not self._allowed:
            raise ItemError(
                "forbidden", f"{uri} is on the web, which -c allow_http=true lets read"
            )
        reason = ""
        for number in range(_TRIES):
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._follow(uri, method, most, headers)
            except TimeoutError:
                reason = f"no answer within {self._seconds:g} s"
            except _Again as error:
                reason = str(error)
            except (aiohttp.InvalidURL, ValueError) as error:
                raise ItemError("not_found", f"{uri} is no address") from error
            except (aiohttp.ClientError, OSError) as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            if number < _TRIES - 1:
                await asyncio.sleep(_PAUSE_S * 2**number)
        raise ItemError("unreachable", f"{uri} cannot be had: {reason}")

    async def _follow(
        self, uri: str, method: str, most: int, headers: Mapping[str, str]
    ) -> _Answer:
        timeout = aiohttp.ClientTimeout(total=self._seconds)
        # As the server has it: packed bytes would not be the object's.
        plain = {"Accept-Encoding": "identity", "User-Agent": "atrous", **headers}
        place = uri
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            for _ in range(_REDIRECTS + 1):
                async with session.request(
                    method, place, headers=plain, allow_redirects=False
                ) as reply:
                    if reply.status not in _MOVED:
                        return await _take(reply, most)
                    place = _next(uri, place, reply.headers.get("Location", ""))
        raise ItemError("unsupported", f"{uri} leads on more than {_REDIRECTS} times")


async def _take(reply: aiohttp.ClientResponse, most: int) -> _Answer:
    if reply.status in _PASSING:
        raise _Again(f"the server answers {reply.status}")
    parts, size = [], 0
    while size < most and (part := await reply.content.read(min(_CHUNK, most - size))):
        parts.append(part)
        size += len(part)
    return _Answer(reply, b"".join(parts))


def _next(uri: str, place: str, location: str) -> str:
    """Where a redirect leads."""
    found = urljoin(place, location)
    before, after = urlsplit(place).scheme, urlsplit(found).scheme
    if not location or after not in {"https", before} or "@" in urlsplit(found).netloc:
        raise ItemError(
            "unsupported", f"{uri} leads on to {found[:200]}, which is not followed"
        )
    return found


def _check(uri: str, status: int) -> None:
    if status in _OK:
        return
    code = _REFUSED.get(status, "unreachable")
    said = _SAID.get(code, "cannot be had")
    raise ItemError(code, f"{uri} {said}: the server answers {status}")


def _size(answer: _Answer) -> int:
    """Bytes of the whole object; 0 where the server does not tell."""
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    text = total or answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0


def _etag(answer: _Answer, size: int | None = None) -> str:
    """What tells versions of an object apart: its ETag, else time and size."""
    tag = _printable(answer.headers.get("ETag", "").strip())
    if tag:
        return tag.removeprefix("W/").strip('"')
    found = _size(answer) if size is None else size
    time = _printable(answer.headers.get("Last-Modified", ""))
    return f"{time}-{found:x}" if found else ""


def _printable(header: str) -> str:
    """A header as text that any file can hold, whatever bytes a server sent."""
    return header.encode("ascii", "backslashreplace").decode()
