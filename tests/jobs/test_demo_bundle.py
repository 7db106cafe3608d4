from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import jobs
from deeplab.bundle import read_bundle
from deeplab.segmenter import Segmenter
from jobs import demo_bundle
from jobs.scenes import CLASSES, make_scene

SHIPPED = Path(jobs.__file__).parent / "demo.safetensors"


def test_crops_are_repeatable_and_of_the_size(monkeypatch):
    monkeypatch.setattr(demo_bundle, "_SCENE", 96)
    first, again = (
        list(islice(demo_bundle.fresh_crops(40, first_seed=7, pool=2), 5)) for _ in range(2)
    )
    for (pixels, truth), (pixels_again, truth_again) in zip(first, again, strict=True):
        assert pixels.shape == (3, 40, 40)
        np.testing.assert_array_equal(pixels, pixels_again)
        np.testing.assert_array_equal(truth, truth_again)


def test_old_scenes_give_way_to_new_ones(monkeypatch):
    made = []

    def make(seed, height, width):
        made.append(seed)
        return make_scene(seed, height, width)

    monkeypatch.setattr(demo_bundle, "_SCENE", 48)
    monkeypatch.setattr(demo_bundle, "make_scene", make)
    list(islice(demo_bundle.fresh_crops(16, first_seed=10, pool=3), 10))
    assert made == [10, 11, 12, 13, 14, 15]


def test_script_writes_a_bundle_that_segments(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_bundle, "_SCENE", 64)
    out = tmp_path / "small.safetensors"
    options = ["--steps=1", "--refine=0", "--crop=32", "--pool=1", "--scenes=1"]
    demo_bundle.main([str(out), *options, "--precision=fp32"])
    assert "mean IoU" in capsys.readouterr().err
    assert [info.name for info in read_bundle(out).classes] == [name for name, _ in CLASSES]


def test_shipped_bundle_is_small_and_fits_the_scenes():
    assert SHIPPED.stat().st_size <= 12e6
    bundle = read_bundle(SHIPPED)
    assert [(info.name, info.color) for info in bundle.classes] == list(CLASSES)
    assert (bundle.tile, bundle.overlap) == (512, 128)
    assert bundle.bands == ("red", "green", "blue")


@pytest.mark.parametrize("seed", [3])
def test_shipped_bundle_knows_unseen_scenes(seed):
    scene = make_scene(seed, 512, 512)
    with Segmenter.load(SHIPPED, device="cpu", threads=1) as segmenter:
        result = segmenter.segment(scene.pixels, np.ones(scene.truth.shape, np.bool_))
    assert (result.mask == scene.truth).mean() > 0.85
