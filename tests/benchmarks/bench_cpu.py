"""Measure what the pipeline costs beside the network, side by side on a CPU.

    python tests/benchmarks/bench_cpu.py [--save]

Every figure is a ratio of two times from one round, so it holds on a loaded
machine; nothing is asserted. It takes under three minutes on two idle cores.
"""

import argparse
import dataclasses
import itertools
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from encoders import cog_writers, mask_encoders
from generate import make_bundle as make_header
from generate import make_network, make_noise, save_network, write_images, write_raster
from measure import keep_freed_memory, ratio, spread, take_turns
from provenance import RESULTS, commit, describe, processor, save, say, table

from deeplab.fold import fold
from deeplab.segmenter import Segmenter
from jobs.scenes import make_scene

ARCHITECTURE = "deeplabv3plus_mobilenet_v2"
TILE, OVERLAP, CLASSES = 512, 128, 8
BLOCK = 4096
LABEL_IMAGES = 12
MAP_HEIGHT, MAP_WIDTH = 1280, 1664  # 3 x 4 tiles in one block
COG_SIDE = 4096
HEADER = ("", "seconds", "ratio [quartiles]", "ratio of CPU time")


def main():
    options = _parser().parse_args()
    kept = False if options.plain_malloc else keep_freed_memory()
    where = describe(sys.argv, processor())
    say(f"{where['processor']}, {where['cores']} cores, load {where['load_average'][0]}")
    with tempfile.TemporaryDirectory(prefix="atrous-bench-") as name:
        content = {
            "benchmark": "cpu",
            "provenance": where,
            "threads": options.threads,
            "freed_memory_kept": kept,
            "pipeline": measure_pipeline(Path(name), options),
            "precision": measure_precision(options),
            "masks": measure_masks(Path(name), options),
            "cog": measure_cog(Path(name), options),
        }
    content["provenance"]["load_average_after"] = describe([], "")["load_average"]
    if options.save:
        save(RESULTS, f"cpu-{commit()}", content)


def measure_pipeline(folder, options):
    """Both jobs in this process against a bare loop over as many tiles."""
    from run_job import count_tiles, run_job

    header = make_header(ARCHITECTURE, classes=CLASSES, tile=TILE, overlap=OVERLAP)
    bundle = save_network(folder / "bundle.safetensors", header)
    scene = make_scene(1, 1024, 1024).pixels
    images = write_images(folder / "images", count=LABEL_IMAGES, side=TILE, scene=scene)
    raster = write_raster(
        folder / "raster.tif", height=MAP_HEIGHT, width=MAP_WIDTH, scene=scene
    )
    tiles = LABEL_IMAGES
    if count_tiles(MAP_HEIGHT, MAP_WIDTH, header, BLOCK) != (tiles, tiles):
        raise ValueError("both jobs and the loop must see the same number of tiles")
    forward = make_forward(header, options.threads)
    numbers, stages = itertools.count(), {"label": [], "map": []}
    place = {"local": True, "device": "cpu", "threads": options.threads}

    def job(name, source, **more):
        run = folder / f"run-{next(numbers)}"
        times = run_job(name, source, run, bundle, place=place, **more)
        shutil.rmtree(run)
        return times.stages_s

    job("label", images, limit=1)  # imports, and the first forward pass
    forward(1)
    functions = {
        "forward": lambda: forward(tiles),
        "label": lambda: stages["label"].append(job("label", images)),
        "map": lambda: stages["map"].append(job("map", raster)),
    }
    times = take_turns(functions, rounds=options.rounds, budget_s=options.seconds / 2)
    return report_pipeline(times, stages, tiles)


def make_forward(header, threads, precision="fp32"):
    """A bare loop over normalised tiles that are there already.

    It has a thread of its own, as a segmenter has: in the main thread, whose
    memory comes from another heap, it was 5 to 15 % slower.
    """
    model = fold(make_network(header)).to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, TILE, TILE).to(memory_format=torch.channels_last)
    thread = ThreadPoolExecutor(1)
    thread.submit(torch.get_num_threads).result()
    thread.submit(torch.set_num_threads, threads).result()

    def forward(tiles):
        bf16 = precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for _ in range(tiles):
                model(x)

    return lambda tiles: thread.submit(forward, tiles).result()


def report_pipeline(times, stages, tiles):
    """The jobs as a whole, and their shards alone: without loading and planning."""
    loop, rows, found = times["forward"], [], {"tiles": tiles}
    rows.append(("forward loop", *_row(loop, loop)))
    for name, parts in stages.items():
        shards = [part["total"] for part in parts]
        rows.append((f"{name} job", *_row(times[name], loop)))
        seconds = f"{spread(shards).median:.3f}"
        rows.append((f"{name} shards", seconds, ratio(shards, loop.wall).text(), ""))
        found[name] = {
            "job": _figures(times[name], loop),
            "shards": dataclasses.asdict(ratio(shards, loop.wall)),
            "stages_s": {key: spread([p[key] for p in parts]).median for key in parts[0]},
        }
    found["forward_s"] = dataclasses.asdict(spread(loop.wall))
    title = f"pipeline: {tiles} tiles of {TILE} px, {ARCHITECTURE}, fp32; goal <= 1.10"
    table(title, HEADER, rows)
    for name in stages:
        say(f"  {name} stages: {found[name]['stages_s']}")
    return found


def measure_precision(options):
    """The segmenter in bf16 and fp32, and each against its bare network."""
    header = make_header(ARCHITECTURE, classes=CLASSES, tile=TILE, overlap=OVERLAP)
    pixels, valid = make_noise(TILE, 2 * TILE - OVERLAP)  # two tiles
    functions = {}
    for precision in ("fp32", "bf16"):
        segmenter = Segmenter(
            make_network(header), header, precision=precision, threads=options.threads
        )
        forward = make_forward(header, options.threads, precision)
        functions[f"forward {precision}"] = lambda forward=forward: forward(2)
        functions[f"segment {precision}"] = lambda one=segmenter: one.segment(pixels, valid)
    for function in functions.values():
        function()
    times = take_turns(functions, rounds=2 * options.rounds, budget_s=options.seconds / 5)
    pairs = (
        ("segment fp32", "forward fp32"),
        ("segment bf16", "forward bf16"),
        ("segment bf16", "segment fp32"),
    )
    return _compare("segmenter: 2 tiles", times, pairs)


def measure_masks(folder, options):
    """Our Parquet file of masks against PNG files."""
    found = {}
    scene = [make_scene(seed, 1024, 1024).truth for seed in (2, 3)]
    rng = np.random.default_rng(4)
    ragged = [np.where(rng.random(m.shape) < 0.05, (m + 1) % CLASSES, m) for m in scene]
    for kind, masks in (("scene", scene), ("ragged", [m.astype(np.uint8) for m in ragged])):
        header = make_header(ARCHITECTURE, classes=CLASSES, tile=TILE, overlap=OVERLAP)
        functions, sizes = mask_encoders(folder, header, masks)
        for function in functions.values():
            function()
        times = take_turns(
            functions, rounds=2 * options.rounds, budget_s=options.seconds / 10
        )
        pairs = [("parquet zstd-1", other) for other in functions if "png" in other]
        title = f"masks, {kind}: {len(masks)} of 1024 px"
        found[kind] = _compare(title, times, pairs, sizes)
    return found


def measure_cog(folder, options):
    """Our COG against GDAL's driver alone, its defaults, and rio-cogeo."""
    mask = np.tile(make_scene(5, 1024, 1024).truth, (COG_SIDE // 1024,) * 2)
    header = make_header(ARCHITECTURE, classes=CLASSES, tile=TILE, overlap=OVERLAP)
    functions, sizes = cog_writers(folder, header, mask)
    for function in functions.values():
        function()
    times = take_turns(functions, rounds=options.rounds, budget_s=options.seconds / 5)
    pairs = [("ours", other) for other in functions if other != "ours"]
    return _compare(f"COG: one mask of {COG_SIDE} px", times, pairs, sizes)


def _compare(title, times, pairs, sizes=None):
    """Print and return the ratio of each pair, and bytes where there are some."""
    rows = [(name, f"{spread(one.wall).median:.3f}", "", "") for name, one in times.items()]
    found = {"seconds": {n: dataclasses.asdict(spread(t.wall)) for n, t in times.items()}}
    for mine, other in pairs:
        rows.append((f"{mine} / {other}", *_row(times[mine], times[other])))
        found[f"{mine} / {other}"] = _figures(times[mine], times[other])
    table(title, HEADER, rows)
    if sizes:
        found["bytes"] = sizes
        say(f"  bytes: {', '.join(f'{name} {size:,}' for name, size in sizes.items())}")
    return found


def _row(times, baseline):
    figures = ratio(times.wall, baseline.wall), ratio(times.cpu, baseline.cpu)
    return f"{spread(times.wall).median:.3f}", *(one.text() for one in figures)


def _figures(times, baseline):
    return {
        "wall": dataclasses.asdict(ratio(times.wall, baseline.wall)),
        "cpu": dataclasses.asdict(ratio(times.cpu, baseline.cpu)),
    }


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds at most")
    parser.add_argument("--seconds", type=float, default=120, help="time to aim for")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument(
        "--plain-malloc", action="store_true", help="leave glibc's heaps as they are"
    )
    parser.add_argument("--save", action="store_true", help=f"write JSON into {RESULTS}")
    return parser


if __name__ == "__main__":
    main()
