"""Input made in code: networks of random weights, images and one raster."""

import numpy as np
import torch

import deeplab
from deeplab.bundle import Bundle, ClassInfo
from deeplab.weights import save_bundle

MEAN, STD = (0.45,) * 3, (0.25,) * 3
PIXEL_M = 0.3


def make_bundle(architecture, *, classes, tile, overlap):
    """A header for RGB."""
    infos = [ClassInfo(name=f"class {i}", color=(i, 2 * i, 3 * i)) for i in range(classes)]
    return Bundle(
        architecture=architecture,
        classes=tuple(infos),
        bands=("red", "green", "blue"),
        mean=MEAN,
        std=STD,
        tile=tile,
        overlap=overlap,
    )


def make_network(bundle):
    """The header's network, its random weights always the same."""
    torch.manual_seed(0)
    return deeplab.build(bundle.architecture, classes=len(bundle.classes)).eval()


def save_network(path, bundle):
    """Write a bundle file and give its path."""
    save_bundle(path, make_network(bundle), bundle)
    return path


def make_noise(height, width):
    """Pixels uint8 (3, H, W) and validity, all true."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    return pixels, np.ones((height, width), dtype=np.bool_)


def write_images(folder, *, count, side, scene):
    """JPEG files, crops of one procedural scene (3, H, W)."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(1)
    _, height, width = scene.shape
    for number in range(count):
        row, col = rng.integers(0, (height - side + 1, width - side + 1)).tolist()
        crop = scene[:, row : row + side, col : col + side].transpose(1, 2, 0)
        path = folder / f"{number:06d}.jpg"
        Image.fromarray(np.ascontiguousarray(crop)).save(path, quality=90)
    return folder


def write_raster(path, *, height, width, scene):
    """A tiled JPEG GeoTIFF, one procedural scene (3, H, W) over and over."""
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    layout = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 3,
        "compress": "jpeg",
        "photometric": "ycbcr",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "crs": "EPSG:32636",
        "transform": from_origin(450_000, 40_000, PIXEL_M, PIXEL_M),
    }
    _, rows, cols = scene.shape
    with rasterio.open(path, "w", **layout, height=height, width=width) as raster:
        for row in range(0, height, rows):
            for col in range(0, width, cols):
                part = scene[:, : min(rows, height - row), : min(cols, width - col)]
                raster.write(part, window=Window(col, row, part.shape[2], part.shape[1]))
    return path
