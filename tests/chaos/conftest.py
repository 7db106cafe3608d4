"""Whole runs in a storm: what they are run on, the storm, and how they are judged."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from jobs.cli import main

ATROUS = Path(sys.executable).with_name("atrous")
FINAL = {0, 3}
ALLOWED = {4, -9, -15, 143}
"""How a driver may end that is then started again."""

IMAGES = 120
SHARD_ITEMS = 2
RASTERS = 3
BLOCK = 512


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory):
    """Classes by colour alone, and tiles so small that each image has several."""
    import torch

    import deeplab
    from deeplab.bundle import Bundle, ClassInfo
    from deeplab.weights import save_bundle

    torch.manual_seed(5)
    names = ("soil", "field", "trees", "water")
    bundle = Bundle(
        architecture="linear",
        classes=tuple(ClassInfo(name=name, color=(60, 20, 90)) for name in names),
        bands=("red", "green", "blue"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        tile=64,
        overlap=16,
    )
    path = tmp_path_factory.mktemp("bundle") / "linear.safetensors"
    model = deeplab.build("linear", classes=len(names)).eval()
    save_bundle(path, model, bundle, dtype=torch.float32)
    return path


def picture(random, height, width):
    coarse = random.integers(1, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def images(count):
    """Images by name; each twentieth is damaged in one of three ways."""
    random = np.random.default_rng(1)
    for number in range(count):
        file = io.BytesIO()
        picture(random, 40 + 30 * (number % 3), 64 + number % 40).save(file, "PNG")
        data = file.getvalue()
        if number % 20 == 7:
            data = (data[: len(data) // 2], b"no image", data[:40] + bytes(200))[
                number // 20 % 3
            ]
        yield f"{number:03d}.png", data


def rasters(count):
    """Rasters by name: the first has nodata, the second a damaged tile."""
    random = np.random.default_rng(2)
    for number in range(count):
        height, width = 3 * BLOCK - 100, 4 * BLOCK - 300
        pixels = np.asarray(picture(random, height, width)).transpose(2, 0, 1).copy()
        pixels = np.maximum(pixels, 1)
        if number == 0:
            pixels[:, 500:1200, 900:] = 0
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                dtype="uint8",
                count=3,
                height=height,
                width=width,
                nodata=0,
                crs="EPSG:32633",
                transform=from_origin(400_000 + 1000 * number, 5_800_000, 0.5, 0.5),
                tiled=True,
                blockxsize=256,
                blockysize=256,
                interleave="pixel",
                compress="deflate",
            ) as target:
                target.write(pixels)
            data = bytes(memory.read())
        yield f"scene-{number}.tif", damage(data) if number == 1 else data


def damage(data):
    """Overwrite the tile in row 1, column 1."""
    with MemoryFile(data) as memory, memory.open() as source:
        offset = int(source.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    return data[:offset] + b"\xff" * 200 + data[offset + 200 :]


def call(*arguments):
    """A command in this process; its exit code, and what it prints on stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, out.getvalue()


class Field:
    """A bucket with sources and quiet runs, and how to make a run of it in a storm."""

    def __init__(self, server, client, bundle, folder):
        self.server, self.client, self.bundle, self.folder = server, client, bundle, folder
        self.bucket = f"storm-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=self.bucket)

    def upload(self, prefix, objects):
        for name, data in objects:
            self.client.put_object(Bucket=self.bucket, Key=f"{prefix}/{name}", Body=data)

    def objects(self, prefix=""):
        """ETags by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return {
            one["Key"]: one["ETag"] for page in pages for one in page.get("Contents", ())
        }

    def read(self, key):
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def command(self, job, source, run, endpoint):
        cut = ["-c", f"shard_items={SHARD_ITEMS}"] if job == "label" else []
        cut = ["-c", f"block={BLOCK}"] if job == "map" else cut
        places = [f"s3://{self.bucket}/{name}" for name in (source, run)]
        options = ["--bundle", str(self.bundle), "--endpoint-url", endpoint]
        return [str(ATROUS), job, *places, *options, *cut]

    @functools.cache  # noqa: B019 - lives as long as the session
    def quiet(self, job, source):
        """The same run in one process with nothing that fails; its name."""
        run = f"quiet-{source}"
        command = self.command(job, source, run, self.server)
        assert call(*command[1:], "--local")[0] in FINAL
        return run

    def check(self, name, run, codes=frozenset({0})):
        """Have a command look at a run; its JSON."""
        place = [f"s3://{self.bucket}/{run}", "--endpoint-url", self.server, "--json"]
        code, text = call(*name.split(), *place)
        assert code in codes, (name, code, text)
        return json.loads(text)

    def storm(self, proxy, *, job, source, run, **config):
        """Make a run in a storm; the report of it."""
        folder = self.folder / run
        folder.mkdir()
        command = self.command(job, source, run, proxy.url)
        command += ["--replicas", str(config.pop("replicas"))]
        ledger = f"?list-type=2&prefix={run}/ledger/0&max-keys=1000"
        config |= {"ledger": f"{self.server}/{self.bucket}{ledger}"}
        config |= {"command": command, "proxy": proxy.url, "folder": str(folder)}
        path = folder / "storm.json"
        path.write_text(json.dumps(config))
        script = Path(__file__).with_name("storm.py")
        with (folder / "storm.err").open("wb") as errors:
            done = subprocess.run(  # noqa: S603 - our own interpreter
                [sys.executable, script, path],
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=config["limit_s"] + 60,
                check=False,
            )
        assert not done.returncode, (folder / "storm.err").read_text()[-4000:]
        (folder / "report.json").write_bytes(done.stdout)
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def field(s3_server, s3_client, small_bundle, tmp_path_factory):
    return Field(s3_server, s3_client, small_bundle, tmp_path_factory.mktemp("storm"))


@pytest.fixture(scope="session")
def image_source(field):
    field.upload("images", images(IMAGES))
    return "images"


@pytest.fixture(scope="session")
def few_images(field):
    field.upload("few", images(20))
    return "few"


@pytest.fixture(scope="session")
def raster_source(field):
    field.upload("scenes", rasters(RASTERS))
    return "scenes"


@pytest.fixture
def weather(field, fault_proxy):
    """Make a run in a storm, and judge it: ``weather(job, source, seed, ...)``."""

    def blow(job, source, *, seed, slow, **config):
        quiet, run = field.quiet(job, source), f"{job}-{seed}-{uuid.uuid4().hex[:6]}"
        before = outside(field, run)
        rules = [{"method": "GET", "path": f"/{field.bucket}/{source}/", **slow}]
        report = field.storm(
            fault_proxy, job=job, source=source, run=run, seed=seed, rules=rules, **config
        )
        try:
            assert not report["problems"]
            judge_ends(report)
            judge_run(field, job, run, quiet)
            assert outside(field, run) == before
        except AssertionError as error:
            story = json.dumps(report, indent=1)
            raise AssertionError(f"seed {seed}: {error}\n{story}") from error
        return report

    return blow


def outside(field, run):
    """All objects but those of a run."""
    found = field.objects()
    return {key: tag for key, tag in found.items() if not key.startswith(f"{run}/")}


def judge_ends(report):
    """Every driver ended as it is written that it may."""
    for end in report["ends"]:
        assert end["code"] in FINAL | ALLOWED, end
        if end["code"] < 0 or end["code"] == 143:
            assert end["signal"], end
    assert any(end["code"] in FINAL for end in report["ends"])


def judge_run(field, job, run, quiet):
    """It is what the quiet run is, and nothing is lost, doubled or left."""
    before = field.check("verify --deep", run, codes={0, 5})["differences"]
    # Whoever was killed between a piece and its record may have left the piece.
    orphans = [one["object"] for one in before if one["kind"] == "extra"]
    assert len(orphans) == len(before), before
    assert all(name.startswith("pieces/") for name in orphans), orphans
    field.check("clean --older-than 0 --uploads-older-than 0 --delete", run)
    proof = field.check("verify --deep", run)
    assert not proof["differences"], proof
    assert outputs(field, run) == outputs(field, quiet)
    assert letters(field, run) == letters(field, quiet)
    assert letters(field, run)
    ours, theirs = field.check("status", run), field.check("status", quiet)
    for name in ("shards", "items", "pixels", "dead_letters", "finished"):
        assert ours[name] == theirs[name], name
    judge_ledger(field, run, ours["shards"]["planned"])
    assert not field.client.list_multipart_uploads(Bucket=field.bucket).get("Uploads")
    if job == "map":
        assert pieces(field, run) == pieces(field, quiet)


def outputs(field, run):
    """What readers take, by name below the run folder."""
    return {
        key.removeprefix(f"{run}/"): field.read(key)
        for name in ("masks", "rasters")
        for key in field.objects(f"{run}/{name}/")
    }


def pieces(field, run):
    found = field.objects(f"{run}/pieces/")
    return {key.removeprefix(run): tag for key, tag in found.items()}


def letters(field, run):
    table = pq.read_table(io.BytesIO(field.read(f"{run}/dead_letter.parquet")))
    names = ("uri", "code", "row", "col", "height", "width")
    return Counter(tuple(row[name] for name in names) for row in table.to_pylist())


def judge_ledger(field, run, planned):
    """One record for each shard, and one task for each raster."""
    keys = field.objects(f"{run}/ledger/0")
    records = [json.loads(field.read(key)) for key in keys]
    assert sorted(record["shard"] for record in records) == list(range(planned))
    assert len({record["fingerprint"] for record in records}) == 1
