import dataclasses
import json
import threading

import pytest

from jobs.errors import RunError
from jobs.ledger import DeadLetter, Ledger, Output, Record, dead_letter


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
        outputs=(Output(name="masks/part-1.parquet", size=9, sha256="ab"),),
        seconds={"read": 0.5, "total": 1.25},
        worker="host:1",
    )


def test_a_record_comes_back_whole(ledger):
    assert ledger.commit(full_record())
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
    assert ledger.commit(record(worker="first"))
    assert not ledger.commit(record(worker="second"))
    assert [found.worker for found in ledger.read()] == ["first"]


def test_one_of_many_drivers_wins(ledger):
    gate = threading.Barrier(8)
    won = []

    def commit(worker):
        gate.wait()
        if ledger.commit(record(worker=worker)):
            won.append(worker)

    threads = [threading.Thread(target=commit, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.worker for found in ledger.read()] == won


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
