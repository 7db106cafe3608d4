import dataclasses
import itertools

import pytest
import torch
import torchvision
from torch import nn

import deeplab
from deeplab.model import DeepLab
from deeplab.variant import ENCODERS, Norm, Variant, default_variant, parse_variant

MOBILENET = "deeplabv3plus_mobilenet_v2"
RESNET18 = "deeplabv3plus_resnet18"
NETWORKS = [name for name in deeplab.models() if name != "linear"]
LOW = {"xception41": 256, "xception65": 256, "xception71": 256, "resnet50": 256}
LOW |= {"resnet101": 256, "resnet18": 64, "resnet34": 64}


def build_empty(name, **options):
    with torch.device("meta"):
        return deeplab.build(name, classes=5, **options)


def test_every_head_goes_with_every_encoder():
    pairs = itertools.product(("deeplabv3", "deeplabv3plus"), ENCODERS)
    assert set(NETWORKS) == {f"{head}_{encoder}" for head, encoder in pairs}


@pytest.mark.parametrize(
    ("output_stride", "replaced"), [(16, [False, False, True]), (8, [False, True, True])]
)
def test_bottlenecks_equal_torchvisions_own(output_stride, replaced):
    with torch.device("meta"):
        ours = build_empty("deeplabv3_resnet50", output_stride=output_stride).backbone
        theirs = torchvision.models.resnet50(replace_stride_with_dilation=replaced)
    for index in (1, 2, 3, 4):
        layers = [
            {
                name: (m.weight.shape, m.stride, m.padding, m.dilation, m.groups)
                for name, m in getattr(model, f"layer{index}").named_modules()
                if isinstance(m, nn.Conv2d)
            }
            for model in (ours, theirs)
        ]
        assert layers[0] == layers[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_output_stride_switches_rates_and_no_tensor(name):
    model = build_empty(name, output_stride=16)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    for stride, rates in ((8, (12, 24, 36)), (32, (3, 6, 9)), (16, (6, 12, 18))):
        model.set_output_stride(stride)
        assert model.network.output_stride == stride
        assert {key: value.shape for key, value in model.state_dict().items()} == shapes
        assert str(model) == str(build_empty(name, output_stride=stride))
        assert model.aspp.rates == rates
        x = torch.zeros(1, 3, 96, 97, device="meta")
        low, middle, high = model.backbone(x)
        assert low.shape[1:] == (model.backbone.low_channels, 24, 25)
        assert middle.shape[1] == model.backbone.middle_channels
        assert high.shape[1:] == (model.backbone.channels, 96 // stride, 96 // stride + 1)
    assert model.backbone.low_channels == LOW.get(model.network.encoder, 24)


def test_switch_leaves_every_weight_and_gives_what_a_fresh_network_gives():
    torch.manual_seed(0)
    model = deeplab.build(RESNET18, classes=3).eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.rand(1, 3, 64, 64)
    before = model(x)
    model.set_output_stride(8)
    fresh = deeplab.build(RESNET18, classes=3, output_stride=8).eval()
    fresh.load_state_dict(weights)
    assert torch.equal(model(x), fresh(x))
    assert not torch.equal(model(x), before)
    after = model.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    model.set_output_stride(16)
    assert torch.equal(model(x), before)


def test_given_rates_stay_and_a_wrong_switch_changes_nothing():
    model = build_empty(RESNET18, atrous_rates=(1, 2))
    assert model.aspp.rates == (1, 2)
    with pytest.raises(ValueError, match="must be 2 numbers"):
        model.set_output_stride(8)
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        model.set_output_stride(4)
    assert model.network.output_stride == 16
    assert model.aspp.rates == (1, 2)
    model.set_output_stride(8, (3, 4))
    assert model.aspp.rates == (3, 4)
    bare = build_empty(RESNET18, atrous_rates=())
    bare.set_output_stride(8)
    assert bare.aspp.rates == ()


@pytest.mark.parametrize(
    "name", [MOBILENET, RESNET18, "deeplabv3_mobilenet_v3_large", "linear"]
)
def test_any_size_and_any_bands(name):
    model = deeplab.build(name, classes=3, bands=5).eval()
    for height, width in ((1, 1), (1, 7), (33, 50), (64, 64)):
        with torch.no_grad():
            logits = model(torch.rand(2, 5, height, width))
            assert logits.shape == (2, 3, height, width)
            assert logits.isfinite().all()


VARIANTS = {
    "tf beta": (
        "resnet50",
        {
            "dilation": "tf",
            "low_level": "unit",
            "stem": (64, 64, 128),
            "padding": "same",
            "align_corners": True,
        },
    ),
    "spp": ("resnet18", {"context": "spp"}),
    "windowed": ("resnet18", {"image_pool": "window", "pool_window": (3, 5)}),
    "valid": ("resnet18", {"image_pool": "valid", "pool_window": (3, 5)}),
    "no pool": ("resnet18", {"image_pool": "none"}),
    "wide": ("resnet18", {"channels": 64, "project_kernel": 3, "low_level_channels": 12}),
    "refined": ("resnet18", {"refine": "separable", "separable_norm": False}),
    "expanded": ("mobilenet_v2", {"padding": "expanded"}),
    "expanded valid": ("mobilenet_v2", {"padding": "expanded_valid"}),
    "same": ("mobilenet_v2", {"padding": "same", "low_level": "unit"}),
    "last conv": ("mobilenet_v2", {"last_conv": True}),
}


@pytest.mark.parametrize("case", VARIANTS)
@pytest.mark.parametrize("head", ["deeplabv3", "deeplabv3plus"])
def test_any_size_of_every_variant(head, case):
    encoder, choices = VARIANTS[case]
    torch.manual_seed(0)
    model = deeplab.build(f"{head}_{encoder}", classes=2, variant=Variant(**choices)).eval()
    with torch.no_grad():
        for size in ((1, 1), (2, 5), (40, 33)):
            logits = model(torch.rand(1, 3, *size))
            assert logits.shape == (1, 2, *size)
            assert logits.isfinite().all()


def test_parts_are_named_after_the_papers():
    parts = {
        ".".join(key.split(".")[:-1])
        for key in build_empty(MOBILENET).state_dict()
        if not key.startswith("backbone.")
    }
    units = ["decoder.fuse.0", "decoder.fuse.1", *(f"aspp.branches.{i}" for i in (1, 2, 3))]
    separable = ("depthwise", "depthwise_bn", "pointwise", "bn")
    plain = ["aspp.branches.0", "aspp.image_pool", "aspp.project", "decoder.low_level"]
    assert parts == {
        "classifier",
        *(f"{unit}.{layer}" for unit in units for layer in separable),
        *(f"{unit}.{layer}" for unit in plain for layer in ("conv", "bn")),
    }


def test_low_level_map_of_xception_is_not_rectified():
    torch.manual_seed(0)
    backbone = deeplab.build("deeplabv3plus_xception41", classes=2).eval().backbone
    seen = []
    backbone.blocks[1].convs[1].register_forward_hook(lambda *args: seen.append(args[-1]))
    with torch.no_grad():
        low, _, high = backbone(torch.rand(1, 3, 32, 32))
    assert torch.equal(low, seen[0])
    assert low.min() < 0
    assert high.min() >= 0  # the last block alone ends with ReLU


def test_low_level_map_of_tensorflows_resnet_is_before_the_addition():
    torch.manual_seed(0)
    choices = Variant(dilation="tf", low_level="unit")
    backbone = (
        deeplab.build("deeplabv3plus_resnet50", classes=2, variant=choices).eval().backbone
    )
    seen = []
    backbone.layer1[1].bn3.register_forward_hook(
        lambda *args: seen.append(args[-1].clone())
    )
    with torch.no_grad():
        low = backbone(torch.rand(1, 3, 32, 32)).low
    assert low.shape == (1, 256, 8, 8)
    assert torch.equal(low, seen[0])
    assert low.min() < 0


@pytest.mark.parametrize("padding", ["expanded", "expanded_valid"])
def test_border_ring_holds_what_expansion_makes_of_zeros(padding):
    torch.manual_seed(0)
    model = deeplab.build(MOBILENET, classes=2, variant=Variant(padding=padding)).eval()
    expand = model.backbone.features[2].conv[0]
    expand[1].bias.data.uniform_(-2, 8)
    expand[1].running_mean.normal_()
    seen = []
    expand.register_forward_hook(lambda *args: seen.append(args[-1].clone()))
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    norm = expand[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    ring = (norm.bias - norm.running_mean * scale).clamp(0, 6)
    torch.testing.assert_close(seen[0][0, :, 0, 0], ring)
    torch.testing.assert_close(seen[0][0, :, -1, 5], ring)


def test_batch_normalisation_is_the_authors():
    model = build_empty("deeplabv3plus_xception65")
    backbone, head = {True: set(), False: set()}, set()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            found = (module.eps, module.momentum)
            (backbone[True] if name.startswith("backbone") else head).add(found)
    assert backbone[True] == {(1e-3, 3e-4)}
    assert head == {(1e-5, 3e-4)}


def test_auxiliary_head_is_beside_the_network():
    torch.manual_seed(0)
    model = deeplab.build(RESNET18, classes=3, variant=Variant(aux=True))
    logits, aux = model.forward_with_aux(torch.rand(2, 3, 40, 33))
    assert logits.shape == aux.shape == (2, 3, 40, 33)
    model.eval()
    x = torch.rand(1, 3, 40, 33)
    assert torch.equal(model.forward_with_aux(x)[0], model(x))
    with pytest.raises(ValueError, match="has no auxiliary head; build it with aux=True"):
        build_empty(RESNET18).forward_with_aux(x)


def test_frozen_batch_normalisation_survives_train():
    model = deeplab.build(RESNET18, classes=2)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert model.freeze_bn() is model
    model.eval().train()
    assert model.training
    assert model.aspp.dropout.training
    assert not any(norm.training for norm in norms)
    before = norms[0].running_mean.clone()
    model(torch.rand(1, 3, 32, 32))  # also one image alone
    assert torch.equal(norms[0].running_mean, before)
    model.freeze_bn(frozen=False)
    assert all(norm.training for norm in norms)


def test_gradients_reach_every_parameter():
    model = deeplab.build(MOBILENET, classes=3)
    model(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_weights_start_as_the_papers_say():
    torch.manual_seed(0)
    model = deeplab.build("deeplabv3plus_resnet50", classes=21)
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.classifier.bias.any()
    kernel = model.backbone.layer4[2].conv2.weight  # 512 kernels of 3 x 3
    assert kernel.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {}, "model must be one of deeplabv3_mobilenet_v2, .*got 'unet'"),
        (RESNET18, {"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        (RESNET18, {"bands": 0}, "at least 1, got classes=3, bands=0"),
        (RESNET18, {"atrous_rates": (1, 0)}, r"positive whole numbers, got \(1, 0\)"),
        (RESNET18, {"atrous_rates": (1,) * 9}, "at most 8 positive whole numbers"),
        (RESNET18, {"variant": Variant(padding="expanded")}, "resnet18 has no last_conv"),
        (RESNET18, {"variant": Variant(dilation="tf", low_level="unit")}, "go together"),
        (MOBILENET, {"variant": Variant(stem=(1, 2, 3))}, "mobilenet_v2 has no stem"),
        ("deeplabv3_xception65", {"variant": Variant()}, "xception65 has low_level"),
        (
            "deeplabv3_mobilenet_v3_large",
            {"variant": Variant(last_conv=True)},
            "mobilenet_v3_large has one low_level",
        ),
    ],
)
def test_wrong_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        deeplab.build(name, classes=3, **options)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"dilation": "none"}, "dilation must be one of 'torchvision', .* got 'none'"),
        ({"separable": 1}, "separable must be one of False, True, got 1"),
        ({"image_pool": "window"}, "pool_window belongs to image_pool"),
        ({"pool_window": (3, 3)}, r"got \(3, 3\) for 'global'"),
        ({"channels": 0}, "must be positive"),
        ({"stem": (64,)}, "0 or 3 numbers"),
        ({"multi_grid": (1, 2)}, "multi_grid 3"),
        ({"decoder_convs": 0}, "decoder_convs must be 1 to 16"),
        ({"decoder_convs": 17}, "decoder_convs must be 1 to 16"),
        ({"dropout": 1.0}, "dropout from 0 to below 1"),
    ],
)
def test_wrong_choices_are_named(choices, message):
    with pytest.raises(ValueError, match=message):
        Variant(**choices)


@pytest.mark.parametrize("values", [{"eps": 0}, {"momentum": 1.5}, {"eps": "x"}])
def test_wrong_normalisation_is_named(values):
    with pytest.raises(ValueError, match="eps and momentum must be above 0"):
        Norm(**values)


@pytest.mark.parametrize("name", NETWORKS)
def test_variants_survive_json(name):
    import json

    variant = default_variant(name)
    assert parse_variant(json.loads(json.dumps(dataclasses.asdict(variant)))) == variant


def test_package_lists_its_exports_and_no_others():
    assert {"build", "load", "models"} <= set(dir(deeplab))
    assert isinstance(deeplab.build(RESNET18, classes=2), DeepLab)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = deeplab.missing


@pytest.mark.parity  # tracing takes 15 s
@pytest.mark.parametrize("name", [MOBILENET, RESNET18, "deeplabv3_resnet18"])
def test_a_compiler_can_trace_it_as_a_whole(name):
    model = deeplab.build(name, classes=3).eval()
    x = torch.randn(1, 3, 321, 321)
    traced = torch.compile(model, backend="eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(traced(x), model(x))
