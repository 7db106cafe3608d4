"""What an error of S3 means: try again, slow down, or never again.

One table decides, for every operation. Nothing that is told to people holds a
signature, a header or a password.
"""

from __future__ import annotations

from typing import Final, Literal, cast

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from jobs.redact import redact as redact  # noqa: PLC0414 - others import it from here

Verdict = Literal["definite", "slow", "again", "short", "damaged", "credentials", "bug"]
"""An answer about the object; overload; a failure that may pass; a body of too few
bytes; a body of other bytes; a refusal of whoever asks; nothing that a store causes."""

_RENEW: Final = "renew the credentials"
_CHECK_KEY: Final = "check the access key and its secret"
_ADVICE: Final = {
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "RequestExpired": _RENEW,
    "InvalidToken": _RENEW,
    "InvalidAccessKeyId": _CHECK_KEY,
    "SignatureDoesNotMatch": _CHECK_KEY,
    "InvalidSecurity": _CHECK_KEY,
    "AccountProblem": "ask the owner of the account",
    "NotSignedUp": "ask the owner of the account",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "AuthorizationHeaderMalformed": "set AWS_DEFAULT_REGION to the region of the bucket",
}
"""Codes that refuse whoever asks, and what helps."""

_NO_CREDENTIALS: Final = (
    "set credentials in the environment, a profile or a role, or give --anon"
)

_SLOW: Final = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestThrottled",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "TooManyRequests",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
}
NOT_FOUND: Final = 404
CONFLICT: Final = 409
CHANGED: Final = 412
_SLOW_STATUS: Final = {429, 500, 502, 503, 504}
_AGAIN: Final = {
    "BadDigest",
    "IncompleteBody",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}

_WITHOUT_CREDENTIALS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
    boto.SSOError,
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.UnknownCredentialError,
)
_SHORT: Final = (
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    aiohttp.ClientPayloadError,
)
_TRANSPORT: Final = (
    boto.BotoCoreError,
    ResponseParserError,
    aiohttp.ClientError,
    OSError,
)
_REQUEST_IS_WRONG: Final = (
    boto.ParamValidationError,
    boto.UnsupportedSignatureVersionError,
)


class RefusedError(Exception):
    """A definite answer of the store: what was asked cannot be.

    Attributes:
        code: The store's name of the reason, or its status.
        status: Status of the answer; 0 where the request was never sent.
        said: What the store said of it, for people.
    """

    def __init__(self, code: str, status: int, said: str) -> None:
        """Record the answer."""
        super().__init__(code, status, said)
        self.code = code
        self.status = status
        self.said = said


_KINDS: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], Verdict], ...]] = (
    (boto.FlexibleChecksumError, "damaged"),
    (_SHORT, "short"),
    (_WITHOUT_CREDENTIALS, "credentials"),
    (_REQUEST_IS_WRONG, "definite"),
    (_TRANSPORT, "again"),
)
"""Errors that are no answer of a store; the first row that fits decides."""


def judge(error: Exception) -> Verdict:
    """What an error means for the request that met it."""
    if isinstance(error, boto.ClientError):
        return _judge_answer(error)
    fitting = (verdict for kinds, verdict in _KINDS if isinstance(error, kinds))
    return next(fitting, "bug")


def _judge_answer(error: boto.ClientError) -> Verdict:
    code, status = code_of(error), status_of(error)
    if code in _ADVICE:
        return "credentials"
    if code in _SLOW or status in _SLOW_STATUS:
        return "slow"
    # A multipart upload that met a conflict cannot be completed any more.
    conflict = status == CONFLICT and error.operation_name != "CompleteMultipartUpload"
    return "again" if code in _AGAIN or conflict else "definite"


def refusal(error: Exception) -> RefusedError:
    """A definite error, without the parts of it that hold connections and secrets."""
    if isinstance(error, boto.ClientError):
        return RefusedError(code_of(error), status_of(error), tell(error))
    return RefusedError(type(error).__name__, 0, tell(error))


def tell(error: Exception) -> str:
    """One line about an error, for people."""
    if isinstance(error, boto.ClientError):
        code, status = code_of(error), status_of(error)
        said = str(error.response.get("Error", {}).get("Message", "")).strip(" .")
        answer = f"{status} {code}" if code != str(status) else code
        return redact(f"{answer}, {said}" if said else answer)
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return redact(" ".join(str(error).split()) or type(error).__name__)


def advise(error: Exception) -> str:
    """What helps where the store refuses whoever asks."""
    if isinstance(error, boto.ClientError):
        return _ADVICE[code_of(error)]
    return _NO_CREDENTIALS


def code_of(error: boto.ClientError) -> str:
    """The store's name of what went wrong."""
    return str(error.response.get("Error", {}).get("Code", "")) or str(status_of(error))


def status_of(error: boto.ClientError) -> int:
    """Status of the answer."""
    answer = error.response.get("ResponseMetadata", {})
    return cast("int", answer.get("HTTPStatusCode", 0))
