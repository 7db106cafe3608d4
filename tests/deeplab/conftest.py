"""Fixtures shared by the tests of deeplab, and what they import from each other."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch import nn

from deeplab.bundle import Bundle, ClassInfo

_SPEC = spec_from_file_location("slow_twins", Path(__file__).with_name("slow_twins.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
sys.modules["slow_twins"] = module_from_spec(_SPEC)
_SPEC.loader.exec_module(sys.modules["slow_twins"])


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The last bits of a result may depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def make_bundle():
    """Build a header; fields not given describe four classes of RGB."""

    def make(**fields):
        count = fields.pop("count", 4)
        bands = fields.pop("bands", ("red", "green", "blue"))
        given = {
            "architecture": "linear",
            "classes": tuple(
                ClassInfo(name=f"class {i}", color=(i, 2 * i % 256, 255 - i))
                for i in range(count)
            ),
            "bands": bands,
            "mean": (0.45,) * len(bands),
            "std": (0.25,) * len(bands),
            "tile": 16,
            "overlap": 4,
        }
        return Bundle(**(given | fields))

    return make


def _randomise(model, seed=0, *, kernels=True):
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
            if kernels:  # a peer may start with some far too small to show
                spread = (2 / module.weight[0].numel()) ** 0.5
                module.weight.data.normal_(0, spread, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def randomise():
    """Draw weights and statistics anew: one at 0 or 1 would hide a mix-up."""
    return _randomise


@pytest.fixture(scope="session")
def relative_error():
    """Greatest difference by the greatest value."""
    return lambda ours, theirs: ((ours - theirs).abs().max() / theirs.abs().max()).item()
