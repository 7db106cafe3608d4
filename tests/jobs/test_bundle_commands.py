"""The bundle commands as a user types them, with checkpoints of the peers themselves."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.numpy import save_file
from torch import nn

from deeplab.bundle import compute_digest, header_text, read_bundle
from deeplab.classes import CLASS_SETS
from deeplab.foreign.origins import ORIGINS
from deeplab.weights import load_model
from jobs import cli_bundle
from jobs.bundle_file import demo_bundle_path


def randomise(model):
    """Statistics at 0 and 1 would hide a mix-up."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """Networks of the peers, and the folder with their checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    segmentation = torchvision.models.segmentation
    made = {
        "tv": segmentation.deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=7, aux_loss=True
        ),
        "smp": smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=2),
        "smp4": smp.DeepLabV3Plus(
            "mobilenet_v2", encoder_weights=None, classes=2, in_channels=4
        ),
        "encoder": timm.create_model("resnet18", pretrained=False),
    }
    for name, model in made.items():
        torch.save(randomise(model).state_dict(), folder / f"{name}.pth")
    return folder, made


@pytest.fixture
def convert(run, peers, tmp_path):
    """Import a peer's checkpoint: what ``run`` gives, and the path of the bundle."""

    def call(name, *options, out="net.safetensors"):
        return run("bundle", "import", peers[0] / f"{name}.pth", tmp_path / out, *options)

    return call


@pytest.fixture
def refused(convert, tmp_path):
    """Import what cannot be: the one line that says why. Nothing is left behind."""

    def call(name, *options):
        code, out, err = convert(name, *options)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert list(tmp_path.glob("*.safetensors")) == list(tmp_path.glob(".new-*")) == []
        return err.removeprefix("atrous: ")

    return call


@pytest.fixture
def demo(tmp_path):
    """A copy of the demo's bundle, to be damaged."""
    return shutil.copy(demo_bundle_path(), tmp_path / "demo.safetensors")


@pytest.fixture
def linear(tmp_path, make_bundle):
    """Write a linear bundle whose digest is true, whatever its weights are."""

    def write(value=0.5, **tensors):
        held = {
            "classifier.weight": np.full((4, 3, 1, 1), value, np.float32),
            "classifier.bias": np.zeros(4, np.float32),
        } | tensors
        header = make_bundle()
        header = replace(header, digest=compute_digest(header, held))
        path = tmp_path / "linear.safetensors"
        save_file(held, path, metadata={"atrous": header_text(header)})
        return path

    return write


def error_of(path, peer, size):
    """Greatest difference of the logits by their greatest value."""
    model, bundle = load_model(path)
    x = torch.randn(1, len(bundle.bands), *size)
    with torch.inference_mode():
        theirs = peer(x)
        theirs = theirs["out"] if isinstance(theirs, dict) else theirs
        return ((model(x) - theirs).abs().max() / theirs.abs().max()).item()


# Import


def test_torchvision_becomes_a_bundle(convert, peers, tmp_path):
    path = tmp_path / "net.safetensors"
    code, out, err = convert("tv", "--classes", "loveda")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == str(path)
    assert (
        "  architecture   deeplabv3_mobilenet_v3_large, weights from torchvision" in lines
    )
    assert "  output stride  16, atrous rates 12, 24, 36" in lines
    assert re.search(r"choices .*refine=dense.* aux=true", out)
    assert "  classes        7: background, building, road and 4 more" in lines
    assert lines[-1] == f"use it: atrous label SOURCE RUN --bundle {path}"
    assert error_of(path, peers[1]["tv"], (225, 257)) <= 1e-5
    bundle = read_bundle(path)
    assert (bundle.origin, bundle.tile, bundle.overlap) == ("torchvision", 512, 128)
    assert (bundle.mean, bundle.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert bundle.bands == ("red", "green", "blue")
    assert bundle.classes[2].color == (255, 255, 0)


def test_smp_becomes_a_bundle(convert, peers, tmp_path):
    path = tmp_path / "net.safetensors"
    options = ("--from", "smp", "--output-stride", 8, "--rates", "6,12,18", "--json")
    code, out, err = convert("smp", *options, "--overlap", 64)
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    bundle = read_bundle(path)
    assert found["bundle"] == str(path)
    assert found["digest"] == bundle.digest
    assert (found["origin"], found["unused"], found["untrained"]) == ("smp", {}, [])
    assert (found["output_stride"], found["rates"]) == (8, [6, 12, 18])
    assert found["choices"]["align_corners"] is True
    assert [info["name"] for info in found["classes"]] == ["class 0", "class 1"]
    assert (bundle.tile, bundle.overlap) == (513, 64)
    peer = smp.DeepLabV3Plus(
        "mobilenet_v2",
        encoder_weights=None,
        classes=2,
        encoder_output_stride=8,
        decoder_atrous_rates=(6, 12, 18),
    )
    peer.load_state_dict(peers[1]["smp"].state_dict())
    assert error_of(path, peer.eval(), (160, 192)) <= 1e-5


def test_other_bands_need_their_normalisation(convert, refused, peers, tmp_path):
    assert refused("smp4").startswith(
        "smp normalises 3 bands, the checkpoint has 4; give the normalisation of each"
    )
    spread = ("--normalise", "0.4,0.4,0.3,0.5", "0.2,0.2,0.2,0.3")
    code, out, _ = convert("smp4", *spread)
    assert code == 0
    assert "  bands          band 1, band 2, band 3, band 4\n" in out
    assert "use it: atrous map SOURCE RUN --bundle " in out
    assert read_bundle(tmp_path / "net.safetensors").std == (0.2, 0.2, 0.2, 0.3)
    assert error_of(tmp_path / "net.safetensors", peers[1]["smp4"], (96, 64)) <= 1e-5
    convert("smp4", *spread, "--bands", "red,green,blue,nir", out="named.safetensors")
    bundle = read_bundle(tmp_path / "named.safetensors")
    assert bundle.bands == ("red", "green", "blue", "nir")


def test_an_encoder_alone_gets_an_untrained_head(convert, refused, tmp_path):
    assert "ask for an untrained head and say how many classes" in refused("encoder")
    assert refused("encoder", "--untrained-head").startswith(
        "--untrained-head needs --classes"
    )
    code, out, _ = convert("encoder", "--untrained-head", "--classes", "potsdam")
    assert code == 0
    assert "  not needed     2: fc.weight, fc.bias (ImageNet's classifier)\n" in out
    assert re.search(r"^  untrained      \d+: aspp\.", out, re.MULTILINE)
    assert "its head is drawn at random: train it before you use it\n" in out
    assert len(read_bundle(tmp_path / "net.safetensors").classes) == 6


def test_a_choice_and_a_tile_are_the_users(convert, tmp_path):
    code, out, _ = convert(
        "smp", "--set", "align_corners=false", "--set", "dropout=0.2", "--tile", 200
    )
    assert code == 0
    assert "dropout=0.2" in out
    assert "align_corners" not in out
    bundle = read_bundle(tmp_path / "net.safetensors")
    assert (bundle.tile, bundle.overlap) == (200, 100)
    assert not bundle.network.choices.align_corners


def test_float16_halves_the_file(convert, run, tmp_path):
    convert("smp", out="whole.safetensors")
    convert("smp", "--dtype", "float16", out="half.safetensors")
    whole, half = (tmp_path / f"{name}.safetensors" for name in ("whole", "half"))
    assert 0.5 < half.stat().st_size / whole.stat().st_size < 0.55
    assert run("bundle", "verify", half)[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--classes", "voc"), "the checkpoint has 7 classes, the list given has 21"),
        (("--classes", "city"), "classes must be a text file or one of ade20k"),
        (("--from", "smp"), "the checkpoint's keys must be those of smp, got those of tor"),
        (("--from", "caffe"), "Invalid value for '--from': 'caffe' is not one of 'auto'"),
        (("--set", "refin=none"), "no choice is called 'refin'; the nearest is refine"),
        (("--set", "aux=maybe"), "aux must be true or false, got 'maybe'"),
        (("--set", "dropout=7"), "decoder_convs must be 1 to 16 and dropout from 0 to"),
        (("--set", "channels=128"), "the checkpoint is not a whole deeplabv3_mobilenet_v3"),
        (("--rates", "6,x"), "Invalid value for '--rates': '6,x' must be whole numbers"),
        (("--rates", "6,-1"), "atrous_rates must be at most 8 positive whole numbers"),
        (("--output-stride", 4), "Invalid value for '--output-stride': '4' is not one of"),
        (("--bands", "red,nir"), "the checkpoint has 3 bands, got 2 names: red, nir"),
        (("--normalise", "0,0,0", "1,1,0"), "std must be above zero, got (1.0, 1.0, 0.0)"),
        (("--normalise", "0.5", "0.5"), "mean and std need one number for each of 3 bands"),
        (("--tile", 9000), "tile must be 1 to 8192 px, got 9000"),
        (("--overlap", 400), "overlap must be 0 to half a tile (256 px), got 400"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_wrong_option_is_one_line(refused, options, message):
    assert refused("tv", *options).startswith(message)


def test_a_checkpoint_that_is_none_is_one_line(refused, peers):
    folder, made = peers
    assert "got nothing at " in refused("none")
    (folder / "text.pth").write_text("no checkpoint")
    assert "text.pth" in refused("text")
    state = made["tv"].state_dict()
    torch.save(dict(list(state.items())[:-5]), folder / "short.pth")
    assert refused("short").startswith("the checkpoint is not a whole deeplabv3_mobile")
    torch.save({"weight": torch.zeros(1)}, folder / "other.pth")
    assert refused("other").startswith("keys must be those of one of torchvision, smp")


def test_a_ruined_weight_is_one_line(refused, peers):
    folder, made = peers
    state = made["tv"].state_dict()
    key = "classifier.4.weight"
    torch.save(state | {key: torch.full_like(state[key], torch.nan)}, folder / "nan.pth")
    assert "weights must be finite" in refused("nan")


def test_nothing_is_overwritten(convert, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_text("thesis")
    code, out, err = convert("tv")
    assert (code, out) == (2, "")
    assert err == (f"atrous: {path} is there already; remove it, or choose another name\n")
    assert path.read_text() == "thesis"


def test_a_place_that_cannot_be_written_is_one_line(run, peers, tmp_path):
    file = tmp_path / "file"
    file.touch()
    tv = peers[0] / "tv.pth"
    code, _, err = run("bundle", "import", tv, file / "net.safetensors")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{file}/net.safetensors cannot be written (" in err
    code, _, err = run("bundle", "import", tv, "s3://bucket/net.safetensors")
    assert code == 2
    assert "this command needs local files, got s3://bucket/net.safetensors" in err


def test_help_names_every_origin_and_every_set(run):
    assert set(cli_bundle.ORIGINS) == {"auto", *ORIGINS}
    _, out, _ = run("bundle", "import", "-h")
    assert all(re.search(rf"\b{name}\b", out) for name in CLASS_SETS)


# Show


def test_show_says_all_of_the_header(run):
    code, out, err = run("bundle", "show", "demo")
    assert (code, err) == (0, "")
    path, bundle = demo_bundle_path(), read_bundle(demo_bundle_path())
    assert out.splitlines()[0] == str(path)
    for line in (
        "architecture   deeplabv3plus_mobilenet_v2, weights from atrous",
        "output stride  16, atrous rates 6, 12, 18",
        "choices        those of the architecture",
        "bands          red, green, blue",
        "mean           0.487, 0.504, 0.385",
        "tile           512 px, overlap 128 px",
        f"size           {path.stat().st_size / 1e6:.2f} MB",
        f"digest         {bundle.digest}",
        "    2  #22703e  trees",
    ):
        assert f"  {line}\n" in out
    assert out.endswith("\ncheck it: atrous bundle verify demo\n")


def test_show_json_is_the_header(run):
    code, out, err = run("bundle", "show", "demo", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    header = json.loads(header_text(read_bundle(demo_bundle_path())))
    assert found.items() >= header.items()
    model, _ = load_model(demo_bundle_path())
    assert found["parameters"] == sum(tensor.numel() for tensor in model.parameters())


@pytest.mark.parametrize("verb", ["show", "verify"])
@pytest.mark.parametrize(
    "content", [None, b"", b"no bundle"], ids=["none", "empty", "text"]
)
def test_what_is_no_bundle_is_one_line(run, tmp_path, verb, content):
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run("bundle", verb, path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(path) in err


@pytest.mark.s3
@pytest.mark.parametrize("verb", ["show", "verify"])
def test_a_bundle_may_lie_on_s3(run, s3_server, s3_client, bucket, linear, verb):
    s3_client.upload_file(str(linear()), bucket, "nets/linear.safetensors")
    uri = f"s3://{bucket}/nets/linear.safetensors"
    options = ("--endpoint-url", s3_server, "--json")
    code, out, _ = run("bundle", verb, uri, *options)
    assert code == 0
    assert json.loads(out)["bundle"] == uri


# Verify


def test_a_whole_bundle_is_said_to_be_whole(run):
    code, out, err = run("bundle", "verify", "demo")
    assert (code, err, out.count("\n")) == (0, "", 1)
    digest = read_bundle(demo_bundle_path()).digest
    assert out == (
        f"{demo_bundle_path()} is whole: 392 tensors with digest {digest[:16]}, and finite "
        "logits of 6 classes for a tile of 512 px\n"
    )
    code, out, _ = run("bundle", "verify", "demo", "--json")
    assert code == 0
    assert json.loads(out).items() >= {"differs": None, "classes": 6, "tile": 512}.items()


def test_a_flipped_byte_is_a_difference(run, demo):
    data = bytearray(demo.read_bytes())
    data[-100] ^= 1
    demo.write_bytes(data)
    code, out, err = run("bundle", "verify", demo)
    assert (code, err, out.count("\n")) == (5, "", 1)
    assert out.startswith(f"differs: {demo} is damaged: its content has digest ")
    code, out, _ = run("bundle", "verify", demo, "--json")
    assert code == 5
    assert "damaged" in json.loads(out)["differs"]
    assert run("bundle", "show", demo)[0] == 0  # which reads no tensor


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": np.nan}, "finite weights, got inf or NaN in classifier.weight;"),
        ({"value": 3e38}, "must give finite logits of 4 classes, got 4, or inf or NaN"),
        ({"more": np.zeros(1, np.float32)}, "tensors do not fit linear with 4 classes"),
    ],
    ids=["nan", "overflow", "tensor"],
)
def test_a_bundle_that_cannot_compute_is_a_difference(run, linear, fields, message):
    path = linear(**fields)
    code, out, err = run("bundle", "verify", path)
    assert (code, err, out.count("\n")) == (5, "", 1)
    assert message in out


def test_a_note_is_no_difference(run, convert, tmp_path):
    convert("smp", "--tile", 128)
    code, out, err = run("bundle", "verify", tmp_path / "net.safetensors")
    assert (code, out.count("\n"), err.count("\n")) == (0, 1, 1)
    assert err.startswith("note: atrous rate 36 must be below the feature map's sides")


# Export


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_bundle_is_exported_once(run, linear, tmp_path, suffix):
    out = tmp_path / f"net{suffix}"
    code, text, err = run("bundle", "export", linear(), out, "--batch", 2, "--json")
    assert (code, err) == (0, "")
    found = json.loads(text)
    assert found["relative_error"] <= 1e-4
    assert found["input"][:2] == [2, 3]
    assert found["output"][:2] == [2, 4]
    assert found["bytes"] == out.stat().st_size
    code, text, err = run("bundle", "export", linear(), out)
    assert (code, text) == (2, "")
    assert f"{out} is there already; remove it" in err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_export_says_what_it_wrote(run, linear, tmp_path):
    code, text, err = run("bundle", "export", linear(), tmp_path / "net.pt2")
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0] == str(tmp_path / "net.pt2")
    assert "normalised as in the bundle" in lines[1]
    assert "of the network's" in lines[2]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net.pb", (), "file must end in .onnx or .pt2, got 'net.pb'"),
        ("net.pt2", ("--batch", 0), "batch must be at least 1, got 0"),
    ],
)
def test_a_wrong_export_is_refused(run, linear, tmp_path, name, options, message):
    code, out, err = run("bundle", "export", linear(), tmp_path / name, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
