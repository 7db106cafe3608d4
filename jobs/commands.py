"""What the commands do, behind the command line."""

from __future__ import annotations

import functools
import itertools
import math
import signal
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from cluster.outcomes import ClusterLostError, NoCapacityError, WorkerBugError
from deeplab.tiles import TileGrid
from deeplab.views import Views
from jobs.bundle_file import DEMO_BUNDLE, load_bundle
from jobs.class_choice import choose_classes
from jobs.engine import Place, open_engine
from jobs.errors import BugError, InputError, ItemError, UnfinishedError
from jobs.evaluate_job import EvaluateJob, choose_evaluation
from jobs.folder import check_free
from jobs.inputs.geojson import MAX_FILE, is_box, parse_box, parse_geojson
from jobs.inputs.parts import read_size
from jobs.inputs.truth_request import complete_truth
from jobs.label_job import LabelJob
from jobs.map_job import MapJob
from jobs.mask_choice import Masks
from jobs.mosaic_job import MosaicJob
from jobs.policy import Policy
from jobs.prefetch import map_ahead
from jobs.runner import run
from jobs.sizes import Sizes, resized_size
from jobs.spec import (
    Compute,
    Cut,
    Device,
    JobName,
    Limits,
    Pick,
    Precision,
    Product,
    Reading,
    Spec,
    Tiles,
)
from jobs.storage import Access, open_store, resolve
from jobs.truth import Truth
from jobs.windows import amplification, check_block, count_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deeplab.bundle import Bundle
    from jobs.job import Job, Tell
    from jobs.runner import Engine, Progress
    from jobs.shards import Shard

JOBS: Final[dict[JobName, Callable[..., Job]]] = {
    "label": LabelJob,
    "map": MapJob,
    "evaluate": EvaluateJob,
}

_HEADER_READERS: Final = 16
_COUNTED: Final = ("items", "bytes", "pixels", "tiles", "seen", "refused", "shards")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asked for, before anything was looked at."""

    job: JobName
    source: str
    run: str
    bundle: str
    precision: Precision = "fp32"
    limit: int | None = None
    tiles: Tiles = field(default_factory=Tiles)
    views: Views = field(default_factory=Views)
    sizes: Sizes = field(default_factory=Sizes)
    cut: Cut = field(default_factory=Cut)
    access: Access = field(default_factory=Access)
    place: Place = field(default_factory=Place)
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    product: Product = field(default_factory=Product)
    pick: Pick = field(default_factory=Pick)
    reading: Reading = field(default_factory=Reading)
    masks: Masks = field(default_factory=Masks)
    truth: Truth = field(default_factory=Truth)
    aoi: str | None = None
    """Bounds, or the location of a GeoJSON file."""

    skip_done_in: str | None = None
    """A run folder; what it has done is left out."""

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be at least 1, got {self.limit}")


def start(request: Request, progress: Progress) -> dict[str, Any]:
    """Run a job where the request says, or go on with it."""
    bundle, data = load_bundle(request.bundle, request.access)
    # What cannot be is refused before a cluster starts.
    request.tiles.resolve(bundle)
    choose_classes("probabilities", request.product.probabilities, bundle)
    request.masks.floors(bundle)
    store = open_store(request.access)
    store.require(locate_source(request))
    request = replace(request, truth=_complete_truth(request, bundle))
    check_free(store, resolve(request.run))
    with open_engine(request.place) as (engine, device):
        spec = make_spec(request, bundle, make_compute(request, device))
        return start_on(engine, spec, data, progress)


def start_on(engine: Engine, spec: Spec, data: bytes, progress: Progress) -> dict[str, Any]:
    """Run a job on an engine that is open already."""
    with stoppable():
        return run(choose_job(spec), spec, bundle=data, engine=engine, progress=progress)


def choose_job(spec: Spec) -> Callable[..., Job]:
    """The job's class."""
    if spec.job == "evaluate":
        return choose_evaluation(spec)
    return JOBS[spec.job] if spec.product.mosaic is None else MosaicJob


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a run end on SIGTERM, and say what its pool says to the user."""
    try:
        with _terminable():
            yield
    except (NoCapacityError, ClusterLostError) as error:
        raise UnfinishedError(f"{error}; the same command tries again") from error
    except WorkerBugError as error:
        raise BugError(f"a replica failed, please report this:\n{error}") from error


def make_compute(request: Request, device: Device) -> Compute:
    """How to compute a request on the device that was found."""
    return Compute(
        device=device, precision=request.precision, threads=request.place.threads
    )


def make_spec(request: Request, bundle: Bundle, compute: Compute) -> Spec:
    """Turn a request into a spec with absolute locations."""
    named = request.bundle
    return Spec(
        job=request.job,
        source=locate_source(request),
        limit=request.limit,
        run=resolve(request.run),
        bundle=bundle,
        compute=compute,
        cut=request.cut,
        product=request.product,
        access=request.access,
        tiles=request.tiles,
        views=request.views,
        sizes=request.sizes,
        policy=request.policy,
        limits=request.limits,
        pick=request.pick,
        reading=request.reading,
        masks=request.masks,
        truth=_complete_truth(request, bundle),
        area=_read_area(request.aoi, request.access),
        skip_done_in=request.skip_done_in and resolve(request.skip_done_in),
        bundle_location=named if named == DEMO_BUNDLE else resolve(named),
    )


def locate_source(request: Request) -> str:
    """The absolute location of what a user asked for."""
    return resolve(request.source, allow_http=request.access.allow_http)


def _complete_truth(request: Request, bundle: Bundle) -> Truth:
    """The truth of an evaluation, in full; nothing is done where it is so already."""
    if request.job != "evaluate":
        return request.truth
    store = open_store(request.access)
    return complete_truth(store, request.truth, bundle, locate_source(request))


def _read_area(aoi: str | None, access: Access) -> str:
    if aoi is None:
        return ""
    if is_box(aoi):
        return parse_box(aoi)
    store, location = open_store(access), resolve(aoi)
    try:
        found = store.stat(location)
        if found.size > MAX_FILE:
            raise InputError(
                f"{location} has {found.size} bytes, an area may have {MAX_FILE}; "
                "simplify it"
            )
        data = store.read(location, etag=found.etag)
    except ItemError as error:
        raise InputError(
            f"{error.message}; --aoi must be west,south,east,north or a GeoJSON file"
        ) from error
    return parse_geojson(data, location)


def preview_plan(request: Request) -> dict[str, Any]:
    """Plan a job without starting it: what there is and how it would be cut.

    The header of every item is read, so that tiles are counted and not guessed.
    """
    bundle, _ = load_bundle(request.bundle, request.access)
    spec = make_spec(request, bundle, Compute())
    tiling = spec.tiling
    if spec.product.mosaic is not None:
        return _describe_plan(spec, _count_mosaic(spec), None)
    found = dict.fromkeys(_COUNTED, 0)
    found |= {} if spec.skip_done_in is None else {"skipped": 0}
    decoded = decoded_of = 0
    plan = choose_job(spec)(spec=spec).watch(_note_skipped(found)).plan()
    for _, group in itertools.groupby(plan, key=lambda shard: shard.items):
        parts = list(group)
        found["shards"] += len(parts)
        found["items"] += len(parts[0].items)
        found["bytes"] += parts[0].size
        for part in parts:
            decoded += part.decoded[0]
            decoded_of += part.decoded[1]
        for size in _sizes(parts[0], spec.access):
            if size is None:
                found["refused"] += 1
                continue
            height, width = resized_size(spec.sizes.resize, *size)
            grid = TileGrid(
                height=height, width=width, tiling=tiling, fitted=not spec.has_rasters
            )
            found["pixels"] += height * width
            found["tiles"] += grid.count
            found["seen"] += grid.count * math.prod(grid.shape)
    return _describe_plan(spec, found, amplification(decoded, decoded_of))


def _note_skipped(found: dict[str, int]) -> Tell:
    def tell(_items: int, skipped: int) -> None:
        if "skipped" in found:
            found["skipped"] = skipped

    return tell


def _count_mosaic(spec: Spec) -> dict[str, int]:
    """What a mosaic adds up to; its tiles are those of all scenes, seen as a whole."""
    check_block(spec.cut.block)
    found = MosaicJob(spec=spec).survey()
    boxes = [(scene.box.height, scene.box.width) for scene in found.scenes]
    tiles = sum(TileGrid(height=h, width=w, tiling=spec.tiling).count for h, w in boxes)
    items = [*(scene.item for scene in found.scenes), *(item for item, _ in found.refused)]
    blocks = count_blocks(found.height, found.width, spec.cut.block)
    return {
        "items": len(items),
        "bytes": sum(item.size for item in items),
        "pixels": found.height * found.width,
        "tiles": tiles,
        "seen": tiles * spec.tiling.tile**2,
        "refused": len(found.refused),
        "shards": blocks + len(found.refused),
    }


def _describe_plan(
    spec: Spec, found: dict[str, int], often: float | None
) -> dict[str, Any]:
    tiling, seen = spec.tiling, found.pop("seen")
    return {
        "job": spec.job,
        "source": spec.source,
        **found,
        **asdict(tiling),
        "waste": round(seen / found["pixels"], 2) if found["pixels"] else None,
        "read_amplification": often,
    }


def _sizes(shard: Shard, access: Access) -> Iterator[tuple[int, int] | None]:
    """Height and width of each item of a shard; None for what cannot be done."""
    if shard.pixels:
        yield from ((block.height, block.width) for _, block in shard.parts if block)
    elif shard.refusal is not None:
        yield None
    else:
        store = open_store(access)
        read = functools.partial(read_size, store, shard)
        yield from map_ahead(read, shard.items, threads=_HEADER_READERS)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does: in order, and resumable.

    The code is set again on the way out: where the signal finds Ray waiting, Ray ends
    the program in the same way, but with a code of its own.
    """
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except SystemExit as error:
        if received:
            error.code = 128 + received[0]
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
