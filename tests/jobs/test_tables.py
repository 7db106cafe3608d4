"""pyarrow and Hugging Face's datasets write the tables."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.errors import InputError, ItemError, StoreError
from jobs.inputs.packed import find_images, refresh_image
from jobs.inputs.parts import read_part, read_size
from jobs.inputs.tables import RangeFile, find_rows
from jobs.shards import Item, Shard, plan_shards
from jobs.spec import Pick

SUFFIXES = (".jpg", ".png")
BYTES = [bytes([number]) * (number + 1) for number in range(10)]


def write(table, **options):
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def table_of(name="image", values=BYTES, kind=None, **others):
    columns = {name: pa.array(values, kind or pa.binary())}
    return pa.table(columns | {name: pa.array(one) for name, one in others.items()})


def structs(values=BYTES):
    """As Hugging Face keeps images."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": one, "path": f"{number}.png"} for number, one in enumerate(values)]
    return pa.table({"label": [7] * len(rows), "image": pa.array(rows, kind)})


FORMS = {
    "binary": table_of,
    "large binary": lambda: table_of(kind=pa.large_binary()),
    "another name": lambda: table_of("JPG", caption=["a cat"] * 10),
    "the only one": lambda: table_of("pixels", label=[1] * 10),
    "beside shapes": lambda: table_of("pixels", geometry=BYTES),
    "a struct": structs,
}


def items_of(place, data, name="source/x.parquet", pick=None):
    place.store.create(place.at(name), data)
    return list(find_images(place.store, place.at(name), SUFFIXES, pick=pick))


def read_all(place, items):
    shard, found = Shard(index=0, items=tuple(items)), []
    for item in items:
        try:
            found.append(read_part(place.store, shard, item)[0])
        except ItemError as error:
            found.append(error.code)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_items(local, form):
    items = items_of(local, write(FORMS[form](), row_group_size=4))
    assert [item.key for item in items] == [f"x.parquet/{n:09d}" for n in range(10)]
    assert [(item.part.group, item.part.at) for item in items] == [
        divmod(number, 4) for number in range(10)
    ]
    assert [item.uri for item in items] == sorted({item.uri for item in items})
    assert read_all(local, items) == BYTES


@pytest.mark.s3
def test_rows_are_read_from_a_bucket(remote):
    items = items_of(remote, write(structs(), row_group_size=4))
    assert read_all(remote, items) == BYTES
    assert read_all(remote, items[5:6]) == BYTES[5:6]


def test_a_data_set_of_hugging_face(local, tmp_path):
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": Value("int64")})
    rows = {"image": [{"bytes": one, "path": None} for one in BYTES], "label": [0] * 10}
    path = tmp_path / "hub.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(path)
    assert read_all(local, items_of(local, path.read_bytes())) == BYTES


def test_the_name_of_a_file_is_kept_beside_its_image(local):
    items = items_of(local, write(structs()))
    shard = Shard(index=0, items=tuple(items))
    assert read_part(local.store, shard, items[3]) == (BYTES[3], {"path": "3.png"})


def test_a_row_without_bytes_is_a_dead_letter(local):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [
        {"bytes": b"1", "path": None},
        {"bytes": None, "path": "s3://b/2.jpg"},
        None,
        {"bytes": b"4", "path": "4"},
    ]
    items = items_of(local, write(pa.table({"image": pa.array(rows, kind)})))
    assert read_all(local, items) == [b"1", "undecodable", "undecodable", b"4"]
    shard = Shard(index=0, items=tuple(items))
    with pytest.raises(ItemError, match=r"no bytes, only the name 's3://b/2.jpg'"):
        read_part(local.store, shard, items[1])
    nulls = items_of(local, write(table_of(values=[b"1", None])), "source/y.parquet")
    assert read_all(local, nulls) == [b"1", "undecodable"]


def test_a_damaged_row_group_costs_its_rows(local):
    data = bytearray(
        write(
            table_of(values=[b"%04d" % n * 500 for n in range(12)]),
            row_group_size=4,
            compression="none",
            use_dictionary=False,
        )
    )
    place = (
        pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(0).data_page_offset
    )
    data[place : place + 40] = b"\xff" * 40
    items = items_of(local, bytes(data))
    found = read_all(local, items)
    assert found[4:8] == ["undecodable"] * 4
    assert found[:4] + found[8:] == [b"%04d" % n * 500 for n in (0, 1, 2, 3, 8, 9, 10, 11)]


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1" + bytes(50) + b"PAR1", write(table_of())[:-20]]
)
def test_a_damaged_file_is_one_dead_letter(local, data):
    local.store.create(local.at("source/a.jpg"), b"")
    local.store.create(local.at("source/x.parquet"), data)
    image, damaged = find_images(local.store, local.at("source"), SUFFIXES)
    assert (image.part, damaged.key) == (None, "x.parquet")
    assert (damaged.uri, damaged.part.refusal.code) == (
        local.at("source/x.parquet"),
        "undecodable",
    )


def test_a_column_is_never_guessed(local):
    data = write(table_of("left", right=BYTES))
    with pytest.raises(InputError, match=r"holds bytes in left, right; name .* source_col"):
        items_of(local, data)
    items = items_of(local, data, "source/y.parquet", Pick(column="right"))
    assert {item.part.column for item in items} == {"right"}
    local.store.create(local.at("more/z.parquet"), data)
    with pytest.raises(InputError, match=r"no column middle of bytes, it has left, right"):
        list(
            find_images(local.store, local.at("more"), SUFFIXES, pick=Pick(column="middle"))
        )


def test_two_columns_of_one_name_are_refused(local):
    table = pa.Table.from_arrays([pa.array(BYTES)] * 2, names=["image", "image"])
    with pytest.raises(InputError, match="has more than one column image; rename"):
        items_of(local, write(table))


def test_few_large_rows_are_held_at_a_time(local, monkeypatch):
    """Rows that compress to nothing are no reason to hold sixteen of them."""
    monkeypatch.setattr("jobs.inputs.tables._BATCH_BYTES", 2500)
    data = write(table_of(values=[bytes(1000)] * 20), use_dictionary=False)
    held = []
    read = pq.ParquetFile.iter_batches

    def watch(file, **more):
        for batch in read(file, **more):
            held.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watch)
    assert read_all(local, items_of(local, data)) == [bytes(1000)] * 20
    assert max(held) == 2


def test_a_column_is_chosen_only_where_there_is_one(local):
    local.store.create(local.at("source/a.jpg"), b"")
    with pytest.raises(
        InputError, match="source_column chooses from an index or a Parquet"
    ):
        list(find_images(local.store, local.at("source"), SUFFIXES, pick=Pick(column="a")))
    with pytest.raises(InputError, match="asset chooses from an index"):
        list(find_images(local.store, local.at("source"), SUFFIXES, pick=Pick(asset="a")))


def test_a_table_of_locations_is_an_index(local):
    local.store.create(local.at("a.jpg"), b"1")
    local.store.create(local.at("b.tar"), b"")
    index = pa.table({"url": ["a.jpg", "b.tar"], "geometry": [b"", b""]})
    items = items_of(local, write(index), "x.parquet")
    assert [(item.key, item.part is None) for item in items] == [
        ("a.jpg", True),
        ("b.tar", False),
    ]
    # In a folder it is no input, like any other file that is none.
    assert [item.key for item in find_images(local.store, local.root, SUFFIXES)] == [
        "a.jpg",
        "b.tar",
    ]


def test_files_of_a_glob_are_read_in_order(place):
    for number in (2, 0, 1):
        name = f"source/train-{number}.parquet"
        place.store.create(place.at(name), write(table_of(values=BYTES[number:3])))
    place.store.create(place.at("source/test-0.parquet"), write(table_of()))
    items = list(find_images(place.store, place.at("source/train-*.parquet"), SUFFIXES))
    assert read_all(place, items) == [*BYTES[:3], *BYTES[1:3], BYTES[2]]


def test_shards_take_whole_row_groups(local):
    items = items_of(local, write(table_of(values=[b"x" * 100] * 40), row_group_size=8))

    def cut(max_items, max_bytes=10**9):
        shards = plan_shards(items, max_items=max_items, max_bytes=max_bytes)
        return [len(shard.items) for shard in shards]

    assert cut(8) == [8] * 5
    assert cut(20) == [16, 16, 8]
    assert cut(5) == [8] * 5  # a row group stays together
    size = items[0].size
    assert cut(64, 3 * size) == [3, 3, 2] * 5  # unless it is too large


def test_a_row_group_of_very_many_rows_is_shared(local):
    items = items_of(local, write(table_of(values=[b"x"] * 200)))
    shards = list(plan_shards(items, max_items=1, max_bytes=10**9))
    assert [len(shard.items) for shard in shards] == [64, 64, 64, 8]
    assert read_part(local.store, shards[2], shards[2].items[-1])[0] == b"x"


def test_a_row_group_is_read_once(local, monkeypatch):
    values = [bytes([number]) * 200_000 for number in range(30)]
    data = write(
        table_of(values=values),
        row_group_size=10,
        use_dictionary=False,
        compression="none",
    )
    items = items_of(local, data)
    asked, read = [], local.store.read_part

    def count(uri, start, size, *, etag):
        asked.append(size)
        return read(uri, start, size, etag=etag)

    monkeypatch.setattr(local.store, "read_part", count)
    assert read_all(local, items[10:20]) == values[10:20]
    assert sum(asked) < 1.3 * len(data) / 3
    assert read_all(local, items[19:20]) == values[19:20]


def test_a_file_that_changed_is_never_mixed_in(local):
    items = items_of(local, write(table_of()))
    local.store.replace(local.at("source/x.parquet"), write(table_of(values=BYTES * 2)))
    assert set(read_all(local, items)) == {"input_changed"}
    assert refresh_image(local.store, items[0]).part.refusal.code == "input_changed"
    local.store.delete(local.at("source/x.parquet"))
    assert set(read_all(local, items)) == {"not_found"}


@pytest.mark.parametrize("error", [StoreError("down"), ItemError("forbidden", "no")])
def test_what_the_store_says_comes_through_pyarrow(local, monkeypatch, error):
    (first, *_) = items_of(local, write(table_of()))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(local.store, "read_part", fail)
    with pytest.raises(type(error)) as caught:
        read_part(local.store, Shard(index=0, items=(first,)), first)
    assert caught.value is error


def test_a_plan_counts_the_pixels_of_rows(local):
    file = io.BytesIO()
    Image.new("RGB", (7, 5)).save(file, "png")
    items = items_of(local, write(table_of(values=[file.getvalue(), b"none"])))
    shard = Shard(index=0, items=tuple(items))
    assert [read_size(local.store, shard, item) for item in items] == [(5, 7), None]


def test_a_range_file_reads_as_a_file_does(local):
    data = bytes(range(256)) * 1000
    local.store.create(local.at("x"), data)
    stat, twin = local.store.stat(local.at("x")), io.BytesIO(data)
    file = RangeFile(local.store, stat.uri, stat.size, stat.etag)
    for offset, whence, size in [
        (5, 0, 9),
        (3, 1, 70_000),
        (-9, 2, 20),
        (0, 0, -1),
        (1, 1, 4),
    ]:
        assert file.seek(offset, whence) == twin.seek(offset, whence)
        assert file.read(size) == twin.read(size)
        assert file.tell() == twin.tell()


def test_planning_reads_footers_alone(local, monkeypatch):
    data = write(
        table_of(values=[b"x" * 10_000] * 100), use_dictionary=False, compression="none"
    )
    local.store.create(local.at("source/x.parquet"), data)
    asked, read = [], local.store.read_part

    def count(uri, start, size, *, etag):
        asked.append(size)
        return read(uri, start, size, etag=etag)

    monkeypatch.setattr(local.store, "read_part", count)
    stat = local.store.stat(local.at("source/x.parquet"))
    table = Item(uri=stat.uri, key="x.parquet", size=stat.size, etag=stat.etag)
    assert len(list(find_rows(local.store, table, Pick()))) == 100
    assert sum(asked) <= 2**16
