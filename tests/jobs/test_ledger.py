import dataclasses
import json
import threading

import pytest

from jobs.errors import RunError
from jobs.ledger import DeadLetter, Ledger, Output, Record, TaskRecord, dead_letter


@pytest.fixture
def ledger(place):
    return Ledger(place.store, place.at("run"))


def record(shard=0, **fields):
    given = {"shard": shard, "fingerprint": "f", "items": 1, "items_done": 1}
    return Record(**(given | fields))


def full_record():
    whole = DeadLetter(uri="/\u6771", key="\u6771", stage="read", code="c", message="m")
    block = dataclasses.replace(whole, row=0, col=512, height=7, width=9, attempts=2)
    return record(
        shard=1234,
        items=5,
        items_done=3,
        dead_letters=(whole, block),
        pixels_done=10,
        pixels_nodata=20,
        pixels_dead=30,
        outputs=(Output(name="masks/part-1.parquet", size=9, sha256="ab", etag="e"),),
        seconds={"read": 0.5, "total": 1.25},
        worker="host:1",
        attempts=3,
    )


def test_a_record_comes_back_whole(ledger):
    assert ledger.commit(full_record()) == full_record()
    assert list(ledger.read()) == [full_record()]


def test_an_empty_ledger_has_no_record(ledger):
    assert list(ledger.read()) == []


def test_records_come_in_order_of_shard(ledger):
    shards = [1000, 999, 0, 12_345_678, 10_000, 2]
    for shard in shards:
        ledger.commit(record(shard))
    assert [found.shard for found in ledger.read()] == sorted(shards)


def test_a_folder_holds_a_thousand_records(place):
    ledger = Ledger(place.store, place.at("run"))
    for shard in (999, 1000):
        ledger.commit(record(shard))
    names = [found.uri.split("/ledger/")[1] for found in place.store.find(place.at("run"))]
    assert names == ["000000/000000999.json", "000001/000001000.json"]


def test_the_first_record_of_a_shard_stands(ledger):
    assert ledger.commit(record(worker="first")).worker == "first"
    assert ledger.commit(record(worker="second")).worker == "first"
    assert [found.worker for found in ledger.read()] == ["first"]


def test_one_of_many_drivers_wins(ledger):
    gate = threading.Barrier(8)
    told = []

    def commit(worker):
        gate.wait()
        told.append(ledger.commit(record(worker=worker)).worker)

    threads = [threading.Thread(target=commit, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (stands,) = ledger.read()
    assert told == [stands.worker] * 8


@pytest.mark.parametrize(("done", "dead"), [(0, 0), (2, 0), (1, 1), (0, 2)])
def test_a_record_that_loses_or_doubles_an_item_cannot_be_made(done, dead):
    letters = (full_record().dead_letters[0],) * dead
    with pytest.raises(
        ValueError, match=rf"shard 7 has 1 items, got {done} done and {dead} dead letters"
    ):
        record(7, items_done=done, dead_letters=letters)


def garbled():
    good = dataclasses.asdict(record())
    return {
        "empty": b"",
        "cut short": json.dumps(good).encode()[:20],
        "not JSON": b"\xff\xfe",
        "not an object": b"[]",
        "null": b"null",
        "a field too many": json.dumps(good | {"colour": 1}).encode(),
        "a field too few": json.dumps(
            {k: v for k, v in good.items() if k != "items"}
        ).encode(),
        "a foreign letter": json.dumps(good | {"dead_letters": [{"uri": "x"}]}).encode(),
        "lost item": json.dumps(good | {"items_done": 0}).encode(),
    }


@pytest.mark.parametrize("kind", garbled())
def test_a_foreign_record_is_named(local, kind):
    ledger = Ledger(local.store, local.at("run"))
    ledger.commit(record(1))
    uri = local.at("run", "ledger", "000000", "000000000.json")
    local.store.create(uri, garbled()[kind])
    with pytest.raises(RunError) as caught:
        list(ledger.read())
    text = str(caught.value)
    assert text.startswith(f"{uri} is not a ledger record of this version (")
    assert text.endswith("; choose a new run folder")
    assert "\n" not in text


def test_files_in_the_making_are_no_records(local):
    ledger = Ledger(local.store, local.at("run"))
    ledger.commit(record())
    local.store.create(local.at("run", "ledger", "000000", ".new-abc"), b"{")
    assert len(list(ledger.read())) == 1


def test_a_dead_letter_names_its_item(make_items):
    (item,) = make_items(1)
    letter = dead_letter(item, "read", "undecodable", "the file is empty")
    assert (letter.uri, letter.key) == (item.uri, item.key)
    assert (letter.stage, letter.code, letter.attempts) == ("read", "undecodable", 1)
    assert letter.row is None


# Merging: a complete group is kept as one object too.


@pytest.fixture
def groups_of_four(monkeypatch):
    monkeypatch.setattr("jobs.ledger.GROUP", 4)


def fill(ledger, shards):
    for shard in shards:
        ledger.commit(full_record() if shard == 1234 else record(shard))


@pytest.mark.usefixtures("groups_of_four")
def test_merged_records_are_read_once_and_in_order(ledger):
    fill(ledger, range(10))
    assert ledger.merge(0)
    assert ledger.merge(1)
    assert ledger.merged() == {0, 1}
    assert [found.shard for found in ledger.read()] == list(range(10))


@pytest.mark.usefixtures("groups_of_four")
def test_merged_records_come_back_whole_without_their_own_objects(place):
    ledger = Ledger(place.store, place.at("run"))
    fill(ledger, range(1232, 1236))
    before = list(ledger.read())
    assert ledger.merge(308)
    for found in place.store.find(place.at("run", "ledger", "000308")):
        place.store.delete(found.uri)
    assert list(ledger.read()) == before
    assert before[2] == full_record()


@pytest.mark.usefixtures("groups_of_four")
def test_a_group_that_is_not_complete_is_not_merged(ledger):
    fill(ledger, (0, 1, 3))
    assert not ledger.merge(0)
    assert ledger.merged() == set()


@pytest.mark.usefixtures("groups_of_four")
def test_two_drivers_merge_the_same_bytes(place):
    ledger = Ledger(place.store, place.at("run"))
    fill(ledger, range(4))
    uri = place.at("run", "ledger", "merged", "000000.jsonl.gz")
    ledger.merge(0)
    first = place.store.read(uri)
    place.store.delete(uri)
    ledger.merge(0)
    assert place.store.read(uri) == first


@pytest.mark.usefixtures("groups_of_four")
@pytest.mark.parametrize("cut", [1, 20, -9])
def test_a_damaged_merged_object_is_named(local, cut):
    ledger = Ledger(local.store, local.at("run"))
    fill(ledger, range(4))
    ledger.merge(0)
    uri = local.at("run", "ledger", "merged", "000000.jsonl.gz")
    local.store.replace(uri, local.store.read(uri)[:cut])
    with pytest.raises(RunError, match=r"000000.jsonl.gz is damaged \("):
        list(ledger.read())


@pytest.mark.usefixtures("groups_of_four")
def test_merged_groups_are_not_listed(place, monkeypatch):
    """What makes a large run quick to resume: one request for a whole group."""
    ledger = Ledger(place.store, place.at("run"))
    fill(ledger, range(9))
    ledger.merge(0)
    ledger.merge(1)
    listed, find = [], type(place.store).find

    def watched(self, prefix):
        listed.append(prefix.rsplit("/", 1)[1])
        return find(self, prefix)

    monkeypatch.setattr(type(place.store), "find", watched)
    assert len(list(ledger.read())) == 9
    assert listed == ["merged", "000002"]


# Tasks.


def task(key="a.tif", **fields):
    output = Output(name=f"rasters/{key}", size=9, sha256="ab")
    return TaskRecord(**({"key": key, "fingerprint": "f", "outputs": (output,)} | fields))


def test_the_first_record_of_a_task_stands(ledger):
    assert not ledger.has_task("a.tif")
    assert ledger.commit_task(task(worker="first")).worker == "first"
    assert ledger.commit_task(task(worker="second")).worker == "first"
    ledger.commit_task(task("b %2F\u6771.tif"))
    assert ledger.has_task("a.tif")
    assert ledger.task_keys() == {"a.tif", "b %2F\u6771.tif"}
    assert list(ledger.read_tasks()) == [task(worker="first"), task("b %2F\u6771.tif")]
    assert list(ledger.read()) == []
