"""Credentials leave no trace: not in a run, a log, a message, or what is sent around.

Real runs are made with credentials that are easy to find again, on Ray, with dead
letters, errors of the store, a replica that dies and a bug. Then everything that was
written or shown is searched for them.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import rasterio

from cluster.outcomes import WorkerSpec
from jobs.access import Access
from jobs.disk import Object
from jobs.errors import AtrousError
from jobs.label_job import LabelJob
from jobs.map_job import MapJob
from jobs.patience import Patience
from jobs.spec import Compute, Cut, Spec
from jobs.storage import Store
from jobs.worker import Worker

ROOT = Path(__file__).parents[2]

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIACANARYOFTHEKEY01",
    "AWS_SECRET_ACCESS_KEY": "canary+of/the+secret/0123456789abcdefghij",
    "AWS_SESSION_TOKEN": "canary//of+the+session+token//8765432109876543210==",
}


def shapes(text):
    """A text as it is, in an address, and in base64 wherever it begins there."""
    data = text.encode()
    found = {data, quote(text).encode(), quote(text, safe="").encode()}
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + data)
        # The first and last letters depend on the neighbours too.
        found |= {coded[4:-4], base64.urlsafe_b64encode(b"\0" * shift + data)[4:-4]}
    return found


NEEDLES = {shape: name for name, value in CREDENTIALS.items() for shape in shapes(value)}


def leaks(data):
    """Names of the credentials in some bytes."""
    return {name for needle, name in NEEDLES.items() if needle in data}


@pytest.fixture
def _credentials(s3_server, monkeypatch):  # noqa: ARG001 - it sets others
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def test_every_shape_is_found():
    for name, value in CREDENTIALS.items():
        for text in (value, quote(value, safe=""), f"https://h/?t={quote(value)}&x"):
            assert leaks(text.encode()) == {name}
        for shift in range(4):
            coded = base64.b64encode(b"x" * shift + value.encode() + b"yz")
            assert leaks(coded) == {name}
    assert leaks(b"AKIACANARY") == set()


# What is sent around


@pytest.mark.s3
@pytest.mark.usefixtures("_credentials")
@pytest.mark.parametrize("job", [LabelJob, MapJob])
def test_what_is_sent_to_replicas_holds_no_credentials(job, bucket, bundle, fault_proxy):
    from ray import cloudpickle

    from deeplab.bundle import read_bundle

    access = Access(endpoint_url=fault_proxy.url)
    store = Store(access)  # not one that an earlier test has left
    store.create(f"s3://{bucket}/a", b"")  # so that there is a client that knows them
    sent = fault_proxy.log()[-1]["headers"]
    assert leaks(json.dumps(sent).encode()) >= {"AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"}
    spec = Spec(
        job="label",
        source=f"s3://{bucket}/in",
        limit=None,
        run=f"s3://{bucket}/run",
        bundle=read_bundle(bundle),
        compute=Compute(),
        cut=Cut(),
        access=access,
    )
    made = job(spec=spec, fingerprint="f", folder=spec.run)
    worker = WorkerSpec(worker=Worker, arguments=(made, bundle.read_bytes()))
    for value in (access, spec, made, worker, Object(uri="s3://b/a", size=1, etag="e")):
        for dump in (pickle.dumps, cloudpickle.dumps, lambda one: repr(one).encode()):
            assert leaks(dump(value)) == set()
    assert leaks(repr(vars(store)).encode()) == set()
    for dump in (pickle.dumps, cloudpickle.dumps):
        with contextlib.suppress(TypeError, pickle.PicklingError):  # it cannot be sent
            assert leaks(dump(store)) == set()


# What users type


PASSWORD = "canary-password"  # noqa: S105 - of nobody
SIGNED = (
    "bucket/a.png?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=CANARYKEY%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Security-Token=CANARYTOKEN&X-Amz-Signature=CANARYSIGNATURE"
)
TYPED = [
    ("--endpoint-url", f"https://user:{PASSWORD}@host:9000"),
    ("--endpoint-url", f"https://{PASSWORD}@host"),
    ("--endpoint-url", f"https://user:p@ss{PASSWORD}@host"),
    ("--endpoint-url", f"user:{PASSWORD}@host"),
    ("--endpoint-url", f"ftp://user:{PASSWORD}@host"),
    ("--endpoint-url", f"https://host/?token={PASSWORD}"),
    ("-c", f"endpoint_url=https://user:{PASSWORD}@host"),
    ("-c", f"aws_secret_access_key={PASSWORD}"),
    ("-c", f"password={PASSWORD}"),
    ("--bundle", f"https://host/{SIGNED}"),
    ("--bundle", f"s3://{SIGNED}"),
    ("--bundle", f"https://user:{PASSWORD}@host/bundle"),
    ("--bundle", f"s3://key:{PASSWORD}@bucket/bundle"),
    ("-c", f"https://host/{SIGNED}"),
]
PLACES = [
    f"https://host/{SIGNED}",
    f"s3://{SIGNED}",
    f"s3://key:{PASSWORD}@bucket/key",
    f"https://user:{PASSWORD}@host/key",
    "https://host/a.png?AWSAccessKeyId=CANARYKEY&Signature=CANARYSIGNATURE&Expires=1",
    "s3://bucket/a.png?AWSAccessKeyId=CANARYKEY&Signature=CANARYSIGNATURE&Expires=1",
]


def check_refused(command, *words):
    code, out, err = command(*words)
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1
    assert "canary" not in err.lower(), err


@pytest.mark.parametrize(("flag", "value"), TYPED)
def test_a_secret_in_an_option_is_refused_and_not_repeated(
    command, tmp_path, bundle, flag, value
):
    options = {"--bundle": bundle, flag: value}
    words = [word for pair in options.items() for word in pair]
    check_refused(command, "label", tmp_path, tmp_path / "run", "--local", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_in_a_location_is_refused_and_not_repeated(
    command, tmp_path, bundle, place
):
    options = ("--local", "--bundle", bundle)
    check_refused(command, "label", place, tmp_path / "run", *options)
    check_refused(command, "map", tmp_path, place, *options)
    for verb in ("status", "verify", "clean", "retry"):
        check_refused(command, verb, place)
    assert list(tmp_path.iterdir()) == []


def test_a_secret_in_a_job_file_is_refused_and_not_repeated(command, tmp_path, bundle):
    file = tmp_path / "job.toml"
    for line in (
        f'endpoint_url = "https://user:{PASSWORD}@host"',
        f'aws_session_token = "{PASSWORD}"',
        f'endpoint_url = "{PASSWORD}',
    ):
        file.write_text(line)
        run = tmp_path / "run"
        words = ("label", tmp_path, run, "--local", "--bundle", bundle, "-c", file)
        check_refused(command, *words)


@pytest.mark.usefixtures("s3_server")
def test_the_password_of_a_proxy_is_not_told(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://user:{PASSWORD}@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    haste = Patience(budget_s=0.5, first_pause_s=0.05, connect_s=0.5, silence_s=0.5)
    store = Store(Access(endpoint_url="http://s3.atrous.test"), haste)
    with pytest.raises(AtrousError) as caught:
        store.read("s3://bucket/key")
    assert PASSWORD not in str(caught.value)
    assert "s3.atrous.test" in str(caught.value)


def test_a_key_obeys_no_terminal(command, s3_server, bucket, bundle, tmp_path):
    """What stands in a name is written out, also where it clears the screen."""
    place = f"s3://{bucket}/\x1b[2J\x1b]0;title\x07\u202e\x9b"
    words = ("--local", "--bundle", bundle, "--endpoint-url", s3_server)
    code, out, err = command("label", place, tmp_path / "run", *words)
    assert (code, out) == (2, "")
    assert err.rstrip("\n").isprintable()
    assert r"\x1b[2J\x1b]0;title\x07\u202e\x9b" in err


# Whole runs


SCRIPT = """
import os, signal, sys
from pathlib import Path

from cluster.connect import connect
from jobs import commands, progress
from jobs.cli import _main
from jobs.label_job import LabelJob


class Buggy(LabelJob):
    def read(self, shard, item):
        if item.key == "token.png":
            raise KeyError("what nobody expects")
        return super().read(shard, item)


def parent(pid):
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def is_ours(pid):
    while pid > 1:
        pid = parent(pid)
        if pid == os.getpid():
            return True
    return False


def kill_one(signal=signal.SIGSEGV):
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(path.parent.name)
        if path.read_bytes().startswith(b"ray::Actor") and is_ours(pid):
            os.kill(pid, signal)
            return
    raise AssertionError("there is no actor")


update = progress.ProgressLine.update


def update_and_kill(self, tally):
    update(self, tally)
    if tally.shards == 2 and not os.environ.get("KILLED"):
        os.environ["KILLED"] = "1"
        kill_one()


progress.ProgressLine.update = update_and_kill
bucket, *options = sys.argv[1:]


def start(job, source):
    words = [job, f"{bucket}/{source}", f"{bucket}/run-{job}", *options]
    print(job, "ends with", _main(words))


with connect(None, cpus=1):
    commands.JOBS["label"] = Buggy
    start("label", "images")
    start("map", "rasters")
"""


class Watch(threading.Thread):
    """Looks all the time at what is there only for a while."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder = folder
        self.over = threading.Event()
        self.found = set()
        self.seen = set()

    def run(self):
        while not self.over.wait(0.2):
            # What goes away meanwhile is looked at the next time.
            with contextlib.suppress(OSError):
                self.look_around()

    def look_around(self):
        for path in self.folder.glob("**/atrous-box-*"):
            self.look(path, "black box")
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                self.look(path / "cmdline", "command line")
                for one in (path / "fd").iterdir():
                    if "atrous-decoder-log" in str(one.readlink()):
                        self.look(one, "log of a decoder")

    def look(self, path, kind):
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            self.seen.add(kind)
            self.found |= {(kind, name) for name in leaks(data)}


@pytest.fixture
def places():
    """Short names: a socket's has a hundred letters at most."""
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        root = Path(folder)
        (root / "ray").mkdir()
        (root / "tmp").mkdir()
        (root / "home").mkdir()
        yield root


def contents(path):
    """A file's bytes, and what stands in it when it is unpacked."""
    yield path.read_bytes()
    if path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        yield repr((table.to_pylist(), table.schema.metadata)).encode()
    elif path.suffix == ".tif" and path.parent.name == "rasters":
        with rasterio.open(path) as raster:
            yield repr((raster.tags(), raster.profile)).encode()


def search(folder):
    """Where credentials stand in a folder, and how many files were looked at."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {
        (str(path.relative_to(folder)), name)
        for path in files
        for data in contents(path)
        for name in leaks(data)
    }
    return found, files


@pytest.mark.s3
@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux does")
def test_runs_leave_no_trace_of_credentials(  # noqa: PLR0913, PLR0917
    places, png, tif, bundle, fault_proxy, s3_client, bucket
):
    for name, data in {"bad": png[:100], "shut": png, "slow": png, "token": png}.items():
        s3_client.put_object(Bucket=bucket, Key=f"images/{name}.png", Body=data)
    for number in range(3):
        s3_client.put_object(Bucket=bucket, Key=f"images/{number}.png", Body=png)
    for name, data in {"good": tif, "bad": tif[:200], "shut": tif, "token": tif}.items():
        s3_client.put_object(Bucket=bucket, Key=f"rasters/{name}.tif", Body=data)
    fault_proxy.set(*faults())

    watch = Watch(places / "tmp")
    watch.start()
    found = start(places, f"s3://{bucket}", fault_proxy.url, bundle)
    watch.over.set()
    watch.join()
    used = {name for one in fault_proxy.log() for name in leaks(str(one).encode())}
    assert used >= {"AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"}, "they were never used"

    assert [line for line in found.stdout.splitlines() if "ends with" in line] == [
        "label ends with 1",
        "map ends with 4",
    ], found.stderr
    assert "what nobody expects" in found.stderr
    assert watch.seen == {"command line", "log of a decoder", "black box"}
    fetch(s3_client, bucket, places / "runs")
    hits, files = search(places)
    names = {path.name for path in files}
    assert {"dead_letter.parquet", "plan.parquet", "good.tif", "raylet.out"} <= names

    printed = leaks(found.stdout.encode() + found.stderr.encode())
    assert [*sorted(printed), *sorted(watch.found), *sorted(hits)] == []


def faults():
    """A server that tells in its errors what it was told."""
    more = "".join(
        f"<{tag}>{CREDENTIALS[name]}</{tag}>"
        for tag, name in (
            ("AWSAccessKeyId", "AWS_ACCESS_KEY_ID"),
            ("Token-0", "AWS_SESSION_TOKEN"),
            ("StringToSign", "AWS_SECRET_ACCESS_KEY"),
        )
    )
    denied = {"fault": "status", "status": 403, "code": "AccessDenied", "more": more}
    expired = {"fault": "status", "status": 400, "code": "InvalidToken", "more": more}
    slow = {"fault": "status", "status": 503, "code": "SlowDown", "more": more}
    return [
        {"method": "GET|HEAD", "path": r"/shut\.", **denied},
        {"method": "GET|HEAD", "path": r"/token\.png", **expired},
        {"method": "GET|HEAD", "path": r"/token\.tif(\?|$)", "skip": 1, **expired},
        {"method": "GET", "path": r"/slow\.", "times": 1, **slow},
    ]


def start(places, bucket, url, bundle):
    (places / "job.toml").write_text("shard_items = 1")
    return subprocess.run(  # noqa: S603 - our own interpreter
        [
            *(sys.executable, "-c", SCRIPT, bucket),
            *("--endpoint-url", url, "--bundle", bundle),
            *("-c", "patience=1s", "-c", places / "job.toml"),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=places / "home",
        timeout=280,
        env={
            **os.environ,
            **CREDENTIALS,
            "PYTHONPATH": str(ROOT),
            "HOME": str(places / "home"),
            "TMPDIR": str(places / "tmp"),
            "RAY_TMPDIR": str(places / "ray"),
        },
    )


def fetch(client, bucket, folder):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="run-")
    for one in (one for page in pages for one in page["Contents"]):
        path = folder / one["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, one["Key"], str(path))
