"""Put a COG together from the pieces of a busy mask, and read back every pixel.

    python tests/benchmarks/bench_cog.py [--side 20000] [--block 4096] [--save]

The mask is patches of random classes, so that its tiles compress as badly as those of
a city and none is like another. What GDAL reads must be what was written; rio-cogeo
must find the file valid, and ``gdalinfo``, where it is installed, must read it.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from provenance import describe, save
from rasterio.crs import CRS
from rio_cogeo import cog_validate

from deeplab.bundle import Bundle, ClassInfo
from jobs.outputs.cog import Assembler, Legend
from jobs.outputs.levels import MASK, Codec
from jobs.outputs.pieces import encode_piece
from jobs.windows import cut_blocks

PATCH = 16
CLASSES = 7


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--folder", help="where to work, if not below /tmp")
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    size, side, codec = (options.side,) * 2, options.block, Codec("zstd")
    pieces = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        start = time.perf_counter()
        for block in cut_blocks(*size, side):
            path = pieces[block.number] = root / f"{block.number}.tif"
            layers = [(MASK, make_mask(block))]
            path.write_bytes(encode_piece(block, layers, side=side, codec=codec))
        encoded = time.perf_counter()
        before = time.process_time()
        cog = root / "cog.tif"
        with (root / "spool").open("w+b") as spool:
            raster = Assembler(size, side, [MASK], codec=codec, spool=spool)
            for block in cut_blocks(*size, side):
                raster.add(block.core, pieces[block.number].read_bytes())
            raster.write(cog, MASK, grid=make_grid(), legend=make_legend())
        finished = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report = {
            "side_px": options.side,
            "block_px": side,
            "encode_seconds": round(encoded - start, 1),
            "finish_seconds": round(finished - encoded, 1),
            "finish_cpu_seconds": round(time.process_time() - before, 1),
            "peak_rss_mib": round(peak, 1),
            "cog_bytes": cog.stat().st_size,
            "cog_valid": cog_validate(cog, strict=True, quiet=True)[0],
            "gdalinfo": ask_gdalinfo(cog),
            "blocks_that_differ": count_wrong(cog, size, side),
        }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if options.save:
        about = describe(["tests/benchmarks/bench_cog.py", *sys.argv[1:]], "cpu")
        name = f"cog-{options.side}-{about['commit']}"
        save(Path(__file__).parent / "results", name, about | report)


def make_mask(block):
    """Patches of random classes, uint8 (H, W), the same for a block each time."""
    core = block.core
    shape = -(-core.height // PATCH), -(-core.width // PATCH)
    coarse = np.random.default_rng(block.number).integers(0, CLASSES, shape, np.uint8)
    fine = coarse.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    return np.ascontiguousarray(fine[: core.height, : core.width])


def make_grid():
    crs = CRS.from_epsg(32633).to_wkt()
    transform = [0.3, 0, 390_000, 0, -0.3, 5_820_000]
    return json.dumps({"crs": crs, "transform": transform, "gcps": []})


def make_legend():
    classes = tuple(
        ClassInfo(name=f"class {i}", color=(30 * i, 0, 0)) for i in range(CLASSES)
    )
    bundle = Bundle(
        architecture="linear",
        classes=classes,
        bands=("red", "green", "blue"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    return Legend(bundle=bundle, fingerprint="benchmark")


def ask_gdalinfo(cog):
    """Its exit code and what it complains of; None where it is not installed.

    Not for a checksum: GDAL 3.6 dies of that (SIGFPE) with any raster of more than
    2^31 pixels, its own empty ones too. ``count_wrong`` reads each pixel.
    """
    gdalinfo = shutil.which("gdalinfo")
    if gdalinfo is None:
        return None
    # Only a path of this file's own making reaches it.
    done = subprocess.run(  # noqa: S603
        [gdalinfo, cog], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    overviews = [line.strip() for line in lines if "Overviews:" in line]
    return {"code": done.returncode, "complaints": done.stderr, "overviews": overviews}


def count_wrong(cog, size, side):
    """Blocks of which GDAL reads other pixels than were written."""
    wrong = 0
    with rasterio.open(cog) as found:
        for block in cut_blocks(*size, side):
            core = block.core
            window = rasterio.windows.Window(core.col, core.row, core.width, core.height)
            wrong += not np.array_equal(found.read(1, window=window), make_mask(block))
    return wrong


if __name__ == "__main__":
    main()
