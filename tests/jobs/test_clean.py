"""What is left over goes; what is named, or may be, stays whatever is asked for."""

import dataclasses
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import clean
from jobs.clean import KINDS, Cleaning, Leftover, clean_run, describe_cleaning
from jobs.errors import InputError, RunError
from jobs.folder import read_shards
from jobs.storage import Store
from jobs.verify import verify_run
from jobs.verify_objects import is_temporary

FIRST = "ledger/000000/000000000.json"
SECOND = "ledger/000000/000000001.json"
TASK = "ledger/tasks/scene.tif.json"
HOUR = timedelta(hours=1)


def sweep(built, *, delete=True, older_than=timedelta(), uploads=timedelta()):
    found = clean_run(
        built.store,
        built.run,
        delete=delete,
        older_than=older_than,
        uploads_older_than=uploads,
    )
    assert found.counts.keys() <= KINDS.keys()
    return found


@pytest.fixture
def later(monkeypatch):
    """Let the store's clock be ahead, so that what was written just now is old."""

    def shift(hours):
        now = datetime.now(UTC) + timedelta(hours=hours)
        monkeypatch.setattr(clean, "_ask_time", lambda *_: now)

    return shift


@pytest.fixture
def label(build_label, place):
    built = build_label(place)
    built.work_off(built.start(), dead={"1.png"})
    return built


@pytest.fixture
def mapped(build_map, place):
    built = build_map(place)
    built.work_off(built.start(), dead={1})
    return built


def output_of(built):
    """What the second shard wrote."""
    return json.loads(built.read(SECOND))["outputs"][0]["name"]


# What goes


def test_a_tidy_run_has_nothing_left_over(label, mapped, later):
    later(hours=100)
    for built in (label, mapped):
        before = built.names()
        assert sweep(built).counts == {}
        assert built.names() == before


def test_what_no_record_names_goes(label, later):
    before = label.names()
    for name in ("masks/part-0.parquet", "rasters/a.tif", "pieces/a.tif", "_probe/a"):
        label.write(name, b"late")
    assert verify_run(label.store, label.run, deep=False).counts == {"extra": 3}
    later(hours=100)
    found = sweep(label)
    assert (found.counts, found.size) == ({"unnamed": 3, "probe": 1}, 16)
    assert label.names() == before
    assert verify_run(label.store, label.run, deep=True).counts == {}


def test_pieces_of_a_whole_raster_go(build_map, place, later):
    """E.g. that of an attempt which woke up when its raster was assembled."""
    built = build_map(place)
    built.work_off(built.start())
    before = built.names()
    built.write(output_of(built), b"late")
    later(hours=2)
    assert sweep(built, delete=False, older_than=-HOUR).counts == {"spent": 1}
    assert sweep(built).counts == {"spent": 1}
    assert built.names() == before


def test_a_piece_whose_shard_is_a_dead_letter_goes(mapped, later):
    """E.g. that of a replica that was killed before its record."""
    before = mapped.names()
    mapped.write(planned_piece(mapped), b"half")
    later(hours=2)
    assert sweep(mapped).counts == {"unnamed": 1}
    assert mapped.names() == before


def planned_piece(built, shard=2):
    """What a shard would write, whatever its record says."""
    fingerprint = json.loads(built.read("job.json"))["fingerprint"]
    shards = list(read_shards(built.store, built.run))
    return f"pieces/{shards[shard].output_key(fingerprint)}.tif"


def test_it_is_gone_only_if_that_is_asked_for(label, later):
    label.write("masks/part-0.parquet", b"late")
    before = label.names()
    found = sweep(label, delete=False, older_than=-HOUR)
    assert (found.counts, found.deleted) == ({"unnamed": 1}, False)
    assert label.names() == before, "nothing is written to look"
    later(hours=2)
    assert sweep(label).deleted
    assert label.names() != before


# What stays


def test_what_is_young_stays(label, later):
    label.write("masks/part-0.parquet", b"late")
    later(hours=2)
    found = sweep(label, older_than=3 * HOUR)
    assert (found.counts, found.young) == ({}, 1)
    assert "masks/part-0.parquet" in label.names()
    assert sweep(label, older_than=HOUR).counts == {"unnamed": 1}


def test_what_appears_meanwhile_stays(label):
    """The store's own clock: what is written after the question has no age."""
    label.write("masks/part-0.parquet", b"late")
    time.sleep(1.1)  # the clock of S3 shows seconds
    real = clean.References

    def look(store, run):
        found = real(store, run)
        store.create(f"{run}/masks/part-1.parquet", b"later")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "References", look)
        found = sweep(label)
    assert (found.counts, found.young) == ({"unnamed": 1}, 1)
    assert "masks/part-1.parquet" in label.names()
    assert not [name for name in label.names() if name.startswith("_probe")]


def test_what_a_record_may_yet_name_stays(build_label, build_map, place, later):
    """All that a shard or a raster without a record may have written."""
    later(hours=100)
    for build, record in ((build_label, FIRST), (build_map, SECOND)):
        built = build(place)
        built.work_off(built.start(), until=2)
        held = built.names()
        built.remove(record)
        built.write("rasters/scene.tif", b"an assembly that nobody has recorded")
        foreign = "masks/somebody's"
        built.write(foreign, b"who knows")
        before = built.names()
        found = sweep(built)
        expected = {*held, "rasters/scene.tif", foreign} - {record}
        if built.spec.job == "label":
            assert set(before) == expected
        assert found.counts == {}
        assert built.names() == before


def test_pieces_stay_until_the_assembly_is_recorded(build_map, place, later):
    built = build_map(place)
    built.work_off(built.start(), dead={1})
    for name in ("_SUCCESS", "manifest.parquet", TASK):
        built.remove(name)
    before = built.names()
    later(hours=100)
    assert sweep(built).counts == {}
    assert built.names() == before


def test_pieces_that_a_retry_needs_stay(build_map, place, later):
    later(hours=100)
    built = build_map(place)
    built.work_off(built.start(), dead={0, 1})
    built.work_off(built.retry(), dead={0})
    planned = built.retry()
    built.work_off(planned, until=0)
    before = built.names()
    assert sweep(built).counts == {}
    assert built.names() == before
    built.work_off(planned)
    assert sweep(built).counts == {}
    assert verify_run(built.store, built.run, deep=True).counts == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b.remove(SECOND),
        lambda b: b.write(SECOND, b"{"),
        lambda b: b.write(SECOND, b.read(FIRST)),
        lambda b: b.remove("plan.parquet"),
        lambda b: b.edit(FIRST, lambda fields: fields.update(outputs=[])),
        lambda b: b.edit("job.json", lambda fields: fields.update(fingerprint="0")),
        lambda b: b.write("retries/001/job.json", b"{"),
    ],
)
def test_nothing_of_a_damaged_run_is_touched(build_label, local, later, damage):
    built = build_label(local)
    built.work_off(built.start(), dead={"1.png"})
    damage(built)
    built.write("masks/part-0.parquet", b"late")
    before = built.names()
    later(hours=100)
    with pytest.raises(RunError, match="see atrous verify"):
        sweep(built)
    assert built.names() == before


def test_outputs_of_a_retry_whose_description_is_lost_stay(build_label, local, later):
    built = build_label(local)
    built.work_off(built.start(), dead={"1.png"})
    built.work_off(built.retry())
    built.remove("retries/001/job.json")
    before = built.names()
    later(hours=100)
    assert sweep(built).counts == {}
    assert built.names() == before


def test_a_folder_without_a_run_is_refused(place):
    place.store.create(place.at("photos", "masks", "holiday.jpg"), b"dear")
    with pytest.raises(InputError, match="holds no run"):
        clean_run(
            place.store,
            place.at("photos"),
            delete=True,
            older_than=timedelta(),
            uploads_older_than=timedelta(),
        )
    assert place.store.exists(place.at("photos", "masks", "holiday.jpg"))


# Temporary files, which are local


@pytest.fixture
def here(build_label, local):
    built = build_label(local)
    built.work_off(built.start(), dead={"1.png"})
    return built


def leave(built, name, *, hours=0.0):
    """A file that is so old."""
    path = Path(built.run, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))
    os.utime(path.parent, (then, then))
    return path


TEMPORARY = ("masks/.new-a", "ledger/000000/.new-b", ".new-c", ".scratch/atrous-d/output")


def test_files_in_the_making_go(here):
    before = here.names()
    for name in TEMPORARY:
        leave(here, name, hours=5)
    assert verify_run(here.store, here.run, deep=True).counts == {}
    found = sweep(here, older_than=HOUR)
    assert found.counts == {"temporary": 4}
    assert here.names() == before
    assert not Path(here.run, ".scratch", "atrous-d").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_files_that_are_being_made_stay(here, finished):
    if not finished:
        here.remove("_SUCCESS")
    old = [leave(here, name, hours=5) for name in TEMPORARY]
    new = [leave(here, f"{name}-new", hours=0.5) for name in TEMPORARY]
    sweep(here)
    assert not any(path.exists() for path in old)
    assert all(path.exists() is not finished for path in new)


# Uploads, which S3 alone has


@pytest.fixture
def started(monkeypatch):
    """Uploads were started at a time: the server always says 2010."""

    def at(then):
        def uploads(self, prefix):
            found = real(self, prefix)
            return [dataclasses.replace(one, started=then) for one in found]

        real = Store.uploads
        monkeypatch.setattr(Store, "uploads", uploads)

    return at


@pytest.mark.s3
def test_old_uploads_are_given_up(build_label, remote, s3_client, bucket, started, later):
    built = build_label(remote)
    built.work_off(built.start())
    inside = [f"label/{name}" for name in ("rasters/a.tif", "masks/b", "job.json")]
    outside = ["label2/rasters/a.tif", "other/a.tif"]
    for key in (*inside, *outside):
        s3_client.create_multipart_upload(Bucket=bucket, Key=key)
    started(datetime.now(UTC))
    later(hours=2)
    found = sweep(built, uploads=3 * HOUR)
    assert (found.counts, found.young) == ({}, 3)
    found = sweep(built, uploads=-HOUR, delete=False)
    assert found.counts == {"upload": 3}
    assert sweep(built, uploads=HOUR).counts == {"upload": 3}
    left = s3_client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert sorted(upload["Key"] for upload in left) == outside
    assert verify_run(built.store, built.run, deep=True).counts == {}


# Whatever is left over, and whatever is asked for


LEFT = st.sampled_from(
    [
        "masks/part-0.parquet",
        "masks/part-ffffffffffffffff.parquet",
        "masks/.new-1",
        "masks/deep/er",
        "pieces/0.tif",
        "pieces/piece.tif",
        "rasters/another.tif",
        "rasters/scene.tif.new",
        "rasters/.new-2",
        ".scratch/atrous-1/output",
        ".scratch/atrous-1/plain.tif",
        "ledger/000000/.new-3",
        "_probe/1",
        "masks/spent",
        "masks/refused",
    ]
)


@pytest.fixture
def several(build_label, build_map, local):
    """Runs at several stages of their life, by name."""
    found = {}

    def keep(built, name):
        run = Path(built.run).rename(f"{local.root}/{name}")
        found[name] = dataclasses.replace(built, run=str(run))

    for name, build, dead in (
        ("labelled", build_label, {"1.png"}),
        ("whole", build_map, ()),
        ("gap", build_map, {1}),
    ):
        built = build(local)
        built.work_off(built.start(), dead=dead)
        keep(built, name)
        built.work_off(built.start(), dead=dead, until=2)
        keep(built, f"{name}-open")
    built = build_map(local)
    built.work_off(built.start(), dead={0, 1})
    built.work_off(built.retry(), dead={1})
    built.work_off(built.retry(), until=0)
    keep(built, "retried")
    return found


AGES = st.sampled_from([0.2, 0.7, 5.0, 40.0])
"""Hours; none is a limit."""


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_that_is_named_ever_goes(several, data):
    name = data.draw(st.sampled_from(sorted(several)))
    built = several[name]
    before = {one: built.read(one) for one in built.names()}
    late = LATE.get(name, {})
    ages = data.draw(st.dictionaries(LEFT, AGES, max_size=8))
    least = data.draw(st.sampled_from([0.0, 0.5, 1.0, 24.0]))
    for left, hours in ages.items():
        # Beside whatever lies about, an attempt that came too late.
        leave(built, late[left](built) if left in late else left, hours=hours)
    found = sweep(built, older_than=timedelta(hours=least))
    after = {one: built.read(one) for one in built.names()}
    for one in set(after) - set(before):  # the next example finds the run as it was
        built.remove(one)
    assert set(before) <= set(after)
    assert before.items() <= after.items()
    assert found.counts.total() + len(after) == len(before) + len(ages)
    finished = name in {"labelled", "whole", "gap"}  # elsewhere somebody may be at work
    gone = {one for one, hours in ages.items() if hours > least and is_output(one)}
    gone = {one for one in gone if finished}
    for one, hours in ages.items():
        limit = least if finished or one.startswith("_probe/") else max(least, 1.0)
        if not is_output(one) and hours > limit:
            gone.add(one)
    assert found.counts.total() == len(gone)


LATE = {"whole": {"masks/spent": output_of}, "gap": {"masks/refused": planned_piece}}
"""What else may lie about in a run, and what it is called there."""


def is_output(name):
    return not (is_temporary(name) or name.startswith("_probe/"))


# What is shown


def test_the_command_shows_and_removes(here, run):
    leave(here, "masks/part-0.parquet", hours=30)
    leave(here, "masks/part-1.parquet", hours=0.5)
    code, out, err = run("clean", here.run)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "unnamed  masks/part-0.parquet: 4 bytes, 30.0 h old",
        "1 more are too young to go; see --older-than",
        f"1 leftover, 0.00 MB; remove it: atrous clean {here.run} --delete",
    ]
    code, out, _ = run("clean", here.run, "--delete")
    assert (code, out.splitlines()[-1]) == (
        0,
        f"removed 1 leftover, 0.00 MB; prove it: atrous verify {here.run}",
    )
    code, out, _ = run("clean", here.run, "--delete", "--older-than", "0.25", "--json")
    found = json.loads(out)
    assert (code, found["counts"], found["deleted"]) == (0, {"unnamed": 1}, True)
    assert found["leftovers"][0]["name"] == "masks/part-1.parquet"
    code, out, _ = run("clean", here.run)
    assert out == f"nothing to remove; prove it: atrous verify {here.run}\n"


@pytest.mark.parametrize("hours", ["-1", "soon"])
def test_a_wrong_age_is_refused(here, run, hours):
    code, _, err = run("clean", here.run, "--older-than", hours)
    assert code == 2
    assert "--older-than" in err


def test_a_long_list_is_cut():
    found = Cleaning(run="/run", deleted=False)
    for number in range(1500):
        found.add(Leftover(kind="spent", name=f"pieces/{number}", size=1, age_s=7200))
    lines = describe_cleaning(found).splitlines()
    assert sum(line.startswith("spent  ") for line in lines) == 100
    assert lines[-2:] == [
        "and 1400 more (1500 spent); see --json",
        "1500 leftovers, 0.00 MB; remove it: atrous clean /run --delete",
    ]
    assert len(found.to_json()["leftovers"]) == 1000
