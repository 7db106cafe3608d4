"""The authors' networks, and the two projects that hold their weights under other names.

The graph is written once, from arXiv:1802.02611 and the authors' code, in TensorFlow's
own terms: SAME padding spelled out, batch normalisation and resizing by formula, and
each unit's stride and rate from the table of their networks.
"""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F

from deeplab.foreign.convert import convert, revert
from deeplab.foreign.hf import HF
from deeplab.foreign.origins import ORIGINS, find_origin
from deeplab.model import build_network

CLASSES = 5


@dataclasses.dataclass
class Graph:
    """A network of the authors'; its variables are drawn when they are first met."""

    encoder: str
    origin: str = "tensorflow"
    has_decoder: bool = True
    branches: int = 3
    is_separable: bool = True
    has_pool: bool = True
    is_beta: bool = True
    stride: int = 16
    state: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self._random = torch.Generator().manual_seed(11)
        self.is_mobile = self.encoder == "MobilenetV2"
        with torch.inference_mode():
            self.forward(torch.zeros(1, 3, 17, 17))

    def forward(self, image):
        self.dtype = image.dtype
        if self.is_mobile:
            low, x = self.mobilenet(image)
        else:
            low, x = (self.xception if "xc" in self.encoder else self.resnet)(image)
        self.eps = 1e-5
        x = self.pyramid(x)
        if self.has_decoder:
            low = self.layer(low, "decoder/feature_projection0", 48)
            x = torch.cat([resize(x, low.shape[2:]), low], 1)
            for i in range(2):
                scope = f"decoder/decoder_conv{i}"
                if not self.is_separable:
                    scope = f"decoder/decoder_conv0/decoder_conv0_{i + 1}"
                x = self.spread(x, scope, 256)
        kernel = self.draw("logits/semantic/weights", (1, 1, 256, CLASSES), 0.1)
        bias = self.draw("logits/semantic/biases", (CLASSES,), 0.2)
        x = torch.einsum("nihw,io->nohw", x, kernel[0, 0]) + bias[:, None, None]
        return resize(x, image.shape[2:], align=self.origin != "hf")

    def pyramid(self, x):
        views = []
        if self.has_pool:
            mean = x.mean((2, 3), keepdim=True)
            view = self.layer(mean, "image_pooling", 256)
            views.append(view.expand(-1, -1, *x.shape[2:]))
        views.append(self.layer(x, "aspp0", 256))
        for i in range(self.branches):
            rate = 6 * (i + 1) * 16 // self.stride
            views.append(self.spread(x, f"aspp{i + 1}", 256, rate=rate))
        return self.layer(torch.cat(views, 1), "concat_projection", 256)

    def spread(self, x, scope, width, rate=1):
        if self.is_separable:
            return self.separable(x, scope, width, rate=rate)
        return self.layer(x, scope, width, 3, rate=rate)

    def separable(self, x, scope, width, *, act=F.relu, **options):
        x = self.layer(x, f"{scope}_depthwise", None, 3, act=act, **options)
        return self.layer(x, f"{scope}_pointwise", width, act=act)

    def xception(self, x):
        self.eps = 1e-3
        root, entry = self.encoder, (128, 256, 728)
        x = self.layer(x, f"{root}/entry_flow/conv1_1", 32, 3, stride=2)
        x = self.layer(x, f"{root}/entry_flow/conv1_2", 64, 3)
        if root == "xception_71":
            entry = (128, 256, 256, 728, 728)
        strides = (2, 1, 2, 1, 2) if len(entry) == 5 else (2, 2, 2)
        low, widen, middle = None, 16 // self.stride, 8 if root == "xception_41" else 16
        for i, (width, stride) in enumerate(zip(entry, strides, strict=True), start=1):
            scope = f"{root}/entry_flow/block{i}/unit_1/xception_module"
            step = 1 if i == len(entry) and self.stride == 8 else stride
            tap, x = self.block(x, scope, [width] * 3, stride=step, skip="conv")
            low = tap if width == 256 else low
        for i in range(middle):
            scope = f"{root}/middle_flow/block1/unit_{i + 1}/xception_module"
            x = self.block(x, scope, [728] * 3, rate=widen, skip="sum")[1]
        scope = f"{root}/exit_flow/block{{}}/unit_1/xception_module"
        widths = (728, 1024, 1024), (1536, 1536, 2048)
        x = self.block(x, scope.format(1), widths[0], rate=widen, skip="conv")[1]
        return low, self.block(x, scope.format(2), widths[1], rate=2 * widen, skip="no")[1]

    def block(self, x, scope, widths, *, skip, stride=1, rate=1):
        y, inner = x, []
        for i, width in enumerate(widths):
            act = F.relu if skip == "no" else plain
            y = y if skip == "no" else F.relu(y)
            options = {"stride": stride if i == 2 else 1, "rate": rate, "act": act}
            y = self.separable(y, f"{scope}/separable_conv{i + 1}", width, **options)
            inner.append(y)
        if skip == "conv":
            x = self.layer(x, f"{scope}/shortcut", widths[2], stride=stride, act=plain)
        return inner[1], y if skip == "no" else x + y

    def resnet(self, x):
        self.eps = 1e-5
        root = self.encoder
        if self.is_beta:
            for i, width in enumerate((64, 64, 128), start=1):
                x = self.layer(x, f"{root}/conv1_{i}", width, 3, stride=1 + (i == 1))
        else:
            x = self.layer(x, f"{root}/conv1", 64, 7, stride=2)
        x = F.max_pool2d(same(x, 3, 2), 3, 2)
        low, widen = None, 16 // self.stride
        for number, count in enumerate((3, 4, 23 if "101" in root else 6, 3), start=1):
            rates = [widen if number == 3 else 1] * count
            if number == 4:
                rates = [2 * widen * r for r in ((1, 2, 4) if self.is_beta else (1, 1, 1))]
            last = 2 if number == 1 or (number == 2 and self.stride == 16) else 1
            for i, rate in enumerate(rates):
                scope = f"{root}/block{number}/unit_{i + 1}/bottleneck_v1"
                width, step = 2**number * 32, last if i == count - 1 else 1
                y = self.layer(x, f"{scope}/conv1", width)
                y = self.layer(y, f"{scope}/conv2", width, 3, stride=step, rate=rate)
                y = self.layer(y, f"{scope}/conv3", 4 * width, act=plain)
                low = y if (number, i) == (1, 1) else low
                if i == 0:
                    x = self.layer(x, f"{scope}/shortcut", 4 * width, act=plain)
                x = F.relu(x[:, :, ::step, ::step] + y)
        return low, x

    def mobilenet(self, x):
        self.eps = 1e-3
        x = self.layer(x, "MobilenetV2/Conv", 32, 3, stride=2, act=F.relu6)
        low = None
        widths = [16, 24, 24, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
        rates = dict.fromkeys((14, 15, 16), 2)
        if self.stride == 8:
            rates = dict.fromkeys(range(7, 14), 2) | dict.fromkeys((14, 15, 16), 4)
        for i, width in enumerate(widths):
            scope = f"MobilenetV2/expanded_conv{f'_{i}' if i else ''}"
            step = 2 if i in (1, 3) or (i == 6 and self.stride == 16) else 1
            y = x
            if i:
                y = self.layer(y, f"{scope}/expand", 6 * x.shape[1], act=F.relu6)
            options = {"stride": step, "rate": rates.get(i, 1), "act": F.relu6}
            y = self.layer(y, f"{scope}/depthwise", None, 3, **options)
            low = y if i == 2 else low
            y = self.layer(y, f"{scope}/project", width, act=plain)
            x = x + y if x.shape == y.shape and i not in (6, 13) else y
        return low, x

    def layer(self, x, scope, width, kernel=1, *, act=F.relu, **options):
        """Convolution, normalisation, activation; without width, each channel alone."""
        stride, rate = options.get("stride", 1), options.get("rate", 1)
        channels = x.shape[1]
        shape = (kernel, kernel, channels, width or 1)
        spread = (2 / (kernel**2 * (channels if width else 1))) ** 0.5
        name = "weights" if width else "depthwise_weights"
        kernels = self.draw(f"{scope}/{name}", shape, spread)
        order = (3, 2, 0, 1) if width else (2, 3, 0, 1)
        is_shifted = (
            self.is_mobile
            or stride == 1
            or (self.origin == "keras" and scope.endswith("conv1_1"))
        )
        reach = rate * (kernel - 1) + 1
        x = same(x, reach, stride) if is_shifted else F.pad(x, [(reach - 1) // 2] * 4)
        groups = 1 if width else channels
        x = F.conv2d(x, kernels.permute(order), stride=stride, dilation=rate, groups=groups)
        gamma, beta, mean, variance = (
            self.draw(f"{scope}/BatchNorm/{name}", (width or channels,), 0.2)[:, None, None]
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return act((x - mean) / (variance + self.eps).sqrt() * gamma + beta)

    def draw(self, name, shape, spread):
        key = {"keras": keras_name, "hf": hf_name}.get(self.origin, plain)(name)
        order = (3, 2, 0, 1) if self.origin == "hf" and len(shape) == 4 else None
        if order and "depthwise" in name:
            order = (2, 3, 0, 1)
        if key not in self.state:
            value = torch.empty(shape)
            if name.endswith(("gamma", "variance")):
                value.uniform_(0.5, 1.5, generator=self._random)
            else:
                value.normal_(0, spread, generator=self._random)
            self.state[key] = value.permute(order).contiguous() if order else value
            if self.origin == "hf" and key.endswith("running_var"):
                counter = key.replace("running_var", "num_batches_tracked")
                self.state[counter] = torch.tensor(7)
        back = {(3, 2, 0, 1): (2, 3, 1, 0), (2, 3, 0, 1): (2, 3, 0, 1), None: None}[order]
        value = self.state[key].permute(back) if back else self.state[key]
        assert value.shape == shape, key
        return value.to(self.dtype)


def plain(x):
    return x


def same(x, reach, stride):
    """TensorFlow's SAME: what is missing of whole steps, the odd one below and right."""
    pad = []
    for size in (x.shape[3], x.shape[2]):
        missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
        pad += [missing // 2, missing - missing // 2]
    return F.pad(x, pad)


def resize(x, size, *, align=True):
    """Bilinear, as a product with the weights of each row and each column."""
    if not align:  # transformers' own post-processing
        return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
    weights = []
    for old, new in zip(x.shape[2:], size, strict=True):
        places = torch.linspace(0, old - 1, new, dtype=x.dtype)[:, None]
        weights.append((1 - (places - torch.arange(old)).abs()).clamp(0))
    return weights[0] @ x @ weights[1].T


def keras_name(name):
    """bonlime's rule for the layer, and the layout of Keras' files."""
    scope, _, variable = name.rpartition("/")
    layer = scope.replace("/", "_").replace("xception_65_", "").replace("MobilenetV2_", "")
    layer = layer.replace("decoder_", "", 1).replace("BatchNorm", "BN")
    if "middle_flow" in layer:
        layer = layer.replace("_block1", "").replace("_xception_module", "")
    layer = layer.replace("_unit_1_xception_module", "")
    variable = variable.replace("weights", "kernel").replace("biases", "bias")
    return f"{layer}/{layer}/{variable}:0"


def hf_name(name):
    scope, _, variable = name.rpartition("/")
    layer = scope.removesuffix("/BatchNorm")
    step = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
    if layer == "MobilenetV2/Conv":
        module = "mobilenet_v2.conv_stem.first_conv"
    elif match := re.fullmatch(r"MobilenetV2/expanded_conv_(\d+)/(\w+)", layer):
        module = f"mobilenet_v2.layer.{int(match[1]) - 1}.{step[match[2]]}"
    elif layer.startswith("MobilenetV2"):
        module = f"mobilenet_v2.conv_stem.{step[layer.split('/')[-1]]}"
    else:
        heads = {
            "image_pooling": "conv_pool",
            "aspp0": "conv_aspp",
            "concat_projection": "conv_projection",
            "logits/semantic": "classifier",
        }
        module = f"segmentation_head.{heads[layer]}"
    kinds = {
        "gamma": "normalization.weight",
        "beta": "normalization.bias",
        "moving_mean": "normalization.running_mean",
        "moving_variance": "normalization.running_var",
        "biases": "convolution.bias",
    }
    return f"{module}.{kinds.get(variable, 'convolution.weight')}"


MOBILE = {"encoder": "MobilenetV2", "has_decoder": False, "branches": 0}
GRAPHS = {
    "tf-mobilenet": MOBILE,
    "tf-mobilenet-8": MOBILE | {"stride": 8},
    "tf-mobilenet-plus": {"encoder": "MobilenetV2"},
    "tf-mobilenet-decoder": MOBILE | {"has_decoder": True},
    "tf-mobilenet-dense": {"encoder": "MobilenetV2", "is_separable": False},
    "tf-xception41": {"encoder": "xception_41"},
    "tf-xception65": {"encoder": "xception_65"},
    "tf-xception65-8": {"encoder": "xception_65", "stride": 8},
    "tf-xception65-v3": {"encoder": "xception_65", "has_decoder": False},
    "tf-xception71": {"encoder": "xception_71", "has_pool": False},
    "tf-xception71-8": {"encoder": "xception_71", "stride": 8},
    "tf-resnet50-beta": {"encoder": "resnet_v1_50"},
    "tf-resnet50-beta-8": {"encoder": "resnet_v1_50", "stride": 8},
    "tf-resnet50": {"encoder": "resnet_v1_50", "is_beta": False, "is_separable": False},
    "tf-resnet101-beta": {"encoder": "resnet_v1_101", "is_separable": False},
    "keras-mobilenet": MOBILE | {"origin": "keras", "stride": 8},
    "keras-xception65": {"encoder": "xception_65", "origin": "keras"},
    "keras-xception65-8": {"encoder": "xception_65", "origin": "keras", "stride": 8},
    "hf-mobilenet": MOBILE | {"origin": "hf", "stride": 8},
}
SIZES = ((337, 305), (321, 321), (320, 336))
QUICK = {
    "tf-mobilenet": (320, 336),  # where the sides that are padded show
    "tf-mobilenet-plus": (337, 305),
    "tf-xception41": (337, 305),
    "tf-resnet50-beta": (337, 305),
    "keras-mobilenet": (337, 305),
    "hf-mobilenet": (337, 305),
}


def cases():
    for name in GRAPHS:
        for size in SIZES:
            marks = () if QUICK.get(name) == size else pytest.mark.parity
            label = f"{name}-{size[0]}x{size[1]}"
            yield pytest.param(name, size, marks=marks, id=label)


def wrong_choices(graph, size):
    """Choices that no right result can survive."""
    wrong = {"dilation": {"dilation": "all"}}
    if "resnet" in graph.encoder:
        wrong = {"dilation": {"dilation": "torchvision", "low_level": "stage"}}
        if graph.is_beta:
            wrong["multi-grid"] = {"multi_grid": (1, 1, 1)}
    # On odd sizes both paddings are the same.
    if size[0] % 2 == 0 and "xc" not in graph.encoder:
        wrong["padding"] = {"padding": "symmetric"}
    if size[0] % 2 == 0 and graph.origin == "keras":
        wrong["padding"] = {"padding": "symmetric"}
    return wrong


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "size"), list(cases()))
def test_logits(name, size, check_logits):
    graph = Graph(**GRAPHS[name])
    wrong, origin = wrong_choices(graph, size), ORIGINS[graph.origin]
    # MobileNet with statistics at random magnifies rounding, to 7e-5 in float32 and
    # 2e-13 in float64.
    dtype = torch.float64 if graph.is_mobile else torch.float32
    options = {"dtype": dtype, "output_stride": graph.stride}
    check_logits(graph, origin, size, wrong=wrong, **options)


COUNTS = {  # encoder and head; of five per normalised convolution, two of the classifier
    "tf-mobilenet": (255, 17),
    "tf-mobilenet-plus": (255, 17 + 30 + 5 + 20),
    "tf-mobilenet-decoder": (255, 17 + 5 + 20),
    "tf-mobilenet-dense": (255, 17 + 15 + 5 + 10),
    "tf-xception41": (420, 72),
    "tf-xception65": (660, 72),
    "tf-xception65-v3": (660, 72 - 25),
    "tf-xception71": (730, 72 - 5),
    "tf-resnet50-beta": (275, 72),
    "tf-resnet50": (265, 72 - 25),
    "tf-resnet101-beta": (530, 72 - 25),
    "keras-mobilenet": (255, 17),
    "keras-xception65": (660, 72),
    "hf-mobilenet": (312 - 6, 20),
}


@pytest.mark.parametrize("name", COUNTS)
def test_each_variable_maps_once_and_comes_back(name):
    graph = Graph(**GRAPHS[name])
    state, origin = graph.state, ORIGINS[graph.origin]
    assert len(state) == sum(COUNTS[name])
    assert [key for key, one in ORIGINS.items() if one.recognises(state)] == [origin.name]
    assert find_origin("auto", state) is origin
    converted = convert(state, origin, classes=CLASSES)
    ours = build_network(converted.network).state_dict()
    assert converted.tensors.keys() == ours.keys()
    assert converted.unused == {}
    assert converted.untrained == ()
    if origin is not HF:
        ours = [key for key in ours if not key.endswith("num_batches_tracked")]
    assert len(ours) == len(state)
    back = revert(converted.tensors, converted.network, origin)
    expected = origin.normalise(state)
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[key], expected[key]) for key in expected)
