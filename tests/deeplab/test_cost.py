"""Parameters and multiply-adds at 513 x 513 and 21 classes, from the papers and peers.

Papers count the padding of atrous convolutions too, so the reference is a count of the
peers' own networks; Xception-65 is within 0.3 % of arXiv:1802.02611, table 5.
"""

import dataclasses

import pytest
import torch

import deeplab
from deeplab.variant import Variant, default_variant

XCEPTION = "deeplabv3plus_xception65"
DENSE = dataclasses.replace(
    default_variant(XCEPTION), separable=False, decoder_separable=False
)
TF = {"dilation": "tf", "low_level": "unit"}
BETA = {"stem": (64, 64, 128)}
JFZ = {"align_corners": True}

TABLE = [  # network, choices, millions of parameters, billions at stride 16 and 8
    ("deeplabv3plus_xception41", None, 28.11, 40.01, 122.45),
    (XCEPTION, None, 41.06, 54.04, 176.85),
    (XCEPTION, DENSE, 54.71, 86.68, 248.78),
    ("deeplabv3plus_xception71", None, 43.48, 66.07, 189.96),
    ("deeplabv3plus_resnet50", Variant(**TF), 40.35, 70.05, 186.8),
    ("deeplabv3plus_resnet50", Variant(**TF, **BETA), 40.48, 77.19, 194.0),
    ("deeplabv3plus_resnet50", Variant(), 40.35, 72.19, None),
    ("deeplabv3plus_resnet50", Variant(**BETA), 40.48, 79.33, None),
    ("deeplabv3plus_resnet101", Variant(**TF), 59.34, 90.67, 266.9),
    ("deeplabv3plus_resnet101", Variant(**TF, **BETA), 59.47, 97.81, 274.0),
    ("deeplabv3plus_resnet101", Variant(), 59.34, 92.82, None),
    ("deeplabv3plus_resnet101", Variant(**BETA), 59.47, 99.96, None),
    ("deeplabv3_resnet101", Variant(**TF, **BETA), 58.16, 76.05, 252.25),
    (
        "deeplabv3plus_mobilenet_v2",
        Variant(dilation="tf", padding="expanded_valid", decoder_convs=1),
        5.23,
        16.82,
        None,
    ),
    ("deeplabv3plus_resnet50", Variant(decoder_convs=1), 39.76, 62.38, None),
    ("deeplabv3plus_resnet101", Variant(decoder_convs=1), 58.75, 83.01, 258.1),
    ("deeplabv3_resnet50", Variant(refine="dense"), 39.64, None, 168.65),
    ("deeplabv3_resnet101", Variant(refine="dense"), 58.63, None, 248.67),
    (
        "deeplabv3plus_mobilenet_v2",
        Variant(dilation="stage", padding="expanded", **JFZ),
        5.816,
        None,
        None,
    ),
]


@pytest.mark.parametrize(("name", "variant", "millions", "at_16", "at_8"), TABLE)
def test_table(name, variant, millions, at_16, at_8):
    for stride, billions in ((16, at_16), (8, at_8)):
        with torch.device("meta"):
            model = deeplab.build(name, classes=21, output_stride=stride, variant=variant)
        cost = deeplab.profile(model)
        assert cost.parameters / 1e6 == pytest.approx(millions, rel=1e-3)
        if billions is not None:
            assert cost.multiply_adds / 1e9 == pytest.approx(billions, rel=1e-3)


def test_count_by_hand():
    model = deeplab.build("linear", classes=7, bands=5)
    cost = deeplab.profile(model, height=11, width=13)
    assert cost.parameters == 5 * 7 + 7
    assert cost.multiply_adds == 11 * 13 * 5 * 7
