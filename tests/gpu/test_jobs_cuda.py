"""Both jobs on CUDA, in one process: their files hold what the segmenter gives."""

import json

import numpy as np
import pytest
import torch

from deeplab.segmenter import Segmenter
from deeplab.tiles import Region
from deeplab.weights import save_bundle

pytestmark = pytest.mark.gpu

ARCHITECTURE = "deeplabv3plus_mobilenet_v2"


@pytest.fixture(scope="module")
def bundle(device, need_packages, make_network, make_header, tmp_path_factory):
    """A bundle file, where all that the jobs import is installed."""
    need_packages("click", "fsspec", "PIL", "pyarrow", "rasterio", "s3fs")
    assert device
    path = tmp_path_factory.mktemp("bundle") / "bundle.safetensors"
    header = make_header(ARCHITECTURE)
    save_bundle(path, make_network(ARCHITECTURE), header, dtype=torch.float32)
    return path


@pytest.fixture
def start(device, bundle):
    """Run a command to its end and give the options that the run was made with."""
    from jobs.cli import main

    def run(job, source, folder, *options):
        place = ["--local", "-c", f"device={device}", "--bundle", str(bundle)]
        with pytest.raises(SystemExit) as stop:
            main([job, str(source), str(folder), *place, *options])
        assert stop.value.code == 0
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["finished"]
        assert not summary["dead_letters"]

    return run


@pytest.fixture
def segmenter(device, bundle):
    """A segmenter that computes as a replica does."""
    from jobs.spec import BATCH

    with Segmenter.load(bundle, device=device, batch=BATCH[device], threads=1) as one:
        yield one


def test_label_writes_what_the_segmenter_gives(start, segmenter, make_picture, tmp_path):
    import pyarrow.parquet as pq
    from PIL import Image

    (tmp_path / "images").mkdir()
    pictures = {}
    for number, (height, width) in enumerate([(64, 64), (50, 200), (130, 90)]):
        pixels, _ = make_picture(height, width, seed=number)
        pictures[f"{number}.png"] = pixels
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"images/{number}.png")
    start("label", tmp_path / "images", tmp_path / "run")
    (part,) = (tmp_path / "run/masks").glob("*.parquet")
    rows = pq.read_table(part).to_pylist()
    assert [row["key"] for row in rows] == sorted(pictures)
    for row in rows:
        pixels = pictures[row["key"]]
        mask = np.frombuffer(row["mask"], np.uint8).reshape(row["height"], row["width"])
        everywhere = np.ones(mask.shape, np.bool_)
        assert (mask == segmenter.segment(pixels, everywhere).mask).all()


def test_map_writes_what_the_segmenter_gives(start, segmenter, make_picture, tmp_path):
    import rasterio
    from rasterio.transform import from_origin

    pixels, _ = make_picture(700, 600)
    grid = {"crs": "EPSG:32636", "transform": from_origin(450_000, 40_000, 0.5, 0.5)}
    kind = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True}
    with rasterio.open(
        tmp_path / "a.tif", "w", height=700, width=600, **kind, **grid
    ) as raster:
        raster.write(pixels)
    start("map", tmp_path / "a.tif", tmp_path / "run", "-c", "block=512")
    with rasterio.open(tmp_path / "run/rasters/a.tif", driver="GTiff") as result:
        mask = result.read(1)
        assert result.transform == grid["transform"]
        assert result.crs == grid["crs"]
    everywhere = np.ones((700, 600), np.bool_)
    whole = segmenter.segment(pixels, everywhere, region=Region.whole(700, 600))
    assert (mask == whole.mask).all()
    assert len(np.unique(mask)) > 1
