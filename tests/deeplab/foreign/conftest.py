"""Fixtures shared by the tests of other projects' checkpoints."""

import pytest
import torch

from deeplab.foreign.convert import convert
from deeplab.model import build_network


@pytest.fixture(scope="session")
def image():
    """Random images of a size."""

    def make(size, bands=3):
        return torch.randn(1, bands, *size, generator=torch.Generator().manual_seed(7))

    return make


@pytest.fixture(scope="session")
def rebuild():
    """Convert a state dict, and build the network that it belongs to."""

    def build(state, origin, **options):
        converted = convert(state, origin, **options)
        model = build_network(converted.network)
        model.load_state_dict(converted.tensors)
        return model.eval()

    return build
