"""The rates that published networks run with, unit by unit.

The tables are read from the projects' sources: TensorFlow's DeepLab, torchvision,
segmentation-models-pytorch, pytorch-deeplab-xception, detectron2, mmsegmentation.
"""

import dataclasses

import pytest
import torch
from torch import nn

from deeplab.model import build
from deeplab.rates import Unit, plan_units
from deeplab.variant import Variant, default_variant

TF = {"dilation": "tf", "low_level": "unit"}


def build_empty(name, output_stride, **choices):
    variant = Variant(**choices) if choices else None
    with torch.device("meta"):
        return build(name, classes=2, output_stride=output_stride, variant=variant)


def rates(unit):
    """Rates of a unit's kernels that are larger than one cell, as one number."""
    found = {
        m.dilation[0]
        for m in unit.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)
    }
    (rate,) = found
    return rate


def runs(units):
    """Rates of successive units, equal ones counted: [(rate, units), ...]."""
    counted = []
    for rate in map(rates, units):
        if counted and counted[-1][0] == rate:
            counted[-1][1] += 1
        else:
            counted.append([rate, 1])
    return [tuple(pair) for pair in counted]


@pytest.mark.parametrize(
    ("choices", "output_stride", "expected"),
    [  # layers 1 to 4 of ResNet-50 have 3, 4, 6 and 3 blocks
        ({}, 32, [(1, 16)]),
        ({}, 16, [(1, 14), (2, 2)]),
        ({}, 8, [(1, 8), (2, 6), (4, 2)]),
        (TF, 16, [(1, 13), (2, 3)]),
        (TF, 8, [(1, 7), (2, 6), (4, 3)]),
        (TF | {"multi_grid": (1, 2, 4)}, 16, [(1, 13), (2, 1), (4, 1), (8, 1)]),
        (TF | {"multi_grid": (1, 2, 4)}, 8, [(1, 7), (2, 6), (4, 1), (8, 1), (16, 1)]),
        ({"dilation": "all"}, 16, [(1, 13), (2, 3)]),
        ({"dilation": "all"}, 8, [(1, 7), (2, 6), (4, 3)]),
        (
            {"dilation": "all", "multi_grid": (1, 2, 4)},
            16,
            [(1, 13), (2, 1), (4, 1), (8, 1)],
        ),
        ({"dilation": "mmseg_mg"}, 8, [(1, 8), (2, 6), (4, 2)]),
        (
            {"dilation": "mmseg_mg", "multi_grid": (1, 2, 4)},
            16,
            [(1, 14), (2, 1), (4, 1)],
        ),
    ],
)
def test_resnet(choices, output_stride, expected):
    backbone = build_empty("deeplabv3plus_resnet50", output_stride, **choices).backbone
    layers = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    assert runs([block for layer in layers for block in layer]) == expected


def test_mmsegmentation_spreads_the_first_convolution_of_a_basic_block_alone():
    backbone = build_empty("deeplabv3_resnet18", 8, dilation="mmseg_mg").backbone
    block = backbone.layer4[1]
    assert (block.conv1.dilation, block.conv2.dilation) == ((4, 4), (1, 1))


@pytest.mark.parametrize(
    ("name", "output_stride", "expected"),
    [  # entry, middle and exit flow; rate by block
        ("deeplabv3plus_xception41", 16, [(1, 12), (2, 1)]),
        ("deeplabv3plus_xception65", 32, [(1, 21)]),
        ("deeplabv3plus_xception65", 16, [(1, 20), (2, 1)]),
        ("deeplabv3plus_xception65", 8, [(1, 3), (2, 17), (4, 1)]),
        ("deeplabv3plus_xception71", 8, [(1, 5), (2, 17), (4, 1)]),
    ],
)
def test_xception(name, output_stride, expected):
    assert runs(build_empty(name, output_stride).backbone.blocks) == expected


def test_multi_grid_of_xception_is_within_its_last_block():
    own = default_variant("deeplabv3plus_xception65")
    variant = dataclasses.replace(own, multi_grid=(1, 2, 4))
    with torch.device("meta"):
        model = build("deeplabv3plus_xception65", classes=2, variant=variant)
    assert [rates(layer) for layer in model.backbone.blocks[-1].convs] == [2, 4, 8]


@pytest.mark.parametrize(
    ("dilation", "output_stride", "expected"),
    [  # the first convolution and 17 units
        ("tf", 16, [(1, 15), (2, 3)]),
        ("tf", 8, [(1, 8), (2, 7), (4, 3)]),
        ("all", 16, [(1, 14), (2, 4)]),
        ("all", 8, [(1, 7), (2, 7), (4, 4)]),
        ("stage", 16, [(1, 17), (2, 1)]),
        ("stage", 8, [(1, 11), (2, 6), (4, 1)]),
    ],
)
def test_mobilenet_v2(dilation, output_stride, expected):
    model = build_empty("deeplabv3plus_mobilenet_v2", output_stride, dilation=dilation)
    assert runs(model.backbone.features) == expected


def test_mobilenet_v3_is_torchvisions():
    features = build_empty("deeplabv3_mobilenet_v3_large", 16).backbone.features
    spread = [m for m in features.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [conv.dilation[0] for conv in spread] == [1] * 12 + [2] * 3


@pytest.mark.parametrize("scheme", ["torchvision", "all", "stage"])
def test_strides_and_rates_multiply_to_the_whole_network(scheme):
    strides = [[1, 1], [2, 1], [2, 1], [2, 1], [1]]
    for output_stride in (8, 16, 32):
        plan = plan_units(strides, start=4, output_stride=output_stride, scheme=scheme)
        reached = 4
        for unit in (unit for stage in plan for unit in stage):
            reached *= unit.stride
        assert reached == output_stride
        assert plan[-1][-1] == Unit(1, 32 // output_stride)
