"""Objects in a local folder or an S3 bucket, behind one small face.

What counts is ``create``: an object appears whole or not at all, and the first
writer wins. On S3 that is ``If-None-Match: *``; on a local file system it is a
temporary file, fsync, ``os.link`` (which refuses an existing name) and fsync of
the folder. A location is an absolute local path or ``s3://bucket/key``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlsplit

import s3fs
from aiohttp import ClientError
from botocore.exceptions import BotoCoreError
from fsspec.asyn import sync
from fsspec.utils import glob_translate

from jobs.disk import (
    Object,
    create_file,
    create_file_from,
    find_files,
    stat_file,
    write_beside,
)
from jobs.errors import InputError, ItemError

if TYPE_CHECKING:
    from collections.abc import Iterator

S3: Final = "s3://"
_TIMEOUTS: Final = {"connect_timeout": 5, "read_timeout": 30}
_CHANGED: Final = {"PreconditionFailed", "412"}
_CHUNK: Final = 16 * 2**20
_MAGIC: Final = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach S3. Credentials are never here: they come from the usual chain."""

    endpoint_url: str | None = None
    """Another server than AWS, e.g. ``http://127.0.0.1:9000``."""

    anon: bool = False
    """Send unsigned requests."""

    requester_pays: bool = False
    """Accept that the reader is billed."""

    commit: Literal["conditional", "single-driver"] = "conditional"
    """How objects are created once; single-driver asks first, and no store to help."""

    def __post_init__(self) -> None:
        """Check the endpoint."""
        if self.endpoint_url is None:
            return
        parts = urlsplit(self.endpoint_url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise InputError(
                f"endpoint URL must look like https://host[:port], got {self.endpoint_url}"
            )


def resolve(location: str) -> str:
    """Turn what a user typed into an absolute location."""
    if location.startswith(S3):
        return location.rstrip("/") if location != S3 else location
    if "://" in location:
        raise InputError(f"location must be a path or s3://bucket/key, got {location}")
    return os.path.abspath(os.path.expanduser(location))  # noqa: PTH100, PTH111


def join(folder: str, *names: str) -> str:
    """A location below a folder; ``names`` are ours, never a user's key."""
    return "/".join([folder.rstrip("/"), *names])


@functools.lru_cache(maxsize=4)
def open_store(access: Access) -> Store:
    """The store of this process for one way of access."""
    return Store(access)


class Store:
    """Reads, lists and creates objects. Safe to use from many threads."""

    def __init__(self, access: Access) -> None:
        """Remember how to reach S3; nothing is contacted yet."""
        self._access = access

    @functools.cached_property
    def _s3(self) -> s3fs.S3FileSystem:
        access = self._access
        return s3fs.S3FileSystem(
            anon=access.anon,
            requester_pays=access.requester_pays,
            endpoint_url=access.endpoint_url,
            config_kwargs=_TIMEOUTS,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def find(self, prefix: str) -> list[Object]:
        """All objects at or below a location, in URI order.

        Raises:
            InputError: The store refuses the listing.
        """
        try:
            with _boto_errors():
                remote = prefix.startswith(S3)
                found = self._find_s3(prefix) if remote else find_files(prefix)
            return sorted(found, key=lambda one: one.uri)
        except PermissionError as error:
            raise InputError(
                f"{prefix} may not be listed ({error}); check the credentials or --anon"
            ) from error
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(
                f"{prefix} cannot be listed: {error}; check the path, the credentials, "
                "--anon and --endpoint-url"
            ) from error

    def require(self, location: str) -> None:
        """Refuse a local path that is not there, before anything costly starts.

        Raises:
            InputError: It does not exist.
        """
        remote = location.startswith(S3)
        if not (remote or _MAGIC.search(location) or Path(location).exists()):
            raise InputError(f"nothing at {location}; check the path")

    def match(self, location: str) -> tuple[str, list[Object]]:
        """The objects that a path, prefix or glob names.

        Returns:
            The folder that the objects lie below, and the objects in URI order.
        """
        if not _MAGIC.search(location) or self._is_there(location):
            found = self.find(location)
            alone = len(found) == 1 and found[0].uri == location
            return (location.rsplit("/", 1)[0] if alone else location), found
        root = _MAGIC.split(location)[0].rsplit("/", 1)[0]
        try:
            wanted = re.compile(glob_translate(location))
        except ValueError as error:
            raise InputError(f"glob {location} is wrong: {error}") from error
        return root, [found for found in self.find(root) if wanted.match(found.uri)]

    def _is_there(self, location: str) -> bool:
        """Whether a location that looks like a glob is the name of something."""
        if not location.startswith(S3):
            return Path(location).exists()
        try:
            return self.exists(location)
        except ItemError:
            return False

    def _find_s3(self, prefix: str) -> list[Object]:
        listing = self._s3.find(prefix, detail=True)
        return [
            Object(uri=S3 + name, size=entry["size"], etag=entry["ETag"].strip('"'))
            for name, entry in listing.items()
            if entry["type"] == "file" and not name.endswith("/")
        ]

    def stat(self, uri: str) -> Object:
        """Size and ETag of one object.

        Raises:
            ItemError: ``not_found``, ``forbidden`` or ``unreachable``.
        """
        with _item_errors(uri), _boto_errors():
            if not uri.startswith(S3):
                return stat_file(Path(uri))
            entry = self._s3.info(uri)
            if entry["type"] != "file":
                raise FileNotFoundError(uri)
            return Object(uri=uri, size=entry["size"], etag=entry["ETag"].strip('"'))

    def read(self, uri: str, *, etag: str | None = None) -> bytes:
        """All bytes of one object.

        Args:
            uri: Location of the object.
            etag: What the object must still be.

        Raises:
            ItemError: ``not_found``, ``forbidden``, ``unreachable``, or
                ``input_changed`` where the object is not ``etag`` any more.
        """
        with _item_errors(uri), _boto_errors():
            if uri.startswith(S3):
                return self._read_s3(uri, etag)
            data = Path(uri).read_bytes()
            if etag is not None and stat_file(Path(uri)).etag != etag:
                raise changed(uri)
            return data

    def read_head(self, uri: str, size: int) -> bytes:
        """The first bytes of one object, at most ``size``.

        Raises:
            ItemError: As in ``read``.
        """
        with _item_errors(uri), _boto_errors():
            if uri.startswith(S3):
                data: bytes = self._s3.cat_file(uri, start=0, end=size)
                return data
            with Path(uri).open("rb") as file:
                return file.read(size)

    def _read_s3(self, uri: str, etag: str | None) -> bytes:
        bucket, _, key = uri.removeprefix(S3).partition("/")
        if not key:
            raise FileNotFoundError(uri)
        match = {} if etag is None else {"IfMatch": f'"{etag}"'}
        reply = self._s3.call_s3(
            "get_object", self._s3.req_kw, Bucket=bucket, Key=key, **match
        )
        data: bytes = sync(self._s3.loop, _read_body, reply["Body"])
        if len(data) != reply["ContentLength"]:
            raise OSError(f"got {len(data)} of {reply['ContentLength']} bytes")
        return data

    def exists(self, uri: str) -> bool:
        """Whether an object is there."""
        try:
            self.stat(uri)
        except ItemError as error:
            if error.code == "not_found":
                return False
            raise
        return True

    def create(self, uri: str, data: bytes) -> bool:
        """Write an object unless it exists; whole or not at all.

        Returns:
            Whether this call created it; False when somebody else had.
        """
        if not uri.startswith(S3):
            return create_file(Path(uri), data)
        with _lost_race() as race, _boto_errors():
            self._s3.pipe_file(uri, data, mode="create")
        return not race.lost

    def create_from(self, uri: str, path: Path) -> bool:
        """Like ``create``, with the bytes of a local file, which it consumes."""
        if not uri.startswith(S3):
            return create_file_from(Path(uri), path)
        try:
            with _lost_race() as race, _boto_errors():
                self._s3.put_file(str(path), uri, mode="create", chunksize=_CHUNK)
        finally:
            path.unlink()
        return not race.lost

    def replace(self, uri: str, data: bytes) -> None:
        """Write a view that may be written again; whole or not at all."""
        if uri.startswith(S3):
            with _boto_errors():
                self._s3.pipe_file(uri, data)
            return
        path = Path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = write_beside(path, data)
        temporary.replace(path)

    def delete(self, uri: str) -> None:
        """Remove an object of ours; not an error when it is gone already."""
        try:
            if uri.startswith(S3):
                with _boto_errors():
                    self._s3.rm_file(uri)
            else:
                Path(uri).unlink()
        except FileNotFoundError:
            return

    def scratch(self, folder: str) -> Path | None:
        """Where temporary files should lie to be linked into ``folder``.

        None means the system's temporary folder, for a store on the network.
        """
        if folder.startswith(S3):
            return None
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def sweep(self, folder: str) -> None:
        """Remove a folder of temporary files if nobody uses it any more."""
        if not folder.startswith(S3):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def changed(uri: str) -> ItemError:
    """The dead letter of an object that is not what was planned."""
    return ItemError("input_changed", f"{uri} is not the object that was planned")


class _lost_race:  # noqa: N801 - reads as a block
    """Notice that somebody else created the object first.

    AWS answers 412 and names the condition; other servers only answer 412.
    """

    lost = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        exists = isinstance(error, FileExistsError)
        self.lost = error is not None and (exists or _s3_code(error) in _CHANGED)
        return self.lost


class _item_errors:  # noqa: N801 - reads as a block
    """Turn the store's errors about one object into an ItemError."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if _s3_code(error) in _CHANGED:
            raise changed(self._uri) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ItemError("not_found", f"{self._uri} does not exist") from error
        if isinstance(error, PermissionError):
            raise ItemError("forbidden", f"{self._uri} may not be read") from error
        raise ItemError("unreachable", f"{self._uri} cannot be read: {error}") from error


async def _read_body(body: Any) -> bytes:  # noqa: ANN401 - the client's own type
    async with body:
        data: bytes = await body.read()
    return data


@contextlib.contextmanager
def _boto_errors() -> Iterator[None]:
    """Make an OSError of what the S3 client raises beside OSErrors."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise ConnectionError(str(error)) from error


def _s3_code(error: BaseException) -> str:
    response: Any = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
