import numpy as np
import pytest

from jobs.scene_canvas import Canvas, Frame
from jobs.scene_materials import paving, soil
from jobs.scenes import CLASSES, Label, make_scene

SHAPES = [(1, 1), (1, 700), (37, 511), (512, 64)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_any_size(height, width):
    scene = make_scene(5, height, width)
    assert scene.pixels.shape == (3, height, width)
    assert scene.truth.shape == (height, width)
    assert scene.pixels.dtype == scene.truth.dtype == np.uint8
    assert int(scene.truth.max()) < len(CLASSES)


def test_same_seed_same_bytes_whatever_else_is_random():
    first = make_scene(11, 200, 300)
    np.random.default_rng(0).random(10)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    again = make_scene(11, 200, 300)
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.truth.tobytes() == again.truth.tobytes()


def test_other_seed_other_scene():
    first, other = make_scene(1, 256, 256), make_scene(2, 256, 256)
    assert (first.truth != other.truth).mean() > 0.2
    assert (first.pixels != other.pixels).mean() > 0.5


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_every_class_is_to_be_seen(seed):
    truth = make_scene(seed, 1024, 1024).truth
    shares = np.bincount(truth.ravel(), minlength=len(CLASSES)) / truth.size
    assert shares.min() > 0.005
    assert shares.max() < 0.6


def test_colour_alone_does_not_tell_the_class():
    scene = make_scene(3, 1024, 1024)
    coarse = scene.pixels.reshape(3, -1).astype(np.int64) // 32
    color = coarse[0] * 64 + coarse[1] * 8 + coarse[2]
    table = np.zeros((512, len(CLASSES)), np.int64)
    np.add.at(table, (color, scene.truth.ravel()), 1)
    best_by_color = table.max(axis=1).sum() / scene.truth.size
    assert 0.5 < best_by_color < 0.85


def test_shade_changes_light_and_not_class():
    scene = make_scene(3, 1024, 1024)
    road = scene.pixels[:, scene.truth == Label.ROAD].mean(axis=0)
    dark, bright = np.quantile(road, (0.02, 0.5))
    assert dark < 0.65 * bright


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 8, 8), "seed must be 0 or more, got -1"),
        ((0, 0, 8), "at least 1 px, got 0 x 8"),
        ((0, 8, -3), "at least 1 px, got 8 x -3"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_scene(*arguments)


def test_canvas_draws_in_the_bent_plane():
    rng = np.random.default_rng(4)
    frame = Frame.random(rng, 200, 300)
    canvas = Canvas(200, 300, frame)
    ground, road = soil(rng), paving(rng)
    canvas.polygon(np.array(((-999, -999), (999, -999), (999, 999), (-999, 999.0))), ground)
    canvas.line(np.array(((-400.0, 0.0), (400.0, 0.0))), 12.0, road)
    on, off = frame.to_image(np.array(((30.0, 0.0), (30.0, 20.0)))).round()
    outside = np.array((-5.0, 2.0))
    found = canvas.material_at(np.stack((on, off, outside)))
    assert found == [road, ground, None]
