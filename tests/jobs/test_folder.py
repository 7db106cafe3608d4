import json
from dataclasses import replace

import pytest

from jobs.errors import InputError, RunError
from jobs.folder import check_free, load_job, plan_uri, prepare, read_shards, require_job
from jobs.plan import read_plan
from jobs.shards import plan_shards
from jobs.spec import Cut


@pytest.fixture
def spec(make_spec, place):
    return make_spec(run=place.at("run"), access=place.store._access)


@pytest.fixture
def shards(make_items):
    """Six items, cut into shards of so many."""

    def cut(most=2):
        return plan_shards(make_items(*range(1, 7)), max_items=most, max_bytes=10**9)

    return cut


def never():
    raise AssertionError("the source was listed again")
    yield


def write_local(store, uri, content):
    assert store.create(uri, content)


def test_a_new_run_has_a_plan_and_a_description(place, spec, shards):
    planned = prepare(place.store, spec, shards())
    assert not planned.resumed
    assert (planned.totals.items, planned.totals.shards) == (6, 3)
    assert planned.fingerprint == spec.fingerprint(planned.totals.digest)
    assert list(read_shards(place.store, spec.run)) == list(shards())
    held = require_job(place.store, spec.run)
    assert held["format_version"] == 2
    assert held["identity"] == spec.identity()
    assert held["fingerprint"] == planned.fingerprint


def test_job_json_tells_people_what_the_bundle_is(place, spec, shards):
    prepare(place.store, spec, shards())
    held = require_job(place.store, spec.run)
    names = [info["name"] for info in held["bundle"]["classes"]]
    assert names == ["class 0", "class 1", "class 2", "class 3"]


def test_a_resumed_run_is_not_planned_again(place, spec, shards):
    first = prepare(place.store, spec, shards())
    again = prepare(place.store, spec, never())
    assert again == replace(first, resumed=True)


def test_a_resumed_run_keeps_its_cut(place, spec, shards):
    first = prepare(place.store, spec, shards())
    other = replace(spec, cut=Cut(shard_items=1, block=512))
    again = prepare(place.store, other, never())
    assert again.spec.cut == spec.cut
    assert (again.totals, again.fingerprint) == (first.totals, first.fingerprint)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"job": "map"}, "job label, now map"),
        ({"source": "/elsewhere"}, "now /elsewhere"),
        ({"limit": 3}, "limit None, now 3"),
        ({"threads": 2}, "threads 1, now 2"),
        ({"precision": "bf16"}, "precision fp32, now bf16"),
    ],
    ids=str,
)
def test_other_options_are_refused_by_name(make_spec, local, shards, change, named):
    run = local.at("run")
    prepare(local.store, make_spec(run=run), shards())
    with pytest.raises(RunError) as caught:
        prepare(local.store, make_spec(run=run, **change), never())
    text = str(caught.value)
    assert text.startswith(f"{run} holds a run with other options (")
    assert named in text
    assert text.endswith("give the same ones to resume it, or choose a new run folder")


def test_another_bundle_is_refused_by_its_short_digest(
    make_spec, make_bundle, local, shards
):
    run = local.at("run")
    prepare(local.store, make_spec(run=run), shards())
    other = make_spec(run=run, bundle=make_bundle(digest="e" * 64))
    with pytest.raises(RunError, match=r"\(bundle d{12}\.\.\., now e{12}\.\.\.\)"):
        prepare(local.store, other, never())


def test_all_differences_are_named_and_only_those(make_spec, local, shards):
    run = local.at("run")
    prepare(local.store, make_spec(run=run), shards())
    with pytest.raises(RunError) as caught:
        prepare(local.store, make_spec(run=run, device="cuda"), never())
    text = str(caught.value)
    inner = text[text.index("(") + 1 : text.index(")")]
    assert inner.split("; ") == ["batch 1, now 16", "device cpu, now cuda"]


def test_a_plan_whose_driver_died_is_adopted(place, spec, shards):
    first = prepare(place.store, spec, shards())
    place.store.delete(place.at("run", "job.json"))
    # Meanwhile the source has lost its second half: what was planned counts.
    fewer = list(shards())[:1]
    again = prepare(place.store, spec, fewer)
    assert again == first
    assert list(read_shards(place.store, spec.run)) == list(shards())


def test_a_plan_of_other_options_is_not_adopted(make_spec, local, shards):
    spec = make_spec(run=local.at("run"))
    prepare(local.store, spec, shards())
    local.store.delete(local.at("run", "job.json"))
    with pytest.raises(
        RunError, match="holds a plan made with other options; choose a new"
    ):
        prepare(local.store, replace(spec, limit=2), shards())


def test_an_adopted_plan_keeps_its_cut(local, make_spec, shards):
    spec = make_spec(run=local.at("run"), shard_items=2, block=512)
    prepare(local.store, spec, shards(2))
    local.store.delete(local.at("run", "job.json"))
    other = replace(spec, cut=Cut(shard_items=3, block=1024))
    # Blocks are counted by the cut, so a wrong one would never finish a raster.
    assert prepare(local.store, other, shards(3)).spec.cut == spec.cut


@pytest.mark.parametrize("name", ["notes.txt", "masks/part-1.parquet", "deep/er/file"])
def test_a_foreign_folder_is_refused(place, spec, name):
    found = place.at("run", name)
    write_local(place.store, found, b"mine")
    with pytest.raises(RunError) as caught:
        check_free(place.store, spec.run)
    text = (
        f"{spec.run} is not empty and holds no run (found {found}); choose a new run folder"
    )
    assert str(caught.value) == text


def test_a_run_an_empty_folder_and_none_are_free(local, make_spec, shards, tmp_path):
    spec = make_spec(run=local.at("run"))
    check_free(local.store, spec.run)
    (tmp_path / "store" / "run" / "empty").mkdir(parents=True)
    check_free(local.store, spec.run)
    prepare(local.store, spec, shards())
    write_local(local.store, local.at("run", "notes.txt"), b"mine")
    check_free(local.store, spec.run)


@pytest.mark.parametrize("name", ["plan.parquet", ".new-abc"])
def test_what_a_dead_driver_left_is_free(local, make_spec, name):
    write_local(local.store, local.at("run", name), b"")
    check_free(local.store, make_spec(run=local.at("run")).run)


def test_no_run_is_no_job(place):
    assert load_job(place.store, place.at("run")) is None
    with pytest.raises(
        InputError, match=r"run holds no run \(no job.json\); check the path"
    ):
        require_job(place.store, place.at("run"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"{}", b"\xff", b"null"])
def test_a_foreign_job_json_is_refused(local, content):
    write_local(local.store, local.at("run", "job.json"), content)
    with pytest.raises(
        RunError, match=r"job.json is not a description of a run; choose a new"
    ):
        load_job(local.store, local.at("run"))


def test_another_format_version_is_refused(local):
    write_local(local.store, local.at("run", "job.json"), b'{"format_version": 3}')
    with pytest.raises(
        RunError, match="has format_version 3, this version reads 2; use the"
    ):
        load_job(local.store, local.at("run"))


@pytest.mark.parametrize("missing", ["identity", "plan", "cut", "fingerprint"])
def test_a_job_json_that_lacks_a_field_is_refused(local, make_spec, shards, missing):
    spec = make_spec(run=local.at("run"))
    prepare(local.store, spec, shards())
    held = require_job(local.store, spec.run)
    del held[missing]
    local.store.replace(local.at("run", "job.json"), json.dumps(held).encode())
    with pytest.raises(RunError):
        prepare(local.store, spec, never())


def test_a_plan_that_is_no_parquet_file_is_refused(local, make_spec, shards):
    write_local(local.store, local.at("run", "plan.parquet"), b"not a plan")
    with pytest.raises(RunError):
        prepare(local.store, make_spec(run=local.at("run")), shards())


def test_an_error_while_planning_leaves_nothing(place, spec):
    def failing():
        raise InputError("no input")
        yield

    with pytest.raises(InputError, match="no input"):
        prepare(place.store, spec, failing())
    assert place.store.find(spec.run) == []


def test_a_folder_that_cannot_be_written_is_named(local, make_spec, shards, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    spec = make_spec(run=str(tmp_path / "file" / "run"))
    with pytest.raises(RunError, match=r"file/run/plan.parquet cannot be written: "):
        prepare(local.store, spec, shards())


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_named(remote, make_spec, shards):
    spec = make_spec(run="s3://no-such-bucket-here/run", access=remote.store._access)
    message = r"there is no bucket no-such-bucket-here for s3://.*create it"
    with pytest.raises(RunError, match=message):
        prepare(remote.store, spec, shards())


def test_the_plan_lies_where_people_look(place, spec, shards, tmp_path):
    prepare(place.store, spec, shards())
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(place.store.read(plan_uri(spec.run)))
    assert list(read_plan(copy)) == list(shards())
