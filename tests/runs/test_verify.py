"""Runs as they are made, held against their own folders."""

from __future__ import annotations

import json
import shutil

import pytest

from cluster.local import run_local
from jobs.cli import _main
from jobs.storage import Access


def verify(capsys, *words):
    capsys.readouterr()
    code = _main(["verify", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def finished(tmp_path, run_job, images, raster, network):
    """Make a run of a job that is done."""

    def make(job):
        source = images if job == "label" else raster
        run_job(run_local, job, source, tmp_path / job, network)
        return tmp_path / job

    return make


@pytest.mark.parametrize("job", ["label", "map"])
def test_a_run_is_sound_also_as_a_copy(tmp_path, finished, capsys, job):
    run = finished(job)
    code, found = verify(capsys, run, "--deep")
    assert (code, found["counts"]) == (0, {})
    assert found["objects"]["read"] == found["objects"]["named"] > 0
    code, found = verify(capsys, run)
    assert (code, found["objects"]["read"]) == (0, 0)
    shutil.copytree(run, tmp_path / "copy", copy_function=shutil.copyfile)
    code, found = verify(capsys, tmp_path / "copy")
    assert (code, found["counts"]) == (0, {})


@pytest.mark.parametrize("job", ["label", "map"])
def test_an_output_with_another_byte_is_found(finished, capsys, job):
    run = finished(job)
    folder, ending = ("masks", "parquet") if job == "label" else ("rasters", "tif")
    path = min((run / folder).glob(f"*.{ending}"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, found = verify(capsys, run)
    assert (code, found["counts"]) == (5, {"replaced": 1})
    assert found["differences"][0]["object"] == f"{folder}/{path.name}"


@pytest.mark.s3
def test_a_run_in_a_bucket_is_sound(  # noqa: PLR0913, PLR0917
    run_job, raster, network, bucket, s3_client, s3_server, capsys
):
    run = f"s3://{bucket}/run"
    access = Access(endpoint_url=s3_server)
    run_job(run_local, "map", raster, run, network, access=access)
    code, found = verify(capsys, run, "--deep", "--endpoint-url", s3_server)
    assert (code, found["counts"]) == (0, {})
    s3_client.put_object(Bucket=bucket, Key="run/rasters/b.tif", Body=b"who knows")
    s3_client.delete_object(Bucket=bucket, Key="run/rasters/scene.tif")
    code, found = verify(capsys, run, "--endpoint-url", s3_server)
    assert (code, found["counts"]) == (5, {"extra": 1, "missing": 1})
