"""Where objects lie and how they are reached, as users say it.

What is said here ends up in the run folder, in logs and with the replicas, so it
never holds a secret: one that does is refused, and not repeated.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

from jobs.errors import InputError
from jobs.redact import redact

S3: Final = "s3://"
WEB: Final = ("http://", "https://")
_SIGNED: Final = re.compile(
    r"X-Amz-(Signature|Credential|Security-Token)=|[?&](Signature|AWSAccessKeyId)=",
    re.IGNORECASE,
)
"""What the address of an object that was signed for others holds."""


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
    """Who sees to it that an object is created once: the store, whoever writes; or a
    look before the write, which is enough where one driver alone runs."""

    allow_http: bool = False
    """Read what lies at ``http://`` and ``https://`` too, wherever that leads."""

    def __post_init__(self) -> None:
        """Check the endpoint."""
        if self.endpoint_url is None:
            return
        if "@" in self.endpoint_url or "?" in self.endpoint_url:
            raise InputError(
                "endpoint URL must hold no user, password or query; it is written to the "
                "run folder, and credentials come from where the AWS tools find them"
            )
        parts = _split_url(self.endpoint_url)
        if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InputError(
                f"endpoint URL must look like https://host[:port], got {self.endpoint_url}"
            )


def _split_url(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def resolve(location: str, *, allow_http: bool = False) -> str:
    """Turn what a user typed into an absolute location.

    Raises:
        InputError: It is neither a path nor in S3, or it holds a credential.
    """
    web = allow_http and location.startswith(WEB)
    remote = web or location.startswith(S3)
    if "://" in location and not remote:
        raise InputError(
            f"location must be a path or s3://bucket/key, got {redact(location)}"
        )
    if _SIGNED.search(location) or (remote and "@" in location.split("/")[2]):
        raise InputError(
            f"location must hold no signature, user or password, got {redact(location)}; "
            "it is written to the run folder, and credentials come from where the AWS "
            "tools find them"
        )
    if web:
        return location
    if remote:
        return location.rstrip("/") if location != S3 else location
    return os.path.abspath(os.path.expanduser(location))  # noqa: PTH100, PTH111


def join(folder: str, *names: str) -> str:
    """A location below a folder; ``names`` are ours, never a user's key."""
    return "/".join([folder.rstrip("/"), *names])
