"""Both jobs on generated input on one device, in this process and in an actor."""

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from generate import save_network, write_images, write_raster
from gpu_busy import Busy
from provenance import missing, percent, say, table
from run_job import count_tiles, run_job

from jobs.scenes import make_scene
from jobs.spec import BATCH

PRECISION = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A job and its input."""

    job: str
    source: Path
    name: str
    """For people."""

    tiles: int
    """Of the input."""

    computed: int
    """Tiles that blocks compute: those on their borders twice."""

    cut: dict[str, int] = field(default_factory=dict)


def measure_jobs(header, sizes, device, best):
    """Run every job in every place.

    Args:
        header: Of the bundle.
        sizes: How much of everything.
        device: ``cuda`` or ``cpu``.
        best: Tiles a second of the bare network, or None.
    """
    busy = Busy(device)
    found = {
        "precision": PRECISION,
        "batch": BATCH[device],
        "busy_source": busy.source or "nothing: no GPU, or neither pynvml nor nvidia-smi",
        "results": [],
    }
    with tempfile.TemporaryDirectory(prefix="atrous-bench-") as name:
        folder = Path(name)
        bundle = save_network(folder / "bundle.safetensors", header)
        works = _make_works(folder, header, sizes)
        for where, open_place in _places(found).items():
            with open_place() as place:
                for work in works:
                    run = folder / f"run-{len(found['results'])}"
                    with busy.watch():
                        times = run_job(
                            work.job,
                            work.source,
                            run,
                            bundle,
                            place={**place, "device": device},
                            cut=work.cut,
                            precision=PRECISION,
                        )
                    share = busy.share(*times.window)
                    found["results"].append(_figures(where, work, times, best, share))
    _show(found, sizes)
    return found


def _places(found):
    """Ways to run a job; without Ray one is left out, and that is said."""
    if missing(["ray"]):
        found["skipped"] = "not installed: ray; the jobs run with --local alone"
        say(f"\njobs: {found['skipped']}")
        return {"--local": _local}
    return {"--local": _local, "ray": _ray}


@contextmanager
def _local():
    yield {"local": True}


@contextmanager
def _ray():
    """One cluster for all jobs, which find it and use it."""
    from cluster.connect import connect

    with connect(None):
        yield {"replicas": 1}


def _make_works(folder, header, sizes):
    """Images of several sizes and one raster, with what they come to in tiles."""
    scene = make_scene(1, sizes.scene, sizes.scene).pixels
    works = []
    for side in sizes.image_sides:
        tiles, _ = count_tiles(side, side, header, sizes.block)
        count = max(4, sizes.images // tiles)
        images = folder / f"images-{side}"
        works.append(
            Work(
                job="label",
                source=write_images(images, count=count, side=side, scene=scene),
                name=f"{count} images of {side} px",
                tiles=count * tiles,
                computed=count * tiles,
                cut={"shard_items": max(1, count // 16)},
            )
        )
    side, raster = sizes.raster, folder / "raster.tif"
    tiles, computed = count_tiles(side, side, header, sizes.block)
    works.append(
        Work(
            job="map",
            source=write_raster(raster, height=side, width=side, scene=scene),
            name=f"a raster of {side} px, blocks of {sizes.block}",
            tiles=tiles,
            computed=computed,
            cut={"block": sizes.block},
        )
    )
    return works


def _figures(where, work, times, best, busy):
    """Rates of one run; ``steady`` ones count from the end of the first shard."""
    steady = times.steady_pixels_s
    a_pixel = work.tiles / times.pixels
    computed = None if steady is None else steady * work.computed / times.pixels
    return {
        "place": where,
        "job": work.job,
        "input": work.name,
        "tiles": work.tiles,
        "tiles_computed": work.computed,
        "pixels": times.pixels,
        "wall_s": times.wall_s,
        "stages_s": times.stages_s,
        "tiles_s": work.tiles / times.wall_s,
        "pixels_s": times.pixels / times.wall_s,
        "steady_tiles_s": None if steady is None else steady * a_pixel,
        "steady_pixels_s": steady,
        # Of the tiles computed: what borders cost is no fault of the pipeline.
        "share_of_forward": None if None in (computed, best) else computed / best,
        "gpu_busy": busy,
    }


def _show(found, sizes):
    rows = []
    for one in found["results"]:
        steady = one["steady_tiles_s"], one["steady_pixels_s"]
        rates = ("", "") if None in steady else (steady[0], steady[1] / 1e6)
        rows.append(
            (
                f"{one['job']} {one['place']}: {one['input']}",
                f"{one['tiles_s']:.1f}",
                *(rate if rate == "" else f"{rate:.1f}" for rate in rates),
                percent(one["share_of_forward"]),
                percent(one["gpu_busy"]),
            )
        )
    say(f"\nGPU busy is from {found['busy_source']}; steady is after the first shard")
    title = f"jobs: {PRECISION}, tiles of {sizes.tile} px, batch {found['batch']}"
    table(title, ("", "tiles/s", "steady", "MP/s", "of forward", "GPU busy"), rows)
