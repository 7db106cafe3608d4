"""Whole label runs over what collections of images are: awkward, hostile, and large."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pillow_heif
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.cli import _main
from jobs.inputs import decoding
from jobs.inputs.decoding import Decoders
from jobs.outputs.masks import decode_mask

TRAPPED = """
import ctypes

from jobs.inputs.images import ANSWERS as SOUND

def decode(fields, data, empty):
    if data.endswith(b"HANG"):
        ctypes.PyDLL(None).sleep(1000)
    if data.endswith(b"CRASH"):
        ctypes.string_at(0)
    return SOUND["decode"](fields, data, empty)

ANSWERS = {**SOUND, "decode": decode}
"""


def command(*words):
    return _main([str(word) for word in words])


def rows(run):
    parts = sorted((run / "masks").glob("*.parquet"))
    found = [row for part in parts for row in pq.read_table(part).to_pylist()]
    assert len({row["key"] for row in found}) == len(found), "a row is there twice"
    return {row["key"]: row for row in found}


def letters(run):
    found = pq.read_table(run / "dead_letter.parquet").to_pylist()
    return {row["key"]: row["code"] for row in found}


def scene(seed, shape=(40, 56)):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def gallery(tmp_path):
    """Six sound images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encode(scene(number), "PNG"))
    return folder


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="natively, as Linux does")
def test_decoders_that_hang_and_crash_cost_their_own_items(
    gallery, tmp_path, linear, monkeypatch
):
    (tmp_path / "trapped.py").write_text(TRAPPED)
    monkeypatch.syspath_prepend(tmp_path)
    decoders = Decoders("trapped", processes=2)
    monkeypatch.setattr(decoding, "_decoders", lambda _module, _process: decoders)
    options = ("--bundle", linear, "--local", "-c", "decode_timeout=1")
    assert command("label", gallery, tmp_path / "sound", *options) == 0
    for name, ending in (("1.png", b"HANG"), ("4.png", b"CRASH")):
        path = gallery / name
        path.write_bytes(path.read_bytes() + ending)
    assert command("label", gallery, tmp_path / "run", *options) == 3
    decoders.close()
    assert letters(tmp_path / "run") == {"1.png": "timed_out", "4.png": "crashed_decoder"}
    found, sound = rows(tmp_path / "run"), rows(tmp_path / "sound")
    assert found == {key: sound[key] for key in ("0.png", "2.png", "3.png", "5.png")}
    assert command("verify", tmp_path / "run", "--deep") == 0


def awkward():
    """Files by name, with the size of the mask, or the reason why there is none."""
    pillow_heif.register_heif_opener()
    image, exif = scene(1), Image.Exif()
    exif[0x0112] = 6
    png, gif = encode(image, "PNG"), encode(image, "GIF")
    grey = Image.fromarray(np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100)
    more = {"save_all": True, "append_images": [scene(2), scene(3)]}
    bomb = gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    return {
        "cmyk.jpg": (encode(image.convert("CMYK"), "JPEG"), (40, 56)),
        "progressive.JPG": (encode(image, "JPEG", progressive=True), (40, 56)),
        "turned.jpeg": (encode(image, "JPEG", exif=exif), (56, 40)),
        "palette.png": (encode(image.quantize(9), "PNG", transparency=1), (40, 56)),
        "16 bit.png": (encode(grey, "PNG"), (20, 30)),
        "16 bit.tif": (encode(grey, "TIFF"), (20, 30)),
        "pages.tiff": (encode(image, "TIFF", **more), (40, 56)),
        "animated.gif": (encode(image, "GIF", **more), (40, 56)),
        "animated.webp": (encode(image, "WEBP", **more), (40, 56)),
        "bits.bmp": (encode(image.convert("1"), "BMP"), (40, 56)),
        "a.avif": (encode(image, "AVIF"), (40, 56)),
        "photo.heic": (encode(image, "HEIF"), (40, 56)),
        "empty.jpg": (b"", "undecodable"),
        "text.png": (b"<html>not found</html>", "undecodable"),
        "cut.png": (png[: len(png) // 2], "undecodable"),
        "checksum.png": (png[:60] + bytes([png[60] ^ 1]) + png[61:], "undecodable"),
        "bomb.gif": (bomb, "too_large"),
        "float.tif": (encode(Image.fromarray(np.ones((9, 9), "f")), "TIFF"), "unsupported"),
        "large.bmp": (encode(scene(4, (200, 200)), "BMP"), "too_large"),  # 120 kB
    }


def test_each_awkward_image_is_a_mask_or_a_dead_letter_with_its_reason(tmp_path, linear):
    source, run, files = tmp_path / "images", tmp_path / "run", awkward()
    source.mkdir()
    for name, (data, _) in files.items():
        (source / name).write_bytes(data)
    options = ("--bundle", linear, "--local", "-c", "max_bytes=100000")
    assert command("label", source, run, *options) == 3
    expected = {name: end for name, (_, end) in files.items() if isinstance(end, str)}
    assert letters(run) == expected
    found = rows(run)
    assert found.keys() == files.keys() - expected.keys()
    for name, row in found.items():
        size = (row["height"], row["width"])
        assert size == (row["image_height"], row["image_width"]) == files[name][1]
        assert row["orientation"] == (6 if name == "turned.jpeg" else 1)
        assert row["etag"]
        assert 0 <= row["mean_entropy"] <= 1
    frames = {name: row["frames"] for name, row in found.items() if row["frames"] > 1}
    assert frames == {"pages.tiff": 3, "animated.gif": 3, "animated.webp": 3}
    kinds = {Path(name).suffix: row["format"] for name, row in found.items()}
    assert kinds[".heic"], kinds[".tiff"] == ("HEIF", "TIFF")
    assert command("verify", run, "--deep") == 0
    # A retry has limits of its own.
    more = ("--local", "-c", "max_bytes=200000")
    assert command("retry", run, "--code", "too_large", *more) == 3
    assert letters(run) == {
        name: code for name, code in expected.items() if name != "large.bmp"
    }
    assert command("verify", run, "--deep") == 0


def test_masks_of_confident_pixels_as_png(gallery, tmp_path, linear, monkeypatch):
    plain, run = tmp_path / "plain", tmp_path / "run"
    options = ("--bundle", linear, "--local")
    assert command("label", gallery, plain, *options) == 0
    (gallery / "3.png").write_bytes(b"")
    asked = ("--min-confidence", "0.4,water=0.99", "--mask-encoding", "png")
    assert command("label", gallery, run, *options, *asked) == 3
    (gallery / "3.png").write_bytes(encode(scene(3), "PNG"))
    assert command("retry", run, "--local") == 0
    assert command("verify", run, "--deep") == 0

    found, sure = rows(run), rows(plain)
    assert found.keys() == sure.keys()
    ignored = 0
    for key, row in found.items():
        mask, other = decode_mask(row), decode_mask(sure[key])
        assert (mask == 254).sum() == row["ignored_pixels"]
        np.testing.assert_array_equal(mask[mask != 254], other[mask != 254])
        for name in ("uncertain_share", "mean_entropy"):
            assert row[name] == sure[key][name]
        known = [one for one in row["class_confidence"] if one is not None]
        assert min(known) >= 0.4
        assert row["class_confidence"][3] is None or row["class_confidence"][3] >= 0.99
        ignored += row["ignored_pixels"]
    assert ignored > 100

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted((run / "masks").glob("*.parquet"))]
    held = datasets.load_dataset(
        "parquet", data_files=files, cache_dir=str(tmp_path / "cache")
    )
    for row in held["train"]:
        np.testing.assert_array_equal(
            np.asarray(row["mask"]), decode_mask(found[row["key"]])
        )


def test_other_masks_are_another_run(gallery, tmp_path, linear, capsys):
    run, options = tmp_path / "run", ("--bundle", linear, "--local")
    assert command("label", gallery, run, *options, "--min-confidence", "0.4") == 0
    for asked in ((), ("--min-confidence", "0.5"), ("--min-confidence", "0.4,water=0.5")):
        assert command("label", gallery, run, *options, *asked) == 2
        assert "min_confidence [0.4, 0.4, 0.4, 0.4], now " in capsys.readouterr().err
    words = ("--min-confidence", "0.4", "--mask-encoding", "png")
    assert command("label", gallery, run, *options, *words) == 2
    assert "mask_encoding raw, now png" in capsys.readouterr().err
    asked = ("--min-confidence", "mud=0.4")
    assert command("label", gallery, tmp_path / "new", *options, *asked) == 2
    assert "got 'mud'; it has 0 soil, 1 field" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_files_rotate_and_say_where_they_are_from(gallery, tmp_path, linear):
    options = ("--bundle", linear, "--local")
    assert command("label", gallery, tmp_path / "one", *options) == 0
    assert (
        command("label", gallery, tmp_path / "many", *options, "-c", "file_bytes=5000") == 0
    )
    assert rows(tmp_path / "one") == rows(tmp_path / "many")
    parts = sorted((tmp_path / "many" / "masks").glob("*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == [2, 2, 2]
    assert command("verify", tmp_path / "many", "--deep") == 0
    job = json.loads((tmp_path / "many" / "job.json").read_text())
    for part in parts:
        fields = json.loads(pq.read_schema(part).metadata[b"atrous"])
        assert fields["fingerprint"] == job["fingerprint"]
        assert fields["options"]["tile"] == 64
        assert [info["name"] for info in fields["classes"]] == [
            "soil",
            "field",
            "trees",
            "water",
        ]
        text = json.dumps(fields)
        assert str(tmp_path) not in text, "nothing of where it was made"
