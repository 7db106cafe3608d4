"""Fixtures for the tests that need a CUDA device: ``pytest -m gpu tests/gpu``."""

import importlib.util

import numpy as np
import pytest
import torch

import deeplab
from deeplab.bundle import Bundle, ClassInfo

CLASSES = 5
MEAN, STD = 0.45, 0.25


@pytest.fixture(scope="session")
def device():
    """The device under test; the reason to skip where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return "cuda"


@pytest.fixture(scope="session")
def need_packages():
    """Skip unless modules are installed, and name those that are not."""

    def need(*modules):
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        if absent:
            pytest.skip(f"not installed: {', '.join(absent)}")

    return need


@pytest.fixture(scope="session")
def make_picture():
    """Smooth colours with noise and some holes: pixels and validity."""

    def make(height, width, *, seed=0):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (3, -(-height // 9), -(-width // 9)))
        smooth = np.kron(coarse, np.ones((1, 9, 9)))[:, :height, :width]
        noisy = smooth + rng.normal(0, 20, smooth.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8), rng.random((height, width)) > 0.05

    return make


@pytest.fixture(scope="session")
def make_header():
    """A bundle's header for an architecture."""

    def make(architecture, *, tile=64, overlap=16):
        return Bundle(
            architecture=architecture,
            classes=tuple(
                ClassInfo(name=f"class {i}", color=(i, 2 * i, 3 * i))
                for i in range(CLASSES)
            ),
            bands=("red", "green", "blue"),
            mean=(MEAN,) * 3,
            std=(STD,) * 3,
            tile=tile,
            overlap=overlap,
        )

    return make


@pytest.fixture(scope="session")
def make_network(make_picture):
    """Networks of random weights that give every class some pixels."""

    def make(architecture):
        torch.manual_seed(3)
        model = deeplab.build(architecture, classes=CLASSES)
        if architecture == "linear":
            return model.eval()
        pictures = [make_picture(64, 64, seed=seed) for seed in range(8)]
        seen = [(pixels / 255 - MEAN) / STD * valid for pixels, valid in pictures]
        x = torch.tensor(np.stack(seen), dtype=torch.float32)
        with torch.no_grad():
            for _ in range(20):
                model(x)
            # Away from the border, whose own classes hardly reach a blended mask.
            logits = model.eval()(x)[..., 16:48, 16:48].transpose(0, 1).flatten(1)
            scale = 3 / logits.std(1)
            bias = -scale * logits.mean(1)
            for _ in range(20):
                ids = (logits * scale[:, None] + bias[:, None]).argmax(0)
                share = torch.bincount(ids, minlength=CLASSES) / ids.numel()
                bias -= (CLASSES * share + 0.01).log()
            model.classifier.weight.mul_(scale[:, None, None, None])
            model.classifier.bias.copy_(bias)
        return model

    return make
