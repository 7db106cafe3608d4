"""What a measurement was made on, and where it is written down."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")
PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "safetensors",
    "pillow",
    "pyarrow",
    "rasterio",
    "rio-cogeo",
    "ray",
    "s3fs",
)


def missing(modules):
    """Names among ``modules`` that are not installed."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def describe(argv, device):
    """Commit, versions, machine, load, date and command, ready for JSON."""
    return {
        "commit": commit(),
        "changed": bool(_git("status", "--porcelain", "--", "deeplab", "jobs", "cluster")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *argv]),
        "device": device,
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def commit():
    """Twelve digits of the commit, ``unknown`` where git cannot tell."""
    return _git("rev-parse", "--short=12", "HEAD") or "unknown"


def processor():
    """Name of the processor."""
    names = Path("/proc/cpuinfo")
    text = names.read_text(encoding="utf-8") if names.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def slug(name):
    """A name for a part of a file name: ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def save(folder, name, content):
    """Write a measurement as JSON and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    say(f"\nwritten: {path}")


def say(line=""):
    """Print a line at once, also through a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def table(title, header, rows):
    """Print aligned columns; the first is text, the others numbers."""
    say(f"\n{title}")
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *rest in cells:
        numbers = zip(rest, widths[1:], strict=True)
        line = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in numbers)]
        say(f"  {'  '.join(line)}".rstrip())


def percent(share):
    """For people; empty where there is no share."""
    return "" if share is None else f"{100 * share:.0f} %"


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments):
    git = shutil.which("git")
    if git is None:
        return ""
    # Only options and paths from this file reach git.
    done = subprocess.run(  # noqa: S603
        [git, "-C", ROOT, *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
