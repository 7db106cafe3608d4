"""Measure the network, the segmenter and both jobs on a GPU.

    python tests/benchmarks/bench_gpu.py [--out FOLDER] [--parts segment] [--batches 16]

From a checkout that is not installed: set PYTHONPATH to its root. Where a package
is missing, the part that needs it is skipped and that is said. Without a GPU it
runs tiny sizes on the CPU, so that it is known to work; those times say nothing.
"""

import argparse
import itertools
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from forward import VARIANTS, count_flop, forget_peak, measure_forward, peak_memory_mib
from generate import make_bundle, make_network, make_noise
from measure import spread
from provenance import (
    RESULTS,
    commit,
    describe,
    missing,
    percent,
    processor,
    save,
    say,
    slug,
    table,
)

from deeplab.segmenter import Segmenter
from deeplab.tiles import TileGrid

ARCHITECTURE = "deeplabv3plus_resnet50"
CLASSES = 21
JOBS_NEED = ("fsspec", "PIL", "pyarrow", "rasterio", "s3fs")
CEILING = "bf16 channels_last"
PLAIN = "eager fp32"
PARTS = ("forward", "segment", "jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything."""

    tile: int
    overlap: int
    batches: tuple[int, ...]
    repeats: int
    inner: int
    side: int
    """Of the image in memory, in px."""

    scene: int
    """Side of the procedural scene that images and raster are cut from."""

    images: int
    """Of one tile each; larger ones are fewer."""

    image_sides: tuple[int, ...]
    """One label job for each: small images leave slots of a batch empty."""

    raster: int
    block: int
    tile_flop: int = 0


GPU = Sizes(
    tile=512,
    overlap=128,
    batches=(16, 32),
    repeats=20,
    inner=10,
    side=8192,
    scene=2048,
    images=1024,
    image_sides=(512, 1664),
    raster=16384,
    block=4096,
)
SMOKE = Sizes(
    tile=64,
    overlap=16,
    batches=(1, 2),
    repeats=2,
    inner=1,
    side=160,
    scene=256,
    images=4,
    image_sides=(160,),
    raster=400,
    block=512,
)


def main():
    options = _parser().parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    smoke = device == "cpu"
    name = torch.cuda.get_device_name(0) if device == "cuda" else processor()
    say(f"{name}, torch {torch.__version__}")
    if smoke:
        say("torch finds no CUDA device: a smoke run on the CPU, its times say nothing")
        torch.set_num_threads(1)  # two would wait for each other on a shared machine
    sizes = SMOKE if smoke else GPU
    header = make_bundle(
        ARCHITECTURE, classes=CLASSES, tile=sizes.tile, overlap=sizes.overlap
    )
    model = make_network(header).to(device)
    batches = tuple(options.batches or sizes.batches)
    sizes = replace(sizes, tile_flop=count_flop(model, sizes.tile), batches=batches)
    content = {
        "benchmark": "gpu",
        "smoke": smoke,
        "provenance": {**describe(sys.argv, name), "gpu": _describe_gpu(device)},
        "network": {"architecture": ARCHITECTURE, "output_stride": 16, "classes": CLASSES},
        "sizes": asdict(sizes),
    }
    kind = f"gpu-{slug(name)}" if device == "cuda" else "cpu-smoke"

    def keep(part, found):
        # After each part, so that what was measured outlives what comes next.
        content[part] = found
        save(options.out, f"{kind}-{commit()}", content)

    is_whole = "forward" in options.parts
    variants = [one for one in VARIANTS if is_whole or one.name in (CEILING, PLAIN)]
    keep("forward", run_forward(model, variants, sizes, device))
    if "segment" in options.parts:
        keep("segment", run_segment(model, header, sizes, device, content["forward"]))
    del model
    if "jobs" in options.parts:
        keep("jobs", run_jobs(header, sizes, device, content["forward"]))


def run_forward(model, variants, sizes, device):
    """The bare network: the ceiling for all that follows."""
    found = [
        measure_forward(model, variant, batch=batch, sizes=sizes, device=device)
        for variant in variants
        for batch in sizes.batches
    ]
    rows = []
    for one in found:
        first = f"{one['variant']['name']}, batch {one['batch']}"
        if "skipped" in one:
            rows.append((first, one["skipped"], "", "", ""))
            continue
        rate = one["tiles_s"]
        spread_text = f"{rate['low']:.1f}-{rate['high']:.1f}"
        memory = one["peak_memory_mib"]
        rows.append(
            (first, f"{rate['median']:.1f}", spread_text, f"{one['tflop_s']:.2f}", memory)
        )
    title = f"forward: {ARCHITECTURE}, output stride 16, {sizes.tile} px"
    table(title, ("", "tiles/s", "quartiles", "TFLOP/s", "peak MiB"), rows)
    return found


def run_segment(model, header, sizes, device, forward):
    """The segmenter from pixels to masks in the host's memory."""
    pixels, valid = make_noise(sizes.side, sizes.side)
    tiles = TileGrid(height=sizes.side, width=sizes.side, tiling=header.tiling).count
    threads = None if device == "cuda" else 1
    found, rows = [], []
    for precision, batch in itertools.product(("fp32", "bf16"), sizes.batches):
        forget_peak(device)
        first = f"{precision}, batch {batch}"
        with Segmenter(
            model, header, device=device, precision=precision, batch=batch, threads=threads
        ) as segmenter:
            try:
                segmenter.segment(pixels, valid)
                seconds = [_time(segmenter, pixels, valid) for _ in range(3)]
            except torch.cuda.OutOfMemoryError:
                rows.append((first, "out of GPU memory", "", "", ""))
                continue
        rate = spread([tiles / one for one in seconds])
        plain = CEILING if precision == "bf16" else PLAIN
        best = ceiling(forward, plain, batch)
        one = {
            "precision": precision,
            "batch": batch,
            "tiles": tiles,
            "tiles_s": asdict(rate),
            "pixels_s": rate.median / tiles * sizes.side**2,
            "forward": plain,
            "share_of_forward": best and rate.median / best,
            "peak_memory_mib": peak_memory_mib(device),
        }
        found.append(one)
        figures = f"{rate.median:.1f}", f"{one['pixels_s'] / 1e6:.1f}"
        share = percent(one["share_of_forward"])
        rows.append((first, *figures, share, one["peak_memory_mib"]))
    title = f"Segmenter.segment: {sizes.side} px square, {tiles} tiles; goal >= 90 %"
    table(title, ("", "tiles/s", "MP/s", "of forward", "peak MiB"), rows)
    return found


def run_jobs(header, sizes, device, forward):
    """Both jobs on generated input, as far as what they need is installed."""
    absent = missing(JOBS_NEED)
    if absent:
        reason = f"not installed: {', '.join(absent)}; both jobs are skipped"
        say(f"\njobs: {reason}")
        return {"skipped": reason}
    from gpu_jobs import measure_jobs

    from jobs.spec import BATCH

    best = ceiling(forward, CEILING, BATCH[device])
    return measure_jobs(header, sizes, device, best)


def ceiling(forward, variant, batch):
    """Tiles a second of a variant of ``run_forward``; None where it was skipped."""
    for one in forward:
        if one["variant"]["name"] == variant and one["batch"] == batch:
            return one.get("tiles_s", {}).get("median")
    return None


def _time(segmenter, pixels, valid):
    start = time.perf_counter()
    segmenter.segment(pixels, valid)
    return time.perf_counter() - start


def _describe_gpu(device):
    if device != "cuda":
        return None
    facts = torch.cuda.get_device_properties(0)
    return {
        "name": facts.name,
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "capability": f"{facts.major}.{facts.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="without forward, only the ceilings of the others are measured of it",
    )
    parser.add_argument("--batches", nargs="+", type=int, help="tiles at once")
    return parser


if __name__ == "__main__":
    main()
