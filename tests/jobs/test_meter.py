"""What a shard took, and the rates that it comes to."""

import json

import numpy as np
import pytest

from deeplab.seen import Seen
from jobs.job import Decoded, Image
from jobs.ledger import DeadLetter, Output, Record, bare, parse_record, to_json
from jobs.meter import Meter
from jobs.plan import Totals
from jobs.rates import describe_rates
from jobs.shards import Item
from jobs.tally import Tally

LETTER = DeadLetter(uri="/x", key="x", stage="read", code="c", message="m")


def image_of(start=None, stop=None, size=10):
    known = start is not None
    return Image(
        item=Item(uri="/a", key="a", size=1, etag="e"),
        pixels=np.zeros((3, 1, 1), np.uint8),
        valid=np.ones((1, 1), bool),
        decoded=Decoded(start=start, stop=stop, size=size) if known else None,
    )


def make_record(**fields):
    given = {"shard": 0, "fingerprint": "f", "items": 3, "items_done": 3}
    return Record(**given | fields)


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([(0, 1)], 1),
        ([(0, 1), (2, 4)], 3),
        ([(0, 2), (1, 3)], 3),  # two at once count once
        ([(5, 6), (0, 9), (1, 2)], 9),
        ([], None),
    ],
)
def test_decoding_lasts_while_any_image_is_decoded(spans, seconds):
    meter = Meter()
    meter.count_all([LETTER, image_of()])
    meter.count_all(image_of(100 + start, 100 + stop) for start, stop in spans)
    record = meter.complete(make_record(seconds={"read": 0.5}))
    assert record.seconds.get("decode") == seconds
    assert (record.images_decoded, record.bytes_decoded) == (len(spans), 10 * len(spans))
    assert record.seconds["read"] == 0.5


def tally_of(*records):
    tally = Tally()
    for one in records:
        tally.add(one)
    totals = Totals(items=9, shards=9, size=9, pixels=0, digest="d")
    return tally.summary(totals, finished=False)


def test_rates_are_of_a_replica_and_of_what_was_measured():
    meter = Meter()
    meter.seen.add(Seen(tiles=8, pixels=1000, padding=250, seconds=2.0))
    meter.count_all([image_of(0, 4, size=3_000_000), image_of(1, 2, size=1_000_000)])
    old = make_record(shard=1, seconds={"segment": 50.0})
    summary = tally_of(meter.complete(make_record()), old)
    assert summary["tiles"] == 8
    assert summary["padding"] == 0.25
    assert summary["rates"] == {
        "tiles_s": 4.0,
        "items_s": 1.5,
        "decoded_images_s": 0.5,
        "decoded_mb_s": 1.0,
    }
    assert describe_rates(summary) == [
        "network       4 tiles/s, 1.5 items/s a replica, 25.0 % of it padding",
        "decoding      0.5 images/s, 1 MB/s a replica",
    ]
    assert describe_rates(tally_of(old)) == []


def test_records_of_before_are_still_read():
    meter = Meter()
    meter.seen.add(Seen(tiles=8, pixels=1000, padding=250, seconds=2.0))
    output = Output(name="o", size=1, sha256="s")
    record = meter.complete(make_record(outputs=(output,), worker="here", attempts=2))
    assert parse_record("r", to_json(record)) == record
    fields = json.loads(to_json(record))
    measured = [name for name in fields if "decoded" in name or name.startswith("pixels_s")]
    for name in (*measured, "tiles", "pixels_padding"):
        del fields[name]
    old = parse_record("r", json.dumps(fields))
    assert (old.tiles, old.pixels_seen, old.pixels_padding, old.images_decoded) == (0,) * 4
    assert bare(old) == bare(record) == make_record()
