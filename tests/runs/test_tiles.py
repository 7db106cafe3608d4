"""Runs with tiles of their own: both jobs, resumed and retried."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image

from cluster.local import run_local
from deeplab.segmenter import Segmenter
from deeplab.tiles import Region, TileGrid, Tiling
from jobs.cli import _main
from jobs.windows import cut_blocks


@pytest.mark.parametrize("layout", [{"tiled": True}, {"blockysize": 7}])
def test_a_run_says_how_often_it_decodes_a_pixel(tmp_path, run_job, raster, linear, layout):
    """As often as GDAL's own blocks say, of which each touched one is decoded whole."""
    with rasterio.open(raster) as whole:
        profile = {**whole.profile, "tiled": False, **layout}
        with rasterio.open(tmp_path / "laid.tif", "w", **profile) as target:
            target.write(whole.read())
    tiling = Tiling(tile=64, overlap=16)
    decoded = 0
    with rasterio.open(tmp_path / "laid.tif") as laid:
        height, width = laid.shape
        for block in cut_blocks(height, width, 512):
            reach = TileGrid(height=height, width=width, tiling=tiling).reach(block.core)
            rows, cols = (reach.row, reach.stop_row), (reach.col, reach.stop_col)
            for _, one in laid.block_windows(1):
                (top, bottom), (left, right) = one.toranges()
                is_touched = top < rows[1] and bottom > rows[0]
                if is_touched and left < cols[1] and right > cols[0]:
                    decoded += one.height * one.width
    source = tmp_path / "laid.tif"
    summary = run_job(run_local, "map", source, tmp_path / "run", linear)
    assert summary["read_amplification"] == round(decoded / (height * width), 2) > 1


def command(*words):
    return _main([str(word) for word in words])


def options_of(bundle, tiling):
    words = ["--bundle", bundle, "--local", "-c", "device=cpu"]
    for name in ("tile", "overlap", "blend"):
        words += ["-c", f"{name}={getattr(tiling, name)}"]
    return words


def masks(run):
    parts = sorted((run / "masks").glob("*.parquet"))
    return {
        row["key"]: np.frombuffer(row["mask"], "uint8").reshape(row["height"], row["width"])
        for part in parts
        for row in pq.read_table(part).to_pylist()
    }


def test_a_map_is_what_the_segmenter_makes_of_the_raster_at_once(tmp_path, raster, network):
    """By crop, which reads less than the other two; blocks of 512 px cut the raster."""
    tiling = Tiling(tile=160, overlap=64, blend="crop")
    words = options_of(network, tiling)
    assert command("map", raster, tmp_path / "run", *words, "-c", "block=512") == 0
    with (
        rasterio.open(raster) as source,
        rasterio.open(tmp_path / "run" / "rasters" / "scene.tif") as target,
        Segmenter.load(network, device="cpu", threads=1) as segmenter,
    ):
        valid = source.dataset_mask() > 0
        region = Region.whole(*valid.shape)
        pixels = source.read()
        expected = segmenter.segment(pixels, valid, region=region, tiling=tiling).mask
        np.testing.assert_array_equal(target.read(1), expected)
    assert len(np.unique(expected)) > 2, "no easy picture"


def test_a_run_keeps_its_tiles(tmp_path, images, network, capsys):
    tiling = Tiling(tile=48, overlap=20, blend="crop")
    gallery, run = tmp_path / "images", tmp_path / "run"
    shutil.copytree(images, gallery)
    held = (gallery / "5.png").read_bytes()
    (gallery / "5.png").write_bytes(held[:100])
    assert command("label", gallery, run, *options_of(network, tiling)) == 3

    identity = json.loads((run / "job.json").read_text())["identity"]
    assert [identity[name] for name in ("tile", "overlap", "blend")] == [48, 20, "crop"]
    capsys.readouterr()
    other = Tiling(tile=48, overlap=20, blend="mean")
    assert command("label", gallery, run, *options_of(network, other)) == 2
    assert "with other options (blend crop, now mean)" in capsys.readouterr().err

    (gallery / "5.png").write_bytes(held)
    assert command("retry", run, "--local") == 0
    found = masks(run)
    assert len(found) == 9
    with Segmenter.load(network, device="cpu", threads=1) as segmenter:
        for key in ("4.png", "5.png"):
            with Image.open(gallery / key) as picture:
                pixels = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
            valid = np.ones(pixels.shape[1:], dtype=bool)
            expected = segmenter.segment(pixels, valid, tiling=tiling)
            np.testing.assert_array_equal(found[key], expected.mask)
