"""A whole run over what an index names."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from jobs.cli import _main


@pytest.fixture
def index(raster, tmp_path):
    """Two rasters of one name, one that is missing, and one that is named twice."""
    for folder in ("2019", "2020"):
        (tmp_path / "scenes" / folder).mkdir(parents=True)
        shutil.copy(raster, tmp_path / "scenes" / folder / "a.tif")
    names = ["2020/a.tif", "2019/a.tif", "2020/gone.tif", "2019/a.tif"]
    features = [
        {"type": "Feature", "geometry": None, "properties": {"location": name}}
        for name in names
    ]
    features[0]["properties"]["datetime"] = "2020-05-06T09:08:07.5+02:00"
    path = tmp_path / "scenes" / "index.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_a_run_does_what_an_index_names(index, linear, tmp_path):
    run = tmp_path / "run"
    options = ["map", str(index), str(run), "--bundle", str(linear), "--local"]
    assert _main(options) == 3
    names = sorted(path.name for path in (run / "rasters").glob("*.tif"))
    assert names == ["2019%2Fa.tif", "2020%2Fa.tif"]
    (letter,) = pq.read_table(run / "dead_letter.parquet").to_pylist()
    assert (letter["key"], letter["code"]) == ("2020/gone.tif", "not_found")
    assert letter["stage"] == "plan"
    times = [
        json.loads((run / "rasters" / f"{year}%2Fa.json").read_text())["properties"]
        for year in (2019, 2020)
    ]
    assert [one["datetime"] for one in times] == [None, "2020-05-06T07:08:07.500000Z"]
    index.unlink()  # it is not looked at again
    shutil.copy(index.parent / "2019" / "a.tif", index.parent / "2020" / "gone.tif")
    assert _main(["retry", str(run), "--local"]) == 0
    assert len(list((run / "rasters").glob("*.tif"))) == 3
    assert _main(["verify", str(run), "--deep"]) == 0


def test_another_choice_is_another_run(index, linear, tmp_path, capsys):
    options = ["map", str(index), str(tmp_path / "run"), "--bundle", str(linear), "--local"]
    assert _main(options) == 3
    assert _main([*options, "-c", "source_column=location"]) == 2
    said = capsys.readouterr().err
    assert "holds a run with other options (source_column None, now location)" in said
