import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.outputs import masks
from jobs.outputs.masks import SCHEMA, MaskWriter, make_row, read_masks


def some_masks():
    """Masks of four classes, with nodata, of several sizes."""
    rng = np.random.default_rng(5)
    shapes = [(3, 5), (1, 1), (40, 30), (7, 1)]
    found = [rng.integers(0, 4, shape).astype(np.uint8) for shape in shapes]
    found[2][:10] = 255
    found.append(np.full((2, 2), 255, dtype=np.uint8))
    return found


@pytest.fixture
def write(tmp_path, make_bundle, make_result):
    """Write a file of masks and say where."""

    def make(given, *, bundle=None, confidence=None):
        path = tmp_path / "part.parquet"
        bundle = bundle or make_bundle()
        with MaskWriter(path, bundle) as writer:
            for i, mask in enumerate(given):
                result = make_result(mask, key=f"{i}.jpg", confidence=confidence)
                writer.add(make_row(result, bundle))
        return path

    return make


def assert_rows(rows):
    """Hold rows, however they were read, against the masks written."""
    given = some_masks()
    assert len(rows) == len(given)
    for i, (row, mask) in enumerate(zip(rows, given, strict=True)):
        assert (row["uri"], row["key"]) == (f"s3://bucket/{i}.jpg", f"{i}.jpg")
        assert (row["height"], row["width"]) == mask.shape
        assert row["mask_encoding"] == "raw"
        found = np.frombuffer(row["mask"], "uint8").reshape(row["height"], row["width"])
        np.testing.assert_array_equal(found, mask)
        assert list(row["class_pixels"]) == [int((mask == k).sum()) for k in range(4)]
        assert row["bundle_digest"] == "d" * 64


def test_pyarrow_reads_the_rows(write):
    table = pq.read_table(write(some_masks()))
    assert table.schema.equals(SCHEMA)
    assert_rows(table.to_pylist())


def test_duckdb_reads_the_rows(write):
    duckdb = pytest.importorskip("duckdb")
    path = write(some_masks())
    with duckdb.connect() as connection:
        found = connection.execute(f"from '{path}'")
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        assert_rows(rows)
        area = connection.execute(
            f"select sum(class_pixels[2]) from '{path}' where height > 1"  # noqa: S608
        ).fetchone()
    assert area == (sum(int((m == 1).sum()) for m in some_masks() if m.shape[0] > 1),)


def test_datasets_reads_the_rows(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(
        "parquet", data_files=str(write(some_masks())), cache_dir=str(tmp_path / "cache")
    )
    assert_rows(list(found["train"]))


def test_our_own_reader(write):
    found = list(read_masks(write(some_masks())))
    assert [key for key, _ in found] == [f"{i}.jpg" for i in range(5)]
    for (_, mask), given in zip(found, some_masks(), strict=True):
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, given)


def columns(path):
    group = pq.ParquetFile(path).metadata.row_group(0)
    found = [group.column(i) for i in range(group.num_columns)]
    return {column.path_in_schema.split(".")[0]: column for column in found}


def test_masks_are_zstd_without_a_dictionary(write):
    found = columns(write(some_masks()))
    assert {column.compression for column in found.values()} == {"ZSTD"}
    mask = found["mask"]
    assert not mask.has_dictionary_page
    assert not [one for one in mask.encodings if "DICT" in one]


def test_masks_have_no_statistics_but_keys_have(write):
    """The least and greatest mask would be kept in the footer, whole."""
    found = columns(write(some_masks()))
    assert found["mask"].statistics is None
    assert found["key"].statistics.max == "4.jpg"
    assert found["height"].statistics.max == 40


def groups(path):
    file = pq.ParquetFile(path)
    sizes = []
    for i in range(file.num_row_groups):
        rows = file.read_row_group(i, columns=["height", "width"]).to_pylist()
        sizes.append([row["height"] * row["width"] for row in rows])
    return sizes


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((40, 40, 40), [[40, 40], [40]]),
        ((50, 50, 1), [[50, 50], [1]]),  # the limit itself still fits
        ((500, 1, 1), [[500], [1, 1]]),  # larger alone: a group of its own
        ((1, 500, 1), [[1], [500], [1]]),
        ((), []),
    ],
)
def test_a_row_group_is_bounded_by_its_masks(write, monkeypatch, sizes, expected):
    monkeypatch.setattr(masks, "_GROUP_BYTES", 100)
    path = write([np.zeros((1, size), dtype=np.uint8) for size in sizes])
    assert groups(path) == expected


def test_no_more_than_a_group_is_held(tmp_path, make_bundle, make_result, monkeypatch):
    monkeypatch.setattr(masks, "_GROUP_BYTES", 100)
    with MaskWriter(tmp_path / "part", make_bundle()) as writer:
        for _ in range(20):
            writer.add(make_row(make_result(np.zeros((3, 11), np.uint8)), make_bundle()))
            assert sum(len(row["mask"]) for row in writer._rows) <= 100


def test_the_file_says_what_the_ids_mean(write, make_bundle):
    metadata = pq.read_schema(write(some_masks())).metadata
    fields = json.loads(metadata[b"atrous"])
    assert fields["schema_version"] == 2
    assert fields["nodata"] == 255
    assert [info["name"] for info in fields["classes"]] == [
        info.name for info in make_bundle().classes
    ]
    assert fields["classes"][3]["color"] == [3, 6, 252]


def test_confidence_is_the_mean_over_pixels_with_a_class(write):
    mask = np.array([[0, 1], [255, 255]], dtype=np.uint8)
    confidence = np.array([[255, 51], [0, 0]], dtype=np.uint8)
    (row,) = pq.read_table(write([mask], confidence=confidence)).to_pylist()
    assert row["mean_confidence"] == pytest.approx((1 + 0.2) / 2)


def test_an_image_of_nodata_alone_has_no_confidence(write):
    (row,) = pq.read_table(write([np.full((2, 3), 255, dtype=np.uint8)])).to_pylist()
    assert row["mean_confidence"] is None
    assert row["class_pixels"] == [0, 0, 0, 0]


def test_one_class_and_254_classes_are_counted(write, make_bundle):
    mask = np.arange(254, dtype=np.uint8).reshape(2, 127)
    (row,) = pq.read_table(write([mask], bundle=make_bundle(count=254))).to_pylist()
    assert row["class_pixels"] == [1] * 254
    zeros = np.zeros((2, 2), dtype=np.uint8)
    (row,) = pq.read_table(write([zeros], bundle=make_bundle(count=1))).to_pylist()
    assert row["class_pixels"] == [4]


def test_a_mask_in_another_order_in_memory_is_written_row_by_row(write):
    mask = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 4)
    ((_, found),) = read_masks(write([mask]))
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("other", [4, 200, 254, 255])
def test_ids_that_are_no_class_are_not_counted(write, other):
    mask = np.array([[0, 3], [other, other]], dtype=np.uint8)
    confidence = np.array([[255, 255], [51, 51]], dtype=np.uint8)
    (row,) = pq.read_table(write([mask], confidence=confidence)).to_pylist()
    assert row["class_pixels"] == [1, 0, 0, 1]
    assert row["mean_confidence"] == 1


def test_one_content_has_one_file(write):
    first = write(some_masks()).read_bytes()
    assert write(some_masks()).read_bytes() == first
