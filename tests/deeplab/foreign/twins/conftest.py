"""Projects that cannot be installed, each written again as one function of its keys.

A twin is a forward pass that reads its tensors out of a state dict by the project's
own names and draws each of them when it is first asked for. So the pass is both the
generator of state dicts and the slow way to the logits, and knows neither our network
nor our tables of names. Rates, order, padding and resizing are written out as each
project's configurations have them.
"""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F

from deeplab.foreign.convert import convert, revert
from deeplab.foreign.origin import IMAGENET, MismatchError
from deeplab.foreign.origins import ORIGINS, find_origin
from deeplab.model import build_network

CLASSES = 5
COUNTER = ".num_batches_tracked"
TORCH = ("conv{}", "bn{}", "downsample.0", "downsample.1")


class Twin:
    """The state dict of a project's network, which grows as its layers are met."""

    def __init__(self):
        self.state = {}
        self._generator = torch.Generator().manual_seed(11)

    def conv(self, x, name, width, kernel=1, **options):
        bias = self._draw(f"{name}.bias", (width,)) if options.pop("bias", False) else None
        shape = (width, x.shape[1] // options.get("groups", 1), kernel, kernel)
        reach = options.get("dilation", 1) * (kernel // 2)
        options.setdefault("padding", reach)
        # As kaiming_normal_ draws.
        spread = (2 / (shape[1] * kernel**2)) ** 0.5
        return F.conv2d(x, self._draw(f"{name}.weight", shape, spread), bias, **options)

    def norm(self, x, name):
        width = (x.shape[1],)
        weight, bias = (self._draw(f"{name}.{key}", width) for key in ("weight", "bias"))
        mean, variance = (
            self._draw(f"{name}.running_{key}", width) for key in ("mean", "var")
        )
        self.state.setdefault(f"{name}{COUNTER}", torch.tensor(7))
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    def layer(self, x, conv, norm, width, kernel=1, *, act=F.relu, **options):
        """Convolution, normalisation, activation."""
        return act(self.norm(self.conv(x, conv, width, kernel, **options), norm))

    def _draw(self, key, shape, spread=0.2):
        if key not in self.state:
            tensor = torch.empty(shape)
            is_factor = key.endswith("running_var") or (
                key.endswith("weight") and len(shape) == 1
            )
            if is_factor:
                tensor.uniform_(0.5, 1.5, generator=self._generator)
            else:
                tensor.normal_(0, spread, generator=self._generator)
            self.state[key] = tensor
        assert self.state[key].shape == shape, key
        return self.state[key]

    def resize(self, x, size, *, align):
        """Bilinear resizing as all of them call it."""
        return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align)

    def stage(self, x, name, width, rates, *, stride=1, names=TORCH):
        """One stage of a ResNet-50 or -101, with a rate for each of its blocks."""
        for index, rate in enumerate(rates):
            conv, norm, *shortcut = (f"{name}.{index}.{key}" for key in names)
            keys = [(conv.format(i), norm.format(i)) for i in (1, 2, 3)]
            step = stride if index == 0 else 1
            y = self.layer(x, *keys[0], width)
            y = self.layer(y, *keys[1], width, 3, stride=step, dilation=rate)
            y = self.layer(y, *keys[2], 4 * width, act=same)
            x = F.relu(self.shortcut(x, shortcut, 4 * width, step) + y)
        return x

    def basic_stage(self, x, name, width, rates, *, stride=1):
        """One stage of a ResNet-18, whose blocks' first convolutions have the rates."""
        for index, rate in enumerate(rates):
            conv, norm, *shortcut = (f"{name}.{index}.{key}" for key in TORCH)
            keys = [(conv.format(i), norm.format(i)) for i in (1, 2)]
            step = stride if index == 0 else 1
            y = self.layer(x, *keys[0], width, 3, stride=step, dilation=rate)
            y = self.layer(y, *keys[1], width, 3, act=same)
            x = F.relu(self.shortcut(x, shortcut, width, step) + y)
        return x

    def shortcut(self, x, keys, width, stride):
        if stride == 1 and x.shape[1] == width:
            return x
        return self.layer(x, *keys, width, stride=stride, act=same)

    def units(self, x, rows, keys):
        """MobileNetV2's units as two of the projects have them: input padded first.

        ``keys`` gives a unit's pairs of convolution and normalisation.
        """
        for number, (expansion, width, stride, rate) in rows.items():
            *expand, spread, project = keys(number)
            y, wide = F.pad(x, [rate] * 4), expansion * x.shape[1]
            for pair in expand:
                y = self.layer(y, *pair, wide, act=F.relu6)
            options = {"stride": stride, "dilation": rate, "groups": wide, "padding": 0}
            y = self.layer(y, *spread, wide, 3, act=F.relu6, **options)
            y = self.layer(y, *project, width, act=same)
            x = x + y if stride == 1 and x.shape[1] == width else y
        return x


def same(x):
    return x


@pytest.fixture(scope="session")
def grow():
    """A twin whose state dict is complete, with what else its pass is to be told."""

    def make(forward, **choices):
        twin = Twin()
        twin.forward = lambda x: forward(twin, x, **choices)
        with torch.inference_mode():
            twin.forward(torch.zeros(1, 3, 33, 33))
        return twin

    return make


@pytest.fixture
def check_logits(rebuild, image, relative_error):
    """The twin's logits are ours, and are not under one wrong choice each."""

    def check(twin, origin, size, *, wrong, dtype=torch.float32, **told):
        """``told`` is what a user says; ``wrong`` are choices made otherwise."""
        x, model = image(size).to(dtype), rebuild(twin.state, origin, **told).to(dtype)
        with torch.inference_mode():
            theirs, ours = twin.forward(x), model(x)
            found = dict(_head_mistakes(model, model.backbone(x), x))
            for name, fields in wrong.items():
                found[name] = _with_variant(model, fields)(x)
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) <= 1e-5
        assert (ours.argmax(1) == theirs.argmax(1)).float().mean().item() >= 0.9999
        errors = {name: relative_error(logits, theirs) for name, logits in found.items()}
        assert min(errors.values()) > 1e-2, errors
        return model, x

    return check


def _with_variant(model, fields):
    """The same weights in a network of other choices."""
    variant = dataclasses.replace(model.network.choices, **fields)
    with torch.device("meta"):
        other = build_network(dataclasses.replace(model.network, variant=variant))
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


def _head_mistakes(model, features, x):
    """Logits of the head with one thing wrong in it, which is put right again."""

    def logits():
        return model.enlarge(model._decode(*features), x)

    project = model.aspp.project.conv
    yield "pool order", _with_rolled(project, 1, model.network.choices.channels, logits)
    if model.decoder is not None:
        first = model.decoder.fuse[0]
        layer, axis = (first.conv, 1) if hasattr(first, "conv") else (first.depthwise, 0)
        kept = model.network.choices.low_level_channels
        yield "low-level order", _with_rolled(layer, axis, kept, logits)
    if rates := model.aspp.rates:
        model.aspp.set_rates([rate // 2 for rate in rates])
        yield "rates", logits()
        model.aspp.set_rates(rates)
    parts = [part for part in (model, model.decoder) if part is not None]
    for part in parts:
        part.align_corners = not part.align_corners
    yield "align_corners", logits()
    for part in parts:
        part.align_corners = not part.align_corners


def _with_rolled(layer, axis, shift, logits):
    right = layer.weight.data
    layer.weight.data = right.roll(-shift, axis)
    wrong = logits()
    layer.weight.data = right
    return wrong


@pytest.fixture
def check_round_trip():
    """The origin alone knows the state; each key maps once, and comes back the same."""

    def check(state, origin, *, aliases=0):
        knowing = [name for name, other in ORIGINS.items() if other.recognises(state)]
        assert knowing == [origin.name]
        assert find_origin("auto", state) is origin
        converted = convert(state, origin, classes=CLASSES)
        ours = build_network(converted.network).state_dict()
        assert converted.tensors.keys() == ours.keys()
        assert len(state) == len(ours) + aliases
        assert len(converted.unused) == aliases
        assert not converted.untrained
        assert converted.preprocessing == IMAGENET
        back = revert(converted.tensors, converted.network, origin)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], state[key]) for key in state)
        return converted

    return check


@pytest.fixture
def check_errors():
    """What is wrong with a state is said."""

    def check(state, origin):
        first = next(key for key in state if key.endswith("running_mean"))
        cut = {key: tensor for key, tensor in state.items() if key != first}
        stray = state | {"stray.weight": torch.zeros(1)}
        flat = state | {first: torch.zeros(3)}
        separable = not convert(state, origin).network.choices.separable
        cases = [
            (cut, {}, rf"tensors 1 missing \({re.escape(first)}\); the file is cut short"),
            (stray, {}, r"1 left over \(stray\.weight\); take them out of the file"),
            (flat, {}, rf"1 of another shape \({re.escape(first)} \(3,\) for our backbone"),
            (state, {"classes": 6}, rf"has {CLASSES} classes, got classes=6"),
            (
                state,
                {"overrides": {"separable": separable}},
                r"\d+ missing .*\d+ left over .*the file is another variant",
            ),
        ]
        for given, options, message in cases:
            with pytest.raises(MismatchError, match=message):
                convert(given, origin, **options)

    return check
