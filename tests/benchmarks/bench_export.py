"""How fast label runs are exported, and how much memory that takes.

    python tests/benchmarks/bench_export.py [--rows 1000000] [--few 2000] [--at DIR]

Writes a run of masks of 32 px with the job's own writer, then exports it, each time in
a process of its own: to COCO and to a list of work all rows, to all formats a few, so
that it is seen whether memory grows with them. Prints one JSON object; ``--save`` keeps
it in ``results/``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from provenance import RESULTS, describe

from deeplab.bundle import Bundle, ClassInfo
from jobs.folder import SUCCESS, prepare, read_shards
from jobs.label_job import LabelJob
from jobs.ledger import Ledger
from jobs.shards import Item, plan_shards
from jobs.spec import Compute, Cut, Spec
from jobs.storage import Access, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.shards import Shard

SIDE = 32
SHARD_ITEMS = 5000
ATROUS = """
import re, sys
from pathlib import Path
from jobs.cli import _main

code = _main(sys.argv[1:])
# The kernel's count for a child begins with what its parent held.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(peak)
sys.exit(code)
"""
OF_ALL = {"worklist": ["out.csv"], "coco": ["out.json"]}
OF_FEW = {
    "coco": ["out.json"],
    "coco polygons": ["out.json", "--form", "polygons"],
    "coco panoptic": ["out", "--form", "panoptic"],
    "cvat": ["out.xml"],
    "label-studio": ["out.json"],
    "png": ["out"],
    "huggingface": ["out", "--no-images"],
    "webdataset": ["out", "--no-images"],
    "worklist": ["out.csv"],
    "worklist of 1000": ["out.csv", "--limit", "1000"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--at", type=Path, help="where runs stay, and are found again")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    report = {
        **describe(["tests/benchmarks/bench_export.py", *sys.argv[1:]], "cpu"),
        "mask": f"{SIDE} x {SIDE} px, 5 classes",
    }
    with tempfile.TemporaryDirectory(prefix="atrous-bench-") as scratch:
        folder = options.at or Path(scratch)
        report["few"] = measure(options.few, OF_FEW, folder)
        report["all"] = measure(options.rows, OF_ALL, folder)
    text = json.dumps(report, indent=1)
    if options.save:
        (RESULTS / f"export-{report['commit']}.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def measure(rows: int, forms: dict[str, list[str]], folder: Path) -> dict[str, object]:
    """Write a run, unless it is there, and export it."""
    run = folder / f"run-{rows}"
    found: dict[str, object] = {"rows": rows}
    if not (run / SUCCESS).exists():
        started = time.perf_counter()
        write_run(run, rows)
        found["written_rows_per_s"] = round(rows / (time.perf_counter() - started))
    masks = [path.stat().st_size for path in (run / "masks").iterdir()]
    found |= {"files": len(masks), "mask_mb": round(sum(masks) / 1e6, 1)}
    for form, words in forms.items():
        found[form] = export(run, form.split()[0], words, rows)
        sys.stderr.write(f"{form}: {found[form]}\n")
    return found


def write_run(run: Path, rows: int) -> None:
    """Write a finished label run."""
    spec = make_spec(str(run))
    store = open_store(spec.access)
    planned = prepare(store, spec, make_shards(rows))
    job = LabelJob(spec=spec, fingerprint=planned.fingerprint, folder=spec.run)
    pool = make_masks()
    for shard in read_shards(store, spec.run):
        Ledger(store, spec.run).commit(job.write(shard, results_of(shard, pool)))
    store.create(str(run / SUCCESS), b"")


def results_of(shard: Shard, pool: list[SimpleNamespace]) -> Iterator[SimpleNamespace]:
    for item in shard.items:
        segmentation = pool[int(item.key[:9]) % len(pool)]
        yield SimpleNamespace(item=item, segmentation=segmentation, origin=None)


def make_masks() -> list[SimpleNamespace]:
    """Masks of patches with soft edges, as networks make them."""
    rng = np.random.default_rng(1)
    pool = []
    for _ in range(251):
        field = np.kron(rng.normal(size=(2, 2)), np.ones((SIDE // 2, SIDE // 2)))
        for _ in range(6):
            field = (field + np.roll(field, 1, 0) + np.roll(field, 1, 1)) / 3
        mask = np.digitize(field, [-0.5, -0.1, 0.1, 0.5]).astype(np.uint8)
        confidence = np.full_like(mask, rng.integers(100, 256))
        pool.append(SimpleNamespace(mask=mask, confidence=confidence))
    return pool


def make_shards(rows: int) -> Iterator[Shard]:
    items = (
        Item(uri=f"s3://photos/{i:09d}.jpg", key=f"{i:09d}.jpg", size=1, etag="e")
        for i in range(rows)
    )
    return plan_shards(items, max_items=SHARD_ITEMS, max_bytes=10**9)


def make_spec(run: str) -> Spec:
    classes = tuple(ClassInfo(name=f"class {i}", color=(i, i, i)) for i in range(5))
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
        source="s3://photos",
        limit=None,
        run=run,
        bundle=bundle,
        compute=Compute(),
        cut=Cut(),
        access=Access(),
    )


def export(run: Path, form: str, words: list[str], rows: int) -> dict[str, object]:
    """Seconds, rate, and peak memory of one export."""
    out, *options = words
    target = run.with_name(out)
    command = [sys.executable, "-c", ATROUS, "export", form, run, target]
    started = time.perf_counter()
    child = subprocess.Popen([*command, *options, "--json"], stdout=subprocess.PIPE)  # noqa: S603 - our own
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    assert status == 0
    told, peak_kib = printed.splitlines()
    size = json.loads(told)["bytes"]
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "images_per_s": round(rows / seconds),
        "peak_rss_mib": round(int(peak_kib) / 1024),
        "mb": round(size / 1e6, 1),
    }


if __name__ == "__main__":
    main()
