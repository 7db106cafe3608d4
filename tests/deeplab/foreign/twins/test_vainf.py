"""VainF/DeepLabV3Plus-Pytorch."""

import functools

import pytest
import torch
import torch.nn.functional as F

from deeplab.foreign.convert import convert
from deeplab.foreign.origin import MismatchError
from deeplab.foreign.vainf import VAINF

ROWS = {  # unit: expansion, width, stride, rate, at output stride 16
    1: (1, 16, 1, 1),
    2: (6, 24, 2, 1),
    3: (6, 24, 1, 1),
    4: (6, 32, 2, 1),
    **dict.fromkeys((5, 6), (6, 32, 1, 1)),
    7: (6, 64, 2, 1),
    **dict.fromkeys((8, 9, 10), (6, 64, 1, 1)),
    **dict.fromkeys((11, 12, 13), (6, 96, 1, 1)),
    14: (6, 160, 1, 1),
    **dict.fromkeys((15, 16), (6, 160, 1, 2)),
    17: (6, 320, 1, 2),
}


def unit_keys(number):
    half = "low_level_features" if number < 4 else "high_level_features"
    unit = f"backbone.{half}.{number}.conv"
    pairs = [(f"{unit}.{i}.0", f"{unit}.{i}.1") for i in range(1 + (number > 1))]
    last = len(pairs)
    return [*pairs, (f"{unit}.{last}", f"{unit}.{last + 1}")]


def mobilenet(twin, x):
    first = "backbone.low_level_features.0"
    x = twin.layer(x, f"{first}.0", f"{first}.1", 32, 3, stride=2, padding=0, act=F.relu6)
    low = twin.units(x, {n: row for n, row in ROWS.items() if n < 4}, unit_keys)
    return low, twin.units(low, {n: row for n, row in ROWS.items() if n > 3}, unit_keys)


def resnet(twin, x, count):
    x = twin.layer(x, "backbone.conv1", "backbone.bn1", 64, 7, stride=2, padding=3)
    x = F.max_pool2d(x, 3, 2, 1)
    low = twin.stage(x, "backbone.layer1", 64, [1] * 3)
    x = twin.stage(low, "backbone.layer2", 128, [1] * 4, stride=2)
    x = twin.stage(x, "backbone.layer3", 256, [1] * count, stride=2)
    return low, twin.stage(x, "backbone.layer4", 512, [1, 2, 2])


def spread(twin, x, conv, norm, separable, rate=1):
    if not separable:
        return twin.layer(x, conv, norm, 256, 3, dilation=rate)
    options = {"dilation": rate, "groups": x.shape[1]}
    x = twin.conv(x, f"{conv}.body.0", x.shape[1], 3, **options)
    return twin.layer(x, f"{conv}.body.1", norm, 256)


def pyramid(twin, x, name, separable):
    views = [twin.layer(x, f"{name}.convs.0.0", f"{name}.convs.0.1", 256)]
    for i, rate in enumerate((6, 12, 18), start=1):
        keys = (f"{name}.convs.{i}.0", f"{name}.convs.{i}.1")
        views.append(spread(twin, x, *keys, separable, rate))
    mean = x.mean((2, 3), keepdim=True)
    pooled = twin.layer(mean, f"{name}.convs.4.1", f"{name}.convs.4.2", 256)
    views.append(twin.resize(pooled, x.shape[2:], align=False))
    x = torch.cat(views, 1)
    return twin.layer(x, f"{name}.project.0", f"{name}.project.1", 256)


def forward(twin, image, head, encoder, separable):
    low, x = encoder(twin, image)
    last = "classifier.classifier"
    if head == "v3":
        x = pyramid(twin, x, f"{last}.0", separable)
        x = spread(twin, x, f"{last}.1", f"{last}.2", separable)
        x = twin.conv(x, f"{last}.4", 5, bias=True)
    else:
        low = twin.layer(low, "classifier.project.0", "classifier.project.1", 48)
        x = pyramid(twin, x, "classifier.aspp", separable)
        x = torch.cat([low, twin.resize(x, low.shape[2:], align=False)], 1)
        x = spread(twin, x, f"{last}.0", f"{last}.1", separable)
        x = twin.conv(x, f"{last}.3", 5, bias=True)
    return twin.resize(x, image.shape[2:], align=False)


ENCODERS = {
    "mobilenet": mobilenet,
    "resnet50": functools.partial(resnet, count=6),
    "resnet101": functools.partial(resnet, count=23),
}


@pytest.fixture
def vainf(grow):
    """The network, by head, encoder and kind of convolution in the head."""

    def make(head, encoder, kind="dense"):
        separable = kind == "separable"
        return grow(forward, head=head, encoder=ENCODERS[encoder], separable=separable)

    return make


PEERS = [
    ("v3plus", "mobilenet", "dense"),
    ("v3plus", "mobilenet", "separable"),
    ("v3", "mobilenet", "separable"),
    pytest.param("v3plus", "resnet50", "dense", marks=pytest.mark.parity),
    pytest.param("v3plus", "resnet101", "separable", marks=pytest.mark.parity),
    pytest.param("v3", "resnet50", "separable", marks=pytest.mark.parity),
    pytest.param("v3", "resnet101", "dense", marks=pytest.mark.parity),
]
SIZES = [
    (337, 305),
    pytest.param((321, 321), marks=pytest.mark.parity),
    pytest.param((320, 336), marks=pytest.mark.parity),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("head", "encoder", "kind"), PEERS)
def test_logits(head, encoder, kind, size, vainf, check_logits):
    wrong = {"dilation": {"dilation": "all"}}
    if encoder == "mobilenet":
        wrong["padding"] = {"padding": "symmetric"}
        wrong["first padding"] = {"padding": "expanded"}
    check_logits(vainf(head, encoder, kind), VAINF, size, wrong=wrong)


@pytest.mark.parametrize(
    ("peer", "architecture", "count"),
    [
        (("v3plus", "mobilenet"), "deeplabv3plus_mobilenet_v2", 356),
        (("v3", "mobilenet"), "deeplabv3_mobilenet_v2", 350),
        (("v3plus", "mobilenet", "separable"), "deeplabv3plus_mobilenet_v2", 356 + 4),
        (("v3", "mobilenet", "separable"), "deeplabv3_mobilenet_v2", 350 + 4),
        (("v3plus", "resnet50"), "deeplabv3plus_resnet50", 318 + 50),
        (("v3", "resnet101"), "deeplabv3_resnet101", 624 + 44),
    ],
)
def test_round_trip(peer, architecture, count, vainf, check_round_trip):
    state = vainf(*peer).state
    assert len(state) == count
    converted = check_round_trip(state, VAINF)
    assert converted.network.architecture == architecture
    assert converted.network.output_stride == 16


def test_errors(vainf, check_errors):
    check_errors(vainf("v3plus", "mobilenet").state, VAINF)
    check_errors(vainf("v3", "mobilenet", "separable").state, VAINF)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("backbone.stage4.0.branches.0.0.conv1.weight", "HRNet.*give every network 4 cl"),
        ("backbone.block1.rep.0.conv1.weight", "Chollet's Xception.*unpadded borders"),
    ],
)
def test_refuses_encoders_that_are_not_built(key, reason, vainf):
    state = vainf("v3", "mobilenet").state | {key: torch.zeros(1)}
    message = rf"must be of resnet50, resnet101, mobilenet_v2, got .*{reason}"
    with pytest.raises(MismatchError, match=message):
        convert(state, VAINF)
