"""Every form of a truth gives the mask that was made, or says what is wrong with it."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from deeplab.bundle import ClassInfo
from deeplab.tiles import Window
from jobs.errors import CODES, InputError, ItemError
from jobs.inputs.decoding import read_info
from jobs.inputs.truth_request import complete_truth
from jobs.inputs.truths import RasterTruths, open_truths
from jobs.outputs.masks import MaskWriter
from jobs.shards import Item
from jobs.spec import Limits
from jobs.storage import Access, open_store
from jobs.truth import Truth

IDS = np.random.default_rng(4).choice([0, 1, 2, 3, 255], size=(7, 9)).astype(np.uint8)
KNOWN = np.where(IDS == 255, 254, IDS)
"""What is read of them."""

COLORS = np.array([[i, 2 * i, 255 - i] for i in range(4)], np.uint8)
"""Of the fixture's bundle."""


def png(ids, mode=None, palette=None, **options):
    image = Image.fromarray(ids) if mode is None else Image.fromarray(ids).convert(mode)
    if palette is not None:
        image = Image.fromarray(ids, "P")
        image.putpalette(palette)
    file = io.BytesIO()
    image.save(file, **{"format": "PNG", **options})
    return file.getvalue()


def item(key, uri=None):
    return Item(uri=uri or f"/photos/{key}", key=key, size=1, etag="e")


@pytest.fixture
def folder(tmp_path):
    """Write files below a folder: its location."""

    def write(files, name="truth"):
        for key, data in files.items():
            path = tmp_path / name / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return str(tmp_path / name)

    return write


@pytest.fixture
def judge(make_spec):
    """The truths of a location, completed as a command does it."""

    def make(where, *, limits=None, count=4, **fields):
        spec = make_spec(job="evaluate", limits=limits or Limits())
        bundle = spec.bundle
        if count != 4:
            classes = tuple(ClassInfo(name=f"c{i}", color=(i, 9, 9)) for i in range(count))
            bundle = make_spec(bundle=type(bundle)(**_fields(bundle, classes))).bundle
        store = open_store(Access())
        truth = complete_truth(store, Truth(where=where, **fields), bundle, spec.source)
        spec = make_spec(
            job="evaluate", truth=truth, bundle=bundle, limits=limits or Limits()
        )
        return RasterTruths(spec) if truth.form == "raster" else open_truths(spec)

    return make


def _fields(bundle, classes):
    names = ("architecture", "bands", "mean", "std", "tile", "overlap")
    return {name: getattr(bundle, name) for name in names} | {"classes": classes}


# Folders


def test_a_mask_has_the_key_of_its_image_but_for_the_ending(folder, judge):
    where = folder(
        {
            "a.png": png(IDS),
            "deep/er/b.tif": png(IDS, format="TIFF"),
            "c.d.bmp": png(IDS, format="BMP"),
        }
    )
    truths = judge(where)
    for key, name in (
        ("a.jpg", "a.png"),
        ("deep/er/b.JPEG", "deep/er/b.tif"),
        ("c.d.webp", "c.d.bmp"),
    ):
        found = truths.read(item(key))
        assert found.ids.tolist() == KNOWN.tolist(), key
        assert found.uri == f"{where}/{name}"
        assert found.etag


@pytest.mark.parametrize("suffix", ["_L", "_L.png"])
def test_a_suffix_stands_behind_the_name(folder, judge, suffix):
    where = folder({"a_L.png": png(IDS), "a.png": png(IDS + 9)})
    found = judge(where, suffix=suffix).read(item("a.jpg"))
    assert found.uri == f"{where}/a_L.png"


def test_an_image_is_never_its_own_mask(folder, judge):
    where = folder({"a.png": png(IDS), "a.tif": png(IDS, format="TIFF")})
    found = judge(where, form="folder").read(item("a.png", uri=f"{where}/a.png"))
    assert found.uri == f"{where}/a.tif"


def test_colors_are_read_whatever_the_file(folder, judge):
    rgb = COLORS[np.minimum(IDS, 3)]
    alpha = np.where(IDS == 255, 0, 255).astype(np.uint8)
    rgba = np.dstack([rgb, alpha])
    rgba[IDS == 255, :3] = 77  # no class's, and transparent
    shuffled = np.array([3, 1, 0, 2], np.uint8)
    # Index i of the palette has the colour of another class.
    palette = COLORS[np.argsort(shuffled)].ravel().tolist()
    paletted = png(shuffled[np.minimum(IDS, 3)], palette=palette)
    where = folder({"rgb.png": png(rgb), "rgba.png": png(rgba), "p.png": paletted})
    truths = judge(where)
    full = np.minimum(IDS, 3).tolist()
    assert truths.read(item("rgb.jpg")).ids.tolist() == full
    assert truths.read(item("rgba.jpg")).ids.tolist() == KNOWN.tolist()
    assert truths.read(item("p.jpg")).ids.tolist() == full


def test_a_palette_of_other_colors_is_read_by_its_indices(folder, judge):
    where = folder({"a.png": png(np.minimum(IDS, 3), palette=[9, 9, 9, 8, 8, 8] * 2)})
    assert judge(where).read(item("a.jpg")).ids.tolist() == np.minimum(IDS, 3).tolist()
    with pytest.raises(ItemError, match="colour #"):
        judge(where, classes="#010101=2").read(item("a.jpg"))
    found = judge(where, classes="#090909=2,#080808=0").read(item("a.jpg")).ids
    assert found.tolist() == np.where(np.minimum(IDS, 3) % 2, 0, 2).tolist()


def test_ids_of_16_bits_and_of_one_bit_are_read(folder, judge):
    wide = np.where(IDS == 255, 0, IDS).astype(np.uint16) * 1000
    bits = png((IDS > 1).astype(np.uint8) * 255, mode="1")
    where = folder({"wide.png": png(wide), "bits.png": bits})
    truths = judge(where, classes="0=0,1000=1,2000=2,3000=3,1=3")
    expected = np.where(IDS == 255, 0, IDS)
    assert truths.read(item("wide.jpg")).ids.tolist() == expected.tolist()
    expected = np.where(IDS > 1, 3, 0)
    assert truths.read(item("bits.jpg")).ids.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("key", "data", "code", "words"),
    [
        ("none.jpg", None, "no_truth", "there is no none.png or the like under"),
        ("../a.jpg", None, "no_truth", "a part . or .. names no mask"),
        ("a.jpg", b"", "undecodable", "the file is empty"),
        ("a.jpg", png(IDS)[:60], "undecodable", "a.png: "),
        ("a.jpg", b"no image", "undecodable", "a.png: UnidentifiedImageError"),
        ("a.jpg", png(IDS, format="JPEG"), "unsupported", "JPEG changes the ids"),
        ("a.jpg", png(IDS, format="GIF"), "unsupported", "GIF is written with its ids"),
        ("a.jpg", png(IDS, mode="CMYK", format="TIFF"), "unsupported", "of mode CMYK"),
        ("a.jpg", png(IDS + 4), "wrong_truth", "id 4 ("),
        ("a.jpg", png(np.zeros((40, 40), np.uint8)), "too_large", "exceed 1000 pixels"),
    ],
)
def test_what_is_wrong_names_the_mask(folder, judge, key, data, code, words):
    where = folder({"other.png": png(IDS), **({} if data is None else {"a.png": data})})
    with pytest.raises(ItemError) as caught:
        judge(where, limits=Limits(max_pixels=1000)).read(item(key))
    assert caught.value.code == code
    assert code in CODES
    assert words in caught.value.message
    assert data is None or f"truth {where}/a.png: " in caught.value.message


# Layouts


def test_voc_judges_what_its_list_names(folder, judge):
    files = {f"SegmentationClass/{name}.png": png(IDS) for name in "abc"}
    files |= {"ImageSets/Segmentation/val.txt": b"a\nb 1\n\n"}
    truths = judge(folder(files))
    names = ("JPEGImages/a.jpg", "JPEGImages/c.jpg", "SegmentationClass/a.png")
    assert [truths.wants(item(name)) for name in names] == [True, False, False]
    assert truths.expected() == {"a", "b"}
    assert truths.read(item("JPEGImages/a.jpg")).ids.tolist() == KNOWN.tolist()
    with pytest.raises(InputError, match="truth_split"):
        judge(folder(files), split="test").expected()


def test_cityscapes_has_train_ids_or_all_ids(folder, judge):
    labels = np.where(IDS == 255, 4, np.array([7, 8, 11, 12, 0])[np.minimum(IDS, 4)])
    labels = labels.astype(np.uint8)
    where = folder(
        {
            "gtFine/val/ulm/ulm_000_001_gtFine_labelTrainIds.png": png(IDS),
            "gtFine/val/ulm/ulm_000_001_gtFine_labelIds.png": png(labels),
            "gtFine/val/bern/bern_000_001_gtFine_labelIds.png": png(labels),
        }
    )
    for root in (where, f"{where}/gtFine"):
        truths = judge(root)
        for city, kind in (("ulm", "labelTrainIds"), ("bern", "labelIds")):
            found = truths.read(item(f"{city}/{city}_000_001_leftImg8bit.png"))
            assert found.uri.endswith(f"{city}_000_001_gtFine_{kind}.png")
            assert found.ids.tolist() == KNOWN.tolist()
    mapped = judge(where, classes="7=3,*=ignore")
    found = mapped.read(item("ulm_000_001_leftImg8bit.png")).ids
    assert found.tolist() == np.where(labels == 7, 3, 254).tolist()
    root = "/data/leftImg8bit"
    assert [
        truths.wants(item(uri.rsplit("/", 1)[1], uri=uri))
        for uri in (
            f"{root}/val/ulm/ulm_0_leftImg8bit.png",
            f"{root}/train/ulm/ulm_0_leftImg8bit.png",
            "/mine/ulm_0_leftImg8bit.png",
            "/data/gtFine/val/ulm/ulm_0_gtFine_labelIds.png",
        )
    ] == [True, False, True, False]


@pytest.mark.s3
def test_masks_may_lie_in_a_bucket(remote, make_spec):
    store = remote.store
    store.create(remote.at("truth", "a.png"), png(IDS))
    file = io.BytesIO()
    pq.write_table(pa.table({"key": ["b.png"], "mask": [png(IDS)]}), file)
    store.create(remote.at("table.parquet"), file.getvalue())
    for where, key in (("truth", "a.jpg"), ("table.parquet", "b.jpg")):
        truth = Truth(where=remote.at(where))
        spec = make_spec(job="evaluate", access=store._access)
        full = complete_truth(store, truth, spec.bundle, spec.source)
        truths = open_truths(make_spec(truth=full, access=store._access))
        found = truths.read(item(key))
        assert found.ids.tolist() == KNOWN.tolist()
        assert found.etag == store.stat(found.uri).etag
        with pytest.raises(ItemError, match="no_truth"):
            truths.read(item("none.jpg"))


# Tables


def test_masks_of_a_run_are_a_truth(tmp_path, judge, make_bundle, make_result):
    folder = tmp_path / "run" / "masks"
    folder.mkdir(parents=True)
    for number in range(3):
        with MaskWriter(folder / f"part-{number}.parquet", make_bundle()) as writer:
            for key in "ab":
                name = f"{number}/{key}.jpg"
                writer.add(make_result(np.roll(IDS, number), key=name))
    (tmp_path / "run" / "job.json").write_text("{}")
    for where in (tmp_path / "run", folder):
        truths = judge(str(where))
        for number in range(3):
            found = truths.read(item(f"{number}/b.jpg"))
            assert found.ids.tolist() == np.roll(KNOWN, number).tolist()
            assert found.uri == str(folder / f"part-{number}.parquet")
    with pytest.raises(ItemError, match=r"^no_truth: .* has no row for 4/b.jpg"):
        truths.read(item("4/b.jpg"))


def test_the_colors_of_a_run_are_no_matter(tmp_path, judge, make_bundle, make_result):
    """Nodata is black in its PNG, as a class may be too."""
    bundle = make_bundle()
    black = tuple(replace(one, color=(0, 0, 0)) for one in bundle.classes)
    ids = np.where(len(black) > IDS, IDS, np.uint8(255))
    path = tmp_path / "part.parquet"
    with MaskWriter(path, replace(bundle, classes=black), encoding="png") as writer:
        writer.add(make_result(ids, key="a.jpg"))
    found = judge(str(tmp_path)).read(item("a.jpg"))
    assert found.ids.tolist() == np.where(ids < 254, ids, 254).tolist()


def test_a_run_without_a_mask_has_no_truth(tmp_path, judge, make_bundle):
    with MaskWriter(tmp_path / "part.parquet", make_bundle()):
        pass
    with pytest.raises(ItemError, match=r"no_truth: .* has no row for a.jpg"):
        judge(str(tmp_path)).read(item("a.jpg"))


@pytest.mark.parametrize("nested", [True, False])
def test_any_table_with_a_key_and_a_mask_is_a_truth(tmp_path, judge, nested):
    value = (lambda data: {"bytes": data, "path": None}) if nested else (lambda data: data)
    rows = [
        {"image_id": f"{i}.png", "label": value(png(np.roll(IDS, i))), "more": i}
        for i in range(9)
    ]
    path = tmp_path / "masks.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    truths = judge(str(path))
    for number in (8, 0, 3):
        found = truths.read(item(f"{number}.jpg"))
        assert found.ids.tolist() == np.roll(KNOWN, number).tolist()


@pytest.mark.parametrize(
    ("rows", "code", "words"),
    [
        ([{"key": "a.png", "more": 1}], "wrong_truth", "has no column mask or label"),
        ([{"mask": png(IDS), "more": 1}], "wrong_truth", "needs a column key or uri"),
        ([{"key": "a.png", "mask": png(IDS)}] * 2, "wrong_truth", "has more than one row"),
        ([{"key": "a.png", "mask": None}], "wrong_truth", "the row holds no mask"),
        ([{"key": "a.png", "mask": b"x"}], "undecodable", "row of a.jpg: "),
        (
            [{"key": "a.png", "mask": b"xy", "mask_encoding": "raw"}],
            "wrong_truth",
            "a raw mask needs its height and width",
        ),
        (
            [
                {"key": "a.png", "mask": b"xy", "mask_encoding": "raw"}
                | {"height": 1, "width": 3}
            ],
            "wrong_truth",
            "2 bytes are no mask of 3 x 1 px",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, judge, rows, code, words):
    path = tmp_path / "masks.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(ItemError) as caught:
        judge(str(path)).read(item("a.jpg"))
    assert (caught.value.code, words in caught.value.message) == (code, True), str(caught)


def test_a_damaged_table_is_said(tmp_path, judge):
    path = tmp_path / "masks.parquet"
    path.write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(ItemError, match=r"^undecodable: truth .*masks.parquet: "):
        judge(str(path)).read(item("a.jpg"))


# Rasters


GRID = {"transform": from_origin(390_000, 5_820_000, 0.5, 0.5), "crs": "EPSG:32633"}


def place_of(path):
    info = read_info(path, Access())
    return info.height, info.width, info.grid


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "palette", "colors"])
def test_a_window_of_a_raster_is_read_as_it_is_stored(write_raster, judge, kind):
    ids = np.random.default_rng(1).integers(0, 4, (40, 60)).astype(np.uint8)
    pixels, options = ids[np.newaxis], {"nodata": 3}
    known = np.where(ids == 3, 254, ids)
    if kind == "palette":
        options |= {"photometric": "palette", "color": [ColorInterp.palette]}
    elif kind == "colors":
        pixels, options, known = COLORS[ids].transpose(2, 0, 1), {}, ids
    else:
        pixels = pixels.astype(kind)
    scene = write_raster(np.zeros((3, 40, 60), np.uint8), "scenes/a.tif")
    where = write_raster(np.ascontiguousarray(pixels), "truth/a.tif", **options)
    window = Window(row=8, col=16, height=20, width=30)
    for location in (where, where.rsplit("/", 1)[0]):
        truths = judge(location, form="raster")
        found = truths.read(item("a.tif", uri=scene), window, place_of(scene))
        assert found.ids.tolist() == known[8:28, 16:46].tolist()
        assert found.uri == where


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((40, 61), {}, "61 x 40 px where the raster has 60 x 40"),
        (
            (40, 60),
            {"transform": from_origin(390_000.25, 5_820_000, 0.5, 0.5)},
            "lie up to 0.5 px from the raster's",
        ),
        (
            (40, 60),
            {"transform": from_origin(390_000, 5_820_000, 0.51, 0.5)},
            "lie up to 1.2 px from the raster's",
        ),
        ((40, 60), {"crs": "EPSG:32634"}, "another CRS"),
    ],
)
def test_a_raster_that_lies_elsewhere_is_no_truth(
    write_raster, judge, shape, options, words
):
    scene = write_raster(np.zeros((3, 40, 60), np.uint8), "scenes/a.tif")
    where = write_raster(np.zeros((1, *shape), np.uint8), "truth/a.tif", **options)
    window = Window(row=0, col=0, height=9, width=9)
    with pytest.raises(ItemError) as caught:
        judge(where).read(item("a.tif", uri=scene), window, place_of(scene))
    assert caught.value.code == "wrong_truth"
    assert words in caught.value.message
    assert where in caught.value.message


def test_a_raster_without_a_truth_is_said(write_raster, judge):
    scene = write_raster(np.zeros((3, 40, 60), np.uint8), "scenes/a.tif")
    where = write_raster(np.zeros((1, 40, 60), np.float32), "truth/b.tif")
    window = Window(row=0, col=0, height=9, width=9)
    truths = judge(where.rsplit("/", 1)[0], form="raster")
    with pytest.raises(ItemError, match=r"^no_truth: there is no a.tif or the like"):
        truths.read(item("a.tif", uri=scene), window, place_of(scene))
    with pytest.raises(ItemError, match="ids are whole numbers, got float32"):
        truths.read(item("b.tif", uri=scene), window, place_of(scene))


# What a truth is


@pytest.mark.parametrize(
    ("files", "where", "form"),
    [
        ({"a.png": b"", "b.tif": b""}, "truth", "folder"),
        ({"deep/a.tif": b""}, "truth", "folder"),
        ({"SegmentationClass/a.png": b"", "ImageSets/x": b""}, "truth", "voc"),
        ({"gtFine/val/a.png": b""}, "truth", "cityscapes"),
        ({"gtFine/val/a.png": b""}, "truth/gtFine", "cityscapes"),
        ({"part.parquet": b""}, "truth", "parquet"),
        ({"part.parquet": b""}, "truth/part.parquet", "parquet"),
        ({"job.json": b"", "masks/part.parquet": b""}, "truth", "parquet"),
        ({"job.json": b"", "rasters/a.tif": b""}, "truth", "raster"),
        ({"a.tif": b""}, "truth/a.tif", "raster"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_truth_is_known_by_what_lies_there(
    folder, tmp_path, make_bundle, files, where, form
):
    folder(files)
    source = folder({"1.jpg": b""}, "photos")
    store, truth = open_store(Access()), Truth(where=str(tmp_path / where))
    found = complete_truth(store, truth, make_bundle(), source)
    assert found.form == form
    assert complete_truth(store, found, make_bundle(), source) == found


def test_tiffs_beside_tiffs_are_rasters(folder, make_bundle):
    where, source = folder({"a.tif": b""}), folder({"a.tif": b""}, "scenes")
    store = open_store(Access())
    assert complete_truth(store, Truth(where=where), make_bundle(), source).form == "raster"
    named = Truth(where=where, form="folder")
    assert complete_truth(store, named, make_bundle(), source) == named


@pytest.mark.parametrize(
    ("files", "fields", "words"),
    [
        ({}, {"where": ""}, "--truth is missing"),
        ({}, {}, "nothing at "),
        ({"a.txt": b""}, {}, "no mask among the first objects under"),
        ({"a.png": b""}, {"form": "parquet"}, "no Parquet file at"),
        ({"a.png": b""}, {"classes": "none.json"}, "truth_classes: "),
        ({"a.png": b""}, {"classes": "1=sky"}, "got 'sky'"),
    ],
)
def test_what_is_no_truth_is_refused(folder, tmp_path, make_bundle, files, fields, words):
    folder(files)
    truth = Truth(**{"where": str(tmp_path / "truth"), **fields})
    with pytest.raises(InputError) as caught:
        complete_truth(open_store(Access()), truth, make_bundle(), str(tmp_path))
    assert words in str(caught.value)


def test_a_map_may_lie_in_a_file(folder, make_bundle):
    where = folder({"a.png": b"", "map.json": b'{"7": "class 1", "*": "ignore"}'})
    truth = Truth(where=where, classes=f"{where}/map.json")
    found = complete_truth(open_store(Access()), truth, make_bundle(), where)
    assert json.loads(found.classes) == {"7": 1, "*": 254}
    assert Truth.parse(json.loads(json.dumps(found.results()))) == found
