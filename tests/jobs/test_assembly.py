import random

import pytest

from jobs.assembly import Rasters
from jobs.ledger import Output, Record, TaskRecord, dead_letter
from jobs.shards import Item, Shard
from jobs.windows import cut_blocks

BLOCK = 512


def shards_of(name, height=600, width=1100, grid="there"):
    item = Item(uri=f"s3://b/{name}", key=name, size=1, etag="e")
    return [
        Shard(index=i, items=(item,), block=block)
        for i, block in enumerate(cut_blocks(height, width, BLOCK, grid=grid))
    ]


def piece(shard, pass_=0):
    name = f"pieces/{shard.items[0].key}-{shard.block.number}-{pass_}"
    return Output(name=name, size=1, sha256="s")


def done(shard, pass_=0):
    return record(shard, items_done=1, outputs=(piece(shard, pass_),))


def record(shard, **fields):
    return Record(shard=shard.index, fingerprint="f", items=1, **fields)


def dead(shard):
    letter = dead_letter(shard.items[0], "read", "unreachable", "m")
    return record(shard, items_done=0, dead_letters=(letter,))


def collect(rasters, pairs):
    return [task for shard, one in pairs for task in rasters.add(shard, one)]


@pytest.mark.parametrize("seed", range(3))
def test_a_raster_is_complete_with_its_last_block_in_any_order(seed):
    shards = [*shards_of("a.tif"), *shards_of("b.tif", 512, 513), *shards_of("c.tif")]
    random.Random(seed).shuffle(shards)
    rasters, seen = Rasters(BLOCK), []
    for shard in shards:
        seen.append(shard)
        for task in rasters.add(shard, done(shard)):
            mine = [one for one in seen if one.items == (task.item,)]
            assert mine[-1] is shard
            assert len(mine) == len(task.pieces) == (2 if task.key == "b.tif" else 6)
            assert [number for number, _ in task.pieces] == list(range(len(mine)))
            assert not task.dead
            assert task.replaces == ()
            assert task.grid == "there"
    assert not rasters._under_way


def test_nodata_and_dead_blocks_have_no_piece():
    shards = shards_of("a.tif")
    records = [done(shards[0]), record(shards[1], items_done=1), dead(shards[2])]
    records += [done(shard) for shard in shards[3:]]
    (task,) = collect(Rasters(BLOCK), zip(shards, records, strict=True))
    assert [number for number, _ in task.pieces] == [0, 3, 4, 5]
    assert task.dead


def test_a_refused_raster_is_never_put_together():
    item = Item(uri="s3://b/a.tif", key="a.tif", size=1, etag="e")
    shard = Shard(index=0, items=(item,))
    assert collect(Rasters(BLOCK), [(shard, dead(shard))]) == []


def test_rasters_of_one_block_are_never_put_together():
    (alone,), (other,) = shards_of("a.tif", 512, 512), shards_of("b.tif", 3, 3)
    assert collect(Rasters(BLOCK), [(alone, done(alone))]) == []
    group = Shard(
        index=0, items=(*alone.items, *other.items), blocks=(alone.block, other.block)
    )
    one = Record(shard=0, fingerprint="f", items=2, items_done=2)
    assert collect(Rasters(BLOCK), [(group, one)]) == []


def test_a_raster_that_was_one_block_may_have_many_in_a_retry():
    (before,) = shards_of("a.tif", 512, 512)
    shards = shards_of("a.tif")
    rasters = Rasters(BLOCK)
    rasters.retry(shards, [([before], Past([dead(before)]))])
    (task,) = collect(rasters, [(shard, done(shard, 1)) for shard in shards])
    assert [number for number, _ in task.pieces] == list(range(6))
    assert not task.dead


class Past:
    """A ledger of an earlier pass."""

    def __init__(self, records, tasks=()):
        self.records, self.tasks = records, tasks

    def read(self):
        return iter(self.records)

    def read_tasks(self):
        return iter(self.tasks)


def test_a_retry_needs_its_own_blocks_and_takes_the_pieces_of_before():
    shards = shards_of("a.tif")
    before = [done(shard) if shard.index not in {2, 4} else dead(shard) for shard in shards]
    (first,) = collect(Rasters(BLOCK), zip(shards, before, strict=True))
    cog = Output(name="rasters/a.tif", size=9, sha256="old", etag="e")
    past = Past(before, [TaskRecord(key="a.tif", fingerprint="f", outputs=(cog,))])
    rasters = Rasters(BLOCK)
    wanted = [Shard(index=0, items=shards[2].items, block=shards[2].block)]
    rasters.retry(wanted, [(shards, past)])
    (task,) = rasters.add(wanted[0], done(wanted[0], 1))
    assert task.grid == "there", "the retry has not planned the first block"
    assert dict(task.pieces) == {**dict(first.pieces), 2: piece(wanted[0], 1)}
    assert task.dead, "block 4 was not retried"
    assert task.replaces == (cog,)


def test_a_second_retry_ends_what_the_first_left_dead():
    shards = shards_of("a.tif")
    before = [done(shard) if shard.index not in {2, 4} else dead(shard) for shard in shards]
    first = [Shard(index=0, items=shards[2].items, block=shards[2].block)]
    second = [Shard(index=0, items=shards[4].items, block=shards[4].block)]
    rasters = Rasters(BLOCK)
    rasters.retry(second, [(shards, Past(before)), (first, Past([done(first[0], 1)]))])
    (task,) = rasters.add(second[0], done(second[0], 2))
    assert [number for number, _ in task.pieces] == list(range(6))
    assert not task.dead


def test_a_raster_lies_where_the_newest_plan_says():
    shards = shards_of("a.tif")
    before = [dead(shard) for shard in shards]
    moved = shards_of("a.tif", grid="elsewhere")
    rasters = Rasters(BLOCK)
    rasters.retry(moved, [(shards, Past(before))])
    (task,) = collect(rasters, [(shard, done(shard, 1)) for shard in moved])
    assert task.grid == "elsewhere"


def test_a_retry_that_brings_nothing_new_leaves_the_raster_alone():
    shards = shards_of("a.tif")
    before = [done(shard) if shard.index else dead(shard) for shard in shards]
    cog = Output(name="rasters/a.tif", size=9, sha256="old", etag="e")
    past = Past(before, [TaskRecord(key="a.tif", fingerprint="f", outputs=(cog,))])
    rasters = Rasters(BLOCK)
    rasters.retry(shards[:1], [(shards, past)])
    assert list(rasters.add(shards[0], dead(shards[0]))) == []
    assert not rasters._under_way
