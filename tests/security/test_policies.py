"""The rights that the README grants are enough, and no more than is used.

The tests' S3 server can hold users to their policies, but for the conditions in them.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from jobs.cli import _main

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", README, re.DOTALL)]
RUN, CLEAN, CREATE_ONCE, LIFECYCLE = BLOCKS
SETUP = 12
"""Requests before the server holds anybody to a policy."""

SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""

NEEDED = {
    "list_objects_v2": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "list_parts": "s3:ListMultipartUploadParts",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "delete_object": "s3:DeleteObject",
}
"""What a policy must allow for an operation of the client."""


def actions(policy):
    found = set()
    for statement in policy["Statement"]:
        named = statement["Action"]
        found |= {named} if isinstance(named, str) else set(named)
    return found


def test_every_action_is_one_that_is_used_and_no_other_is_needed():
    import jobs

    code = "\n".join(path.read_text() for path in Path(jobs.__path__[0]).glob("s3*.py"))
    used = set(re.findall(r'"([a-z]+(?:_[a-z0-9]+)+)"', code)) & operations()
    assert used == NEEDED.keys(), "an operation needs a line in the table"
    assert actions(RUN) | actions(CLEAN) == set(NEEDED.values())
    assert actions(RUN).isdisjoint(actions(CLEAN))
    assert actions(CREATE_ONCE) == {"s3:PutObject"}


def operations():
    import boto3

    client = boto3.client("s3", region_name="us-east-1")
    try:
        return {name for name in dir(client) if client.meta.method_to_api_mapping.get(name)}
    finally:
        client.close()


def test_nothing_is_granted_on_everything():
    for policy in (RUN, CLEAN):
        for statement in policy["Statement"]:
            named = statement["Resource"]
            for resource in [named] if isinstance(named, str) else named:
                assert re.fullmatch(r"arn:aws:s3:::(imagery|results)(/.*)?", resource)


@pytest.fixture(scope="module")
def guarded(png, tif, wide_tif):
    """A server that holds two users to the README: its address, and their keys."""
    import boto3

    server = subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", SERVER],
        env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(SETUP)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with server:
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        names = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        place = {"endpoint_url": url, "region_name": "us-east-1", **names}
        s3, iam = boto3.client("s3", **place), boto3.client("iam", **place)
        for bucket in ("imagery", "results"):
            s3.create_bucket(Bucket=bucket)
        rasters = {"a.tif": wide_tif, "b.tif": tif}
        for key, data in {"a.png": png, "bad.png": b"", **rasters}.items():
            s3.put_object(Bucket="imagery", Key=f"2024/{key}", Body=data)
        users = {}
        for user, policies in {"run": [RUN], "clean": [RUN, CLEAN]}.items():
            iam.create_user(UserName=user)
            users[user] = iam.create_access_key(UserName=user)["AccessKey"]
            whole = [one for policy in policies for one in policy["Statement"]]
            document = {"Version": "2012-10-17", "Statement": whole}
            iam.put_user_policy(
                UserName=user, PolicyName="p", PolicyDocument=json.dumps(document)
            )
        s3.close()
        iam.close()
        yield url, users
        server.kill()


@pytest.fixture
def act_as(guarded, monkeypatch, capsys):
    """Run a command as one of the users."""
    url, users = guarded
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)

    def call(user, *words):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", users[user]["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", users[user]["SecretAccessKey"])
        from jobs.storage import open_store

        open_store.cache_clear()
        capsys.readouterr()
        code = _main([*map(str, words), "--endpoint-url", url])
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return call


@pytest.mark.s3
def test_the_rights_are_enough_and_no_more(act_as, bundle):
    run = "s3://results/landcover/2024"
    words = ("--local", "--bundle", bundle)
    found = act_as("run", "label", "s3://imagery/2024", f"{run}-labels", *words)
    assert found.code == 3, found.err
    words += ("-c", "block=512")
    found = act_as("run", "map", "s3://imagery/2024", run, *words)
    assert found.code == 0, found.err
    assert act_as("run", "retry", f"{run}-labels", "--local").code == 3
    assert act_as("run", "status", run).code == 0

    # It has left what it may not delete, and may be taken up all the same.
    assert act_as("run", "map", "s3://imagery/2024", run, *words).code == 0
    words = ("clean", run, "--older-than", 0, "--json", "--delete")
    found = act_as("run", *words)
    assert found.code == 2
    assert "403 AccessDenied" in found.err
    found = act_as("clean", *words)
    assert found.code == 0, found.err
    counts = json.loads(found.out)["counts"]
    assert counts["spent"] == 2
    assert counts.keys() == {"spent", "probe"}
    found = act_as("run", "verify", run, "--deep")
    assert found.code == 0, found.out

    words = ("--local", "--bundle", bundle)
    for place in ("s3://results/other", "s3://imagery/run"):
        found = act_as("run", "label", "s3://imagery/2024", place, *words)
        assert found.code == 2
        assert re.match(rf"atrous: {place}/\S+ may not be (read|written)", found.err)


@pytest.mark.s3
def test_what_is_created_once_is_asked_for_with_the_condition(  # noqa: PLR0913, PLR0917
    fault_proxy, bucket, s3_client, wide_tif, png, bundle, command
):
    (statement,) = CREATE_ONCE["Statement"]
    patterns = [one.removeprefix("arn:aws:s3:::results/") for one in statement["Resource"]]
    s3_client.put_object(Bucket=bucket, Key="in/a.tif", Body=wide_tif)
    s3_client.put_object(Bucket=bucket, Key="in/a.png", Body=png)
    s3_client.put_object(Bucket=bucket, Key="truth/a.png", Body=png)
    for job in ("label", "map", "evaluate"):
        run, source = f"s3://{bucket}/some/{job}", f"s3://{bucket}/in"
        words = ("--local", "--bundle", bundle, "--endpoint-url", fault_proxy.url)
        words += ("-c", "block=512") if job == "map" else ()
        words += ("--truth", f"s3://{bucket}/truth") if job == "evaluate" else ()
        assert command(job, source, run, *words)[0] in {0, 3}
    seen = set()
    for entry in fault_proxy.log():
        url = urlsplit(entry["path"])
        key = url.path.removeprefix(f"/{bucket}/")
        met = [one for one in patterns if fnmatch.fnmatchcase(key, one)]
        if entry["method"] == "PUT" and met and "uploadId" not in parse_qs(url.query):
            seen |= set(met)
            assert entry["headers"].get("if-none-match") == "*", key
    assert seen == set(patterns)


@pytest.mark.s3
def test_the_server_takes_policy_and_lifecycle(s3_client, bucket):
    text = json.dumps(CREATE_ONCE).replace(":::results/", f":::{bucket}/")
    s3_client.put_bucket_policy(Bucket=bucket, Policy=text)
    s3_client.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration=LIFECYCLE
    )
    (rule,) = s3_client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
