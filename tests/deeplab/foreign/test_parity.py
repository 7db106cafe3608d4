"""Logits equal to those of the peers themselves, with weights and statistics at random.

An image of 65 pixels sees no rate at all, so these are larger: one of 16 k + 1 pixels,
one even, one of neither. segmentation_models_pytorch takes multiples of the output
stride alone. Controls, the same weights under one wrong choice, show what an equal
result is worth. The first case of each family runs always, all of them with
``make parity``.
"""

import dataclasses

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision

from deeplab.foreign.convert import convert, revert
from deeplab.foreign.origins import ORIGINS
from deeplab.foreign.smp import SMP
from deeplab.foreign.timm import TIMM
from deeplab.foreign.torchvision import TORCHVISION
from deeplab.model import build_network

SIZES = ((321, 321), (320, 336), (337, 305))
EVEN_SIZES = ((320, 320), (320, 336), (336, 304))
CLASSES = 5

pytestmark = pytest.mark.timeout(600)


def cases(peers, sizes):
    """Every peer at every size; only small ones at one size without ``make parity``."""
    found = []
    for peer, is_quick in peers:
        for size in sizes:
            quick = is_quick and size == sizes[-1]
            marks = () if quick else pytest.mark.parity
            name = "-".join(map(str, peer)) if isinstance(peer, tuple) else peer
            label = f"{name}-{size[0]}x{size[1]}"
            found.append(pytest.param(peer, size, marks=marks, id=label))
    return found


@pytest.fixture(scope="module", autouse=True)
def all_threads():
    """Large networks: as fast as the machine is."""
    before = torch.get_num_threads()
    torch.set_num_threads(torch.get_num_interop_threads())
    yield
    torch.set_num_threads(before)


@pytest.fixture
def check_equal(relative_error):
    """Logits, and the classes they give, are the same."""

    def check(ours, theirs):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) <= 1e-5
        assert (ours.argmax(1) == theirs.argmax(1)).float().mean().item() >= 0.9999

    return check


def torchvision_peer(name):
    make = getattr(torchvision.models.segmentation, name)
    return make(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)


def smp_peer(head, encoder, stride):
    return getattr(smp, head)(
        encoder, encoder_weights=None, classes=CLASSES, encoder_output_stride=stride
    )


TORCHVISION_PEERS = [
    ("deeplabv3_resnet50", True),
    ("deeplabv3_resnet101", False),
    ("deeplabv3_mobilenet_v3_large", True),
]
SMP_PEERS = [
    ((head, encoder, stride), stride == 16 and encoder in ("resnet18", "mobilenet_v2"))
    for head in ("DeepLabV3", "DeepLabV3Plus")
    for encoder in ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2")
    for stride in (16, 8)
]
TIMM_PEERS = [
    ((name, stride), (name, stride) == ("xception41", 16))
    for name in ("xception41", "xception65", "xception71")
    for stride in (32, 16, 8)
    if (name, stride) != ("xception71", 8)  # which lacks a shortcut there
]


@pytest.mark.parametrize(("name", "size"), cases(TORCHVISION_PEERS, SIZES))
def test_torchvision(name, size, randomise, rebuild, image, check_equal):
    peer = randomise(torchvision_peer(name))
    ours, x = rebuild(peer.state_dict(), TORCHVISION), image(size)
    with torch.inference_mode():
        theirs = peer(x)
        logits, aux = ours.forward_with_aux(x)
        check_equal(logits, theirs["out"])
        check_equal(aux, theirs["aux"])


@pytest.mark.parametrize(("peer", "size"), cases(SMP_PEERS, EVEN_SIZES))
def test_smp(peer, size, randomise, rebuild, image, check_equal):
    theirs = randomise(smp_peer(*peer))
    ours = rebuild(theirs.state_dict(), SMP, output_stride=peer[-1])
    with torch.inference_mode():
        check_equal(ours(image(size)), theirs(image(size)))


def timm_peer(name, stride):
    return timm.create_model(name, pretrained=False, output_stride=stride, num_classes=0)


@pytest.mark.parametrize(("peer", "size"), cases(TIMM_PEERS, SIZES))
def test_timm(peer, size, randomise, rebuild, image, check_equal):
    theirs = randomise(timm_peer(*peer))
    options = {"classes": CLASSES, "untrained_head": True, "output_stride": peer[1]}
    ours = rebuild(theirs.state_dict(), TIMM, **options)
    tapped = 2 if peer[0] == "xception71" else 1
    taps = []
    # Its own feature at stride 4 comes after ReLU; the decoder's comes before.
    theirs.blocks[tapped].stack.conv2.register_forward_hook(
        lambda *args: taps.append(args[-1].clone())
    )
    with torch.inference_mode():
        features = theirs.forward_features(image(size))
        low, _, high = ours.backbone(image(size))
    check_equal(high, features)
    check_equal(low, taps[0])
    assert low.min() < 0


def test_timms_xception71_at_stride_8_is_no_whole_one(randomise, rebuild):
    theirs = randomise(timm_peer("xception71", 8))
    with pytest.raises(ValueError, match=r"5 missing \(blocks\.4\.shortcut\.conv\.weight"):
        rebuild(theirs.state_dict(), TIMM, classes=2, untrained_head=True)


def alter(converted, **choices):
    """The same weights under other choices."""
    variant = dataclasses.replace(converted.network.choices, **choices)
    network = dataclasses.replace(converted.network, variant=variant)
    return dataclasses.replace(converted, network=network)


def reroll(converted, key, axis, shift):
    """The same weights, concatenated maps in another order."""
    tensors = converted.tensors | {key: converted.tensors[key].roll(shift, axis)}
    return dataclasses.replace(converted, tensors=tensors)


def rerate(converted, rates):
    """The same weights, other rates in the pyramid."""
    network = dataclasses.replace(converted.network, atrous_rates=rates)
    return dataclasses.replace(converted, network=network)


MISTAKES = {
    "order of the pyramid": lambda it: reroll(it, "aspp.project.conv.weight", 1, 256),
    "rates": lambda it: rerate(it, (6, 12, 18)),
    "dilation scheme": lambda it: alter(it, dilation="tf", low_level="unit"),
    "align_corners": lambda it: alter(
        it, align_corners=not it.network.choices.align_corners
    ),
}
DECODER_MISTAKES = {
    "order of the decoder": lambda it: reroll(
        reroll(it, "decoder.fuse.0.depthwise.weight", 0, 48),
        "decoder.fuse.0.pointwise.weight",
        1,
        48,
    ),
    "dilation scheme": lambda it: alter(it, dilation="torchvision"),
}


@pytest.mark.parametrize(
    ("make", "origin", "mistakes"),
    [
        (lambda: torchvision_peer("deeplabv3_resnet50"), TORCHVISION, MISTAKES),
        (
            lambda: smp_peer("DeepLabV3Plus", "resnet50", 8),
            SMP,
            MISTAKES | DECODER_MISTAKES,
        ),
    ],
    ids=["torchvision", "smp"],
)
def test_controls_are_far_off(make, origin, mistakes, randomise, image, relative_error):
    peer = randomise(make())
    stride = {"output_stride": 8}
    right = convert(peer.state_dict(), origin, **stride)
    x = image((320, 320))
    with torch.inference_mode():
        theirs = peer(x)
        theirs = theirs["out"] if isinstance(theirs, dict) else theirs
        errors = {
            name: relative_error(build(mistake(right))(x), theirs)
            for name, mistake in mistakes.items()
        }
        assert relative_error(build(right)(x), theirs) <= 1e-5
    assert min(errors.values()) > 1e-2, errors


def build(converted):
    model = build_network(converted.network)
    model.load_state_dict(converted.tensors)
    return model.eval()


def make_peer(origin, architecture):
    """The peer itself, by the name that we give its network."""
    head, _, encoder = architecture.partition("_")
    if origin is TORCHVISION:
        return torchvision_peer(architecture)
    if origin is TIMM:
        return timm.create_model(encoder, pretrained=False)
    head = {"deeplabv3": "DeepLabV3", "deeplabv3plus": "DeepLabV3Plus"}[head]
    return smp_peer(head, encoder, 16)


@pytest.mark.parametrize(
    ("origin", "architecture"),
    [
        (TORCHVISION, "deeplabv3_resnet50"),
        (TORCHVISION, "deeplabv3_resnet101"),
        (TORCHVISION, "deeplabv3_mobilenet_v3_large"),
        (SMP, "deeplabv3_resnet18"),
        (SMP, "deeplabv3_resnet34"),
        (SMP, "deeplabv3_resnet50"),
        (SMP, "deeplabv3_resnet101"),
        (SMP, "deeplabv3_mobilenet_v2"),
        (SMP, "deeplabv3plus_resnet18"),
        (SMP, "deeplabv3plus_resnet34"),
        (SMP, "deeplabv3plus_resnet50"),
        (SMP, "deeplabv3plus_resnet101"),
        (SMP, "deeplabv3plus_mobilenet_v2"),
        (TIMM, "deeplabv3plus_xception41"),
        (TIMM, "deeplabv3plus_xception65"),
        (TIMM, "deeplabv3plus_xception71"),
        (TIMM, "deeplabv3plus_resnet18"),
        (TIMM, "deeplabv3plus_resnet34"),
        (TIMM, "deeplabv3plus_resnet50"),
        (TIMM, "deeplabv3plus_resnet101"),
    ],
    ids=lambda it: getattr(it, "name", it),
)
def test_every_key_maps_exactly_once_there_and_back(origin, architecture, randomise):
    state = randomise(make_peer(origin, architecture)).state_dict()
    assert [one.name for one in ORIGINS.values() if one.recognises(state)] == [origin.name]
    options = {"classes": 2, "untrained_head": True} if origin is TIMM else {}
    converted = convert(state, origin, **options)
    assert converted.network.architecture == architecture
    ours = converted.tensors.keys() - set(converted.untrained)
    assert len(ours) == len(state) - len(converted.unused)
    assert {key.split(".")[-2] for key in converted.unused} <= {"fc"}
    back = revert(converted.tensors, converted.network, origin)
    assert back.keys() == state.keys() - converted.unused.keys()
    assert all(torch.equal(back[key], state[key]) for key in back)
