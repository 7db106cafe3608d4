"""Fixtures shared by all tests: a real S3 server on loopback."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import settings

# The same examples in every run, and no folder to remember them in.
settings.register_profile("atrous", derandomize=True, database=None, deadline=None)
settings.load_profile("atrous")

# In a process of its own: GDAL holds the interpreter's lock while it waits for
# an answer, so a server in a thread beside it would never give one. S3 looks at a
# condition and writes in one step; this server does not by itself.
SERVER = """
import sys
import threading

from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

one_at_a_time = threading.Lock()
put_object = S3Response.put_object


def put_alone(self):
    with one_at_a_time:
        return put_object(self)


S3Response.put_object = put_alone
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3_server():
    """URL of an S3 server on loopback; its credentials are in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        with subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", SERVER],
            # Short pages, so that every listing of more than five has several.
            env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "5"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
            server.kill()


@pytest.fixture(scope="session")
def s3_client(s3_server):
    """A client that is not ours, to look behind the store's back."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server)
    yield client
    client.close()


@pytest.fixture
def bucket(s3_client):
    """Name of a new bucket."""
    name = f"b-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def double_precision():
    """Let torchmetrics, which divides whole numbers as float32, do so as float64."""
    import torch

    @contextlib.contextmanager
    def context():
        before = torch.get_default_dtype()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            torch.set_default_dtype(torch.float64)
            try:
                yield
            finally:
                torch.set_default_dtype(before)

    return context


class FaultProxy:
    """Tells ``fault_proxy.py``, which says how, what to do wrong."""

    def __init__(self, url):
        self.url = url

    def set(self, *rules):
        """Follow these rules and forget the log."""
        self._ask("PUT", "rules", json.dumps(rules).encode())

    def log(self):
        """The requests since the rules were set."""
        return self._ask("GET", "log")

    def _ask(self, method, name, data=None):
        control = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        control.request(method, f"/-/{name}", data)
        answer = json.load(control.getresponse())
        control.close()
        return answer


@pytest.fixture(scope="session")
def _proxy(s3_server):
    script = Path(__file__).with_name("fault_proxy.py")
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, script, s3_server], stdout=subprocess.PIPE, text=True
    ) as server:
        yield FaultProxy(f"http://127.0.0.1:{int(server.stdout.readline())}")
        server.kill()


@pytest.fixture
def fault_proxy(_proxy):
    """The S3 server behind a proxy that does wrong as it is told; at first, nothing."""
    _proxy.set()
    return _proxy


@pytest.fixture(scope="session")
def ray_session(s3_server):  # noqa: ARG001 - actors inherit its credentials
    """One Ray session of four logical CPUs for all tests."""
    from cluster.connect import connect

    with connect(None, cpus=4) as resources:
        yield resources
