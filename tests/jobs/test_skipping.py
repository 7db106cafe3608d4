"""A run leaves out what an earlier one has done."""

import dataclasses
import json

import pytest

from jobs.errors import InputError
from jobs.label_job import LabelJob
from jobs.shards import Item
from jobs.skipping import find_done, leave_out


def make(uri, etag="e"):
    return Item(uri=uri, key=uri, size=1, etag=etag)


def test_both_are_read_side_by_side():
    items = [make("a"), make("b", "new"), make("c"), make("d", ""), make("e"), make("g")]
    done = [
        ("b", "e"),
        ("c", "e"),
        ("c", "old"),
        ("d", ""),
        ("e", "x"),
        ("e", "e"),
        ("f", "e"),
    ]
    left_out = []
    found = leave_out(iter(items), iter(done), lambda: left_out.append(1))
    assert [item.uri for item in found] == ["a", "b", "d", "g"]
    assert len(left_out) == 2


@pytest.fixture
def grown(build_label, local, tmp_path):
    """A finished run of five images, one dead; then two images more, one changed."""
    built = build_label(local)
    planned = built.start()
    built.work_off(planned, dead={"3.png"})
    for number, data in ((1, b"changed"), (7, b"new"), (8, b"new")):
        (tmp_path / "images" / f"{number}.png").write_bytes(data)
    return built


def test_only_what_is_new_changed_or_dead_is_planned(grown, local):
    spec = dataclasses.replace(grown.spec, run=local.at("next"), skip_done_in=grown.run)
    told = []
    job = LabelJob(spec=spec).watch(lambda *counts: told.append(counts))
    keys = [item.key for shard in job.plan() for item in shard.items]
    assert keys == ["1.png", "3.png", "7.png", "8.png"]
    assert told[-1] == (4, 3)
    few = dataclasses.replace(spec, limit=2)
    assert sum(len(shard.items) for shard in LabelJob(spec=few).plan()) == 2


def test_what_a_retry_has_done_is_left_out_too(grown):
    grown.work_off(grown.retry())
    done = dict(find_done(grown.store, grown.run))
    assert [uri[-5:] for uri in done] == [f"{n}.png" for n in range(5)]


def test_a_run_stands_for_those_that_it_left_out(grown, local):
    spec = dataclasses.replace(grown.spec, run=local.at("next"), skip_done_in=grown.run)
    second = dataclasses.replace(grown, run=spec.run, spec=spec)
    second.work_off(second.start())
    third = dataclasses.replace(spec, run=local.at("third"), skip_done_in=spec.run)
    assert list(LabelJob(spec=third).plan()) == []
    # A source in which nothing is new makes a run of nothing.
    last = dataclasses.replace(grown, run=third.run, spec=third)
    planned = last.start()
    last.work_off(planned)
    assert (planned.totals.items, planned.totals.shards) == (0, 0)
    assert json.loads(last.read("_SUCCESS"))["items"] == 0


def test_a_run_of_rasters_or_none_is_refused(build_map, local):
    with pytest.raises(InputError, match="holds no run"):
        list(find_done(local.store, local.at("nothing")))
    built = build_map(local)
    built.start()
    with pytest.raises(InputError, match="labels no images; --skip-done-in takes a label"):
        list(find_done(local.store, built.run))


def test_the_plan_says_how_many(grown, run):
    code, out, _ = run(
        "plan", "label", grown.spec.source, "--bundle", "demo", "--skip-done-in", grown.run
    )
    assert code == 0
    assert "items   4, " in out
    assert "skipped 3, which are done" in out
    code, _, err = run("plan", "map", "x", "--bundle", "demo", "--skip-done-in", "y")
    assert (code, "skip_done_in has no effect on map" in err) == (2, True)
