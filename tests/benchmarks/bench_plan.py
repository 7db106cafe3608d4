"""How long ten million keys take to plan, and how much memory the driver needs.

    python tests/benchmarks/bench_plan.py [--items 10000000] [--listed 100000] [--save]

Two parts. A server of its own process, on loopback, answers listings of S3 with keys that
it makes up, a thousand a page, and the real store reads them: that is what listing takes.
Then a store that makes the objects of a listing up as they are asked for is planned by
the real sources and written as ``plan.parquet``, which is read again as a resumed run
does it. Prints one JSON object; ``--save`` keeps it in ``results/``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from provenance import RESULTS, describe

from deeplab.bundle import Bundle, ClassInfo
from jobs import label_job
from jobs.disk import Object
from jobs.folder import prepare, read_shards
from jobs.progress import ProgressLine
from jobs.spec import Compute, Cut, Spec
from jobs.storage import Access, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

COUNT = int(sys.argv[1])
HEAD = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
ENTRY = (
    '<Contents><Key>images/%08d.jpg</Key><LastModified>2024-01-01T00:00:00.000Z'
    '</LastModified><ETag>&quot;%032x&quot;</ETag><Size>%d</Size></Contents>'
)


class Listing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = parse_qs(urlsplit(self.path).query)
        start = int(asked.get("continuation-token", ["0"])[0])
        end = min(start + 1000, COUNT)
        keys = "".join(
            ENTRY % (n, n * 2654435761, 50_000 + n % 1000) for n in range(start, end)
        )
        more = end < COUNT
        tail = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        if more:
            tail += f"<NextContinuationToken>{end}</NextContinuationToken>"
        body = (HEAD + keys + tail + "</ListBucketResult>").encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
print(server.server_port, flush=True)
server.serve_forever()
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--listed", type=int, default=100_000)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    with tempfile.TemporaryDirectory() as scratch:
        planned = measure_plan(scratch, options.items)
    with serve(options.listed) as url:
        listed = measure_listing(url, options.listed)
    report = {
        **describe(["tests/benchmarks/bench_plan.py", *sys.argv[1:]], "cpu"),
        "plan": planned,
        "listing": listed,
    }
    text = json.dumps(report, indent=1)
    if options.save:
        (RESULTS / f"plan-{report['commit']}.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def measure_plan(scratch: str, count: int) -> dict[str, object]:
    """Seconds and peak MiB of planning, and of reading the plan again."""
    spec, store = make_spec(str(Path(scratch, "run"))), open_store(Access())
    before = peak_mib()
    label_job.open_store = lambda _access: MadeUp(count)
    job = label_job.LabelJob(spec=spec).watch(ProgressLine().plan)
    started, used = time.perf_counter(), time.process_time()
    planned = prepare(store, spec, job.plan())
    plan_s, cpu_s, plan_mib = (
        time.perf_counter() - started,
        time.process_time() - used,
        peak_mib(),
    )
    assert planned.totals.items == count
    started, used = time.perf_counter(), time.process_time()
    assert sum(len(shard.items) for shard in read_shards(store, spec.run)) == count
    return {
        "items": count,
        "shards": planned.totals.shards,
        "planning_s": round(plan_s, 1),
        "planning_cpu_s": round(cpu_s, 1),
        "items_a_second": round(count / plan_s),
        "items_a_cpu_second": round(count / cpu_s),
        "reading_back_s": round(time.perf_counter() - started, 1),
        "reading_back_cpu_s": round(time.process_time() - used, 1),
        "plan_mib": round(Path(spec.run, "plan.parquet").stat().st_size / 2**20, 1),
        "rss_mib_before": before,
        "peak_rss_mib_planning": plan_mib,
        "peak_rss_mib": peak_mib(),
    }


def measure_listing(url: str, count: int) -> dict[str, object]:
    """Seconds to list keys from a server, without planning them."""
    store = open_store(Access(endpoint_url=url))
    started, used = time.perf_counter(), time.process_time()
    assert sum(1 for _ in store.match("s3://bench/images")[1]) == count
    seconds = time.perf_counter() - started
    return {
        "keys": count,
        "seconds": round(seconds, 1),
        "cpu_s": round(time.process_time() - used, 1),
        "keys_a_second": round(count / seconds),
    }


class MadeUp:
    """A store whose listing is made as it is read, as S3 lists: in order of keys."""

    allow_http = False

    def __init__(self, count: int) -> None:
        self.count = count

    def match(self, location: str) -> tuple[str, Iterator[Object]]:
        return location, (
            Object(
                uri=f"{location}/{n:08d}.jpg",
                size=50_000 + n % 1000,
                etag=f"{n * 2654435761:032x}",
            )
            for n in range(self.count)
        )


def peak_mib() -> float:
    """The most memory that this process has had so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def make_spec(run: str) -> Spec:
    classes = tuple(ClassInfo(name=f"class {i}", color=(i, i, i)) for i in range(4))
    bundle = Bundle(
        architecture="linear",
        classes=classes,
        bands=("red", "green", "blue"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        digest="d" * 64,
    )
    return Spec(
        job="label",
        source="s3://bench/images",
        limit=None,
        run=run,
        bundle=bundle,
        compute=Compute(),
        cut=Cut(),
        access=Access(),
    )


@contextmanager
def serve(count: int) -> Iterator[str]:
    """A server of listings."""
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", SERVER, str(count)], stdout=subprocess.PIPE, text=True
    ) as server:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


if __name__ == "__main__":
    main()
