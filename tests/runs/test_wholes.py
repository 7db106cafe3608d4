"""Rasters of one block, many in a shard: the same bytes as by pieces and assembly."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import from_origin

from cluster.local import run_local
from jobs import map_job
from jobs.cli import _main
from jobs.errors import ItemError
from jobs.folder import read_shards
from jobs.shards import Shard
from jobs.spec import Cut
from jobs.storage import Access, open_store

SIZES = {
    "a-pixel": (1, 1),
    "b-few": (3, 3),
    "c-nothing": (60, 70),
    "d-edge": (511, 90),
    "e-full": (512, 512),
    "f-over": (513, 40),
    "g-holes": (200, 300),
    "h-cut": (150, 160),
    "i-large": (600, 1100),
    "j-row": (1, 400),
    "k-column": (400, 1),
    "l-last": (64, 64),
}
"""Height and width by name; blocks have 512 px."""

CUT = Cut(shard_items=4, block=512)


def command(*words):
    return _main([str(word) for word in words])


def write(path, size, seed):
    """A raster that nothing can be guessed of; 0 is nodata."""
    random = np.random.default_rng(seed)
    pixels = random.integers(1, 256, (3, *size), dtype=np.uint8)
    if "nothing" in path.name:
        pixels[:] = 0
    if "holes" in path.name:
        pixels[:, 20:90, 50:130] = 0
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=3,
        height=size[0],
        width=size[1],
        nodata=0,
        crs="EPSG:32633",
        transform=from_origin(400_000 + 1000 * seed, 5_800_000, 0.5, 0.5),
    ) as target:
        target.write(pixels)


def cut_short(path):
    """Leave the header, and half of the pixels."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, size) in enumerate(SIZES.items()):
        write(folder / f"{name}.tif", size, seed)
    cut_short(folder / "h-cut.tif")
    return folder


@pytest.fixture(scope="module")
def mapped(scenes, linear, tmp_path_factory):
    run = tmp_path_factory.mktemp("mapped") / "run"
    words = ["-c", "shard_items=4", "-c", "block=512", "--confidence"]
    assert command("map", scenes, run, "--bundle", linear, "--local", *words) == 3
    return run


def shards_of(run):
    return list(read_shards(open_store(Access()), str(run)))


def files(run):
    """All that readers take, by name, and what each holds."""
    found = {}
    for folder in ("rasters", "confidence"):
        for path in (run / folder).glob("*"):
            found[f"{folder}/{path.name}"] = path.read_bytes()
    return found


def test_small_rasters_share_shards(mapped):
    shards = shards_of(mapped)
    first = [[item.key[0] for item in one.items] for one in shards if one.is_whole]
    assert first == [["a", "b", "c", "d"], ["e"], ["g", "h"], ["j", "k", "l"]]
    assert sorted(path.name for path in (mapped / "ledger" / "tasks").iterdir()) == [
        "f-over.tif.json",
        "i-large.tif.json",
    ]
    assert not list((mapped / "pieces").iterdir())
    summary = json.loads((mapped / "summary.json").read_text())
    assert summary["items"] == len(SIZES)
    assert summary["shards"] == {"planned": 4 + 2 + 6, "done": 4 + 2 + 6}
    assert summary["pixels"]["dead"] == 150 * 160
    assert summary["pixels"]["nodata"] == 60 * 70 + 70 * 80
    total = sum(height * width for height, width in SIZES.values())
    assert sum(summary["pixels"].values()) == total


def test_their_bytes_are_those_of_pieces_put_together(
    scenes, linear, mapped, tmp_path, monkeypatch
):
    """The slow twin: each block of each raster as a piece, and an assembly of it."""
    monkeypatch.setattr(Shard, "is_whole", property(lambda _: False))
    run = tmp_path / "run"
    words = ["-c", "block=512", "--confidence"]
    assert command("map", scenes, run, "--bundle", linear, "--local", *words) == 3
    assert len(list((run / "ledger" / "tasks").iterdir())) == len(SIZES), "by assemblies"
    wanted = files(run)
    for folder, endings in (
        ("rasters", (".tif", ".tif.aux.xml", ".json")),
        ("confidence", (".tif",)),
    ):
        for ending in endings:  # a dead one has no COG where it has no pieces
            del wanted[f"{folder}/h-cut{ending}"]
    found = files(mapped)
    for one in (found, wanted):  # which lists the COG of the dead one, or does not
        del one["rasters/collection.json"]
    assert found.keys() == wanted.keys()
    assert found == wanted


def test_a_block_that_holds_more_rasters_whole_changes_no_byte(
    scenes, linear, mapped, tmp_path
):
    run = tmp_path / "run"
    assert command("map", scenes, run, "--bundle", linear, "--local", "--confidence") == 3
    assert [len(one.items) for one in shards_of(run)] == [len(SIZES)]
    assert not (run / "pieces").exists()
    assert files(run) == files(mapped)
    assert command("verify", run, "--deep") == 0


def test_the_collection_lists_what_was_made(mapped):
    links = json.loads((mapped / "rasters" / "collection.json").read_text())["links"]
    items = [link["href"] for link in links if link["rel"] == "item"]
    made = [f"./{name}.json" for name in SIZES if name != "h-cut"]
    assert sorted(items) == sorted(made)
    for name in items:
        assert (mapped / "rasters" / name).is_file()


def test_verify_is_content_until_a_raster_is_damaged(mapped, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(mapped, run)
    assert command("verify", run, "--deep") == 0
    cog = run / "rasters" / "b-few.tif"
    data = cog.read_bytes()
    cog.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert command("verify", run) == 5
    assert "rasters/b-few.tif" in capsys.readouterr().out
    cog.unlink()
    assert command("verify", run) == 5
    assert "missing  rasters/b-few.tif" in capsys.readouterr().out


def test_a_plan_says_what_will_be(scenes, linear, capsys):
    words = ["--bundle", linear, "-c", "shard_items=4", "-c", "block=512", "--json"]
    assert command("plan", "map", scenes, *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["shards"], found["refused"]) == (len(SIZES), 12, 0)
    assert found["pixels"] == sum(height * width for height, width in SIZES.values())
    assert found["bytes"] == sum(path.stat().st_size for path in scenes.iterdir())


def test_bytes_close_a_shard_too(scenes, linear, run_job, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    for name in ("a-pixel", "b-few", "j-row", "k-column"):
        shutil.copy(scenes / f"{name}.tif", small)
    size = max(path.stat().st_size for path in small.iterdir())
    cut = Cut(shard_bytes=2 * size - 1)
    run_job(run_local, "map", small, tmp_path / "run", linear, cut=cut)
    shards = shards_of(tmp_path / "run")
    assert len(shards) > 1
    assert all(one.size <= cut.shard_bytes for one in shards)


def test_a_dead_one_is_mapped_when_it_is_mended(scenes, linear, run_job, tmp_path):
    source, run, quiet = (tmp_path / name for name in ("scenes", "run", "quiet"))
    shutil.copytree(scenes, source)
    cut_short(source / "d-edge.tif")
    run_job(run_local, "map", source, run, linear, cut=CUT)
    before = files(run)
    assert "rasters/d-edge.tif" not in before
    write(source / "d-edge.tif", SIZES["d-edge"], 3)
    write(source / "h-cut.tif", (700, 40), 7)  # in blocks now
    assert command("retry", run, "--local") == 0
    shards = shards_of(run / "retries" / "001")
    assert [[item.key[0] for item in one.items] for one in shards] == [["d"], ["h"], ["h"]]
    assert [one.is_whole for one in shards] == [True, False, False]
    assert command("verify", run, "--deep") == 0
    after = files(run)
    del before["rasters/collection.json"]
    assert before.items() <= after.items(), "finished work was touched"
    run_job(run_local, "map", source, quiet, linear, cut=CUT)
    assert after.keys() == files(quiet).keys()
    for name in ("d-edge", "h-cut"):
        assert (pixels(run, name) == pixels(quiet, name)).all()
    links = json.loads(after["rasters/collection.json"])["links"]
    assert sum(link["rel"] == "item" for link in links) == len(SIZES)


def pixels(run, name):
    with rasterio.open(run / "rasters" / f"{name}.tif") as source:
        return source.read(1)


def test_a_large_one_may_come_back_small(scenes, linear, run_job, tmp_path, monkeypatch):
    """Of all blocks dead a COG without data stands: the small one takes its place."""
    source, run = tmp_path / "scenes", tmp_path / "run"
    source.mkdir()
    shutil.copy(scenes / "i-large.tif", source)
    real = map_job.read_window

    def lose(uri, *_args, **_more):
        raise ItemError("timed_out", f"{uri} is too slow")

    monkeypatch.setattr(map_job, "read_window", lose)
    summary = run_job(run_local, "map", source, run, linear, cut=CUT)
    assert summary["dead_letters"] == 6
    assert pixels(run, "i-large").shape == (600, 1100)
    assert command("verify", run, "--deep") == 0
    write(source / "i-large.tif", (30, 40), 5)
    assert command("retry", run, "--local") == 3
    assert command("verify", run, "--deep") == 0
    assert pixels(run, "i-large").shape == (600, 1100), "what stood stays"
    monkeypatch.setattr(map_job, "read_window", real)
    assert command("retry", run, "--local") == 0
    assert pixels(run, "i-large").shape == (30, 40)
    assert command("verify", run, "--deep") == 0
    item = json.loads((run / "rasters" / "i-large.json").read_text())
    assert item["properties"]["proj:shape"] == [30, 40]


def test_two_that_do_the_same_shard_agree(scenes, linear, run_job, mapped, tmp_path):
    """A second driver does all of it while the first is about to write a raster."""
    run = tmp_path / "run"
    cut = Cut(shard_items=4, block=512)
    make, busy = map_job.MapJob._make, []

    def overtaken(self, shard, result):
        if shard.index == 0 and result.item.key == "c-nothing.tif" and not busy:
            busy.append(True)
            run_job(run_local, "map", scenes, run, linear, cut=cut)
        return make(self, shard, result)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_job.MapJob, "_make", overtaken)
        summary = run_job(run_local, "map", scenes, run, linear, cut=cut)
    assert busy
    assert summary["finished"]
    assert command("verify", run, "--deep") == 0
    wanted = files(mapped)
    for name in SIZES:
        if name != "h-cut":
            assert (pixels(run, name) == pixels(mapped, name)).all()
    assert {name for name in wanted if name.startswith("rasters/")} == files(run).keys()
    rows = pq.read_table(run / "manifest.parquet").to_pylist()
    assert len({row["name"] for row in rows}) == len(rows) == 3 * (len(SIZES) - 1)
