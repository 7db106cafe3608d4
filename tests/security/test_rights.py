"""Runs that are denied a right: what is refused is named, and the rest goes on.

A proxy before the store denies requests as a policy would. Without the right to list,
S3 does not tell a key that is missing from one that is forbidden.
"""

from __future__ import annotations

import re

import pyarrow.parquet as pq
import pytest

from jobs.map_job import MapJob

pytestmark = [pytest.mark.s3, pytest.mark.timeout(90)]

JOBS = ("label", "map")
LIST = r"\?.*list-type=2"


def deny(method, path, **more):
    return {
        "method": method,
        "path": path,
        "fault": "status",
        "status": 403,
        "code": "AccessDenied",
        **more,
    }


@pytest.fixture
def fill(s3_client, bucket, png, tif):
    def put(job, *names):
        suffix, data = (".png", png) if job == "label" else (".tif", tif)
        for name in names:
            s3_client.put_object(Bucket=bucket, Key=f"in/{name}{suffix}", Body=data)
        return suffix

    return put


@pytest.fixture
def start(command, bundle, fault_proxy, bucket):
    """Run a job on the denying store: its exit code and what it printed."""

    def run(job, source="in", *more):
        source = f"s3://{bucket}/{source}"
        options = ("--endpoint-url", fault_proxy.url, "--local", "--bundle", bundle, *more)
        return command(job, source, f"s3://{bucket}/run", *options)

    return run


@pytest.fixture
def names(s3_client, bucket):
    def look(folder):
        found = s3_client.list_objects_v2(Bucket=bucket, Prefix=f"run/{folder}")
        return [one["Key"] for one in found.get("Contents", ())]

    return look


@pytest.fixture
def letters(s3_client, bucket, tmp_path):
    def read():
        path = tmp_path / "dead_letter.parquet"
        s3_client.download_file(bucket, "run/dead_letter.parquet", str(path))
        return [(row["key"], row["code"]) for row in pq.read_table(path).to_pylist()]

    return read


@pytest.mark.parametrize("job", JOBS)
def test_a_key_that_is_named_needs_no_right_to_list(job, fill, start, fault_proxy, names):
    suffix = fill(job, "a", "b")
    fault_proxy.set(deny("GET", LIST + r"(?!.*prefix=run)"))
    code, *printed = start(job, f"in/a{suffix}")
    assert code == 0, printed
    folder, ending = {"label": ("masks", ".parquet"), "map": ("rasters", ".tif")}[job]
    assert sum(name.endswith(ending) for name in names(folder)) == 1


@pytest.mark.parametrize("source", ["in", "in/none.png", "in/*.png"])
def test_a_prefix_that_may_not_be_listed_is_named(source, fill, start, fault_proxy, names):
    fill("label", "a")
    fault_proxy.set(
        deny("GET", LIST + r"(?!.*prefix=run)"),
        deny("GET|HEAD", r"/in(/none\.png)?(\?|$)"),
    )
    code, out, err = start("label", source)
    assert (code, out) == (2, "")
    assert "may not be listed (403 AccessDenied" in err
    assert names("plan") == names("job") == []


@pytest.mark.parametrize("job", JOBS)
def test_without_the_right_to_write_nothing_begins(job, fill, start, fault_proxy, names):
    fill(job, "a")
    fault_proxy.set(deny("PUT", "/run/"))
    code, out, err = start(job)
    assert (code, out) == (2, "")
    assert re.search(r"may not be written \(403 AccessDenied, .*\); check", err), err
    assert names("") == []


def test_one_raster_that_may_not_be_read_is_forbidden(fill, start, fault_proxy, letters):
    fill("map", "a", "b")
    fault_proxy.set(deny("GET|HEAD", r"/in/b\.tif"))
    code, *printed = start("map")
    assert code == 3, printed
    assert letters() == [("b.tif", "forbidden")]


@pytest.mark.parametrize("job", JOBS)
def test_a_right_that_is_taken_away_after_planning(job, fill, start, fault_proxy, letters):
    suffix = fill(job, "a", "b")
    passed = 1 if job == "map" else 0
    fault_proxy.set(deny("GET|HEAD", rf"/in/b\{suffix}", skip=passed))
    code, *printed = start(job)
    assert code == 3, printed
    assert letters() == [(f"b{suffix}", "forbidden")]


def test_a_raster_is_put_together_without_a_right_to_its_source(  # noqa: PLR0913, PLR0917
    fill, start, fault_proxy, names, letters, s3_client, bucket, wide_tif, monkeypatch
):
    """All that is needed was read by then; the next raster is not that far."""
    fill("map", "b")
    s3_client.put_object(Bucket=bucket, Key="in/a.tif", Body=wide_tif)
    complete = MapJob.complete

    def lose(job, task):
        fault_proxy.set(deny("GET|HEAD", r"/in/"))
        return complete(job, task)

    monkeypatch.setattr(MapJob, "complete", lose)
    code, *printed = start("map", "in", "-c", "block=512")
    assert code == 3, printed
    assert letters() == [("b.tif", "forbidden")]
    found = {name.rpartition("/")[2] for name in names("rasters")}
    assert "a.tif" in found
    assert "b.tif" not in found


def test_a_missing_key_is_forbidden_without_the_right_to_list(
    fill, start, fault_proxy, letters
):
    """As S3 answers then; the run goes on all the same."""
    fill("label", "a", "b")
    fault_proxy.set(
        {
            "method": "GET",
            "path": "/in/a",
            "fault": "status",
            "status": 404,
            "code": "NoSuchKey",
        },
        deny("GET", r"/in/b"),
    )
    assert start("label")[0] == 3
    assert letters() == [("a.png", "not_found"), ("b.png", "forbidden")]


def test_a_run_folder_that_may_not_be_listed_is_named(fill, start, fault_proxy):
    fill("label", "a")
    fault_proxy.set(deny("GET", LIST + r".*prefix=run"))
    code, _, err = start("label")
    assert code == 2
    assert "may not be listed (403 AccessDenied" in err
    assert "Traceback" not in err
