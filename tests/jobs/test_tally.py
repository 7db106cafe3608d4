import io

import pyarrow.parquet as pq
import pytest

from jobs.ledger import DeadLetter, Output, Record
from jobs.plan import Totals
from jobs.tally import Tally


def letter(uri="/a", row=None, col=None, **fields):
    given = {"uri": uri, "key": uri[1:], "stage": "read", "code": "c", "message": "m"}
    return DeadLetter(**(given | fields), row=row, col=col)


def record(shard=0, **fields):
    given = {"shard": shard, "fingerprint": "f", "items": 1, "items_done": 1}
    return Record(**(given | fields))


def totals(**fields):
    given = {"items": 3, "shards": 2, "size": 7, "pixels": 0, "digest": "d"}
    return Totals(**(given | fields))


def tally_of(*records):
    tally = Tally()
    for one in records:
        tally.add(one)
    return tally


def test_sums():
    output = Output(name="o", size=5, sha256="s")
    tally = tally_of(
        record(0, pixels_done=10, pixels_nodata=2, outputs=(output, output)),
        record(
            1,
            items=2,
            dead_letters=(letter(),),
            pixels_done=1,
            pixels_dead=4,
            outputs=(output,),
            seconds={"read": 0.25},
        ),
        record(2, seconds={"read": 0.5, "total": 1.0}),
    )
    assert tally.summary(totals(shards=3), whole=True) == {
        "finished": True,
        "items": 3,
        "shards": {"planned": 3, "done": 3},
        "bytes_planned": 7,
        "pixels": {"done": 11, "nodata": 2, "dead": 4},
        "dead_letters": 1,
        "bytes_written": 15,
        "seconds": {"read": 0.75, "total": 1.0},
    }
    assert (tally.counts["items_done"], tally.counts["items_dead"]) == (3, 1)


def test_nothing_done_is_all_zero():
    summary = Tally().summary(totals(), whole=True)
    assert not summary["finished"]
    assert summary["pixels"] == {"done": 0, "nodata": 0, "dead": 0}
    assert summary["shards"] == {"planned": 2, "done": 0}
    assert summary["seconds"] == {}


@pytest.mark.parametrize(
    ("records", "planned"),
    [
        ([record(0)], totals(shards=2)),  # a shard is missing
        ([record(0), record(1), record(2)], totals(shards=2)),  # one too many
        ([record(0, pixels_done=9)], totals(shards=1, pixels=10)),
        (
            [record(0, pixels_done=9, pixels_nodata=1, pixels_dead=1)],
            totals(shards=1, pixels=10),
        ),
    ],
)
def test_what_does_not_add_up_is_noticed(records, planned):
    with pytest.raises(
        RuntimeError, match=r"the ledger accounts for \d shards and \d+ pixels, "
    ):
        tally_of(*records).check(planned)


@pytest.mark.parametrize(
    ("records", "planned"),
    [
        ([], totals(shards=0)),
        (
            [record(0, pixels_done=4, pixels_nodata=3, pixels_dead=3)],
            totals(shards=1, pixels=10),
        ),
        # The size of images is not known when they are planned.
        ([record(0, pixels_done=4)], totals(shards=1, pixels=0)),
    ],
)
def test_what_adds_up_passes(records, planned):
    tally_of(*records).check(planned)


def test_dead_letters_are_in_order_of_uri_row_and_column():
    letters = [
        letter("/b", row=512, col=0),
        letter("/b", row=0, col=512, height=7, width=9, attempts=2),
        letter("/b", row=0, col=0),
        letter("/a"),
    ]
    tally = tally_of(
        *(record(i, items_done=0, dead_letters=(one,)) for i, one in enumerate(letters))
    )
    rows = pq.read_table(io.BytesIO(tally.dead_letter_file())).to_pylist()
    assert [(row["uri"], row["row"], row["col"]) for row in rows] == [
        ("/a", None, None),
        ("/b", 0, 0),
        ("/b", 0, 512),
        ("/b", 512, 0),
    ]
    assert rows[2] == {
        "uri": "/b",
        "key": "b",
        "row": 0,
        "col": 512,
        "height": 7,
        "width": 9,
        "stage": "read",
        "code": "c",
        "message": "m",
        "attempts": 2,
    }


def test_no_dead_letter_is_a_file_with_columns():
    table = pq.read_table(io.BytesIO(Tally().dead_letter_file()))
    assert table.num_rows == 0
    assert "message" in table.schema.names
