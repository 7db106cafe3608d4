"""What stands in the authors' files, their Keras port's and transformers' beside weights.

States are made of our networks here; ``twins/test_authors.py`` makes them without.
"""

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from deeplab.foreign.convert import convert, revert
from deeplab.foreign.files import read_checkpoint
from deeplab.foreign.hf import HF
from deeplab.foreign.keras import KERAS
from deeplab.foreign.origin import UNIT, MismatchError
from deeplab.foreign.origins import find_origin
from deeplab.foreign.tensorflow import TENSORFLOW
from deeplab.model import build_network
from deeplab.variant import Network, Norm, Variant

CLASSES = 4
HEAD = ("aspp", "concat", "decoder", "image_pool", "logits")


def state_of(architecture, origin=TENSORFLOW, *, rates=None, **choices):
    variant = Variant(low_level="unit", dilation="tf", **choices)
    network = Network(
        architecture=architecture, classes=CLASSES, atrous_rates=rates, variant=variant
    )
    return revert(build_network(network).state_dict(), network, origin)


def encoder_of(state):
    return {key: value for key, value in state.items() if not key.startswith(HEAD)}


def changed(state, shapes):
    """With tensors of other shapes; None takes one away."""
    new = {key: torch.zeros(shape) for key, shape in shapes.items() if shape is not None}
    kept = {key: value for key, value in state.items() if shapes.get(key, 0) is not None}
    return kept | new


@pytest.fixture(scope="module")
def mobile():
    return state_of("deeplabv3_mobilenet_v2", rates=(), padding="same")


@pytest.fixture(scope="module")
def beta():
    stem = (64, 64, 128)
    return state_of("deeplabv3plus_resnet50", stem=stem, padding="same", separable=True)


@pytest.fixture(scope="module")
def xception():
    return state_of("deeplabv3plus_xception41", separable=True, decoder_separable=True)


@pytest.fixture(scope="module")
def keras():
    return state_of("deeplabv3_mobilenet_v2", KERAS, rates=(), padding="same")


@pytest.fixture(scope="module")
def hf():
    return state_of("deeplabv3_mobilenet_v2", HF, rates=(), padding="same")


def norms_of(converted):
    """How batch normalisation is set up, in the encoder and in the head."""
    model = build_network(converted.network)
    found = {True: set(), False: set()}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            norm = Norm(eps=module.eps, momentum=module.momentum)
            found[name.startswith("backbone.")].add(norm)
    ((encoder,), (head,)) = found[True], found[False]
    return encoder, head


def test_normalisation_is_the_authors(mobile, beta, xception):
    """An output hardly shows it, so the attributes are held."""
    head = Norm(eps=1e-5, momentum=3e-4)
    for state, encoder in (
        (mobile, Norm(eps=1e-3, momentum=3e-3)),
        (beta, Norm(eps=1e-5, momentum=0.05)),
        (xception, Norm(eps=1e-3, momentum=3e-4)),
    ):
        converted = convert(state, TENSORFLOW)
        assert norms_of(converted) == (encoder, head)
        assert converted.network.choices.dropout == 0.1


def test_normalisation_of_the_others(keras, hf):
    encoder, head = norms_of(convert(keras, KERAS))
    assert (encoder, head) == (Norm(eps=1e-3, momentum=1e-3), Norm(momentum=1e-2))
    encoder, head = norms_of(convert(hf, HF))
    assert (encoder, head) == (Norm(eps=1e-3, momentum=3e-3), Norm(momentum=3e-4))
    assert convert(hf, HF).network.choices.dropout == 0.8


@pytest.mark.parametrize(
    ("name", "architecture", "stride", "rates"),
    [
        ("mobile", "deeplabv3_mobilenet_v2", 16, ()),
        ("beta", "deeplabv3plus_resnet50", 16, (6, 12, 18)),
        ("xception", "deeplabv3plus_xception41", 16, (6, 12, 18)),
    ],
)
def test_networks(name, architecture, stride, rates, request):
    network = convert(request.getfixturevalue(name), TENSORFLOW).network
    assert (network.architecture, network.output_stride) == (architecture, stride)
    assert network.rates == rates
    assert network.choices.multi_grid == ((1, 2, 4) if name == "beta" else (1, 1, 1))
    assert network.choices.align_corners
    padding = "symmetric" if name == "xception" else "same"
    assert network.choices.padding == padding
    at8 = convert(request.getfixturevalue(name), TENSORFLOW, output_stride=8).network
    assert at8.rates == tuple(2 * rate for rate in rates)


def test_preprocessing(mobile, beta, xception, keras, hf):
    for state in (mobile, beta, xception):
        assert convert(state, TENSORFLOW).preprocessing == UNIT
    assert convert(keras, KERAS).preprocessing == convert(hf, HF).preprocessing == UNIT
    plain = state_of("deeplabv3plus_resnet50", padding="same")
    found = convert(plain, TENSORFLOW).preprocessing
    pixels = torch.tensor([123.15, 115.90, 104.06])
    result = (pixels / 255 - torch.tensor(found.mean)) / torch.tensor(found.std)
    torch.testing.assert_close(result, torch.tensor([0, 0, 1.0]), atol=1e-4, rtol=0)


def test_what_training_leaves_is_named(mobile):
    kernel = "MobilenetV2/Conv/weights"
    extra = {
        f"{kernel}/Momentum": "the optimiser's state",
        f"{kernel}/RMSProp_1": "the optimiser's state",
        "global_step": "the optimiser's state",
        "MobilenetV2/Conv_1/BatchNorm/gamma": "the last convolution, which is for whole",
        "MobilenetV2/Conv_1/weights/Momentum": "the optimiser's state",
        "MobilenetV2/Logits/Conv2d_1c_1x1/weights": "ImageNet's classifier",
        "resnet_v1_50/mean_rgb": "the mean colour",
    }
    assert TENSORFLOW.ignored("xception_65/logits/weights") == "ImageNet's classifier"
    del extra["resnet_v1_50/mean_rgb"]  # of another encoder, which would be refused
    assert TENSORFLOW.ignored("resnet_v1_50/mean_rgb").startswith("the mean colour")
    converted = convert(mobile | dict.fromkeys(extra, torch.ones(1)), TENSORFLOW)
    assert converted.unused.keys() == extra.keys()
    for key, reason in extra.items():
        assert converted.unused[key].startswith(reason)


def test_the_running_average_is_taken(mobile):
    key = "MobilenetV2/Conv/weights"
    average = torch.randn(mobile[key].shape)
    state = mobile | {f"{key}/ExponentialMovingAverage": average}
    converted = convert(state, TENSORFLOW)
    ours = converted.tensors["backbone.features.0.0.weight"]
    assert torch.equal(ours, average.permute(3, 2, 0, 1))
    assert list(converted.unused) == [f"{key}/ExponentialMovingAverage"]
    assert torch.equal(
        revert(converted.tensors, converted.network, TENSORFLOW)[key], average
    )


@pytest.mark.parametrize("name", ["mobile", "beta", "xception"])
def test_encoders_alone(name, request):
    """As the authors publish them, trained on ImageNet."""
    state = encoder_of(request.getfixturevalue(name))
    root = next(iter(state)).partition("/")[0]
    logits = "Logits/Conv2d_1c_1x1" if name == "mobile" else "logits"
    state = state | {f"{root}/{logits}/biases": torch.zeros(1001)}
    with pytest.raises(MismatchError, match="holds an encoder alone"):
        convert(state, TENSORFLOW)
    converted = convert(state, TENSORFLOW, classes=7, untrained_head=True)
    assert converted.network.architecture.startswith("deeplabv3plus_")
    assert converted.network.classes == 7
    assert all(not key.startswith("backbone.") for key in converted.untrained)
    assert list(converted.unused.values()) == ["ImageNet's classifier"]
    assert find_origin("auto", state) is TENSORFLOW


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"meta_architecture/branch0/weights": 1}, "got a dense prediction cell"),
        ({"MobilenetV2/Conv/weights": (3, 3, 3, 16)}, r"must be 1\.0, .* begins with 16"),
        ({"aspp1/weights": (3, 3, 320, 256)}, "must have 0 or 3 atrous branches, got 1"),
        ({"xception_65/entry_flow/conv1_1/weights": 1}, "must be in one of the scopes"),
        ({"stray/weights": 1}, r"1 left over \(stray/weights\)"),
        ({"aspp0/weights": (1, 1, 320, 200)}, r"1 of another shape \(aspp0/weights"),
        ({"aspp0/BatchNorm/gamma": None}, r"1 missing \(aspp0/BatchNorm/gamma\)"),
        ({"logits/semantic/weights": None}, "it lacks logits/semantic/weights"),
        ({"MobilenetV2/Conv/weights": None}, "it lacks MobilenetV2/Conv/weights"),
    ],
)
def test_what_is_refused(extra, message, mobile):
    with pytest.raises(MismatchError, match=message):
        convert(changed(mobile, extra), TENSORFLOW)


@pytest.mark.parametrize("root", ["MobilenetV3", "resnet_v1_18"])
def test_other_encoders_are_refused_by_name(root, mobile):
    state = {key.replace("MobilenetV2", root): value for key, value in mobile.items()}
    assert find_origin("auto", state) is TENSORFLOW
    with pytest.raises(MismatchError, match=f"got those in .*{root}"):
        convert(state, TENSORFLOW)


def test_wrong_variant(xception):
    with pytest.raises(MismatchError, match=r"missing .*left over .*another variant"):
        convert(xception, TENSORFLOW, overrides={"separable": False})
    with pytest.raises(MismatchError, match=r"has 4 classes, got classes=21"):
        convert(xception, TENSORFLOW, classes=21)


def test_variables_from_a_file(mobile, tmp_path):
    path = tmp_path / "variables.npz"
    np.savez(path, global_step=np.int64(3), **{k: v.numpy() for k, v in mobile.items()})
    state = read_checkpoint(path)
    converted = convert(state, find_origin("auto", state))
    assert converted.origin == "tensorflow"
    assert list(converted.unused) == ["global_step"]


LAYOUTS = (
    "{layer}/{layer}/{name}:0",
    "{layer}/{name}:0",
    "model_weights/{layer}/x/{layer}/{name}:0",
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classifier", ["logits_semantic", "custom_logits_semantic"])
def test_every_layout_of_keras(layout, classifier, keras, tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        for key, value in keras.items():
            layer, name = key.replace("logits_semantic", classifier).split("/")
            file[layout.format(layer=layer, name=name)] = value.numpy()
        if layout.startswith("model_weights"):
            file["optimizer_weights/Adam/iterations:0"] = 5
    state = read_checkpoint(path)
    assert find_origin("auto", state) is KERAS
    converted = convert(state, KERAS)
    back = revert(converted.tensors, converted.network, KERAS)
    assert back.keys() == keras.keys()
    assert all(torch.equal(back[key], keras[key]) for key in keras)
    assert set(converted.unused.values()) <= {"the optimiser's state"}
    assert converted.network.output_stride == 8
    assert converted.network.rates == ()


def test_keras_names_are_the_ports(keras):
    assert {
        "Conv/kernel",
        "Conv_BN/moving_variance",
        "expanded_conv_depthwise/depthwise_kernel",
        "expanded_conv_16_project_BN/beta",
        "image_pooling_BN/gamma",
        "logits_semantic/bias",
    } <= keras.keys()
    state = state_of(
        "deeplabv3plus_xception65", KERAS, separable=True, decoder_separable=True
    )
    assert {
        "entry_flow_conv1_1/kernel",
        "entry_flow_block3_shortcut_BN/gamma",
        "middle_flow_unit_16_separable_conv3_pointwise/kernel",
        "middle_flow_unit_1_separable_conv1_depthwise_BN/moving_mean",
        "exit_flow_block2_separable_conv3_depthwise/depthwise_kernel",
        "aspp3_pointwise_BN/beta",
        "feature_projection0/kernel",
        "decoder_conv1_depthwise/depthwise_kernel",
    } <= state.keys()
    own = convert(state, KERAS).network
    assert (own.architecture, own.output_stride) == ("deeplabv3plus_xception65", 16)
    authors = convert(state, KERAS, overrides={"padding": "symmetric"}).network
    assert (own.choices.padding, authors.choices.padding) == ("same", "symmetric")


def test_keras_pads_the_first_convolution_of_xception_otherwise():
    """On even sizes below and right alone, where the authors pad on every side."""
    layers = []
    for padding in ("same", "symmetric"):
        variant = Variant(low_level="unit", dilation="tf", padding=padding)
        name = "deeplabv3_xception41"
        network = Network(architecture=name, classes=1, variant=variant)
        layers.append(build_network(network).backbone.stem[0].conv)
    same, symmetric = layers
    same.load_state_dict(symmetric.state_dict())
    even, odd = torch.rand(1, 3, 8, 10), torch.rand(1, 3, 9, 11)
    assert torch.equal(same(odd), symmetric(odd))
    padded = nn.functional.pad(even, (0, 1, 0, 1))
    expected = nn.functional.conv2d(padded, same.weight, stride=2)
    assert torch.equal(same(even), expected)
    assert not torch.allclose(symmetric(even), expected)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"model/Conv/kernel:0": (3, 3, 3, 32)},
            "in the file once, got 273 tensors of 272",
        ),
        ({"Conv/kernel": (3, 3, 3, 16)}, "begins with 16"),
        ({"Conv/kernel": None}, "got neither; the file is cut short"),
        ({"Conv_BN/gamma": None}, r"1 missing \(Conv_BN/gamma\)"),
        ({"aspp1/kernel": (1,)}, r"1 left over \(aspp1/kernel\)"),
        ({"aspp0/kernel": (1, 1, 320, 200)}, r"1 of another shape \(aspp0/kernel"),
    ],
)
def test_what_keras_is_refused(extra, message, keras):
    with pytest.raises(MismatchError, match=message):
        convert(changed(keras, extra), KERAS)


def test_the_whole_file_of_transformers(hf):
    """332 entries, six of them of a convolution that segmentation does not use."""
    last = "mobilenet_v2.conv_1x1"
    unused = [f"{last}.convolution.weight"] + [
        f"{last}.normalization.{name}"
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    state = hf | dict.fromkeys(unused, torch.ones(1))
    assert len(state) == 332
    converted = convert(state, find_origin("auto", state))
    assert converted.origin == "hf"
    assert sorted(converted.unused) == sorted(unused)
    assert converted.network.output_stride == 8
    assert not converted.network.choices.align_corners


@pytest.mark.parametrize("prefix", ["", "mobilenet_v2."])
def test_encoders_of_transformers(prefix, hf):
    state = {
        prefix + key.removeprefix("mobilenet_v2."): value
        for key, value in hf.items()
        if key.startswith("mobilenet_v2.")
    }
    assert find_origin("auto", state) is HF
    converted = convert(state, HF, classes=3, untrained_head=True)
    assert converted.network.classes == 3
    with pytest.raises(MismatchError, match="holds an encoder alone"):
        convert(state, HF)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mobilenet_v2.conv_stem.first_conv.convolution.weight", (24, 3, 3, 3), "with 24"),
        ("segmentation_head.conv_aspp.normalization.bias", None, r"1 missing \(segm"),
        ("segmentation_head.other.weight", (1,), r"1 left over \(segm"),
        ("segmentation_head.conv_pool.convolution.weight", (256, 9, 1, 1), "another shape"),
    ],
)
def test_what_transformers_is_refused(key, value, message, hf):
    with pytest.raises(MismatchError, match=message):
        convert(changed(hf, {key: value}), HF)
