"""Whole evaluations: equal to torchmetrics, however they are cut, and proven."""

from __future__ import annotations

import json
import shutil
import xml.dom.minidom
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from PIL import Image
from torchmetrics.functional import classification as peer

from jobs.cli import _main
from jobs.errors import CODES
from jobs.outputs.masks import read_masks
from jobs.scenes import CLASSES, make_scene

SIZES = ((90, 130), (64, 64), (110, 70), (50, 140), (80, 80))
TILES = ("-c", "tile=144", "-c", "overlap=0")
"""Each scene is one tile, and a small one."""

FILES = ("evaluation.json", "evaluation.svg", "evaluation.parquet")


def command(*words):
    return _main([str(word) for word in words])


def read(run):
    return json.loads((run / "evaluation.json").read_text())


def results(run):
    return {name: (run / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Five scenes with their truth, of which a corner is not known."""
    root = tmp_path_factory.mktemp("scenes")
    for name in ("images", "truth"):
        (root / name / "more").mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        scene = make_scene(70 + number, height, width)
        key = f"more/{number}" if number == 4 else str(number)
        picture = Image.fromarray(scene.pixels.transpose(1, 2, 0))
        picture.save(root / "images" / f"{key}.jpg", quality=92)
        truth = scene.truth.copy()
        truth[:9, :20] = 255 - number % 2
        Image.fromarray(truth).save(root / "truth" / f"{key}.png")
    return root


@pytest.fixture(scope="module")
def start(scenes):
    """Evaluate the scenes, or others: the exit code."""

    def run_it(run, *words, images=None, truth=None, bundle="demo"):
        where = ("--truth", truth or scenes / "truth")
        source = images or scenes / "images"
        tiles = TILES if bundle == "demo" else ()
        options = ("--bundle", bundle, "--local", *where, *tiles, *words)
        return command("evaluate", source, run, *options)

    return run_it


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, start):
    run = tmp_path_factory.mktemp("quiet") / "run"
    assert start(run, "-c", "shard_items=2") == 0
    return run


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, scenes):
    """What ``label`` writes of the scenes."""
    run = tmp_path_factory.mktemp("labelled") / "run"
    options = ("--bundle", "demo", "--local", *TILES)
    assert command("label", scenes / "images", run, *options) == 0
    return run


def masks_of(run):
    parts = sorted((run / "masks").glob("*.parquet"))
    return dict(pair for part in parts for pair in read_masks(part))


def check_against_peer(found, target, preds, double_precision):
    """Hold every measure that torchmetrics has against it."""
    target = torch.from_numpy(np.where(target == 254, 255, target).astype(np.int64))
    preds = torch.from_numpy(preds.astype(np.int64))
    count = len(found["classes"])
    given = {"num_classes": count, "ignore_index": 255, "validate_args": False}
    by_class = {
        "iou": peer.multiclass_jaccard_index,
        "precision": peer.multiclass_precision,
        "recall": peer.multiclass_recall,
        "f1": peer.multiclass_f1_score,
    }
    means = {
        "mean_iou": (peer.multiclass_jaccard_index, "macro"),
        "weighted_iou": (peer.multiclass_jaccard_index, "weighted"),
        "mean_accuracy": (peer.multiclass_recall, "macro"),
        "mean_precision": (peer.multiclass_precision, "macro"),
        "mean_f1": (peer.multiclass_f1_score, "macro"),
        "accuracy": (peer.multiclass_accuracy, "micro"),
    }
    with double_precision():
        counts = peer.multiclass_confusion_matrix(preds, target, **given)
        assert [row[:-1] for row in found["confusion"]] == counts.tolist()
        for name, measure in by_class.items():
            theirs = measure(preds, target, average="none", **given)
            for one, value in zip(found["classes"], theirs.tolist(), strict=True):
                ours = one[name]
                if ours is None:
                    assert (one["true"], one["given"]) == (0, 0)
                else:
                    assert abs(ours - value) < 1e-9
        for name, (measure, average) in means.items():
            theirs = float(measure(preds, target, average=average, **given))
            assert abs(found["measures"][name] - theirs) < 1e-9


def test_what_label_does_to_images_is_judged(scenes, start, tmp_path):
    """Resized, and seen in several forms; masks have the images' own size again."""
    options = ("-c", "resize=long=100", "-c", "flip=true")
    assert start(tmp_path / "score", *options) == 0
    given = ("--bundle", "demo", "--local", *TILES, *options)
    assert command("label", scenes / "images", tmp_path / "run", *given) == 0
    right = known = 0
    for key, mask in masks_of(tmp_path / "run").items():
        truth = np.asarray(Image.open(scenes / "truth" / key.replace(".jpg", ".png")))
        right += ((truth == mask) & (truth < 254)).sum()
        known += (truth < 254).sum()
    assert read(tmp_path / "score")["measures"]["accuracy"] == right / known


def test_equals_torchmetrics_on_the_masks_that_label_writes(
    scenes, labelled, quiet, double_precision
):
    masks, found = masks_of(labelled), read(quiet)
    assert [one["name"] for one in found["classes"]] == [name for name, _ in CLASSES]
    truths = {}
    for key in masks:
        path = scenes / "truth" / key.replace(".jpg", ".png")
        truths[key] = np.asarray(Image.open(path))
    flat = [np.concatenate([one[key].ravel() for key in masks]) for one in (truths, masks)]
    check_against_peer(found, *flat, double_precision)
    known = flat[0] < 254
    assert found["pixels"] == {"pixels": known.sum(), "unknown": (~known).sum()}

    rows = pq.read_table(quiet / "evaluation.parquet").to_pylist()
    assert [row["key"] for row in rows] == list(masks)
    for row in rows:
        right = (truths[row["key"]] == masks[row["key"]])[truths[row["key"]] < 254]
        assert row["accuracy"] == pytest.approx(right.mean(), abs=1e-9)
        assert row["truth"].endswith(row["key"].replace(".jpg", ".png"))
    worst = sorted((row["mean_iou"], row["key"]) for row in rows)
    assert [(one["mean_iou"], one["key"]) for one in found["worst"]] == worst
    calibration = found["calibration"]
    assert sum(calibration["right"]) == sum(one["right"] for one in found["classes"])
    assert 0 < found["measures"]["calibration_error"] < 0.5
    assert 0.1 < found["measures"]["mean_boundary_f1"] < 1


def test_the_cut_changes_no_byte(tmp_path, start, quiet):
    assert start(tmp_path / "run", "-c", "shard_items=1") == 0
    assert len(list((tmp_path / "run" / "scores").iterdir())) == 5
    assert results(tmp_path / "run") == results(quiet)


def test_a_run_that_stopped_goes_on(tmp_path, start, quiet):
    run = tmp_path / "run"
    shutil.copytree(quiet, run)
    for name in ("_SUCCESS", "manifest.parquet", "summary.json", *FILES):
        (run / name).unlink()
    (first, *others) = sorted((run / "ledger").rglob("*.json"))
    part = json.loads(first.read_text())["outputs"][0]["name"]
    first.unlink()
    (run / part).unlink()
    before = {path: path.stat().st_mtime_ns for path in others}
    assert command("verify", run) == 4
    # The location is in job.json and the same truth is asked for again.
    assert start(run, "-c", "shard_items=7") == 0
    assert results(run) == results(quiet)
    assert {path: path.stat().st_mtime_ns for path in others} == before
    assert command("verify", run, "--deep") == 0


def test_a_late_attempt_describes_what_stands(tmp_path, start, quiet):
    """A part whose record was lost is taken over as it is, and not written again."""
    run = tmp_path / "run"
    shutil.copytree(quiet, run)
    for name in ("_SUCCESS", "manifest.parquet"):
        (run / name).unlink()
    first = min((run / "ledger").rglob("*.json"))
    part = run / json.loads(first.read_text())["outputs"][0]["name"]
    fields = json.loads(part.read_text())
    fields["images"][0]["truth_etag"] = "of another attempt"
    part.write_text(json.dumps(fields))
    first.unlink()
    held = part.read_bytes()
    assert start(run) == 0
    assert part.read_bytes() == held
    assert command("verify", run, "--deep") == 0


def test_what_cannot_be_judged_is_a_dead_letter_until_it_is_mended(
    tmp_path, scenes, start, quiet, capsys
):
    shutil.copytree(scenes, tmp_path / "scenes")
    images, truth = tmp_path / "scenes" / "images", tmp_path / "scenes" / "truth"
    held = {name: (truth / name).read_bytes() for name in ("0.png", "1.png", "2.png")}
    (truth / "0.png").unlink()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(truth / "1.png")
    Image.fromarray(np.full((110, 70), 77, np.uint8)).save(truth / "2.png")
    run = tmp_path / "run"
    assert start(run, "-c", "shard_items=2", images=images, truth=truth) == 3
    rows = pq.read_table(run / "dead_letter.parquet").to_pylist()
    assert [(row["key"], row["stage"], row["code"]) for row in rows] == [
        ("0.jpg", "read", "no_truth"),
        ("1.jpg", "read", "wrong_truth"),
        ("2.jpg", "read", "wrong_truth"),
    ]
    assert {row["code"] for row in rows} <= set(CODES)
    assert "it has 9 x 9 px where the image has 64 x 64" in rows[1]["message"]
    assert "id 77 (7700 px) is no class" in rows[2]["message"]
    found = read(run)
    assert (found["images"], found["dead_letters"]) == (
        2,
        {"no_truth": 1, "wrong_truth": 2},
    )
    assert command("verify", run, "--deep") == 0
    for name, data in held.items():
        (truth / name).write_bytes(data)
    assert command("retry", run, "--local", "--code", "no_truth") == 3
    assert read(run)["images"] == 3
    capsys.readouterr()
    assert command("retry", run, "--local") == 0
    assert capsys.readouterr().out == f"{run}/evaluation.json\n"
    assert command("verify", run, "--deep") == 0
    mended, sound = read(run), read(quiet)
    for name in ("measures", "classes", "confusion", "calibration", "boundaries", "images"):
        assert mended[name] == sound[name]
    assert mended["mean_over_images"] == sound["mean_over_images"]
    assert command("clean", run) == 0


def test_verify_counts_again(tmp_path, quiet, capsys):
    run = tmp_path / "run"

    def kinds(*options):
        capsys.readouterr()
        code = command("verify", run, "--json", *options)
        return code, json.loads(capsys.readouterr().out)["counts"]

    def change(path, edit):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(quiet, run)
        fields = json.loads((run / path).read_text())
        edit(fields)
        (run / path).write_text(json.dumps(fields, indent=1))

    def forge(fields):
        fields["measures"]["mean_iou"] += 0.01

    change("evaluation.json", lambda _: None)
    assert kinds("--deep") == (0, {})
    change("evaluation.json", forge)
    assert kinds("--deep") == (5, {"wrong_count": 1})
    change("evaluation.json", lambda fields: fields.update(fingerprint="x"))
    assert kinds() == (5, {"wrong_record": 1})
    (run / "evaluation.svg").unlink()
    assert kinds()[0] == 4
    part = min(Path(quiet, "scores").iterdir()).relative_to(quiet)
    change(part, lambda fields: fields["confusion"][0].__setitem__(0, 1))
    code, found = kinds("--deep")
    assert (code, found["replaced"]) == (5, 1)
    (run / part).unlink()
    assert kinds() == (5, {"missing": 1})


def test_json_is_one_object_and_the_table_goes_elsewhere(tmp_path, start, capsys):
    capsys.readouterr()
    assert start(tmp_path / "run", "--json", "--limit", 2) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == read(tmp_path / "run")
    assert json.loads(printed.out)["images"] == 2
    assert "mean IoU" in printed.err
    figure = xml.dom.minidom.parse(str(tmp_path / "run" / "evaluation.svg"))  # noqa: S318
    texts = [node.firstChild.data for node in figure.getElementsByTagName("text")]
    assert {"field", "bare soil", "no class", "IoU"} <= set(texts)


def test_a_table_is_shown(start, tmp_path, capsys):
    capsys.readouterr()
    assert start(tmp_path / "run", "--limit", 1) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 images, 0.01 M pixels judged")
    assert "\nlowest mean IoU: 0.jpg (" in out
    assert out.endswith(f"\n{tmp_path}/run/evaluation.json\n")


# Layouts


def test_voc_as_it_comes(tmp_path, scenes, start, quiet, capsys):
    root = tmp_path / "voc"
    shutil.copytree(scenes / "images", root / "JPEGImages")
    shutil.copytree(scenes / "truth", root / "SegmentationClass")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("0\n1\n2\n3\n")
    options = ("--bundle", "demo", "-c", f"truth={root}", "-c", "shard_items=3", "--json")
    capsys.readouterr()
    assert command("plan", "evaluate", root, *options) == 0
    assert json.loads(capsys.readouterr().out)["items"] == 4
    assert start(tmp_path / "run", images=root, truth=root) == 0
    rows = pq.read_table(tmp_path / "run" / "evaluation.parquet").to_pylist()
    sound = pq.read_table(quiet / "evaluation.parquet").to_pylist()
    assert [row["mean_iou"] for row in rows] == [row["mean_iou"] for row in sound[:4]]
    (lists / "val.txt").write_text("0\nnone\n")
    assert start(tmp_path / "other", images=root, truth=root) == 2
    assert "names 1 images that are not under" in capsys.readouterr().err
    (lists / "train.txt").write_text("")
    options = ("-c", "truth_split=train")
    assert start(tmp_path / "other", *options, images=root, truth=root) == 2
    assert "belongs to train of" in capsys.readouterr().err


def test_masks_of_another_run_are_a_truth(tmp_path, labelled, start):
    assert start(tmp_path / "run", truth=labelled) == 0
    found = read(tmp_path / "run")
    assert found["measures"]["mean_iou"] == found["measures"]["mean_boundary_f1"] == 1.0
    assert found["truth"]["form"] == "parquet"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("-c", "bands=3,2,1"), "are of rasters, and this truth is of images"),
        (("-c", "truth_classes=9=sky"), "got 'sky'"),
        (("--truth", "/nowhere"), "nothing at /nowhere"),
        (("--truth-format", "parquet"), "no Parquet file"),
    ],
)
def test_what_cannot_be_is_refused_at_once(tmp_path, start, capsys, words, reason):
    assert start(tmp_path / "run", *words) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run" / "plan.parquet").exists()


# Rasters


@pytest.fixture(scope="module")
def mapped(tmp_path_factory, raster, linear):
    run = tmp_path_factory.mktemp("mapped") / "map"
    assert command("map", raster, run, "--bundle", linear, "--local") == 0
    return run


@pytest.fixture(scope="module")
def raster_truth(tmp_path_factory, mapped):
    """What the map says, moved a little, with a class and an area that are unknown."""
    path = tmp_path_factory.mktemp("truth") / "scene.tif"
    with rasterio.open(mapped / "rasters" / "scene.tif") as source:
        ids, profile = source.read(1), source.profile
    ids = np.roll(ids, 3, axis=1)
    ids[:40], ids[ids == 255] = 11, 0
    with rasterio.open(path, "w", **{**profile, "driver": "GTiff", "nodata": None}) as file:
        file.write(ids, 1)
    return path


def test_rasters_are_judged_by_blocks(  # noqa: PLR0913, PLR0917
    tmp_path, raster, raster_truth, linear, mapped, start, double_precision
):
    given = {"images": raster, "truth": raster_truth, "bundle": linear}
    runs = [tmp_path / "small", tmp_path / "large"]
    for run, block in zip(runs, (512, 1536), strict=True):
        words = ("-c", f"block={block}", "-c", "truth_ignore=11")
        assert start(run, *words, **given) == 0
        assert command("verify", run, "--deep") == 0
    assert results(runs[0]) == results(runs[1])
    with rasterio.open(mapped / "rasters" / "scene.tif") as source:
        mask = source.read(1)
    with rasterio.open(raster_truth) as source:
        truth = source.read(1)
    truth[(truth == 11) | (mask == 255)] = 255
    found = read(runs[0])
    check_against_peer(found, truth.ravel(), mask.ravel(), double_precision)
    assert (found["images"], found["truth"]["form"]) == (1, "raster")
    assert 0.5 < found["measures"]["mean_boundary_f1"] <= 1
    assert len(list((runs[0] / "scores").iterdir())) == 6
    assert not (runs[0] / "rasters").exists()


def test_a_map_is_the_truth_of_itself(tmp_path, raster, linear, mapped, start):
    run = tmp_path / "run"
    assert start(run, images=raster, truth=mapped, bundle=linear) == 0
    found = read(run)["measures"]
    assert found["mean_iou"] == found["mean_boundary_f1"] == 1.0


def test_a_raster_that_lies_elsewhere_kills_its_blocks_alone(
    tmp_path, raster, raster_truth, linear, start
):
    truth = tmp_path / "truth" / "scene.tif"
    truth.parent.mkdir()
    with rasterio.open(raster_truth) as source:
        profile, ids = source.profile, source.read()
    profile |= {"transform": profile["transform"] @ profile["transform"].translation(1, 0)}
    with rasterio.open(truth, "w", **profile) as file:
        file.write(ids)
    run = tmp_path / "run"
    words = ("-c", "block=512", "-c", "truth_ignore=11", "--truth-format", "raster")
    given = {"images": raster, "truth": truth.parent, "bundle": linear}
    assert start(run, *words, **given) == 3
    rows = pq.read_table(run / "dead_letter.parquet").to_pylist()
    assert {row["code"] for row in rows} == {"wrong_truth"}
    assert len(rows) == 6
    assert read(run)["measures"]["mean_iou"] is None
    shutil.copy(raster_truth, truth)
    assert command("retry", run, "--local") == 0
    assert read(run)["dead_letters"] == {}
    assert read(run)["measures"]["mean_iou"] > 0.3
    assert command("verify", run, "--deep") == 0
