"""Runs whose small rasters share shards: sound, or it is said which raster is not."""

import dataclasses
import hashlib
import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio

from jobs import clean
from jobs.clean import clean_run
from jobs.errors import StoreError
from jobs.folder import read_shards
from jobs.outputs.files import scratch_file
from jobs.outputs.standing import deliver, read_maker
from jobs.spec import Product
from jobs.verify import verify_run

FIRST = "ledger/000000/000000000.json"
SECOND = "ledger/000000/000000001.json"
COG = "rasters/a.tif"
GROUPS = [["a", "b", "c"], ["d", "e"], ["large"], ["large"], ["large"], ["large"]]


def look(built, *, deep=False):
    return verify_run(built.store, built.run, deep=deep)


def told(built, *, deep=False):
    """What is wrong, and with what."""
    return {(one.kind, one.object) for one in look(built, deep=deep).first}


def pixels_of(built, name):
    with rasterio.MemoryFile(built.read(name)) as memory, memory.open() as source:
        return source.read(1)


def restate(built, name=FIRST):
    """Let a record and all after it agree with the objects that stand now."""

    def edit(fields):
        for output in fields["outputs"]:
            data = built.read(output["name"])
            output |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            output["etag"] = built.store.stat(built.at(output["name"])).etag

    built.edit(name, edit)
    built.conclude(built.start())


def repaint(built, name, change):
    """Put a valid raster of the same size with other pixels in the place of one."""
    with rasterio.MemoryFile(built.read(name)) as memory:
        with memory.open(driver="GTiff") as source:
            profile, pixels, tags = source.profile, source.read(1), source.tags()
        with rasterio.MemoryFile() as target:
            with target.open(**profile) as raster:
                raster.write(change(pixels), 1)
                raster.update_tags(**tags)
            built.write(name, target.read())


@pytest.fixture
def chips(build_chips, local):
    """A finished run with confidence; one small raster is a dead letter."""
    built = build_chips(local, product=Product(confidence=True))
    built.work_off(built.start(), dead={"d.tif"})
    return built


def test_small_rasters_share_shards_and_need_no_pieces(build_chips, local):
    built = build_chips(local)
    built.work_off(built.start(), dead={"d.tif"})
    shards = list(read_shards(built.store, built.run))
    keys = [[item.key.removesuffix(".tif") for item in one.items] for one in shards]
    assert keys == [*GROUPS, ["refused"]]
    record = json.loads(built.read(FIRST))
    names = ["a.tif", "a.tif.aux.xml", "a.json"]
    given = [output["name"].removeprefix("rasters/") for output in record["outputs"]]
    assert given == [
        *names,
        *(name.replace("a", letter, 1) for letter in "bc" for name in names),
    ]
    assert record["pixels_done"] + record["pixels_nodata"] == 600 + 1 + 512 * 40
    assert record["pixels_nodata"] >= 512 * 40, "c holds nodata alone"
    assert (pixels_of(built, "rasters/c.tif") == 255).all()
    second = json.loads(built.read(SECOND))
    assert (second["items"], second["items_done"]) == (2, 1)
    assert second["pixels_dead"] == 7 * 512
    (letter,) = second["dead_letters"]
    window = [letter[name] for name in ("row", "col", "height", "width")]
    assert (letter["key"], window) == ("d.tif", [0, 0, 7, 512])
    assert not [name for name in built.names() if "/d." in name], "a dead one has no COG"
    assert built.names("ledger/tasks") == ["ledger/tasks/large.tif.json"]
    rows = pq.read_table(Path(built.run, "manifest.parquet")).to_pylist()
    cogs = [row["name"] for row in rows if row["name"].endswith(".tif")]
    assert cogs == [f"rasters/{name}.tif" for name in ("a", "b", "c", "e", "large")]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("confidence", [False, True])
def test_a_run_that_nobody_touched_is_sound(build_chips, place, confidence, deep):
    built = build_chips(place, product=Product(confidence=confidence))
    built.work_off(built.start(), dead={"d.tif"})
    report = look(built, deep=deep)
    assert report.counts == {}
    files = 4 if confidence else 3
    assert report.objects == 5 * files
    assert report.read == (report.objects if deep else 0)
    copy = dataclasses.replace(built, run=f"{built.run}-copy")
    if not built.run.startswith("s3://"):
        shutil.copytree(built.run, copy.run, copy_function=shutil.copyfile)
        assert look(copy, deep=deep).counts == {}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("until", range(4))
def test_a_run_under_way_is_only_not_finished(build_chips, local, until, deep):
    built = build_chips(local)
    built.work_off(built.start(), until=until)
    assert look(built, deep=deep).counts == {"not_finished": 1}
    if until:  # COGs whose record did not come to be written
        built.remove(f"ledger/000000/{until - 1:09d}.json")
        assert look(built, deep=deep).counts == {"not_finished": 1}


@pytest.mark.parametrize("deep", [False, True])
def test_a_run_is_sound_after_each_retry(build_chips, place, deep):
    built = build_chips(place)
    built.work_off(built.start(), dead={"b.tif", "d.tif", "e.tif"})
    built.work_off(built.retry(), dead={"d.tif"})
    shards = list(read_shards(built.store, built.at("retries", "001")))
    assert [len(shard.blocks) for shard in shards] == [3, 0], "grouped again"
    assert look(built, deep=deep).counts == {}
    built.work_off(built.retry(), dead={"d.tif"})
    assert look(built, deep=deep).counts == {}
    built.work_off(built.retry())
    report = look(built, deep=deep)
    assert (report.counts, report.retries) == ({}, 3)
    assert len([one for one in built.names("rasters") if one.endswith(".tif")]) == 6


@pytest.mark.parametrize(
    ("damage", "kind", "name", "deep"),
    [
        (lambda b: b.remove(COG), "missing", COG, False),
        (lambda b: b.remove("rasters/b.json"), "missing", "rasters/b.json", False),
        (lambda b: b.write(COG, b.read(COG)[:-9]), "truncated", COG, False),
        (lambda b: b.write(COG, b.read("rasters/b.tif")), "truncated", COG, False),
        (
            lambda b: b.write(COG, b.read(COG)[:-1] + b"\1"),
            "replaced",
            COG,
            False,
        ),
        (
            lambda b: b.remove("confidence/e.tif"),
            "missing",
            "confidence/e.tif",
            False,
        ),
        (lambda b: b.write("rasters/d.tif", b"0"), "extra", "rasters/d.tif", False),
        (
            lambda b: b.edit(FIRST, lambda f: f["outputs"].pop(1)),
            "wrong_record",
            FIRST,
            False,
        ),
        (
            lambda b: b.edit(FIRST, lambda f: f.update(pixels_done=f["pixels_done"] + 1)),
            "wrong_count",
            FIRST,
            False,
        ),
        (
            lambda b: b.edit(SECOND, lambda f: f.update(pixels_dead=0, pixels_nodata=3593)),
            "wrong_count",
            SECOND,
            False,
        ),
        (
            lambda b: b.edit(SECOND, lambda f: f["dead_letters"][0].update(width=3)),
            "wrong_record",
            SECOND,
            False,
        ),
    ],
)
def test_damage_is_found(chips, damage, kind, name, deep):
    damage(chips)
    assert (kind, name) in told(chips, deep=deep)


def lose_one(pixels):
    pixels.ravel()[np.flatnonzero(pixels < 4)[0]] = 255
    return pixels


def make_strange(pixels):
    pixels.ravel()[np.flatnonzero(pixels < 4)[0]] = 77
    return pixels


@pytest.mark.parametrize(
    ("edit", "objects"),
    [
        # Which raster lacks a pixel is not recorded: the last one that is read tells.
        (lambda b: repaint(b, COG, lose_one), {COG, "rasters/b.tif", "rasters/c.tif"}),
        (lambda b: repaint(b, COG, make_strange), {COG}),
        (lambda b: b.write(COG, b"no raster"), {COG}),
        (lambda b: b.write(COG, b.read("rasters/b.tif")), {COG}),
        (
            lambda b: repaint(b, "confidence/a.tif", lambda p: np.where(p, p, 1)),
            {f"confidence/{name}.tif" for name in "abc"},
        ),
    ],
    ids=["lost", "strange", "none", "other", "confidence"],
)
def test_a_raster_that_all_else_agrees_with_is_counted_again(chips, edit, objects):
    edit(chips)
    restate(chips)
    assert look(chips).counts == {}
    report = look(chips, deep=True)
    assert report.counts
    assert {one.object for one in report.first} & objects
    assert report.counts.keys() <= {"wrong_count", "wrong_record", "unreadable"}


# What stands already


def test_the_record_describes_the_raster_that_stands(build_chips, local):
    """Another attempt, whose pixels were others, was killed before its record."""
    built = build_chips(local)
    planned = built.start()
    built.work_off(planned, until=1)
    first = json.loads(built.read(FIRST))
    repaint(built, COG, lose_one)
    for name in (FIRST, "rasters/a.json"):
        built.remove(name)
    built.work_off(planned)
    second = json.loads(built.read(FIRST))
    assert second["pixels_done"] == first["pixels_done"] - 1
    assert second["pixels_nodata"] == first["pixels_nodata"] + 1
    assert look(built, deep=True).counts == {}


def test_what_an_earlier_pass_left_gives_way(build_chips, place):
    built = build_chips(place)
    built.work_off(built.start(), dead={"d.tif"})
    for name in ("rasters/d.tif", "rasters/d.json"):
        built.write(name, built.read(name.replace("d.", "a.")))
    assert told(built) == {("extra", "rasters/d.tif"), ("extra", "rasters/d.json")}
    built.work_off(built.retry())
    assert look(built, deep=True).counts == {}
    assert pixels_of(built, "rasters/d.tif").shape == (7, 512)
    assert json.loads(built.read("rasters/d.json"))["id"] == "d"


def test_who_made_an_output_is_read_from_it(chips):
    fingerprint = chips.start().fingerprint
    for name in (COG, "confidence/a.tif", "rasters/a.json"):
        assert read_maker(name, chips.read(name)) == fingerprint
    for name in (COG, "rasters/a.json", "rasters/a.tif.aux.xml"):
        assert not read_maker(name, b"{}")


def test_an_output_of_the_same_pass_or_a_later_one_stays(chips):
    other = chips.read(COG)
    for earlier in (frozenset(), frozenset({"0" * 16})):
        with scratch_file(chips.store, chips.run) as path:
            path.write_bytes(b"mine")
            stored = deliver(chips.store, chips.run, COG, path, earlier=earlier)
        assert stored.other == chips.read(COG) == other


def test_an_earlier_output_that_comes_at_that_moment_is_seen_the_next_time(
    chips, monkeypatch
):
    earlier = {chips.start().fingerprint}
    with scratch_file(chips.store, chips.run) as path:
        path.write_bytes(b"mine")
        with monkeypatch.context() as patch:
            patch.setattr("jobs.outputs.standing._find", lambda *_: None)
            with pytest.raises(StoreError, match=r"a\.tif was written late, by an earlier"):
                deliver(chips.store, chips.run, COG, path, earlier=earlier)
        path.write_bytes(b"mine")
        stored = deliver(chips.store, chips.run, COG, path, earlier=earlier)
    assert (stored.other, chips.read(COG)) == (None, b"mine")


# What is left over


def sweep(built):
    return clean_run(
        built.store,
        built.run,
        delete=True,
        older_than=timedelta(),
        uploads_older_than=timedelta(),
    )


@pytest.fixture
def later(monkeypatch):
    """Let the store's clock be ahead, so that what was written just now is old."""
    ask = clean._ask_time
    monkeypatch.setattr(clean, "_ask_time", lambda *args: ask(*args) + timedelta(hours=2))


@pytest.mark.usefixtures("later")
def test_a_raster_that_is_a_dead_letter_goes_and_no_other(build_chips, place):
    built = build_chips(place)
    built.work_off(built.start(), dead={"d.tif"})
    before = built.names()
    built.write("rasters/d.tif", b"late")
    found = sweep(built)
    assert [(one.kind, one.name) for one in found.first] == [("unnamed", "rasters/d.tif")]
    assert built.names() == before


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("until", range(3))
def test_what_a_record_may_yet_name_stays(build_chips, local, until):
    built = build_chips(local)
    planned = built.start()
    built.work_off(planned, until=2)
    for number in range(until, 2):
        built.remove(f"ledger/000000/{number:09d}.json")
    before = built.names()
    assert sweep(built).counts.total() == 0
    assert built.names() == before


@pytest.mark.usefixtures("later")
def test_what_a_retry_may_yet_name_stays(build_chips, local):
    built = build_chips(local)
    built.work_off(built.start(), dead={"b.tif", "d.tif"})
    planned = built.retry()
    built.work_off(planned, until=1)
    built.remove(f"retries/001/{FIRST}")
    before = built.names()
    assert sweep(built).counts.total() == 0
    assert built.names() == before
    built.work_off(planned)
    assert sweep(built).counts.total() == 0
    assert look(built, deep=True).counts == {}


@pytest.mark.usefixtures("later")
def test_what_a_retry_puts_in_the_place_of_a_leftover_stays(
    build_chips, local, monkeypatch
):
    built = build_chips(local)
    built.work_off(built.start(), dead={"d.tif"})
    built.write("rasters/d.tif", b"late")
    delete, news = clean._Search._delete, b"what a retry has made"

    def retry_first(self, one):
        built.write("rasters/d.tif", news)
        delete(self, one)

    monkeypatch.setattr(clean._Search, "_delete", retry_first)
    sweep(built)
    assert built.read("rasters/d.tif") == news
