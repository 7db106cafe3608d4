"""A stranger's bundle: whatever its header claims, it costs little to refuse it."""

from __future__ import annotations

import dataclasses
import json
import struct
import time

import pytest

from deeplab.bundle import header_text, read_bundle
from deeplab.variant import Variant
from deeplab.weights import load_model

DEEPLAB = "deeplabv3plus_mobilenet_v2"


def tensor(*shape, start=0, end=0):
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def nested(depth):
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


FILES = {
    "a header longer than any file": (2**63, b"{}"),
    "a header longer than this one": (10**7, b"{}"),
    "a deep header": (None, nested(10**6)),
    "a shape that overflows": (None, {"a": tensor(2**62, 2**62, 4)}),
    "a shape of terabytes": (None, {"a": tensor(2**40, end=2**42)}),
    "tensors that share bytes": (
        None,
        {"a": tensor(1, end=4), "b": tensor(1, end=4)},
    ),
    "deep metadata": (None, {"__metadata__": {"atrous": "[" * 10**6}}),
    "a number of a million digits": (None, {"__metadata__": {"atrous": "9" * 10**6}}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_claims_too_much_is_refused_at_once(name, tmp_path, command):
    length, header = FILES[name]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "bundle.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)
    start = time.process_time()
    code, out, err = command("bundle", "show", path)
    assert (code, out) == (2, "")
    assert err.startswith("atrous: no bundle: ")
    assert len(err) < 1000
    assert time.process_time() - start < 5


HEADERS = {
    "a name of megabytes": ({"architecture": "x" * 10**7}, "at most 1048576 letters"),
    "a long name": ({"architecture": "x" * 10**5}, "model must be one of"),
    "many rates": ({"atrous_rates": [1] * 10**5}, "atrous_rates must be at most 8"),
    "a million classes": (
        {"classes": [{"name": "a", "color": [0, 0, 0]}] * 10**6},
        "at most 1048576 letters",
    ),
    "a decoder without end": ({"variant": {"decoder_convs": 10**9}}, "must be 1 to 16"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_claims_too_much_is_refused_at_once(name, tmp_path, bundle):
    fields, message = HEADERS[name]
    held = json.loads(header_text(read_bundle(bundle)))
    if "variant" in fields:
        variant = dataclasses.asdict(Variant()) | fields["variant"]
        fields = {"architecture": DEEPLAB, "variant": variant}
    text = json.dumps({"__metadata__": {"atrous": json.dumps(held | fields)}}).encode()
    path = tmp_path / "bundle.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert len(str(caught.value)) < 1000
    assert time.process_time() - start < 5
