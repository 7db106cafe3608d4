"""What files of each format say and decode to; all of them are made here."""

import functools
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.errors import ItemError
from jobs.inputs import images
from jobs.inputs.images import FORMATS, decode_image, image_size
from jobs.inputs.sources import IMAGE_SUFFIXES
from jobs.job import Origin

HEIGHT, WIDTH = 24, 40
LOSSY = {"AVIF": {"quality": 95, "subsampling": "4:4:4"}, "HEIF": {"quality": 95}}


def scene():
    """RGB, uint8 (H, W, 3), smooth."""
    row, col = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return np.stack([row * 10, col * 6, (row + col) * 3], axis=2)


def encode(image, kind, **options):
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_the_table_of_suffixes_is_that_of_formats():
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in IMAGE_SUFFIXES} == set(FORMATS)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_says_what_it_is(kind):
    options = {"lossless": True} if kind == "WEBP" else LOSSY.get(kind, {})
    (pixels, valid), origin = decode_image(encode(scene(), kind, **options))
    assert origin == Origin(format=kind, height=HEIGHT, width=WIDTH)
    most = {"GIF": 14, "JPEG": 6, "AVIF": 3, "HEIF": 6}.get(kind, 0)
    assert np.abs(pixels.transpose(1, 2, 0).astype(int) - scene()).mean() <= most
    assert valid.all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "PNG"])
def test_orientation_is_told_and_undone_once(kind, orientation):
    """What was stored is the upright image turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(scene())
    turned = {
        1: (),
        2: (Image.Transpose.FLIP_LEFT_RIGHT,),
        3: (Image.Transpose.ROTATE_180,),
        4: (Image.Transpose.FLIP_TOP_BOTTOM,),
        5: (Image.Transpose.TRANSPOSE,),
        6: (Image.Transpose.ROTATE_90,),
        7: (Image.Transpose.TRANSVERSE,),
        8: (Image.Transpose.ROTATE_270,),
    }[orientation]
    stored = functools.reduce(Image.Image.transpose, turned, upright)
    data = encode(stored, kind, exif=exif, **LOSSY.get(kind, {}))
    (pixels, _), origin = decode_image(data)
    assert (origin.height, origin.width) == pixels.shape[1:] == (HEIGHT, WIDTH)
    assert origin.orientation == orientation
    assert np.abs(pixels.transpose(1, 2, 0).astype(int) - scene()).mean() < 8


def test_exif_does_not_turn_heic():
    """ISO/IEC 23008-12: the boxes irot and imir do, and EXIF is for information."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (pixels, _), origin = decode_image(encode(scene(), "HEIF", exif=exif, quality=95))
    assert origin == Origin(format="HEIF", height=HEIGHT, width=WIDTH)
    assert np.abs(pixels.transpose(1, 2, 0).astype(int) - scene()).mean() < 6


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_is_none_is_upright(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert decode_image(encode(scene(), "JPEG", exif=exif))[1].orientation == 1


def animation(kind, count=3, **options):
    frames = [Image.fromarray(np.roll(scene(), i, axis=2)) for i in range(count)]
    more = {"append_images": frames[1:]} if count > 1 else {}
    return encode(frames[0], kind, save_all=True, **more, **options)


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG", "GIF", "AVIF", "HEIF", "MPO"])
def test_frames_are_counted_and_the_first_is_taken(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    (pixels, _), origin = decode_image(animation(kind, **options))
    assert origin.frames == 3
    assert origin.format == ("JPEG" if kind == "MPO" else kind)
    (alone, _), first = decode_image(animation(kind, count=1, **options))
    assert first.frames == 1
    assert np.abs(pixels.astype(int) - alone).mean() < 3


def test_damage_behind_the_first_frame_costs_nothing():
    data = animation("GIF")
    (pixels, _), origin = decode_image(data[: len(animation("GIF", count=1)) + 40])
    np.testing.assert_array_equal(pixels, decode_image(data)[0][0])
    assert 1 <= origin.frames < 3


def test_gif_and_bmp_have_their_own_ways():
    indices = (np.arange(HEIGHT * WIDTH) % 5).astype(np.uint8).reshape(HEIGHT, WIDTH)
    image = Image.frombytes("P", (WIDTH, HEIGHT), indices.tobytes())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3, 250, 251, 252])
    (_, valid), _ = decode_image(encode(image, "GIF", transparency=3, optimize=False))
    np.testing.assert_array_equal(valid, indices != 3)
    for mode in ("1", "L", "P"):
        given = Image.fromarray(scene()).convert(mode)
        (pixels, _), _ = decode_image(encode(given, "BMP"))
        expected = np.asarray(given.convert("RGB"))
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected)


ROOMY = {
    "JPEG": ("JPEG", {}),
    "WebP": ("WEBP", {}),
    "WebP, lossless": ("WEBP", {"lossless": True}),
    "WebP, extended": ("WEBP", {"exif": b"Exif\0\0" + bytes(20)}),
    "AVIF": ("AVIF", {}),
    "HEIC": ("HEIF", {}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
}


@pytest.mark.parametrize("name", ROOMY)
def test_the_size_stands_in_the_first_part_of_a_file(name):
    kind, options = ROOMY[name]
    noise = np.random.default_rng(1).integers(0, 256, (70, 130, 3), dtype=np.uint8)
    data = encode(noise, kind, **options)
    assert image_size(data) == (70, 130)
    assert image_size(data[: 4 * len(data) // 5]) == (70, 130)
    for end in (0, 3, 9):
        with pytest.raises(ItemError, match="the header cannot be read"):
            image_size(data[:end])


# More than 8 bits


def tiff(samples, bits, photometric):
    """A grey TIFF of one strip, little endian, of samples packed by the caller."""
    tags = [
        (256, WIDTH),
        (257, HEIGHT),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, HEIGHT),
        (279, len(samples)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(samples)) + samples + directory


def test_12_bits_keep_their_highest_8():
    grey = (np.arange(HEIGHT * WIDTH) * 37 % 4096).astype(np.uint32)
    left, right = grey[::2], grey[1::2]
    packed = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], axis=1)
    data = tiff(packed.astype(np.uint8).tobytes(), 12, 1)
    (pixels, _), _ = decode_image(data)
    np.testing.assert_array_equal(pixels[0].ravel(), grey >> 4)


@pytest.mark.parametrize(("photometric", "expected"), [(1, lambda x: x), (0, lambda x: ~x)])
def test_16_bits_where_white_is_nothing(photometric, expected):
    grey = (np.arange(HEIGHT * WIDTH) * 68).astype(np.uint16)
    (pixels, _), _ = decode_image(tiff(grey.tobytes(), 16, photometric))
    np.testing.assert_array_equal(pixels[1].ravel(), expected(grey) >> 8)


def test_cmyk_and_ycck_are_what_pillow_makes_of_them():
    cmyk = Image.fromarray(scene()).convert("CMYK")
    data = encode(cmyk, "JPEG", quality=95)
    assert b"Adobe" in data
    # Of the same coefficients the marker alone says whether they are YCCK.
    at = data.index(b"Adobe") + 11
    for transform in (0, 2):
        changed = data[:at] + bytes([transform]) + data[at + 1 :]
        with Image.open(io.BytesIO(changed)) as image:
            assert image.mode == "CMYK"
            expected = np.asarray(image.convert("RGB"))
        (pixels, valid), origin = decode_image(changed)
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected)
        assert valid.all()
        assert origin.format == "JPEG"


# PNG, where Pillow does not look


def png(depth, color, rows, *chunks, damage=None):
    """A PNG of chunks; the checksum of one of them may be wrong."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [b"\x89PNG\r\n\x1a\n"]
    half = len(pixels) // 2
    data = [(b"IDAT", pixels[:half]), (b"IDAT", pixels[half:]), (b"IEND", b"")]
    for number, (name, content) in enumerate([(b"IHDR", header), *chunks, *data]):
        checksum = zlib.crc32(name + content) ^ (number == damage)
        parts.append(struct.pack(">I", len(content)) + name + content)
        parts.append(struct.pack(">I", checksum))
    return b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_that_is_clear_at_any_depth(bits):
    grey = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH), np.uint8)
    shifts = np.arange(8 - bits, -1, -bits)
    packed = (grey.reshape(HEIGHT, -1, 8 // bits) << shifts).sum(axis=2).astype(np.uint8)
    data = png(bits, 0, [row.tobytes() for row in packed], (b"tRNS", b"\0\1"))
    (pixels, valid), _ = decode_image(data)
    np.testing.assert_array_equal(valid, grey != 1)
    expected = grey.astype(int) * 255 // (2**bits - 1)
    np.testing.assert_array_equal(pixels[0][valid], expected[valid])


def test_a_colour_that_is_clear_of_16_bits():
    rgb = (scene().astype(np.uint16) << 8) + 200
    clear = rgb[3, 4].astype(">u2").tobytes()
    data = png(16, 2, [row.astype(">u2").tobytes() for row in rgb], (b"tRNS", clear))
    (pixels, valid), _ = decode_image(data)
    np.testing.assert_array_equal(valid, (rgb != rgb[3, 4]).any(axis=2))
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), scene())


@pytest.mark.parametrize("damage", range(6))
def test_a_wrong_checksum_is_told_where_pixels_depend_on_it(damage):
    rows = [row.tobytes() for row in scene()]
    chunks = (b"tRNS", bytes(6)), (b"tEXt", b"a\0b")
    assert decode_image(png(8, 2, rows, *chunks))[1].format == "PNG"
    data = png(8, 2, rows, *chunks, damage=damage)
    with pytest.raises(ItemError, match="undecodable"):
        decode_image(data)


# What is refused


def refused(data, **options):
    with pytest.raises(ItemError) as caught:
        decode_image(data, **options)
    return caught.value.code, caught.value.message


WITHOUT = """
import sys
from pathlib import Path

sys.modules["pillow_heif"] = None
from PIL import AvifImagePlugin

AvifImagePlugin.SUPPORTED = False
from jobs.errors import ItemError
from jobs.inputs.images import decode_image

for path in sys.argv[1:]:
    try:
        print(decode_image(Path(path).read_bytes())[1].format)
    except ItemError as error:
        print(error)
"""


def test_a_format_without_its_codec_says_what_is_missing(tmp_path):
    kinds = ("HEIF", "AVIF", "PNG")
    for kind in kinds:
        (tmp_path / kind).write_bytes(encode(scene(), kind))
    found = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", WITHOUT, *(tmp_path / kind for kind in kinds)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(images.__file__).parents[2])},
    )
    start, end = "unsupported: it is", "wherever replicas run"
    assert found.stdout.splitlines() == [
        f"{start} HEIF, which needs pip install 'atrous[heif]' {end}",
        f"{start} AVIF, which needs a Pillow that was built with libavif {end}",
        "PNG",
    ]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_in_half_is_refused(kind):
    data = encode(scene(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a decoder's process hears none either
        assert refused(data[: len(data) // 2])[0] == "undecodable"
        assert refused(data[:20])[0] == "undecodable"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "AVIF", "HEIF"])
def test_too_many_pixels_are_refused(kind):
    data = encode(scene(), kind)
    assert refused(data, max_pixels=HEIGHT * WIDTH - 1)[0] == "too_large"
    assert decode_image(data, max_pixels=HEIGHT * WIDTH)[1].width == WIDTH


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"format": "PNG", "orientation": 1},
        {"format": 1, "orientation": 1, "frames": 1, "height": 4, "width": 5},
        {"format": "PNG", "orientation": 1, "frames": 1, "height": 5, "width": 4},
        {"format": "PNG", "orientation": 1, "frames": 1, "height": 0, "width": 0},
        {"format": "PNG", "orientation": 9, "frames": 1, "height": 4, "width": 5},
        {"format": "PNG", "orientation": 1, "frames": 2**40, "height": 4, "width": 5},
        {"format": "\ud800", "orientation": 1, "frames": 1, "height": 4, "width": 5},
    ],
    ids=ascii,
)
def test_a_decoder_that_says_nonsense_of_a_file_is_to_blame(answer):
    from jobs.inputs.frames import origin_fields, read_origin

    arrays = images.new_arrays(3, 4, 5)
    with pytest.raises(ItemError, match="crashed_decoder"):
        read_origin(answer, arrays, {"max_pixels": 20, "resize": "none"})
    origin = Origin(format="PNG", orientation=6, frames=2, height=8, width=10)
    fields = origin_fields(origin)
    asked = {"max_pixels": 80, "resize": "long=5"}
    assert read_origin(fields, arrays, asked) == origin
    for wrong in ({"max_pixels": 79}, {"resize": "none"}, {"resize": "long=6"}):
        with pytest.raises(ItemError, match="crashed_decoder"):
            read_origin(fields, arrays, asked | wrong)
