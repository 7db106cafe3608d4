"""Export masks as one file: COCO, CVAT, Label Studio, or a list of work."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import InputError
from jobs.export_run import describe_run
from jobs.export_task import Task, check_file, is_local
from jobs.outputs.export_names import safe_name
from jobs.outputs.label_rows import fit_mask

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.export_task import MaskExport
    from jobs.outputs.coco import Form
    from jobs.outputs.worklist import By

_XML: Final = "annotations.xml"
_DIGITS: Final = 12


def export_coco(asked: MaskExport, form: Form) -> dict[str, Any]:
    """Write one JSON file of COCO, of masks as run lengths or as polygons.

    Raises:
        InputError: It is no label run, or the file is there already.
        RunError: The run folder is damaged.
        UnfinishedError: The run is not finished.
        StoreError: The store does not answer.
    """
    from jobs.outputs.coco import CocoWriter

    check_file(asked, ".json")
    task = Task(asked, f"coco {form}")

    def write(path: Path) -> dict[str, Any]:
        with CocoWriter(path, task.run.classes, form, describe_run(task.run)) as writer:
            for row in task.rows():
                writer.add(safe_name(row.key), fit_mask(row), uri=row.uri)
        return {"annotations": writer.annotations}

    return task.write_file(write)


def export_cvat(asked: MaskExport) -> dict[str, Any]:
    """Write XML of "CVAT for images 1.1", alone or in a zip.

    Raises:
        InputError: It is no label run, or the file is there already.
        RunError: The run folder is damaged.
        UnfinishedError: The run is not finished.
        StoreError: The store does not answer.
    """
    from jobs.outputs.cvat import CvatWriter

    check_file(asked, ".xml", ".zip")
    task = Task(asked, "cvat")

    def write(path: Path) -> dict[str, Any]:
        xml = path.with_suffix(".xml")
        with CvatWriter(xml, task.run.classes) as writer:
            for row in task.rows():
                writer.add(safe_name(row.key), fit_mask(row))
        if path != xml:
            _zip(xml, path)
        return {"annotations": writer.annotations}

    return task.write_file(write)


def _zip(source: Path, target: Path) -> None:
    # Without the time of the file: the same masks give the same bytes.
    about = zipfile.ZipInfo(_XML)
    about.compress_type = zipfile.ZIP_DEFLATED
    with (
        zipfile.ZipFile(target, "w") as archive,
        archive.open(about, "w", force_zip64=True) as inner,
        source.open("rb") as file,
    ):
        shutil.copyfileobj(file, inner)


def export_tasks(
    asked: MaskExport, prefixes: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    """Write tasks of Label Studio with predictions.

    Args:
        asked: What a user asked for.
        prefixes: How addresses of images begin, and what stands there instead.

    Raises:
        InputError: It is no label run, or the file is there already.
        RunError: The run folder is damaged.
        UnfinishedError: The run is not finished.
        StoreError: The store does not answer.
    """
    from jobs.outputs.label_studio import TaskWriter, labeling_config

    check_file(asked, ".json")
    task = Task(asked, "label-studio")
    version = f"atrous {task.run.bundle[:_DIGITS]}"
    others = 0

    def write(path: Path) -> dict[str, Any]:
        nonlocal others
        with TaskWriter(path, task.run.classes, version) as writer:
            for row in task.rows():
                image = replace_prefix(row.uri, prefixes)
                others += image == row.uri and (bool(prefixes) or is_local(image))
                writer.add(image, fit_mask(row), row.confidence)
        if others:
            task.notes.append(
                f"{others} images keep their own address, which Label Studio may not "
                "find; give --image-prefix OLD=NEW"
            )
        config = labeling_config(task.run.classes)
        return {"annotations": writer.annotations, "labeling_config": config}

    return task.write_file(write)


def read_prefixes(given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The values of ``--image-prefix``.

    Raises:
        InputError: One is not ``OLD=NEW``.
    """
    found = []
    for one in given:
        old, equals, new = one.partition("=")
        if not (old and equals):
            raise InputError(
                f"--image-prefix must be OLD=NEW, such as s3://photos/=https://host/, got "
                f"{one!r}"
            )
        found.append((old, new))
    return tuple(found)


def replace_prefix(uri: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    """An address with another beginning: the first that fits."""
    for old, new in prefixes:
        if uri.startswith(old):
            return new + uri.removeprefix(old)
    return uri


def export_worklist(asked: MaskExport, by: By, limit: int | None) -> dict[str, Any]:
    """Write which images people should label next, the least certain first.

    Args:
        asked: What a user asked for.
        by: The column to sort by.
        limit: Most images to write.

    Raises:
        InputError: It is no label run or has no such column, or the file is there.
        RunError: The run folder is damaged.
        UnfinishedError: The run is not finished.
        StoreError: The store does not answer.
    """
    from jobs.outputs.worklist import COLUMNS, SUFFIXES, write_worklist

    check_file(asked, *SUFFIXES)
    task = Task(asked, "worklist")
    missing = InputError(
        f"the masks of {asked.run} have no {by}; take --by mean_confidence"
    )
    if not task.run.has_column(by):
        raise missing

    def write(path: Path) -> dict[str, Any]:
        rows = task.rows((*COLUMNS, by))
        try:
            count = write_worklist(path, rows, task.run.classes, by=by, limit=limit)
        except LookupError:
            raise missing from None
        return {"images": count, "by": by}

    return task.write_file(write)
