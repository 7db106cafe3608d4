"""Every image is made here, so that what it must decode to is known."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs.errors import ItemError
from jobs.inputs import images

HEIGHT, WIDTH = 24, 40


def decode_image(data, **options):
    """Pixels and validity alone."""
    return images.decode_image(data, **options)[0]


def scene():
    """RGB, uint8 (H, W, 3), in which no two pixels near each other are alike."""
    row, col = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return np.stack([row * 10, col * 6, (row + col) * 3], axis=2)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_with(*chunks):
    """A PNG file of the given (name, content) chunks, checksums right."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        body = name + content
        parts.append(struct.pack(">I", len(content)) + body)
        parts.append(struct.pack(">I", zlib.crc32(body)))
    return b"".join(parts)


def header(width, height, *, depth=8, color=2):
    return struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)


LOSSLESS = {
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_rgb_comes_back_exactly(kind):
    name, options = LOSSLESS[kind]
    pixels, valid = decode_image(encode(Image.fromarray(scene()), name, **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, scene().transpose(2, 0, 1))
    assert valid.shape == (HEIGHT, WIDTH)
    assert valid.dtype == np.bool_
    assert valid.all()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str
)
def test_jpeg_comes_back_nearly(options):
    pixels, valid = decode_image(
        encode(Image.fromarray(scene()), "JPEG", quality=95, **options)
    )
    assert np.abs(pixels.transpose(1, 2, 0).astype(int) - scene()).mean() < 6
    assert valid.all()


def test_progressive_is_really_progressive():
    data = encode(Image.fromarray(scene()), "JPEG", progressive=True)
    assert b"\xff\xc2" in data


UPRIGHT_TO_STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT_TO_STORED)
def test_images_are_turned_upright(orientation, kind):
    stored = np.ascontiguousarray(UPRIGHT_TO_STORED[orientation](scene()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(stored), kind, exif=exif, **options)
    pixels, valid = decode_image(data)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), scene())
    assert valid.shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", UPRIGHT_TO_STORED)
def test_jpegs_are_turned_upright(orientation):
    stored = np.ascontiguousarray(UPRIGHT_TO_STORED[orientation](scene()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(stored), "JPEG", exif=exif, quality=95, subsampling=0)
    pixels, _ = decode_image(data)
    assert np.abs(pixels.transpose(1, 2, 0).astype(int) - scene()).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none_is_passed_over(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, _ = decode_image(encode(Image.fromarray(scene()), "PNG", exif=exif))
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), scene())


def test_transparency_is_turned_with_the_pixels():
    alpha = np.full((HEIGHT, WIDTH, 1), 255, dtype=np.uint8)
    alpha[:5] = 0
    upright = np.concatenate([scene(), alpha], axis=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(
        Image.fromarray(np.ascontiguousarray(np.rot90(upright))), "PNG", exif=exif
    )
    _, valid = decode_image(data)
    np.testing.assert_array_equal(valid, alpha[:, :, 0] > 0)


def test_cmyk_becomes_rgb():
    image = Image.fromarray(scene()).convert("CMYK")
    pixels, valid = decode_image(encode(image, "JPEG", quality=100, subsampling=0))
    assert np.abs(pixels.transpose(1, 2, 0).astype(int) - scene()).mean() < 6
    pixels, _ = decode_image(encode(image, "TIFF"))
    np.testing.assert_array_equal(
        pixels.transpose(1, 2, 0), np.asarray(image.convert("RGB"))
    )
    assert valid.all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(kind):
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 68
    pixels, _ = decode_image(encode(Image.fromarray(grey), kind))
    for band in pixels:
        np.testing.assert_array_equal(band, grey >> 8)


def test_16_bit_big_endian_tiff_keeps_its_high_byte():
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 68
    big = grey.astype(">u2").tobytes()
    data = encode(Image.frombytes("I;16B", (WIDTH, HEIGHT), big), "TIFF")
    assert data.startswith(b"MM")
    pixels, _ = decode_image(data)
    np.testing.assert_array_equal(pixels[0], grey >> 8)


def test_16_bit_grey_is_turned_upright():
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 68
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(np.ascontiguousarray(np.rot90(grey))), "PNG", exif=exif)
    pixels, _ = decode_image(data)
    np.testing.assert_array_equal(pixels[0], grey >> 8)


def test_16_bit_rgb_keeps_its_high_byte():
    rgb = (scene().astype(np.uint16) << 8) + 200
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    data = png_with(
        (b"IHDR", header(WIDTH, HEIGHT, depth=16)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    pixels, _ = decode_image(data)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), scene())


def test_grey_and_one_bit_become_three_bands():
    grey = scene()[:, :, 0]
    pixels, _ = decode_image(encode(Image.fromarray(grey), "PNG"))
    assert all((band == grey).all() for band in pixels)
    bits = grey > 90
    pixels, valid = decode_image(encode(Image.fromarray(bits), "PNG"))
    assert all((band == np.where(bits, 255, 0)).all() for band in pixels)
    assert valid.all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_fully_transparent_pixels_are_nodata(kind):
    alpha = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))
    image = np.dstack([scene(), alpha])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels, valid = decode_image(encode(Image.fromarray(image), kind, **options))
    np.testing.assert_array_equal(valid, alpha > 0)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), scene())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha(kind):
    grey, alpha = scene()[:, :, 0], np.where(scene()[:, :, 1] > 99, 255, 0).astype(np.uint8)
    image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    pixels, valid = decode_image(encode(image, kind))
    np.testing.assert_array_equal(valid, alpha > 0)
    np.testing.assert_array_equal(pixels[2], grey)


@pytest.mark.parametrize(
    "transparency", [3, bytes([255, 255, 255, 0])], ids=["one", "table"]
)
def test_a_palette_with_transparency(transparency):
    indices = (np.arange(HEIGHT * WIDTH) % 5).astype(np.uint8).reshape(HEIGHT, WIDTH)
    palette = [10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3, 250, 251, 252]
    image = Image.frombytes("P", (WIDTH, HEIGHT), indices.tobytes())
    image.putpalette(palette)
    pixels, valid = decode_image(encode(image, "PNG", transparency=transparency))
    np.testing.assert_array_equal(valid, indices != 3)
    colors = np.array(palette, dtype=np.uint8).reshape(-1, 3)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0)[valid], colors[indices[valid]])


def test_a_palette_without_transparency():
    image = Image.fromarray(scene()).quantize(200)
    pixels, valid = decode_image(encode(image, "PNG"))
    np.testing.assert_array_equal(
        pixels.transpose(1, 2, 0), np.asarray(image.convert("RGB"))
    )
    assert valid.all()


def test_one_colour_that_means_transparent():
    color = tuple(int(part) for part in scene()[3, 4])
    pixels, valid = decode_image(
        encode(Image.fromarray(scene()), "PNG", transparency=color)
    )
    assert not valid[3, 4]
    np.testing.assert_array_equal(valid, (scene() != color).any(axis=2))
    assert pixels.shape == (3, HEIGHT, WIDTH)


def test_one_16_bit_grey_that_means_transparent():
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    data = png_with(
        (b"IHDR", header(WIDTH, HEIGHT, depth=16, color=0)),
        (b"tRNS", struct.pack(">H", 7)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    _, valid = decode_image(data)
    np.testing.assert_array_equal(valid, grey != 7)


def test_only_the_first_frame_is_read():
    frames = [Image.fromarray(np.roll(scene(), i, axis=2)) for i in range(2)]
    options = {"save_all": True, "append_images": frames[1:]}
    for kind, more in (("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        pixels, _ = decode_image(encode(frames[0], kind, **options, **more))
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), scene())


# What is refused


def refused(data, **options):
    with pytest.raises(ItemError) as caught:
        decode_image(data, **options)
    message = caught.value.message
    assert message
    assert "\n" not in message
    return caught.value.code, message


def test_an_empty_file():
    assert refused(b"") == ("undecodable", "the file is empty")


@pytest.mark.parametrize("kind", ["PPM", "EPS", "ICO", "JPEG2000", "TGA", "DIB", "ICNS"])
def test_other_formats_reach_no_decoder(kind):
    code, message = refused(encode(Image.fromarray(scene()), kind))
    assert code == "undecodable"
    assert message == "no JPEG, PNG, WEBP, TIFF, GIF, BMP, AVIF, HEIF file, or damaged"


@pytest.mark.parametrize(
    "data",
    [
        b"SIMPLE  =                    T / FITS".ljust(2880),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF89a",
        b"\0" * 64,
        b"hello",
    ],
    ids=["fits", "eps", "svg", "gif", "zeros", "text"],
)
def test_other_bytes_reach_no_decoder(data):
    assert refused(data)[0] == "undecodable"


def bomb(kind, side):
    """The start of a file that claims to be huge."""
    if kind == "PNG":
        return png_with((b"IHDR", header(side, side)), (b"IDAT", b""), (b"IEND", b""))
    data = bytearray(encode(Image.fromarray(scene()), kind))
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
        return bytes(data)
    for tag in (256, 257):  # width and height of a TIFF
        at = data.index(struct.pack("<HHI", tag, 4, 1))
        data[at + 8 : at + 12] = struct.pack("<I", side)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_huge_images_are_refused_before_they_are_decoded(kind, monkeypatch):
    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", decode)
    code, message = refused(bomb(kind, 60_000))
    assert code == "too_large"
    assert message == "60000 x 60000 px exceed 100000000 pixels"


def test_the_limit_counts_pixels():
    data = encode(Image.fromarray(scene()), "PNG")
    assert refused(data, max_pixels=HEIGHT * WIDTH - 1)[0] == "too_large"
    pixels, _ = decode_image(data, max_pixels=HEIGHT * WIDTH)
    assert pixels.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_samples_without_a_range_are_unsupported(dtype):
    code, message = refused(encode(Image.fromarray(np.ones((4, 4), dtype=dtype)), "TIFF"))
    assert code == "unsupported"
    assert "have no range; need 8 or 16 bit" in message


def test_a_bad_checksum_is_an_item_error():
    data = bytearray(encode(Image.fromarray(scene()), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    assert refused(bytes(data))[0] == "undecodable"


@pytest.mark.parametrize(
    "error",
    [
        SyntaxError("broken\nPNG file"),  # these three were met with damaged bytes
        TypeError("x" * 999),
        ValueError("no"),
        struct.error("unpack requires a buffer of 4 bytes"),
        zlib.error("Error -3"),
        KeyError(7),
        IndexError("no"),
        OverflowError("no"),
        AttributeError("no"),
        EOFError("no"),
        OSError("image file is truncated"),
        Image.DecompressionBombError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_parsers_raise_is_an_item_error(monkeypatch, error):
    def load(_):
        raise error

    data = encode(Image.fromarray(scene()), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    code, message = refused(data)
    assert code == "undecodable"
    assert message.startswith(f"{type(error).__name__}: {str(error)[:2]}")
    assert len(message) <= 200


def test_a_bug_of_ours_is_no_item_error(monkeypatch):
    def load(_):
        raise AssertionError("ours")

    data = encode(Image.fromarray(scene()), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(AssertionError, match="ours"):
        decode_image(data)


SAMPLES = {
    "jpeg": encode(Image.fromarray(scene()), "JPEG"),
    "progressive": encode(Image.fromarray(scene()), "JPEG", progressive=True),
    "png": encode(Image.fromarray(scene()), "PNG"),
    "palette": encode(Image.fromarray(scene()).quantize(9), "PNG", transparency=1),
    "webp": encode(Image.fromarray(scene()), "WEBP"),
    "webp lossless": encode(Image.fromarray(scene()), "WEBP", lossless=True),
    "tiff": encode(Image.fromarray(scene()), "TIFF"),
    "tiff lzw": encode(Image.fromarray(scene()), "TIFF", compression="tiff_lzw"),
    "tiff jpeg": encode(Image.fromarray(scene()), "TIFF", compression="jpeg"),
    "gif": encode(Image.fromarray(scene()), "GIF"),
    "bmp": encode(Image.fromarray(scene()), "BMP"),
    "avif": encode(Image.fromarray(scene()), "AVIF"),
    "heic": encode(Image.fromarray(scene()), "HEIF"),
    "turned": encode(
        Image.fromarray(scene()),
        "JPEG",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    ),
}


def decode_quietly(data):
    """Decode, or fail as an item; whether it was decoded. Pillow also warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels, valid = decode_image(data, max_pixels=10**6)
        except ItemError:
            return False
    assert pixels.shape == (3, *valid.shape)
    return True


@pytest.mark.parametrize("name", SAMPLES)
def test_files_cut_short_anywhere_fail_as_items(name):
    data = SAMPLES[name]
    assert decode_quietly(data)
    lengths = sorted({*range(0, len(data), max(1, len(data) // 120)), *range(40)})
    decoded = [length for length in lengths if decode_quietly(data[:length])]
    # What lacks no more than its end may be whole all the same.
    assert not decoded or decoded[0] > len(data) // 2


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff"])
def test_a_file_cut_in_half_is_refused(name):
    data = SAMPLES[name]
    assert refused(data[: len(data) // 2])[0] == "undecodable"


FLIPS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), max_size=8)


@example(name="png", flips=[], cut=0)
@example(name="png", flips=[], cut=len(SAMPLES["png"]))
@given(name=st.sampled_from(sorted(SAMPLES)), flips=FLIPS, cut=st.integers(0, 2**20))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files_fail_as_items(name, flips, cut):
    data = bytearray(SAMPLES[name])
    for at, bits in flips:
        # Half of the damage goes where the headers are.
        data[at % (len(data) if at % 2 else min(len(data), 200))] ^= bits
    whole = cut % (2 * len(data))
    is_decoded = decode_quietly(bytes(data[:whole]))
    if not whole:
        assert not is_decoded
    elif whole >= len(data) and bytes(data) == SAMPLES[name]:
        assert is_decoded
