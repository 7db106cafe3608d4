import dataclasses
import json
import sys

import onnx
import pytest
import torch

import deeplab
from deeplab.export import ExportError, export
from deeplab.variant import default_variant

NAMES = ["deeplabv3plus_mobilenet_v2", "deeplabv3_mobilenet_v3_large", "linear"]
CHOICES = {
    "spp": {"context": "spp"},
    "window": {"image_pool": "window", "pool_window": (5, 6)},
    "same": {"padding": "same", "align_corners": True},
}


@pytest.fixture
def make(make_bundle, randomise):
    """A network and its header."""

    def build(name, **fields):
        bundle = make_bundle(architecture=name, tile=64, overlap=16, **fields)
        torch.manual_seed(0)
        network = bundle.network
        model = deeplab.build(name, classes=network.classes, variant=network.variant)
        return randomise(model), bundle

    return build


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", NAMES)
def test_exported_network_gives_the_same_logits(make, tmp_path, name, suffix):
    model, bundle = make(name)
    assert export(model, bundle, tmp_path / f"model{suffix}", batch=2) <= 1e-4


@pytest.mark.parametrize("case", CHOICES)
def test_variants_are_exported(make, tmp_path, case):
    name = "deeplabv3plus_mobilenet_v2"
    variant = dataclasses.replace(default_variant(name), **CHOICES[case])
    model, bundle = make(name, variant=variant)
    for suffix in (".onnx", ".pt2"):
        assert export(model, bundle, tmp_path / f"model{suffix}") <= 1e-4


def test_files_stand_alone_and_describe_themselves(make, tmp_path):
    model, bundle = make("linear")
    for suffix in (".onnx", ".pt2"):
        export(model, bundle, tmp_path / f"model{suffix}", batch=3)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.pt2"}
    written = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(written, full_check=True)
    properties = {entry.key: entry.value for entry in written.metadata_props}
    assert json.loads(properties["atrous"])["architecture"] == "linear"
    (image,), (logits,) = written.graph.input, written.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    sizes = [dim.dim_value for dim in logits.type.tensor_type.shape.dim]
    assert sizes == [3, 4, 64, 64]
    files = {"atrous": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=files)
    assert json.loads(files["atrous"])["mean"] == list(bundle.mean)


def test_a_difference_is_an_error(make, tmp_path, monkeypatch):
    model, bundle = make("linear")
    doubled = deeplab.build("linear", classes=4)
    monkeypatch.setattr("deeplab.export.fold", lambda _: doubled)
    with pytest.raises(ExportError, match=r"must be within 0\.0001 of the network's, got"):
        export(model, bundle, tmp_path / "model.pt2")


def test_wrong_arguments_and_missing_packages(make, tmp_path, monkeypatch):
    model, bundle = make("linear")
    with pytest.raises(ValueError, match=r"must end in \.onnx or \.pt2, got 'model\.pb'"):
        export(model, bundle, tmp_path / "model.pb")
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        export(model, bundle, tmp_path / "model.onnx", batch=0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"needs onnxruntime, .* 'atrous\[onnx\]'"):
        export(model, bundle, tmp_path / "model.onnx")


def test_a_network_that_torch_cannot_write_is_named(make, tmp_path):
    class Unusual(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.matrix_exp(x[:, :1]).repeat(1, 4, 1, 1)

    _, bundle = make("linear")
    with pytest.raises(ExportError, match=r"cannot write this network as ONNX .*\.pt2"):
        export(Unusual(), bundle, tmp_path / "model.onnx")
