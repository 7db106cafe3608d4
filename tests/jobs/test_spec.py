from dataclasses import replace

import pytest

from jobs import spec as spec_module
from jobs.spec import Compute
from jobs.storage import Access


@pytest.mark.parametrize(
    "change",
    [
        {"job": "map"},
        {"device": "cuda"},
        {"precision": "bf16"},
        {"threads": 2},
    ],
    ids=str,
)
def test_what_changes_results_changes_the_fingerprint(make_spec, change):
    assert make_spec(**change).fingerprint("plan") != make_spec().fingerprint("plan")
    assert make_spec(**change).identity() != make_spec().identity()


@pytest.mark.parametrize(
    "change",
    [{"digest": "e" * 64}, {"digest": "e" * 64, "tile": 32}],
    ids=str,
)
def test_another_bundle_changes_the_fingerprint(make_spec, make_bundle, change):
    spec = make_spec(bundle=make_bundle(**change))
    assert spec.fingerprint("plan") != make_spec().fingerprint("plan")


@pytest.mark.parametrize("change", [{"tile": 32}, {"overlap": 8}], ids=str)
def test_tiles_are_in_the_fingerprint(make_spec, make_bundle, change):
    spec = make_spec(bundle=make_bundle(**change))
    assert spec.fingerprint("plan") != make_spec().fingerprint("plan")


def test_versions_are_in_the_fingerprint(make_spec, monkeypatch):
    spec = make_spec()
    before = spec.fingerprint("plan")
    with monkeypatch.context() as patch:
        patch.setattr(spec_module, "RESULT_VERSION", 2)
        assert spec.fingerprint("plan") != before
    with monkeypatch.context() as patch:
        patch.setattr(spec_module, "version", lambda _: "0.0.1")
        assert spec.fingerprint("plan") != before
    assert spec.fingerprint("plan") == before


def test_builds_of_one_torch_version_are_alike(make_spec, monkeypatch):
    found = set()
    for build in ("2.15.0+cpu", "2.15.0+cu132", "2.15.0"):
        monkeypatch.setattr(spec_module, "version", lambda _, build=build: build)
        found.add(make_spec().fingerprint("plan"))
    assert len(found) == 1


def test_the_planned_items_are_in_the_fingerprint(make_spec):
    assert make_spec().fingerprint("one") != make_spec().fingerprint("another")


@pytest.mark.parametrize(
    "change",
    [
        {"shard_items": 7},
        {"shard_bytes": 7},
        {"block": 512},
        {"run": "/elsewhere"},
        {"access": Access(endpoint_url="http://127.0.0.1:9000")},
        {"access": Access(anon=True)},
        {"access": Access(requester_pays=True)},
    ],
    ids=str,
)
def test_what_is_neutral_changes_nothing(make_spec, change):
    assert make_spec(**change).fingerprint("plan") == make_spec().fingerprint("plan")
    assert make_spec(**change).identity() == make_spec().identity()


@pytest.mark.parametrize("change", [{"source": "/elsewhere"}, {"limit": 3}], ids=str)
def test_another_source_is_another_run_though_results_may_be_equal(make_spec, change):
    assert make_spec(**change).identity() != make_spec().identity()
    assert make_spec(**change).fingerprint("plan") == make_spec().fingerprint("plan")


def test_fingerprint_is_the_same_every_time(make_spec):
    fingerprint = make_spec().fingerprint("plan")
    assert fingerprint == replace(make_spec()).fingerprint("plan")
    assert len(fingerprint) == 16


def test_batch_belongs_to_the_device():
    assert Compute(device="cpu").batch == 1
    assert Compute(device="cuda").batch == 16
    # The batch shape is named in the identity, so that a refusal can name it.


def test_batch_is_in_the_identity(make_spec):
    assert make_spec(device="cuda").identity()["batch"] == 16
