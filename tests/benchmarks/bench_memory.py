"""Peak memory of every process while a large raster is mapped.

    python tests/benchmarks/bench_memory.py [--side 20000] [--replicas 2] [--kill]

The raster is sparse on disk but has no nodata, so every block is read and every
tile reaches the model: a per-pixel classifier that costs next to nothing, so
that what is measured is the engine. With ``--kill`` everything is killed when half of
the blocks are done, and the same command goes on. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import rasterio
from provenance import describe, save
from rio_cogeo import cog_validate


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--folder", help="where to work, if not below /tmp")
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        make_raster(root / "big.tif", options.side)
        make_bundle(root / "free.safetensors")
        command = [Path(sys.executable).with_name("atrous"), "map", "big.tif", "run"]
        command += ["--bundle", "free.safetensors", "--replicas", str(options.replicas)]
        command += ["-c", f"block={options.block}", "-c", "device=cpu"]
        started = time.perf_counter()
        blocks = (-(-options.side // options.block)) ** 2
        ledger = root / "run" / "ledger"
        peaks = run(command, root, until=(ledger, blocks // 2) if options.kill else None)
        done = count(ledger)
        if options.kill:
            more = run(command, root)
            peaks = {
                name: max(peaks.get(name, 0), more.get(name, 0)) for name in more | peaks
            }
        seconds = time.perf_counter() - started
        cog = root / "run" / "rasters" / "big.tif"
        (task,) = (ledger / "tasks").glob("*.json")
        finish = json.loads(task.read_text())["seconds"]
        report = {
            "side_px": options.side,
            "replicas": options.replicas,
            "block_px": options.block,
            "blocks": blocks,
            "done_when_killed": done if options.kill else None,
            "seconds": round(seconds, 1),
            "finish_seconds": finish,
            "finish_share": round(finish / seconds, 4),
            "megapixels_per_s": round(options.side**2 / 1e6 / seconds, 2),
            "cog_valid": cog_validate(cog, strict=True, quiet=True)[0],
            "cog_bytes": cog.stat().st_size,
            "verified": verify(root),
            "peak_rss_mib": peaks,
        }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if options.save:
        about = describe(["tests/benchmarks/bench_memory.py", *sys.argv[1:]], "cpu")
        name = f"memory-{options.side}-{about['commit']}"
        save(Path(__file__).parent / "results", name, about | report)


def run(command, root, until=None):
    """Run the command to its end, or kill all of it when the ledger has so many records."""
    process = subprocess.Popen(  # noqa: S603
        command, cwd=root, stdout=sys.stderr, start_new_session=True
    )
    killed = threading.Event()
    if until is not None:
        threading.Thread(target=kill, args=(process, *until, killed), daemon=True).start()
    peaks = watch(process)
    assert killed.is_set() or process.returncode == 0, process.returncode
    return peaks


def kill(process, ledger, records, killed):
    while process.poll() is None and count(ledger) < records:
        time.sleep(0.5)
    killed.set()
    for pid in family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def count(ledger):
    return sum(1 for _ in ledger.glob("[0-9]*/*.json"))


def verify(root):
    """Read every byte again, and count the pixels."""
    atrous = Path(sys.executable).with_name("atrous")
    done = subprocess.run(  # noqa: S603
        [atrous, "verify", "run", "--deep"], cwd=root, stdout=sys.stderr, check=False
    )
    return done.returncode == 0


def make_raster(path: Path, side: int) -> None:
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "crs": "EPSG:32633"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True}
    transform = rasterio.Affine(0.3, 0, 390_000, 0, -0.3, 5_820_000)
    with rasterio.open(path, "w", height=side, width=side, transform=transform, **profile):
        pass


def make_bundle(path: Path) -> None:
    import deeplab
    from deeplab.bundle import Bundle, ClassInfo
    from deeplab.weights import save_bundle

    classes = tuple(ClassInfo(name=f"class {i}", color=(40 * i, 0, 0)) for i in range(6))
    bundle = Bundle(
        architecture="linear",
        classes=classes,
        bands=("red", "green", "blue"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    save_bundle(path, deeplab.build("linear", classes=6), bundle)


def watch(process: subprocess.Popen) -> dict[str, float]:
    """Peak resident MiB of the process and all below it, by what they are."""
    peaks: dict[int, tuple[str, float]] = {}
    done = threading.Event()
    threading.Thread(target=lambda: (process.wait(), done.set()), daemon=True).start()
    while not done.wait(0.5):
        for pid in family(process.pid):
            found = peak(pid)
            if found is not None:
                peaks[pid] = found
    largest: dict[str, float] = {}
    for name, size in peaks.values():
        largest[name] = max(largest.get(name, 0.0), size)
    return dict(sorted(largest.items(), key=lambda pair: -pair[1]))


def family(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def peak(pid: int) -> tuple[str, float] | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        name = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0] or "?"
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return (Path(name).name, round(int(sizes[0]) / 1024, 1)) if sizes else None


if __name__ == "__main__":
    main()
