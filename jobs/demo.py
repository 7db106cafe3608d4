"""The demo: aerial scenes made here, mapped and labelled, scored and shown.

It needs no network, no GPU, no account and no S3. Scenes are procedural, so
the truth is known for every pixel; the bundle was trained on other seeds.
"""

from __future__ import annotations

import functools
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import numpy as np
from PIL import Image

from deeplab.metrics import Confusion
from deeplab.tiles import Window
from jobs.bundle_file import DEMO_BUNDLE, load_bundle
from jobs.commands import Request, make_spec, start_on
from jobs.engine import Place, open_engine
from jobs.errors import OK, InputError
from jobs.outputs.geotiff import read_geotiff, write_geotiff
from jobs.outputs.masks import read_masks
from jobs.preview import save_overlay
from jobs.progress import ProgressLine
from jobs.scenes import make_scene
from jobs.spec import Compute, Cut
from jobs.storage import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from deeplab.bundle import Bundle
    from jobs.runner import Engine

_PIXEL_M: Final = 0.3
_SIZES: Final = ((480, 640), (512, 512), (640, 480), (600, 800))
"""Heights and widths of the images, in turn."""

_CUT: Final = Cut(shard_items=4, block=2048)
_PICTURE: Final = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the demo makes its scenes from."""

    seed: int
    size: int
    """Side of the mapped scene, in px."""

    images: int

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.seed < 0 or self.size < 1 or self.images < 1:
            raise InputError(
                "seed must be 0 or more, size and images at least 1, "
                f"got {self.seed}, {self.size}, {self.images}"
            )


def run_demo(*, folder: str, world: World, replicas: int) -> int:
    """Make scenes, run both jobs on them in one Ray session, score and show.

    Returns:
        The exit code.

    Raises:
        InputError: The folder holds another demo.
    """
    root = Path(folder).resolve()
    started = time.monotonic()
    _claim(root, world)
    _make_inputs(root, world)
    with open_engine(Place(replicas=replicas, device="cpu")) as (engine, _):
        for job in ("label", "map"):
            _run(root, job, engine)
    bundle, _ = load_bundle(DEMO_BUNDLE, Access())
    mapped = _score_map(root, bundle)
    labelled = _score_labels(root, bundle, world)
    _show(root, bundle, world)
    click.echo(_report(root, mapped, labelled, time.monotonic() - started))
    return OK


def _claim(root: Path, world: World) -> None:
    """Mark a folder as this demo's, so that scenes of two seeds never mix."""
    mark, text = root / "demo.json", json.dumps(asdict(world))
    if not root.exists() or not any(root.iterdir()):
        root.mkdir(parents=True, exist_ok=True)
        mark.write_text(text)
    if not mark.exists() or mark.read_text() != text:
        raise InputError(f"{root} holds something else; give the demo another folder")


def _make_inputs(root: Path, world: World) -> None:
    """Write scenes and their truth; what is there already stays as it is."""
    for name in ("images", "truth"):
        (root / name).mkdir(exist_ok=True)
    if not _has_scene(root, "scene"):
        click.echo(f"making a scene of {world.size} x {world.size} px", err=True)
        scene = make_scene(world.seed, world.size, world.size)
        to_tif = functools.partial(write_geotiff, pixels=scene.pixels, pixel_m=_PIXEL_M)
        _write_new(root / "scene.tif", to_tif)
        _write_truth(root, "scene", scene.truth)
    click.echo(f"making {world.images} images", err=True)
    for number, name in enumerate(_image_names(world)):
        if not _has_scene(root, name):
            height, width = _SIZES[number % len(_SIZES)]
            scene = make_scene(world.seed + 1 + number, height, width)
            picture = Image.fromarray(scene.pixels.transpose(1, 2, 0))
            to_jpeg = functools.partial(picture.save, format="JPEG", quality=92)
            _write_new(root / "images" / f"{name}.jpg", to_jpeg)
            _write_truth(root, name, scene.truth)


def _image_names(world: World) -> Iterator[str]:
    return (f"image-{number:03d}" for number in range(world.images))


def _has_scene(root: Path, name: str) -> bool:
    # The truth is written after the scene.
    return (root / "truth" / f"{name}.png").exists()


def _write_truth(root: Path, name: str, truth: NDArray[np.uint8]) -> None:
    save = functools.partial(Image.fromarray(truth).save, format="PNG", compress_level=1)
    _write_new(root / "truth" / f"{name}.png", save)


def _write_new(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file that appears whole."""
    partial = path.with_name(f".{path.name}")
    write(partial)
    partial.replace(path)


def _run(root: Path, job: str, engine: Engine) -> None:
    source = root / ("images" if job == "label" else "scene.tif")
    request = Request(
        job="label" if job == "label" else "map",
        source=str(source),
        run=str(root / job),
        bundle=DEMO_BUNDLE,
        cut=_CUT,
    )
    bundle, data = load_bundle(DEMO_BUNDLE, Access())
    spec = make_spec(request, bundle, Compute(device="cpu"))
    start_on(engine, spec, data, ProgressLine())


def _score_map(root: Path, bundle: Bundle) -> Confusion:
    confusion = Confusion(len(bundle.classes))
    mask = read_geotiff(root / "map" / "rasters" / "scene.tif")[0]
    confusion.add(_read_truth(root, "scene"), mask)
    return confusion


def _score_labels(root: Path, bundle: Bundle, world: World) -> Confusion:
    confusion = Confusion(len(bundle.classes))
    parts = sorted((root / "label" / "masks").glob("*.parquet"))
    masks = dict(pair for part in parts for pair in read_masks(part))
    for name in _image_names(world):
        confusion.add(_read_truth(root, name), masks[f"{name}.jpg"])
    return confusion


def _read_truth(root: Path, name: str) -> NDArray[np.uint8]:
    with Image.open(root / "truth" / f"{name}.png") as image:
        truth: NDArray[np.uint8] = np.asarray(image)
    return truth


def _show(root: Path, bundle: Bundle, world: World) -> None:
    window = _middle(world.size)
    pixels = read_geotiff(root / "scene.tif", window)
    mask = read_geotiff(root / "map" / "rasters" / "scene.tif", window)
    save_overlay(root / "overlay.png", pixels, mask[0], bundle.classes)


def _middle(size: int) -> Window:
    side = min(size, _PICTURE)
    start = (size - side) // 2
    return Window(row=start, col=start, height=side, width=side)


def _report(root: Path, mapped: Confusion, labelled: Confusion, seconds: float) -> str:
    shown = os.path.relpath(root)
    return "\n".join(
        [
            f"map    mIoU {mapped.mean_iou():.3f}  {shown}/map/rasters/scene.tif",
            f"label  mIoU {labelled.mean_iou():.3f}  {shown}/label/masks",
            f"look   {shown}/overlay.png",
            f"done in {seconds:.0f} s; look closer: atrous status {shown}/map",
        ]
    )
