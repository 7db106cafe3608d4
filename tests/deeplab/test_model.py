import pytest
import torch
import torchvision
from torch import nn

import deeplab
from deeplab.backbones.resnet import build_resnet50

MOBILENET = "deeplabv3plus_mobilenet_v2"
RESNET18 = "deeplabv3plus_resnet18"
NETWORKS = [name for name in deeplab.models() if name != "linear"]


def build_empty(name, **options):
    with torch.device("meta"):
        return deeplab.build(name, classes=5, **options)


def rates(units):
    """Rates of the 3x3 kernels in each unit: one number if they agree."""
    found = []
    for unit in units:
        convs = [m for m in unit.modules() if isinstance(m, nn.Conv2d)]
        wide = {conv.dilation[0] for conv in convs if conv.kernel_size == (3, 3)}
        found.append(wide.pop() if len(wide) == 1 else wide)
    return found


@pytest.mark.parametrize(
    ("output_stride", "layer3", "layer4"),
    [(16, [1, 1], [1, 2]), (8, [1, 2], [2, 4])],
)
def test_rates_of_basic_blocks(output_stride, layer3, layer4):
    backbone = build_empty(RESNET18, output_stride=output_stride).backbone
    assert rates(backbone.layer2) == [1, 1]
    assert rates(backbone.layer3) == layer3
    assert rates(backbone.layer4) == layer4


@pytest.mark.parametrize(
    ("output_stride", "replaced"), [(16, [False, False, True]), (8, [False, True, True])]
)
def test_bottlenecks_equal_torchvisions_own(output_stride, replaced):
    with torch.device("meta"):
        ours = build_resnet50(bands=3, output_stride=output_stride)
        theirs = torchvision.models.resnet50(replace_stride_with_dilation=replaced)
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        assert str(getattr(ours, layer)) == str(getattr(theirs, layer))


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [
        (16, [1] * 15 + [2] * 3),  # features.14 loses its stride and keeps rate 1
        (8, [1] * 8 + [2] * 7 + [4] * 3),
    ],
)
def test_rates_of_inverted_residuals(output_stride, expected):
    features = build_empty(MOBILENET, output_stride=output_stride).backbone.features
    assert rates(features) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_output_stride_changes_rates_and_no_tensor(name):
    wide, fine = (build_empty(name, output_stride=stride) for stride in (16, 8))
    shapes = [
        {key: value.shape for key, value in model.state_dict().items()}
        for model in (wide, fine)
    ]
    assert shapes[0] == shapes[1]
    for model, stride in ((wide, 16), (fine, 8)):
        low, high = model.backbone(torch.zeros(1, 3, 96, 97, device="meta"))
        assert low.shape[1:] == (model.backbone.low_channels, 24, 25)
        assert high.shape[1:] == (model.backbone.channels, 96 // stride, 96 // stride + 1)
    assert rates(fine.aspp.branches[1:]) == [12, 24, 36]
    assert rates(wide.aspp.branches[1:]) == [6, 12, 18]
    assert rates(build_empty(name, atrous_rates=(1, 2, 3)).aspp.branches[1:]) == [1, 2, 3]


@pytest.mark.parametrize("name", [MOBILENET, RESNET18, "linear"])
def test_any_size_and_any_bands(name):
    model = deeplab.build(name, classes=3, bands=5).eval()
    with torch.inference_mode():
        for height, width in [(1, 1), (1, 40), (2, 3), (33, 31), (64, 16)]:
            logits = model(torch.rand(2, 5, height, width))
            assert logits.shape == (2, 3, height, width)
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
    dense = build_empty(MOBILENET, separable=False).state_dict()
    assert dense["decoder.fuse.0.conv.weight"].shape == (256, 256 + 48, 3, 3)


def test_parameters_equal_the_published_topology():
    with torch.device("meta"):
        model = deeplab.build("deeplabv3plus_resnet50", classes=21)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(40.35, abs=0.005)


def test_gradients_reach_every_parameter():
    model = deeplab.build(MOBILENET, classes=3)
    model(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {}, "model must be one of deeplabv3plus_mobilenet_v2, .*got 'unet'"),
        (RESNET18, {"output_stride": 4}, "output_stride must be 8 or 16, got 4"),
        (RESNET18, {"bands": 0}, "at least 1, got classes=3, bands=0"),
        (RESNET18, {"atrous_rates": (1, 2)}, "three positive numbers"),
    ],
)
def test_wrong_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        deeplab.build(name, classes=3, **options)


def test_package_lists_its_exports_and_no_others():
    assert {"build", "load", "models"} <= set(dir(deeplab))
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = deeplab.missing
