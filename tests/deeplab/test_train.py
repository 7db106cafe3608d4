import itertools

import numpy as np
import pytest
import torch
from torch import nn

from deeplab.losses import cross_entropy
from deeplab.model import build
from deeplab.train import Recipe, augment, crop, crops, parameter_groups, set_seed, train
from deeplab.variant import Variant

SIDE = 24


def recipe(**changes):
    fields = {"steps": 20, "mean": (0.5,), "std": (0.25,), "batch": 4, "learning_rate": 0.1}
    return Recipe(**(fields | changes))


def toy(count=4):
    """One band whose brightness is the class, with truth unknown in one corner."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(count):
        truth = rng.integers(0, 2, size=(40, 32), dtype=np.uint8)
        pixels = (60 + 130 * truth + rng.integers(0, 40, truth.shape)).astype(np.uint8)
        truth[:4, :4] = 254
        samples.append((pixels[None], truth))
    return samples


def small_net():
    set_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_falls(optimizer, precision):
    chosen = recipe(
        optimizer=optimizer, precision=precision, learning_rate=0.05, weight_decay=0.01
    )
    model = small_net()
    losses = [p.loss for p in train(model, crops(toy(), SIDE, seed=1), chosen)]
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert not model.training


def test_same_seeds_same_weights():
    weights = []
    for _ in range(2):
        model = small_net()
        list(train(model, crops(toy(), SIDE, seed=1), recipe(steps=3)))
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


def test_network_of_the_family_trains_in_place():
    set_seed(0)
    model = build("deeplabv3plus_mobilenet_v2", classes=2, bands=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    list(train(model, crops(toy(), SIDE, seed=1), recipe(steps=1, optimizer="adamw")))
    moved = [not torch.equal(before[name], p) for name, p in model.named_parameters()]
    assert all(moved)


def test_rate_rises_and_then_falls_as_the_papers_say():
    chosen = recipe(steps=110, warmup=10, learning_rate=1.0)
    rates = [chosen.rate(step) for step in range(110)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5**0.9)
    assert rates[109] == pytest.approx(0.01**0.9)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_rate_is_the_one_of_the_step():
    chosen = recipe(steps=3, learning_rate=0.5)
    seen = [p.learning_rate for p in train(small_net(), crops(toy(), SIDE, seed=1), chosen)]
    assert seen == [chosen.rate(step) for step in range(3)]


def test_frozen_statistics_stay_while_weights_move():
    model = small_net()
    mean, kernel = model[1].running_mean.clone(), model[0].weight.detach().clone()
    list(train(model, crops(toy(), SIDE, seed=1), recipe(steps=2, freeze_norm=True)))
    assert torch.equal(model[1].running_mean, mean)
    assert not torch.equal(model[0].weight, kernel)
    list(train(model, crops(toy(), SIDE, seed=1), recipe(steps=2)))
    assert not torch.equal(model[1].running_mean, mean)


def test_only_kernels_decay():
    model = small_net()
    model[3].weight.requires_grad_(requires_grad=False)
    kernels, rest = parameter_groups(model, 0.3)
    assert kernels["weight_decay"] == 0.3
    assert [id(p) for p in kernels["params"]] == [id(model[0].weight)]
    assert rest["weight_decay"] == 0.0
    expected = {model[0].bias, model[1].weight, model[1].bias, model[3].bias}
    assert set(rest["params"]) == expected


def test_depthwise_kernels_do_not_decay():
    model = build("deeplabv3plus_mobilenet_v2", classes=2)
    kernels, rest = parameter_groups(model, 0.3)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decaying = {names[parameter] for parameter in kernels["params"]}
    spared = {names[parameter] for parameter in rest["params"]}
    assert len(decaying) + len(spared) == len(names)
    depthwise = {"aspp.branches.2.depthwise.weight", "decoder.fuse.1.depthwise.weight"}
    assert depthwise | {"backbone.features.4.conv.1.0.weight", "classifier.bias"} <= spared
    pointwise = {"aspp.branches.2.pointwise.weight", "classifier.weight"}
    assert pointwise | {"backbone.features.4.conv.0.0.weight"} <= decaying
    assert all(parameter.ndim > 1 for parameter in kernels["params"])


def test_auxiliary_head_learns_beside_the_network():
    set_seed(0)
    variant = Variant(aux=True)
    model = build("deeplabv3_resnet18", classes=2, bands=1, variant=variant)
    before = model.aux.classifier.weight.detach().clone()
    chosen = recipe(steps=1, learning_rate=0.01)
    (progress,) = train(model, crops(toy(), SIDE, seed=1), chosen)
    assert not torch.equal(model.aux.classifier.weight, before)
    # Both heads start undecided between two classes.
    assert progress.loss == pytest.approx(1.4 * np.log(2), rel=0.1)


def test_samples_that_end_end_the_training():
    samples = list(itertools.islice(crops(toy(), SIDE, seed=1), 11))
    steps = [progress.step for progress in train(small_net(), samples, recipe())]
    assert steps == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps and batch must be at least 1, got 0 and 4"),
        ({"batch": 0}, "steps and batch must be at least 1, got 20 and 0"),
        ({"warmup": 20}, "warmup must be 0 to 19, got 20"),
        ({"std": (0.0,)}, "std above 0"),
        ({"mean": (0.5, 0.5)}, "one number per band"),
    ],
)
def test_recipe_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_crop_comes_from_one_place_of_both():
    truth = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) % 251
    sample = (np.stack([truth, 255 - truth]).astype(np.uint8), truth.astype(np.uint8))
    rng = np.random.default_rng(2)
    corners = set()
    for _ in range(200):
        pixels, part = crop(rng, sample, 28)
        assert pixels.shape == (2, 28, 28)
        np.testing.assert_array_equal(pixels[0], part)
        corners.add(int(part[0, 0]))
    assert corners == {int(t) for t in sample[1][:3, :13].ravel()}


def test_what_an_image_lacks_is_nodata():
    sample = (np.full((1, 3, 5), 9, np.uint8), np.ones((3, 5), np.uint8))
    pixels, truth = crop(np.random.default_rng(0), sample, 4)
    np.testing.assert_array_equal(truth, [[1] * 4] * 3 + [[255] * 4])
    np.testing.assert_array_equal(pixels[0, 3], [0] * 4)


def test_augment_turns_both_alike_all_eight_ways():
    truth = np.array([[0, 1], [2, 3]], np.uint8)
    rng = np.random.default_rng(5)
    seen = set()
    for _ in range(200):
        pixels, turned = augment(rng, (70 + 40 * truth[None], truth))
        assert pixels.dtype == turned.dtype == np.uint8
        order = np.argsort(pixels[0].ravel())  # tints keep the order of brightness
        np.testing.assert_array_equal(turned.ravel()[order], [0, 1, 2, 3])
        seen.add(turned.tobytes())
    assert len(seen) == 8


def test_loss_is_the_mean_over_known_pixels():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(2, 3, 4, 5)), dtype=torch.float32)
    truth = torch.tensor(rng.choice([0, 1, 2, 254, 255], size=(2, 4, 5)).astype(np.uint8))
    chance = torch.softmax(logits, dim=1).numpy()
    expected = [
        -np.log(chance[n, truth[n, y, x], y, x])
        for n, y, x in np.ndindex(2, 4, 5)
        if truth[n, y, x] < 254
    ]
    assert float(cross_entropy(logits, truth)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_loss_without_known_pixels_is_zero_and_teaches_nothing():
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 2, 2), 255, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()
