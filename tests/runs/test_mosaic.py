"""A mosaic is what comes of mapping each scene alone and merging the masks."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform
from rio_cogeo import cog_validate

from jobs import mosaic_job
from jobs.cli import _main
from jobs.errors import ItemError
from jobs.mosaic_job import MosaicJob

UTM = "EPSG:32633"
LEFT, TOP, PIXEL = 400_000, 5_800_000, 0.5
NAMES = ("a.tif", "b.tif", "c.tif", "d.tif")
NEWEST = ("b.tif", "d.tif", "c.tif", "a.tif")
RULES = ("first", "recent", "confidence")


def write(path, shape, place, *, crs=UTM, seed=0, taken="", **options):
    random = np.random.default_rng(seed)
    coarse = random.integers(1, 256, (3, -(-shape[0] // 9), -(-shape[1] // 9)))
    pixels = coarse.repeat(9, axis=1).repeat(9, axis=2)[:, : shape[0], : shape[1]]
    pixels[:, 40 : 60 + 30 * seed, 50:180] = 0
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "nodata": 0}
    profile |= {"height": shape[0], "width": shape[1], "tiled": True, "crs": crs}
    with rasterio.open(path, "w", **profile, transform=place, **options) as target:
        target.write(pixels.astype(np.uint8))
        if taken:
            target.update_tags(TIFFTAG_DATETIME=taken)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two scenes on one grid, one between its pixels, and one of another CRS."""
    root = tmp_path_factory.mktemp("scenes")
    place = from_origin(LEFT, TOP, PIXEL, PIXEL)
    write(root / "a.tif", (500, 600), place, seed=1, taken="2020:03:01 00:00:00")
    place = from_origin(LEFT + 200, TOP - 100, PIXEL, PIXEL)
    write(root / "b.tif", (420, 450), place, seed=2, taken="2023:03:01 00:00:00")
    place = from_origin(LEFT - 30.1, TOP + 20.2, PIXEL, PIXEL)
    write(root / "c.tif", (300, 400), place, seed=3, taken="2021:03:01 00:00:00")
    (x,), (y,) = transform(UTM, "EPSG:3857", [LEFT + 100], [TOP - 150])
    place = from_origin(x, y, 0.9, 0.9)
    write(root / "d.tif", (200, 230), place, crs="EPSG:3857", seed=4)
    with rasterio.open(root / "d.tif", "r+") as target:
        target.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2022-03-01 00:00:00")
    return root


def command(*words):
    return _main([str(word) for word in words])


def map_scenes(source, run, bundle, *options, code=0):
    place = ("--bundle", bundle, "--local", "--confidence")
    assert command("map", source, run, *place, *options) == code
    return run


def read(run, name="mosaic.tif"):
    found = []
    for folder in ("rasters", "confidence"):
        with rasterio.open(run / folder / name) as source:
            found.append(source.read(1))
            place = source.transform
    return *found, place


def map_alone(scenes, folder, bundle):
    """Each scene's mask and confidence on one grid, and where they lie on it."""
    found = {}
    for name in NAMES:
        same = name in {"a.tif", "b.tif"}
        warp = () if same else ("-c", f"crs={UTM}", "-c", f"resolution={PIXEL}")
        run = map_scenes(scenes / name, folder / name, bundle, *warp)
        mask, confidence, place = read(run, name)
        row, col = (TOP - place.f) / PIXEL, (place.c - LEFT) / PIXEL
        assert (row, col) == (round(row), round(col))
        found[name] = mask, confidence, round(row), round(col)
    return found


@pytest.fixture(scope="module")
def alone(scenes, linear, tmp_path_factory):
    return map_alone(scenes, tmp_path_factory.mktemp("alone"), linear)


def merge(alone, rule, names=NAMES):
    """All of them on one sheet: the slow twin of a mosaic, and its corner."""
    if rule == "recent":
        names = [name for name in NEWEST if name in names]
    parts = [alone[name] for name in names]
    top, left = min(part[2] for part in parts), min(part[3] for part in parts)
    bottom = max(part[2] + part[0].shape[0] for part in parts)
    right = max(part[3] + part[0].shape[1] for part in parts)
    mask = np.full((bottom - top, right - left), 255, dtype=np.uint8)
    confidence = np.zeros_like(mask)
    for ids, sure, row, col in parts[::-1]:  # the winner last, over all others
        for i in range(ids.shape[0]):
            at = np.s_[row - top + i, col - left : col - left + ids.shape[1]]
            wins = ids[i] != 255
            if rule == "confidence":
                wins &= (mask[at] == 255) | (sure[i] >= confidence[at])
            mask[at] = np.where(wins, ids[i], mask[at])
            confidence[at] = np.where(wins, sure[i], confidence[at])
    return mask, confidence, (LEFT + left * PIXEL, TOP - top * PIXEL)


def assert_equal(run, expected):
    mask, confidence, place = read(run)
    np.testing.assert_array_equal(mask, expected[0])
    np.testing.assert_array_equal(confidence, expected[1])
    assert (place.c, place.f) == expected[2]
    assert (place.a, place.e) == (PIXEL, -PIXEL)


@pytest.fixture(scope="module")
def mosaics(scenes, linear, tmp_path_factory):
    """A mosaic by each rule, in blocks of 512 px."""
    root = tmp_path_factory.mktemp("mosaics")
    return {
        rule: map_scenes(scenes, root / rule, linear, "--mosaic", rule, "-c", "block=512")
        for rule in RULES
    }


@pytest.mark.parametrize("rule", RULES)
def test_a_mosaic_is_its_scenes_mapped_alone_and_merged(mosaics, alone, rule):
    expected = merge(alone, rule)
    assert len({merge(alone, other)[0].tobytes() for other in RULES}) == 3
    assert_equal(mosaics[rule], expected)
    assert cog_validate(mosaics[rule] / "rasters" / "mosaic.tif", strict=True)[0]
    assert not [*(mosaics[rule] / "pieces").glob("*")]


@pytest.mark.parametrize("rule", RULES)
def test_the_cut_changes_no_byte(mosaics, scenes, linear, outputs, tmp_path, rule):
    options = ("--mosaic", rule, "-c", "block=1024")
    run = map_scenes(scenes, tmp_path / "run", linear, *options)
    assert outputs(run) == outputs(mosaics[rule])


def test_a_real_network_sees_each_scene_as_it_does_alone(network, tmp_path):
    source = tmp_path / "scenes"
    source.mkdir()
    place = from_origin(LEFT, TOP, PIXEL, PIXEL)
    write(source / "a.tif", (70, 90), place, seed=1)
    write(source / "b.tif", (80, 75), place @ Affine.translation(50, 31), seed=2)
    options = ("--mosaic", "confidence")
    run = map_scenes(source, tmp_path / "run", network, *options)
    parts = {}
    for name, row, col in (("a.tif", 0, 0), ("b.tif", 31, 50)):
        lone = map_scenes(source / name, tmp_path / name, network)
        parts[name] = *read(lone, name)[:2], row, col
    assert_equal(run, merge(parts, "confidence", ("a.tif", "b.tif")))


def test_the_order_of_a_listing_changes_nothing(scenes, linear, outputs, tmp_path):
    found = []
    index = tmp_path / "scenes.txt"
    for number, names in enumerate((NAMES, NAMES[::-1])):
        index.write_text("".join(f"{scenes / name}\n" for name in names))
        run = tmp_path / str(number)
        map_scenes(index, run, linear, "--mosaic", "confidence", "-c", "block=512")
        found.append(outputs(run))
    assert found[0] == found[1]


def test_a_run_that_was_stopped_goes_on(scenes, linear, outputs, mosaics, tmp_path):
    calls = []
    write_block = MosaicJob.write

    def stop(self, shard, results):
        calls.append(shard.index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write_block(self, shard, results)

    options = ("--mosaic", "recent", "-c", "block=512")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MosaicJob, "write", stop)
        map_scenes(scenes, tmp_path / "run", linear, *options, code=130)
    assert command("verify", tmp_path / "run") == 4
    map_scenes(scenes, tmp_path / "run", linear, *options)
    assert outputs(tmp_path / "run") == outputs(mosaics["recent"])


@pytest.mark.parametrize("rule", RULES)
def test_a_mosaic_can_be_proven_and_looked_at(mosaics, capsys, tmp_path, rule):
    run = mosaics[rule]
    assert command("verify", run, "--deep") == 0
    capsys.readouterr()
    assert command("status", run, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    mask, _, _ = read(run)
    assert found["items"] == 4
    assert found["pixels"]["done"] == (mask != 255).sum()
    assert sum(found["pixels"].values()) == mask.size
    assert command("export", "polygons", run, tmp_path / "out.parquet") == 0
    areas = pq.read_table(tmp_path / "out.parquet")["area_m2"].to_numpy()
    assert areas.sum() == pytest.approx((mask != 255).sum() * PIXEL**2, rel=2e-3)


def test_a_file_that_was_changed_is_noticed(mosaics, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(mosaics["first"], run)
    path = run / "plan.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    lost = next(i for i, row in enumerate(rows) if row["key"] == "c.tif")
    pq.write_table(pa.Table.from_pylist(rows[:lost] + rows[lost + 1 :], table.schema), path)
    assert command("verify", run) == 5


def test_the_output_says_what_it_is_made_of(mosaics, scenes):
    item = json.loads((mosaics["recent"] / "rasters" / "mosaic.json").read_text())
    found = item["properties"]
    assert (found["atrous:mosaic"], found["atrous:scenes"]) == ("recent", 4)
    assert found["atrous:first_scenes"] == [str(scenes / name) for name in NAMES]
    (source,) = [one["href"] for one in item["links"] if one["rel"] == "derived_from"]
    assert source == str(scenes)
    with rasterio.open(mosaics["recent"] / "rasters" / "mosaic.tif") as raster:
        tags = raster.tags()
    assert tags["ATROUS_SCENES"] == "4"
    assert tags["ATROUS_FIRST_SCENES"].splitlines() == found["atrous:first_scenes"]
    plan = pq.read_table(mosaics["recent"] / "plan.parquet").to_pylist()
    assert {row["key"] for row in plan} == {"mosaic.tif", *NAMES}


def test_a_grid_can_be_chosen(scenes, linear, tmp_path):
    options = ("--mosaic", "first", "-c", "crs=EPSG:3857", "-c", "resolution=2.5")
    run = map_scenes(scenes, tmp_path / "run", linear, *options)
    mask, _, place = read(run)
    with rasterio.open(run / "rasters" / "mosaic.tif") as source:
        assert source.crs == "EPSG:3857"
    assert (place.a, place.e, place.c % 2.5, place.f % 2.5) == (2.5, -2.5, 0, 0)
    lone = map_scenes(scenes / "a.tif", tmp_path / "a", linear, *options[2:])
    first, _, own = read(lone, "a.tif")
    row, col = round((place.f - own.f) / 2.5), round((own.c - place.c) / 2.5)
    part = mask[row : row + first.shape[0], col : col + first.shape[1]]
    np.testing.assert_array_equal(part[first != 255], first[first != 255])


def letters(run):
    rows = pq.read_table(run / "dead_letter.parquet").to_pylist()
    return [(row["key"], row["row"], row["col"], row["code"]) for row in rows]


def lose(patch, *lost):
    """Make scenes time out."""
    read_scene = mosaic_job.read_scene

    def read(spec, item, grid, window):
        if item.key in lost:
            raise ItemError("timed_out", "too slow")
        return read_scene(spec, item, grid, window)

    patch.setattr(mosaic_job, "read_scene", read)


@pytest.mark.parametrize("rule", RULES)
def test_a_scene_that_is_lost_is_found_by_a_retry(  # noqa: PLR0913, PLR0917
    scenes, linear, alone, mosaics, tmp_path, capsys, rule
):
    run, options = tmp_path / "run", ("--mosaic", rule, "-c", "block=512")
    with pytest.MonkeyPatch.context() as patch:
        lose(patch, "b.tif", "d.tif")
        map_scenes(scenes, run, linear, *options, code=3)
    assert {letter[0] for letter in letters(run)} <= {"b.tif", "d.tif"}
    assert {letter[3] for letter in letters(run)} == {"timed_out"}
    left = merge(alone, rule, ("a.tif", "c.tif"))[0]
    full = merge(alone, rule)
    found = read(run)[0]
    np.testing.assert_array_equal(found[: left.shape[0], : left.shape[1]], left)
    assert command("verify", run, "--deep") == 0
    with pytest.MonkeyPatch.context() as patch:
        lose(patch, "d.tif")
        assert command("retry", run, "--local") == 3
    assert {letter[0] for letter in letters(run)} == {"d.tif"}
    assert command("verify", run, "--deep") == 0
    assert command("retry", run, "--local") == 0
    assert command("verify", run, "--deep") == 0
    assert_equal(run, full)
    assert not [*(run / "pieces").glob("*")]
    links = json.loads((run / "rasters" / "collection.json").read_text())["links"]
    assert [one["href"] for one in links if one["rel"] == "item"] == ["./mosaic.json"]
    capsys.readouterr()
    command("status", run, "--json")
    pixels = json.loads(capsys.readouterr().out)["pixels"]
    command("status", mosaics[rule], "--json")
    assert pixels == json.loads(capsys.readouterr().out)["pixels"]
    assert command("clean", run, "--json", "--older-than", "0") == 0
    assert json.loads(capsys.readouterr().out)["leftovers"] == []


def test_blocks_of_lost_scenes_alone_are_dead(scenes, linear, tmp_path, capsys):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        lose(patch, *NAMES)
        map_scenes(scenes, run, linear, "--mosaic", "first", code=3)
    assert len(letters(run)) == 4
    capsys.readouterr()
    command("status", run, "--json")
    pixels = json.loads(capsys.readouterr().out)["pixels"]
    assert pixels["done"] == pixels["nodata"] == 0 < pixels["dead"]
    assert command("verify", run, "--deep") == 0
    assert command("retry", run, "--local") == 0
    assert command("verify", run, "--deep") == 0


@pytest.fixture
def odd(scenes, tmp_path):
    """The scenes, and some that have no place in a mosaic."""
    source = tmp_path / "odd"
    shutil.copytree(scenes, source)
    (source / "0.tif").write_bytes(b"no raster")
    write(source / "e.tif", (20, 20), from_origin(1, 2, 1, 1), crs=None)
    return source


def test_what_cannot_be_part_of_it_is_a_dead_letter(odd, linear, alone, tmp_path):
    run = map_scenes(odd, tmp_path / "run", linear, "--mosaic", "confidence", code=3)
    expected = [("0.tif", None, None, "undecodable"), ("e.tif", None, None, "unsupported")]
    assert letters(run) == expected
    assert_equal(run, merge(alone, "confidence"))
    assert command("verify", run, "--deep") == 0
    assert command("retry", run, "--local") == 3
    assert {code for *_, code in letters(run)} == {"unsupported"}
    assert command("verify", run) == 0


def test_nothing_to_be_part_of_it_is_refused(odd, linear, tmp_path, capsys):
    for name in NAMES:
        (odd / name).unlink()
    map_scenes(odd, tmp_path / "run", linear, "--mosaic", "first", code=2)
    error = capsys.readouterr().err
    assert "none of 2 scenes under" in error
    assert error.count("\n") == 1


def test_scenes_that_lie_too_far_apart_are_refused(linear, tmp_path, capsys):
    write(tmp_path / "a.tif", (20, 20), from_origin(400_000, 5_800_000, 0.01, 0.01))
    write(tmp_path / "b.tif", (20, 20), from_origin(450_000, 5_700_000, 0.01, 0.01))
    map_scenes(tmp_path, tmp_path / "run", linear, "--mosaic", "first", code=2)
    assert "the mosaic would have 5000020 x 10000020 px" in capsys.readouterr().err


def test_an_index_says_when_scenes_were_taken(scenes, linear, alone, tmp_path):
    times = {"a.tif": 2025, "b.tif": 2001, "c.tif": 2002, "d.tif": 2003}
    features = [
        {
            "type": "Feature",
            "properties": {"datetime": f"{year}-01-01T00:00:00Z"},
            "assets": {"data": {"href": str(scenes / name), "roles": ["data"]}},
        }
        for name, year in times.items()
    ]
    index = tmp_path / "scenes.json"
    index.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    run = map_scenes(index, tmp_path / "run", linear, "--mosaic", "recent")
    ordered = {name: alone[name] for name in ("a.tif", "d.tif", "c.tif", "b.tif")}
    assert_equal(run, merge(ordered, "first", tuple(ordered)))


def test_a_scene_without_a_time_cannot_be_the_most_recent(
    scenes, linear, alone, tmp_path, capsys
):
    source = tmp_path / "scenes"
    shutil.copytree(scenes, source)
    with rasterio.open(source / "a.tif", "r+") as target:
        target.update_tags(TIFFTAG_DATETIME="yesterday")
    run = map_scenes(source, tmp_path / "run", linear, "--mosaic", "recent", code=3)
    assert letters(run) == [("a.tif", None, None, "unsupported")]
    assert_equal(run, merge(alone, "recent", ("b.tif", "c.tif", "d.tif")))
    for name in ("b.tif", "c.tif", "d.tif"):
        (source / name).unlink()
    map_scenes(source, tmp_path / "none", linear, "--mosaic", "recent", code=2)
    assert "nothing says when it was taken" in capsys.readouterr().err


def test_settled_blocks_need_no_further_scene(scenes, linear, tmp_path, monkeypatch):
    source = tmp_path / "scenes"
    source.mkdir()
    for name in ("a.tif", "b.tif", "c.tif"):
        shutil.copy(scenes / "b.tif", source / name)
    with rasterio.open(source / "a.tif", "r+", IGNORE_COG_LAYOUT_BREAK=True) as target:
        target.write(np.full((3, *target.shape), 9, dtype=np.uint8))
    asked = []
    read_scene = mosaic_job.read_scene

    def watch(spec, item, grid, window):
        asked.append(item.key)
        return read_scene(spec, item, grid, window)

    monkeypatch.setattr(mosaic_job, "read_scene", watch)
    map_scenes(source, tmp_path / "run", linear, "--mosaic", "first")
    assert "a.tif" in asked
    assert "c.tif" not in asked
    assert command("verify", tmp_path / "run", "--deep") == 0


def test_an_area_limits_a_mosaic(scenes, linear, alone, tmp_path, capsys):
    west, south, east, north = (LEFT + 40, TOP - 200, LEFT + 260, TOP - 60)
    lons, lats = transform(UTM, "EPSG:4326", [west, east], [south, north])
    box = ",".join(f"{value:.8f}" for value in (lons[0], lats[0], lons[1], lats[1]))
    options = ("--mosaic", "confidence", "--aoi", box)
    run = map_scenes(scenes, tmp_path / "run", linear, *options)
    assert "scenes touch the area's bounds" in capsys.readouterr().err
    mask, _, place = read(run)
    whole, _, (left, top) = merge(alone, "confidence")
    row, col = round((top - place.f) / PIXEL), round((place.c - left) / PIXEL)
    part = whole[row : row + mask.shape[0], col : col + mask.shape[1]]
    np.testing.assert_array_equal(mask[mask != 255], part[mask != 255])
    assert abs(mask.shape[0] - 280) < 20
    assert abs(mask.shape[1] - 440) < 20
    assert (mask != 255).mean() > 0.9 * (part != 255).mean()
    assert command("verify", run, "--deep") == 0


def test_a_plan_counts_scenes_and_pixels(scenes, linear, mosaics, capsys):
    options = ("--bundle", linear, "--mosaic", "first", "--json", "-c", "block=512")
    assert command("plan", "map", scenes, *options) == 0
    found = json.loads(capsys.readouterr().out)
    mask, _, _ = read(mosaics["first"])
    assert (found["items"], found["refused"], found["pixels"]) == (4, 0, mask.size)
    held = json.loads((mosaics["first"] / "job.json").read_text())
    assert found["shards"] == held["plan"]["shards"]


def test_another_rule_is_another_run(mosaics, scenes, linear, capsys):
    map_scenes(
        scenes, mosaics["first"], linear, "--mosaic", "recent", "-c", "block=512", code=2
    )
    assert "holds a run with other options (mosaic first" in capsys.readouterr().err


ODD_PLACES = {
    "rotated": from_origin(LEFT, TOP, 0.7, 0.7) @ Affine.rotation(30),
    "south up": from_origin(LEFT, TOP, 0.7, -0.7),
}


@pytest.mark.parametrize("name", ODD_PLACES)
def test_a_scene_that_is_not_north_up_is_put_so(linear, tmp_path, name):
    write(tmp_path / "a.tif", (120, 150), ODD_PLACES[name], seed=1)
    run = map_scenes(tmp_path / "a.tif", tmp_path / "run", linear, "--mosaic", "first")
    options = ("-c", f"crs={UTM}")
    lone = map_scenes(tmp_path / "a.tif", tmp_path / "alone", linear, *options)
    for found, expected in zip(read(run), read(lone, "a.tif"), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_pixels_need_not_be_square(linear, tmp_path):
    source = tmp_path / "scenes"
    source.mkdir()
    place = from_origin(13.0, 52.0, 0.00002, 0.00001)
    profile = {"crs": "EPSG:4326"}
    write(source / "a.tif", (90, 70), place, seed=1, **profile)
    write(source / "b.tif", (80, 75), place @ Affine.translation(-9, 40), seed=2, **profile)
    run = map_scenes(source, tmp_path / "run", linear, "--mosaic", "first")
    parts = {}
    for name, row, col in (("a.tif", 0, 0), ("b.tif", 40, -9)):
        lone = map_scenes(source / name, tmp_path / name, linear)
        parts[name] = *read(lone, name)[:2], row, col
    mask, confidence, found = read(run)
    expected = merge(parts, "first", ("a.tif", "b.tif"))
    np.testing.assert_array_equal(mask, expected[0])
    np.testing.assert_array_equal(confidence, expected[1])
    assert found.almost_equals(place @ Affine.translation(-9, 0), precision=1e-12)


def test_a_scene_that_changed_is_never_mixed_in(scenes, linear, tmp_path):
    source, run = tmp_path / "scenes", tmp_path / "run"
    shutil.copytree(scenes, source)
    with pytest.MonkeyPatch.context() as patch:
        lose(patch, "b.tif")
        map_scenes(source, run, linear, "--mosaic", "first", code=3)
    before = read(run)[0]
    shutil.copy(scenes / "a.tif", source / "b.tif")
    assert command("retry", run, "--local") == 3
    assert {letter[0::3] for letter in letters(run)} == {("b.tif", "input_changed")}
    np.testing.assert_array_equal(read(run)[0], before)
    assert command("verify", run, "--deep") == 0


def test_control_points_are_a_place(linear, tmp_path):
    path = tmp_path / "a.tif"
    write(path, (120, 150), Affine.identity(), seed=1, crs=None)
    with rasterio.open(path, "r+") as target:
        corners = [(0, 0), (0, 150), (120, 0), (120, 150)]
        points = [
            GroundControlPoint(row, col, LEFT + 0.6 * col, TOP - 0.5 * row - 0.1 * col)
            for row, col in corners
        ]
        target.gcps = points, rasterio.crs.CRS.from_string(UTM)
    run = map_scenes(path, tmp_path / "run", linear, "--mosaic", "first")
    lone = map_scenes(path, tmp_path / "alone", linear, "-c", f"crs={UTM}")
    for found, expected in zip(read(run), read(lone, "a.tif"), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (read(run)[0] != 255).mean() > 0.5
