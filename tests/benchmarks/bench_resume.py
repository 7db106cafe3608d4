"""How long a large run takes to be taken up again, and how much memory its driver needs.

    python tests/benchmarks/bench_resume.py [--shards 100000] [--merged 95] [--save]

One part takes stock of a run on an S3 server of this machine: most thousands of its
ledger are merged, the last few lie in single records. The other counts a million
records, from the ledger and then from replicas, and watches the driver's memory.
Prints one JSON object; ``--save`` keeps it in ``results/``.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from provenance import RESULTS, describe

from cluster.outcomes import Done
from deeplab.bundle import Bundle, ClassInfo
from jobs import folder, ledger, runner
from jobs.label_job import LabelJob
from jobs.ledger import Record, dead_letter, to_json
from jobs.progress import Silence
from jobs.shards import Item, plan_shards
from jobs.spec import Compute, Cut, Spec
from jobs.storage import Access, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "bench"

SERVER = """
import gzip, sys
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

bucket, merged, shards, template, letter = sys.stdin.readline().rstrip("\\n").split("\\t")
merged, shards = int(merged), int(shards)
store = s3_backends["123456789012"]["aws"]
store.create_bucket(bucket, "us-east-1")

def record(shard):
    return (template if shard % 100 else letter).replace("123456789", str(shard)).encode()

for thousand in range(shards // 1000):
    mine = range(1000 * thousand, 1000 * (thousand + 1))
    if thousand < merged:
        lines = b"".join(record(shard) + b"\\n" for shard in mine)
        key = f"run/ledger/merged/{thousand:06d}.jsonl.gz"
        store.put_object(bucket, key, gzip.compress(lines, mtime=0))
        continue
    for shard in mine:
        key = f"run/ledger/{thousand:06d}/{shard:09d}.json"
        store.put_object(bucket, key, record(shard))
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--merged", type=int, default=95)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    report = {
        **describe(["tests/benchmarks/bench_resume.py", *sys.argv[1:]], "cpu"),
        "resume": measure_resume(options.shards, options.merged),
        "memory": measure_memory(options.records),
    }
    text = json.dumps(report, indent=1)
    if options.save:
        (RESULTS / f"resume-{report['commit']}.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def measure_resume(shards: int, merged: int) -> dict[str, float]:
    """Seconds to take stock of a run on S3."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    spec = make_spec("s3://bench/run")
    planned, data = plan(spec, shards)
    whole, letter = (to_json(one).decode() for one in examples(planned.fingerprint))
    line = "\t".join([BUCKET, str(merged), str(shards), whole, letter])
    with serve(line) as url:
        store = open_store(Access(endpoint_url=url))
        store.create(folder.plan_uri(spec.run), data)
        job = LabelJob(spec=spec, fingerprint=planned.fingerprint, folder=spec.run)
        job = dataclasses.replace(
            job, spec=dataclasses.replace(spec, access=Access(endpoint_url=url))
        )
        started = time.perf_counter()
        merging = SimpleMerging(shards)
        here = runner._survey(store, job, planned, merging)
        seconds = time.perf_counter() - started
        assert here.tally.shards == shards
        assert next(here.feed.shards, None) is None
    return {
        "shards": shards,
        "merged_thousands": merged,
        "single_records": shards - 1000 * merged,
        "seconds": round(seconds, 1),
    }


def measure_memory(records: int) -> dict[str, object]:
    """Resident MiB of the driver while it counts records, each tenth on its own."""
    spec = make_spec("/run")
    planned = SimpleNamespace(
        spec=spec,
        totals=SimpleNamespace(shards=records, items=records),
        fingerprint="f" * 16,
        folder=spec.run,
        resumed=False,
    )
    job = LabelJob(spec=spec, fingerprint=planned.fingerprint, folder=spec.run)
    read = from_ledger(job, planned, records)
    counted = from_replicas(job, planned, records)
    return {"records": records, "rss_mib_reading": read, "rss_mib_counting": counted}


def from_ledger(job: LabelJob, planned: SimpleNamespace, records: int) -> list[float]:
    """Take stock of a ledger that is made up as it is read."""
    sizes: list[float] = []
    store = MadeUp(planned.fingerprint, records, sizes)
    before = runner.read_shards
    runner.read_shards = lambda *_: make_shards(records)
    try:
        here = runner._survey(store, job, planned, SimpleMerging(records))
    finally:
        runner.read_shards = before
    assert here.tally.shards == records
    return sizes


def from_replicas(job: LabelJob, planned: SimpleNamespace, records: int) -> list[float]:
    """Count outcomes as they come from a pool."""
    sizes: list[float] = []
    empty = MadeUp(planned.fingerprint, 0, [])
    before = runner.read_shards
    runner.read_shards = lambda *_: make_shards(0)
    try:
        here = runner._survey(empty, job, planned, SimpleMerging(records))
    finally:
        runner.read_shards = before

    def outcomes() -> Iterator[Done]:
        for shard in make_shards(records):
            if shard.index % (records // 10) == 0:
                sizes.append(resident())
            record = examples(planned.fingerprint)[shard.index % 100 == 0]
            value = dataclasses.replace(record, shard=shard.index)
            yield Done(item=shard, value=value)

    runner._drive(here, outcomes(), Silence())
    assert here.tally.shards == records
    return sizes


class SimpleMerging:
    """Remembers what is done and merges nothing."""

    def __init__(self, shards: int) -> None:
        self.done = bytearray(shards)

    def __contains__(self, shard: int) -> bool:
        return bool(self.done[shard])

    def add(self, shard: int) -> None:
        self.done[shard] = 1


class MadeUp:
    """A store whose ledger is merged and made as it is asked for."""

    def __init__(self, fingerprint: str, records: int, sizes: list[float]) -> None:
        self.fingerprint, self.thousands, self.sizes = fingerprint, records // 1000, sizes

    def find(self, prefix: str) -> list[SimpleNamespace]:
        if not prefix.endswith("merged"):
            return []
        names = (f"{prefix}/{number:06d}.jsonl.gz" for number in range(self.thousands))
        return [SimpleNamespace(uri=name) for name in names]

    def folders(self, _prefix: str) -> list[str]:
        return ["merged"]

    def read(self, uri: str) -> bytes:
        thousand = int(Path(uri).name.split(".")[0])
        if thousand % (self.thousands // 10) == 0:
            self.sizes.append(resident())
        lines = (
            dataclasses.replace(examples(self.fingerprint)[shard % 100 == 0], shard=shard)
            for shard in range(1000 * thousand, 1000 * (thousand + 1))
        )
        return gzip.compress(b"".join(to_json(one) + b"\n" for one in lines), 1)


def examples(fingerprint: str) -> tuple[Record, Record]:
    """A record of an image that was done, and one of an image that was not."""
    output = ledger.Output(
        name="masks/part-0123456789abcdef.parquet", size=9, sha256="a" * 64
    )
    item = Item(uri="s3://bucket/a/b/c.jpg", key="a/b/c.jpg", size=9, etag="e")
    done = Record(
        shard=123456789,
        fingerprint=fingerprint,
        items=1,
        items_done=1,
        outputs=(output,),
        pixels_done=9,
        seconds={"read": 0.1, "segment": 0.2, "write": 0.3, "total": 0.6},
        worker="host:1",
    )
    letter = dead_letter(item, "read", "undecodable", "the file is empty")
    return done, dataclasses.replace(done, items_done=0, dead_letters=(letter,))


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
        source="s3://bucket",
        limit=None,
        run=run,
        bundle=bundle,
        compute=Compute(),
        cut=Cut(shard_items=1),
        access=Access(),
    )


def make_shards(count: int) -> Iterator:
    items = (
        Item(uri=f"s3://bucket/{i:09d}.jpg", key=f"{i:09d}.jpg", size=1, etag="e")
        for i in range(count)
    )
    return plan_shards(items, max_items=1, max_bytes=10)


def plan(spec: Spec, shards: int) -> tuple[folder.Planned, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "plan.parquet")
        totals = folder.write_plan(make_shards(shards), path, about={})
        data = path.read_bytes()
    planned = folder.Planned(
        spec=spec,
        totals=totals,
        fingerprint=spec.fingerprint(totals.digest),
        resumed=True,
        folder=spec.run,
    )
    return planned, data


@contextmanager
def serve(line: str) -> Iterator[str]:
    """An S3 server that is filled in its own process."""
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        server.stdin.write(line + "\n")
        server.stdin.flush()
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGESIZE") / 2**20, 1)


if __name__ == "__main__":
    main()
