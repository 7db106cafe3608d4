"""Real runs that die, or are overtaken, at each write of theirs in turn.

A local run is taken apart by its changes of the store: the k-th time that it would
create, replace or delete an object, it dies before it does so. Between two changes
nothing lasts, so to die after one is to die before the next.
"""

from __future__ import annotations

import functools
import gc
import gzip
import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from cluster.local import run_local
from jobs.bundle_file import load_bundle
from jobs.clean import clean_run
from jobs.commands import JOBS, Request, make_spec
from jobs.errors import ItemError
from jobs.progress import Silence
from jobs.retry import plan_retry
from jobs.runner import run, work_off
from jobs.spec import Compute, Cut
from jobs.storage import Access, Store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHANGES = ("create", "create_from", "replace", "replace_from", "delete")
READS = ("read", "stat")
JOBS_HERE = {"label": "label", "map": "map", "chips": "map"}
"""Sources, and the job that each of them is for."""


# A run that dies leaves generators half way, and their temporary folders with them.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


class Death(BaseException):
    """Nothing catches it, as nothing catches a lost machine."""


@dataclass
class Fate:
    """Counts the calls of a store and does something at one of them."""

    at: int
    """Which call; -1 for none."""

    act: Callable[[], None]
    calls: tuple[str, ...] = CHANGES
    """Which calls count."""

    seen: int = 0
    dead: bool = False
    paused: bool = False

    def strike(self, call: str) -> None:
        if self.dead and call in CHANGES:
            raise Death
        if self.paused or call not in self.calls:
            return
        self.seen += 1
        if self.seen - 1 == self.at:
            self.act()

    def die(self) -> None:
        self.dead = True
        raise Death


@pytest.fixture
def fate(monkeypatch):
    """Stand between every store and its callers; ``fate(at, act)`` begins anew."""
    box = [Fate(-1, lambda: None)]

    def guard(name):
        real = getattr(Store, name)

        @functools.wraps(real)
        def call(*arguments, **named):
            box[0].strike(name)
            return real(*arguments, **named)

        monkeypatch.setattr(Store, name, call)

    for name in (*CHANGES, *READS):
        guard(name)

    def begin(at=-1, act=None, calls=CHANGES):
        box[0] = Fate(at, lambda: None, calls)
        box[0].act = box[0].die if act is None else act
        return box[0]

    yield begin
    gc.collect()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle whose network costs nothing, with small tiles."""
    import torch

    import deeplab
    from deeplab.bundle import Bundle, ClassInfo
    from deeplab.weights import save_bundle

    torch.manual_seed(5)
    names = ("soil", "field", "water")
    about = Bundle(
        architecture="linear",
        classes=tuple(ClassInfo(name=name, color=(9, 20, 90)) for name in names),
        bands=("red", "green", "blue"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        tile=64,
        overlap=16,
    )
    model = deeplab.build("linear", classes=len(names)).eval()
    path = tmp_path_factory.mktemp("bundle") / "linear.safetensors"
    save_bundle(path, model, about, dtype=torch.float32)
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Five images, a raster of two blocks, three of one; with each, one is damaged."""
    random = np.random.default_rng(4)
    images, rasters, chips = (tmp_path_factory.mktemp(name) for name in JOBS_HERE)
    for number in range(5):
        pixels = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    (images / "3.png").write_bytes(b"no picture")
    scenes = {rasters / "scene.tif": (60, 530)}
    scenes |= {chips / f"{number}.tif": (20, 30 + number) for number in range(3)}
    for path, (height, width) in scenes.items():
        (path.parent / "damaged.tif").write_bytes(b"II*\0")
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            dtype="uint8",
            count=3,
            height=height,
            width=width,
            crs="EPSG:32633",
            transform=from_origin(400_000, 5_800_000, 0.5, 0.5),
        ) as target:
            target.write(random.integers(0, 256, (3, height, width), dtype=np.uint8))
    return {"label": images, "map": rasters, "chips": chips}


@pytest.fixture
def prepare(monkeypatch, bundle, sources):
    """What a job in a folder needs: ``prepare(job, folder)``."""
    # So that these few shards fill a group of the ledger, which is then merged.
    monkeypatch.setattr("jobs.ledger.GROUP", 2)

    def make(job: str, folder: Path):
        request = Request(
            job=JOBS_HERE[job],
            source=str(sources[job]),
            run=str(folder),
            bundle=str(bundle),
            cut=Cut(shard_items=2, block=512),
        )
        header, data = load_bundle(request.bundle, Access())
        return make_spec(request, header, Compute()), data

    return make


@pytest.fixture
def start(prepare):
    """Begin a run, or go on with it: ``start(job, folder)``."""

    def go(job: str, folder: Path):
        spec, data = prepare(job, folder)
        return run(
            JOBS[JOBS_HERE[job]], spec, bundle=data, engine=run_local, progress=Silence()
        )

    return go


@pytest.fixture
def retry(prepare):
    """Try a run's dead letters again: ``retry(job, folder)``."""

    def go(job: str, folder: Path):
        (spec, data), store = prepare(job, folder), open_store(Access())
        planned = plan_retry(store, JOBS[JOBS_HERE[job]], spec, ())
        if planned is None:
            return None
        about = {"bundle": data, "engine": run_local, "progress": Silence()}
        return work_off(store, JOBS[JOBS_HERE[job]], planned, **about)

    return go


@pytest.fixture
def blind(monkeypatch):
    """While ``blind[0]`` is true, an image, a chip and a block are unreadable."""
    box = [False]

    def guard(job):
        real = job.read

        def read(self, shard, item):
            block = shard.block.number if shard.block else None
            if box[0] and (item.key in {"1.png", "1.tif"} or block == 1):
                raise ItemError("timed_out", "not this time")
            return real(self, shard, item)

        monkeypatch.setattr(job, "read", read)

    for name in {*JOBS_HERE.values()}:
        guard(JOBS[name])
    return box


@pytest.mark.parametrize("job", JOBS_HERE)
def test_a_run_that_died_at_any_change_is_resumed(tmp_path, fate, start, job):
    counted = fate()
    start(job, tmp_path / "quiet")
    wanted = facts(tmp_path / "quiet")
    assert counted.seen > 12
    for at in range(counted.seen):
        folder = tmp_path / f"died-{at}"
        fate(at)
        with pytest.raises(Death):
            start(job, folder)
        fate()
        tidy(folder)
        assert start(job, folder)["finished"]
        assert facts(folder) == wanted, f"after a death before change {at}"


@pytest.mark.parametrize("calls", [CHANGES, READS], ids=["changes", "reads"])
@pytest.mark.parametrize("job", JOBS_HERE)
def test_a_run_that_was_overtaken_at_any_call_goes_on(tmp_path, fate, start, job, calls):
    """A second driver does all of it while the first is held at one of its calls."""
    counted = fate(calls=calls)
    start(job, tmp_path / "quiet")
    wanted = facts(tmp_path / "quiet")
    for at in range(counted.seen):
        folder = tmp_path / f"overtaken-{at}"
        overtaken = fate(at, lambda folder=folder: second(folder), calls)

        def second(folder, overtaken=overtaken):
            overtaken.paused = True
            assert start(job, folder)["finished"]
            assert facts(folder) == wanted
            overtaken.paused = False

        assert start(job, folder)["finished"]
        assert facts(folder) == wanted, f"overtaken before call {at}"


@pytest.mark.parametrize("sees_less", ["first", "second"])
@pytest.mark.parametrize("job", JOBS_HERE)
def test_drivers_that_see_other_dead_letters_agree(
    tmp_path, fate, start, blind, job, sees_less
):
    counted = fate()
    start(job, tmp_path / "quiet")
    for at in range(counted.seen):
        folder = tmp_path / f"overtaken-{at}"
        overtaken = fate(at, lambda folder=folder: second(folder))
        blind[0] = sees_less == "first"

        def second(folder, overtaken=overtaken):
            overtaken.paused, blind[0] = True, not blind[0]
            assert start(job, folder)["finished"]
            overtaken.paused, blind[0] = False, not blind[0]

        assert start(job, folder)["finished"]
        check_account(folder)


@pytest.mark.parametrize("job", JOBS_HERE)
def test_a_retry_that_died_at_any_change_is_resumed(
    tmp_path, fate, start, retry, blind, job
):
    blind[0] = True
    start(job, tmp_path / "run")
    blind[0] = False
    shutil.copytree(tmp_path / "run", tmp_path / "quiet")
    counted = fate()
    retry(job, tmp_path / "quiet")
    wanted = facts(tmp_path / "quiet")
    assert counted.seen > 5
    for at in range(counted.seen):
        folder = tmp_path / f"died-{at}"
        shutil.copytree(tmp_path / "run", folder)
        fate(at)
        with pytest.raises(Death):
            retry(job, folder)
        ended = (folder / "retries" / "001" / "_SUCCESS").exists()
        fate()
        tidy(folder)
        # Where the retry had ended, another would begin; the run's command does views.
        (start if ended else retry)(job, folder)
        assert facts(folder) == wanted, f"after a death before change {at}"


def tidy(folder: Path) -> None:
    """Clean as eagerly as can be: what a resumed run needs must stay."""
    if (folder / "job.json").exists():
        clean_run(
            open_store(Access()),
            str(folder),
            delete=True,
            older_than=timedelta(),
            uploads_older_than=timedelta(),
        )


def check_account(folder: Path) -> None:
    """Every output is what its record says, and belongs to one record alone."""
    records = read_records(folder)
    named = {one["name"]: (one, record) for record in records for one in record["outputs"]}
    parts = [path for path in (folder / "masks").glob("*") if path.is_file()]
    assert len(parts) == sum(name.startswith("masks/") for name in named)
    # Of a raster with a dead block every piece is kept for a retry.
    gap = any(
        letter["row"] is not None for one in records for letter in one["dead_letters"]
    )
    for name, (output, record) in named.items():
        path = folder / name
        if name.startswith("pieces/") and not gap:
            continue
        assert hashlib.sha256(path.read_bytes()).hexdigest() == output["sha256"]
        if name.startswith("masks/"):
            assert pq.read_metadata(path).num_rows == record["items_done"]
    listed = pq.read_table(folder / "manifest.parquet").to_pylist()
    assert {one["name"] for one in listed} <= named.keys()


def read_records(folder: Path) -> list[dict]:
    """Of shards, and of tasks, which have no dead letters."""
    texts = (path.read_text() for path in sorted((folder / "ledger").rglob("*.json")))
    return [{"dead_letters": [], **json.loads(text)} for text in texts]


def facts(folder: Path) -> dict[str, object]:
    """All that a run folder holds, but times, places and who did it.

    A death while the store is probed leaves the probe, which nobody reads.
    """
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {
        name: _fact(path)
        for name, path in found.items()
        if path.is_file() and not name.startswith("_probe/")
    }


def _fact(path: Path) -> object:
    if path.name in {"_SUCCESS", "job.json", "summary.json"} or path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.name.endswith(".jsonl.gz"):
        lines = gzip.decompress(path.read_bytes()).splitlines()
        return [_timeless(json.loads(line)) for line in lines]
    if path.name == "manifest.parquet":
        return pq.read_table(path).drop_columns("etag").to_pylist()
    return path.read_bytes()


def _timeless(fields):
    drop = {"seconds", "rates", "worker", "attempts", "etag", "run", "manifest"}
    if isinstance(fields, dict):
        return {name: _timeless(one) for name, one in fields.items() if name not in drop}
    return [_timeless(one) for one in fields] if isinstance(fields, list) else fields
