"""mmsegmentation: its heads on ResNet, with the auxiliary head."""

import pytest
import torch
import torch.nn.functional as F

from deeplab.foreign.convert import convert
from deeplab.foreign.mmseg import MMSEG
from deeplab.foreign.origin import MismatchError

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def encode(twin, x, depth, stem, is_d16):
    if stem == "v1c":
        for i, (width, step) in enumerate(((32, 2), (32, 1), (64, 1))):
            keys = (f"backbone.stem.{3 * i}", f"backbone.stem.{3 * i + 1}")
            x = twin.layer(x, *keys, width, 3, stride=step)
    else:
        x = twin.layer(x, "backbone.conv1", "backbone.bn1", 64, 7, stride=2)
    x = F.max_pool2d(x, 3, 2, 1)
    stage = twin.basic_stage if depth == 18 else twin.stage
    blocks = BLOCKS[depth]
    low = stage(x, "backbone.layer1", 64, [1] * blocks[0])
    x = stage(low, "backbone.layer2", 128, [1] * blocks[1], stride=2)
    if is_d16:  # with multi-grid, which is all that such configurations have
        middle = stage(x, "backbone.layer3", 256, [1] * blocks[2], stride=2)
        return low, middle, stage(middle, "backbone.layer4", 512, [1, 2, 4])
    middle = stage(x, "backbone.layer3", 256, [1] + [2] * (blocks[2] - 1))
    return low, middle, stage(middle, "backbone.layer4", 512, [2] + [4] * (blocks[3] - 1))


def module(twin, x, name, width, kernel=1, **options):
    return twin.layer(x, f"{name}.conv", f"{name}.bn", width, kernel, **options)


def separable(twin, x, name, width, rate=1):
    options = {"groups": x.shape[1], "dilation": rate}
    x = module(twin, x, f"{name}.depthwise_conv", x.shape[1], 3, **options)
    return module(twin, x, f"{name}.pointwise_conv", width)


def pyramid(twin, x, width, spread, *, rates, align):
    name = "decode_head.aspp_modules"
    mean = x.mean((2, 3), keepdim=True)
    pooled = module(twin, mean, "decode_head.image_pool.1", width)
    views = [twin.resize(pooled, x.shape[2:], align=align)]
    views.append(module(twin, x, f"{name}.0", width))
    for i, rate in enumerate(rates, start=1):
        views.append(spread(twin, x, f"{name}.{i}", width, rate))
    return module(twin, torch.cat(views, 1), "decode_head.bottleneck", width, 3)


def dense(twin, x, name, width, rate):
    return module(twin, x, name, width, 3, dilation=rate)


def forward(twin, image, head, depth, *, stem, is_d16, align):  # noqa: PLR0913
    low, middle, x = encode(twin, image, depth, stem, is_d16)
    width, kept = (128, 12) if depth == 18 else (512, 48)
    spread = separable if head == "v3plus" else dense
    rates = (6, 12, 18) if is_d16 else (12, 24, 36)
    x = pyramid(twin, x, width, spread, rates=rates, align=align)
    if head == "v3plus":
        low = module(twin, low, "decode_head.c1_bottleneck", kept)
        x = torch.cat([twin.resize(x, low.shape[2:], align=align), low], 1)
        for i in range(2):
            x = separable(twin, x, f"decode_head.sep_bottleneck.{i}", width)
    x = twin.conv(x, "decode_head.conv_seg", 5, bias=True)
    aux = module(twin, middle, "auxiliary_head.convs.0", middle.shape[1] // 4, 3)
    aux = twin.conv(aux, "auxiliary_head.conv_seg", 5, bias=True)
    twin.aux = twin.resize(aux, image.shape[2:], align=align)
    return twin.resize(x, image.shape[2:], align=align)


@pytest.fixture
def mmseg(grow):
    """The network, by head, depth and what its configuration may say."""

    def make(head, depth, stem="v1c", *, is_d16=False, align=False):
        choices = {"stem": stem, "is_d16": is_d16, "align": align}
        return grow(forward, head=head, depth=depth, **choices)

    return make


PEERS = [
    pytest.param("v3plus", 18, {}, id="v3plus-18"),
    pytest.param("v3", 18, {"stem": "v1"}, id="v3-18b"),
    *(
        pytest.param(head, depth, choices, marks=pytest.mark.parity, id=label)
        for label, head, depth, choices in (
            ("v3plus-50", "v3plus", 50, {}),
            ("v3plus-50-769", "v3plus", 50, {"align": True}),
            ("v3plus-101-d16-mg124", "v3plus", 101, {"is_d16": True}),
            ("v3plus-101b", "v3plus", 101, {"stem": "v1"}),
            ("v3-50", "v3", 50, {}),
            ("v3-101", "v3", 101, {}),
        )
    ),
]
SIZES = [
    (337, 305),
    pytest.param((321, 321), marks=pytest.mark.parity),
    pytest.param((320, 336), marks=pytest.mark.parity),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("head", "depth", "choices"), PEERS)
def test_logits(head, depth, choices, size, mmseg, check_logits, relative_error):  # noqa: PLR0913, PLR0917
    told = {"overrides": {"align_corners": choices.get("align", False)}}
    if choices.get("is_d16"):
        told["output_stride"] = 16
        told["overrides"]["multi_grid"] = (1, 2, 4)
    # What sets its own scheme apart: basic blocks, and multi-grid in place of rates.
    mine = depth == 18 or choices.get("is_d16")
    wrong = {"dilation": {"dilation": "torchvision" if mine else "all"}}
    twin = mmseg(head, depth, **choices)
    model, x = check_logits(twin, MMSEG, size, wrong=wrong, **told)
    with torch.inference_mode():
        assert relative_error(model.forward_with_aux(x)[1], twin.aux) <= 1e-5


@pytest.mark.parametrize(
    ("peer", "architecture", "stem", "count"),
    [
        (("v3plus", 18), "deeplabv3plus_resnet18", (32, 32, 64), 132 + 94),
        (("v3", 18, "v1"), "deeplabv3_resnet18", (), 120 + 46),
        (("v3plus", 50), "deeplabv3plus_resnet50", (32, 32, 64), 330 + 94),
        (("v3", 101), "deeplabv3_resnet101", (32, 32, 64), 636 + 46),
    ],
)
def test_round_trip(peer, architecture, stem, count, mmseg, check_round_trip):
    state = mmseg(*peer).state
    assert len(state) == count
    network = check_round_trip(state, MMSEG).network
    assert network.architecture == architecture
    assert network.output_stride == 8
    assert network.choices.stem == stem
    assert network.choices.channels == (128 if 18 in peer else 512)


def test_the_auxiliary_head_may_be_absent(mmseg, check_round_trip):
    state = {
        key: tensor
        for key, tensor in mmseg("v3plus", 18).state.items()
        if not key.startswith("auxiliary_head.")
    }
    assert not check_round_trip(state, MMSEG).network.choices.aux


def test_normalisation_is_left_out_with_a_reason(mmseg):
    state = mmseg("v3plus", 18).state | {"data_preprocessor.mean": torch.zeros(3, 1, 1)}
    (reason,) = convert(state, MMSEG).unused.values()
    assert reason.startswith("how images are normalised")


def test_errors(mmseg, check_errors):
    check_errors(mmseg("v3plus", 18).state, MMSEG)
    check_errors(mmseg("v3", 18, "v1").state, MMSEG)


def test_refuses_mobilenet(mmseg):
    key = "backbone.conv1.conv.weight"
    state = mmseg("v3plus", 18).state | {key: torch.zeros(32, 3, 3, 3)}
    message = r"of resnet18, .*resnet101, got its MobileNetV2, .*auxiliary head 256"
    with pytest.raises(MismatchError, match=message):
        convert(state, MMSEG)
