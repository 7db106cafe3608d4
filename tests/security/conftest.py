"""Fixtures shared by the tests of security: a small bundle, images and rasters."""

from __future__ import annotations

import io

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from jobs.cli import _main


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle of a linear network with small tiles."""
    import torch

    import deeplab
    from deeplab.bundle import Bundle, ClassInfo
    from deeplab.weights import save_bundle

    torch.manual_seed(5)
    header = Bundle(
        architecture="linear",
        classes=tuple(ClassInfo(name=name, color=(9, 9, 9)) for name in "abcd"),
        bands=("red", "green", "blue"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        tile=32,
        overlap=8,
    )
    path = tmp_path_factory.mktemp("bundle") / "linear.safetensors"
    model = deeplab.build("linear", classes=4).eval()
    save_bundle(path, model, header, dtype=torch.float32)
    return path


@pytest.fixture(scope="session")
def png():
    """An image."""
    pixels = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def tif():
    """A raster of one block, 40 x 48 px."""
    return make_tif(48)


@pytest.fixture(scope="session")
def wide_tif():
    """A raster of two blocks of 512 px, 40 x 600 px."""
    return make_tif(600)


def make_tif(width):
    pixels = np.random.default_rng(2).integers(1, 256, (3, 40, width), dtype=np.uint8)
    layout = {"count": 3, "height": 40, "width": width, "dtype": "uint8"}
    grid = {"crs": "EPSG:32633", "transform": from_origin(390_000, 5_820_000, 0.5, 0.5)}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **layout, **grid) as target:
            target.write(pixels)
        return memory.read()


@pytest.fixture
def command(capsys):
    """Run a command in this process: its exit code, and all that it printed."""

    def call(*words):
        capsys.readouterr()
        code = _main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
