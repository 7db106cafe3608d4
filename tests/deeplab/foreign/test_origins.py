"""Whose a state dict is: one origin says yes, and the others no.

Here are the peers that can be installed; the others' tests hold the same of theirs.
"""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision

from deeplab.foreign.origin import MismatchError
from deeplab.foreign.origins import ORIGINS, find_origin


def torchvision_peer(name):
    make = getattr(torchvision.models.segmentation, name)
    return make(weights=None, weights_backbone=None, num_classes=5)


def smp_peer(head, encoder):
    return getattr(smp, head)(encoder, encoder_weights=None, classes=5)


def timm_peer(name):
    return timm.create_model(name, pretrained=False)


PEERS = [
    ("torchvision", torchvision_peer, ("deeplabv3_resnet50",)),
    ("torchvision", torchvision_peer, ("deeplabv3_mobilenet_v3_large",)),
    ("smp", smp_peer, ("DeepLabV3", "resnet18")),
    ("smp", smp_peer, ("DeepLabV3Plus", "mobilenet_v2")),
    ("timm", timm_peer, ("xception41",)),
    ("timm", timm_peer, ("resnet50",)),
]


@pytest.mark.parametrize(("name", "make", "args"), PEERS)
def test_one_origin_knows_a_state(name, make, args):
    with torch.device("meta"):
        state = make(*args).state_dict()
    assert [key for key, origin in ORIGINS.items() if origin.recognises(state)] == [name]
    assert find_origin("auto", state) is ORIGINS[name]


def test_nobodys_keys_are_refused():
    with pytest.raises(MismatchError, match=r"got 1 keys such as a\.weight; name the orig"):
        find_origin("auto", {"a.weight": torch.zeros(1)})


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"origin must be auto or one of .*, got 'keros'"):
        find_origin("keros", {})
