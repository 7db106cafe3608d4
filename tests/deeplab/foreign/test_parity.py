"""Logits equal to those of the peers themselves, with weights and statistics at random.

An image of 65 pixels sees no rate at all, so these are larger: one of 16 k + 1 pixels,
one even, one of neither. segmentation_models_pytorch takes multiples of the output
stride alone. Controls, the same weights under one wrong choice, show what an equal
result is worth. The first case of each family runs always, all of them with
``make parity``.
"""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision

from deeplab.foreign.smp import SMP
from deeplab.foreign.timm import TIMM
from deeplab.foreign.torchvision import TORCHVISION

SIZES = ((321, 321), (320, 336), (337, 305))
EVEN_SIZES = ((320, 320), (320, 336), (336, 304))
CLASSES = 5

pytestmark = [
    pytest.mark.timeout(600),
    # Two peers have the rates of output stride 8 at 16, too large for these images.
    pytest.mark.filterwarnings("ignore:atrous rate"),
]


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
