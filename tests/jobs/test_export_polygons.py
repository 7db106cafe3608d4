"""``atrous export polygons``, read back by other libraries."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint
from rasterio.features import rasterize, shapes

from jobs.outputs import vectors

NAMES = [f"class {i}" for i in range(4)]


@pytest.fixture
def plan_map(build_map, make_spec, write_raster, local, tmp_path):
    """A map of narrow rasters, each of a CRS, in two blocks of noise; not begun."""

    def make(*crs, name="map", place=local, size=(514, 8), **more):
        for number, one in enumerate(crs):
            pixels = np.ones((3, *size), dtype=np.uint8)
            write_raster(pixels, f"{name}/{number}.tif", crs=one, **more)
        fields = {"source": str(tmp_path / name), "run": place.at(name)}
        access = place.store._access
        spec = make_spec(job="map", block=512, access=access, **fields)
        return dataclasses.replace(
            build_map(place), store=place.store, run=spec.run, spec=spec
        )

    return make


@pytest.fixture
def map_rasters(plan_map):
    """Map small rasters, each of a CRS: their run folder."""

    def make(name, *crs, **more):
        one = plan_map(*crs, name=name, size=(20, 30), **more)
        one.work_off(one.start())
        return one.run

    return make


@pytest.fixture
def built(plan_map, tmp_path):
    """A map that is done, but for a file that is no raster."""
    one = plan_map("EPSG:32633")
    (tmp_path / "map" / "bad.tif").write_bytes(b"no raster")
    one.work_off(one.start())
    return one


@pytest.fixture
def export(run, tmp_path):
    """Export a run to a file: what ``--json`` prints, the file, and stderr."""

    def call(folder, *options, name="out.parquet", code=0):
        out = tmp_path / name
        got, printed, told = run("export", "polygons", folder, out, *options, "--json")
        assert got == code, told
        return json.loads(printed) if not code else None, out, told

    return call


def add_confidence(one, name="0.tif"):
    """As a run with confidence leaves it: a second COG, in the same record."""
    with rasterio.open(one.at("rasters", name)) as mask:
        profile = mask.profile | {"nodata": 0}
        values = np.random.default_rng(4).integers(1, 256, mask.shape, dtype=np.uint8)
        values[mask.read(1) == 255] = 0
        values[:40, :40] = 0
    path = Path(one.at("confidence", name))
    path.parent.mkdir()
    with rasterio.open(path, "w", **profile) as target:
        target.write(values, 1)
    more = {"name": f"confidence/{name}", "size": path.stat().st_size, "sha256": "0" * 64}
    task = f"ledger/tasks/{name}.json"
    one.edit(task, lambda fields: fields["outputs"].append(more))
    return values


def read_mask(one, name="0.tif"):
    with rasterio.open(one.at("rasters", name)) as mask:
        return mask.read(1), mask.transform, mask.crs


def read_back(path):
    """Columns and shapely polygons, by pyarrow."""
    table = pq.read_table(path)
    return table.to_pydict(), shapely.from_wkb(table["geometry"].to_numpy())


def normal(polygon):
    return shapely.to_wkb(shapely.normalize(polygon))


def test_the_file_holds_what_rasterio_finds_in_the_whole_cog(built, export):
    found, out, told = export(built.run)
    columns, polygons = read_back(out)
    mask, transform, crs = read_mask(built)
    twin = Counter(
        (int(value), normal(shapely.geometry.shape(outline)))
        for outline, value in shapes(mask, mask=mask < 254, transform=transform)
    )
    assert Counter(zip(columns["class_id"], map(normal, polygons), strict=True)) == twin
    assert set(columns["class_name"]) == set(NAMES)
    assert set(columns["raster"]) == {"0.tif"}
    assert columns["confidence"] == [None] * len(polygons)
    assert found["polygons"] == len(polygons) == twin.total()
    assert "1 dead letters" in told
    # Area by class: on the ellipsoid, against the pixels and the scale of UTM there.
    pixel = (
        0.25
        / pyproj.Proj(crs.to_wkt())
        .get_factors(
            *pyproj.Transformer.from_crs(crs.to_wkt(), 4326, always_xy=True).transform(
                *(transform * (4, 257))
            )
        )
        .areal_scale
    )
    areas = Counter()
    for name, area in zip(columns["class_name"], columns["area_m2"], strict=True):
        areas[name] += area
    for number, name in enumerate(NAMES):
        assert areas[name] == pytest.approx((mask == number).sum() * pixel, rel=1e-6)
        assert found["classes"][name]["area_m2"] == pytest.approx(areas[name])


def test_the_metadata_are_those_of_geoparquet(built, export):
    _, out, _ = export(built.run)
    geo = json.loads(pq.read_metadata(out).metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert pyproj.CRS.from_json_dict(column["crs"]) == pyproj.CRS.from_epsg(32633)
    columns, polygons = read_back(out)
    assert column["bbox"] == list(shapely.total_bounds(polygons))
    for side, path in column["covering"]["bbox"].items():
        own = [box[path[1]] for box in columns[path[0]]]
        assert own == list(
            shapely.bounds(polygons)[:, ["xmin", "ymin", "xmax", "ymax"].index(side)]
        )
    assert column["orientation"] == "counterclockwise"
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()


def test_gdal_reads_flatgeobuf_and_geojson(built, export):
    columns, polygons = read_back(export(built.run)[1])
    _, out, _ = export(built.run, name="out.fgb")
    meta, _, wkb, fields = pyogrio.raw.read(out)
    assert pyproj.CRS.from_user_input(meta["crs"]) == pyproj.CRS.from_epsg(32633)
    assert meta["geometry_type"] == "Polygon"
    assert Counter(map(normal, shapely.from_wkb(wkb))) == Counter(map(normal, polygons))
    by_name = dict(zip(meta["fields"], fields, strict=True))
    assert sorted(by_name["area_m2"]) == sorted(columns["area_m2"])
    _, out, _ = export(built.run, name="out.geojson")
    meta, _, wkb, _ = pyogrio.raw.read(out)
    assert pyproj.CRS.from_user_input(meta["crs"]) == pyproj.CRS.from_epsg(4326)
    there = shapely.from_wkb(wkb)
    to_utm = pyproj.Transformer.from_crs(4326, 32633, always_xy=True)
    back = shapely.transform(
        there, lambda points: np.stack(to_utm.transform(*points.T), axis=1)
    )
    assert shapely.area(back).sum() == pytest.approx(shapely.area(polygons).sum(), rel=1e-6)
    assert shapely.total_bounds(back) == pytest.approx(
        shapely.total_bounds(polygons), abs=1e-3
    )
    text = out.read_text()
    assert "\n" not in text
    first = json.loads(text)["features"][0]
    assert set(first["properties"]) == set(columns) - {"geometry", "bbox"}
    assert shapely.is_ccw(shapely.get_exterior_ring(there)).all()


def test_confidence_is_the_mean_over_the_pixels_that_have_one(built, export):
    values = add_confidence(built)
    _, out, _ = export(built.run)
    columns, polygons = read_back(out)
    mask, transform, _ = read_mask(built)
    numbers = rasterize(
        zip(polygons, range(1, len(polygons) + 1), strict=True),
        out_shape=mask.shape,
        transform=transform,
        dtype=np.int32,
    )
    known = np.bincount(numbers[values > 0], minlength=len(polygons) + 1)[1:]
    total = np.bincount(numbers.ravel(), weights=values.ravel())[1:]
    assert (known == 0).any()
    for given, n, sum_ in zip(columns["confidence"], known, total, strict=True):
        assert given == (None if n == 0 else pytest.approx(sum_ / n / 255, rel=1e-12))


def test_what_is_small_or_not_asked_for_is_left_out(built, export):
    columns, _ = read_back(export(built.run)[1])
    found, out, _ = export(
        built.run,
        "--min-area",
        "1",
        "--class",
        "class 1",
        "--class",
        "class 3",
        "--overwrite",
    )
    fewer, _ = read_back(out)
    wanted = [
        area
        for area, name in zip(columns["area_m2"], columns["class_name"], strict=True)
        if name in {"class 1", "class 3"}
    ]
    assert sorted(fewer["area_m2"]) == sorted(area for area in wanted if area >= 1)
    assert found["left_out"] == sum(area < 1 for area in wanted) > 0


def test_simplified_polygons_cover_the_same_ground(built, export):
    _, plain = read_back(export(built.run)[1])
    _, simple = read_back(export(built.run, "--simplify", "1.5", name="s.parquet")[1])
    assert len(plain) == len(simple)
    assert shapely.is_valid(simple).all()
    counts = [shapely.get_num_coordinates(one).sum() for one in (plain, simple)]
    assert counts[1] < counts[0]
    assert shapely.union_all(simple).area == pytest.approx(
        shapely.area(simple).sum(), rel=1e-9
    )


def test_dead_blocks_are_gaps_until_a_retry_fills_them(plan_map, export):
    one = plan_map("EPSG:32633")
    one.work_off(one.start(), dead={0})
    _, polygons = read_back(export(one.run, name="dead.parquet")[1])
    hole = shapely.box(390_000, 5_820_000 - 256, 390_004, 5_820_000)
    assert shapely.area(shapely.intersection(polygons, hole)).sum() == 0
    planned = one.retry()
    assert export(one.run, name="no.parquet", code=4)[2].count("not finished") == 1
    one.work_off(planned)
    _, polygons = read_back(export(one.run, name="done.parquet")[1])
    assert shapely.area(shapely.intersection(polygons, hole)).sum() > 0
    mask, _, _ = read_mask(one)
    assert shapely.area(polygons).sum() == pytest.approx((mask < 254).sum() / 4)


def test_rasters_of_one_crs_keep_it_and_others_meet_in_wgs84(map_rasters, export):
    alike = map_rasters("alike", "EPSG:32633", "EPSG:32633")
    assert export(alike, name="a.parquet")[0]["crs"] == "EPSG:32633"
    assert export(alike, "--crs", "wgs84", name="b.parquet")[0]["crs"] == "OGC:CRS84"
    other = map_rasters("other", "EPSG:32633", "EPSG:32634")
    found, out, _ = export(other, name="c.parquet")
    assert found["crs"] == "OGC:CRS84"
    bounds = shapely.total_bounds(read_back(out)[1])
    assert 13 < bounds[0] < 14
    assert 19 < bounds[2] < 20
    assert "different CRS" in export(other, "--crs", "source", name="d.parquet", code=2)[2]


def test_a_raster_without_crs_has_no_areas(map_rasters, export):
    bare = map_rasters("bare", None)
    found, out, told = export(bare)
    assert "has no CRS" in told
    assert found["crs"] is None
    geo = json.loads(pq.read_metadata(out).metadata[b"geo"])
    assert geo["columns"]["geometry"]["crs"] is None
    assert set(read_back(out)[0]["area_m2"]) == {None}
    assert {one["area_m2"] for one in found["classes"].values()} == {None}
    for wrong in (("--min-area", "5"), ("--crs", "wgs84")):
        assert wrong[0] in export(bare, *wrong, name="b.parquet", code=2)[2]
    mixed = map_rasters("mixed", None, "EPSG:32633")
    assert "1 of 2 rasters have no CRS" in export(mixed, name="g.parquet", code=2)[2]


def test_a_raster_with_control_points_alone_is_refused(map_rasters, export):
    points = [
        GroundControlPoint(row=r, col=c, x=13 + c / 1e4, y=50 - r / 1e4)
        for r, c in ((0, 0), (0, 30), (20, 0))
    ]
    bent = map_rasters("bent", "EPSG:4326", gcps=points, transform=None)
    assert "control points" in export(bent, code=2)[2]


def test_commands_that_are_wrong_say_why(built, build_label, local, export, tmp_path):
    assert "holds no run" in export(tmp_path / "none", code=2)[2]
    assert "must end in" in export(built.run, name="out.shp", code=2)[2]
    assert "has no class 'sea'" in export(built.run, "--class", "sea", code=2)[2]
    assert (
        "always WGS 84" in export(built.run, "--crs", "source", name="o.geojson", code=2)[2]
    )
    export(built.run)
    before = (tmp_path / "out.parquet").read_bytes()
    assert "--overwrite" in export(built.run, code=2)[2]
    assert (tmp_path / "out.parquet").read_bytes() == before
    (tmp_path / "file").write_bytes(b"")
    assert "cannot be written" in export(built.run, name="file/a.parquet", code=2)[2]
    label = build_label(local)
    label.work_off(label.start())
    assert "label run" in export(label.run, name="l.parquet", code=2)[2]
    built.write("rasters/0.tif", built.read("rasters/0.tif") + b"0")
    assert "atrous verify" in export(built.run, name="v.parquet", code=2)[2]
    built.remove("_SUCCESS")
    assert "not finished" in export(built.run, name="u.parquet", code=4)[2]
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert left == []


def test_too_many_polygons_for_flatgeobuf(built, export, monkeypatch, tmp_path):
    monkeypatch.setattr(vectors, "MOST_IN_FLATGEOBUF", 10)
    assert "at most 10 polygons" in export(built.run, name="out.fgb", code=2)[2]
    assert not (tmp_path / "out.fgb").exists()


def test_what_is_not_installed_is_named(built, export, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "shapely" else find(name)
    )
    assert "pip install 'atrous[vectors]'" in export(built.run, code=2)[2]


@pytest.mark.s3
def test_a_run_in_a_bucket_goes_to_a_file_in_a_bucket(
    plan_map, remote, run, s3_server, export
):
    one = plan_map("EPSG:32633", place=remote)
    one.work_off(one.start())
    _, out, _ = export(one.run, "--endpoint-url", s3_server)
    there = remote.at("out.parquet")
    words = ("export", "polygons", one.run, there, "--endpoint-url", s3_server)
    assert run(*words)[0] == 0
    assert remote.store.read(there) == out.read_bytes()
    assert run(*words)[0] == 2
    assert run(*words, "--overwrite")[0] == 0
