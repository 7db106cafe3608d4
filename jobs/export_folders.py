"""Export masks as a folder: PNGs, COCO panoptic, Hugging Face, WebDataset."""

from __future__ import annotations

import json
import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import InputError
from jobs.export_place import open_folder
from jobs.export_run import describe_run
from jobs.export_task import Task
from jobs.inputs.sources import IMAGE_SUFFIXES
from jobs.outputs.export_names import Stems, safe_name
from jobs.outputs.label_rows import MASK, fit_mask
from jobs.outputs.mask_png import IGNORE, encode_ids, encode_mask, make_palette
from jobs.prefetch import map_ahead

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from jobs.export_place import Folder
    from jobs.export_task import MaskExport
    from jobs.outputs.label_rows import LabelRow

MASKS: Final = "SegmentationClass"
"""Folder of masks, as PASCAL VOC and CVAT's "Segmentation mask 1.1" call it."""

_FETCHES: Final = 16
"""Images that are fetched, or rows that are drawn, at once."""

_NAMES: Final = "ImageSets/Segmentation/default.txt"
"""List of the masks there, which these readers go by."""

_THREADS: Final = max(2, min(8, os.cpu_count() or 1))
_OF_LABEL_MAPS: Final = re.compile(r"[:#\x00-\x1f]")
_SUFFIXES: Final = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "TIFF": "tif",
    "GIF": "gif",
    "BMP": "bmp",
    "AVIF": "avif",
    "HEIF": "heic",
}
"""Of formats, as rows name them."""


def export_png(asked: MaskExport, *, palette: bool) -> dict[str, Any]:
    """Write a PNG of class ids for each image, and files that name the classes.

    Raises:
        InputError: It is no label run, or the folder is there already.
        RunError: The run folder is damaged.
        UnfinishedError: The run is not finished.
        StoreError: The store does not answer.
    """
    task = Task(asked, "png")
    stems = Stems(task.run.keys())
    colors = make_palette(task.run.classes) if palette else None

    def draw(row: LabelRow) -> tuple[LabelRow, bytes]:
        return row, encode_mask(fit_mask(row), colors)

    with open_folder(task.store, asked.out, overwrite=asked.overwrite) as folder:
        path = folder.scratch / "names"
        with path.open("w", encoding="utf-8") as names:
            for row, data in map_ahead(draw, task.rows(), threads=_THREADS):
                stem = stems.find(row.key)
                folder.add(f"{MASKS}/{stem}.png", data)
                names.write(f"{stem}\n")
        folder.add_file(_NAMES, path)
        for name, text in _class_maps(task).items():
            folder.add(name, text.encode())
        return _finish(task, folder, stems)


def _class_maps(task: Task) -> dict[str, str]:
    """Files that tell which value, name and colour each class has."""
    classes = [
        {"value": value, "name": one.name, "color": list(one.color)}
        for value, one in enumerate(task.run.classes)
    ]
    lines = ["# label:color_rgb:parts:actions"]
    for one in task.run.classes:
        # The format has no way to write what it is made of.
        name = _OF_LABEL_MAPS.sub("_", one.name)
        lines.append(f"{name}:{','.join(map(str, one.color))}::")
    about = {"classes": classes, "ignore": IGNORE, **describe_run(task.run)}
    return {
        "classes.json": json.dumps(about, indent=1) + "\n",
        "labelmap.txt": "\n".join(lines) + "\n",
    }


def export_panoptic(asked: MaskExport) -> dict[str, Any]:
    """Write COCO panoptic: a JSON file, and a PNG of ids for each image.

    Raises:
        InputError: It is no label run, or the folder is there already.
        RunError: The run folder is damaged.
        UnfinishedError: The run is not finished.
        StoreError: The store does not answer.
    """
    from jobs.outputs.coco import CocoWriter

    task = Task(asked, "coco panoptic")
    stems = Stems(task.run.keys())

    def draw(row: LabelRow) -> tuple[LabelRow, NDArray[np.uint8], bytes]:
        mask = fit_mask(row)
        return row, mask, encode_ids(mask)

    with open_folder(task.store, asked.out, overwrite=asked.overwrite) as folder:
        path = folder.scratch / "panoptic.json"
        about = describe_run(task.run)
        with CocoWriter(path, task.run.classes, "panoptic", about) as writer:
            for row, mask, data in map_ahead(draw, task.rows(), threads=_THREADS):
                png = f"{stems.find(row.key)}.png"
                folder.add(f"panoptic/{png}", data)
                writer.add(safe_name(row.key), mask, png=png, uri=row.uri)
        folder.add_file(path.name, path)
        return _finish(task, folder, stems, annotations=writer.annotations)


def export_dataset(asked: MaskExport, *, images: bool, most: int) -> dict[str, Any]:
    """Write Parquet files that Hugging Face ``datasets`` loads as images and masks.

    Args:
        asked: What a user asked for.
        images: Put the bytes of images in; else their locations alone.
        most: Bytes of images and masks in a file.

    Raises:
        InputError: It is no label run, or the folder is there already.
        RunError: The run folder is damaged.
        UnfinishedError: The run is not finished.
        StoreError: The store does not answer.
    """
    from jobs.outputs.mask_dataset import DatasetWriter, write_card

    _check_most(most)
    task = Task(asked, "huggingface")
    colors = make_palette(task.run.classes)

    def make(row: LabelRow) -> dict[str, Any]:
        name = safe_name(row.key)
        data = task.fetch(row) if images else None
        image = None if data is None else {"bytes": data, "path": name}
        height, width = row.size
        return {
            "image": image if images else {"bytes": None, "path": row.uri},
            "mask": {"bytes": encode_mask(fit_mask(row), colors), "path": f"{name}.png"},
            "key": row.key,
            "uri": row.uri,
            "height": height,
            "width": width,
            "class_pixels": row.fields["class_pixels"],
            "mean_confidence": row.confidence,
        }

    with open_folder(task.store, asked.out, overwrite=asked.overwrite) as folder:
        with DatasetWriter(folder.scratch, most=most, done=folder.add_file) as writer:
            for made in map_ahead(make, task.rows(None, sources=images), threads=_FETCHES):
                writer.add(made)
        about = {"images": task.run.done, **describe_run(task.run)}
        folder.add("README.md", write_card(task.run.classes, about).encode())
        return _finish(task, folder)


def export_tars(asked: MaskExport, *, images: bool, most: int) -> dict[str, Any]:
    """Write tars of WebDataset: an image, its mask and what is known of it.

    Args:
        asked: What a user asked for.
        images: Put the bytes of images in.
        most: Bytes of a tar.

    Raises:
        InputError: It is no label run, or the folder is there already.
        RunError: The run folder is damaged.
        UnfinishedError: The run is not finished.
        StoreError: The store does not answer.
    """
    from jobs.outputs.mask_tars import TarWriter

    _check_most(most)
    task = Task(asked, "webdataset")
    stems = Stems(task.run.keys())

    def make(row: LabelRow) -> tuple[str, dict[str, bytes]]:
        data = task.fetch(row) if images else None
        files = {} if data is None else {_kind(row): data}
        files["mask.png"] = encode_mask(fit_mask(row))
        files["json"] = json.dumps(_plain(row), sort_keys=True).encode()
        return row.key, files

    with open_folder(task.store, asked.out, overwrite=asked.overwrite) as folder:
        with TarWriter(folder.scratch, most=most, done=folder.add_file) as writer:
            for key, files in map_ahead(
                make, task.rows(None, sources=images), threads=_FETCHES
            ):
                writer.add(_without_dots(stems.find(key)), files)
        folder.add("classes.json", _class_maps(task)["classes.json"].encode())
        return _finish(task, folder, stems)


def _check_most(most: int) -> None:
    if most < 1:
        raise InputError(f"--max-shard-bytes must be at least 1, got {most}")


def _finish(
    task: Task, folder: Folder, stems: Stems | None = None, **found: int
) -> dict[str, Any]:
    if stems is not None and stems.shared:
        task.notes.append(
            f"{stems.shared} images share a name without suffix; 16 digits of the SHA-256 "
            "of their keys tell their files apart"
        )
    written = {"folder": task.asked.out, "files": folder.files, "bytes": folder.size}
    summary = task.summary(**written, **found)
    folder.finish(summary, overwrite=task.asked.overwrite)
    return summary


def _kind(row: LabelRow) -> str:
    """The suffix of an image, which tells readers how to decode it."""
    suffix = PurePosixPath(row.key).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return suffix[1:]
    # A row of a table, or an address of the web, has none, or one that says nothing.
    return _SUFFIXES.get(row.fields.get("format") or "", "image")


def _without_dots(stem: str) -> str:
    """A name that ends at the first dot, as readers of tars see it."""
    folder, slash, name = stem.rpartition("/")
    return f"{folder}{slash}{name.replace('.', '%2E')}"


def _plain(row: LabelRow) -> dict[str, Any]:
    """The columns of a row but its mask, as JSON has it."""
    fields = {name: value for name, value in row.fields.items() if name != MASK}
    if "sidecars" in fields:
        fields["sidecars"] = _pairs(fields["sidecars"] or ())
    return fields


def _pairs(found: Iterable[Any]) -> dict[str, str]:
    """A map, or a list of keys and values, as Parquet gives it."""
    pairs: dict[str, str] = {}
    for one in found:
        name, text = one.values() if isinstance(one, dict) else one
        pairs[name] = text
    return pairs
