"""Commands that turn a finished run into other formats.

Only click is imported at the top, so that ``atrous -h`` answers at once.
"""

from __future__ import annotations

import json
from typing import Any

import click

from jobs.cli_options import read_access, with_json, with_options, with_store
from jobs.errors import OK


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
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
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
