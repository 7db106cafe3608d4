"""Each part of the network against what its paper says of it."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deeplab.aspp import ASPP, RateWarning
from deeplab.atrous import SameConv
from deeplab.decoder import Decoder
from deeplab.image_pool import ImagePool, window_means
from deeplab.separable import SeparableAtrousConv
from deeplab.spp import SPP, pyramid
from deeplab.variant import RATES, Variant

SEPARABLE = Variant(separable=True, decoder_separable=True)
TINY = Variant(channels=1)


class Constant(nn.Module):
    """Gives one channel of a fixed value, in the shape of its input."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.full_like(x[:, :1], self.value)


@pytest.mark.parametrize("variant", [Variant(), SEPARABLE], ids=["dense", "separable"])
@pytest.mark.parametrize("stride", RATES)
def test_an_impulse_lights_up_exactly_the_taps_of_each_branch(stride, variant):
    side = 2 * max(RATES[stride]) + 3
    impulse = torch.zeros(1, 1, side, side)
    impulse[0, 0, side // 2, side // 2] = 1
    aspp = ASPP(1, rates=RATES[stride], variant=variant)
    assert aspp.rates == RATES[stride]
    for branch, rate in zip(list(aspp.branches)[1:], RATES[stride], strict=True):
        conv = branch.depthwise if variant.separable else branch.conv
        with torch.no_grad():
            conv.weight.fill_(1.0)
            hit = conv(impulse)[0, 0].nonzero() - side // 2
        taps = [[row, col] for row in (-rate, 0, rate) for col in (-rate, 0, rate)]
        assert hit.tolist() == taps


def test_rates_change_and_no_tensor():
    aspp = ASPP(2, variant=SEPARABLE)
    before = {name: tensor.clone() for name, tensor in aspp.state_dict().items()}
    aspp.set_rates((1, 2, 3))
    assert aspp.rates == (1, 2, 3)
    after = aspp.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match=r"must be 3 numbers, one for each .*got \(1, 2\)"):
        aspp.set_rates((1, 2))


def test_views_are_concatenated_pool_first():
    aspp = ASPP(1, rates=(1, 2, 3), variant=TINY).eval()
    aspp.image_pool = Constant(9.0)
    for index, branch in enumerate(aspp.branches):
        branch.forward = Constant(float(index)).forward
    aspp.project = nn.Identity()
    assert aspp(torch.zeros(1, 1, 9, 9))[0, :, 1, 1].tolist() == [9, 0, 1, 2, 3]


def test_pyramid_without_image_view_or_without_atrous_branches():
    aspp = ASPP(2, rates=(1, 2), variant=dataclasses.replace(TINY, image_pool="none"))
    assert aspp.project.conv.in_channels == 3
    assert aspp.image_pool is None
    assert ASPP(2, rates=(), variant=TINY).project.conv.in_channels == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [17, 18, 19])
def test_rate_that_leaves_the_map_is_warned_of(side):
    aspp = ASPP(1, variant=TINY).eval()
    x = torch.zeros(1, 1, 3, side)
    if side > 18:
        aspp(x)
        return
    with pytest.warns(RateWarning, match=f"atrous rate 18 must .* 3 x {side} cells"):
        aspp(x)


def test_decoder_concatenates_context_first():
    decoder = Decoder(1, TINY).eval()
    decoder.low_level = Constant(5.0)
    decoder.fuse = nn.Identity()
    fused = decoder(torch.full((1, 1, 2, 2), 3.0), torch.zeros(1, 1, 7, 8))
    assert fused.shape == (1, 2, 7, 8)
    assert fused[0, :, 3, 3].tolist() == pytest.approx([3, 5])


def test_decoder_reduces_the_low_level_map_and_refines_twice():
    decoder = Decoder(64, Variant())
    assert decoder.low_level.conv.weight.shape == (48, 64, 1, 1)
    assert [tuple(layer.conv.weight.shape) for layer in decoder.fuse] == [
        (256, 304, 3, 3),
        (256, 256, 3, 3),
    ]
    assert len(Decoder(64, Variant(decoder_convs=1)).fuse) == 1


def test_pooled_view_equals_bilinear_resize_of_the_mean():
    pool = ImagePool(3, Variant(channels=2)).eval()
    x = torch.rand(1, 3, 5, 6)
    mean = torch.relu(pool.bn(pool.conv(F.adaptive_avg_pool2d(x, 1))))
    torch.testing.assert_close(pool(x), F.interpolate(mean, (5, 6), mode="bilinear"))


@pytest.mark.parametrize("window", [(1, 1), (3, 5), (4, 2), (9, 20)])
def test_window_means_equal_a_loop(window):
    x = torch.rand(2, 3, 6, 7)
    height, width = window
    expected = torch.empty_like(x)
    for row in range(6):
        for col in range(7):
            top, left = max(0, row - height // 2), max(0, col - width // 2)
            bottom, right = row - height // 2 + height, col - width // 2 + width
            inside = x[:, :, top:bottom, left:right]
            expected[:, :, row, col] = inside.mean((2, 3))
    torch.testing.assert_close(window_means(x, window), expected)


def test_window_is_the_same_at_every_place_of_a_raster():
    torch.manual_seed(1)
    pool = ImagePool(3, Variant(channels=2, image_pool="window", pool_window=(5, 5))).eval()
    raster = torch.rand(1, 3, 20, 24)
    part = pool(raster[:, :, 4:17, 6:21])
    torch.testing.assert_close(part[:, :, 2:-2, 2:-2], pool(raster)[:, :, 6:15, 8:19])
    whole = ImagePool(3, Variant(channels=2)).eval()
    assert not torch.equal(whole.summary(raster), whole.summary(raster[:, :, 4:]))


def test_valid_window_is_enlarged_to_the_map():
    variant = Variant(
        channels=2, image_pool="valid", pool_window=(4, 4), align_corners=True
    )
    pool, x = ImagePool(3, variant).eval(), torch.rand(1, 3, 6, 7)
    view = torch.relu(pool.bn(pool.conv(F.avg_pool2d(x, 4, stride=1))))
    expected = F.interpolate(view, (6, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(pool(x), expected)
    small = torch.rand(1, 3, 2, 3)  # the window shrinks to the map
    torch.testing.assert_close(
        pool(small), pool(small.mean((2, 3), keepdim=True)).expand(-1, -1, 2, 3)
    )


@pytest.mark.parametrize("size", [(4, 4), (7, 9), (33, 17), (1, 1), (2, 5)])
def test_spatial_pyramid_gives_21_bins_of_any_size(size):
    x = torch.randn(2, 3, *size)
    bins = pyramid(x)
    assert bins.shape == (2, 3, 21)
    torch.testing.assert_close(bins[:, :, -1], x.amax((2, 3)))
    assert SPP(3, Variant(channels=2)).eval()(x).shape == (2, 2, *size)


def test_spatial_pyramid_pools_each_bin():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 5, 2] = 1  # in bin (2, 1) of 4x4 and (1, 0) of 2x2
    hit = pyramid(x)[0, 0].nonzero().flatten().tolist()
    assert hit == [2 * 4 + 1, 16 + 2, 20]


def test_separable_convolution_normalises_between_only_if_asked():
    between, plain = (
        SeparableAtrousConv(4, 6, norm_between=flag, rate=2) for flag in (True, False)
    )
    assert hasattr(between, "depthwise_bn")
    assert not hasattr(plain, "depthwise_bn")
    plain.eval()
    x = torch.randn(1, 4, 9, 9)
    dense = torch.einsum(
        "oi,ihw->oihw", plain.pointwise.weight[:, :, 0, 0], plain.depthwise.weight[:, 0]
    )
    expected = torch.relu(plain.bn(F.conv2d(x, dense, padding=2, dilation=2)))
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "expected"), [(4, [0.0, 2.0]), (5, [-1.0, 1.0, 3.0])], ids=["even", "odd"]
)
def test_same_padding_starts_where_tensorflow_does(size, expected):
    conv = SameConv(1, 1, 3, stride=2, bias=False)
    with torch.no_grad():
        conv.weight.zero_()[0, 0, 0, 0] = 1.0  # shows the first pixel of each window
        ramp = torch.arange(1.0, size + 1).expand(1, 1, size, size)
        seen = conv(ramp)[0, 0, -1].tolist()
    assert [value - 1 for value in seen] == expected


def test_normalisation_and_dropout_are_the_authors():
    parts = (ASPP(4, variant=SEPARABLE), Decoder(4, SEPARABLE))
    norms = [m for part in parts for m in part.modules() if type(m) is nn.BatchNorm2d]
    assert len(norms) == 9 + 5
    assert {norm.eps for norm in norms} == {1e-5}
    assert [m.p for m in parts[0].modules() if type(m) is nn.Dropout] == [0.1]


def test_training_on_one_image_is_refused_with_the_way_out():
    for context in (ASPP(2), SPP(2, Variant())):
        with pytest.raises(
            ValueError, match=r"at least 2 images a batch, got 1.*pool_norm"
        ):
            context(torch.rand(1, 2, 3, 3))
        context(torch.rand(2, 2, 3, 3))
        context.eval()  # frozen statistics need no second image
        context(torch.rand(1, 2, 3, 3))


@pytest.mark.parametrize("norm", ["group", "none"])
def test_other_normalisations_of_the_pooled_view_train_on_one_image(norm):
    aspp = ASPP(2, variant=Variant(pool_norm=norm))
    aspp(torch.rand(1, 2, 3, 3)).sum().backward()
    assert aspp.image_pool.conv.weight.grad is not None
    assert (aspp.image_pool.conv.bias is not None) == (norm == "none")
