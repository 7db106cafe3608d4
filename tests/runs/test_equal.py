"""The same bytes, however the work is cut and wherever it is done."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rio_cogeo import cog_validate

from cluster.local import run_local
from deeplab.segmenter import Segmenter
from jobs.shards import Shard
from jobs.spec import BATCH, Cut
from jobs.storage import Access


@pytest.fixture(scope="module")
def quiet_label(tmp_path_factory, run_job, images, network):
    run = tmp_path_factory.mktemp("quiet") / "label"
    run_job(run_local, "label", images, run, network)
    return run


@pytest.fixture(scope="module")
def quiet_map(tmp_path_factory, run_job, raster, network):
    run = tmp_path_factory.mktemp("quiet") / "map"
    run_job(run_local, "map", raster, run, network)
    return run


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize("replicas", [1, 2])
def test_actors_write_what_one_process_writes(  # noqa: PLR0913, PLR0917
    tmp_path,
    run_job,
    ray_engine,
    outputs,
    images,
    raster,
    network,
    quiet_label,
    quiet_map,
    replicas,
):
    engine = ray_engine(replicas)
    label = run_job(engine, "label", images, tmp_path / "label", network)
    mapped = run_job(engine, "map", raster, tmp_path / "map", network)
    assert outputs(tmp_path / "label") == outputs(quiet_label)
    assert outputs(tmp_path / "map") == outputs(quiet_map)
    assert label["items"] == 9
    assert mapped["shards"] == {"planned": 6, "done": 6}


def test_block_size_changes_no_byte_of_the_cog(
    tmp_path, run_job, outputs, raster, network, quiet_map
):
    run_job(run_local, "map", raster, tmp_path / "run", network, cut=Cut(block=1024))
    assert outputs(tmp_path / "run") == outputs(quiet_map)


def test_shard_size_changes_no_row(tmp_path, run_job, images, network, quiet_label):
    run_job(run_local, "label", images, tmp_path / "run", network, cut=Cut(shard_items=5))
    parts = sorted((tmp_path / "run" / "masks").glob("*.parquet"))
    assert len(parts) == 2
    assert rows(tmp_path / "run") == rows(quiet_label)


def test_images_that_share_batches_keep_their_rows(
    tmp_path, run_job, images, linear, monkeypatch
):
    """As on a GPU, with slots for several tiles; a broken image lies between."""
    source = tmp_path / "images"
    shutil.copytree(images, source)
    (source / "3.png").write_bytes(b"no image")
    cut = Cut(shard_items=20)
    run_job(run_local, "label", source, tmp_path / "alone", linear, cut=cut)
    sizes = []
    segment_all = Segmenter.segment_all

    def watched(self, pictures, **options):
        sizes.append(len(pictures))
        return segment_all(self, pictures, **options)

    monkeypatch.setattr(Segmenter, "segment_all", watched)
    monkeypatch.setitem(BATCH, "cpu", 2)
    summary = run_job(run_local, "label", source, tmp_path / "shared", linear, cut=cut)
    assert sizes == [5, 3]  # sixteen tiles and more, then the rest
    assert summary["dead_letter_codes"] == {"undecodable": 1}
    assert rows(tmp_path / "shared") == rows(tmp_path / "alone")


def test_mask_is_the_bundles_choice_at_every_pixel(tmp_path, run_job, raster, linear):
    """The slow twin of a per-pixel classifier is one matrix product."""
    from deeplab import load

    run_job(run_local, "map", raster, tmp_path / "run", linear)
    model, _ = load(linear)
    weight, bias = (parameter.detach().double().numpy() for parameter in model.parameters())
    with (
        rasterio.open(raster) as source,
        rasterio.open(tmp_path / "run" / "rasters" / "scene.tif") as target,
    ):
        pixels, mask = source.read() / 255, target.read(1)
        valid = source.dataset_mask() != 0
        assert (target.transform, target.crs) == (source.transform, source.crs)
    scores = np.einsum("kb,bhw->khw", weight[:, :, 0, 0], (pixels - 0.5) / 0.25)
    scores += bias[:, None, None]
    first, second = np.sort(scores, axis=0)[[-1, -2]]
    clear = valid & (first - second > 1e-4)
    assert clear.mean() > 0.95
    assert (mask[~valid] == 255).all()
    assert (mask[clear] == scores.argmax(axis=0)[clear]).all()


def test_readme_reads_the_masks(quiet_label):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    found = {}
    exec(code.replace("RUN", str(quiet_label)), found)  # noqa: S102
    assert len(found["masks"]) == 9
    assert found["masks"]["0.png"].shape == (40, 70)


def test_cog_is_valid_and_says_what_it_shows(quiet_map):
    path = quiet_map / "rasters" / "scene.tif"
    assert cog_validate(path, strict=True, quiet=True)[0]
    with rasterio.open(path) as cog:
        assert json.loads(cog.tags()["ATROUS_CLASSES"])["2"] == "trees"
        assert cog.colormap(1)[2] == (120, 20, 90, 255)
        assert cog.nodata == 255
        assert cog.overviews(1) == [2, 4]


@pytest.mark.s3
@pytest.mark.parametrize("job", ["label", "map"])
def test_s3_holds_what_a_folder_holds(  # noqa: PLR0913, PLR0917
    tmp_path, run_job, bucket, s3_client, s3_server, images, raster, network, job
):
    """Source, bundle and run on S3 give the same masks as folders do."""
    source = images if job == "label" else raster.parent
    for path in (path for path in source.rglob("*") if path.is_file()):
        s3_client.upload_file(str(path), bucket, f"in/{path.relative_to(source)}")
    s3_client.upload_file(str(network), bucket, "network.safetensors")
    run_job(
        run_local,
        job,
        f"s3://{bucket}/in",
        f"s3://{bucket}/run",
        f"s3://{bucket}/network.safetensors",
        access=Access(endpoint_url=s3_server),
    )
    pages = s3_client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix="run/"
    )
    for found in pages.search("Contents"):
        path = tmp_path / found["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        s3_client.download_file(bucket, found["Key"], str(path))
    run_job(run_local, job, source, tmp_path / "here", network)
    assert masks(tmp_path / "run") == masks(tmp_path / "here")
    assert not (tmp_path / "run" / "pieces").exists()


def masks(run):
    if (run / "masks").exists():
        return {row["key"]: row["mask"] for row in rows(run)}
    found = {}
    for path in (run / "rasters").glob("*.tif"):
        with rasterio.open(path) as cog:
            found[path.name] = cog.read(1).tobytes()
    return found


def rows(run):
    parts = sorted((run / "masks").glob("*.parquet"))
    found = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: row["uri"])


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_work_changes_no_byte(  # noqa: PLR0913, PLR0917
    tmp_path, run_job, outputs, images, raster, network, quiet_label, quiet_map, seed
):
    random, orders = Random(seed), {}

    def engine(worker, take):
        order, waiting = [], []

        def draw():
            waiting.extend(iter(take, None))
            if not waiting:
                return None
            order.append(waiting.pop(random.randrange(len(waiting))))
            return order[-1]

        orders[len(orders)] = order
        return run_local(worker, draw)

    run_job(engine, "label", images, tmp_path / "label", network)
    run_job(engine, "map", raster, tmp_path / "map", network)
    assert outputs(tmp_path / "label") == outputs(quiet_label)
    assert outputs(tmp_path / "map") == outputs(quiet_map)
    numbers = [one.index for one in orders[1] if isinstance(one, Shard)]
    assert len(numbers) == 6
    assert numbers != sorted(numbers)
