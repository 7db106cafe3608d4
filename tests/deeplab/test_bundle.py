import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from deeplab.bundle import (
    ClassInfo,
    compute_digest,
    count_parameters,
    header_text,
    read_bundle,
    read_tensors,
)
from deeplab.variant import Variant

VARIANT = dataclasses.asdict(Variant())


@pytest.fixture
def write(tmp_path):
    def write(header):
        path = tmp_path / "file.safetensors"
        metadata = {"other": "x"} if header is None else {"atrous": header}
        save_file({"a": np.zeros(2, np.float32)}, path, metadata)
        return path

    return write


def test_header_round_trip(write, make_bundle):
    bundle = make_bundle(mean=(0.1, 1 / 3, 0.7), atrous_rates=(1, 2, 3), variant=Variant())
    assert read_bundle(write(header_text(bundle))) == bundle


def test_import_needs_no_torch():
    code = (
        "import deeplab, deeplab.bundle, deeplab.cut, deeplab.tiles, sys;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def test_files_that_are_no_bundle(tmp_path, write):
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, long enough to hold a length of header")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_bundle(path)
    with pytest.raises(ValueError, match="no bundle: its metadata has no 'atrous'"):
        read_bundle(write(None))
    with pytest.raises(FileNotFoundError):
        read_bundle(tmp_path / "missing.safetensors")


def test_truncated_file(write, make_bundle):
    bundle = make_bundle()
    path = write(header_text(bundle))
    content = path.read_bytes()
    for length in (0, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        for read in (read_bundle, count_parameters, lambda it: read_tensors(it, bundle)):
            with pytest.raises(ValueError, match="not a whole safetensors file"):
                read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "format_version must be 2, got 1"),
        ({"extra": 1}, "missing or unknown: extra"),
        ({"classes": []}, "1 to 254 classes, got 0"),
        ({"classes": [{"name": "a", "color": [0, 0, 256]}]}, "three numbers of 0 to 255"),
        (
            {"classes": [{"name": "a", "color": [0, 0, 0]}] * 2},
            "must differ, got 'a' twice",
        ),
        ({"classes": [{"name": "a"}]}, "color"),
        ({"classes": 3}, "header that cannot be used"),
        ({"bands": "red"}, "bands must be a list, got 'red'"),
        ({"mean": [0.5]}, "need one number for each of 3 bands, got 1 and 3"),
        ({"mean": [0.5, 0.5, "x"]}, "mean and std must be finite"),
        ({"std": [0.5, 0.5, 0]}, "std must be above zero"),
        ({"tile": "512"}, "tile must be 1 to 8192 px, got '512'"),
        ({"tile": 10**9}, "tile must be 1 to 8192 px"),
        ({"overlap": 9}, r"half a tile \(8 px\), got 9"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"atrous_rates": [6, 0]}, "positive whole numbers"),
        ({"architecture": ""}, "architecture and origin must be names"),
        ({"architecture": "unet"}, "model must be one of"),
        ({"origin": 3}, "architecture and origin must be names"),
        ({"variant": {"stem": []}}, "variant lacks or does not know: align_corners"),
        ({"variant": "tf"}, "variant lacks or does not know"),
        ({"variant": VARIANT | {"backbone_norm": 1}}, "backbone_norm must have eps"),
        ({"variant": VARIANT | {"channels": -1}}, "must be positive"),
    ],
)
def test_wrong_fields_are_named(write, make_bundle, change, message):
    header = json.loads(header_text(make_bundle())) | change
    with pytest.raises(ValueError, match=message):
        read_bundle(write(json.dumps(header)))


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_header_that_is_no_object(write, text):
    with pytest.raises(ValueError, match="header that cannot be used"):
        read_bundle(write(text))


def test_more_classes_than_ids(make_bundle):
    assert len(make_bundle(count=254).classes) == 254
    with pytest.raises(ValueError, match="1 to 254 classes, got 255"):
        make_bundle(count=255)


def test_class_needs_a_name():
    with pytest.raises(ValueError, match="class name must be a word, got ''"):
        ClassInfo(name="", color=(0, 0, 0))


def test_digest_covers_header_names_types_shapes_and_bytes(make_bundle):
    a = np.arange(6, dtype=np.float32)
    seen = {
        compute_digest(bundle, tensors)
        for bundle, tensors in [
            (make_bundle(), {"a": a}),
            (make_bundle(tile=17), {"a": a}),
            (make_bundle(), {"b": a}),
            (make_bundle(), {"a": a.view(np.int32)}),
            (make_bundle(), {"a": a.reshape(2, 3)}),
            (make_bundle(), {"a": a[::-1]}),
        ]
    }
    assert len(seen) == 6
    assert compute_digest(make_bundle(digest="x"), {"a": a}) in seen
    assert compute_digest(make_bundle(), {"a": a.astype(">f4")}) in seen
