"""``atrous export`` of label runs, read back by the libraries of those who take it."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import tarfile
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from jobs.export_progress import show_progress
from jobs.export_run import open_run
from jobs.folder import read_shards
from jobs.job import Result
from jobs.label_job import LabelJob
from jobs.ledger import Ledger, dead_letter

# pycocotools predates the keyword of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept")

KEYS = ["a.jpg", "a.png", "b/c.d.png", "b/=e.png", "f g.png", "h.png", "i.png"]
ALL = {
    "coco": "out.json",
    "cvat": "out.xml",
    "label-studio": "out.json",
    "png": "out",
    "huggingface": "out",
    "webdataset": "out",
    "worklist": "out.csv",
}


def make_masks():
    """Masks of four classes by key, with "ignore", nodata and holes."""
    rng = np.random.default_rng(8)
    masks = {}
    for number, key in enumerate(KEYS):
        shape = (5 + 3 * number, 31 - 2 * number)
        values = np.array([0, 0, 1, 2, 3, 254, 255], dtype=np.uint8)
        masks[key] = np.repeat(rng.choice(values, shape), 2, axis=1)
    masks["h.png"][:] = 254
    masks["i.png"][:] = 255
    return masks


def expected(mask):
    """What every export keeps of a mask: 254 and 255 are alike."""
    return np.where(mask < 254, mask, 255)


@pytest.fixture
def labelled(build_label, make_result, tmp_path):
    """A finished label run of images that can be decoded, with given masks."""

    def make(place, masks=None, *, dead=(), until=None):
        masks = make_masks() if masks is None else masks
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        one = build_label(place)
        for path in folder.iterdir():
            path.unlink()
        for key, mask in masks.items():
            path = folder / key
            path.parent.mkdir(exist_ok=True)
            pixels = np.full((*mask.shape, 3), len(key), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        planned = one.start()
        job = LabelJob(spec=planned.spec, fingerprint=planned.fingerprint, folder=one.run)
        for shard in itertools.islice(read_shards(one.store, one.run), until):
            results = []
            for item in shard.items:
                if item.key in dead:
                    results.append(dead_letter(item, "read", "undecodable", "damaged"))
                    continue
                confidence = np.full(masks[item.key].shape, 9 * len(item.key), np.uint8)
                made = make_result(masks[item.key], confidence=confidence)
                results.append(Result(item=item, segmentation=made.segmentation))
            Ledger(one.store, one.run).commit(job.write(shard, results))
        if until is None:
            one.conclude(planned)
        return one

    return make


@pytest.fixture
def export(run, s3_endpoint):
    """Export a run: what ``--json`` prints, and stderr."""

    def call(form, folder, out, *options, code=0):
        got, printed, told = run(
            "export", form, folder, out, *options, "--json", *s3_endpoint(folder)
        )
        assert got == code, told
        return json.loads(printed) if not code else None, told

    return call


@pytest.fixture
def s3_endpoint(request):
    """The option that says where the bucket of a location is."""

    def find(location):
        if not str(location).startswith("s3://"):
            return []
        return ["--endpoint-url", request.getfixturevalue("s3_server")]

    return find


def read_object(place, name):
    return io.BytesIO(place.store.read(place.at(name)))


# COCO


def draw_coco(path):
    """Masks by file name, as pycocotools draws them; and what it holds of areas."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(path)
    drawn = {}
    for image in data.loadImgs(data.getImgIds()):
        mask = np.full((image["height"], image["width"]), 255, dtype=np.uint8)
        for one in data.loadAnns(data.getAnnIds(image["id"])):
            pixels = data.annToMask(one).astype(bool)
            assert (mask[pixels] == 255).all()
            mask[pixels] = one["category_id"] - 1
            assert one["area"] == pixels.sum()
            assert coco_mask.toBbox(data.annToRLE(one)).tolist() == one["bbox"]
        drawn[image["file_name"]] = mask
    return data, drawn


def test_coco_draws_the_same_masks(labelled, export, local, tmp_path):
    one = labelled(local)
    found, _ = export("coco", one.run, tmp_path / "out.json")
    data, drawn = draw_coco(tmp_path / "out.json")
    assert drawn.keys() == make_masks().keys()
    for key, mask in make_masks().items():
        np.testing.assert_array_equal(drawn[key], expected(mask))
    names = [one["name"] for one in data.loadCats(data.getCatIds())]
    assert names == [f"class {i}" for i in range(4)]
    assert data.getImgIds() == list(range(1, 8))
    assert sorted(data.getAnnIds()) == list(range(1, found["annotations"] + 1))
    assert found["images"] == 7
    assert found["bytes"] == (tmp_path / "out.json").stat().st_size


def test_polygons_of_coco_draw_the_same_masks_with_their_holes(
    labelled, export, local, tmp_path
):
    ring = np.full((40, 50), 255, dtype=np.uint8)
    ring[3:30, 4:44] = 1
    ring[6:20, 9:30] = 2
    ring[8:11, 11:14] = 1
    ring[22:25, 5:8] = 255
    ring[22:25, 30:40] = 254
    masks = {**make_masks(), "ring.png": ring}
    one = labelled(local, masks)
    export("coco", one.run, tmp_path / "out.json", "--form", "polygons")
    data, drawn = draw_coco(tmp_path / "out.json")
    for key, mask in masks.items():
        np.testing.assert_array_equal(drawn[key], expected(mask))
    (image,) = [one for one in data.imgs.values() if one["file_name"] == "ring.png"]
    assert len(data.getAnnIds(image["id"])) == 3
    assert all(len(one["segmentation"]) == 1 for one in data.anns.values())


def test_panoptic_pngs_hold_the_ids_of_their_segments(labelled, export, local):
    place = local
    one = labelled(place)
    found, told = export("coco", one.run, place.at("out"), "--form", "panoptic")
    data = json.load(read_object(place, "out/panoptic.json"))
    assert "2 images share a name" in told
    assert found["files"] == len(KEYS) + 1
    images = {one["id"]: one for one in data["images"]}
    assert len(data["annotations"]) == len(KEYS)
    for one in data["annotations"]:
        mask = make_masks()[images[one["image_id"]]["file_name"]]
        with Image.open(read_object(place, f"out/panoptic/{one['file_name']}")) as png:
            colors = np.asarray(png).astype(int)
        ids = colors[..., 0] + 256 * colors[..., 1] + 256**2 * colors[..., 2]
        assert set(np.unique(ids)) - {0} == {s["id"] for s in one["segments_info"]}
        drawn = np.full(mask.shape, 255)
        for segment in one["segments_info"]:
            drawn[ids == segment["id"]] = segment["category_id"] - 1
            assert segment["area"] == (ids == segment["id"]).sum()
        np.testing.assert_array_equal(drawn, expected(mask))
    assert data["categories"][2] == {
        "id": 3,
        "name": "class 2",
        "supercategory": "",
        "isthing": 0,
        "color": [2, 4, 253],
    }


# CVAT


def draw_cvat(text):
    """Masks by name, as CVAT's manual says how elements are read."""
    root = ET.fromstring(text)  # noqa: S314 - our own
    assert root.findtext("version") == "1.1"
    names = [one.text for one in root.findall("meta/task/labels/label/name")]
    drawn = {}
    for number, image in enumerate(root.findall("image")):
        assert image.get("id") == str(number)
        mask = np.full((int(image.get("height")), int(image.get("width"))), 255)
        for one in image.findall("mask"):
            left, top, width, height = (
                int(one.get(name)) for name in ("left", "top", "width", "height")
            )
            counts = [int(count) for count in one.get("rle").split(",")]
            flat = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
            box = mask[top : top + height, left : left + width]
            box[flat.reshape(height, width)] = names.index(one.get("label"))
        drawn[image.get("name")] = mask
    return drawn


@pytest.mark.parametrize("suffix", ["xml", "zip"])
def test_cvat_draws_the_same_masks(labelled, export, local, tmp_path, suffix):
    one = labelled(local)
    path = tmp_path / f"out.{suffix}"
    found, _ = export("cvat", one.run, path)
    data = path.read_bytes()
    if suffix == "zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == ["annotations.xml"]
            data = archive.read("annotations.xml")
    drawn = draw_cvat(data)
    for key, mask in make_masks().items():
        np.testing.assert_array_equal(drawn[key], expected(mask))
    assert data.count(b"<mask ") == found["annotations"]


def test_names_of_any_kind_are_sound_xml(tmp_path):
    from deeplab.bundle import ClassInfo
    from jobs.outputs.cvat import CvatWriter

    names = ['a "quoted" <b> & c', "tab\tline\nend", "nul\x00 bell\x07", "\ufffe é 日本"]
    classes = [ClassInfo(name=one, color=(1, 2, 3)) for one in names]
    with CvatWriter(tmp_path / "out.xml", classes) as writer:
        for name in names:
            writer.add(name, np.arange(4, dtype=np.uint8).reshape(2, 2))
    root = ET.fromstring((tmp_path / "out.xml").read_bytes())  # noqa: S314 - our own
    clean = [*names[:2], "nul\ufffd bell\ufffd", "\ufffd é 日本"]
    assert [one.get("name") for one in root.findall("image")] == clean
    labels = [one.get("label") for one in root.findall("image[@id='0']/mask")]
    assert labels == clean


# Label Studio


def test_label_studio_draws_the_same_masks(labelled, export, local, tmp_path, read_brush):
    one = labelled(local)
    images = f"{tmp_path}/images"
    prefix = ("--image-prefix", f"{images}/=https://host/?d=")
    found, told = export("label-studio", one.run, tmp_path / "out.json", *prefix)
    assert told == ""
    tasks = json.loads((tmp_path / "out.json").read_text())
    masks = make_masks()
    assert {one["data"]["image"] for one in tasks} == {
        f"https://host/?d={key}" for key in KEYS
    }
    for task in tasks:
        mask = masks[task["data"]["image"].removeprefix("https://host/?d=")]
        (prediction,) = task["predictions"]
        drawn = np.full(mask.shape, 255)
        for region in prediction["result"]:
            size = region["original_height"], region["original_width"]
            assert size == mask.shape
            assert region["type"] == "brushlabels"
            assert region["value"]["format"] == "rle"
            (label,) = region["value"]["brushlabels"]
            pixels = read_brush(region["value"]["rle"])[:, 3].reshape(mask.shape)
            drawn[pixels == 255] = int(label.removeprefix("class "))
        np.testing.assert_array_equal(drawn, expected(mask))
        assert ("score" in prediction) == (mask < 254).any()
        assert prediction["model_version"] == "atrous dddddddddddd"
    labels = ET.fromstring(found["labeling_config"]).findall("BrushLabels/Label")  # noqa: S314
    assert [one.get("value") for one in labels] == [f"class {i}" for i in range(4)]


def test_addresses_that_label_studio_may_not_find_are_told(labelled, export, local):
    one = labelled(local)
    _, told = export("label-studio", one.run, local.at("out.json"))
    assert "7 images keep their own address" in told
    assert "--image-prefix OLD=NEW" in told
    out = local.at("other.json")
    _, told = export("label-studio", one.run, out, "--image-prefix", "none", code=2)
    assert "--image-prefix must be OLD=NEW" in told


# PNG


@pytest.mark.parametrize(
    ("form", "where"),
    [
        ("palette", "local"),
        ("index", "local"),
        pytest.param("palette", "remote", marks=pytest.mark.s3),
    ],
)
def test_pngs_hold_class_ids(labelled, export, request, form, where):
    place = request.getfixturevalue(where)
    one = labelled(place)
    options = ["--index"] if form == "index" else []
    found, told = export("png", one.run, place.at("out"), *options)
    names = read_object(place, "out/ImageSets/Segmentation/default.txt").read().decode()
    assert "2 images share a name without suffix" in told
    for key, name in zip(sorted(KEYS), names.splitlines(), strict=True):
        mask = make_masks()[key]
        stem = key.rsplit(".", 1)[0]
        digits = hashlib.sha256(key.encode()).hexdigest()[:16]
        assert name == (f"{stem}-{digits}" if key in {"a.jpg", "a.png"} else stem)
        with Image.open(read_object(place, f"out/SegmentationClass/{name}.png")) as png:
            assert png.mode == {"palette": "P", "index": "L"}[form]
            np.testing.assert_array_equal(np.asarray(png), expected(mask))
            if form == "palette":
                colors = np.asarray(png.convert("RGB"))[mask == 2]
                assert (colors == (2, 4, 253)).all()
    assert found["files"] == len(KEYS) + 3
    classes = json.load(read_object(place, "out/classes.json"))
    assert classes["classes"][3] == {"value": 3, "name": "class 3", "color": [3, 6, 252]}
    assert classes["ignore"] == 255
    lines = read_object(place, "out/labelmap.txt").read().decode().splitlines()
    assert lines[1:] == [f"class {i}:{i},{2 * i},{255 - i}::" for i in range(4)]
    mark = json.load(read_object(place, "out/.atrous-export.json"))
    assert mark["finished"] is True
    assert mark["images"] == 7


def test_keys_never_leave_the_folder(labelled, export, local, tmp_path):
    one = labelled(local, {"a.png": np.zeros((2, 2), dtype=np.uint8)})
    put_rows(one, [row_of("../../up.png"), row_of("/etc/x.png"), row_of("c:\\d.png")])
    export("png", one.run, tmp_path / "deep" / "out")
    names = sorted(
        str(path.relative_to(tmp_path / "deep" / "out" / "SegmentationClass"))
        for path in (tmp_path / "deep").rglob("*.png")
    )
    assert names == ["%/etc/x.png", "%2E%2E/%2E%2E/up.png", "c%3A%5Cd.png"]
    assert not list(tmp_path.glob("*.png"))


# Hugging Face


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("images", [True, False])
def test_hugging_face_loads_images_and_masks(labelled, export, local, tmp_path, images):
    datasets = pytest.importorskip("datasets")
    one = labelled(local)
    (tmp_path / "images" / "f g.png").unlink()
    options = [] if images else ["--no-images"]
    found, told = export("huggingface", one.run, tmp_path / "out", *options)
    loaded = datasets.load_dataset(
        str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.features["mask"] == datasets.Image()
    assert loaded.features["image"] == datasets.Image()
    assert sorted(loaded["key"]) == sorted(KEYS)
    if images:
        assert "1 images could not be read (not_found)" in told
    else:
        loaded = loaded.cast_column("image", datasets.Image(decode=False))
    for row in loaded:
        mask = make_masks()[row["key"]]
        np.testing.assert_array_equal(np.asarray(row["mask"]), expected(mask))
        assert row["class_pixels"] == [int((mask == i).sum()) for i in range(4)]
        if not images:
            assert row["image"] == {"bytes": None, "path": row["uri"]}
        elif row["key"] == "f g.png":
            assert row["image"] is None
        else:
            assert row["image"].size == mask.shape[::-1]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| 2 | class 2 | `#0204fd` |" in card
    assert found["files"] == 2


def test_files_of_a_data_set_are_bounded(labelled, export, local, tmp_path):
    one = labelled(local)
    export("huggingface", one.run, tmp_path / "out", "--max-shard-bytes", "1")
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [path.name for path in files] == [f"train-{i:05d}.parquet" for i in range(7)]
    keys = [key for path in files for key in pq.read_table(path)["key"].to_pylist()]
    assert keys == sorted(KEYS)


# WebDataset


@pytest.mark.filterwarnings("ignore")
def test_webdataset_reads_samples(labelled, export, local, tmp_path):
    import webdataset

    one = labelled(local)
    (tmp_path / "images" / "f g.png").unlink()
    (tmp_path / "images" / "h.png").write_bytes(b"another image")
    options = ("--max-shard-bytes", "9000")
    found, told = export("webdataset", one.run, tmp_path / "out", *options)
    assert "1 images could not be read (not_found)" in told
    assert "1 images could not be read (input_changed)" in told
    tars = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert len(tars) == found["files"] - 1
    assert len(tars) > 1
    assert all(Path(tar).stat().st_size <= 9000 + 10240 for tar in tars)
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert len(samples) == len(KEYS)
    for sample in samples:
        about = json.loads(sample["json"])
        key = about["key"]
        mask = make_masks()[key]
        with Image.open(io.BytesIO(sample["mask.png"])) as png:
            np.testing.assert_array_equal(np.asarray(png), expected(mask))
        suffix = key.rsplit(".", 1)[1]
        if key in {"f g.png", "h.png"}:
            assert suffix not in sample
        else:
            assert sample[suffix] == (tmp_path / "images" / key).read_bytes()
        assert (about["height"], about["width"]) == mask.shape
    keys = {json.loads(one["json"])["key"]: one["__key__"] for one in samples}
    assert keys["b/c.d.png"] == "b/c%2Ed"


def test_the_same_run_gives_the_same_tars(labelled, export, local, tmp_path):
    one = labelled(local)
    for name in ("one", "two"):
        export("webdataset", one.run, tmp_path / name, "--no-images")
    tars = [(tmp_path / name / "shard-000000.tar").read_bytes() for name in ("one", "two")]
    assert tars[0] == tars[1]
    with tarfile.open(tmp_path / "one" / "shard-000000.tar") as tar:
        assert {one.mtime for one in tar} == {0}
        assert not [name for name in tar.getnames() if name.endswith((".jpg", "g.png"))][1:]


# Lists of work


def read_list(path):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_least_certain_come_first(labelled, export, local, tmp_path, suffix):
    masks = {key: mask for key, mask in make_masks().items() if key != "h.png"}
    one = labelled(local, masks)
    path = tmp_path / f"out.{suffix}"
    export("worklist", one.run, path)
    rows = read_list(path)
    # Short keys have low confidence; the last one has no data.
    order = [*sorted(KEYS[:5], key=lambda key: (len(key), key)), "i.png"]
    assert [row["key"] for row in rows] == order
    assert [int(row["rank"]) for row in rows] == list(range(1, 7))
    assert float(rows[0]["score"]) == pytest.approx(45 / 255, abs=1e-6)
    assert rows[-1]["score"] in {None, ""}
    mask = make_masks()[rows[0]["key"]]
    counts = np.bincount(mask[mask < 254], minlength=4)
    best = int(counts.argmax())
    share = round(100 * counts[best] / counts.sum())
    assert rows[0]["classes"].startswith(f"class {best} {share}%")
    found, _ = export("worklist", one.run, tmp_path / f"few.{suffix}", "--limit", "2")
    assert [row["key"] for row in read_list(tmp_path / f"few.{suffix}")] == order[:2]
    assert found["images"] == 2


def test_a_cell_is_never_a_formula(tmp_path, labelled, export, local):
    one = labelled(local, {"a.png": np.zeros((2, 2), dtype=np.uint8)})
    keys = ["=1+1", "@x", "+1", "-1", "\tx", 'a"b,c', "plain"]
    put_rows(one, [row_of(key) for key in keys])
    export("worklist", one.run, tmp_path / "out.csv")
    cells = {row["key"] for row in read_list(tmp_path / "out.csv")}
    assert cells == {"'=1+1", "'@x", "'+1", "'-1", "'\tx", 'a"b,c', "plain"}
    export("worklist", one.run, tmp_path / "out.jsonl")
    assert {row["key"] for row in read_list(tmp_path / "out.jsonl")} == set(keys)


# Other columns, as later versions write them


def row_of(key, mask=None, **more):
    mask = np.zeros((2, 2), dtype=np.uint8) if mask is None else mask
    height, width = mask.shape
    fields = {
        "uri": f"s3://bucket/{key}",
        "key": key,
        "etag": "e",
        "height": height,
        "width": width,
        "image_height": height,
        "image_width": width,
        "sidecars": [("json", "{}")],
        "mask": {"bytes": encode(mask), "path": f"{key}.png"},
        "mask_encoding": "png",
        "class_pixels": [int((mask == i).sum()) for i in range(4)],
        "mean_confidence": 0.5,
        "mean_entropy": 0.25,
        "ignored_pixels": int((mask == 254).sum()),
        "bundle_digest": "d" * 64,
    }
    return fields | more


def encode(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "png")
    return buffer.getvalue()


def put_rows(one, *files):
    """Put files of another schema in the place of the masks of a run of one shard."""
    (name,) = one.names("masks")
    made = [file_of(rows) for rows in files]
    names = [name, *(f"{name[:-8]}-{i}.parquet" for i in range(1, len(made)))]
    for place, data in zip(names, made, strict=True):
        one.write(place, data)

    def change(record):
        record["items"] = record["items_done"] = sum(map(len, files))
        (output,) = record["outputs"]
        record["outputs"] = [
            output | {"name": place, "size": len(data)}
            for place, data in zip(names, made, strict=True)
        ]

    one.edit("ledger/000000/000000000.json", change)


def file_of(rows):
    picture = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    names = {"mask": picture, "sidecars": pa.map_(pa.string(), pa.string())}
    names["mean_confidence"] = names["mean_entropy"] = pa.float32()
    names["class_pixels"] = pa.list_(pa.int64())
    fields = [
        pa.field(name, names[name] if name in names else pa.scalar(value).type)
        for name, value in rows[0].items()
    ]
    classes = [{"name": f"class {i}", "color": [0, 0, 0]} for i in range(4)]
    metadata = {"atrous": json.dumps({"classes": classes})}
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields, metadata=metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_masks_that_are_pngs_are_read_too(labelled, export, local, tmp_path):
    one = labelled(local, {"a.png": np.zeros((2, 2), dtype=np.uint8)})
    masks = make_masks()
    rows = [row_of(key, mask) for key, mask in masks.items()]
    put_rows(one, rows[:3], rows[3:])
    export("coco", one.run, tmp_path / "out.json")
    _, drawn = draw_coco(tmp_path / "out.json")
    for key, mask in masks.items():
        np.testing.assert_array_equal(drawn[key], expected(mask))
    export("webdataset", one.run, tmp_path / "out", "--no-images")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        (name, *_) = [name for name in tar.getnames() if name.endswith(".json")]
        about = json.load(tar.extractfile(name))
    assert about["sidecars"] == {"json": "{}"}
    assert "mask" not in about


def test_entropy_sorts_the_other_way_round_and_ignored_images_come_first(
    labelled, export, local, tmp_path
):
    one = labelled(local, {"a.png": np.zeros((2, 2), dtype=np.uint8)})
    ignored = np.full((2, 2), 254, dtype=np.uint8)
    nodata = np.full((2, 2), 255, dtype=np.uint8)
    rows = [
        row_of("sure", mean_entropy=0.1),
        row_of("unsure", mean_entropy=0.9),
        row_of("nodata", nodata, mean_entropy=None, mean_confidence=None),
        row_of("ignored", ignored, mean_entropy=None, mean_confidence=None),
    ]
    put_rows(one, rows)
    export("worklist", one.run, tmp_path / "out.csv", "--by", "mean_entropy")
    keys = [row["key"] for row in read_list(tmp_path / "out.csv")]
    assert keys == ["ignored", "unsure", "sure", "nodata"]


def test_masks_of_another_size_are_brought_to_their_image(
    labelled, export, local, tmp_path
):
    one = labelled(local, {"a.png": np.zeros((2, 2), dtype=np.uint8)})
    small = np.array([[0, 1, 254], [2, 3, 255]], dtype=np.uint8)
    put_rows(one, [row_of("x.png", small, image_height=6, image_width=12)])
    _, told = export("coco", one.run, tmp_path / "out.json")
    assert "1 masks are of another size than their images" in told
    _, drawn = draw_coco(tmp_path / "out.json")
    large = np.repeat(np.repeat(expected(small), 3, axis=0), 4, axis=1)
    np.testing.assert_array_equal(drawn["x.png"], large)


# Which runs, and where to


ON_S3 = {"coco", "png", "webdataset"}
"""One of each kind: a file, a folder of bytes, a folder of files."""


@pytest.mark.parametrize(
    ("form", "where"),
    [*((form, "local") for form in ALL)]
    + [pytest.param(form, "remote", marks=pytest.mark.s3) for form in sorted(ON_S3)],
)
def test_each_form_goes_to_any_place_and_is_not_replaced_by_chance(
    labelled, export, request, form, where
):
    place = request.getfixturevalue(where)
    one = labelled(place)
    out = place.at(ALL[form])
    first, _ = export(form, one.run, out)
    again, told = export(form, one.run, out, code=2)
    assert again is None
    assert "is there already; give --overwrite" in told
    second, _ = export(form, one.run, out, "--overwrite")
    assert second == first
    held = [one.size for one in place.store.find(out) if "/.atrous" not in one.uri]
    assert sum(held) == first["bytes"]
    assert not [one for one in place.store.find(place.root) if ".new-" in one.uri]


def test_a_folder_of_others_is_never_replaced(labelled, export, place):
    one = labelled(place)
    place.store.create(place.at("out/mine.txt"), b"mine")
    _, told = export("png", one.run, place.at("out"), "--overwrite", code=2)
    assert "holds something that is no export" in told
    _, told = export("png", one.run, place.at("out/mine.txt"), code=2)
    assert "is a file" in told
    assert place.store.read(place.at("out/mine.txt")) == b"mine"


@pytest.mark.parametrize("form", ALL)
def test_an_unfinished_run_is_refused_unless_asked_for(labelled, export, local, form):
    one = labelled(local, until=2)
    _, told = export(form, one.run, local.at(ALL[form]), code=4)
    assert "is not finished" in told
    assert "--partial" in told
    found, told = export(form, one.run, local.at(ALL[form]), "--partial")
    assert "3 of 7 images" in told
    assert found["images"] == 4


def test_a_run_that_goes_on_is_exported_as_it_was(labelled, local):
    one = labelled(local)
    name = "ledger/000000/000000001.json"
    record = one.read(name)
    one.remove(name)
    opened = open_run(one.store, one.run, partial=True)
    one.write(name, record)
    assert opened.done == 5
    assert len(list(opened.rows(("key",)))) == 5
    assert len(list(open_run(one.store, one.run).rows(("key",)))) == 7


def test_dead_letters_are_told_and_come_in_by_a_retry(labelled, export, local):
    one = labelled(local, dead=("h.png", "i.png"))
    found, told = export("worklist", one.run, local.at("one.csv"))
    assert found["images"] == 5
    assert "2 of 7 images" in told
    planned = one.retry()
    _, told = export("worklist", one.run, local.at("two.csv"), code=4)
    assert "is not finished" in told
    one.work_off(planned)
    found, told = export("worklist", one.run, local.at("three.csv"))
    assert found["images"] == 7
    assert told == ""


def test_files_that_no_record_names_are_not_read(labelled, export, local):
    one = labelled(local)
    stranger = one.read(one.names("masks")[0])
    one.write("masks/part-0000000000000000.parquet", stranger)
    one.write("masks/notes.txt", b"notes")
    found, _ = export("coco", one.run, local.at("out.json"))
    assert found["images"] == 7


def test_a_file_that_was_changed_or_is_gone_is_refused(labelled, export, local):
    one = labelled(local)
    name = one.names("masks")[0]
    whole = one.read(name)
    one.write(name, whole[:-1])
    _, told = export("coco", one.run, local.at("out.json"), code=2)
    assert "see atrous verify" in told
    one.write(name, whole[:-4] + b"XXXX")
    _, told = export("coco", one.run, local.at("out.json"), code=2)
    assert "is damaged" in told
    one.remove(name)
    _, told = export("coco", one.run, local.at("out.json"), code=2)
    assert not local.store.exists(local.at("out.json"))


def test_only_label_runs_have_masks(build_map, export, local, tmp_path):
    one = build_map(local)
    one.work_off(one.start())
    _, told = export("coco", one.run, tmp_path / "out.json", code=2)
    assert "holds a map run" in told
    _, told = export("coco", tmp_path / "nothing", tmp_path / "out.json", code=2)
    assert "holds no run" in told


def test_the_suffix_says_the_format(labelled, export, local):
    one = labelled(local)
    for form, name in (("coco", "o.txt"), ("cvat", "o.json"), ("worklist", "o.xls")):
        _, told = export(form, one.run, local.at(name), code=2)
        assert "which says the format" in told


def test_a_column_that_is_not_there_is_named(labelled, export, local):
    one = labelled(local, {"a.png": np.zeros((2, 2), dtype=np.uint8)})
    row = row_of("a.png")
    del row["mean_entropy"]
    put_rows(one, [row])
    out = local.at("out.csv")
    _, told = export("worklist", one.run, out, "--by", "mean_entropy", code=2)
    assert "have no mean_entropy; take --by mean_confidence" in told
    assert not local.store.exists(out)


def test_a_column_that_holds_nothing_is_as_good_as_none(labelled, export, local):
    one = labelled(local, {"a.png": np.zeros((2, 2), dtype=np.uint8)})
    put_rows(one, [row_of("a.png", mean_entropy=None)])
    out = local.at("out.csv")
    _, told = export("worklist", one.run, out, "--by", "mean_entropy", code=2)
    assert "have no mean_entropy; take --by mean_confidence" in told
    assert not local.store.exists(out)


def test_progress_is_shown_of_what_takes_long(monkeypatch):
    clock = itertools.count(step=2.0)
    monkeypatch.setattr("jobs.export_progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    assert list(show_progress(range(7), 7, "export coco", stream)) == list(range(7))
    assert stream.getvalue().splitlines() == [
        "export coco: 2 of 7 images, 0/s, 15 s left",
        "export coco: 5 of 7 images, 0/s, 5 s left",
    ]
