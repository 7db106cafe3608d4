"""The inference form gives what the network gives."""

import importlib.resources

import pytest
import torch
from torch import nn

import deeplab
from deeplab.aspp import ASPP
from deeplab.fold import fold
from deeplab.variant import Variant

NETWORKS = [name for name in deeplab.models() if name != "linear"]


def count_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.fixture
def check(randomise, relative_error):
    """Folding loses nothing in float64, and in float32 no more than rounding does.

    How much that is, random kernels and the kind of processor decide: so what is
    folded must be about as near to the truth as what is not.
    """

    def compare(model, size):
        x = torch.randn(2, 3, *size)
        randomise(model, kernels=False)
        folded = fold(model)
        assert count_norms(model) > 0
        assert count_norms(folded) == 0
        with torch.no_grad():
            ours, theirs = folded(x).double(), model(x).double()
            x, model = x.double(), model.double()
            truth = model(x)
            assert relative_error(ours, truth) <= 2 * relative_error(theirs, truth)
            randomise(model)
            assert relative_error(fold(model)(x), model(x)) <= 1e-12

    return compare


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_folds_whole_and_exact(name, check):
    torch.manual_seed(0)
    check(deeplab.build(name, classes=3), (97, 96))


CHOICES = {
    "same": ("mobilenet_v2", {"padding": "same", "last_conv": True}),
    "expanded": ("mobilenet_v2", {"padding": "expanded_valid"}),
    "tf": ("resnet50", {"dilation": "tf", "low_level": "unit", "stem": (8, 8, 16)}),
    "spp": ("resnet18", {"context": "spp"}),
    "window": ("resnet18", {"image_pool": "window", "pool_window": (3, 3)}),
    "wide": ("resnet18", {"project_kernel": 3}),
    "bias": ("resnet18", {"pool_norm": "none"}),
    "group": ("resnet18", {"pool_norm": "group"}),
    "no pool": ("resnet18", {"image_pool": "none"}),
    "refined": ("resnet18", {"refine": "separable", "separable_norm": False}),
}


@pytest.mark.parametrize("case", CHOICES)
def test_every_variant_folds_exact(case, check):
    encoder, choices = CHOICES[case]
    torch.manual_seed(0)
    variant = Variant(**choices)
    check(deeplab.build(f"deeplabv3plus_{encoder}", classes=3, variant=variant), (66, 81))


def test_auxiliary_head_folds_too(randomise, relative_error):
    variant = Variant(aux=True)
    model = randomise(deeplab.build("deeplabv3_resnet18", classes=2, variant=variant))
    folded, x = fold(model.double()), torch.randn(1, 3, 40, 41).double()
    assert count_norms(folded) == 0
    with torch.no_grad():
        pairs = zip(folded.forward_with_aux(x), model.forward_with_aux(x), strict=True)
        assert all(relative_error(ours, theirs) <= 1e-12 for ours, theirs in pairs)


def test_the_shipped_network_folds_exact(relative_error):
    path = importlib.resources.files("jobs") / "demo.safetensors"
    model, bundle = deeplab.load(str(path))
    x = torch.randn(1, len(bundle.bands), 256, 256)
    with torch.no_grad():
        assert relative_error(fold(model)(x), model(x)) <= 5e-6


@pytest.mark.parametrize("pool_norm", ["batch", "group", "none"])
def test_pooled_view_as_a_bias_equals_the_concatenated_one(
    pool_norm, randomise, relative_error
):
    torch.manual_seed(0)
    aspp = randomise(ASPP(64, rates=(1, 2, 3), variant=Variant(pool_norm=pool_norm)))
    x, seen = torch.randn(3, 64, 17, 20), []
    aspp.project.conv.register_forward_hook(lambda *_: seen.append("concatenated"))
    with torch.no_grad():
        expected = aspp(x)
        aspp.pool_to_bias()
        assert relative_error(aspp(x), expected) <= 5e-6
    assert seen == ["concatenated"]


def test_the_network_itself_stays_as_it_was(randomise):
    model = randomise(deeplab.build("deeplabv3plus_mobilenet_v2", classes=3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold(model.train())
    assert model.training
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("choices", "is_bias"),
    [
        ({}, True),
        ({"image_pool": "window", "pool_window": (3, 3)}, False),
        ({"project_kernel": 3}, False),
        ({"image_pool": "none"}, False),
    ],
)
def test_folding_spares_the_concatenation_where_the_view_is_one_vector(choices, is_bias):
    model = deeplab.build("deeplabv3_resnet18", classes=2, variant=Variant(**choices))
    folded, seen = fold(model), []
    folded.aspp.project.conv.register_forward_hook(lambda *_: seen.append("concatenated"))
    folded(torch.randn(1, 3, 40, 41))
    assert seen == ([] if is_bias else ["concatenated"])
