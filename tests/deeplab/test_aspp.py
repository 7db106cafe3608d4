import pytest
import torch
from torch import nn

from deeplab.aspp import ASPP, RATES
from deeplab.decoder import Decoder


class Constant(nn.Module):
    """Gives one channel of a fixed value, in the shape of its input."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.full_like(x[:, :1], self.value)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("stride", RATES)
def test_branches_reach_exactly_their_rate(stride, separable):
    side = 2 * max(RATES[stride]) + 3
    impulse = torch.zeros(1, 1, side, side)
    impulse[0, 0, side // 2, side // 2] = 1
    aspp = ASPP(1, rates=RATES[stride], separable=separable)
    for branch, rate in zip(aspp.branches[1:], RATES[stride], strict=True):
        conv = branch.depthwise if separable else branch.conv
        with torch.no_grad():
            hit = conv(impulse)[0, 0].nonzero() - side // 2
        for axis in (0, 1):
            assert sorted(set(hit[:, axis].tolist())) == [-rate, 0, rate]


def test_views_are_concatenated_pool_first():
    aspp = ASPP(1, channels=1).eval()
    aspp.image_pool.forward = lambda x: torch.full_like(x, 9.0)
    for index in range(4):
        aspp.branches[index] = Constant(float(index))
    aspp.project = nn.Identity()
    assert aspp(torch.zeros(1, 1, 2, 2))[0, :, 1, 1].tolist() == [9, 0, 1, 2, 3]


def test_decoder_concatenates_context_first():
    decoder = Decoder(1, 1).eval()
    decoder.low_level = Constant(5.0)
    decoder.fuse = nn.Identity()
    fused = decoder(torch.full((1, 1, 2, 2), 3.0), torch.zeros(1, 1, 7, 8))
    assert fused.shape == (1, 2, 7, 8)
    assert fused[0, :, 3, 3].tolist() == pytest.approx([3, 5])


def test_pooled_view_equals_bilinear_resize_of_the_mean():
    aspp = ASPP(3, channels=2).eval()
    x = torch.rand(1, 3, 5, 6)
    seen = []
    aspp.project.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    aspp(x)
    mean = aspp.image_pool(nn.functional.adaptive_avg_pool2d(x, 1))
    resized = nn.functional.interpolate(mean, size=(5, 6), mode="bilinear")
    torch.testing.assert_close(seen[0][:, :2], resized)


def test_normalisation_and_dropout_are_the_authors():
    aspp, decoder = ASPP(4, separable=True), Decoder(256, 4, separable=True)
    norms = [m for p in (aspp, decoder) for m in p.modules() if type(m) is nn.BatchNorm2d]
    assert len(norms) == 9 + 5
    assert {norm.eps for norm in norms} == {1e-5}
    dropouts = [m.p for m in aspp.modules() if type(m) is nn.Dropout]
    assert dropouts == [0.1]


def test_training_on_one_image_is_refused_with_the_way_out():
    aspp = ASPP(2)
    with pytest.raises(ValueError, match="at least 2 images a batch, got 1"):
        aspp(torch.rand(1, 2, 3, 3))
    aspp(torch.rand(2, 2, 3, 3))
    aspp.image_pool.bn.eval()  # frozen statistics need no second image
    aspp(torch.rand(1, 2, 3, 3))
