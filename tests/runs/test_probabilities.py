"""Maps with probabilities of classes, from the command line to GDAL, pystac and verify."""

import hashlib
import json
import os
import shutil

import numpy as np
import pystac
import pytest
import rasterio
from pystac.extensions.raster import RasterExtension
from rasterio.enums import MaskFlags
from rio_cogeo import cog_validate

from jobs import map_job
from jobs.cli import _main
from jobs.errors import ItemError

NAMES = ("soil", "field", "trees", "water")
ALL = "probabilities=all"
COG = "probabilities/scene.tif"


def command(*words):
    return _main([str(word) for word in words])


def start(raster, run, bundle, *configs):
    words = [word for one in ("block=512", *configs) for word in ("-c", one)]
    return command("map", raster, run, "--bundle", bundle, "--local", *words)


def read(path):
    with rasterio.open(path) as source:
        return source.read()


def files(run):
    return {
        str(path.relative_to(run)): path.read_bytes()
        for name in ("rasters", "confidence", "probabilities", "pieces")
        for path in sorted((run / name).rglob("*"))
        if path.is_file()
    }


def verify(capsys, run, *words):
    capsys.readouterr()
    code = command("verify", run, *words, "--json")
    found = json.loads(capsys.readouterr().out)
    return code, [(one["kind"], one["object"]) for one in found["differences"]]


@pytest.fixture(scope="module")
def every(raster, linear, tmp_path_factory):
    """A run with all classes and the confidence."""
    run = tmp_path_factory.mktemp("every") / "run"
    assert start(raster, run, linear, ALL, "confidence=true") == 0
    return run


@pytest.fixture
def copied(every, tmp_path):
    """A copy of it to spoil."""
    shutil.copytree(every, tmp_path / "copy")
    return tmp_path / "copy"


def test_all_classes_make_one_and_the_winner_is_the_mask(every):
    planes = read(every / COG)
    (mask,), (sure,) = (
        read(every / name / "scene.tif") for name in ("rasters", "confidence")
    )
    known = mask != 255
    assert planes.shape == (4, 600, 1100)
    assert 0.9 < known.mean() < 1
    np.testing.assert_array_equal(planes.max(0), sure)
    total = planes.astype(int).sum(0)
    assert np.abs(total - 255)[known].max() <= 2
    assert (total[~known] == 0).all()
    rows, cols = known.nonzero()
    np.testing.assert_array_equal(planes[mask[known], rows, cols], sure[known])
    assert len(np.unique(mask[known])) > 1
    assert (planes[:, known] == 0).any()


def test_a_matrix_product_gives_the_same(raster, linear, tmp_path):
    """The slow twin of a per-pixel classifier, in double precision."""
    from deeplab import load

    assert start(raster, tmp_path / "run", linear, "probabilities=water,0") == 0
    model, _ = load(linear)
    weight, bias = (parameter.detach().double().numpy() for parameter in model.parameters())
    with rasterio.open(raster) as source:
        pixels, valid = source.read() / 255, source.dataset_mask() != 0
    scores = np.einsum("kb,bhw->khw", weight[:, :, 0, 0], (pixels - 0.5) / 0.25)
    scores = np.exp(scores + bias[:, None, None])
    expected = 255 * (scores / scores.sum(0))[[3, 0]] * valid
    assert np.abs(read(tmp_path / "run" / COG) - expected).max() < 0.501


def test_the_cog_is_valid_and_says_what_it_shows(every, raster):
    assert cog_validate(every / COG, strict=True, quiet=True)[0]
    with rasterio.open(every / COG) as found, rasterio.open(raster) as source:
        assert found.descriptions == NAMES
        assert (found.transform, found.crs) == (source.transform, source.crs)
        assert found.mask_flag_enums == ([MaskFlags.per_dataset],) * 4
        np.testing.assert_array_equal(found.dataset_mask(), source.dataset_mask())


def test_its_item_names_the_bands(every):
    item = pystac.Item.from_file(str(every / "rasters" / "scene.json"))
    assert item.assets.keys() == {"data", "confidence", "probabilities"}
    asset = item.assets["probabilities"]
    assert asset.get_absolute_href() == str(every / COG)
    assert tuple(one["name"] for one in asset.extra_fields["bands"]) == NAMES
    assert len(RasterExtension.ext(asset).bands) == 4
    sha256 = hashlib.sha256((every / COG).read_bytes()).hexdigest()
    assert asset.extra_fields["file:checksum"] == f"1220{sha256}"


def test_block_size_changes_no_byte(every, raster, linear, tmp_path):
    settings = ("block=1024", ALL, "confidence=true")
    assert start(raster, tmp_path / "run", linear, *settings) == 0
    assert files(tmp_path / "run") == files(every)


def test_masks_are_what_they_are_without(every, raster, linear, tmp_path):
    assert start(raster, tmp_path / "run", linear, "confidence=true") == 0
    for name in ("rasters", "confidence"):
        one, other = (run / name / "scene.tif" for run in (tmp_path / "run", every))
        np.testing.assert_array_equal(read(one), read(other))
    assert not (tmp_path / "run" / "probabilities").exists()


def test_names_and_numbers_are_one_choice(every, raster, linear, tmp_path, capsys):
    run = tmp_path / "run"
    assert start(raster, run, linear, "probabilities=trees,0") == 0
    before = files(run)
    np.testing.assert_array_equal(read(run / COG), read(every / COG)[[2, 0]])
    # The same choice is the same run, and another one is another.
    assert start(raster, run, linear, "probabilities=2,soil") == 0
    assert files(run) == before
    capsys.readouterr()
    assert start(raster, run, linear, "probabilities=0,2") == 2
    assert "probabilities [2, 0], now [0, 2]" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["map", "plan"])
def test_an_unknown_class_is_refused_before_anything_starts(
    raster, linear, tmp_path, capsys, verb
):
    if verb == "map":
        code = start(raster, tmp_path / "run", linear, "probabilities=soil,wood")
    else:
        words = ("--bundle", linear, "-c", "probabilities=soil,wood")
        code = command("plan", "map", raster, *words)
    assert code == 2
    assert capsys.readouterr().err == (
        "atrous: probabilities must be all or classes of the bundle, got 'wood'; it has "
        "0 soil, 1 field, 2 trees, 3 water\n"
    )
    assert not (tmp_path / "run").exists()


def test_an_area_has_probabilities_inside_alone(every, raster, linear, tmp_path):
    with rasterio.open(raster) as source:
        box = source.window_bounds(rasterio.windows.Window(100, 80, 400, 300))
        box = rasterio.warp.transform_bounds(source.crs, "EPSG:4326", *box)
    run = tmp_path / "run"
    area = ("--aoi", ",".join(f"{one:.7f}" for one in box))
    words = ("--bundle", linear, "--local", "-c", "block=512", "-c", ALL)
    assert command("map", raster, run, *area, *words) == 0
    (mask,), planes = read(run / "rasters" / "scene.tif"), read(run / COG)
    inside = mask != 255
    assert 0.1 < inside.mean() < 0.3
    np.testing.assert_array_equal(planes[:, inside], read(every / COG)[:, inside])
    assert not planes[:, ~inside].any()
    with rasterio.open(run / COG) as found:
        np.testing.assert_array_equal(found.dataset_mask() > 0, inside)


# Proof


def test_a_run_with_probabilities_is_sound(every, copied, capsys):
    assert verify(capsys, every) == (0, [])
    assert verify(capsys, every, "--deep") == (0, [])
    assert verify(capsys, copied, "--deep") == (0, [])
    assert not any(name.startswith("pieces") for name in files(every))


def test_probabilities_that_are_gone_are_missed(copied, capsys):
    (copied / COG).unlink()
    assert verify(capsys, copied) == (5, [("missing", COG)])


def test_probabilities_with_another_byte_are_found(copied, capsys):
    data = bytearray((copied / COG).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / COG).write_bytes(data)
    assert verify(capsys, copied, "--deep") == (5, [("replaced", COG)])


def test_probabilities_of_nobody_are_extra(copied, capsys):
    (copied / "probabilities" / "other.tif").write_bytes(b"who knows")
    assert verify(capsys, copied) == (5, [("extra", "probabilities/other.tif")])


def test_pixels_that_lost_their_probabilities_are_counted(copied, capsys):
    """Where record and manifest were made to agree with them."""
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 4, "tiled": True}
    planes, known = read(copied / COG), np.full((600, 1100), 255, dtype=np.uint8)
    known[200:290, 700:800] = 0
    known[0, 0] = 0
    path = copied / "spoiled.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **profile, height=600, width=1100) as target,
    ):
        target.write(planes)
        target.write_mask(known)
    data = path.read_bytes()
    path.unlink()
    (copied / COG).write_bytes(data)
    (record,) = (copied / "ledger" / "tasks").rglob("*.json")
    fields = json.loads(record.read_text())
    (output,) = (one for one in fields["outputs"] if one["name"] == COG)
    output |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "etag": "x"}
    record.write_text(json.dumps(fields))
    _, found = verify(capsys, copied, "--deep")
    assert ("wrong_count", COG) in found
    assert {kind for kind, name in found if name == COG} == {"wrong_count"}


# Resuming and retrying


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    every, raster, linear, tmp_path, monkeypatch
):
    write, calls = map_job.MapJob.write, []

    def stop(job, shard, results):
        calls.append(shard.index)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write(job, shard, results)

    run, settings = tmp_path / "run", (ALL, "confidence=true")
    with monkeypatch.context() as patch:
        patch.setattr(map_job.MapJob, "write", stop)
        assert start(raster, run, linear, *settings) == 130
    assert len(files(run)) == 3
    assert start(raster, run, linear, *settings) == 0
    assert files(run) == files(every)


def test_a_block_that_was_dead_gets_its_probabilities(
    every, raster, linear, tmp_path, capsys, monkeypatch
):
    read_block = map_job.MapJob.read

    def fail(job, shard, item):
        if shard.block.number == 1:
            raise ItemError("undecodable", "damaged")
        return read_block(job, shard, item)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(map_job.MapJob, "read", fail)
        assert start(raster, run, linear, ALL) == 3
    before = read(run / COG)
    assert not before[:, :512, 512:1024].any()
    assert verify(capsys, run, "--deep") == (0, [])
    assert command("retry", run, "--local") == 0
    np.testing.assert_array_equal(read(run / COG), read(every / COG))
    assert verify(capsys, run, "--deep") == (0, [])


def test_what_killed_processes_left_is_told_from_what_is_named(copied, capsys):
    (copied / "probabilities" / "other.tif").write_bytes(b"who knows")
    for path in (copied / "probabilities").iterdir():
        os.utime(path, (1, 1))
    capsys.readouterr()
    assert command("clean", copied, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"unnamed": 1}
    (left,) = found["leftovers"]
    assert "probabilities/other.tif" in left.values()
