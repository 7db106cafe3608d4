"""Fixtures shared by the tests of other projects' checkpoints."""

import pytest
import torch
from torch import nn

from deeplab.foreign.convert import convert
from deeplab.model import build_network


def _randomise(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.2, generator=generator)
        elif isinstance(module, nn.Conv2d):
            if module.bias is not None:
                module.bias.data.normal_(0, 0.2, generator=generator)
            # As kaiming_normal_ draws: what a peer starts with may be far from it.
            spread = (2 / (module.weight[0].numel())) ** 0.5
            module.weight.data.normal_(0, spread, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def randomise():
    """Draw weights and statistics anew: one at 0 or 1 would hide a mix-up."""
    return _randomise


@pytest.fixture(scope="session")
def image():
    """Random images of a size."""

    def make(size, bands=3):
        return torch.randn(1, bands, *size, generator=torch.Generator().manual_seed(7))

    return make


@pytest.fixture(scope="session")
def relative_error():
    """Greatest difference by the greatest value."""
    return lambda ours, theirs: ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(scope="session")
def rebuild():
    """Convert a state dict, and build the network that it belongs to."""

    def build(state, origin, **options):
        converted = convert(state, origin, **options)
        model = build_network(converted.network)
        model.load_state_dict(converted.tensors)
        return model.eval()

    return build
