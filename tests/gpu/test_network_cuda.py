"""The network's inference forms on CUDA: folded as unfolded, fused as enlarged."""

import copy

import pytest
import torch
import torch.nn.functional as F

from deeplab.fold import fold
from deeplab.resize import enlarged_argmax

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "architecture", ["deeplabv3plus_mobilenet_v2", "deeplabv3plus_resnet50"]
)
def test_folded_network_gives_the_same_logits(device, make_network, architecture):
    model = make_network(architecture)
    x = torch.randn(2, 3, 321, 337)
    exact = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    with torch.inference_mode(), exact:
        expected = copy.deepcopy(model).to(device)(x.to(device))
        given = fold(model).to(device)(x.to(device))
        on_cpu = model(x)
    scale = expected.abs().max()
    assert (given - expected).abs().max() / scale <= 1e-4
    assert (given.cpu() - on_cpu).abs().max() / scale.cpu() <= 1e-4


@pytest.mark.parametrize("align_corners", [False, True])
def test_fused_classes_have_the_bits_of_enlarged_ones(device, align_corners):
    logits = torch.randn(3, 21, 33, 40, device=device)
    size = (129, 157)
    ids, best = enlarged_argmax(logits, size, align_corners=align_corners)
    enlarged = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    assert torch.equal(ids.long(), enlarged.argmax(1))
    torch.testing.assert_close(best, enlarged.softmax(1).amax(1))
