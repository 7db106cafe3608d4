"""Fixtures shared by the tests of deeplab."""

import pytest
import torch

from deeplab.bundle import Bundle, ClassInfo


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The last bits of a result may depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def make_bundle():
    """Build a header; fields not given describe four classes of RGB."""

    def make(**fields):
        count = fields.pop("count", 4)
        bands = fields.pop("bands", ("red", "green", "blue"))
        given = {
            "architecture": "linear",
            "classes": tuple(
                ClassInfo(name=f"class {i}", color=(i, 2 * i % 256, 255 - i))
                for i in range(count)
            ),
            "bands": bands,
            "mean": (0.45,) * len(bands),
            "std": (0.25,) * len(bands),
            "tile": 16,
            "overlap": 4,
        }
        return Bundle(**(given | fields))

    return make
