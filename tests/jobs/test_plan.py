from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from deeplab.tiles import Window
from jobs import plan
from jobs.plan import measure_plan, read_about, read_plan, write_plan
from jobs.shards import Block, Item, Part, Refusal, Shard, Sidecar, plan_shards
from jobs.windows import cut_blocks


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plan.parquet"


@pytest.fixture
def map_shards(make_items):
    """Two rasters in blocks, one that is refused between them."""
    first, bad, second = make_items(100, 10, 1000)
    refusal = Refusal(code="unsupported", message="the raster has a palette")
    parts = [(first, block, None) for block in cut_blocks(1000, 700, 512)]
    parts += [(bad, None, refusal)]
    parts += [(second, block, None) for block in cut_blocks(512, 513, 512)]
    return [
        Shard(index=i, items=(item,), block=block, refusal=why)
        for i, (item, block, why) in enumerate(parts)
    ]


def test_images_come_back(path, make_items):
    shards = list(plan_shards(make_items(*range(20)), max_items=3, max_bytes=30))
    totals = write_plan(shards, path, about={})
    assert list(read_plan(path)) == shards
    assert (totals.items, totals.shards) == (20, len(shards))
    assert (totals.size, totals.pixels) == (sum(range(20)), 0)


def test_parts_come_back(path, make_items):
    whole, *items = make_items(*range(1, 9))
    sidecars = (Sidecar(suffix="json", at=10, size=3), Sidecar(suffix="txt", at=0, size=0))
    refusal = Refusal(code="truncated", message="the tar ends within it")
    parts = [
        Part(of="s3://b/a.tar", at=2**40),
        Part(of="s3://b/a.tar", at=0, sidecars=sidecars),
        Part(of="s3://b/a.tar", at=7, refusal=refusal),
        *(Part(of="s3://b/c.parquet", at=at, group=3, column="image") for at in range(3)),
        Part(of="s3://b/d.tar", at=0, refusal=refusal),
    ]
    items = [replace(one, part=part) for one, part in zip(items, parts, strict=True)]
    for first in ([whole], []):
        shards = list(plan_shards([*first, *items], max_items=2, max_bytes=100))
        totals = write_plan(shards, path, about={})
        assert list(read_plan(path)) == shards
        assert measure_plan(path) == totals
    # Another column of the same rows is another plan.
    others = [replace(one, part=replace(one.part, column="other")) for one in items]
    shards = list(plan_shards(others, max_items=2, max_bytes=100))
    assert write_plan(shards, path, about={}).digest != totals.digest


def test_blocks_and_refusals_come_back(path, map_shards):
    totals = write_plan(map_shards, path, about={})
    assert list(read_plan(path)) == map_shards
    # A raster counts once, however many blocks it has.
    assert (totals.items, totals.shards, totals.size) == (3, 7, 1110)
    assert totals.pixels == 1000 * 700 + 512 * 513


def test_rasters_that_share_a_shard_come_back(path, make_items):
    items = make_items(1, 20, 300, 4000)
    sizes = [(1, 1), (512, 3), (7, 512), (512, 512)]
    blocks = [
        next(cut_blocks(*size, 512, grid=f"of {number}"))
        for number, size in enumerate(sizes)
    ]
    shards = [
        Shard(index=0, items=tuple(items[:3]), blocks=tuple(blocks[:3])),
        Shard(index=1, items=(items[3],), block=blocks[3]),
    ]
    totals = write_plan(shards, path, about={})
    assert list(read_plan(path)) == shards
    assert (totals.items, totals.shards, totals.size) == (4, 2, 4321)
    assert totals.pixels == sum(height * width for height, width in sizes)
    assert measure_plan(path) == totals
    alone = [
        Shard(index=i, items=(item,), block=block)
        for i, (item, block) in enumerate(zip(items, blocks, strict=True))
    ]
    assert write_plan(alone, path, about={}).digest == totals.digest


def test_one_block_of_everything(path):
    item = Item(uri="/a \u6771.tif", key="a \u6771.tif", size=2**40, etag="\"'")
    core = Window(row=2**30, col=3, height=1, width=2)
    block = Block(number=9, core=core, height=2**30 + 1, width=5, grid='{"crs": null}')
    block = replace(block, decoded=2**40)
    shard = Shard(index=0, items=(item,), block=block)
    write_plan([shard], path, about={})
    assert list(read_plan(path)) == [shard]


def test_a_plan_that_is_read_adds_up_to_the_same(path, map_shards):
    assert write_plan(map_shards, path, about={}) == measure_plan(path)


def test_what_it_was_made_for_comes_back(path, make_items):
    shards = plan_shards(make_items(1), max_items=1, max_bytes=1)
    write_plan(shards, path, about={"identity": "0123456789abcdef"})
    assert read_about(path) == {"identity": "0123456789abcdef"}


def test_digest_depends_on_the_items_alone(tmp_path, make_items):
    def digest(items, max_items):
        shards = plan_shards(items, max_items=max_items, max_bytes=10**9)
        return write_plan(shards, tmp_path / "plan", about={"cut": max_items}).digest

    items = make_items(*range(10))
    assert digest(items, 1) == digest(items, 3) == digest(items, 99)
    assert digest(items[:-1], 3) != digest(items, 3)


def test_digest_does_not_depend_on_the_block(tmp_path, make_items):
    (item,) = make_items(7)

    def digest(block):
        shards = (
            Shard(index=part.number, items=(item,), block=part)
            for part in cut_blocks(3000, 2000, block)
        )
        return write_plan(shards, tmp_path / "plan", about={}).digest

    assert digest(512) == digest(1024) == digest(4096)


@pytest.mark.parametrize("change", [{"uri": "s3://bucket/z"}, {"size": 8}, {"etag": "z"}])
def test_digest_notices_a_changed_object(tmp_path, change):
    fields = {"uri": "s3://bucket/a", "key": "a", "size": 7, "etag": "e"}
    digests = {
        write_plan(
            [Shard(index=0, items=(Item(**one),))], tmp_path / "plan", about={}
        ).digest
        for one in (fields, fields | change)
    }
    assert len(digests) == 2


def test_rows_are_written_group_by_group(path, make_items, monkeypatch):
    monkeypatch.setattr(plan, "_ROWS_A_GROUP", 8)
    shards = list(plan_shards(make_items(*[1] * 50), max_items=3, max_bytes=99))
    totals = write_plan(iter(shards), path, about={})
    assert pq.ParquetFile(path).num_row_groups == 7
    # Shards that straddle two groups come back whole.
    assert list(read_plan(path)) == shards
    assert measure_plan(path) == totals


def test_writing_takes_no_more_shards_than_a_group_needs(path, make_items, monkeypatch):
    monkeypatch.setattr(plan, "_ROWS_A_GROUP", 8)
    held = []
    written = []
    tables = pq.ParquetWriter.write_table

    def write_table(self, table):
        written.append((len(held), table.num_rows))
        tables(self, table)

    def shards():
        for shard in plan_shards(make_items(*[1] * 20), max_items=1, max_bytes=99):
            held.append(shard)
            yield shard

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    write_plan(shards(), path, about={})
    assert written == [(8, 8), (16, 8), (20, 4)]


def test_no_shard_is_a_plan_too(path):
    assert write_plan([], path, about={}).shards == 0
    assert list(read_plan(path)) == []
