"""A map that is limited to an area: the same pixels inside, none outside."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from cluster.local import run_local
from jobs import commands, map_job
from jobs.cli import _main
from jobs.errors import InputError
from jobs.spec import Cut

CORNERS = [(300, 100), (620, 80), (500, 330), (560, 420), (310, 400), (300, 100)]
"""Columns and rows of an area in the raster: in three of its six blocks."""


def read(run, name="scene.tif"):
    with rasterio.open(run / "rasters" / name) as source:
        return source.read(1)


@pytest.fixture(scope="module")
def aoi(raster, tmp_path_factory):
    """The area as a file, and which pixels lie in it, as GDAL says."""
    with rasterio.open(raster) as source:
        ring = [source.transform @ (col + 0.3, row + 0.3) for col, row in CORNERS]
        shape = {"type": "Polygon", "coordinates": [ring]}
        inside = rasterize([shape], out_shape=source.shape, transform=source.transform)
        shape = transform_geom(source.crs, "EPSG:4326", shape, precision=9)
    path = tmp_path_factory.mktemp("area") / "area.geojson"
    path.write_text(json.dumps(shape))
    return str(path), inside > 0


@pytest.fixture(scope="module")
def limited(raster, aoi, network, run_job, tmp_path_factory):
    run = tmp_path_factory.mktemp("limited") / "run"
    summary = run_job(run_local, "map", raster, run, network, aoi=aoi[0])
    return run, summary


def test_what_lies_inside_is_what_it_would_be_without(
    limited, raster, aoi, network, run_job, tmp_path
):
    run_job(run_local, "map", raster, tmp_path / "run", network)
    whole, part = read(tmp_path / "run"), read(limited[0])
    inside = aoi[1]
    # The file's seven digits of a degree move an edge by a centimetre.
    assert ((part != 255) & ~inside).sum() <= 2
    np.testing.assert_array_equal(part[part != 255], whole[part != 255])
    assert ((part == 255) & inside & (whole != 255)).sum() <= 2
    assert 0.05 < (part != 255).mean() < 0.2


def test_pixels_outside_are_counted_as_nodata(limited):
    run, summary = limited
    done = int((read(run) != 255).sum())
    assert summary["pixels"]["done"] == done
    assert summary["pixels"]["nodata"] == 1100 * 600 - done
    assert _main(["verify", str(run), "--deep"]) == 0


@pytest.mark.parametrize("block", [1024, 4096])
def test_the_cut_changes_no_byte(  # noqa: PLR0913, PLR0917
    limited, raster, aoi, network, run_job, outputs, tmp_path, block
):
    cut = Cut(block=block)
    run_job(run_local, "map", raster, tmp_path / "run", network, cut=cut, aoi=aoi[0])
    assert outputs(tmp_path / "run") == outputs(limited[0])


def test_blocks_outside_are_never_read(raster, aoi, linear, run_job, tmp_path, monkeypatch):
    windows = []
    read_window = map_job.read_window

    def watch(uri, access, window, **options):
        windows.append(window)
        return read_window(uri, access, window, **options)

    monkeypatch.setattr(map_job, "read_window", watch)
    run_job(run_local, "map", raster, tmp_path / "run", linear, aoi=aoi[0])
    assert len(windows) == 2
    assert {window.row for window in windows} == {0}


def test_where_a_raster_lies_is_never_taken_from_another_one(
    raster, aoi, linear, run_job, tmp_path, monkeypatch
):
    """One that was moved is not found outside of the area: it has changed."""
    source, moved = tmp_path / "scene.tif", rasterio.transform.from_origin(1e5, 1e6, 1, 1)
    shutil.copy(raster, source)

    class Late(map_job.MapJob):
        def read(self, shard, item):
            if not shard.block.number:
                with rasterio.open(source, "r+") as target:
                    target.transform = moved
            return super().read(shard, item)

    monkeypatch.setitem(commands.JOBS, "map", Late)
    run = tmp_path / "run"
    run_job(run_local, "map", source, run, linear, aoi=aoi[0])
    letters = pq.read_table(run / "dead_letter.parquet").to_pylist()
    assert len(letters) == 6
    assert {letter["code"] for letter in letters} == {"input_changed"}


@pytest.fixture
def scenes(raster, tmp_path):
    """Three rasters: one in the area, one far from it, and one without a CRS."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name, options in (
        ("here.tif", {}),
        ("there.tif", {"transform": rasterio.transform.from_origin(1e5, 1e6, 1, 1)}),
        ("nowhere.tif", {"crs": None}),
    ):
        with rasterio.open(raster) as source:
            profile = source.profile | options
            with rasterio.open(folder / name, "w", **profile) as target:
                target.write(source.read())
    return folder


def test_rasters_outside_are_left_out(scenes, aoi, linear, run_job, tmp_path, capsys):
    run = tmp_path / "run"
    run_job(run_local, "map", scenes, run, linear, aoi=aoi[0])
    assert capsys.readouterr().err == "1 of 2 rasters touch the area\n"
    assert [path.name for path in (run / "rasters").glob("*.tif")] == ["here.tif"]
    (letter,) = pq.read_table(run / "dead_letter.parquet").to_pylist()
    assert (letter["key"], letter["code"]) == ("nowhere.tif", "unsupported")
    assert _main(["verify", str(run)]) == 0


def test_an_area_that_touches_nothing_is_refused(scenes, linear, run_job, tmp_path):
    with pytest.raises(InputError, match="the area touches none of 2 rasters; check --aoi"):
        run_job(run_local, "map", scenes, tmp_path / "run", linear, aoi="100,10,101,11")
    assert not (tmp_path / "run" / "plan.parquet").exists()


def test_another_area_is_another_run(raster, aoi, linear, tmp_path, capsys):
    options = [
        "map",
        str(raster),
        str(tmp_path / "run"),
        "--bundle",
        str(linear),
        "--local",
    ]
    assert _main([*options, "--aoi", aoi[0]]) == 0
    assert _main([*options, "--aoi", aoi[0]]) == 0
    for other in ([], ["--aoi", "13,52,14,53"]):
        capsys.readouterr()
        assert _main([*options, *other]) == 2
        assert "holds a run with other options (area" in capsys.readouterr().err


def test_a_retry_keeps_the_area(raster, aoi, linear, run_job, tmp_path, capsys):
    source, run = tmp_path / "scenes", tmp_path / "run"
    source.mkdir()
    shutil.copy(raster, source / "a.tif")
    (source / "b.tif").write_bytes(b"no raster")
    run_job(run_local, "map", source, run, linear, aoi=aoi[0])
    shutil.copy(raster, source / "b.tif")
    assert _main(["retry", str(run), "--local"]) == 0
    capsys.readouterr()
    np.testing.assert_array_equal(read(run, "a.tif"), read(run, "b.tif"))
    assert _main(["verify", str(run), "--deep"]) == 0


def test_the_area_stands_in_the_run_folder(limited):
    held = json.loads((limited[0] / "job.json").read_text())
    assert held["area"]["type"] == "MultiPolygon"
    assert len(held["area"]["coordinates"][0][0]) == len(CORNERS)


@pytest.mark.parametrize(
    ("aoi", "message"),
    [
        ("no.geojson", "does not exist; --aoi must be"),
        ("1,2,3", "does not exist; --aoi must be"),
        ("1,2,1,3", "--aoi must be west,south,east,north"),
        (".", "--aoi must be west,south,east,north or a GeoJSON file"),
    ],
)
def test_a_wrong_area_is_said_in_one_line(raster, linear, tmp_path, capsys, aoi, message):
    options = [
        "map",
        str(raster),
        str(tmp_path / "run"),
        "--bundle",
        str(linear),
        "--local",
    ]
    assert _main([*options, "--aoi", aoi]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_plan_says_how_to_start_it(raster, aoi, linear, capsys):
    options = ["--bundle", str(linear), "--aoi", aoi[0], "--limit", "3"]
    assert _main(["plan", "map", str(raster), *options]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"--aoi {aoi[0]} -c limit=3")


def test_an_area_that_was_changed_in_the_run_folder_is_noticed(limited, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(limited[0], run)
    held = json.loads((run / "job.json").read_text())
    held["area"]["coordinates"][0][0][1][0] += 1
    (run / "job.json").write_text(json.dumps(held))
    assert _main(["retry", str(run), "--local"]) == 2
    assert "holds a run with other options (area" in capsys.readouterr().err
