"""Resizing where images are decoded, against Pillow on whole pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from jobs.errors import ItemError
from jobs.inputs import decoding, images
from jobs.sizes import resized_size

BILINEAR = Image.Resampling.BILINEAR


def scene(height=90, width=140, bands=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 18, bands), np.uint8).squeeze())
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encode(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def planes(picture):
    return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize(
    "resize", ["long=64", "short=33", "long=200", "short=90", "long=1"]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1", "RGBA"])
def test_an_opaque_image_is_resized_as_pillow_does(mode, resize):
    picture = Image.fromarray(scene()).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    (pixels, valid), whole = images.decode_image(encode(picture, kind), resize=resize)
    height, width = resized_size(resize, 90, 140)
    kept = picture if mode == "L" else picture.convert("RGB")
    expected = planes(kept.resize((width, height), BILINEAR))
    assert (whole.height, whole.width) == (90, 140)
    assert (pixels == expected).all()
    assert valid.all()
    assert valid.shape == (height, width)


def test_16_bit_samples_are_resized_by_their_high_byte():
    grey = scene(bands=1).astype(np.uint16) * 256 + 7
    data = encode(Image.fromarray(grey))
    (pixels, valid), _ = images.decode_image(data, resize="long=50")
    high = Image.fromarray((grey >> 8).astype(np.uint8))
    assert (pixels == planes(high.resize((50, 32), BILINEAR))).all()
    assert valid.all()


def test_what_is_transparent_colours_nothing_and_half_of_it_is_enough():
    """White beside transparent green: no green comes in, and half covered is valid."""
    rgba = np.zeros((40, 80, 4), np.uint8)
    rgba[:, :41] = 255
    rgba[:, 41:, 1] = 200
    (pixels, valid), whole = images.decode_image(
        encode(Image.fromarray(rgba)), resize="long=20"
    )
    assert (whole.height, whole.width) == (40, 80)
    assert pixels.shape == (3, 10, 20)
    assert valid[:, :10].all()
    assert not valid[:, 11:].any()
    assert (pixels[:, valid] == 255).all()
    assert (pixels[:, :, 12:] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_hole_is_left_out_of_every_mean(seed):
    """Against sums in floats, weighted by Pillow's own filter of the validity."""
    rgb = scene(60, 100, seed=seed)
    hole = scene(60, 100, bands=1, seed=seed + 9) > 140
    rgba = np.dstack([rgb, np.where(hole, 0, 255).astype(np.uint8)])
    (pixels, valid), _ = images.decode_image(
        encode(Image.fromarray(rgba)), resize="long=37"
    )

    def resize(plane):
        return np.asarray(Image.fromarray(plane).resize((37, 22), BILINEAR))

    share = resize(np.where(hole, 0, 1).astype(np.float32))
    clear = np.abs(share - 0.5) > 0.01
    assert (valid == (share > 0.5))[clear].all()
    assert 0.1 < valid.mean() < 0.99
    for band in range(3):
        total = resize(np.where(hole, 0, rgb[:, :, band]).astype(np.float32))
        mean = total[valid] / share[valid]
        assert np.abs(pixels[band][valid] - mean).max() < 2.6


def noisy_jpeg(mode, height=600, width=900, **options):
    rng = np.random.default_rng(3)
    pixels = scene(height, width).astype(float) + rng.normal(0, 12, (height, width, 3))
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)
    return encode(picture, "JPEG", quality=90, **options)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_is_decoded_small_is_what_it_is_decoded_large(mode, options):
    data = noisy_jpeg(mode, **options)
    (pixels, valid), whole = images.decode_image(data, resize="long=200")
    with Image.open(io.BytesIO(data)) as picture:
        kept = picture if mode == "L" else picture.convert("RGB")
        expected = planes(kept.resize((200, 133), BILINEAR)).astype(int)
    assert (whole.height, whole.width) == (600, 900)
    assert valid.all()
    difference = np.abs(pixels - expected)
    assert 0 < difference.mean() < 1.5
    assert np.percentile(difference, 99.9) < 12


@pytest.mark.parametrize(
    ("resize", "exact"), [("long=301", True), ("long=300", False), ("short=201", True)]
)
def test_a_jpeg_is_decoded_at_no_less_than_half_as_much_again(resize, exact):
    data = noisy_jpeg("RGB")
    (pixels, _), _ = images.decode_image(data, resize=resize)
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.resize(resized_size(resize, 600, 900)[::-1], BILINEAR)
    assert (pixels == planes(small)).all() == exact


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_resized_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(scene(400, 640))
    data = encode(picture, "JPEG", exif=exif, quality=95)
    (pixels, _), whole = images.decode_image(data, resize="long=64")
    (large, _), _ = images.decode_image(data)
    turned = orientation > 4
    assert (
        (whole.height, whole.width)
        == large.shape[1:]
        == ((640, 400) if turned else (400, 640))
    )
    upright = Image.fromarray(large.transpose(1, 2, 0))
    size = (40, 64) if turned else (64, 40)
    assert pixels.shape == (3, *size[::-1])
    assert np.abs(pixels - planes(upright.resize(size, BILINEAR)).astype(int)).mean() < 1.5


def test_pixels_are_counted_before_and_after():
    data = encode(Image.fromarray(scene(20, 100)))
    with pytest.raises(ItemError, match=r"100 x 20 px exceed 1999 pixels") as caught:
        images.decode_image(data, resize="long=1", max_pixels=1999)
    assert caught.value.code == "too_large"
    text = r"resized to 1000 x 200 px it exceeds 199999 pixels"
    with pytest.raises(ItemError, match=text) as caught:
        images.decode_image(data, resize="short=200", max_pixels=199_999)
    assert caught.value.code == "too_large"
    (pixels, _), _ = images.decode_image(data, resize="short=200", max_pixels=200_000)
    assert pixels.shape == (3, 200, 1000)


def test_a_broken_jpeg_is_refused_at_any_size():
    data = noisy_jpeg("RGB")
    for resize in ("none", "long=100", "long=800"):
        with pytest.raises(ItemError) as caught:
            images.decode_image(data[: len(data) // 2], resize=resize)
        assert caught.value.code == "undecodable"


def test_a_decoder_resizes_as_this_process_does():
    data = noisy_jpeg("RGB", 200, 300)
    (pixels, valid), whole = decoding.decode_image(data, resize="short=50")
    (expected, _), _ = images.decode_image(data, resize="short=50")
    assert (whole.height, whole.width) == (200, 300)
    assert (pixels == expected).all()
    assert valid.all()
