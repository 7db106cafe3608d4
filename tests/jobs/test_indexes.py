"""pystac and plain pyarrow write the indexes that ours reads."""

import datetime as dt
import io
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest

from jobs.errors import InputError
from jobs.inputs import indexes
from jobs.inputs.sources import RASTER_SUFFIXES
from jobs.inputs.sources import find_items as iterate_items
from jobs.map_job import MapJob
from jobs.spec import Pick

NAMES = ["b/two.tif", "a/one.tif", "b/one.tif"]


def read_index(location, data, pick):
    """What an index of these bytes names, in order, each once."""
    return sorted(set(indexes.read_index(location, io.BytesIO(data), pick)))


def read_dates(location, data, pick):
    return indexes.read_dates(location, io.BytesIO(data), pick)


def find_items(*arguments, **options):
    return list(iterate_items(*arguments, **options))


def item_of(name, href, **assets):
    """A STAC Item with a thumbnail, as pystac writes it."""
    when = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    item = pystac.Item(name, {"type": "Point", "coordinates": [0, 0]}, [0] * 4, when, {})
    given = {"data": pystac.Asset(href, roles=["data"], media_type=pystac.MediaType.COG)}
    small = pystac.Asset("./t.png", roles=["thumbnail"], media_type="image/png")
    for key, asset in (given | assets | {"thumbnail": small}).items():
        item.add_asset(key, asset)
    return item.to_dict(include_self_link=False, transform_hrefs=False)


def collection_of(hrefs):
    items = [item_of(str(number), href) for number, href in enumerate(hrefs)]
    return {"type": "FeatureCollection", "features": items}


def parquet_of(rows, **options):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


def as_json(hrefs):
    return json.dumps(collection_of(hrefs)).encode()


def as_tile_index(hrefs):
    """As gdaltindex writes it."""
    features = [
        {"type": "Feature", "geometry": None, "properties": {"location": href, "id": i}}
        for i, href in enumerate(hrefs)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(hrefs):
    rows = "".join(f'{number},"{href}"\r\n' for number, href in enumerate(hrefs))
    return b"\xef\xbb\xbf" + f"id,URI\r\n{rows}".encode()


FORMS = {
    "an ItemCollection": ("x.json", as_json),
    "a tile index": ("x.geojson", as_tile_index),
    "a list": ("x.json", lambda hrefs: json.dumps(hrefs).encode()),
    "lines of text": ("x.txt", lambda hrefs: ("\n\n".join(hrefs) + " \n").encode()),
    "lines of JSON text": ("x.jsonl", as_lines),
    "lines of objects": (
        "x.ndjson",
        lambda hrefs: as_lines({"n": 1, "href": href} for href in hrefs),
    ),
    "lines of Items": ("x.jsonl", lambda hrefs: as_lines(collection_of(hrefs)["features"])),
    "CSV": ("x.CSV", as_csv),
    "Parquet": (
        "x.parquet",
        lambda hrefs: parquet_of([{"geometry": b"", "location": href} for href in hrefs]),
    ),
    "Parquet, dictionaries": (
        "x.parquet",
        lambda hrefs: parquet_of(
            [{"n": 1, "url": href} for href in hrefs], row_group_size=2
        ),
    ),
    "stac-geoparquet": (
        "x.parquet",
        lambda hrefs: parquet_of(collection_of(hrefs)["features"]),
    ),
}


@pytest.fixture
def scenes(place):
    for number, name in enumerate(NAMES):
        place.store.create(place.at("scenes", name), bytes(number + 1))
    return place


@pytest.mark.parametrize("form", FORMS)
def test_each_form_names_the_same_items(scenes, form):
    name, write = FORMS[form]
    hrefs = [*(f"../scenes/{name}" for name in NAMES), scenes.at("scenes/a/one.tif")]
    scenes.store.create(scenes.at("lists", name), write(hrefs))
    items = find_items(scenes.store, scenes.at("lists", name), RASTER_SUFFIXES, limit=None)
    assert [(item.key, item.size) for item in items] == [
        ("a/one.tif", 2),
        ("b/one.tif", 3),
        ("b/two.tif", 1),
    ]
    for item in items:
        stat = scenes.store.stat(item.uri)
        assert (item.uri, item.size, item.etag) == (stat.uri, stat.size, stat.etag)


def test_the_limit_takes_the_first_and_keeps_the_keys(scenes):
    scenes.store.create(
        scenes.at("x.txt"), "\n".join(f"scenes/{n}" for n in NAMES).encode()
    )
    items = find_items(scenes.store, scenes.at("x.txt"), RASTER_SUFFIXES, limit=1)
    assert [item.key for item in items] == ["a/one.tif"]


@pytest.mark.parametrize(
    ("uris", "keys"),
    [
        (["s3://b/a.tif"], ["a.tif"]),
        (["s3://b/x/a.tif", "s3://b/y/a.tif"], ["x/a.tif", "y/a.tif"]),
        (["s3://b/x1/a.tif", "s3://b/x2/a.tif"], ["x1/a.tif", "x2/a.tif"]),
        (["s3://b/a", "s3://b/a/b.tif"], ["a", "a/b.tif"]),
        (["s3://b/a.tif", "s3://c/a.tif"], ["b/a.tif", "c/a.tif"]),
        (["/a.tif", "s3://b/a.tif"], ["/a.tif", "s3://b/a.tif"]),
        (["s3://b/x//a.tif", "s3://b/x/a.tif"], ["/a.tif", "a.tif"]),
    ],
)
def test_keys_are_below_the_deepest_common_folder(monkeypatch, local, uris, keys):
    monkeypatch.setattr("jobs.inputs.sources.refresh", lambda _, item: item)
    local.store.create(local.at("x.txt"), "\n".join(uris).encode())
    items = find_items(local.store, local.at("x.txt"), (), limit=None)
    assert [item.key for item in items] == keys
    assert [item.uri for item in items] == sorted(uris)


def test_what_is_not_there_is_a_dead_letter_of_the_plan(make_spec, write_raster, tmp_path):
    write_raster(np.ones((3, 20, 30), np.uint8), "scenes/here.tif")
    index = tmp_path / "x.csv"
    index.write_text("uri\nscenes/here.tif\nscenes/gone.tif\nscenes/here.tif\n")
    spec = make_spec(job="map", source=str(index), block=512)
    gone, here = MapJob(spec=spec).plan()
    assert (gone.refusal.code, gone.items[0].key) == ("not_found", "gone.tif")
    assert (here.refusal, here.items[0].key) == (None, "here.tif")


@pytest.mark.parametrize("command", ["map", "label"])
def test_commands_take_indexes(run, write_raster, tmp_path, command):
    write_raster(np.ones((3, 20, 30), np.uint8), "scenes/here.tif")
    index = tmp_path / "x.csv"
    index.write_text("uri,place\nnowhere,scenes/here.tif\n")
    code, out, _ = run(
        "plan", command, index, "--bundle", "demo", "--json", "-c", "source_column=place"
    )
    assert code == 0
    assert (json.loads(out)["items"], json.loads(out)["pixels"]) == (1, 600)


def test_a_choice_without_an_index_is_refused(run, tmp_path):
    (tmp_path / "a.tif").touch()
    code, _, err = run("plan", "map", tmp_path, "--bundle", "demo", "-c", "asset=data")
    assert code == 2
    assert "choose from an index" in err


# Columns and assets


def two_images(name, href):
    other = pystac.Asset("other.tif", media_type=pystac.MediaType.GEOTIFF)
    return item_of(name, href, visual=other)


def bands(*roles):
    item = item_of("a", "red.tif", nir=pystac.Asset("nir.tif", roles=["data"]))
    item["assets"]["data"]["roles"] = list(roles)
    return item


@pytest.mark.parametrize(
    ("item", "asset", "expected"),
    [
        (item_of("a", "one.tif"), None, "one.tif"),
        (two_images("a", "one.tif"), None, "one.tif"),
        (two_images("a", "one.tif"), "visual", "other.tif"),
        (bands("data"), None, "red.tif"),  # the only one of both that is a TIFF
        (bands("data"), "nir", "nir.tif"),
        (bands("overview"), None, "nir.tif"),
    ],
)
def test_the_asset_is_the_one_that_can_be_meant(item, asset, expected):
    for name, data in (
        ("x.json", json.dumps(item).encode()),
        ("x.jsonl", as_lines([item])),
        ("x.parquet", parquet_of([item])),
    ):
        assert read_index(f"/i/{name}", data, Pick(asset=asset)) == [f"/i/{expected}"]


def test_an_asset_is_never_guessed():
    item = bands("data")
    del item["assets"]["data"]["type"]
    for name, data in (
        ("x.json", json.dumps(item).encode()),
        ("x.parquet", parquet_of([item])),
    ):
        with pytest.raises(InputError) as caught:
            read_index(f"/i/{name}", data, Pick())
        assert str(caught.value) == (
            f"row 1 of /i/{name} has not one asset of role data or type image/tiff, it has "
            "data, nir, thumbnail; name one of them with -c asset=NAME"
        )
        with pytest.raises(InputError, match=r"has no asset swir, it has data, nir, thumb"):
            read_index(f"/i/{name}", data, Pick(asset="swir"))


def test_a_column_is_never_guessed():
    row = {"id": "1", "scene": "a.tif"}
    for name, data in (
        ("x.csv", b"id,scene\n1,a.tif\n"),
        ("x.jsonl", as_lines([row])),
        ("x.parquet", parquet_of([row])),
    ):
        with pytest.raises(
            InputError, match=r"has no column uri, .* it has id, scene; name"
        ):
            read_index(f"/i/{name}", data, Pick())
        with pytest.raises(InputError, match=r"has no column img, it has id, scene; name"):
            read_index(f"/i/{name}", data, Pick(column="img"))
        assert read_index(f"/i/{name}", data, Pick(column="scene")) == ["/i/a.tif"]


def test_the_only_column_needs_no_name():
    assert read_index("/i/x.csv", b"scene\na.tif\n", Pick()) == ["/i/a.tif"]


# What an index must not do


@pytest.mark.parametrize(
    ("index", "href", "message"),
    [
        ("s3://b/i/x.txt", "/etc/passwd", "a local path in an index that lies in S3"),
        ("s3://b/i/x.txt", "../../../etc/passwd", "no object of a bucket"),
        ("s3://b/i/x.txt", "../../c/a.tif", "no object of a bucket"),
        ("s3://b/i/x.txt", "..", "no object of a bucket"),
        ("s3://b/i/x.txt", "file:///etc/passwd", "an index may name s3://bucket/key and"),
        ("/i/x.txt", "file:///etc/passwd", "an index may name s3://bucket/key and paths"),
        ("/i/x.txt", "https://host/a.tif", "an index may name s3://bucket/key and paths"),
        ("/i/x.txt", "HTTP://host/a.tif", "an index may name s3://bucket/key and paths"),
        ("/i/x.txt", "S3://bucket/a.tif", "an index may name s3://bucket/key and paths"),
        ("/i/x.txt", "file:/etc/passwd", "an index may name s3://bucket/key and paths"),
        ("/i/x.txt", "/vsicurl/http://host/a.tif", "a name for GDAL alone"),
        ("/i/x.txt", "/vsis3/bucket/a.tif", "a name for GDAL alone"),
        ("/i/x.txt", "s3://", "no object of a bucket"),
        ("/i/x.txt", "s3://bucket", "no object of a bucket"),
        ("/i/x.txt", "s3://bucket/", "no object of a bucket"),
        ("/i/x.txt", "s3://bucket/../a.tif", "no object of a bucket"),
        ("/i/x.txt", "s3://me:key@bucket/a.tif", "must hold no signature"),
        ("/i/x.txt", "s3://b/a.tif?X-Amz-Signature=1", "must hold no signature"),
        ("/i/x.txt", "a\0.tif", "allowed are 4096 letters"),
        ("/i/x.txt", "a\ud800.tif", "allowed are 4096 letters"),
        ("/i/x.txt", "a" * 4097, "allowed are 4096 letters"),
        ("/i/x.txt", "", "names nothing"),
        ("/i/x.txt", None, "names nothing"),
        ("/i/x.txt", 7, "row 2 of /i/x.jsonl"),
        ("/i/x.txt", ["a"], "row 2 of /i/x.jsonl"),
    ],
)
def test_a_row_that_leads_elsewhere_stops_the_plan(index, href, message):
    index = index.replace(".txt", ".jsonl")
    data = as_lines([{"uri": "a.tif"}, {"uri": href}])
    with pytest.raises(InputError) as caught:
        read_index(index, data, Pick())
    assert message in str(caught.value)
    assert "key@" not in str(caught.value)


def test_a_name_of_one_of_gdals_ways_is_a_name():
    data = b"GTIFF_DIR:1:a.tif\nscene:1.tif\n"
    found = read_index("/i/x.txt", data, Pick())
    assert found == ["/i/GTIFF_DIR:1:a.tif", "/i/scene:1.tif"]


@pytest.mark.parametrize(
    "href", ["../a.tif", "./../a.tif", "s3://b/a.tif", "x/../../a.tif"]
)
def test_a_row_may_lead_up_within_its_bucket(href):
    data = json.dumps([href]).encode()
    assert read_index("s3://b/i/x.json", data, Pick()) == ["s3://b/a.tif"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.json", b""),
        ("x.json", b"{"),
        ("x.json", b"[" * 100_000),
        ("x.json", b'{"type": "Collection", "links": []}'),
        ("x.json", b"7"),
        ("x.json", b"[7]"),
        ("x.json", b'["\xff.tif"]'),
        ("x.jsonl", b'"a.tif"\n{'),
        ("x.csv", b""),
        ("x.csv", b'uri\n"a.tif'),
        ("x.csv", b"id,uri\n1\n"),
        ("x.csv", b"uri\n\xff\n"),
        ("x.csv", b"uri\n" + b"a" * 200_000 + b"\n"),
        ("x.parquet", b""),
        ("x.parquet", b"PAR1" + bytes(100) + b"PAR1"),
        ("x.parquet", parquet_of([{"uri": 7}])),
        ("x.parquet", parquet_of([{"uri": None}, {"uri": "a.tif"}])),
        ("x.parquet", parquet_of([{"assets": None}, item_of("a", "a.tif")])),
    ],
)
def test_what_is_damaged_is_refused_by_its_name(name, data):
    with pytest.raises(InputError, match=rf"/i/{name}"):
        read_index(f"/i/{name}", data, Pick())


@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.parquet", "x.txt"])
def test_an_index_of_nothing_is_refused(local, name):
    data = {"x.json": b"[]", "x.csv": b"uri\n", "x.txt": b"\n"}
    empty = pa.table({"uri": pa.array([], pa.string())})
    file = io.BytesIO()
    pq.write_table(empty, file)
    local.store.create(local.at(name), data.get(name, file.getvalue()))
    with pytest.raises(InputError, match="names nothing; check the index"):
        find_items(local.store, local.at(name), (), limit=None)


def test_an_index_that_is_too_large_is_not_read(local, monkeypatch):
    monkeypatch.setattr(indexes, "MAX_JSON_BYTES", 10)
    local.store.create(local.at("x.json"), b'["a.tif", "b.tif"]')
    monkeypatch.setattr(local.store, "save", None)
    with pytest.raises(InputError, match=r"has 18 bytes, an index .* may have 10; cut it"):
        find_items(local.store, local.at("x.json"), (), limit=None)


@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.jsonl"])
def test_a_line_without_an_end_is_not_held(monkeypatch, name):
    monkeypatch.setattr(indexes, "MAX_LINE", 100)
    with pytest.raises(InputError, match=rf"/i/{name} .* a line of more than 100 letters"):
        read_index(f"/i/{name}", b'"uri"\n' * 2 + b'"' + b"a" * 200 + b'"\n', Pick())


def test_rows_and_letters_of_parquet_are_counted(monkeypatch):
    same = parquet_of([{"uri": "a" * 4000}] * 5000)  # kept as one word of a dictionary
    assert len(same) < 50_000
    assert len(read_index("/i/x.parquet", same, Pick())) == 1
    monkeypatch.setattr(indexes, "MAX_BYTES", 2**20)
    with pytest.raises(InputError, match="holds more than locations"):
        read_index("/i/x.parquet", same, Pick())
    monkeypatch.setattr(indexes, "MAX_ROWS", 2)
    with pytest.raises(InputError, match="more than 2 rows"):
        read_dates("/i/x.txt", b"a\nb\nc\n", Pick())


def test_a_hundred_thousand_rows_are_nothing():
    numbers = random.Random(3).sample(range(10**6), k=100_000)
    rows = [{"uri": f"s3://bucket/{number:06d}.tif"} for number in numbers]
    data = parquet_of(rows)
    found = read_index("/i/x.parquet", data, Pick())
    assert found == [f"s3://bucket/{number:06d}.tif" for number in sorted(numbers)]


# When what is named was taken

EAST = dt.timezone(dt.timedelta(hours=2))
TIMES = {
    "s3://b/1.tif": dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    "s3://b/2.tif": dt.datetime(2021, 1, 1, 0, 30, tzinfo=EAST),
    "s3://b/3.tif": None,
}
SAID = {
    "s3://b/1.tif": "2020-01-02T03:04:05.000000+00:00",
    "s3://b/2.tif": "2020-12-31T22:30:00.000000+00:00",
}
TEXTS = [
    {"uri": uri, "datetime": time and time.isoformat().replace("+00:00", "Z")}
    for uri, time in TIMES.items()
]


def items_at():
    items = [item_of(uri, uri) for uri in TIMES]
    for item, row in zip(items, TEXTS, strict=True):
        item["properties"]["datetime"] = row["datetime"]
    return items


DATED = {
    "x.json": json.dumps({"type": "FeatureCollection", "features": items_at()}).encode(),
    "y.json": json.dumps(TEXTS).encode(),
    "x.jsonl": as_lines(TEXTS),
    "x.csv": b"uri,datetime\n"
    + b"".join(f"{row['uri']},{row['datetime'] or ''}\n".encode() for row in TEXTS),
    "x.parquet": parquet_of(TEXTS),
    "y.parquet": parquet_of([{"uri": uri, "datetime": t} for uri, t in TIMES.items()]),
    "z.parquet": parquet_of(
        [
            {"assets": {"data": {"href": uri, "roles": ["data"]}}, "datetime": time}
            for uri, time in TIMES.items()
        ]
    ),
}


@pytest.mark.parametrize("name", DATED)
def test_each_form_says_when_scenes_were_taken(name):
    assert read_index(f"s3://b/{name}", DATED[name], Pick()) == list(TIMES)
    assert read_dates(f"s3://b/{name}", DATED[name], Pick()) == SAID


@pytest.mark.parametrize("said", ["soon", 5, None, True, [2020], "2020-13-01", ""])
def test_what_is_no_time_is_none(said):
    data = json.dumps([{"uri": "s3://b/a", "datetime": said}]).encode()
    assert read_dates("s3://b/x.json", data, Pick()) == {}


def test_the_later_of_two_times_counts():
    rows = [{"uri": "s3://b/a", "datetime": f"{year}-01-01"} for year in (2021, 2023, 2022)]
    found = read_dates("s3://b/x.json", json.dumps(rows).encode(), Pick())
    assert found == {"s3://b/a": "2023-01-01T00:00:00.000000+00:00"}


def test_a_list_says_nothing_of_time():
    assert read_dates("s3://b/x.txt", b"a.tif\nb.tif\n", Pick()) == {}
