"""Writes to S3 that appear whole, once, and know their own.

Every write carries the SHA-256 of its bytes and a number that no other write has.
When an answer is lost, the next try is told that the name is taken: the number
says that it was this very write that took it. A large file goes up in parts, which
nobody sees before the last request puts them together under the same condition.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import uuid
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from jobs.disk import Object
from jobs.errors import StoreError
from jobs.patience import Effort
from jobs.s3_errors import CHANGED, CONFLICT, NOT_FOUND, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jobs.s3_client import Client

MIB: Final = 2**20
WHOLE: Final = 64 * MIB
"""Most bytes that go up in one request."""

PART: Final = 16 * MIB
MOST_PARTS: Final = 10_000
_AT_ONCE: Final = 4
_ROUNDS: Final = 6
_ABORT_S: Final = 8.0
_SHA256: Final = "atrous-sha256"
_ATTEMPT: Final = "atrous-attempt"

_CRC32: Final[Mapping[str, Any]] = {"ChecksumAlgorithm": "CRC32"}

ABSENT: Final[Mapping[str, Any]] = {"IfNoneMatch": "*"}
ANYHOW: Final[Mapping[str, Any]] = {}


def unless_changed(etag: str) -> Mapping[str, Any]:
    """The condition that an object is still what it was."""
    return {"IfMatch": f'"{etag}"'}


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is to be written: bytes, or a local file that stays as it is."""

    size: int
    sha256: str
    data: bytes | None = None
    path: Path | None = None

    @classmethod
    def of_bytes(cls, data: bytes) -> Content:
        """Bytes in memory."""
        return cls(size=len(data), sha256=hashlib.sha256(data).hexdigest(), data=data)

    @classmethod
    def of_file(cls, path: Path, sha256: str | None) -> Content:
        """A file, whose SHA-256 the caller may know already."""
        if sha256 is None:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(size=path.stat().st_size, sha256=sha256, path=path)

    def slice(self, start: int, count: int) -> bytes:
        """Some of the bytes."""
        if self.path is None:
            return (self.data or b"")[start : start + count]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The object that stands under a name after a write."""

    object: Object
    mine: bool
    """Whether this very write put it there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One write, over all its tries."""

    uri: str
    content: Content
    condition: Mapping[str, Any]
    effort: Effort
    number: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def metadata(self) -> dict[str, str]:
        return {_SHA256: self.content.sha256, _ATTEMPT: self.number}


def describe(uri: str, reply: Mapping[str, Any]) -> Object:
    """An object as the answer to a HEAD tells of it."""
    return Object(
        uri=uri,
        size=reply["ContentLength"],
        etag=reply["ETag"].strip('"'),
        sha256=reply.get("Metadata", {}).get(_SHA256),
        modified=reply.get("LastModified"),
    )


class Writer:
    """Writes objects of any bucket. All of it runs on the client's thread."""

    def __init__(self, client: Client, *, conditional: bool) -> None:
        """Write through a client.

        Args:
            client: Sends the requests.
            conditional: Let the store itself check conditions; otherwise they are
                checked before the write, which is safe for a single driver alone.
        """
        self._client = client
        self._conditional = conditional

    async def write(
        self, uri: str, content: Content, condition: Mapping[str, Any]
    ) -> Standing | None:
        """Write an object under a condition.

        Returns:
            The object that stands under the name now; None where the condition
            wants one and there is none.

        Raises:
            RefusedError: The store's definite answer.
            StoreError: It goes on failing.
        """
        effort = Effort(self._client.patience)
        task = _Task(uri=uri, content=content, condition=condition, effort=effort)
        if condition and not self._conditional:
            held = await self._standing(task)
            if _is_denied(condition, held):
                return held
            task = replace(task, condition=ANYHOW)
        return await self._write(task)

    async def _write(self, task: _Task) -> Standing | None:
        uri, content, condition = task.uri, task.content, task.condition
        for failures in range(1, _ROUNDS + 1):
            try:
                etag = await self._send(task)
            except RefusedError as error:
                refused = error
            else:
                return Standing(object=_made(uri, content, etag), mine=True)
            if not _is_about(condition, refused):
                raise refused
            held = await self._standing(task)
            if held is not None and held.mine:
                return held
            if _is_final(condition, refused, held):
                return held
            await asyncio.sleep(self._client.patience.pause_s(failures))
        raise StoreError(
            f"{uri} cannot be written: {self._client.name} answers {refused.said} "
            f"{_ROUNDS} times; give the same command again"
        )

    async def _standing(self, task: _Task) -> Standing | None:
        """What stands under a name, and whether this very write put it there."""
        uri, names = task.uri, self._client.names(task.uri)
        try:
            reply = await self._client.call("head_object", uri, effort=task.effort, **names)
        except RefusedError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        mine = reply.get("Metadata", {}).get(_ATTEMPT) == task.number
        return Standing(object=describe(uri, reply), mine=mine)

    async def _send(self, task: _Task) -> str:
        """Write an object; its ETag."""
        if task.content.size > WHOLE:
            return await self._upload(task)
        data = await asyncio.to_thread(task.content.slice, 0, task.content.size)
        reply = await self._client.call(
            "put_object",
            task.uri,
            data=data,
            effort=task.effort,
            Metadata=task.metadata,
            **self._client.names(task.uri),
            **self._sum(data),
            **task.condition,
        )
        etag: str = reply["ETag"]
        return etag

    async def _upload(self, task: _Task) -> str:
        """Write an object in parts; whatever happens, no unfinished upload is left."""
        uri, names = task.uri, self._client.names(task.uri)
        sums = _CRC32 if self._client.is_amazon else {}
        begun = await self._client.call(
            "create_multipart_upload", uri, Metadata=task.metadata, **names, **sums
        )
        names = names | {"UploadId": begun["UploadId"]}
        try:
            parts = await self._send_parts(uri, task.content, names)
            reply = await self._client.call(
                "complete_multipart_upload",
                uri,
                MultipartUpload={"Parts": parts},
                **names,
                **task.condition,
            )
        except BaseException:
            # Also when whoever waits for it was interrupted.
            with contextlib.suppress(StoreError, RefusedError, TimeoutError):
                async with asyncio.timeout(_ABORT_S):
                    await self._client.call("abort_multipart_upload", uri, **names)
            raise
        finally:
            # Its requests had budgets of their own.
            task.effort.restart()
        etag: str = reply["ETag"]
        return etag

    async def _send_parts(
        self, uri: str, content: Content, names: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Send all parts, a few at once; what the last request wants to know of them."""
        part_bytes = max(PART, -(-content.size // MOST_PARTS))
        numbers = iter(range(1, -(-content.size // part_bytes) + 1))
        parts: dict[int, dict[str, Any]] = {}

        async def work() -> None:
            for number in numbers:
                start = (number - 1) * part_bytes
                data = await asyncio.to_thread(content.slice, start, part_bytes)
                sums = self._sum(data)
                reply = await self._client.call(
                    "upload_part", uri, data=data, PartNumber=number, **names, **sums
                )
                known = {name: sums[name] for name in sums if name == "ChecksumCRC32"}
                parts[number] = {"PartNumber": number, "ETag": reply["ETag"], **known}

        workers = [asyncio.ensure_future(work()) for _ in range(_AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [parts[number] for number in sorted(parts)]

    def _sum(self, data: bytes) -> dict[str, Any]:
        """A checksum that the store compares with what arrives."""
        if self._client.is_amazon:
            crc = zlib.crc32(data).to_bytes(4, "big")
            return {**_CRC32, "ChecksumCRC32": base64.b64encode(crc).decode()}
        # The older one, which every server knows.
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(md5).decode()}


def _made(uri: str, content: Content, etag: str) -> Object:
    return Object(uri=uri, size=content.size, etag=etag.strip('"'), sha256=content.sha256)


def _is_denied(condition: Mapping[str, Any], held: Standing | None) -> bool:
    if "IfMatch" not in condition:
        return held is not None
    return held is None or f'"{held.object.etag}"' != condition["IfMatch"]


def _is_about(condition: Mapping[str, Any], refused: RefusedError) -> bool:
    """Whether a refusal says that the condition does not hold, or may not."""
    if refused.status in {CHANGED, CONFLICT} or refused.code == "NoSuchUpload":
        return True
    return "IfMatch" in condition and refused.code == "NoSuchKey"


def _is_final(
    condition: Mapping[str, Any], refused: RefusedError, held: Standing | None
) -> bool:
    """Whether it still says so, now that what stands there is known."""
    if "IfMatch" in condition:
        return refused.status == CHANGED or refused.code == "NoSuchKey"
    return refused.status == CHANGED and held is not None
