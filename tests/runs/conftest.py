"""Whole runs: sources and bundles made in code, and ways to run them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from jobs.bundle_file import load_bundle
from jobs.commands import Request, make_spec, start_on
from jobs.progress import Silence
from jobs.spec import Compute, Cut
from jobs.storage import Access

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("soil", "field", "trees", "water")


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory):
    """A bundle of any architecture with small tiles and seeded weights."""
    import torch

    import deeplab
    from deeplab.bundle import Bundle, ClassInfo
    from deeplab.weights import save_bundle

    def make(architecture: str, *, tile: int = 64, overlap: int = 16) -> Path:
        torch.manual_seed(5)
        model = deeplab.build(architecture, classes=len(CLASSES)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)
        bundle = Bundle(
            architecture=architecture,
            classes=tuple(
                ClassInfo(name=name, color=(60 * i, 20, 90))
                for i, name in enumerate(CLASSES)
            ),
            bands=("red", "green", "blue"),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            tile=tile,
            overlap=overlap,
        )
        path = tmp_path_factory.mktemp("bundle") / f"{architecture}.safetensors"
        save_bundle(path, model, bundle, dtype=torch.float32)
        return path

    return functools.cache(make)


@pytest.fixture(scope="session")
def linear(make_bundle):
    return make_bundle("linear")


@pytest.fixture(scope="session")
def network(make_bundle):
    return make_bundle("deeplabv3plus_mobilenet_v2")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Nine images of three sizes, one of them in a folder of its own."""
    root = tmp_path_factory.mktemp("images")
    (root / "more").mkdir()
    random = np.random.default_rng(1)
    for number in range(9):
        height, width = ((40, 70), (64, 64), (130, 90))[number % 3]
        coarse = random.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        folder = root / "more" if number == 8 else root
        picture.save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def raster(tmp_path_factory):
    """1100 x 600 px with a hole of nodata; blocks of 512 px cut it in six."""
    random = np.random.default_rng(2)
    coarse = random.integers(1, 256, (75, 138, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((1100, 600), Image.Resampling.BICUBIC)
    pixels = np.maximum(np.asarray(picture).transpose(2, 0, 1), 1)
    pixels[:, 200:290, 700:800] = 0
    path = tmp_path_factory.mktemp("raster") / "scene.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=3,
        height=600,
        width=1100,
        nodata=0,
        crs="EPSG:32633",
        transform=from_origin(400_000, 5_800_000, 0.5, 0.5),
        tiled=True,
    ) as target:
        target.write(pixels)
    return path


@pytest.fixture(scope="session")
def run_job():
    """Run a job on an engine: ``run_job(engine, 'map', source, run, bundle)``."""

    def start(  # noqa: PLR0913
        engine, job, source, run, bundle, *, cut=None, access=None, progress=None, aoi=None
    ):
        request = Request(
            job=job,
            source=str(source),
            run=str(run),
            bundle=str(bundle),
            cut=cut or Cut(shard_items=2, block=512),
            access=access or Access(),
            aoi=aoi,
        )
        header, data = load_bundle(request.bundle, request.access)
        spec = make_spec(request, header, Compute())
        return start_on(engine, spec, data, progress or Silence())

    return start


@pytest.fixture(scope="session")
def ray_engine(ray_session):
    """Make engines of some replicas."""
    from cluster.pool import Size, run_pool

    assert ray_session["CPU"] == 4
    return lambda replicas: functools.partial(
        run_pool, size=Size(replicas=replicas, cpus=1)
    )


@pytest.fixture
def outputs():
    """The finished objects of a run, by name below the run folder."""

    def read(run: Path) -> dict[str, bytes]:
        found = (
            path
            for name in ("masks", "rasters", "pieces")
            for path in sorted((run / name).rglob("*"))
            if path.is_file()
        )
        return {str(path.relative_to(run)): path.read_bytes() for path in found}

    return read
