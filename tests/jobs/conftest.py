"""Fixtures shared by the tests of jobs. None of them needs torch."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from deeplab.bundle import Bundle, ClassInfo
from deeplab.pictures import Segmentation
from jobs.cli import _main
from jobs.conclude import MANIFEST, conclude, write_views
from jobs.folder import SUCCESS, prepare, read_shards
from jobs.job import Result
from jobs.label_job import LabelJob
from jobs.ledger import Ledger, TaskRecord, dead_letter
from jobs.map_job import MapJob
from jobs.retry import plan_retry
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

    def make(mask, *, key="a.jpg", confidence=None, entropy=None, origin=None):
        if confidence is None:
            confidence = np.full(mask.shape, 128, dtype=np.uint8)
        item = Item(uri=f"s3://bucket/{key}", key=key, size=1, etag="e")
        segmentation = Segmentation(mask=mask, confidence=confidence, entropy=entropy)
        return Result(item=item, segmentation=segmentation, origin=origin)

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


@dataclasses.dataclass
class Built:
    """A whole run folder, made by its job but for the network."""

    store: Store
    run: str
    spec: Spec
    make_job: type

    def at(self, *names):
        return "/".join([self.run, *names])

    def names(self, folder=""):
        """Locations of all objects of a folder, below the run folder."""
        found = self.store.find(self.at(folder) if folder else self.run)
        return [one.uri.removeprefix(f"{self.run}/") for one in found]

    def read(self, name):
        return self.store.read(self.at(name))

    def write(self, name, data):
        self.store.replace(self.at(name), data)

    def remove(self, name):
        self.store.delete(self.at(name))

    def edit(self, name, change):
        """Change an object that holds JSON."""
        fields = json.loads(self.read(name))
        change(fields)
        self.write(name, json.dumps(fields, sort_keys=True).encode())

    def start(self):
        """Plan the run; see ``work_off``."""
        job = self.make_job(spec=self.spec)
        return prepare(self.store, self.spec, job.plan())

    def retry(self):
        """Plan a retry of all dead letters."""
        return plan_retry(self.store, self.make_job, self.spec, ())

    def work_off(self, planned, *, dead=(), until=None):
        """Do the shards of a plan, of which items or blocks may be dead.

        Args:
            planned: The plan.
            dead: Keys of items, or numbers of blocks.
            until: Stop after so many shards, with nothing concluded.
        """
        job = self.make_job(
            spec=planned.spec, fingerprint=planned.fingerprint, folder=planned.folder
        )
        ledger, gather = Ledger(self.store, planned.folder), job.gather()
        for shard in itertools.islice(read_shards(self.store, planned.folder), until):
            results = (_result(job, shard, item, dead) for item in shard.items)
            record = ledger.commit(job.write(shard, results))
            for task in gather(shard, record):
                outputs = job.complete(task)
                fields = {"fingerprint": planned.fingerprint, "outputs": outputs}
                ledger.commit_task(TaskRecord(key=task.key, **fields))
                job.tidy(task)
        if until is None:
            self.conclude(planned)

    def conclude(self, planned):
        """Prove that the plan is done, also where that was said before."""
        for name in (MANIFEST, SUCCESS):
            self.store.delete(f"{planned.folder}/{name}")
        job = self.make_job(
            spec=planned.spec, fingerprint=planned.fingerprint, folder=planned.folder
        )
        conclude(self.store, job, planned)
        write_views(self.store, self.run)


def _result(job, shard, item, dead):
    """Any mask of an item, the same each time; 255 is nodata."""
    block = shard.block_of(item)
    if shard.refusal is not None:
        refusal = shard.refusal
        return dead_letter(item, "plan", refusal.code, refusal.message)
    if item.key in dead or (block is not None and block.number in dead):
        return job.bury(shard, item, dead_letter(item, "read", "undecodable", "damaged"))
    random = np.random.default_rng(len(item.key) if block is None else block.number)
    shape = (4, 6) if block is None else (block.core.height, block.core.width)
    mask = random.choice(np.array([0, 1, 2, 3, 255], dtype=np.uint8), size=shape)
    if block is not None and block.number == EMPTY:
        mask[:] = 255
    if item.key == EMPTY_CHIP:
        mask[:] = 255
    confidence = np.where(mask == 255, 0, 128).astype(np.uint8)
    segmentation = Segmentation(mask=mask, confidence=confidence)
    return Result(item=item, segmentation=segmentation)


EMPTY_CHIP = "c.tif"
"""Key of the raster that holds nodata alone."""

EMPTY = 2
"""Number of the block that holds nodata alone."""


@pytest.fixture
def build_label(make_spec, tmp_path):
    """A label run of five images in three shards, in a place; not begun."""

    def build(place):
        source = tmp_path / "images"
        source.mkdir(exist_ok=True)
        for number in range(5):
            (source / f"{number}.png").write_bytes(bytes(number))
        spec = make_spec(
            job="label",
            source=str(source),
            run=place.at("label"),
            access=place.store._access,
            shard_items=2,
        )
        return Built(place.store, place.at("label"), spec, LabelJob)

    return build


@pytest.fixture
def build_map(make_spec, write_raster, tmp_path):
    """A map run of a raster of four blocks and one that is refused; not begun."""

    def build(place):
        pixels = np.ones((3, 520, 530), dtype=np.uint8)
        write_raster(pixels, "scenes/scene.tif")
        (tmp_path / "scenes" / "bad.tif").write_bytes(b"no raster")
        spec = make_spec(
            job="map",
            source=str(tmp_path / "scenes"),
            run=place.at("map"),
            access=place.store._access,
            block=512,
        )
        return Built(place.store, place.at("map"), spec, MapJob)

    return build


@pytest.fixture
def build_chips(make_spec, write_raster, tmp_path):
    """A map run of five rasters of one block each, one of four blocks, one refused.

    Its shards: a, b and c; d and e, as three are the most; large, in four; refused.
    """

    def build(place, **fields):
        sizes = {"a": (20, 30), "b": (1, 1), "c": (512, 40), "d": (7, 512), "e": (3, 3)}
        for name, size in {**sizes, "large": (520, 530)}.items():
            write_raster(np.ones((3, *size), dtype=np.uint8), f"chips/{name}.tif")
        (tmp_path / "chips" / "refused.tif").write_bytes(b"no raster")
        given = {"shard_items": 3, "block": 512}
        spec = make_spec(
            job="map",
            source=str(tmp_path / "chips"),
            run=place.at("chips"),
            access=place.store._access,
            **(given | fields),
        )
        return Built(place.store, place.at("chips"), spec, MapJob)

    return build


@pytest.fixture(scope="session")
def read_brush():
    """A slow reader of Label Studio's brush, written from what its format says."""

    def read(data):
        """The pixels of Label Studio's brush, as its format says, bit by bit."""
        bits = "".join(f"{byte:08b}" for byte in data)
        place = 0

        def take(count):
            nonlocal place
            place += count
            assert place <= len(bits)
            return int(bits[place - count : place], 2)

        total, word = take(32), take(5) + 1
        sizes = [take(4) + 1 for _ in range(4)]
        values = []
        while len(values) < total:
            repeats, size = take(1), sizes[take(2)]
            count = take(size) + 1
            values += (
                [take(word)] * count if repeats else [take(word) for _ in range(count)]
            )
        assert len(values) == total
        assert len(bits) - place < 8
        return np.array(values, dtype=np.uint8).reshape(-1, 4)

    return read
