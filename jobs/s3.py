"""Objects in S3: read as they were planned, created whole and once.

What S3 promises: a PUT is atomic, ``If-None-Match: *`` refuses a name that is
taken, and reads and lists see all that was written before.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from jobs.disk import Object, changed
from jobs.errors import InputError, ItemError, RunError, StoreError
from jobs.patience import Effort
from jobs.s3_client import SCHEME, Client, read_body, split
from jobs.s3_errors import CHANGED, NOT_FOUND, RefusedError
from jobs.s3_write import (
    ABSENT,
    ANYHOW,
    Content,
    Standing,
    Writer,
    describe,
    unless_changed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from jobs.patience import Patience
    from jobs.storage import Access

Value = TypeVar("Value")

_PARTIAL: Final = 206
_BAD_REQUEST: Final = 400
_FORBIDDEN: Final = 403
_EMPTY_RANGE: Final = 416
_NOT_IMPLEMENTED: Final = 501
_ABORTS: Final = 10
_NEXT: Final = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_multipart_uploads": {
        "KeyMarker": "NextKeyMarker",
        "UploadIdMarker": "NextUploadIdMarker",
    },
}
"""How the next page of a list is asked for, and where the last one says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A multipart upload that nobody has completed."""

    uri: str
    id: str
    started: datetime


class Buckets:
    """Reads, lists and writes objects of any bucket. Safe to use from many threads."""

    def __init__(self, access: Access, patience: Patience) -> None:
        """Remember how to reach S3; nothing is contacted yet."""
        self._client = Client(access, patience)
        self._writer = Writer(self._client, conditional=access.commit == "conditional")

    @property
    def name(self) -> str:
        """The server, for people."""
        return self._client.name

    # Listing

    def iterate(self, prefix: str) -> Iterator[Object]:
        """The objects at or below a location, page by page, in the order of keys."""
        bucket, key = split(prefix.rstrip("/"))
        below = f"{key}/" if key else ""
        found = self._list(bucket, prefix, below)
        first = next(found, None)
        if first is not None:
            yield first
            yield from found
        elif key:
            alone = self._list(bucket, prefix, key)
            yield from (one for one in alone if one.uri == f"{SCHEME}{bucket}/{key}")

    def iterate_from(self, start: str) -> Iterator[Object]:
        """The objects whose location begins so, in the order of keys."""
        bucket, key = split(start)
        return self._list(bucket, start, key)

    def _list(self, bucket: str, prefix: str, start: str) -> Iterator[Object]:
        for page in self._pages("list_objects_v2", prefix, Bucket=bucket, Prefix=start):
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):
                    yield Object(
                        uri=f"{SCHEME}{bucket}/{entry['Key']}",
                        size=entry["Size"],
                        etag=entry["ETag"].strip('"'),
                        modified=entry["LastModified"],
                    )

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below a location."""
        bucket, key = split(prefix.rstrip("/"))
        below = f"{key}/" if key else ""
        pages = self._pages(
            "list_objects_v2", prefix, Bucket=bucket, Prefix=below, Delimiter="/"
        )
        names = [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", ())]
        return sorted(name.removeprefix(below).rstrip("/") for name in names)

    def uploads(self, prefix: str) -> list[Upload]:
        """The uploads below a location that nobody has completed."""
        bucket, key = split(prefix.rstrip("/"))
        below = f"{key}/" if key else ""
        pages = self._pages("list_multipart_uploads", prefix, Bucket=bucket, Prefix=below)
        return [
            Upload(
                uri=f"{SCHEME}{bucket}/{one['Key']}",
                id=one["UploadId"],
                started=one["Initiated"],
            )
            for page in pages
            for one in page.get("Uploads", ())
        ]

    def _pages(self, operation: str, prefix: str, **request: Any) -> Iterator[Any]:  # noqa: ANN401 - as S3 gives them
        names = _NEXT[operation]
        while True:
            try:
                page = self._client.run(self._client.call(operation, prefix, **request))
            except RefusedError as error:
                if error.code == "NoSuchBucket" or error.status == NOT_FOUND:
                    return
                raise _unlisted(prefix, self.name, error) from None
            yield page
            if not page.get("IsTruncated"):
                return
            request |= {
                asked: page[given] for asked, given in names.items() if given in page
            }

    # Reading

    def stat(self, uri: str) -> Object:
        """Size, ETag and, where we wrote it, SHA-256 of one object."""
        return self._reading(uri, self._stat)

    async def _stat(self, uri: str) -> Object:
        names, effort = self._client.names(uri), Effort(self._client.patience)
        try:
            reply = await self._client.call("head_object", uri, effort=effort, **names)
        except RefusedError as error:
            if error.status in {_BAD_REQUEST, _FORBIDDEN}:
                await self._explain(uri, effort)
            raise
        return describe(uri, reply)

    async def _explain(self, uri: str, effort: Effort) -> None:
        """Have the reason told: the answer to a HEAD has no room for it."""
        receive = functools.partial(read_body, most=0)
        try:
            await self._client.call(
                "get_object",
                uri,
                receive=receive,
                effort=effort,
                Range="bytes=0-0",
                **self._client.names(uri),
            )
        except RefusedError as error:
            if error.status != _EMPTY_RANGE:
                raise

    def read(self, uri: str, etag: str | None) -> bytes:
        """All bytes of one object, which must still be ``etag``, in one request."""
        condition = ANYHOW if etag is None else unless_changed(etag)

        async def whole(uri: str) -> bytes:
            data: bytes = await self._client.call(
                "get_object",
                uri,
                receive=read_body,
                ChecksumMode="ENABLED",
                **self._client.names(uri),
                **condition,
            )
            return data

        return self._reading(uri, whole)

    def read_head(self, uri: str, size: int) -> bytes:
        """The first bytes of one object."""
        if size < 1:
            return b""

        async def first(uri: str) -> bytes:
            try:
                return (await self._range(uri, 0, size))[1]
            except RefusedError as error:
                if error.status == _EMPTY_RANGE:
                    return b""
                raise

        return self._reading(uri, first)

    def _reading(
        self, uri: str, read: Callable[[str], Coroutine[Any, Any, Value]]
    ) -> Value:
        if not split(uri)[1]:
            raise ItemError("not_found", f"{uri} is a bucket and no object")
        try:
            return self._client.run(read(uri))
        except RefusedError as error:
            raise _unread(uri, self.name, error) from None

    async def _range(
        self, uri: str, start: int, size: int, condition: Mapping[str, Any] = ANYHOW
    ) -> tuple[int, bytes]:
        """Status of the answer to a ranged read, and the first bytes of its body."""

        async def receive(reply: Any, effort: Effort) -> tuple[int, bytes]:  # noqa: ANN401 - as S3 gives it
            status = reply["ResponseMetadata"]["HTTPStatusCode"]
            return status, await read_body(reply, effort, size)

        wanted = f"bytes={start}-{start + size - 1}"
        answer: tuple[int, bytes] = await self._client.call(
            "get_object",
            uri,
            receive=receive,
            Range=wanted,
            **self._client.names(uri),
            **condition,
        )
        return answer

    def read_part(self, uri: str, start: int, size: int, etag: str | None) -> bytes:
        """Some bytes of one object, which must still be ``etag``; none behind its end."""
        condition = ANYHOW if etag is None else unless_changed(etag)

        async def part(uri: str) -> tuple[int, bytes]:
            try:
                return await self._range(uri, start, size, condition)
            except RefusedError as error:
                if error.status == _EMPTY_RANGE:
                    return _PARTIAL, b""
                raise

        if size < 1:
            return b""
        status, data = self._reading(uri, part)
        if status != _PARTIAL:
            raise ItemError(
                "unsupported", f"{self.name} gives {uri} as a whole alone, no part of it"
            )
        return data

    def read_range(self, uri: str, start: int, size: int) -> tuple[int, bytes]:
        """Status of the answer to a ranged read, and the first bytes of its body."""
        return self._reading(uri, lambda uri: self._range(uri, start, size))

    # Writing

    def create(self, uri: str, data: bytes) -> bool:
        """Write an object unless there is one; whether this call did."""
        held = self._write(uri, Content.of_bytes(data), ABSENT)
        return held is not None and held.mine

    def create_from(self, uri: str, path: Path, sha256: str | None) -> Object | None:
        """Write a file as an object unless there is another one."""
        content = Content.of_file(path, sha256)
        held = self._write(uri, content, ABSENT)
        if held is None:
            return None
        found = held.object
        same = (found.sha256, found.size) == (content.sha256, content.size)
        return found if held.mine or same else None

    def replace(self, uri: str, data: bytes) -> None:
        """Write an object, whatever stands there."""
        self._write(uri, Content.of_bytes(data), ANYHOW)

    def replace_from(self, uri: str, path: Path, match: str | None) -> Object | None:
        """Write a file as an object in the place of the one with that ETag."""
        condition = ANYHOW if match is None else unless_changed(match)
        held = self._write(uri, Content.of_file(path, None), condition)
        return held.object if held is not None and held.mine else None

    def _write(
        self, uri: str, content: Content, condition: Mapping[str, Any]
    ) -> Standing | None:
        return self._changing(uri, self._writer.write(uri, content, condition))

    def delete(self, uri: str) -> None:
        """Remove an object; not an error when it is gone already."""
        self._changing(
            uri, self._client.call("delete_object", uri, **self._client.names(uri))
        )

    def abort(self, upload: Upload) -> None:
        """Give up an upload, until not one part of it is left."""
        names = self._client.names(upload.uri) | {"UploadId": upload.id}
        for _ in range(_ABORTS):
            try:
                self._client.run(
                    self._client.call("abort_multipart_upload", upload.uri, **names)
                )
                left = self._client.run(
                    self._client.call("list_parts", upload.uri, **names)
                )
                if not left.get("Parts"):
                    return
            except RefusedError as error:
                if error.status == NOT_FOUND:
                    return
                raise _unwritten(upload.uri, self.name, error) from None

    def _changing(self, uri: str, work: Coroutine[Any, Any, Value]) -> Value:
        try:
            return self._client.run(work)
        except RefusedError as error:
            raise _unwritten(uri, self.name, error) from None


def _unread(uri: str, server: str, error: RefusedError) -> ItemError | StoreError:
    if error.status == NOT_FOUND:
        return ItemError("not_found", f"{uri} does not exist")
    if error.status == CHANGED:
        return changed(uri)
    if error.code == "InvalidObjectState":
        return ItemError("forbidden", f"{uri} is archived; restore it first")
    if error.status == _FORBIDDEN:
        return ItemError("forbidden", f"{uri} may not be read")
    return StoreError(f"{uri} cannot be read: {server} answers {error.said}")


def _unlisted(prefix: str, server: str, error: RefusedError) -> InputError | StoreError:
    if error.status == _FORBIDDEN:
        return InputError(
            f"{prefix} may not be listed ({error.said}); check the credentials or --anon"
        )
    if not error.status:
        return InputError(f"{prefix} is no place in S3: {error.said}")
    return StoreError(f"{prefix} cannot be listed: {server} answers {error.said}")


def _unwritten(uri: str, server: str, error: RefusedError) -> RunError | StoreError:
    if error.status == _FORBIDDEN:
        return RunError(
            f"{uri} may not be written ({error.said}); check the credentials and the "
            "rights on the bucket"
        )
    if error.code == "NoSuchBucket":
        return RunError(f"there is no bucket {split(uri)[0]} for {uri}; create it first")
    if not error.status:
        return RunError(f"{uri} is no place in S3: {error.said}")
    if error.status == _NOT_IMPLEMENTED:
        return RunError(
            f"{uri} cannot be written: {server} answers {error.said}, so it cannot "
            "create once; use another store, or give --config commit=single-driver and "
            "start no second driver"
        )
    return StoreError(f"{uri} cannot be written: {server} answers {error.said}")
