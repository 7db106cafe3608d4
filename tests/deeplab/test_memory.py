"""A device whose memory is too small for a batch."""

import numpy as np
import pytest
import torch

from deeplab.memory import with_less_memory
from deeplab.segmenter import Segmenter


def out_of_memory(kind):
    if kind == "device":
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")


@pytest.mark.parametrize("kind", ["device", "cpu"])
def test_the_batch_is_halved_until_it_fits(kind):
    tried = []

    def compute(batch):
        tried.append(batch)
        if batch > 3:
            raise out_of_memory(kind)
        return f"done with {batch}"

    assert with_less_memory(compute, 16) == "done with 2"
    assert tried == [16, 8, 4, 2]


def test_a_single_tile_too_large_is_a_memory_error():
    def compute(_batch):
        raise out_of_memory("device")

    with pytest.raises(MemoryError, match=r"cannot hold one tile: CUDA out of memory"):
        with_less_memory(compute, 4)


def test_other_errors_are_not_tried_again():
    tried = []

    def compute(batch):
        tried.append(batch)
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        with_less_memory(compute, 4)
    assert tried == [4]


def test_a_segmenter_goes_on_with_half_a_batch(make_bundle, monkeypatch):
    """Every tile of an image is still seen, and the next call starts with all slots."""
    model = torch.nn.Conv2d(3, 4, 1)
    segmenter = Segmenter(model, make_bundle(), batch=4, threads=1)
    pixels = np.random.default_rng(3).integers(0, 256, (3, 100, 150), dtype=np.uint8)
    valid = np.ones((100, 150), dtype=np.bool_)
    expected = segmenter.segment(pixels, valid)
    seen, predict = [], type(segmenter)._predict

    def scarce(self, batch, there):
        seen.append(len(batch))
        if len(batch) > 2:
            raise out_of_memory("device")
        return predict(self, batch, there)

    monkeypatch.setattr(type(segmenter), "_predict", scarce)
    found = segmenter.segment(pixels, valid)
    assert seen[0] == 4
    assert set(seen[1:]) == {2}
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert segmenter.batch == 4
