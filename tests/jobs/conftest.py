"""Fixtures shared by the tests of jobs. None of them needs torch."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from deeplab.bundle import Bundle, ClassInfo
from jobs.cli import _main
from jobs.shards import Item
from jobs.spec import Compute, Cut, Spec
from jobs.storage import Access, Store, open_store


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
            "tile": 64,
            "overlap": 16,
            "digest": "d" * 64,
        }
        return Bundle(**(given | fields))

    return make


@pytest.fixture
def make_spec(make_bundle, tmp_path):
    """Build a spec; the fields of ``Compute`` and ``Cut`` may be given as well."""

    def make(**fields):
        def pick(kind):
            names = [field.name for field in dataclasses.fields(kind)]
            return kind(**{name: fields.pop(name) for name in names if name in fields})

        given = {
            "job": "label",
            "source": str(tmp_path / "source"),
            "limit": None,
            "run": str(tmp_path / "run"),
            "bundle": make_bundle(),
            "compute": pick(Compute),
            "cut": pick(Cut),
            "access": Access(),
        }
        return Spec(**(given | fields))

    return make


@pytest.fixture
def make_items():
    """Items of the given sizes, in URI order."""

    def make(*sizes):
        return [
            Item(
                uri=f"s3://bucket/{i:05d}.jpg", key=f"{i:05d}.jpg", size=size, etag=f"e{i}"
            )
            for i, size in enumerate(sizes)
        ]

    return make


@pytest.fixture
def make_result():
    """An item and a mask of it, as a job hands it to a writer."""

    def make(mask, *, key="a.jpg", confidence=None):
        if confidence is None:
            confidence = np.full(mask.shape, 128, dtype=np.uint8)
        item = Item(uri=f"s3://bucket/{key}", key=key, size=1, etag="e")
        segmentation = SimpleNamespace(mask=mask, confidence=confidence)
        return SimpleNamespace(item=item, segmentation=segmentation)

    return make


@dataclasses.dataclass(frozen=True)
class Place:
    """A store and a folder of it that belongs to one test."""

    store: Store
    root: str

    def at(self, *names):
        return "/".join([self.root, *names])


@pytest.fixture
def local_store():
    """The store of local folders."""
    return open_store(Access())


@pytest.fixture
def local(local_store, tmp_path):
    """A folder."""
    return Place(store=local_store, root=str(tmp_path / "store"))


@pytest.fixture
def remote(s3_server, bucket):
    """A bucket on the S3 server."""
    return Place(store=open_store(Access(endpoint_url=s3_server)), root=f"s3://{bucket}")


@pytest.fixture(params=["local", pytest.param("remote", marks=pytest.mark.s3)])
def place(request):
    """Both, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def write_raster(tmp_path):
    """Write a GeoTIFF, uint8 (bands, H, W), in UTM zone 33N unless told otherwise."""

    def write(pixels, name="raster.tif", *, validity=None, color=None, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        count, height, width = pixels.shape
        given = {
            "crs": "EPSG:32633",
            "transform": from_origin(390_000, 5_820_000, 0.5, 0.5),
        }
        layout = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path, "w", driver="GTiff", **layout, **(given | options)
            ) as target,
        ):
            if color is not None:
                target.colorinterp = color
            target.write(pixels)
            if validity is not None:
                target.write_mask(validity)
        return str(path)

    return write


@pytest.fixture
def run(capsys):
    """Run a command in this process: its exit code, stdout and stderr."""

    def call(*arguments):
        try:
            code = _main([str(one) for one in arguments])
        except SystemExit as error:
            code = error.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
