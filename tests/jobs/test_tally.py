import pickle

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
    assert tally.summary(totals(shards=3), finished=True) == {
        "finished": True,
        "items": 3,
        "shards": {"planned": 3, "done": 3},
        "bytes_planned": 7,
        "read_amplification": None,
        "pixels": {"done": 11, "nodata": 2, "dead": 4},
        "dead_letters": 1,
        "dead_letter_codes": {"c": 1},
        "bytes_written": 15,
        "tiles": 0,
        "padding": None,
        "rates": dict.fromkeys(
            ("tiles_s", "items_s", "decoded_images_s", "decoded_mb_s"), None
        ),
        "seconds": {"read": 0.75, "total": 1.0},
    }
    assert (tally.counts["items_done"], tally.dead) == (3, 1)


def test_nothing_done_is_all_zero():
    summary = Tally().summary(totals(), finished=False)
    assert not summary["finished"]
    assert summary["pixels"] == {"done": 0, "nodata": 0, "dead": 0}
    assert summary["shards"] == {"planned": 2, "done": 0}
    assert summary["seconds"] == {}


def test_dead_letters_are_counted_by_stage_and_code():
    letters = [letter("/a"), letter("/b", code="d"), letter("/c", stage="plan")]
    tally = tally_of(
        *(record(i, items_done=0, dead_letters=(one,)) for i, one in enumerate(letters))
    )
    assert tally.dead == 3
    assert tally.stages == {"read": 2, "plan": 1}
    assert tally.summary(totals(), finished=False)["dead_letter_codes"] == {"c": 2, "d": 1}
    assert tally.newest == letters[2]


def test_a_recount_takes_the_place_of_what_was_counted():
    block = letter("/a", row=0, col=0, height=7, width=9)
    tally = tally_of(
        record(0, items_done=0, dead_letters=(block,), pixels_dead=63),
        record(1, items_done=0, dead_letters=(letter("/b"),), pixels_done=5),
    )
    tally.recount([block, block])
    assert (tally.dead, tally.pixels) == (2, 68)


def test_a_block_that_was_done_again_counts_once():
    again = record(0, items_done=1, pixels_done=40, pixels_nodata=23)
    block = letter("/a", row=0, col=0, height=7, width=9)
    before = record(0, items_done=0, dead_letters=(block,), pixels_dead=63)
    tally = tally_of(before, again)
    tally.recount([])
    tally.forget(before, [block])
    assert (tally.dead, tally.pixels, tally.counts["pixels_dead"]) == (0, 63, 0)


def test_of_a_shard_of_rasters_only_those_done_again_are_forgotten():
    """Three of 63 px: one is done, of two dead ones one is done again."""
    first, second = (letter(key, row=0, col=0, height=7, width=9) for key in ("/a", "/b"))
    dead = {"dead_letters": (first, second), "pixels_dead": 126}
    before = record(0, items=3, items_done=1, pixels_done=63, **dead)
    tally = tally_of(before, record(0, items_done=1, pixels_done=60, pixels_nodata=3))
    tally.recount([second])
    tally.forget(before, [first])
    assert (tally.counts["pixels_done"], tally.counts["pixels_dead"]) == (123, 63)
    assert tally.pixels == 3 * 63


def test_a_block_of_a_mosaic_is_forgotten_with_what_its_other_scenes_gave():
    scene = letter("/a", row=0, col=0, height=7, width=9)
    pixels = {"pixels_done": 30, "pixels_nodata": 33}
    before = record(0, items=2, items_done=1, dead_letters=(scene,), **pixels)
    tally = tally_of(before, record(0, items=2, items_done=2, pixels_done=63))
    tally.recount([])
    tally.forget(before, [scene])
    assert (tally.counts["pixels_done"], tally.pixels) == (63, 63)


def test_a_tally_does_not_grow_with_its_records():
    def size(tally):
        return len(pickle.dumps(tally))

    tally = Tally()
    sizes = []
    for number in range(2000):
        letters = (letter(f"/{number:04d}"),)
        tally.add(record(number, items_done=0, dead_letters=letters))
        sizes.append(size(tally))
    assert max(sizes[-500:]) - sizes[100] < 64
