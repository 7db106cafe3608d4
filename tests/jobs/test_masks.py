import io
import json
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deeplab.bundle import ClassInfo
from deeplab.pictures import Entropy
from jobs.job import Origin
from jobs.outputs import masks
from jobs.outputs.mask_rows import find_levels, ignore_unsure
from jobs.outputs.masks import SCHEMA, MaskWriter, make_row, mask_schema, read_masks
from jobs.outputs.png import decode_png, encode_png

CLASSES = (ClassInfo(name="a", color=(1, 2, 3)),)


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

    def make(given, *, bundle=None, encoding="raw", provenance=None, **more):
        path = tmp_path / "part.parquet"
        bundle = bundle or make_bundle()
        with MaskWriter(path, bundle, encoding=encoding, provenance=provenance) as writer:
            for i, mask in enumerate(given):
                result = make_result(mask, key=f"{i}.jpg", **more)
                writer.add(result)
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
            writer.add(make_result(np.zeros((3, 11), np.uint8)))
            assert sum(len(row["mask"]) for row in writer._rows) <= 100


def test_the_file_says_what_the_ids_mean(write, make_bundle):
    metadata = pq.read_schema(write(some_masks())).metadata
    fields = json.loads(metadata[b"atrous"])
    assert fields["schema_version"] == 2
    assert (fields["ignore"], fields["nodata"]) == (254, 255)
    assert fields["bundle_digest"] == "d" * 64
    assert fields["atrous"] == version("atrous")
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


# What is written besides


def test_the_columns_are_those_that_were_agreed():
    names = (
        "uri key etag height width image_height image_width orientation format frames "
        "sidecars mask mask_encoding class_pixels class_confidence mean_confidence "
        "uncertain_share mean_entropy ignored_pixels bundle_digest"
    )
    assert SCHEMA.names == mask_schema("png").names == names.split()


def test_a_row_says_where_it_is_from(write):
    origin = Origin(
        format="JPEG",
        orientation=6,
        frames=3,
        height=600,
        width=400,
        sidecars={"txt": "a cat", "json": "{}"},
    )
    mask = np.zeros((30, 20), dtype=np.uint8)
    (row,) = pq.read_table(write([mask], origin=origin)).to_pylist()
    given = {
        "etag": "e",
        "height": 30,
        "width": 20,
        "image_height": 600,
        "image_width": 400,
        "orientation": 6,
        "format": "JPEG",
        "frames": 3,
    }
    assert given.items() <= row.items()
    sidecars = [{"key": "json", "value": "{}"}, {"key": "txt", "value": "a cat"}]
    assert row["sidecars"] == sidecars


def test_provenance_stands_in_the_file(write):
    path = write(some_masks(), provenance={"fingerprint": "f", "options": {"tile": 64}})
    fields = json.loads(pq.read_schema(path).metadata[b"atrous"])
    assert (fields["fingerprint"], fields["options"]) == ("f", {"tile": 64})


def slow_twin(mask, confidence, classes):
    """The columns of confidence, pixel by pixel."""
    known = [(m, c / 255) for m, c in zip(mask.flat, confidence.flat, strict=True)]
    by_class = [[c for m, c in known if m == k] for k in range(classes)]
    of_class = [c for values in by_class for c in values]
    with_data = [c for m, c in known if m < classes or m == 254]
    return {
        "class_pixels": [len(values) for values in by_class],
        "class_confidence": [np.mean(v) if v else None for v in by_class],
        "mean_confidence": np.mean(of_class) if of_class else None,
        "uncertain_share": np.mean([c < 0.5 for c in with_data]) if with_data else None,
        "ignored_pixels": sum(m == 254 for m, _ in known),
    }


@pytest.mark.parametrize("values", [(0, 1, 3, 254, 255), (255,), (254, 255), (2,)], ids=str)
def test_confidence_by_class_is_that_of_a_slow_twin(write, values):
    random = np.random.default_rng(3)
    mask = random.choice(np.array(values, dtype=np.uint8), (37, 41))
    confidence = random.integers(0, 256, mask.shape, dtype=np.uint8)
    (row,) = pq.read_table(write([mask], confidence=confidence)).to_pylist()
    for name, expected in slow_twin(mask, confidence, 4).items():
        several = isinstance(expected, list)
        pairs = (
            zip(row[name], expected, strict=True) if several else [(row[name], expected)]
        )
        for found, one in pairs:
            assert found == (one if one is None else pytest.approx(one))


def test_sums_of_many_pixels_are_whole_and_exact(write, monkeypatch):
    random = np.random.default_rng(4)
    mask = random.integers(0, 4, (64, 64), dtype=np.uint8)
    confidence = random.integers(0, 256, mask.shape, dtype=np.uint8)
    first = write([mask], confidence=confidence).read_bytes()
    monkeypatch.setattr("jobs.outputs.mask_rows._PIXELS_AT_ONCE", 77)
    assert write([mask], confidence=confidence).read_bytes() == first


@pytest.mark.parametrize(
    ("entropy", "expected"),
    [(None, None), (Entropy(0, 0), None), (Entropy(2500, 1), 0.25), (Entropy(9, 9), 1e-4)],
)
def test_entropy_is_a_mean(write, entropy, expected):
    (row,) = pq.read_table(write([np.zeros((3, 3), np.uint8)], entropy=entropy)).to_pylist()
    assert row["mean_entropy"] == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("floors", "kept"),
    [
        ((0.5, 0.5, 0.5, 0.5), {128: True, 127: False}),
        ((0.6, 0.6, 0.6, 0.6), {153: True, 152: False}),  # 153 / 255 is 0.6
        ((1, 1, 1, 1), {255: True, 254: False}),
        ((0, 0, 0, 0), {0: True}),
        ((0, 0.9, 0, 0), {0: True}),  # of another class
    ],
    ids=str,
)
def test_pixels_that_are_less_sure_are_ignored(floors, kept):
    levels = find_levels(floors)
    for sure, is_kept in kept.items():
        mask = np.array([[0, 254, 255]], dtype=np.uint8)
        ignore_unsure(mask, np.full(mask.shape, sure, np.uint8), levels)
        assert mask.tolist() == [[0 if is_kept else 254, 254, 255]]


def test_pixels_are_ignored_in_place_whatever_lies_where(monkeypatch):
    monkeypatch.setattr("jobs.outputs.mask_rows._PIXELS_AT_ONCE", 100)
    random = np.random.default_rng(6)
    given = random.integers(0, 4, (40, 30), dtype=np.uint8)
    confidence = random.integers(0, 256, given.shape, dtype=np.uint8)
    floors = np.array((0.2, 0.5, 0.9, 0))
    expected = np.where(confidence / 255 < floors[given], 254, given)
    for mask in (given.copy(), np.asfortranarray(given), np.tile(given, (2, 2))[:40, 30:]):
        ignore_unsure(mask, confidence, find_levels(floors))
        np.testing.assert_array_equal(mask, expected)


def test_a_page_of_masks_is_small_and_has_a_place(write):
    path = write([np.full((500, 1000), i, dtype=np.uint8) for i in range(12)])
    group = pq.ParquetFile(path).metadata.row_group(0)
    for column in (group.column(i) for i in range(group.num_columns)):
        assert column.has_offset_index
        nested = column.path_in_schema.partition(".")[0] in {"sidecars", "class_pixels"}
        has_none = nested or column.path_in_schema.startswith(("mask", "class"))
        if column.path_in_schema == "mask_encoding" or not has_none:
            assert column.has_column_index
            assert column.statistics is not None


# As PNG


def test_a_png_is_the_mask_to_any_reader(write, make_bundle):
    given = [*some_masks(), np.arange(256, dtype=np.uint8).reshape(8, 32)]
    bundle = make_bundle(count=254)
    table = pq.read_table(write(given, bundle=bundle, encoding="png"))
    assert table.schema.equals(mask_schema("png"))
    for row, mask in zip(table.to_pylist(), given, strict=True):
        assert row["mask_encoding"] == "png"
        with Image.open(io.BytesIO(row["mask"]["bytes"])) as image:
            image.verify()
        with Image.open(io.BytesIO(row["mask"]["bytes"])) as image:
            assert (image.mode, image.format) == ("P", "PNG")
            np.testing.assert_array_equal(np.asarray(image), mask)
            colors = np.array(image.getpalette()).reshape(-1, 3)
        np.testing.assert_array_equal(colors[:254], [one.color for one in bundle.classes])
        assert colors[254:].tolist() == [[224, 224, 192], [0, 0, 0]]


def test_gdal_reads_the_png_too(write, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    for row, mask in zip(
        pq.read_table(write(some_masks(), encoding="png")).to_pylist(),
        some_masks(),
        strict=True,
    ):
        path = tmp_path / "mask.png"
        path.write_bytes(row["mask"]["bytes"])
        with rasterio.open(path) as image:
            np.testing.assert_array_equal(image.read(1), mask)
            assert image.colormap(1)[2][:3] == (2, 4, 253)


def test_our_own_reader_reads_png(write):
    found = list(read_masks(write(some_masks(), encoding="png")))
    for (_, mask), given in zip(found, some_masks(), strict=True):
        np.testing.assert_array_equal(mask, given)


def test_datasets_shows_the_png_as_an_image(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(
        "parquet",
        data_files=str(write(some_masks(), encoding="png")),
        cache_dir=str(tmp_path / "cache"),
    )["train"]
    assert found.features["mask"] == datasets.Image()
    for i, (row, mask) in enumerate(zip(found, some_masks(), strict=True)):
        assert row["key"] == f"{i}.jpg"
        np.testing.assert_array_equal(np.asarray(row["mask"]), mask)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a.jpg", "a.jpg.png"),
        ("cats/a b.jpg", "cats%2Fa b.jpg.png"),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd.png"),
        ("c:\\x\n\u00e9", "c%3A%5Cx%0A%C3%A9.png"),
    ],
)
def test_the_name_of_a_png_is_no_path(make_result, make_bundle, key, name):
    result = make_result(np.zeros((2, 2), np.uint8), key=key)
    assert make_row(result, make_bundle(), encoding="png")["mask"]["path"] == name


def test_one_mask_has_one_png():
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert encode_png(np.asfortranarray(mask), CLASSES) == encode_png(mask, CLASSES)


MASK = np.random.default_rng(8).integers(0, 4, (9, 7), dtype=np.uint8)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:-1],
        lambda data: data[:-20],
        lambda data: data[:400],
        lambda data: data.replace(b"IDAT", b"IDAT!"),
        lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
        lambda _: encode_png(MASK.T.copy(), CLASSES),
        lambda _: encode_png(np.tile(MASK, (2, 1)), CLASSES),
    ],
)
def test_a_damaged_png_is_told(damage):
    data = encode_png(MASK, CLASSES)
    np.testing.assert_array_equal(decode_png(data, *MASK.shape), MASK)
    with pytest.raises(ValueError, match="PNG"):
        decode_png(damage(data), *MASK.shape)


def test_a_png_of_somebody_else_is_told():
    file = io.BytesIO()
    Image.fromarray(MASK).save(file, "PNG")
    with pytest.raises(ValueError, match="no PNG of a mask of 9 x 7 px"):
        decode_png(file.getvalue(), *MASK.shape)


# How many bytes


def blobs(seed):
    """A mask as networks make them: smooth regions of a few classes."""
    random = np.random.default_rng(seed)
    coarse = random.random((5, 12, 16)).astype(np.float32)
    planes = [Image.fromarray(plane).resize((480, 360), 3) for plane in coarse]
    return np.argmax([np.asarray(one) for one in planes], axis=0).astype(np.uint8)


def test_masks_take_what_zstd_makes_of_them(write):
    given = [blobs(seed) for seed in range(12)]
    path = write(given, bundle=None)
    metadata = pq.read_metadata(path)
    taken = sum(
        metadata.row_group(i).column(j).total_compressed_size
        for i in range(metadata.num_row_groups)
        for j in range(metadata.num_columns)
        if metadata.row_group(i).column(j).path_in_schema == "mask"
    )
    codec = pa.Codec("zstd", compression_level=1)
    least = sum(len(codec.compress(mask.tobytes())) for mask in given)
    assert taken <= 1.05 * least
