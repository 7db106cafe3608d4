import dataclasses

import pytest
import torch
from safetensors.torch import save_file

import deeplab
from deeplab.bundle import header_text, read_bundle
from deeplab.variant import default_variant
from deeplab.weights import load_model, save_bundle

MOBILENET = "deeplabv3plus_mobilenet_v2"


@pytest.fixture
def linear(tmp_path, make_bundle):
    """A saved linear model: path and model."""
    model = deeplab.build("linear", classes=4)
    path = tmp_path / "linear.safetensors"
    save_bundle(path, model, make_bundle(), dtype=torch.float32)
    return path, model


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_round_trip(tmp_path, make_bundle, dtype):
    torch.manual_seed(0)
    bundle = make_bundle(architecture=MOBILENET, output_stride=8, bands=("a", "b"))
    model = deeplab.build(MOBILENET, classes=4, bands=2, output_stride=8)
    model(torch.rand(2, 2, 32, 32))  # moves the statistics
    path = tmp_path / "bundle.safetensors"
    digest = save_bundle(path, model, bundle, dtype=dtype)
    loaded, header = load_model(path)
    variant = default_variant(MOBILENET)  # is written even if it is left to the name
    expected = dataclasses.replace(bundle, digest=digest, variant=variant)
    assert header == expected == read_bundle(path)
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        kept = tensor.to(dtype).float() if tensor.ndim > 1 else tensor
        assert torch.equal(loaded.state_dict()[name], kept), name
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in loaded.parameters())
    x = torch.rand(1, 2, 32, 32)
    tolerance = {"atol": 1e-2, "rtol": 1e-2} if dtype == torch.float16 else {}
    torch.testing.assert_close(loaded(x), model.eval()(x), **tolerance)


def test_demo_bundle_is_small(tmp_path, make_bundle):
    path = tmp_path / "bundle.safetensors"
    model = deeplab.build(MOBILENET, classes=4)
    save_bundle(path, model, make_bundle(architecture=MOBILENET))
    assert path.stat().st_size < 12e6


def test_bytes_are_reproducible_and_the_file_is_replaced_whole(linear, make_bundle):
    path, model = linear
    first = path.read_bytes()
    for layout in (torch.channels_last, torch.contiguous_format):
        model = model.to(memory_format=layout)
        save_bundle(path, model, make_bundle(digest="old"), dtype=torch.float32)
        assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_any_changed_tensor_byte_is_found(linear):
    path, _ = linear
    content = bytearray(path.read_bytes())
    for offset in (-1, -20, -64):
        changed = content.copy()
        changed[offset] ^= 1
        path.write_bytes(changed)
        assert read_bundle(path)  # the header alone is whole
        with pytest.raises(ValueError, match="damaged: its content has digest"):
            load_model(path)


def test_changed_header_is_found(linear):
    path, _ = linear
    path.write_bytes(path.read_bytes().replace(b"0.45", b"0.46"))
    with pytest.raises(ValueError, match="damaged"):
        load_model(path)


def test_truncated_file(linear):
    path, _ = linear
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_model(path)


def test_tensors_that_numpy_cannot_hold(tmp_path, make_bundle):
    path = tmp_path / "bfloat16.safetensors"
    header = {"atrous": header_text(make_bundle())}
    save_file({"a": torch.ones(2, dtype=torch.bfloat16)}, path, header)
    with pytest.raises(ValueError, match="tensors that cannot be read"):
        load_model(path)


def test_model_must_fit_its_header(tmp_path, make_bundle):
    model = deeplab.build("linear", classes=3)
    with pytest.raises(ValueError, match=r"must have shape \(4,\), got \(3,\)"):
        save_bundle(tmp_path / "x", model, make_bundle())
    assert not list(tmp_path.iterdir())


def test_weights_must_be_finite_in_the_files_type(tmp_path, make_bundle):
    model = deeplab.build("linear", classes=4)
    with torch.no_grad():
        model.classifier.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"finite in torch.float16, got classifier.weight"):
        save_bundle(tmp_path / "x", model, make_bundle())
    save_bundle(tmp_path / "x", model, make_bundle(), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"dtype must be torch\.float16 or"):
        save_bundle(tmp_path / "x", model, make_bundle(), dtype=torch.bfloat16)
