"""LiheYoung/UniMatch's DeepLabV3Plus."""

import pytest
import torch
import torch.nn.functional as F

from deeplab.foreign.convert import convert
from deeplab.foreign.origin import MismatchError
from deeplab.foreign.unimatch import UNIMATCH


def encode(twin, x, depth, is_first):
    for i, (width, step) in enumerate(((64, 2), (64, 1), (128, 1))):
        norm = "backbone.bn1" if i == 2 else f"backbone.conv1.{3 * i + 1}"
        x = twin.layer(x, f"backbone.conv1.{3 * i}", norm, width, 3, stride=step)
    low = twin.stage(F.max_pool2d(x, 3, 2, 1), "backbone.layer1", 64, [1] * 3)
    x = twin.stage(low, "backbone.layer2", 128, [1] * 4, stride=2)
    count = 23 if depth == 101 else 6
    if is_first:  # output stride 8 and multi-grid
        x = twin.stage(x, "backbone.layer3", 256, [1] + [2] * (count - 1))
        return low, twin.stage(x, "backbone.layer4", 512, [2 * 2, 4 * 2, 4 * 4])
    x = twin.stage(x, "backbone.layer3", 256, [1] * count, stride=2)
    return low, twin.stage(x, "backbone.layer4", 512, [1, 2, 2])


def forward(twin, image, depth, is_first):
    low, x = encode(twin, image, depth, is_first)
    views = [twin.layer(x, "head.b0.0", "head.b0.1", 256)]
    for i, rate in enumerate((12, 24, 36) if is_first else (6, 12, 18), start=1):
        keys = (f"head.b{i}.0", f"head.b{i}.1")
        views.append(twin.layer(x, *keys, 256, 3, dilation=rate))
    pooled = x.mean((2, 3), keepdim=True)
    pooled = twin.layer(pooled, "head.b4.gap.1", "head.b4.gap.2", 256)
    views.append(twin.resize(pooled, x.shape[2:], align=True))
    x = twin.layer(torch.cat(views, 1), "head.project.0", "head.project.1", 256)
    low = twin.layer(low, "reduce.0", "reduce.1", 48)
    x = torch.cat([low, twin.resize(x, low.shape[2:], align=True)], 1)
    x = twin.layer(x, "fuse.0", "fuse.1", 256, 3)
    x = twin.layer(x, "fuse.3", "fuse.4", 256, 3)
    x = twin.conv(x, "classifier", 5, bias=True)
    return twin.resize(x, image.shape[2:], align=True)


@pytest.fixture
def unimatch(grow):
    """The network, by depth, and by the first or the later of its configurations."""
    return lambda depth, *, is_first=False: grow(forward, depth=depth, is_first=is_first)


PEERS = [
    pytest.param(50, False, id="50"),
    pytest.param(101, False, marks=pytest.mark.parity, id="101"),
    pytest.param(50, True, marks=pytest.mark.parity, id="50-cityscapes-first"),
]
SIZES = [
    (337, 305),
    pytest.param((321, 321), marks=pytest.mark.parity),
    pytest.param((320, 336), marks=pytest.mark.parity),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("depth", "is_first"), PEERS)
def test_logits(depth, is_first, size, unimatch, check_logits):
    told = {}
    if is_first:
        told = {"output_stride": 8, "overrides": {"multi_grid": (2, 2, 4)}}
    twin, wrong = unimatch(depth, is_first=is_first), {"dilation": {"dilation": "all"}}
    check_logits(twin, UNIMATCH, size, wrong=wrong, **told)


@pytest.mark.parametrize(("depth", "count"), [(50, 330 + 56), (101, 636 + 56)])
def test_round_trip(depth, count, unimatch, check_round_trip):
    state = unimatch(depth).state
    assert len(state) == count
    network = check_round_trip(state, UNIMATCH).network
    assert network.architecture == f"deeplabv3plus_resnet{depth}"
    assert network.output_stride == 16
    assert network.choices.stem == (64, 64, 128)


def test_errors(unimatch, check_errors):
    check_errors(unimatch(50).state, UNIMATCH)


def test_refuses_xception(unimatch):
    key = "backbone.block1.sepconv1.depthwise.weight"
    state = unimatch(50).state | {key: torch.zeros(64, 1, 3, 3)}
    message = r"of resnet50, resnet101, got its Xception, which rectifies the shortcuts"
    with pytest.raises(MismatchError, match=message):
        convert(state, UNIMATCH)
