"""What an evaluation shows, and scores that are read again."""

import json
import math
import re
import xml.dom.minidom
from types import SimpleNamespace

import numpy as np
import pytest

from jobs.evaluation_figure import draw_evaluation
from jobs.evaluation_text import describe_evaluation
from jobs.job import TrueMask
from jobs.outputs.scores import Judge, Scores, parse_part
from jobs.truth import Truth

RANDOM = np.random.default_rng(3)


def found(names, *, pixels=900):
    """What a run with these classes might come to."""
    count = len(names)
    counts = RANDOM.integers(0, 50, (count, count + 1)) if pixels else []
    share = 0.5 if pixels else None
    classes = [
        {"id": i, "name": name, "color": "#336699", "true": 100 if pixels else 0}
        | dict.fromkeys(("iou", "precision", "recall", "f1", "boundary_f1"), share)
        for i, name in enumerate(names)
    ]
    names = ("mean_iou", "weighted_iou", "accuracy", "mean_accuracy", "mean_precision")
    names += ("mean_f1", "mean_boundary_f1", "calibration_error")
    bins = [
        {"from": i / 15, "to": min(1.0, (i + 1) / 15), "pixels": pixels if i % 2 else 0}
        | {"accuracy": share, "confidence": share}
        for i in range(16)
    ]
    return {
        "images": 3,
        "dead_letters": {"no_truth": 2},
        "pixels": {"pixels": pixels, "unknown": 5},
        "measures": dict.fromkeys(names, share),
        "classes": classes,
        "confusion": np.asarray(counts).tolist() or [[0] * (count + 1)] * count,
        "calibration": {"bins": bins},
        "worst": [{"key": "a\n\x1b[31m.jpg", "mean_iou": 0.1, "accuracy": 0.2}],
    }


@pytest.mark.parametrize("count", [1, 19, 60, 100])
def test_the_figure_holds_all_that_it_draws(count):
    text = draw_evaluation(found([f"class {i}" for i in range(count)]))
    page = xml.dom.minidom.parseString(text).documentElement  # noqa: S318
    width, height = (float(page.getAttribute(name)) for name in ("width", "height"))
    assert page.getAttribute("viewBox") == f"0 0 {width:g} {height:g}"
    drawn = page.getElementsByTagName("rect")
    assert len(drawn) > count
    for one in drawn[1:]:
        x, y, right, low = (
            float(one.getAttribute(name)) for name in ("x", "y", "width", "height")
        )
        assert min(x, y) > 0
        assert x + right < width
        assert y + low < height
    for one in page.getElementsByTagName("text"):
        assert 0 < float(one.getAttribute("x")) < width
        assert 0 < float(one.getAttribute("y")) < height


def test_names_are_escaped_and_shortened():
    names = ['<script>alert("&")</script>', "a\x00b\ud800", "x" * 99, "straße"]
    text = draw_evaluation(found(names))
    page = xml.dom.minidom.parseString(text).documentElement  # noqa: S318
    shown = {one.firstChild.data for one in page.getElementsByTagName("text")}
    assert {names[0][:21] + "…", "a?b?", "x" * 21 + "…", "straße"} <= shown
    assert "<script>" not in text
    assert not page.getElementsByTagName("script")


def test_a_run_without_a_pixel_is_shown_too():
    empty = found(["road", "water"], pixels=0)
    xml.dom.minidom.parseString(draw_evaluation(empty))  # noqa: S318
    table = describe_evaluation(empty)
    assert re.search(r"mean IoU +-\n", table)
    assert re.search(r"road +0\.00% +-", table)


def test_the_table_is_safe_to_print():
    table = describe_evaluation(found(["road\x1b[2J", "y" * 99]))
    assert all(line.isprintable() for line in table.splitlines())
    assert "2 dead letters" in table
    assert "lowest mean IoU: a??[31m.jpg (0.100)" in table


# Scores


def judge_some(count=5, cell=None):
    judge = Judge(3, Truth(tolerance=2.0), cell)
    random = np.random.default_rng(count)
    for number in range(count):
        ids = random.choice([0, 1, 254], size=(20, 30)).astype(np.uint8)
        mask = random.choice([0, 1, 2, 255], size=(20, 30)).astype(np.uint8)
        confidence = np.where(mask == 255, 0, 200).astype(np.uint8)
        result = SimpleNamespace(
            item=SimpleNamespace(uri=f"/{number}", key=f"{number}"),
            segmentation=SimpleNamespace(mask=mask, confidence=confidence),
        )
        judge.add(result, TrueMask(ids=ids, uri="/truth", etag="e"))
    return judge


def test_scores_are_read_as_they_were_written():
    judge = judge_some()
    part = parse_part(judge.to_json('{"shard": 1}'), 3)
    assert part.scores.to_json() == judge.scores.to_json()
    assert part.images == judge.images
    assert json.loads(part.record) == {"shard": 1}


def test_images_add_up_to_their_shard():
    judge = judge_some()
    whole = judge.images[0]
    for one in judge.images[1:]:
        whole.add(one)
    confusion = judge.scores.confusion
    assert whole.accuracy == pytest.approx(confusion.accuracy(), abs=1e-12)
    assert whole.mean_iou == pytest.approx(confusion.mean_iou(), abs=1e-12)
    mean_f1 = judge.scores.boundaries.mean_f1()
    assert whole.boundary_f1 == pytest.approx(mean_f1, abs=1e-12)
    assert whole.pixels + whole.unknown == 5 * 600


def test_a_mask_that_changed_between_blocks_shows_itself():
    first, second, third = judge_some(3).images
    second.truth_etag = "another"
    for one in (second, third):
        first.add(one)
    assert first.truth_etag == "another, e"


def test_squares_of_a_raster_are_compared_by_themselves():
    """What lies in one square changes no count of another."""
    judge = judge_some(1, cell=16)
    cells = Scores(3)
    random = np.random.default_rng(1)
    ids = random.choice([0, 1, 254], size=(20, 30)).astype(np.uint8)
    mask = random.choice([0, 1, 2, 255], size=(20, 30)).astype(np.uint8)
    ids[mask == 255] = 254
    for rows in (slice(0, 16), slice(16, 20)):
        for cols in (slice(0, 16), slice(16, 30)):
            cells.boundaries.add(ids[rows, cols], mask[rows, cols], tolerance_px=2.0)
    assert judge.scores.to_json()["boundaries"] == cells.to_json()["boundaries"]


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 9},
        {"confusion": [[1, 2]]},
        {"confidence": [[-1] * 256] * 2},
        {"boundaries": [[0.5] * 3] * 4},
        {"images": [{"key": "a"}]},
        {"images": None},
    ],
    ids=str,
)
def test_damaged_scores_are_refused(change):
    fields = json.loads(judge_some(1).to_json("{}")) | change
    with pytest.raises(ValueError, match=r"version|counts|no scores"):
        parse_part(json.dumps(fields).encode(), 3)


def test_an_image_without_a_pixel_has_no_score():
    image = judge_some(1).images[0]
    image.classes, image.pixels = {}, 0
    for value in (image.mean_iou, image.accuracy, image.boundary_f1):
        assert math.isnan(value)
