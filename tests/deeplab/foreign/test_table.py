"""Each row of the README's table: every network of it, under its project's names.

The choices of each project stand here a second time, so that an import which forgets
one of them fails. Weights go to the project's names and layout, are recognised as
that project's alone, and come back with all choices, bit for bit.
"""

# ruff: noqa: ARG001 - each project is asked in the same way

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from deeplab.foreign.convert import convert, revert
from deeplab.foreign.origins import ORIGINS
from deeplab.model import build_network
from deeplab.variant import Network, Norm, Variant, default_variant

README = (Path(__file__).parents[3] / "README.md").read_text()
HEADS = {"V3": "deeplabv3", "V3+": "deeplabv3plus"}
CLASSES = 3

ROWS = [
    (origin, f"{HEADS[head]}_{encoder}")
    for origin, heads, encoders in re.findall(
        r"^\| `(\w+)` \| .+? \| ([V3+, ]+) \| ([\w, ]+) \|$", README, re.MULTILINE
    )
    for head in heads.split(", ")
    for encoder in encoders.split(", ")
]

TF_NORMS = {
    "mobilenet_v2": Norm(eps=1e-3, momentum=3e-3),
    "resnet": Norm(eps=1e-5, momentum=0.05),
    "xception": Norm(eps=1e-3, momentum=3e-4),
}


def torchvision(head, encoder):
    is_mobile = encoder == "mobilenet_v3_large"
    own = {"dilation": "all", "backbone_norm": Norm(eps=1e-3, momentum=1e-2)}
    return {
        "output_stride": 16 if is_mobile else 8,
        "atrous_rates": (12, 24, 36),
        "variant": Variant(refine="dense", dropout=0.5, **(own if is_mobile else {})),
    }


def smp(head, encoder):
    is_plus = head == "deeplabv3plus"
    return {
        "output_stride": 16 if is_plus else 8,
        "atrous_rates": (12, 24, 36),
        "variant": Variant(
            dilation="all",
            last_conv=encoder == "mobilenet_v2",
            separable=is_plus,
            separable_norm=False,
            refine="separable" if is_plus else "dense",
            decoder_convs=1,
            decoder_separable=True,
            align_corners=True,
            dropout=0.5,
        ),
    }


def vainf(head, encoder):
    return {
        "variant": Variant(
            dilation="torchvision",
            padding="expanded_valid" if encoder == "mobilenet_v2" else "symmetric",
            separable_norm=False,
            refine="none" if head == "deeplabv3plus" else "dense",
            decoder_convs=1,
        ),
    }


def jfzhang(head, encoder):
    is_mobile = encoder == "mobilenet_v2"
    return {
        "variant": Variant(
            dilation="stage" if is_mobile else "all",
            multi_grid=(1, 1, 1) if is_mobile else (1, 2, 4),
            padding="expanded" if is_mobile else "symmetric",
            align_corners=True,
            dropout=0.5,
        ),
    }


def mmseg(head, encoder):
    is_plus, is_small = head == "deeplabv3plus", encoder == "resnet18"
    return {
        "output_stride": 8,
        "variant": Variant(
            stem=(32, 32, 64),
            dilation="mmseg_mg",
            channels=128 if is_small else 512,
            project_kernel=3,
            separable=is_plus,
            decoder_separable=is_plus,
            low_level_channels=12 if is_plus and is_small else 48,
        ),
    }


def unimatch(head, encoder):
    return {"variant": Variant(stem=(64, 64, 128), align_corners=True, dropout=0.0)}


def detectron2(head, encoder):
    return {
        "variant": Variant(
            stem=(64, 64, 128),
            dilation="all",
            multi_grid=(1, 2, 4),
            image_pool="valid",
            pool_window=(32, 64),
            pool_norm="none",
        ),
    }


def timm(head, encoder):
    return {"variant": default_variant(f"{head}_{encoder}")}


def hf(head, encoder):
    return {
        "output_stride": 8,
        "atrous_rates": (),
        "variant": Variant(
            dilation="tf",
            padding="same",
            backbone_norm=TF_NORMS[encoder],
            head_norm=Norm(momentum=3e-4),
            dropout=0.8,
        ),
    }


def tensorflow(head, encoder):
    family = encoder if encoder in TF_NORMS else encoder.rstrip("0123456789")
    is_resnet = family == "resnet"
    has_branches = encoder != "mobilenet_v2"
    return {
        "atrous_rates": None if has_branches else (),
        "variant": Variant(
            stem=(64, 64, 128) if is_resnet else (),
            dilation="tf",
            multi_grid=(1, 2, 4) if is_resnet else (1, 1, 1),
            padding="symmetric" if family == "xception" else "same",
            low_level="unit",
            backbone_norm=TF_NORMS[family],
            head_norm=Norm(momentum=3e-4),
            separable=has_branches,
            decoder_separable=head == "deeplabv3plus",
            align_corners=True,
        ),
    }


def keras(head, encoder):
    is_mobile = encoder == "mobilenet_v2"
    return {
        "output_stride": 8 if is_mobile else 16,
        "atrous_rates": () if is_mobile else None,
        "variant": Variant(
            dilation="tf",
            padding="same",
            low_level="unit",
            backbone_norm=Norm(eps=1e-3, momentum=1e-3 if is_mobile else 1e-2),
            head_norm=Norm(momentum=1e-2),
            separable=True,
            decoder_separable=True,
            align_corners=True,
        ),
    }


CHOICES = {
    make.__name__: make
    for make in (
        torchvision,
        smp,
        vainf,
        jfzhang,
        mmseg,
        unimatch,
        detectron2,
        timm,
        hf,
        tensorflow,
        keras,
    )
}


def test_table_has_every_origin():
    assert {origin for origin, _ in ROWS} == ORIGINS.keys() == CHOICES.keys()


@pytest.mark.parametrize(("name", "architecture"), ROWS)
def test_row(name, architecture):
    head, _, encoder = architecture.partition("_")
    fields = CHOICES[name](head, encoder)
    wanted = Network(architecture=architecture, classes=CLASSES, bands=3, **fields)
    torch.manual_seed(0)
    tensors = build_network(wanted).state_dict()
    origin, is_encoder = ORIGINS[name], name == "timm"
    theirs = revert(tensors, wanted, origin)
    assert [one.name for one in ORIGINS.values() if one.recognises(theirs)] == [name]
    found = convert(theirs, origin, classes=CLASSES, untrained_head=is_encoder)
    assert dataclasses.asdict(found.network) == dataclasses.asdict(wanted)
    assert bool(found.untrained) == is_encoder
    for key in tensors.keys() - set(found.untrained):
        assert torch.equal(found.tensors[key], tensors[key]), key
