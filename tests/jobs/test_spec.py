import json
import re
from collections import Counter
from dataclasses import fields, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deeplab.bundle import Bundle
from deeplab.tiles import Tiling
from deeplab.views import Views
from jobs import spec as spec_module
from jobs.commands import Request, make_compute
from jobs.commands import make_spec as make_spec_of
from jobs.engine import Place, open_engine
from jobs.errors import InputError
from jobs.ledger import DeadLetter
from jobs.mask_choice import Masks
from jobs.policy import STAGES, Policy
from jobs.retry_commands import RetryRequest
from jobs.retry_commands import _make_spec as make_retry_spec
from jobs.sizes import Sizes
from jobs.spec import (
    RESULT_VERSION,
    Compute,
    Cut,
    Limits,
    Pick,
    Product,
    Reading,
    Spec,
    Tiles,
)
from jobs.storage import Access
from jobs.truth import Truth

RESULT, RUN, NEUTRAL, PARTS = "result", "run", "neutral", "parts"
"""What another value of a field makes of a run: other results; another run, whose
results may be equal; the same run. A field of parts is the table's other rows."""

FIELDS = {
    Request: {
        "job": (RESULT, "map"),
        "source": (RUN, "/elsewhere"),
        "run": (NEUTRAL, "/elsewhere"),
        "bundle": (NEUTRAL, "/elsewhere"),  # only its name: see Spec.bundle
        "precision": (RESULT, "bf16"),
        "limit": (RUN, 3),
        "tiles": (PARTS, Tiles),
        "views": (PARTS, Views),
        "sizes": (PARTS, Sizes),
        "cut": (PARTS, Cut),
        "access": (PARTS, Access),
        "place": (PARTS, Place),
        "policy": (PARTS, Policy),
        "limits": (PARTS, Limits),
        "product": (PARTS, Product),
        "pick": (PARTS, Pick),
        "reading": (PARTS, Reading),
        "masks": (PARTS, Masks),
        "truth": (PARTS, Truth),
        "aoi": (RESULT, "1,2,3,4"),
        "skip_done_in": (RUN, "/elsewhere"),
    },
    Spec: {
        "job": (RESULT, "map"),
        "source": (RUN, "/elsewhere"),
        "limit": (RUN, 3),
        "run": (NEUTRAL, "/elsewhere"),
        "bundle": (PARTS, Bundle),
        "compute": (PARTS, Compute),
        "cut": (PARTS, Cut),
        "access": (PARTS, Access),
        "tiles": (PARTS, Tiles),
        "views": (PARTS, Views),
        "sizes": (PARTS, Sizes),
        "policy": (PARTS, Policy),
        "limits": (PARTS, Limits),
        "product": (PARTS, Product),
        "pick": (PARTS, Pick),
        "reading": (PARTS, Reading),
        "masks": (PARTS, Masks),
        "truth": (PARTS, Truth),
        "area": (RESULT, '{"type":"MultiPolygon","coordinates":[]}'),
        "bundle_location": (NEUTRAL, "/elsewhere"),
        "skip_done_in": (RUN, "/elsewhere"),
    },
    Compute: {
        "device": (RESULT, "cuda"),
        "precision": (RESULT, "bf16"),
        "threads": (RESULT, 2),
    },
    Tiles: {
        "tile": (RESULT, 96),
        "overlap": (RESULT, 5),
        "blend": (RESULT, "crop"),
    },
    Views: {
        "scales": (RESULT, (0.75, 1.0)),
        "flip": (RESULT, True),
    },
    Sizes: {
        "resize": (RESULT, "long=64"),
        "mask_size": (RESULT, "model"),
    },
    Cut: {
        "shard_items": (NEUTRAL, 7),
        "shard_bytes": (NEUTRAL, 7),
        "block": (NEUTRAL, 512),
        "file_bytes": (NEUTRAL, 7),
    },
    Product: {
        "compression": (RESULT, "deflate"),
        "confidence": (RESULT, True),
        "probabilities": (RESULT, ("class 1", "3")),
        "mosaic": (RESULT, "recent"),
    },
    Access: {
        "endpoint_url": (NEUTRAL, "http://127.0.0.1:9000"),
        "anon": (NEUTRAL, True),
        "allow_http": (NEUTRAL, True),
        "requester_pays": (NEUTRAL, True),
        "commit": (NEUTRAL, "single-driver"),
    },
    Place: {
        "local": (NEUTRAL, False),
        "address": (NEUTRAL, "auto"),
        "replicas": (NEUTRAL, 1),
        "device": (RESULT, "cuda"),
        "threads": (RESULT, 2),
        "patience_s": (NEUTRAL, 1.0),
        "capacity_timeout_s": (NEUTRAL, 1.0),
        "allow_unauthenticated": (NEUTRAL, True),
    },
    Pick: {
        "column": (RUN, "place"),
        "asset": (RUN, "visual"),
    },
    Policy: {
        "on_error": (NEUTRAL, (("read", "stop"),)),
        "max_dead_letters": (NEUTRAL, 0),
        "max_dead_percent": (NEUTRAL, 0.5),
        "patience_s": (NEUTRAL, 1.0),
    },
    Limits: {
        "seconds": (NEUTRAL, 1.0),
        "max_pixels": (NEUTRAL, 9),
        "max_bytes": (NEUTRAL, 9),
    },
    Masks: {
        "min_confidence": (RESULT, ("0.6", "class 1=0.7")),
        "mask_encoding": (RESULT, "png"),
    },
    Reading: {
        "bands": (RESULT, (3, 2, 1)),
        "value_range": (RESULT, (0.0, 10_000.0)),
        "crs": (RESULT, "EPSG:3857"),
        "resolution": (RESULT, 0.5),
        "allow_vrt": (NEUTRAL, ("/data",)),
    },
    Truth: {
        "where": (RESULT, "/masks"),
        "form": (RESULT, "voc"),
        "suffix": (RESULT, "_L"),
        "split": (RESULT, "test"),
        "column": (RESULT, "annotation"),
        "classes": (RESULT, '{"3":0}'),
        "ignore": (RESULT, (11,)),
        "tolerance": (RESULT, 3.0),
    },
}
"""Every field of what is asked for, and of what a run is."""

ROWS = [
    (kind, name, effect, value)
    for kind, fields in FIELDS.items()
    for name, (effect, value) in fields.items()
    if effect != PARTS
]


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_the_table_names_every_field(kind):
    assert FIELDS[kind].keys() == {field.name for field in fields(kind)}


def test_every_part_is_in_the_table():
    parts = {
        value
        for rows in FIELDS.values()
        for effect, value in rows.values()
        if effect == PARTS
    }
    assert parts == FIELDS.keys() - {Spec, Request} | {Bundle}


@pytest.fixture
def make_run(make_bundle, tmp_path):
    """The spec of a request; a field of any kind in the table may be another."""

    def make(kind=None, name="", value=None):
        changed = []

        def change(found):
            if type(found) is not kind:
                return found
            assert getattr(found, name) != value, "this row would show nothing"
            changed.append(found)
            return replace(found, **{name: value})

        request = change(
            Request(
                job="label",
                source=str(tmp_path / "source"),
                run=str(tmp_path / "run"),
                bundle=str(tmp_path / "net"),
                tiles=change(Tiles()),
                views=change(Views()),
                sizes=change(Sizes()),
                cut=change(Cut()),
                access=change(Access()),
                place=change(Place(local=True, device="cpu")),
                policy=change(Policy()),
                limits=change(Limits()),
                product=change(Product()),
                pick=change(Pick()),
                reading=change(Reading()),
                masks=change(Masks()),
                truth=change(Truth()),
            )
        )
        # Where there is no cluster, the device is the one that was asked for.
        with open_engine(replace(request.place, local=True)) as (_, device):
            compute = change(make_compute(request, device))
        spec = change(make_spec_of(request, make_bundle(), compute))
        assert len(changed) == (kind is not None)
        return spec

    return make


@pytest.mark.parametrize(("kind", "name", "effect", "value"), ROWS, ids=str)
def test_what_is_asked_for_has_the_effect_that_it_should(
    make_run, kind, name, effect, value
):
    before, after = make_run(), make_run(kind, name, value)
    same_results = after.fingerprint("plan") == before.fingerprint("plan")
    same_run = after.identity() == before.identity()
    assert (same_results, same_run) == {
        RESULT: (False, False),
        RUN: (True, False),
        NEUTRAL: (True, True),
    }[effect]


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


def test_tiles_that_are_the_bundles_own_change_nothing(make_spec):
    spec = make_spec()
    given = Tiles(tile=spec.bundle.tile, overlap=spec.bundle.overlap)
    assert make_spec(tiles=given).identity() == spec.identity()


@pytest.mark.parametrize(
    ("tiles", "expected"),
    [
        (Tiles(), Tiling(tile=32, overlap=8)),
        (Tiles(tile=64), Tiling(tile=64, overlap=8)),
        (Tiles(overlap=31, blend="crop"), Tiling(tile=32, overlap=31, blend="crop")),
        (Tiles(tile=9, overlap=0, blend="mean"), Tiling(tile=9, overlap=0, blend="mean")),
    ],
)
def test_tiles_are_completed_by_the_bundle(make_spec, make_bundle, tiles, expected):
    spec = make_spec(bundle=make_bundle(tile=32, overlap=8), tiles=tiles)
    assert spec.tiling == expected


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        (Tiles(tile=0), "tile must be 1 to 8192 px, got 0; the bundle's are tile=32 and "),
        (Tiles(tile=8193), "tile must be 1 to 8192 px, got 8193"),
        (Tiles(tile=8), "overlap must be less than a tile, 0 to 7 px, got 8; the bundle's"),
        (Tiles(overlap=-1), "0 to 31 px, got -1; the bundle's are tile=32 and overlap=8, "),
        (Tiles(blend="max"), "blend must be hann, crop or mean, got 'max'"),
    ],
)
def test_tiles_that_cannot_be_are_refused(make_bundle, tiles, message):
    with pytest.raises(InputError, match=re.escape(message)):
        tiles.resolve(make_bundle(tile=32, overlap=8))


@pytest.mark.parametrize(
    "reading",
    [Reading(), Reading(bands=(4, 3, 2), value_range=(0, 1.5), crs="a", resolution=2.0)],
    ids=["plain", "full"],
)
def test_a_reading_comes_back_from_the_run_folder(make_spec, reading):
    held = json.loads(json.dumps(make_spec(reading=reading).identity()))
    assert held == make_spec(reading=reading).identity()
    assert Reading.parse(held) == reading


def test_a_retry_reads_as_its_run_did_but_asks_for_roots_again(make_spec, make_bundle):
    reading = Reading(bands=(4, 3, 2), value_range=(0.0, 1.5), allow_vrt=("/data",))
    spec = make_spec(job="map", reading=reading)
    held = {"identity": spec.identity(), "cut": {}, "access": {}}
    for roots in ((), ("/elsewhere",)):
        request = RetryRequest(run=spec.run, allow_vrt=roots)
        found = make_retry_spec(request, held, make_bundle())
        assert found.reading == replace(reading, allow_vrt=roots)
        assert found.identity() == spec.identity()


@pytest.mark.parametrize(
    ("asked", "ids"),
    [(None, ()), ((), ()), (("all",), (0, 1, 2, 3)), (("class 2", "0"), (2, 0))],
    ids=str,
)
def test_a_retry_writes_the_classes_of_its_run(make_spec, make_bundle, asked, ids):
    spec = make_spec(job="map", product=Product(probabilities=asked, confidence=True))
    assert spec.probabilities == ids
    held = {"identity": json.loads(json.dumps(spec.identity())), "cut": {}}
    assert held["identity"] == spec.identity()
    found = make_retry_spec(RetryRequest(run=spec.run), held, make_bundle())
    assert (found.probabilities, found.product.confidence) == (ids, True)
    assert found.identity() == spec.identity()


@pytest.mark.parametrize(
    ("masks", "floors"),
    [
        (Masks(), ()),
        (Masks(min_confidence=("0",)), ()),
        (Masks(min_confidence=("0.6",), mask_encoding="png"), (0.6, 0.6, 0.6, 0.6)),
        (Masks(min_confidence=("class 2=0.7", "0.1", "0=1")), (1.0, 0.1, 0.7, 0.1)),
    ],
    ids=str,
)
def test_a_retry_writes_masks_as_its_run_did(make_spec, make_bundle, masks, floors):
    spec = make_spec(masks=masks)
    assert spec.floors == floors
    held = {"identity": json.loads(json.dumps(spec.identity())), "cut": {}}
    assert held["identity"] == spec.identity()
    found = make_retry_spec(RetryRequest(run=spec.run), held, make_bundle())
    assert found.floors == floors
    assert found.identity() == spec.identity()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("1.5",), "numbers from 0 to 1, such as 0.6 or road=0.7, got '1.5'"),
        (("nan",), "got 'nan'"),
        (("class 1=much",), "got 'class 1=much'"),
        (("0.5", "all=0.6"), "two numbers for all classes, got 0.5,all=0.6; keep one"),
        (("class 1=0.5", "class 1=0.6"), "names a class twice"),
        (("class 1=0.5", "1=0.6"), "names 'class 1' twice, got class 1,1; keep one"),
        (("wood=0.5",), "got 'wood'; it has 0 class 0, 1 class 1, 2"),
    ],
)
def test_confidences_that_cannot_be_are_refused(make_spec, asked, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make_spec(masks=Masks(min_confidence=asked))


def test_a_run_of_before_there_were_probabilities_goes_on(make_spec, make_bundle):
    spec = make_spec(job="map")
    identity = spec.identity()
    assert identity.pop("probabilities") is None
    found = make_retry_spec(
        RetryRequest(run=spec.run), {"identity": identity, "cut": {}}, make_bundle()
    )
    assert found.identity() == spec.identity()


def test_names_and_ids_of_classes_are_one_choice(make_spec):
    names, numbers, other = (
        make_spec(product=Product(probabilities=asked)).fingerprint("plan")
        for asked in (("class 1", "class 3"), ("1", "3"), ("3", "1"))
    )
    assert names == numbers != other


def test_a_class_that_the_bundle_lacks_is_refused(make_spec):
    with pytest.raises(InputError, match="got 'wood'; it has 0 class 0, 1 class 1, 2"):
        make_spec(product=Product(probabilities=("class 1", "wood")))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bands": (1, 0, 2)}, "bands count from 1, got 1,0,2"),
        ({"bands": ()}, "bands count from 1, got none"),
        ({"value_range": (5, 5)}, "two numbers, the lower one first, got 5,5"),
        ({"value_range": (0, float("nan"))}, "the lower one first, got 0,nan"),
        ({"resolution": 0.0}, "resolution must be more than 0, got 0"),
        ({"resolution": float("inf")}, "resolution must be more than 0, got inf"),
    ],
    ids=str,
)
def test_a_reading_that_makes_no_sense_is_refused(fields, words):
    with pytest.raises(InputError) as caught:
        Reading(**fields)
    assert words in str(caught.value)


def test_the_bundle_gets_as_many_bands_as_it_needs(make_spec):
    with pytest.raises(InputError) as caught:
        make_spec(reading=Reading(bands=(4, 3)))
    assert str(caught.value) == (
        "bands must name 3 bands for this bundle (red, green, blue), got 4,3"
    )


def test_versions_are_in_the_fingerprint(make_spec, monkeypatch):
    spec = make_spec()
    before = spec.fingerprint("plan")
    with monkeypatch.context() as patch:
        patch.setattr(spec_module, "RESULT_VERSION", RESULT_VERSION + 1)
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


# What is asked for becomes a spec


def test_a_spec_holds_what_was_asked_for(make_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy, limits = Policy(max_dead_letters=3), Limits(seconds=1, max_pixels=9)
    request = Request(
        job="map", source="a", run="b", bundle="net", policy=policy, limits=limits
    )
    spec = make_spec_of(request, make_bundle(), Compute())
    assert (spec.policy, spec.limits) == (policy, limits)
    assert spec.bundle_location == str(tmp_path / "net")


@pytest.mark.parametrize("location", ["demo", "s3://models/net.safetensors"])
def test_where_the_bundle_lies_is_remembered(make_bundle, location):
    request = Request(job="map", source="a", run="b", bundle=location)
    spec = make_spec_of(request, make_bundle(), Compute())
    assert spec.bundle_location == location


# When a run gives up


def letter(stage):
    return DeadLetter(
        uri="s3://b/a.png", key="a.png", stage=stage, code="undecodable", message="cut off"
    )


def test_a_run_goes_on_unless_it_was_told_to_stop():
    many = Counter(dict.fromkeys(STAGES, 10**6))
    assert Policy().verdict(many, letter("read"), 1) is None


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_can_stop_the_run(stage):
    policy = Policy(on_error=((stage, "stop"),))
    assert policy.verdict(Counter({stage: 0}), None, 9) is None
    others = Counter(dict.fromkeys(set(STAGES) - {stage}, 5))
    assert policy.verdict(others, None, 9) is None
    found = Counter({stage: 1})
    end = (
        ", where on_error says to stop; look at dead_letter.parquet in the run folder, "
        f"then run atrous retry, or give -c on_error={stage}=dead-letter"
    )
    assert policy.verdict(found, letter(stage), 9) == (
        f"s3://b/a.png failed at stage {stage} (undecodable: cut off){end}"
    )
    assert policy.verdict(found, None, 9) == f"1 dead letter at stage {stage}{end}"
    # The newest is of another stage, so it is not the one that stops the run.
    stranger = letter(next(one for one in STAGES if one != stage))
    both = others + Counter({stage: 2})
    assert policy.verdict(both, stranger, 9) == f"2 dead letters at stage {stage}{end}"


def test_a_stage_that_may_go_on_does():
    policy = Policy(on_error=(("read", "dead-letter"), ("segment", "stop")))
    assert policy.verdict(Counter(read=5), letter("read"), 9) is None
    assert policy.verdict(Counter(read=5, segment=1), letter("read"), 9) is not None


@pytest.mark.parametrize("most", [0, 1, 7])
def test_dead_letters_can_be_counted(most):
    policy = Policy(max_dead_letters=most)
    assert policy.verdict(Counter(read=most), letter("read"), 1) is None
    assert policy.verdict(Counter(read=most, plan=1), letter("plan"), 10**9) == (
        f"{most + 1} dead letter{'s' if most else ''} so far, max_dead_letters allows "
        f"{most}; look at dead_letter.parquet in the run folder, then raise "
        "max_dead_letters, or run atrous retry"
    )


def test_a_share_of_the_items_can_be_dead():
    policy = Policy(max_dead_percent=2.5)
    assert policy.verdict(Counter(read=2, segment=3), None, 200) is None
    assert "6 dead letters so far, max_dead_letters allows 2.5% of 200 items;" in (
        policy.verdict(Counter(read=3, segment=3), None, 200) or ""
    )
    assert Policy(max_dead_percent=0).verdict(Counter(), None, 0) is None
    assert Policy(max_dead_percent=0).verdict(Counter(plan=1), None, 9) is not None
    assert Policy(max_dead_percent=100).verdict(Counter(plan=9), None, 9) is None


@example(basis_points=57, items=10_000, letters=57)  # 0.57 * 10000 < 5700 in binary
@given(
    basis_points=st.integers(0, 10_000),
    items=st.integers(1, 10**9),
    letters=st.integers(0, 10**6),
)
def test_shares_are_exact(basis_points, items, letters):
    policy = Policy(max_dead_percent=basis_points / 100)
    stops = policy.verdict(Counter(read=letters), None, items) is not None
    assert stops == (letters * 10_000 > basis_points * items)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Policy(max_dead_letters=-1), "max_dead_letters must be at least 0"),
        (lambda: Policy(max_dead_percent=100.5), "from 0% to 100%, got 100.5%"),
        (lambda: Policy(max_dead_percent=-1), "from 0% to 100%, got -1%"),
        (lambda: Policy(patience_s=-1), "patience must be at least 0 s, got -1"),
        (lambda: Policy(patience_s=float("nan")), "patience must be at least 0 s, got nan"),
        (lambda: Limits(seconds=0), "decode_timeout must be more than 0 s, got 0"),
        (lambda: Limits(seconds=float("nan")), "decode_timeout must be more than 0 s"),
        (lambda: Limits(max_pixels=0), "max_pixels must be at least 1, got 0"),
    ],
)
def test_what_is_out_of_range_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
