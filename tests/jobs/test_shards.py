import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab.tiles import Window
from jobs.errors import InputError
from jobs.shards import Block, Item, Refusal, Shard, group_wholes, plan_shards
from jobs.windows import cut_blocks


def items(*sizes):
    return [
        Item(uri=f"s3://b/{i:04d}.jpg", key=f"{i:04d}.jpg", size=size, etag="e")
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("sizes", "max_items", "max_bytes", "expected"),
    [
        ((1, 1, 1), 2, 99, [2, 1]),  # closed by the item limit
        ((4, 4, 4), 9, 8, [2, 1]),  # closed by the byte limit
        ((4, 4), 9, 8, [2]),  # the byte limit itself still fits
        ((9, 1, 1), 9, 8, [1, 2]),  # too large alone, still planned
        ((1, 9, 1), 9, 8, [1, 1, 1]),  # and it takes no neighbour with it
        ((0, 0, 0), 9, 1, [3]),  # empty files take no room
        ((5,), 1, 1, [1]),
        ((), 1, 1, []),
    ],
)
def test_limits(sizes, max_items, max_bytes, expected):
    shards = plan_shards(items(*sizes), max_items=max_items, max_bytes=max_bytes)
    assert [len(shard.items) for shard in shards] == expected


@given(
    sizes=st.lists(st.integers(0, 50), max_size=60),
    max_items=st.integers(1, 9),
    max_bytes=st.integers(1, 99),
)
def test_every_item_once_in_order_within_the_limits(sizes, max_items, max_bytes):
    source = items(*sizes)
    shards = list(plan_shards(source, max_items=max_items, max_bytes=max_bytes))
    assert [item for shard in shards for item in shard.items] == source
    assert [shard.index for shard in shards] == list(range(len(shards)))
    for shard in shards:
        assert 1 <= len(shard.items) <= max_items
        assert shard.size <= max_bytes or len(shard.items) == 1
        assert shard.size == sum(item.size for item in shard.items)


@given(sizes=st.lists(st.integers(0, 50), min_size=2, max_size=40))
def test_no_shard_is_closed_early(sizes):
    shards = list(plan_shards(items(*sizes), max_items=5, max_bytes=99))
    for shard, following in itertools.pairwise(shards):
        room = 99 - shard.size
        assert len(shard.items) == 5 or following.items[0].size > room


def test_planning_streams():
    def endless():
        yield from items(1, 1, 1)
        raise AssertionError("read further than the shard needs")

    shard = next(plan_shards(endless(), max_items=2, max_bytes=99))
    assert len(shard.items) == 2


SIDE = 8
"""Of a block, in px; no raster needs to be written for a plan."""


@st.composite
def rasters(draw):
    """Shards of one item each, as a map cuts them: whole, in blocks, or refused."""
    sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))
    found = []
    for number in range(draw(st.integers(0, 25))):
        name = f"{number:03d}.tif"
        item = Item(uri=name, key=name, size=draw(st.integers(0, 40)), etag="e")
        size = draw(st.none() | sizes)
        if size is None:
            refusal = Refusal(code="unsupported", message="it is no raster")
            found.append(Shard(index=0, items=(item,), refusal=refusal))
        else:
            blocks = cut_blocks(*size, SIDE, grid=name)
            found += [Shard(index=0, items=(item,), block=block) for block in blocks]
    return found


def group(shards, *, max_items=4, max_bytes=99, max_pixels=SIDE**2):
    limits = {"max_items": max_items, "max_bytes": max_bytes, "max_pixels": max_pixels}
    return list(group_wholes(iter(shards), **limits))


@given(
    parts=rasters(),
    max_items=st.integers(1, 6),
    max_bytes=st.integers(1, 99),
    max_pixels=st.integers(1, SIDE**2),
)
def test_every_raster_is_in_one_shard_in_order_within_the_limits(
    parts, max_items, max_bytes, max_pixels
):
    limits = {"max_items": max_items, "max_bytes": max_bytes, "max_pixels": max_pixels}
    shards = group(parts, **limits)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    alone = [dataclasses.replace(one, index=0) for it in shards for one in it.split()]
    assert alone == parts
    for shard in shards:
        assert len(shard.blocks) in {0, len(shard.items)}
        assert len(shard.items) == 1 or shard.blocks
        if shard.blocks:
            assert (shard.block, shard.refusal) == (None, None)
            assert 2 <= len(shard.items) <= max_items
            assert shard.size <= max_bytes
            assert shard.pixels <= max_pixels
            assert all(block.is_whole for block in shard.blocks)


@given(parts=rasters())
def test_no_group_is_closed_early(parts):
    for shard, following in itertools.pairwise(group(parts)):
        both = (shard, following)
        if all(one.is_whole for one in both):
            first = next(following.split())
            assert (
                len(shard.items) == 4
                or shard.size + first.size > 99
                or shard.pixels + first.pixels > SIDE**2
            )


def test_grouping_streams():
    def endless():
        yield from parts
        raise AssertionError("read further than the shard needs")

    parts = [
        Shard(index=0, items=(one,), block=next(cut_blocks(2, 3, SIDE)))
        for one in items(1, 1, 1)
    ]
    limits = {"max_items": 2, "max_bytes": 99, "max_pixels": SIDE**2}
    shard = next(group_wholes(endless(), **limits))
    assert (len(shard.items), shard.pixels) == (2, 12)
    with pytest.raises(InputError, match="shard limits must be at least 1"):
        group(parts, max_items=0)


@given(parts=rasters(), data=st.data())
def test_some_items_of_a_shard_keep_their_blocks(parts, data):
    for shard in group(parts):
        names = [item.uri for item in shard.items]
        chosen = data.draw(st.sets(st.sampled_from(names), min_size=1))
        some = shard.select(chosen)
        assert some.parts == tuple(one for one in shard.parts if one[0].uri in chosen)
        assert some.is_whole == shard.is_whole
        assert bool(some.blocks) == (len(some.items) > 1)
        for item, block in some.parts:
            assert shard.block_of(item) == block


@pytest.mark.parametrize(("max_items", "max_bytes"), [(0, 9), (9, 0), (-1, 9)])
def test_limits_below_one_are_refused(max_items, max_bytes):
    with pytest.raises(InputError, match=rf"at least 1, got max_items={max_items}, max_"):
        next(plan_shards(items(1), max_items=max_items, max_bytes=max_bytes))


def test_output_key_depends_on_run_items_and_block():
    (one,) = items(1)
    whole = Shard(index=0, items=(one,))
    core = Window(row=0, col=0, height=5, width=5)
    other = Window(row=0, col=5, height=5, width=5)
    blocks = [
        Shard(index=0, items=(one,), block=Block(number=n, core=c, height=5, width=10))
        for n, c in enumerate((core, other))
    ]
    keys = [shard.output_key("run") for shard in (whole, *blocks)]
    keys += [
        whole.output_key("another"),
        Shard(index=0, items=(one, one)).output_key("run"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


def test_output_key_depends_on_nothing_else():
    (one,) = items(1)
    same = Item(uri=one.uri, key="k", size=7, etag="x")
    first, second = Shard(index=0, items=(one,)), Shard(index=8, items=(same,))
    assert first.output_key("run") == second.output_key("run")
