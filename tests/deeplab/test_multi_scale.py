import pytest
import torch
import torch.nn.functional as F

import deeplab
from deeplab.multi_scale import SCALES, multi_scale


@pytest.fixture(scope="module")
def model(request):
    torch.manual_seed(0)
    randomise = request.getfixturevalue("randomise")
    return randomise(deeplab.build("deeplabv3plus_mobilenet_v2", classes=4))


@pytest.fixture
def x():
    return torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_one_scale_is_the_softmax_of_the_logits(model, x):
    torch.testing.assert_close(
        multi_scale(model, x, scales=(1.0,), flip=False), model(x).softmax(1)
    )


@torch.no_grad()
def test_flip_is_the_mean_of_both_views(model, x):
    mirrored = model(x.flip(3)).softmax(1).flip(3)
    expected = (model(x).softmax(1) + mirrored) / 2
    torch.testing.assert_close(multi_scale(model, x, scales=(1.0,)), expected)


@torch.no_grad()
def test_scales_are_averaged_after_softmax(model, x):
    parts = [multi_scale(model, x, scales=(scale,), flip=False) for scale in SCALES]
    together = multi_scale(model, x, flip=False)
    torch.testing.assert_close(together, torch.stack(parts).mean(0))
    torch.testing.assert_close(together.sum(1), torch.ones(2, 65, 97))
    assert not torch.allclose(parts[0], parts[2])


@torch.no_grad()
def test_an_image_is_scaled_with_its_corners(model, x, monkeypatch):
    sizes, classify = [], model.classify
    monkeypatch.setattr(
        model, "classify", lambda image: sizes.append(image.shape[2:]) or classify(image)
    )
    multi_scale(model, x, scales=(0.5, 1.0, 1.75), flip=False)
    assert sizes == [(33, 49), (65, 97), (113, 169)]
    assert multi_scale(model, x[:, :, :1, :2], scales=(0.1,)).shape == (2, 4, 1, 2)


@torch.no_grad()
def test_a_small_scale_is_enlarged_by_way_of_the_images_own_cells(model, x):
    def enlarge(y, size):
        return F.interpolate(y, size, mode="bilinear", align_corners=False)

    logits = model.classify(enlarge(x, (33, 49)))
    assert logits.shape[2:] == (9, 13)
    # 65 and 97 pixels at stride 4 are 17 and 25 cells.
    expected = enlarge(enlarge(logits, (17, 25)), (65, 97)).softmax(1)
    given = multi_scale(model, x, scales=(0.5,), flip=False)
    torch.testing.assert_close(given, expected)
    at_once = enlarge(logits, (65, 97)).softmax(1)
    assert not torch.allclose(at_once, expected, atol=1e-3)


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-1.0,)])
def test_wrong_scales_are_named(model, x, scales):
    with pytest.raises(ValueError, match="scales must be 1 to 8 different numbers"):
        multi_scale(model, x, scales=scales)
