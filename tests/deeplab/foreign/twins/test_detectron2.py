"""Detectron2's DeepLab project.

It enlarges logits by a whole factor and pools windows that must divide the map, so
the images here have sides that the output stride divides.
"""

import pytest
import torch
import torch.nn.functional as F

from deeplab.foreign.convert import convert
from deeplab.foreign.detectron2 import DETECTRON2
from deeplab.foreign.origin import MismatchError

NAMES = ("conv{}", "conv{}.norm", "shortcut", "shortcut.norm")
GLOBAL = {"image_pool": "global", "pool_window": None}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def owning(twin, x, name, width, kernel=1, **options):
    return twin.layer(x, name, f"{name}.norm", width, kernel, **options)


def encode(twin, x, depth):
    for i, (width, step) in enumerate(((64, 2), (64, 1), (128, 1)), start=1):
        x = owning(twin, x, f"backbone.stem.conv{i}", width, 3, stride=step)
    x = F.max_pool2d(x, 3, 2, 1)
    low = twin.stage(x, "backbone.res2", 64, [1] * 3, names=NAMES)
    x = twin.stage(low, "backbone.res3", 128, [1] * 4, stride=2, names=NAMES)
    rates = [1] * (23 if depth == 101 else 6)
    x = twin.stage(x, "backbone.res4", 256, rates, stride=2, names=NAMES)
    return low, twin.stage(x, "backbone.res5", 512, [2, 4, 8], names=NAMES)


def pyramid(twin, x, name, window):
    views = [owning(twin, x, f"{name}.convs.0", 256)]
    for i, rate in enumerate((6, 12, 18), start=1):
        views.append(owning(twin, x, f"{name}.convs.{i}", 256, 3, dilation=rate))
    pooled = F.avg_pool2d(x, window or x.shape[2:], stride=1)
    pooled = F.relu(twin.conv(pooled, f"{name}.convs.4.1", 256, bias=True))
    views.append(twin.resize(pooled, x.shape[2:], align=False))
    return owning(twin, torch.cat(views, 1), f"{name}.project", 256)


def forward(twin, image, head, depth, window):
    low, x = encode(twin, image, depth)
    window = window and tuple(map(min, window, x.shape[2:]))
    decoder = "sem_seg_head.decoder"
    if head == "v3":
        x = pyramid(twin, x, "sem_seg_head.aspp", window)
    else:
        x = pyramid(twin, x, f"{decoder}.res5.project_conv", window)
        low = owning(twin, low, f"{decoder}.res2.project_conv", 48)
        x = torch.cat([low, twin.resize(x, low.shape[2:], align=False)], 1)
        for i in range(2):
            x = owning(twin, x, f"{decoder}.res2.fuse_conv.{i}", 256, 3)
    x = twin.conv(x, "sem_seg_head.predictor", 5, bias=True)
    scale = 16 if head == "v3" else 4
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


@pytest.fixture
def detectron2(grow):
    """The network, by head, depth and the window that it pools; None for the map."""

    def make(head, depth, window=None):
        return grow(forward, head=head, depth=depth, window=window)

    return make


PEERS = [
    pytest.param("v3plus", 50, (320, 336), (10, 7), id="v3plus-50-window"),
    *(
        pytest.param(*case, marks=pytest.mark.parity)
        for case in (
            ("v3plus", 50, (336, 304), None),
            ("v3plus", 101, (320, 320), (10, 20)),
            ("v3plus", 101, (320, 336), (10, 7)),
            ("v3plus", 101, (336, 304), (7, 19)),
            ("v3plus", 101, (336, 304), None),
            ("v3", 101, (320, 320), None),
            ("v3", 101, (320, 336), (10, 7)),
            ("v3", 101, (336, 304), (7, 19)),
        )
    ),
]


@pytest.mark.parametrize(("head", "depth", "size", "window"), PEERS)
def test_logits(head, depth, size, window, detectron2, check_logits):
    told = {"overrides": {"pool_window": window} if window else GLOBAL}
    wrong = {"dilation": {"dilation": "torchvision"}}
    if window:
        wrong["image_pool"] = GLOBAL
    else:
        wrong["multi_grid"] = {"multi_grid": (1, 1, 1)}
    twin = detectron2(head, depth, window)
    check_logits(twin, DETECTRON2, size, wrong=wrong, **told)


@pytest.mark.parametrize(
    ("head", "depth", "count"),
    [("v3plus", 50, 330 + 52), ("v3plus", 101, 636 + 52), ("v3", 101, 636 + 34)],
)
def test_round_trip(head, depth, count, detectron2, check_round_trip):
    state = detectron2(head, depth).state
    assert len(state) == count
    network = check_round_trip(state, DETECTRON2).network
    name = "deeplabv3plus" if head == "v3plus" else "deeplabv3"
    assert network.architecture == f"{name}_resnet{depth}"
    choices = network.choices
    assert (choices.image_pool, choices.pool_window) == ("valid", (32, 64))
    assert (choices.stem, choices.multi_grid) == ((64, 64, 128), (1, 2, 4))


def test_counters_may_be_absent_and_pixels_present(detectron2):
    state = {
        key: tensor
        for key, tensor in detectron2("v3plus", 50).state.items()
        if not key.endswith("num_batches_tracked")
    }
    for key, values in (("pixel_mean", MEAN), ("pixel_std", STD)):
        state[key] = torch.tensor(values).reshape(3, 1, 1)
    converted = convert(state, DETECTRON2)
    assert converted.unused.keys() == {"pixel_mean", "pixel_std"}
    counters = [key for key in converted.tensors if key.endswith("num_batches_tracked")]
    assert len(state) - 2 == len(converted.tensors) - len(counters)
    assert not any(converted.tensors[key] for key in counters)


def test_refuses_images_in_other_colours(detectron2):
    state = detectron2("v3plus", 50).state
    state |= {"pixel_mean": torch.tensor(MEAN[::-1]).reshape(3, 1, 1)}
    message = r"red first, 123\.675, 116\.28, 103\.53, got 103\.53, 116\.28, 123\.675; take"
    with pytest.raises(MismatchError, match=message):
        convert(state, DETECTRON2)


def test_errors(detectron2, check_errors):
    check_errors(detectron2("v3plus", 50).state, DETECTRON2)


def test_refuses_separable_convolutions(detectron2):
    key = "sem_seg_head.decoder.res5.project_conv.convs.1.depthwise.weight"
    state = detectron2("v3plus", 50).state | {key: torch.zeros(2048, 1, 3, 3)}
    message = r"of dense convolutions, got depthwise separable .* one of 5x5"
    with pytest.raises(MismatchError, match=message):
        convert(state, DETECTRON2)
