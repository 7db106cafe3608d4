"""The same bytes, however the work is cut and wherever it is done."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rio_cogeo import cog_validate

from cluster.local import run_local
from jobs.spec import Cut
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
    tmp_path, run_job, s3_bucket, s3_server, images, raster, network, job
):
    """Source and run on S3: the same masks, the same bytes of the COG."""
    access = Access(endpoint_url=s3_server)
    import s3fs

    store = s3fs.S3FileSystem(endpoint_url=s3_server, skip_instance_cache=True)
    source = images if job == "label" else raster
    store.put(str(source), f"{s3_bucket}/in/", recursive=source.is_dir())
    run_job(
        run_local,
        job,
        f"s3://{s3_bucket}/in",
        f"s3://{s3_bucket}/run",
        network,
        access=access,
    )
    store.get(f"{s3_bucket}/run", str(tmp_path / "run"), recursive=True)
    run_job(run_local, job, source, tmp_path / "here", network)
    if job == "label":
        assert [row["mask"] for row in rows(tmp_path / "run")] == [
            row["mask"] for row in rows(tmp_path / "here")
        ]
    else:
        ours, theirs = (
            rasterio.open(tmp_path / run / "rasters" / "scene.tif").read(1)
            for run in ("run", "here")
        )
        assert np.array_equal(ours, theirs)


def rows(run):
    parts = sorted((run / "masks").glob("*.parquet"))
    found = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: row["uri"])
