"""A run is sound, or it is said what is not: one damage after the other."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from jobs.errors import InputError
from jobs.folder import read_shards
from jobs.ledger import Ledger, Output, parse_record
from jobs.verify import verify_run
from jobs.verify_folder import list_passes
from jobs.verify_ledger import Found
from jobs.verify_objects import Inventory, Names
from jobs.verify_proof import _COLUMNS
from jobs.verify_record import check_record
from jobs.verify_report import KINDS, Report, describe_report

FIRST = "ledger/000000/000000000.json"
SECOND = "ledger/000000/000000001.json"
TASK = "ledger/tasks/scene.tif.json"
COG = "rasters/scene.tif"


def look(built, *, deep=False):
    """Differences by kind; work that is left to do is one."""
    report = verify_run(built.store, built.run, deep=deep)
    assert set(report.counts) <= KINDS.keys()
    return report


def kinds(built, *, deep=False):
    return set(look(built, deep=deep).counts)


@pytest.fixture
def label(build_label, local):
    """A finished run; one of its images is a dead letter."""
    built = build_label(local)
    built.work_off(built.start(), dead={"1.png"})
    return built


@pytest.fixture
def mapped(build_map, local):
    """A finished run; one of its blocks is a dead letter, so that pieces are kept."""
    built = build_map(local)
    built.work_off(built.start(), dead={1})
    return built


@pytest.fixture
def whole_map(build_map, local):
    """A finished run of a raster without a gap."""
    built = build_map(local)
    built.work_off(built.start())
    return built


def mask_of(built, shard=0):
    name = f"ledger/000000/{shard:09d}.json"
    return json.loads(built.read(name))["outputs"][0]["name"]


def settle(built, *, record=None, task=None):
    """Make records, manifest and proof agree with the objects that stand now."""
    for name in (record, task):
        if name is not None:
            built.edit(
                name, lambda fields: fields.update(outputs=outputs_now(built, fields))
            )
    built.conclude(built.start())


def outputs_now(built, fields):
    found = []
    for output in fields["outputs"]:
        data = built.read(output["name"])
        stands = built.store.stat(built.at(output["name"]))
        sha256 = hashlib.sha256(data).hexdigest()
        found.append(
            {"name": output["name"], "size": len(data), "sha256": sha256}
            | {"etag": stands.etag}
        )
    return found


# Sound runs


@pytest.mark.parametrize("deep", [False, True])
def test_a_run_that_nobody_touched_is_sound(build_label, build_map, place, deep):
    for build in (build_label, build_map):
        built = build(place)
        built.work_off(built.start(), dead={"1.png", 1})
        report = look(built, deep=deep)
        assert report.counts == {}
        assert report.read == (report.objects if deep else 0)
        assert report.planned == report.recorded > 2


@pytest.mark.parametrize("deep", [False, True])
def test_a_copied_run_is_sound(build_label, build_map, local, tmp_path, deep):
    """Its files have other times, so each of them is read."""
    for build in (build_label, build_map):
        built = build(local)
        built.work_off(built.start(), dead={"1.png", 1})
        copy = tmp_path / built.spec.job
        shutil.copytree(built.run, copy, copy_function=shutil.copyfile)
        report = look(dataclasses.replace(built, run=str(copy)), deep=deep)
        assert report.counts == {}
        assert report.read == report.objects > 0


@pytest.mark.parametrize("deep", [False, True])
def test_a_run_is_sound_after_each_retry(build_label, build_map, place, deep):
    for build, dead in ((build_label, ("1.png", "4.png")), (build_map, (0, 3))):
        built = build(place)
        built.work_off(built.start(), dead=set(dead))
        built.work_off(built.retry(), dead={dead[0]})
        assert look(built, deep=deep).counts == {}
        built.work_off(built.retry(), dead={dead[0]})  # brings nothing new
        assert look(built, deep=deep).counts == {}
        built.work_off(built.retry())
        report = look(built, deep=deep)
        assert (report.counts, report.retries) == ({}, 3)


def test_a_raster_that_was_refused_may_be_retried(build_map, local, write_raster):
    built = build_map(local)
    built.work_off(built.start())
    pixels = np.ones((3, 40, 50), dtype=np.uint8)
    Path(built.spec.source, "bad.tif").unlink()
    write_raster(pixels, "scenes/bad.tif")
    built.work_off(built.retry())
    assert look(built, deep=True).counts == {}
    assert "rasters/bad.tif" in built.names("rasters")


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("until", [0, 1, 2])
def test_a_run_under_way_is_only_not_finished(build_label, build_map, local, until, deep):
    for build in (build_label, build_map):
        built = build(local)
        built.work_off(built.start(), until=until)
        report = look(built, deep=deep)
        assert (report.counts, report.recorded) == ({"not_finished": 1}, until)


def test_what_an_attempt_has_not_recorded_yet_is_not_extra(build_label, build_map, place):
    for build in (build_label, build_map):
        built = build(place)
        built.work_off(built.start(), until=2)
        built.remove(FIRST if built.spec.job == "label" else SECOND)
        assert kinds(built, deep=True) == {"not_finished"}


def test_a_retry_under_way_is_not_finished(build_map, place):
    built = build_map(place)
    built.work_off(built.start(), dead={0, 3})
    planned = built.retry()
    built.work_off(planned, until=0)
    report = look(built)
    assert report.counts == {"not_finished": 1}
    assert report.first[0].object == "retries/001/_SUCCESS"
    built.work_off(planned, until=2)  # the raster is replaced, and this is recorded
    built.remove("retries/001/ledger/tasks/scene.tif.json")
    assert kinds(built, deep=True) == {"not_finished"}


def test_a_piece_that_nobody_recorded_is_not_extra_before_the_end(build_map, local):
    """A replica that was killed before its record, and then the block was buried."""
    built = build_map(local)
    built.work_off(built.start(), dead={1}, until=3)
    shards = list(read_shards(built.store, built.run))
    key = shards[2].output_key(json.loads(built.read("job.json"))["fingerprint"])
    built.write(f"pieces/{key}.tif", b"half")
    assert kinds(built) == {"not_finished"}
    built.work_off(built.start(), dead={1})
    assert kinds(built) == {"extra"}


def test_a_view_of_before_the_end_is_left_to_do(label):
    for name in ("summary.json", "dead_letter.parquet"):
        held = label.read(name)
        label.remove(name)
        assert kinds(label) == {"not_finished"}
        label.write(name, held)
    label.edit("summary.json", lambda fields: fields.update(finished=False))
    assert kinds(label) == {"not_finished"}


# Damage that any check sees


def flip(data):
    return bytes([*data[:50], data[50] ^ 1, *data[51:]])


def add(field, value):
    """Change a field of the record of the first shard."""

    def change(built):
        def edit(fields):
            fields[field] = (
                value if isinstance(value, str | list) else fields[field] + value
            )

        built.edit(FIRST, edit)

    return change


def rename(built):
    built.write(SECOND, built.read(FIRST))


def recount_letters(built, change):
    def edit(fields):
        letters = [*fields["dead_letters"], *fields["dead_letters"]]
        fields["dead_letters"] = [change(number, one) for number, one in enumerate(letters)]
        fields["items_done"] -= 1

    built.edit(FIRST, edit)


def list_other(built):
    """Have the manifest name another object, and the proof this manifest."""
    rows = pq.read_table(pa.BufferReader(built.read("manifest.parquet")))
    given = rows.to_pylist()
    given[0]["sha256"] = "0" * 64
    data = parquet(pa.Table.from_pylist(given, schema=rows.schema))
    built.write("manifest.parquet", data)
    about = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    built.edit("_SUCCESS", lambda fields: fields["manifest"].update(about))


def parquet(table):
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue()


def plan_other(built):
    table = pq.read_table(pa.BufferReader(built.read("plan.parquet")))
    rows = table.to_pylist()
    rows[-1]["etag"] = "another"
    built.write("plan.parquet", parquet(pa.Table.from_pylist(rows, schema=table.schema)))


def plan_for_other(built):
    table = pq.read_table(pa.BufferReader(built.read("plan.parquet")))
    about = json.loads(table.schema.metadata[b"atrous"]) | {"identity": "0" * 16}
    table = table.replace_schema_metadata({"atrous": json.dumps(about)})
    built.write("plan.parquet", parquet(table))


def plan_twice(built):
    table = pq.read_table(pa.BufferReader(built.read("plan.parquet")))
    rows = table.to_pylist()
    rows[1], rows[0] = rows[0], rows[1]
    built.write("plan.parquet", parquet(pa.Table.from_pylist(rows, schema=table.schema)))


def forget_letters(built):
    table = pq.read_table(pa.BufferReader(built.read("dead_letter.parquet")))
    built.write("dead_letter.parquet", parquet(table.slice(0, 0)))


def other_letter(built):
    table = pq.read_table(pa.BufferReader(built.read("dead_letter.parquet")))
    rows = [row | {"code": "timed_out"} for row in table.to_pylist()]
    built.write("dead_letter.parquet", parquet(pa.Table.from_pylist(rows, table.schema)))


DAMAGE = {  # of a label run: what is done to it, and the kind that must be among those told
    "mask is gone": (lambda b: b.remove(mask_of(b)), "missing"),
    "mask has another byte": (
        lambda b: b.write(mask_of(b), flip(b.read(mask_of(b)))),
        "replaced",
    ),
    "mask is cut": (lambda b: b.write(mask_of(b), b.read(mask_of(b))[:-1]), "truncated"),
    "mask is longer": (
        lambda b: b.write(mask_of(b), b.read(mask_of(b)) + b"0"),
        "replaced",
    ),
    "mask is another's": (lambda b: b.write(mask_of(b), b.read(mask_of(b, 2))), None),
    "mask too many": (lambda b: b.write("masks/part-0.parquet", b"0"), "extra"),
    "raster too many": (lambda b: b.write("rasters/a.tif", b"0"), "extra"),
    "piece too many": (lambda b: b.write("pieces/a.tif", b"0"), "extra"),
    "record is gone": (lambda b: b.remove(SECOND), "missing_record"),
    "record too many": (
        lambda b: b.write(
            "ledger/000000/000000099.json", b.read(FIRST).replace(b'd": 0', b'd": 99')
        ),
        "extra_record",
    ),
    "record in another folder": (
        lambda b: b.write("ledger/000007/000000001.json", b.read(SECOND)),
        "extra_record",
    ),
    "record with another name": (
        lambda b: b.write("ledger/000000/a.json", b.read(SECOND)),
        "extra_record",
    ),
    "record of another shard": (rename, "wrong_record"),
    "record of another run": (add("fingerprint", "0" * 16), "wrong_record"),
    "record is no JSON": (lambda b: b.write(FIRST, b"{"), "unreadable"),
    "record lacks a field": (lambda b: b.write(FIRST, b"{}"), "unreadable"),
    "record has one done too many": (add("items_done", 1), "wrong_count"),
    "record has one item too many": (
        lambda b: b.edit(FIRST, lambda f: f.update(items=3, items_done=2)),
        "wrong_count",
    ),
    "record has one pixel too many": (add("pixels_done", 1), "wrong_count"),
    "record has one nodata too many": (add("pixels_nodata", 1), "wrong_count"),
    "record has a dead pixel": (add("pixels_dead", 1), "wrong_count"),
    "record names no output": (add("outputs", []), "wrong_record"),
    "dead letter twice": (
        lambda b: recount_letters(b, lambda _, one: one),
        "wrong_record",
    ),
    "dead letter of a stranger": (
        lambda b: recount_letters(b, lambda n, one: one | {"uri": "/x"} if n else one),
        "wrong_record",
    ),
    "dead letter of a block": (
        lambda b: recount_letters(b, lambda n, one: one | {"row": 0} if n else one),
        "wrong_record",
    ),
    "manifest is gone": (lambda b: b.remove("manifest.parquet"), "missing"),
    "manifest has another byte": (
        lambda b: b.write("manifest.parquet", flip(b.read("manifest.parquet"))),
        "wrong_manifest",
    ),
    "manifest is none": (lambda b: b.write("manifest.parquet", b"no"), "unreadable"),
    "manifest names another": (list_other, "wrong_manifest"),
    "proof is none": (lambda b: b.write("_SUCCESS", b"[]"), "unreadable"),
    "proof counts one more": (
        lambda b: b.edit("_SUCCESS", lambda f: f.update(dead_letters=2)),
        "wrong_count",
    ),
    "proof of another run": (
        lambda b: b.edit("_SUCCESS", lambda f: f.update(fingerprint="0" * 16)),
        "wrong_record",
    ),
    "summary counts one more": (
        lambda b: b.edit("summary.json", lambda f: f["pixels"].update(done=1)),
        "wrong_count",
    ),
    "summary is none": (lambda b: b.write("summary.json", b"7"), "unreadable"),
    "dead letters are gone": (forget_letters, "wrong_count"),
    "dead letter is another": (other_letter, "wrong_count"),
    "plan is gone": (lambda b: b.remove("plan.parquet"), "missing"),
    "plan is none": (lambda b: b.write("plan.parquet", b"no"), "unreadable"),
    "plan has another item": (plan_other, "wrong_plan"),
    "plan is for another run": (plan_for_other, "wrong_plan"),
    "plan has another order": (plan_twice, "wrong_plan"),
    "job is another": (
        lambda b: b.edit("job.json", lambda f: f["identity"].update(tile=1)),
        "wrong_plan",
    ),
    "job lacks its plan": (lambda b: b.edit("job.json", lambda f: f.pop("plan")), None),
    "task too many": (
        lambda b: b.write("ledger/tasks/a.tif.json", b"{}"),
        "unreadable",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(label, name):
    damage, kind = DAMAGE[name]
    damage(label)
    report = look(label)
    assert report.differences
    assert kind is None or kind in report.counts, report.first
    assert all(one.object and str(one).count("\n") == 0 for one in report.first)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("mask is gone", "missing"),
        ("mask has another byte", "replaced"),
        ("mask is cut", "truncated"),
        ("mask too many", "extra"),
        ("record is gone", "missing_record"),
        ("record too many", "extra_record"),
        ("manifest names another", "wrong_manifest"),
        ("plan has another item", "wrong_plan"),
    ],
)
def test_only_the_cause_is_told(build_label, place, damage, kind):
    built = build_label(place)
    built.work_off(built.start(), dead={"1.png"})
    DAMAGE[damage][0](built)
    report = look(built)
    assert report.counts == {kind: 1}, report.first


def test_a_proof_that_is_gone_is_work_that_is_left(label):
    label.remove("_SUCCESS")
    assert kinds(label) == {"not_finished"}
    label.remove(SECOND)  # all records were there, or there were no manifest
    assert kinds(label) == {"not_finished", "missing_record"}


MAP_DAMAGE = {
    "raster is gone": (lambda b: b.remove(COG), "missing"),
    "raster is another": (lambda b: b.write(COG, other_cog(b.read(COG))), "replaced"),
    "assembly has no record": (lambda b: b.remove(TASK), "missing_record"),
    "assembly of another raster": (
        lambda b: b.write("ledger/tasks/other.tif.json", b.read(TASK)),
        "extra_record",
    ),
    "assembly of another run": (
        lambda b: b.edit(TASK, lambda f: f.update(fingerprint="0" * 16)),
        "wrong_record",
    ),
    "assembly under another name": (
        lambda b: b.edit(TASK, lambda f: f["outputs"][0].update(name="rasters/a.tif")),
        "wrong_record",
    ),
    "assembly is no JSON": (lambda b: b.write(TASK, b"{"), "unreadable"),
    "raster too many": (lambda b: b.write("rasters/other.tif", b"0"), "extra"),
    "piece is gone": (lambda b: b.remove(b.names("pieces")[0]), "missing"),
    "piece too many": (lambda b: b.write("pieces/other.tif", b"0"), "extra"),
    "record has one pixel too many": (
        lambda b: b.edit(SECOND, lambda f: f.update(pixels_done=f["pixels_done"] + 1)),
        "wrong_count",
    ),
    "dead block is another": (
        lambda b: b.edit(
            "ledger/000000/000000002.json",
            lambda f: f["dead_letters"][0].update(row=1),
        ),
        "wrong_record",
    ),
}


def other_cog(data):
    """A raster of the same size whose pixels are others."""
    with rasterio.MemoryFile(data) as memory:
        with memory.open(driver="GTiff") as source:
            profile, pixels = source.profile, source.read()
        with rasterio.MemoryFile() as target:
            with target.open(**profile) as raster:
                raster.write(np.where(pixels == 255, 255, (pixels + 1) % 4))
            return target.read().ljust(len(data), b"\0")


@pytest.mark.parametrize("name", MAP_DAMAGE)
def test_damage_of_a_map_is_found(mapped, name):
    damage, kind = MAP_DAMAGE[name]
    damage(mapped)
    report = look(mapped)
    assert kind in report.counts
    if name.startswith("record"):
        assert SECOND in [one.object for one in report.first], "its block knows its size"


def test_an_assembly_without_a_record_is_told_alone(whole_map):
    whole_map.remove(TASK)
    assert look(whole_map, deep=True).counts == {"missing_record": 1}


def test_pieces_of_a_whole_raster_are_leftovers(whole_map):
    """E.g. of an attempt which woke up when all was done, or may not delete."""
    record = json.loads(whole_map.read(SECOND))
    whole_map.write(record["outputs"][0]["name"], b"late")
    report = look(whole_map)
    assert not report.counts
    assert report.leftovers == 1
    assert "atrous clean" in describe_report(report)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda b: b.remove("retries/001/job.json"), "missing"),
        (lambda b: b.write("retries/001/job.json", b"{"), "unreadable"),
        (lambda b: b.edit("retries/001/job.json", retry_of_another), "wrong_plan"),
        (lambda b: b.remove("retries/001/plan.parquet"), "missing"),
        (lambda b: b.remove(f"retries/001/{FIRST}"), "missing_record"),
        (lambda b: b.remove("retries/002/manifest.parquet"), "missing"),
        (lambda b: b.write("masks/part-0.parquet", b"0"), "extra"),
    ],
)
def test_damage_of_a_retry_is_found(build_label, local, damage, kind):
    built = build_label(local)
    built.work_off(built.start(), dead={"1.png", "4.png"})
    built.work_off(built.retry(), dead={"1.png"})
    built.work_off(built.retry())
    damage(built)
    report = look(built)
    assert kind in report.counts
    if kind != "extra":
        assert "extra" not in report.counts, "it is not known what the retry names"


def retry_of_another(fields):
    fields["identity"]["run"] = "0" * 16


@pytest.mark.parametrize("keys", [("0.png",), ("1.png",), ("4.png", "4.png")])
def test_an_item_without_a_dead_letter_may_not_be_retried(
    build_label, local, monkeypatch, keys
):
    """Never done, done by a retry, planned twice: else it would be there twice."""
    built = build_label(local)
    built.work_off(built.start(), dead={"1.png", "4.png"})
    built.work_off(built.retry(), dead={"4.png"})
    # A plan that no dead letter asked for.
    monkeypatch.setattr("jobs.retry.choose", lambda *_: iter(choose(built, keys)))
    built.work_off(built.retry())
    assert "wrong_plan" in kinds(built)


def choose(built, keys):
    for key in keys:
        for shard in read_shards(built.store, built.run):
            items = tuple(item for item in shard.items if item.key == key)
            if items:
                yield dataclasses.replace(shard, items=items)


def test_a_block_that_was_done_may_not_be_retried(build_map, local, monkeypatch):
    built = build_map(local)
    built.work_off(built.start(), dead={1})
    shards = list(read_shards(built.store, built.run))
    done = [one for one in shards if one.block is not None and one.block.number == 0]
    monkeypatch.setattr("jobs.retry.choose", lambda *_: iter(done))
    built.work_off(built.retry())
    report = look(built)
    assert "a dead block" in [one.expected for one in report.first]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"pixels_done": -1, "pixels_nodata": 25}, "wrong_count"),
        ({"pixels_done": 1, "items_done": 0, "items": 1}, "wrong_count"),
    ],
)
def test_a_record_that_cannot_be_is_told(label, fields, kind):
    (shard, *_) = read_shards(label.store, label.run)
    record = parse_record(FIRST, label.read(FIRST))
    found = Found(shard=0, name=FIRST, record=dataclasses.replace(record, **fields))
    (one,) = list_passes(label.store, label.run, None)
    report = Report(run=label.run, job="label", deep=False)
    check_record(shard, found, one, report.tell)
    assert kind in report.counts
    assert any("pixels" in told.expected for told in report.first)


# Damage that only reading finds


@pytest.fixture
def forge(label):
    """Change the mask of the first shard so that all else agrees with it."""

    def change(edit):
        name = mask_of(label)
        with pq.ParquetFile(pa.BufferReader(label.read(name))) as file:
            rows = edit(file.read().to_pylist())
            signed = {b"atrous_record": file.metadata.metadata[b"atrous_record"]}
            schema = file.schema_arrow.with_metadata(signed)
        label.write(name, parquet(pa.Table.from_pylist(rows, schema=schema)))
        settle(label, record=FIRST)
        return label

    return change


def repaint(rows):
    """Give a pixel to another class, and say nothing of it."""
    mask = bytearray(rows[0]["mask"])
    at = next(i for i, value in enumerate(mask) if value != 255)
    mask[at] = (mask[at] + 1) % 4
    rows[0]["mask"] = bytes(mask)
    return rows


def erase(rows):
    mask = bytearray(rows[0]["mask"])
    at = next(i for i, value in enumerate(mask) if value != 255)
    rows[0]["class_pixels"][mask[at]] -= 1
    mask[at] = 255
    rows[0]["mask"] = bytes(mask)
    return rows


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (repaint, "wrong_count"),
        (erase, "wrong_count"),
        (lambda rows: [rows[0] | {"mask": rows[0]["mask"][:-1]}], "wrong_count"),
        (lambda rows: [rows[0] | {"mask": b"\x07" * 24}], "wrong_count"),
        (lambda rows: rows[1:], "wrong_count"),
        (lambda rows: rows + rows, "wrong_count"),
        (lambda rows: [rows[0] | {"uri": "/x"}, *rows[1:]], "wrong_count"),
        (lambda rows: [rows[0] | {"bundle_digest": "e"}, *rows[1:]], "wrong_record"),
    ],
    ids=["repainted", "erased", "short", "strange", "lost", "twice", "other", "bundle"],
)
def test_a_mask_that_all_else_agrees_with_is_counted_again(forge, edit, kind):
    built = forge(edit)
    assert look(built).counts == {}, "all that is listed agrees"
    assert kind in kinds(built, deep=True)


def test_a_record_that_all_else_agrees_with_is_counted_again(label):
    def edit(fields):
        fields["pixels_done"] += 1
        fields["pixels_nodata"] -= 1

    label.edit(FIRST, edit)
    label.conclude(label.start())
    assert look(label).counts == {}
    report = look(label, deep=True)
    assert report.counts == {"wrong_count": 1, "wrong_record": 1}


def test_a_mask_that_is_no_file_of_masks_is_unreadable(label):
    for data in (b"no Parquet", parquet(pa.table({"a": [1]}))):
        label.write(mask_of(label), data)
        settle(label, record=FIRST)
        assert look(label).counts == {}
        assert "unreadable" in kinds(label, deep=True)


def test_the_very_bytes_are_read(build_label, local):
    """A file with its old time and size, as only reading tells."""
    built = build_label(local)
    built.work_off(built.start())
    path = Path(built.at(mask_of(built)))
    status = path.stat()
    path.write_bytes(flip(path.read_bytes()))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look(built).counts == {}
    assert look(built, deep=True).counts == {"replaced": 1}


def paint(change):
    """A valid raster of the same size with other pixels."""

    def edit(data):
        with rasterio.MemoryFile(data) as memory:
            with memory.open(driver="GTiff") as source:
                profile, pixels, tags = source.profile, source.read(), source.tags()
            with rasterio.MemoryFile() as target:
                with target.open(**profile) as raster:
                    raster.write(change(pixels))
                    raster.update_tags(**tags)
                return target.read()

    return edit


def fill_dead(value):
    """Block 1 is a dead letter: the last 18 columns of the first 512 rows."""

    def change(pixels):
        pixels[:, 3, 520] = value
        return pixels

    return paint(change)


def lose_one(pixels):
    pixels[0, 0, np.flatnonzero(pixels[0, 0] < 4)[0]] = 255
    return pixels


def make_strange(pixels):
    pixels[0, 0, np.flatnonzero(pixels[0, 0] == 255)[0]] = 77
    return pixels


@pytest.mark.parametrize(
    "edit",
    [
        fill_dead(2),
        fill_dead(254),
        paint(lose_one),
        paint(make_strange),
        paint(lambda pixels: np.roll(pixels, 7)),
        lambda _: b"no raster",
        lambda data: narrow(data),  # noqa: PLW0108 - it stands below
        other_cog,  # without its tags
    ],
    ids=["dead", "ignored", "lost", "strange", "moved", "none", "narrow", "tags"],
)
def test_a_raster_that_all_else_agrees_with_is_counted_again(build_map, local, edit):
    built = build_map(local)
    built.work_off(built.start(), dead={1})
    built.write(COG, edit(built.read(COG)))
    settle(built, task=TASK)
    assert look(built).counts == {}
    report = look(built, deep=True)
    assert report.counts
    assert {one.object for one in report.first} == {COG}
    assert report.counts.keys() <= {"wrong_count", "wrong_record", "unreadable"}


def narrow(data):
    with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as source:
        profile, tags = source.profile | {"width": 512}, source.tags()
        pixels = source.read(window=((0, 520), (0, 512)))
    with rasterio.MemoryFile() as target:
        with target.open(**profile) as raster:
            raster.write(pixels)
            raster.update_tags(**tags)
        return target.read()


def test_a_kept_piece_is_counted_again(mapped):
    name = json.loads(mapped.read(SECOND))["outputs"][0]["name"]
    mapped.write(name, paint(lose_one)(mapped.read(name)))
    settle(mapped, record=SECOND)
    report = look(mapped, deep=True)
    assert report.counts == {"wrong_count": 1}
    assert report.first[0].object == name


# Merged thousands


@pytest.fixture
def merged(label, monkeypatch):
    """The records of the first two shards are kept as one object too."""
    monkeypatch.setattr("jobs.ledger.GROUP", 2)
    label.write("ledger/000001/000000002.json", label.read("ledger/000000/000000002.json"))
    label.remove("ledger/000000/000000002.json")
    assert Ledger(label.store, label.run).merge(0)
    return label


def remerge(built, change):
    name = "ledger/merged/000000.jsonl.gz"
    lines = gzip.decompress(built.read(name)).splitlines()
    built.write(name, gzip.compress(b"\n".join(change(lines)) + b"\n"))


def test_a_merged_thousand_is_sound(merged):
    assert look(merged).counts == look(merged, deep=True).counts == {}


@pytest.mark.parametrize(
    ("damage", "shallow", "deep"),
    [
        (lambda b: b.remove(SECOND), "missing_record", "missing_record"),
        (lambda b: remerge(b, lambda lines: lines[:1]), "wrong_record", "wrong_record"),
        (lambda b: remerge(b, lambda lines: lines[::-1]), "wrong_record", "wrong_record"),
        (
            lambda b: b.edit(SECOND, lambda fields: fields.update(worker="another")),
            None,
            "wrong_record",
        ),
        (
            lambda b: b.write("ledger/merged/000000.jsonl.gz", b"no"),
            "unreadable",
            "unreadable",
        ),
        (
            lambda b: b.write("ledger/merged/a.jsonl.gz", b"no"),
            "extra_record",
            "extra_record",
        ),
        (lambda b: remerge(b, count_one), "wrong_count", "wrong_count"),
    ],
)
def test_damage_of_a_merged_thousand_is_found(merged, damage, shallow, deep):
    damage(merged)
    assert shallow in kinds(merged) if shallow else not kinds(merged)
    assert deep in kinds(merged, deep=True)


def count_one(lines):
    fields = json.loads(lines[0])
    fields["pixels_done"] += 1
    return [json.dumps(fields, sort_keys=True).encode(), *lines[1:]]


# What is shown


def test_no_run_is_refused(place):
    with pytest.raises(InputError, match="holds no run"):
        verify_run(place.store, place.at("none"), deep=False)


@pytest.fixture
def here(build_label, local):
    built = build_label(local)
    built.work_off(built.start(), dead={"1.png"})
    return built


def test_the_command_ends_with_what_it_found(here, run):
    code, out, err = run("verify", here.run)
    assert (code, err) == (0, "")
    assert (
        out.splitlines()[-1]
        == f"sound; read every byte too: atrous verify {here.run} --deep"
    )
    code, out, _ = run("verify", here.run, "--deep")
    assert code == 0
    assert out.endswith(
        f"every byte was read; see what it holds: atrous status {here.run}\n"
    )
    here.remove("_SUCCESS")
    code, out, _ = run("verify", here.run)
    assert code == 4
    assert out.endswith(f"not finished; see how far it is: atrous status {here.run}\n")
    here.remove(mask_of(here))
    code, out, _ = run("verify", here.run)
    assert code == 5
    assert f"missing  {mask_of(here)}: expected" in out


def test_the_json_is_one_object(here, run):
    here.remove(mask_of(here))
    here.write("masks/part-0.parquet", b"late")
    code, out, err = run("verify", here.run, "--json")
    found = json.loads(out)
    assert (code, err) == (5, "")
    assert found["counts"] == {"extra": 1, "missing": 1}
    assert (found["sound"], found["finished"]) == (False, True)
    assert [one["kind"] for one in found["differences"]] == ["missing", "extra"]
    assert found["shards"] == {"planned": 3, "recorded": 3}


def test_a_long_list_is_cut():
    report = Report(run="/run", job="label", deep=False)
    for number in range(1500):
        report.tell("extra", f"masks/{number}", "no object", "one")
    report.tell("missing", "masks/a", "1 bytes", "nothing")
    lines = describe_report(report).splitlines()
    assert sum(line.startswith("extra  ") for line in lines) == 100
    assert "and 1401 more (1500 extra, 1 missing); see --json" in lines
    assert lines[-1] == "see what nothing names: atrous clean /run"
    found = report.to_json()
    assert len(found["differences"]) == 1000
    assert found["counts"] == {"extra": 1500, "missing": 1}


def test_a_check_needs_neither_torch_nor_ray(here):
    code = (
        "import sys; from jobs.cli import _main\n"
        f"print(_main(['verify', {here.run!r}, '--deep', '--json']))\n"
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.endswith("\n0\nset()\n")


# Parts


def test_names_are_told_apart():
    names = Names()
    assert "a" not in names
    for number in range(10_000):
        names.add(f"masks/{number}")
    assert all(f"masks/{number}" in names for number in range(10_000))
    assert not any(f"masks/{number}" in names for number in range(10_000, 20_000))
    names.add("a")
    assert "a" in names


def test_the_inventory_tells_what_nobody_asked_for(place):
    for name in ("masks/a", "masks/b", "pieces/c", "rasters/d", "masks/.new-1", "other/e"):
        place.store.create(place.at("run", name), name.encode())
    found = Inventory(place.store, place.at("run"))
    assert found.temporary == 1
    assert found.find("masks/a").size == 7
    assert found.find("other/e") is None
    assert found.find("masks/x") is None
    assert [name for name, _ in found.unnamed()] == ["masks/b", "pieces/c", "rasters/d"]
    place.store.create(place.at("run", "masks/later"), b"")
    for name in ("masks/b", "pieces/c", "rasters/d"):
        found.find(name)
    assert list(found.unnamed()) == []


def test_an_object_that_came_after_the_listing_is_there(label, monkeypatch):
    name = mask_of(label)
    held = label.read(name)
    label.remove(name)
    listed = Inventory(label.store, label.run)
    label.write(name, held)
    monkeypatch.setattr("jobs.verify.Inventory", lambda *_: listed)
    assert look(label).counts == {}


def test_a_shard_that_wrote_nothing_new_is_read_once(label):
    """One request for what is listed, none for each object."""
    seen = Counter()
    store = label.store
    real = store.stat
    try:
        store.stat = lambda uri: seen.update([uri]) or real(uri)
        assert look(label).counts == {}
    finally:
        del store.stat
    assert not [uri for uri in seen if "/masks/" in uri or "/ledger/" in uri]


def test_output_fields_are_those_of_the_manifest():
    assert [field.name for field in dataclasses.fields(Output)] == list(_COLUMNS)
