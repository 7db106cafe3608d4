"""Commands that turn a finished run into other formats.

Only click is imported at the top, so that ``atrous -h`` answers at once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_options import read_access, with_json, with_options, with_store
from jobs.errors import OK

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.export_task import MaskExport

_MIB = 2**20

_overwrite = click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
_partial = click.option(
    "--partial", is_flag=True, help="Export what is done of a run that is not finished."
)
_max_shard_bytes = click.option(
    "--max-shard-bytes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    default=512 * _MIB,
    help="Most bytes in a file.",
)
_no_images = click.option(
    "--no-images", is_flag=True, help="Leave out the images, but for where they lie."
)


def _of_masks(out: str, *several: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Arguments and options of an export of masks."""
    return with_options(
        click.argument("run"),
        click.argument("out", metavar=out),
        *several,
        _partial,
        _overwrite,
        with_store,
        with_json,
    )


@click.group()
def export() -> None:
    """Turn a finished run into other formats."""


@export.command()
@click.argument("run")
@click.argument("out", metavar="OUT.parquet|OUT.geojson|OUT.fgb")
@click.option(
    "--min-area",
    type=click.FloatRange(min=0),
    metavar="M2",
    help="Leave out polygons that are smaller.",
)
@click.option(
    "--simplify",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="PX",
    help="Smooth steps of about so many pixels; neighbours keep a common border.",
)
@click.option(
    "--class",
    "class_names",
    multiple=True,
    metavar="NAME",
    help="Of this class only, e.g. road; may be repeated.",
)
@click.option(
    "--crs",
    "target",
    type=click.Choice(["auto", "source", "wgs84"]),
    default="auto",
    help="auto: the rasters' own if they share one.",
)
@_overwrite
@with_options(with_store, with_json)
def polygons(run: str, out: str, *, as_json: bool, **given: Any) -> int:  # noqa: ANN401
    """Write what the map RUN found as polygons, with class, area and confidence.

    OUT is GeoParquet, or GeoJSON or FlatGeobuf for what is small; local or on S3.
    """
    from jobs.export_polygons import Export, describe_export, export_polygons
    from jobs.storage import resolve

    chosen = ("min_area", "simplify", "class_names", "overwrite")
    asked = Export(
        run=resolve(run),
        out=resolve(out),
        access=read_access(),
        crs=given["target"],
        **{name: given[name] for name in chosen},
    )
    found = export_polygons(asked)
    click.echo(json.dumps(found) if as_json else describe_export(found))
    for note in found["notes"]:
        click.echo(f"note: {note}", err=True)
    return OK


@export.command()
@_of_masks(
    "OUT.json|FOLDER",
    click.option(
        "--form",
        type=click.Choice(["rle", "polygons", "panoptic"]),
        default="rle",
        help="panoptic is a folder, with PNGs.",
    ),
)
def coco(*, form: Any, **given: Any) -> int:  # noqa: ANN401
    """Write the masks of the label RUN as annotations of COCO.

    rle: one for each class of an image; polygons: one for each part of it that hangs
    together, holes joined to the outline by a line.
    """
    if form == "panoptic":
        from jobs.export_folders import export_panoptic

        return _tell(export_panoptic(_asked(given)), given)
    from jobs.export_files import export_coco

    return _tell(export_coco(_asked(given), form), given)


@export.command()
@_of_masks("OUT.xml|OUT.zip")
def cvat(**given: Any) -> int:  # noqa: ANN401
    """Write the masks of the label RUN as "CVAT for images 1.1", to be imported there."""
    from jobs.export_files import export_cvat

    return _tell(export_cvat(_asked(given)), given)


@export.command("label-studio")
@_of_masks(
    "OUT.json",
    click.option(
        "--image-prefix",
        multiple=True,
        metavar="OLD=NEW",
        help="Where Label Studio finds images, e.g. s3://photos/=https://host/.",
    ),
)
def label_studio(*, image_prefix: tuple[str, ...], **given: Any) -> int:  # noqa: ANN401
    """Write the masks of the label RUN as tasks with brush labels, to be corrected."""
    from jobs.export_files import export_tasks, read_prefixes

    return _tell(export_tasks(_asked(given), read_prefixes(image_prefix)), given)


@export.command()
@_of_masks(
    "FOLDER",
    click.option(
        "--index", is_flag=True, help="Write grey PNGs, not in the colours of the classes."
    ),
)
def png(*, index: bool, **given: Any) -> int:  # noqa: ANN401
    """Write a PNG of class ids for each image of the label RUN, as PASCAL VOC does.

    255 is what training leaves out: no data, or too little confidence.
    """
    from jobs.export_folders import export_png

    return _tell(export_png(_asked(given), palette=not index), given)


@export.command()
@_of_masks("FOLDER", _no_images, _max_shard_bytes)
def huggingface(*, no_images: bool, max_shard_bytes: int, **given: Any) -> int:  # noqa: ANN401
    """Write the label RUN as Parquet that Hugging Face datasets loads with its types."""
    from jobs.export_folders import export_dataset

    found = export_dataset(_asked(given), images=not no_images, most=max_shard_bytes)
    return _tell(found, given)


@export.command()
@_of_masks("FOLDER", _no_images, _max_shard_bytes)
def webdataset(*, no_images: bool, max_shard_bytes: int, **given: Any) -> int:  # noqa: ANN401
    """Write the label RUN as tars of images, masks and what is known of them."""
    from jobs.export_folders import export_tars

    found = export_tars(_asked(given), images=not no_images, most=max_shard_bytes)
    return _tell(found, given)


@export.command()
@_of_masks(
    "OUT.csv|OUT.jsonl|OUT.parquet",
    click.option(
        "--by",
        type=click.Choice(["mean_confidence", "mean_entropy", "uncertain_share"]),
        default="mean_confidence",
        help="What says how certain it is.",
    ),
    click.option(
        "--limit",
        "most",
        type=click.IntRange(min=1),
        metavar="N",
        help="Most images to list.",
    ),
)
def worklist(*, by: Any, most: int | None, **given: Any) -> int:  # noqa: ANN401
    """List images of the label RUN for people to label next, the least certain first."""
    from jobs.export_files import export_worklist

    return _tell(export_worklist(_asked(given), by, most), given)


def _asked(given: dict[str, Any]) -> MaskExport:
    from jobs.export_task import MaskExport
    from jobs.storage import resolve

    return MaskExport(
        run=resolve(given["run"]),
        out=resolve(given["out"]),
        access=read_access(),
        overwrite=given["overwrite"],
        partial=given["partial"],
    )


def _tell(found: dict[str, Any], given: dict[str, Any]) -> int:
    from jobs.export_task import describe_masks

    click.echo(json.dumps(found) if given["as_json"] else describe_masks(found))
    for note in found["notes"]:
        click.echo(f"note: {note}", err=True)
    return OK
