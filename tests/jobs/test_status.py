import json

import pytest

from jobs.conclude import conclude, write_views
from jobs.errors import InputError, RunError
from jobs.folder import prepare
from jobs.label_job import LabelJob
from jobs.ledger import Ledger, Record, dead_letter
from jobs.shards import plan_shards
from jobs.status import describe_status, read_status


@pytest.fixture
def run(make_spec, make_items, place):
    """A run of three shards, none of them done."""
    items = make_items(1, 2, 3)
    spec = make_spec(run=place.at("run"), access=place.store._access)
    planned = prepare(place.store, spec, plan_shards(items, max_items=1, max_bytes=9))
    return planned, items


def commit(place, planned, shard, **fields):
    given = {"items": 1, "items_done": 1, "pixels_done": 2_500_000}
    record = Record(shard=shard, fingerprint=planned.fingerprint, **(given | fields))
    return Ledger(place.store, planned.spec.run).commit(record)


def finish(place, planned):
    job = LabelJob(
        spec=planned.spec, fingerprint=planned.fingerprint, folder=planned.folder
    )
    conclude(place.store, job, planned)


def test_a_run_that_has_only_begun(place, run):
    planned, _ = run
    status = read_status(place.store, planned.spec.run)
    assert (status["run"], status["job"]) == (planned.spec.run, "label")
    assert status["shards"] == {"planned": 3, "done": 0}
    assert not status["finished"]
    assert json.loads(json.dumps(status)) == status


def test_a_run_half_way(place, run):
    planned, items = run
    commit(place, planned, 2)
    letters = (dead_letter(items[0], "read", "undecodable", "the file is empty"),)
    commit(place, planned, 0, items_done=0, dead_letters=letters, pixels_done=0)
    status = read_status(place.store, planned.spec.run)
    assert status["shards"] == {"planned": 3, "done": 2}
    assert status["dead_letters"] == 1
    assert status["pixels"] == {"done": 2_500_000, "nodata": 0, "dead": 0}
    assert describe_status(status).splitlines() == [
        f"label run {planned.spec.run}",
        "  shards        2 of 3 done",
        "  pixels        2.50 M done, 0.00 M nodata, 0.00 M dead",
        "  dead letters  1 (1 undecodable)",
        "  written       0.00 MB",
        "not finished; run the same command again to go on",
    ]


def test_a_finished_run_is_what_its_summary_says(place, run):
    planned, _ = run
    for shard in range(3):
        commit(place, planned, shard, seconds={"read": 0.25, "total": 1.5})
    assert not read_status(place.store, planned.spec.run)["finished"], "it is not proven"
    finish(place, planned)
    summary = write_views(place.store, planned.spec.run)
    written = json.loads(place.store.read(place.at("run", "summary.json")))
    assert read_status(place.store, planned.spec.run) == summary == written
    assert summary["seconds"] == {"read": 0.75, "total": 4.5}
    assert describe_status(summary).endswith(
        f"\nfinished; prove it: atrous verify {planned.spec.run}"
    )


def test_a_finished_run_with_dead_letters_says_where_they_are(place, run):
    planned, items = run
    for shard, item in enumerate(items):
        letters = (dead_letter(item, "read", "not_found", "gone"),)
        commit(place, planned, shard, items_done=0, dead_letters=letters)
    finish(place, planned)
    lines = describe_status(read_status(place.store, planned.spec.run)).splitlines()
    assert lines[-2:] == [
        f"finished; see why in {planned.spec.run}/dead_letter.parquet",
        f"try them again: atrous retry {planned.spec.run}",
    ]


def test_no_run_is_said_in_one_line(place):
    with pytest.raises(
        InputError, match=r"/none holds no run \(no job.json\); check the path$"
    ):
        read_status(place.store, place.at("none"))


def test_another_version_is_said_in_one_line(place):
    place.store.create(place.at("run", "job.json"), b'{"format_version": 99}')
    with pytest.raises(RunError, match="has format_version 99, this version reads 2"):
        read_status(place.store, place.at("run"))
