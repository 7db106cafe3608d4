"""Dead letters tried again: only they, and as if they had never been dead."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import rasterio

from cluster.local import run_local
from jobs import map_job
from jobs.cli import _main
from jobs.errors import ItemError
from jobs.spec import Cut
from jobs.worker import Worker


def command(*words):
    return _main([str(word) for word in words])


def letters(run):
    rows = pq.read_table(run / "dead_letter.parquet").to_pylist()
    return sorted((row["key"], row["row"], row["col"], row["code"]) for row in rows)


def status(run, capsys):
    capsys.readouterr()
    command("status", run, "--json")
    return json.loads(capsys.readouterr().out)


def masks(run):
    parts = sorted((run / "masks").glob("*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    assert len({row["key"] for row in rows}) == len(rows), "a row is there twice"
    return {row["key"]: row["mask"] for row in rows}


@pytest.fixture
def gallery(tmp_path, images):
    """Nine sound images; one will be empty, one cut, one gone when they are read."""
    shutil.copytree(images, tmp_path / "images")
    return tmp_path / "images"


def spoil(gallery):
    held = {name: (gallery / name).read_bytes() for name in ("1.png", "4.png")}
    (gallery / "1.png").write_bytes(b"")
    (gallery / "4.png").write_bytes(held["4.png"][:100])
    return held


def test_images_that_were_mended_are_labelled(tmp_path, gallery, linear, capsys):
    quiet, run = tmp_path / "quiet", tmp_path / "run"
    options = ("--bundle", linear, "--local", "-c", "shard_items=2")
    assert command("label", gallery, quiet, *options) == 0
    held = spoil(gallery)
    assert command("label", gallery, run, *options) == 3
    assert [letter[0] for letter in letters(run)] == ["1.png", "4.png"]
    before = {path: path.read_bytes() for path in (run / "masks").iterdir()}

    (gallery / "1.png").write_bytes(held["1.png"])
    assert command("retry", run, "--local") == 3
    found = status(run, capsys)
    assert (found["dead_letters"], found["retries"], found["finished"]) == (1, 1, True)
    assert letters(run) == [("4.png", None, None, "undecodable")]

    (gallery / "4.png").write_bytes(held["4.png"])
    assert command("retry", run, "--local") == 0
    assert letters(run) == []
    assert masks(run) == masks(quiet)
    assert {path: path.read_bytes() for path in before} == before, (
        "finished work was touched"
    )
    assert command("verify", run, "--deep") == 0

    capsys.readouterr()
    assert command("retry", run, "--local") == 0
    assert "nothing to retry" in capsys.readouterr().err
    assert status(run, capsys)["retries"] == 2


def test_only_the_reason_asked_for_is_tried(tmp_path, gallery, linear, monkeypatch):
    run = tmp_path / "run"
    held = spoil(gallery)
    from jobs.storage import Store

    read = Store.read

    def lose(self, uri, **more):
        if uri.endswith("6.png"):
            raise ItemError("forbidden", "not today")
        return read(self, uri, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", lose)
        options = ("--bundle", linear, "--local")
        assert command("label", gallery, run, *options) == 3
    for name, data in held.items():
        (gallery / name).write_bytes(data)
    assert command("retry", run, "--local", "--code", "forbidden") == 3
    assert [letter[0] for letter in letters(run)] == ["1.png", "4.png"]
    assert command("retry", run, "--local", "--code", "colour") == 2


def test_an_image_that_is_gone_stays_a_dead_letter(tmp_path, gallery, linear):
    run = tmp_path / "run"
    spoil(gallery)
    assert command("label", gallery, run, "--bundle", linear, "--local") == 3
    (gallery / "4.png").unlink()
    assert command("retry", run, "--local") == 3
    assert letters(run) == [
        ("1.png", None, None, "undecodable"),
        ("4.png", None, None, "not_found"),
    ]
    assert command("verify", run) == 0


def test_a_run_that_is_not_finished_is_not_retried(tmp_path, gallery, linear, capsys):
    run = tmp_path / "run"
    spoil(gallery)
    options = ("--bundle", linear, "--local", "-c", "shard_items=1", "-c", "on_error=stop")
    assert command("label", gallery, run, *options) == 4
    capsys.readouterr()
    assert command("retry", run, "--local") == 4
    assert "is not finished; run its own command again" in capsys.readouterr().err


FIRST, LAST = 0, 5


@contextlib.contextmanager
def lose_blocks(*lost):
    """Make some blocks of the raster time out."""
    read = map_job.read_window

    def read_window(uri, access, window, **more):
        number = 3 * (window.row > 400) + (window.col > 400) + (window.col > 900)
        if number in lost:
            raise ItemError("timed_out", "too slow")
        return read(uri, access, window, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_job, "read_window", read_window)
        yield


def test_a_raster_is_put_together_again_with_the_blocks_that_came(
    tmp_path, run_job, raster, linear, capsys
):
    quiet, run = tmp_path / "quiet", tmp_path / "run"
    cut = Cut(block=512)
    run_job(run_local, "map", raster, quiet, linear, cut=cut)
    with lose_blocks(FIRST, LAST):
        summary = run_job(run_local, "map", raster, run, linear, cut=cut)
    assert summary["dead_letters"] == 2
    assert summary["pixels"]["dead"] == 512 * 512 + 88 * 76
    assert len(list((run / "pieces").iterdir())) == 4
    with lose_blocks(LAST):
        assert command("retry", run, "--local") == 3
    assert [letter[1:3] for letter in letters(run)] == [(512, 1024)]
    assert command("retry", run, "--local") == 0
    found = status(run, capsys)
    assert found["pixels"] == {**summary["pixels"], **status(quiet, capsys)["pixels"]}
    assert not list((run / "pieces").iterdir())
    assert same_pixels(run, quiet)
    assert command("verify", run, "--deep") == 0


def same_pixels(run, quiet):
    with (
        rasterio.open(run / "rasters" / "scene.tif") as ours,
        rasterio.open(quiet / "rasters" / "scene.tif") as theirs,
    ):
        return (ours.read() == theirs.read()).all()


def test_a_raster_that_changed_is_never_mixed(tmp_path, run_job, raster, linear):
    source, run = tmp_path / "scene.tif", tmp_path / "run"
    shutil.copy(raster, source)
    with lose_blocks(FIRST):
        run_job(run_local, "map", source, run, linear, cut=Cut(block=512))
    before = (run / "rasters" / "scene.tif").read_bytes()
    source.write_bytes(raster.read_bytes() + b"\0")
    assert command("retry", run, "--local") == 3
    assert letters(run) == [("scene.tif", 0, 0, "input_changed")]
    assert (run / "rasters" / "scene.tif").read_bytes() == before


@contextlib.contextmanager
def lose_source(source, after):
    """Have something become of the source once three blocks of it were read."""
    read, seen = map_job.read_window, []

    def read_window(*args, **more):
        found = read(*args, **more)
        seen.append(None)
        if len(seen) == 3:
            after(source)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_job, "read_window", read_window)
        yield


def change(path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("become", "code"), [(change, "input_changed"), (Path.unlink, "not_found")]
)
def test_a_raster_whose_source_is_lost_half_way_is_put_together(
    tmp_path, run_job, raster, linear, become, code
):
    source, run, quiet = tmp_path / "scene.tif", tmp_path / "run", tmp_path / "quiet"
    shutil.copy(raster, source)
    run_job(run_local, "map", raster, quiet, linear, cut=Cut(block=512))
    with lose_source(source, become):
        summary = run_job(run_local, "map", source, run, linear, cut=Cut(block=512))
    # The third was being read when it happened, and cannot be trusted.
    assert summary["dead_letters"] == 4
    assert {letter[3] for letter in letters(run)} == {code}
    with (
        rasterio.open(run / "rasters" / "scene.tif") as ours,
        rasterio.open(quiet / "rasters" / "scene.tif") as theirs,
    ):
        found, wanted = ours.read(1), theirs.read(1)
        wanted[:512, 1024:] = wanted[512:] = 255
        assert (found == wanted).all()
        assert (ours.transform, ours.crs) == (theirs.transform, theirs.crs)
    assert command("verify", run, "--deep") == 0

    shutil.copy(raster, source)
    os.utime(source, (1, 1))
    assert command("retry", run, "--local") == 3
    assert {letter[3] for letter in letters(run)} == {"input_changed"}
    assert command("verify", run, "--deep") == 0


def test_a_raster_that_is_gone_before_it_is_read_is_dead_and_may_come_back(
    tmp_path, run_job, raster, linear, monkeypatch
):
    source, run = tmp_path / "scene.tif", tmp_path / "run"
    shutil.copy(raster, source)
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "__init__", spy(Worker.__init__, source.unlink))
        summary = run_job(run_local, "map", source, run, linear, cut=Cut(block=512))
    assert summary["dead_letters"] == 6
    assert {letter[3] for letter in letters(run)} == {"not_found"}
    assert command("verify", run, "--deep") == 0

    shutil.copy(raster, source)
    assert command("retry", run, "--local") == 0
    run_job(run_local, "map", source, tmp_path / "quiet", linear, cut=Cut(block=512))
    assert same_pixels(run, tmp_path / "quiet")
    assert command("verify", run, "--deep") == 0


def spy(function, before):
    @functools.wraps(function)
    def call(*args, **more):
        before()
        return function(*args, **more)

    return call


def test_a_raster_that_was_refused_is_mapped_when_it_is_mended(
    tmp_path, run_job, raster, linear
):
    source, run = tmp_path / "scene.tif", tmp_path / "run"
    source.write_bytes(b"not a raster")
    run_job(run_local, "map", source, run, linear, cut=Cut(block=512))
    assert [letter[3] for letter in letters(run)] == ["undecodable"]
    shutil.copy(raster, source)
    assert command("retry", run, "--local") == 0, letters(run)
    assert letters(run) == []
    run_job(run_local, "map", source, tmp_path / "quiet", linear, cut=Cut(block=512))
    assert same_pixels(run, tmp_path / "quiet")
    assert command("verify", run, "--deep") == 0
