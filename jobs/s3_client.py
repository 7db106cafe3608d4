"""One client of S3, whose patience is ours.

s3fs finds the credentials and makes the client; every request goes through
``Client.call``, which tries again, slows down or gives up as ``jobs.s3_errors``
says. The client's own retries are off: they know no budget, and what they count as
final differs from operation to operation.
"""

from __future__ import annotations

import asyncio
import functools
import io
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import s3fs
from botocore.handlers import add_expect_header

from jobs.errors import ItemError, StoreError
from jobs.patience import MOST_REQUESTS, Effort, Pace, Patience
from jobs.s3_errors import Verdict, advise, judge, redact, refusal, tell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from jobs.storage import Access

    Receive = Callable[[Any, Effort], Awaitable[Any]]

Value = TypeVar("Value")

SCHEME: Final = "s3://"
_CHUNK: Final = 2**20
_RENEW_S: Final = 60.0
_CLEAN_UP_S: Final = 10.0
_BAD: Final = {"short": "cut short", "damaged": "with bytes that its checksum denies"}


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of a location; the key may be empty."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    return bucket, key


class Client:
    """Sends requests until they are answered. Safe to use from many threads."""

    def __init__(self, access: Access, patience: Patience) -> None:
        """Remember how to reach S3; nothing is contacted yet."""
        self._access = access
        self.patience = patience
        self.pace = Pace()
        self._known: Any = None
        self._connected_s = 0.0
        self._refused = False

    @property
    def name(self) -> str:
        """The server, for people."""
        endpoint = self._access.endpoint_url
        return redact(endpoint) if endpoint is not None else "S3"

    @staticmethod
    def names(uri: str) -> dict[str, Any]:
        """An object's place, as requests want it."""
        bucket, key = split(uri)
        return {"Bucket": bucket, "Key": key}

    @property
    def is_amazon(self) -> bool:
        """Whether the newer checksums may be asked for."""
        return self._access.endpoint_url is None

    @functools.cached_property
    def _fs(self) -> s3fs.S3FileSystem:
        access, patience = self._access, self.patience
        return s3fs.S3FileSystem(
            anon=access.anon,
            requester_pays=access.requester_pays,
            endpoint_url=access.endpoint_url,
            config_kwargs={
                "connect_timeout": patience.connect_s,
                "read_timeout": patience.silence_s,
                "max_pool_connections": MOST_REQUESTS,
                "retries": {"total_max_attempts": 1, "mode": "standard"},
                # We send and ask for checksums ourselves, where they are understood.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def run(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Do something on the client's own thread and wait for it.

        Whoever waits may be interrupted: then the work is cancelled, and what it
        does to clean up is waited for as well.
        """
        over = threading.Event()

        async def watched() -> Value:
            try:
                return await work
            finally:
                over.set()

        future = asyncio.run_coroutine_threadsafe(watched(), self._fs.loop)
        try:
            return future.result()
        finally:
            # Only where whoever waits was interrupted.
            if not over.is_set():
                future.cancel()
                over.wait(_CLEAN_UP_S)

    async def call(
        self,
        operation: str,
        uri: str,
        *,
        data: bytes | None = None,
        receive: Receive | None = None,
        effort: Effort | None = None,
        **request: Any,  # noqa: ANN401 - as the operation wants it
    ) -> Any:  # noqa: ANN401 - whatever the operation gives
        """Send a request until it is answered.

        Args:
            operation: Method of the client, such as ``get_object``.
            uri: What it is about, for people.
            data: Body of the request.
            receive: Reads the body of the answer; its result is the call's.
            effort: What this call shares its budget with.
            request: Parameters of the operation.

        Raises:
            RefusedError: The answer is definite.
            ItemError: ``truncated`` or ``corrupted``: every body was bad.
            StoreError: Patience is over, or the credentials are refused.
        """
        effort = effort or Effort(self.patience)
        failures = bad = 0
        while True:
            try:
                return await self._attempt(effort, operation, data, receive, request)
            except Exception as error:  # noqa: BLE001 - judged, and raised in its place
                failure = error
            failures += 1
            verdict = judge(failure)
            about_object = receive is not None and verdict in _BAD
            bad = bad + 1 if about_object else 0
            self._raise_final(verdict, failure, uri, bad)
            pause_s = self.patience.pause_s(failures)
            if not effort.allows(pause_s):
                raise StoreError(
                    f"{uri}: {self.name} does not do {operation} ({tell(failure)}; "
                    f"{failures} tries in {effort.waited_s:.0f} s); check the network "
                    "and --endpoint-url, then give the same command again"
                ) from None
            await asyncio.sleep(pause_s)

    async def _attempt(
        self,
        effort: Effort,
        operation: str,
        data: bytes | None,
        receive: Receive | None,
        request: dict[str, Any],
    ) -> Any:  # noqa: ANN401 - as in call
        async with effort.until_spent():
            await self.pace.enter()
        try:
            async with effort.attempt():
                client = await self._connect()
                if data is not None:
                    request = request | {"Body": _Body(data, effort)}
                reply = await getattr(client, operation)(**request, **self._fs.req_kw)
                if receive is not None:
                    reply = await receive(reply, effort)
        except Exception as error:
            if judge(error) == "slow":
                self.pace.slow_down()
            raise
        finally:
            effort.leave()
            self.pace.leave()
        self.pace.succeeded()
        return reply

    async def _connect(self) -> Any:  # noqa: ANN401 - the client's own type
        now = time.monotonic()
        renew = self._refused and now - self._connected_s >= _RENEW_S
        if renew:
            # Whoever is to renew the credentials may have done so meanwhile.
            self._refused, self._connected_s = False, now
        client = await self._fs.set_session(refresh=renew)
        if client is not self._known:
            # Some servers never say "100 Continue", and a body waits for it for ever.
            client.meta.events.unregister("before-call.s3", add_expect_header)
            self._known, self._connected_s = client, now
        return client

    def _raise_final(self, verdict: Verdict, error: Exception, uri: str, bad: int) -> None:
        if verdict == "bug":
            raise error
        if verdict == "definite":
            raise refusal(error) from None
        if verdict == "credentials":
            self._refused = True
            raise StoreError(
                f"{uri}: {self.name} refuses the credentials ({tell(error)}); "
                f"{advise(error)}, then give the same command again"
            ) from None
        if bad >= self.patience.bad_bodies:
            code = "truncated" if verdict == "short" else "corrupted"
            raise ItemError(code, f"{uri} came {_BAD[verdict]} {bad} times") from None


class _Body(io.BytesIO):
    """Bytes on their way to a store, which tell how far they are."""

    def __init__(self, data: bytes, effort: Effort) -> None:
        super().__init__(data)
        self._effort = effort

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        self._effort.moved(len(chunk))
        return chunk


async def read_body(
    reply: dict[str, Any], effort: Effort, most: int | None = None
) -> bytes:
    """The bytes of an answer: all of them, checked, or the first few."""
    parts: list[bytes] = []
    size = 0
    async with reply["Body"] as body:
        while most is None or size < most:
            part: bytes = await body.read(_CHUNK)
            if not part:
                break
            parts.append(part)
            size += len(part)
            effort.moved(len(part))
    return b"".join(parts)[:most]
