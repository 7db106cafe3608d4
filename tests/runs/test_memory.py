"""An input for which memory does not suffice costs itself alone."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from cluster.local import run_local
from deeplab.segmenter import Segmenter
from jobs.spec import Cut


@pytest.mark.parametrize("fits_alone", [True, False])
def test_what_does_not_fit_is_tried_alone_and_then_given_up(
    tmp_path, run_job, images, linear, monkeypatch, fits_alone
):
    tries, segment_all = [], Segmenter.segment_all

    def scarce(self, pictures, **more):
        if any(one.pixels.shape == (3, 130, 90) for one in pictures):
            tries.append(more["batch"])
            if not (fits_alone and len(tries) > 1):
                raise MemoryError("too little of it")
        return segment_all(self, pictures, **more)

    monkeypatch.setattr(Segmenter, "segment_all", scarce)
    run = tmp_path / "run"
    found = run_job(run_local, "label", images, run, linear, cut=Cut(shard_items=3))
    letters = pq.read_table(run / "dead_letter.parquet").to_pylist()
    reasons = {(one["key"], one["stage"], one["code"]) for one in letters}
    lost = ["2.png", "5.png", "more/8.png"]
    if fits_alone:
        assert reasons == set()
    else:
        assert reasons == {(key, "segment", "out_of_memory") for key in lost}
    assert found["finished"]
    assert len(tries) == (4 if fits_alone else 6)
