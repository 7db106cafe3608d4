"""jfzhang95/pytorch-deeplab-xception."""

import functools

import pytest
import torch
import torch.nn.functional as F

from deeplab.foreign.convert import convert
from deeplab.foreign.jfzhang import JFZHANG
from deeplab.foreign.origin import MismatchError

ROWS = {  # unit: expansion, width, stride, rate, at output stride 16
    1: (1, 16, 1, 1),
    2: (6, 24, 2, 1),
    3: (6, 24, 1, 1),
    4: (6, 32, 2, 1),
    **dict.fromkeys((5, 6), (6, 32, 1, 1)),
    7: (6, 64, 2, 1),
    **dict.fromkeys((8, 9, 10), (6, 64, 1, 1)),
    **dict.fromkeys((11, 12, 13), (6, 96, 1, 1)),
    **dict.fromkeys((14, 15, 16), (6, 160, 1, 1)),
    17: (6, 320, 1, 2),
}


def unit_keys(number):
    unit = f"backbone.features.{number}.conv"
    starts = (0, 3) if number == 1 else (0, 3, 6)
    return [(f"{unit}.{start}", f"{unit}.{start + 1}") for start in starts]


def mobilenet(twin, x):
    first = "backbone.features.0"
    x = twin.layer(x, f"{first}.0", f"{first}.1", 32, 3, stride=2, act=F.relu6)
    low = twin.units(x, {n: row for n, row in ROWS.items() if n < 4}, unit_keys)
    return low, twin.units(low, {n: row for n, row in ROWS.items() if n > 3}, unit_keys)


def resnet(twin, x, stride):
    x = twin.layer(x, "backbone.conv1", "backbone.bn1", 64, 7, stride=2)
    low = twin.stage(F.max_pool2d(x, 3, 2, 1), "backbone.layer1", 64, [1] * 3)
    x = twin.stage(low, "backbone.layer2", 128, [1] * 4, stride=2)
    step = 16 // stride
    x = twin.stage(x, "backbone.layer3", 256, [step] * 23, stride=2 // step)
    rates = [2 * step, 4 * step, 8 * step]
    return low, twin.stage(x, "backbone.layer4", 512, rates)


def forward(twin, image, encoder, stride):
    low, x = encoder(twin, image)
    views = []
    for i, rate in enumerate((0, 6, 12, 18), start=1):
        options = {"kernel": 3, "dilation": rate * 16 // stride} if rate else {}
        keys = (f"aspp.aspp{i}.atrous_conv", f"aspp.aspp{i}.bn")
        views.append(twin.layer(x, *keys, 256, **options))
    mean = x.mean((2, 3), keepdim=True)
    keys = ("aspp.global_avg_pool.1", "aspp.global_avg_pool.2")
    pooled = twin.layer(mean, *keys, 256)
    views.append(twin.resize(pooled, x.shape[2:], align=True))
    x = twin.layer(torch.cat(views, 1), "aspp.conv1", "aspp.bn1", 256)
    low = twin.layer(low, "decoder.conv1", "decoder.bn1", 48)
    x = torch.cat([twin.resize(x, low.shape[2:], align=True), low], 1)
    for i in (0, 4):
        last = (f"decoder.last_conv.{i}", f"decoder.last_conv.{i + 1}")
        x = twin.layer(x, *last, 256, 3)
    x = twin.conv(x, "decoder.last_conv.8", 5, bias=True)
    return twin.resize(x, image.shape[2:], align=True)


@pytest.fixture
def jfzhang(grow):
    """The network, by encoder and output stride."""

    def make(encoder, stride=16):
        encode = mobilenet
        if encoder == "resnet101":
            encode = functools.partial(resnet, stride=stride)
        twin = grow(forward, encoder=encode, stride=stride)
        for key, tensor in list(twin.state.items()):
            if key.startswith("backbone.features."):
                half = "low" if int(key.split(".")[2]) < 4 else "high"
                twin.state[key.replace("features", f"{half}_level_features")] = tensor
        return twin

    return make


PEERS = [
    ("mobilenet", 16),
    pytest.param("resnet101", 16, marks=pytest.mark.parity),
    pytest.param("resnet101", 8, marks=pytest.mark.parity),
]
SIZES = [
    (337, 305),
    pytest.param((321, 321), marks=pytest.mark.parity),
    pytest.param((320, 336), marks=pytest.mark.parity),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("encoder", "stride"), PEERS)
def test_logits(encoder, stride, size, jfzhang, check_logits):
    wrong = {"dilation": {"dilation": "torchvision"}}
    if encoder == "mobilenet":
        wrong["padding"] = {"padding": "symmetric"}
        wrong["first padding"] = {"padding": "expanded_valid"}
    else:
        wrong["multi_grid"] = {"multi_grid": (1, 1, 1)}
    twin = jfzhang(encoder, stride)
    check_logits(twin, JFZHANG, size, wrong=wrong, output_stride=stride)


def test_round_trip_mobilenet(jfzhang, check_round_trip):
    state = jfzhang("mobilenet").state
    assert len(state) == 668
    converted = check_round_trip(state, JFZHANG, aliases=306)
    key = "backbone.high_level_features.17.conv.6.weight"
    reason = "the same tensor as backbone.features.17.conv.6.weight"
    assert converted.unused[key] == reason


def test_round_trip_resnet(jfzhang, check_round_trip):
    state = jfzhang("resnet101").state
    assert len(state) == 624 + 56
    network = check_round_trip(state, JFZHANG).network
    assert network.architecture == "deeplabv3plus_resnet101"
    assert network.choices.multi_grid == (1, 2, 4)


def test_a_half_may_be_absent_but_not_other(jfzhang):
    state = jfzhang("mobilenet").state
    halves = ("backbone.low_level_features.", "backbone.high_level_features.")
    once = {key: tensor for key, tensor in state.items() if not key.startswith(halves)}
    assert convert(once, JFZHANG).unused == {}
    key = "backbone.low_level_features.0.0.weight"
    other = state | {key: state[key] + 1}
    with pytest.raises(MismatchError, match=r"1 left over \(backbone\.low_level_feat"):
        convert(other, JFZHANG)


def test_errors(jfzhang, check_errors):
    state = jfzhang("mobilenet").state
    halves = ("backbone.low_level_features.", "backbone.high_level_features.")
    once = {key: tensor for key, tensor in state.items() if not key.startswith(halves)}
    check_errors(once, JFZHANG)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("backbone.block1.rep.0.conv1.weight", "Xception: it rectifies the shortcuts"),
        ("backbone.layer5.0.conv1.weight", "its DRN, a dilated residual network"),
    ],
)
def test_refuses_encoders_that_are_not_built(key, reason, jfzhang):
    state = jfzhang("mobilenet").state | {key: torch.zeros(1)}
    message = rf"must be of resnet101, mobilenet_v2, got .*{reason}"
    with pytest.raises(MismatchError, match=message):
        convert(state, JFZHANG)
