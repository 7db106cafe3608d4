"""The one table: what each error means, and what people are told of it."""

import aiohttp
import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from jobs.s3_errors import advise, judge, redact, refusal, tell


def answer(status, code="", message="no", operation="GetObject"):
    error = {"Code": code, "Message": message} if code else {}
    about = {"HTTPStatusCode": status, "HTTPHeaders": {"x-amz-security-token": "t0k3n"}}
    return boto.ClientError({"Error": error, "ResponseMetadata": about}, operation)


ANSWERS = [
    (404, "NoSuchKey", "definite"),
    (404, "404", "definite"),
    (404, "NoSuchUpload", "definite"),
    (403, "AccessDenied", "definite"),
    (412, "PreconditionFailed", "definite"),
    (412, "", "definite"),
    (400, "InvalidRequest", "definite"),
    (400, "KeyTooLongError", "definite"),
    (416, "InvalidRange", "definite"),
    (501, "NotImplemented", "definite"),
    (503, "SlowDown", "slow"),
    (503, "", "slow"),
    (500, "InternalError", "slow"),
    (502, "", "slow"),
    (504, "", "slow"),
    (429, "", "slow"),
    (400, "RequestTimeout", "slow"),
    (200, "InternalError", "slow"),
    (409, "ConditionalRequestConflict", "again"),
    (409, "OperationAborted", "again"),
    (400, "BadDigest", "again"),
    (400, "IncompleteBody", "again"),
    (400, "ExpiredToken", "credentials"),
    (403, "InvalidAccessKeyId", "credentials"),
    (403, "SignatureDoesNotMatch", "credentials"),
    (403, "RequestTimeTooSkewed", "credentials"),
]


@pytest.mark.parametrize(("status", "code", "verdict"), ANSWERS)
def test_answers(status, code, verdict):
    assert judge(answer(status, code)) == verdict


def test_a_conflict_ends_the_upload_that_met_it():
    conflict = answer(
        409, "ConditionalRequestConflict", operation="CompleteMultipartUpload"
    )
    assert judge(conflict) == "definite"


ADDRESS = "http://host/bucket/key"
OTHERS = [
    (boto.EndpointConnectionError(endpoint_url=ADDRESS), "again"),
    (boto.ConnectTimeoutError(endpoint_url=ADDRESS), "again"),
    (boto.ReadTimeoutError(endpoint_url=ADDRESS), "again"),
    (boto.ConnectionClosedError(endpoint_url=ADDRESS), "again"),
    (boto.SSLError(endpoint_url=ADDRESS, error="x"), "again"),
    (aiohttp.ServerDisconnectedError(), "again"),
    (ConnectionResetError(104, "reset"), "again"),
    (TimeoutError(), "again"),
    (ResponseParserError("a page of HTML"), "again"),
    (boto.ResponseStreamingError(error="x"), "short"),
    (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), "short"),
    (aiohttp.ClientPayloadError("x"), "short"),
    (boto.FlexibleChecksumError(error_msg="x"), "damaged"),
    (boto.NoCredentialsError(), "credentials"),
    (boto.PartialCredentialsError(provider="env", cred_var="x"), "credentials"),
    (boto.CredentialRetrievalError(provider="x", error_msg="x"), "credentials"),
    (boto.ProfileNotFound(profile="x"), "credentials"),
    (boto.UnauthorizedSSOTokenError(), "credentials"),
    (boto.ParamValidationError(report="x"), "definite"),
    (TypeError("ours"), "bug"),
    (KeyError("ours"), "bug"),
]


@pytest.mark.parametrize(
    ("error", "verdict"), OTHERS, ids=lambda value: type(value).__name__
)
def test_what_is_no_answer(error, verdict):
    assert judge(error) == verdict


@pytest.mark.parametrize(
    "error",
    [answer(400, "ExpiredToken"), answer(403, "InvalidToken"), boto.NoCredentialsError()],
)
def test_refused_credentials_come_with_advice(error):
    assert judge(error) == "credentials"
    assert "credentials" in advise(error)


def test_a_refusal_keeps_what_is_known_and_no_more():
    refused = refusal(answer(403, "AccessDenied", "You may not."))
    assert (refused.status, refused.code) == (403, "AccessDenied")
    assert refused.said == "403 AccessDenied, You may not"
    assert "t0k3n" not in repr(vars(refused))
    assert refusal(boto.ParamValidationError(report="bad\nname")).status == 0


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("https://h/k?X-Amz-Signature=abc123&a=1", "https://h/k?X-Amz-Signature=...&a=1"),
        ("X-Amz-Credential=AKIA%2F2026 x", "X-Amz-Credential=... x"),
        ("h?x-amz-security-token=abc'", "h?x-amz-security-token=...'"),
        ("h?AWSAccessKeyId=A&Signature=s%3D", "h?AWSAccessKeyId=...&Signature=..."),
        ("http://me:secret@host:9/b", "http://...@host:9/b"),
        ("http://host:9/b@c", "http://host:9/b@c"),
    ],
)
def test_secrets_of_an_address_are_left_out(text, safe):
    assert redact(text) == safe
    assert safe in tell(OSError(text))


def test_a_silent_error_is_given_words():
    assert tell(TimeoutError()) == "no answer in time"
    assert tell(OSError()) == "OSError"
