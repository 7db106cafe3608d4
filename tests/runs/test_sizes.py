"""Labels of images of all sizes: resized, viewed and cut in any way."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.local import run_local
from deeplab.pictures import nearest
from deeplab.views import Views
from jobs.bundle_file import load_bundle
from jobs.cli import _main
from jobs.commands import Request, make_spec, preview_plan, start_on
from jobs.inputs.images import decode_image
from jobs.progress import Silence
from jobs.sizes import Sizes
from jobs.spec import BATCH, Compute, Cut
from jobs.storage import Access, open_store
from jobs.verify import verify_run

SIDES = [(40, 70), (64, 64), (130, 90), (1, 1), (33, 200), (20, 64), (97, 61), (40, 70)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of many sizes, one partly transparent and one broken."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(6)
    for number, (height, width) in enumerate(SIDES):
        coarse = rng.integers(0, 256, (-(-height // 9), -(-width // 9), 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        if number == 2:
            alpha = Image.new("L", picture.size, 255)
            alpha.paste(0, (20, 30, 70, 110))
            picture.putalpha(alpha)
        picture.save(root / f"{number}.png")
    (root / "5a.png").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def label(tmp_path_factory, photos):
    """Label the images: rows by key, the summary and the run folder."""

    def start(bundle, *, items=64, engine=run_local, **asked):
        run = tmp_path_factory.mktemp("label") / "run"
        request = Request(
            job="label",
            source=str(photos),
            run=str(run),
            bundle=str(bundle),
            cut=Cut(shard_items=items),
            **asked,
        )
        header, data = load_bundle(request.bundle, request.access)
        spec = make_spec(request, header, Compute())
        summary = start_on(engine, spec, data, Silence())
        assert not verify_run(open_store(Access()), str(run), deep=True).differences
        rows = {}
        for part in (run / "masks").glob("*.parquet"):
            rows |= {row["key"]: row for row in pq.read_table(part).to_pylist()}
        return rows, summary

    return start


def mask_of(row):
    return np.frombuffer(row["mask"], np.uint8).reshape(row["height"], row["width"])


VARIANTS = {
    "plain": {},
    "resized": {"sizes": Sizes(resize="long=100")},
    "as seen": {"sizes": Sizes(resize="short=48", mask_size="model")},
    "views": {"views": Views(scales=(0.75, 1.0), flip=True)},
}


@pytest.mark.parametrize("asked", VARIANTS.values(), ids=VARIANTS)
def test_no_byte_depends_on_shards_order_or_neighbours(
    label, make_bundle, monkeypatch, asked
):
    bundle = make_bundle("linear" if "views" in asked else "deeplabv3plus_mobilenet_v2")
    rows, summary = label(bundle, **asked)
    assert len(rows) == len(SIDES)
    assert summary["dead_letter_codes"] == {"undecodable": 1}

    def shuffled(worker, take):
        waiting = list(iter(take, None))
        random.Random(2).shuffle(waiting)
        return run_local(worker, lambda: waiting.pop() if waiting else None)

    assert label(bundle, items=3, engine=shuffled, **asked)[0] == rows
    # Slots for several tiles: those of one shape share batches, across images. A linear
    # network has the same bits in any of them.
    monkeypatch.setitem(BATCH, "cpu", 4)
    linear = make_bundle("linear")
    together, summary = label(linear, **asked)
    monkeypatch.setitem(BATCH, "cpu", 1)
    alone, few = label(linear, **asked)
    assert pixels_of(together) == pixels_of(alone)
    assert summary["padding"] > few["padding"]
    assert summary["tiles"] == few["tiles"]


def pixels_of(rows):
    return {
        key: (row["height"], row["mask"], row["mean_confidence"])
        for key, row in rows.items()
    }


def test_masks_are_of_the_image_or_of_what_was_seen(label, make_bundle, photos):
    bundle = make_bundle("deeplabv3plus_mobilenet_v2")
    seen, _ = label(bundle, sizes=Sizes(resize="long=96", mask_size="model"))
    own, _ = label(bundle, sizes=Sizes(resize="long=96"))
    agree = []
    for number, (height, width) in enumerate(SIDES):
        name = f"{number}.png"
        data = (photos / name).read_bytes()
        (_, valid), _ = decode_image(data, resize="long=96")
        small, large = mask_of(seen[name]), mask_of(own[name])
        assert small.shape == valid.shape
        assert max(small.shape) == 96
        assert ((small == 255) == ~valid).all()
        assert large.shape == (height, width)
        assert ((large == 255) == ~nearest(valid, large.shape)).all()
        agree.append((nearest(small, large.shape) == large).mean())
    assert 0.9 < np.mean(agree) < 1


def test_padding_is_counted_and_the_plan_foresees_it(label, make_bundle, photos):
    bundle = make_bundle("linear")
    _, summary = label(bundle)
    assert summary["tiles"] == 19
    assert summary["rates"]["tiles_s"] > 0
    assert summary["rates"]["decoded_images_s"] > 0
    request = Request(
        job="label", source=str(photos), run="run", bundle=str(bundle), sizes=Sizes()
    )
    plan = preview_plan(request)
    assert (plan["tiles"], plan["refused"]) == (19, 1)
    small = preview_plan(replace(request, sizes=Sizes(resize="long=32")))
    assert small["tiles"] == len(SIDES)
    # What is seen of a px: no more than its tiles' overlap and the edges' padding.
    assert 1 < small["waste"] < plan["waste"] < 3


def test_a_retry_sees_images_as_its_run_did(tmp_path, photos, make_bundle, capsys):
    source, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, source)
    words = ["label", source, run, "--bundle", make_bundle("linear"), "--local"]
    asked = ["--resize", "short=20", "-c", "mask_size=model", "-c", "flip=true"]
    assert _main([*map(str, words), *asked]) == 3
    shutil.copy(source / "6.png", source / "5a.png")
    assert _main(["retry", str(run), "--local"]) == 0
    said = capsys.readouterr().err
    assert "items/s a replica" in said
    found = {
        row["key"]: mask_of(row)
        for part in (run / "masks").glob("*.parquet")
        for row in pq.read_table(part).to_pylist()
    }
    assert found["6.png"].shape == (32, 20)
    assert (found["5a.png"] == found["6.png"]).all()
    assert _main([*map(str, words), "--resize", "short=21"]) == 2
    assert "resize short=20, now short=21" in capsys.readouterr().err
