"""The commands about bundles; like ``jobs.cli`` it imports only click at the top."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from jobs.cli_options import (
    names,
    numbers,
    read_access,
    whole_numbers,
    with_json,
    with_options,
    with_store,
)
from jobs.errors import DIFFERENCE, OK

ORIGINS = (
    "auto",
    "torchvision",
    "smp",
    "vainf",
    "jfzhang",
    "mmseg",
    "unimatch",
    "detectron2",
    "timm",
    "hf",
    "tensorflow",
    "keras",
)
"""Written here too, so that help needs no torch."""

_import_options = with_options(
    click.option(
        "--from",
        "origin",
        type=click.Choice(ORIGINS),
        default="auto",
        help="Project that saved it.",
    ),
    click.option(
        "--classes",
        metavar="LIST",
        help="Text file, a class a line as in 'road #804080'; or voc, cityscapes, "
        "ade20k, loveda, potsdam, isaid.",
    ),
    click.option(
        "--output-stride",
        type=click.Choice(["8", "16", "32"]),
        help="Image pixels per cell.  [default: the project's]",
    ),
    click.option(
        "--rates",
        type=whole_numbers,
        metavar="6,12,18",
        help="Atrous rates.  [default: the project's]",
    ),
    click.option(
        "--set",
        "choices",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Another choice than the project's, e.g. align_corners=true.",
    ),
    click.option(
        "--untrained-head",
        is_flag=True,
        help="Accept an encoder alone; its head is drawn at random.",
    ),
    click.option(
        "--bands",
        type=names,
        metavar="NAMES",
        help="The image's bands in order.  [default: red,green,blue]",
    ),
    click.option(
        "--normalise",
        type=(numbers, numbers),
        metavar="MEAN STD",
        help="Of each band, of pixels from 0 to 1.  [default: the project's]",
    ),
    click.option(
        "--tile",
        type=int,
        help="Side of what the network sees.  [default: 513 with align_corners, else 512]",
    ),
    click.option("--overlap", type=int, help="Of tiles, in px.  [default: 128]"),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16"]),
        default="float32",
        help="Of the weights; float16 halves the file and rounds them.",
    ),
)


@click.group()
def bundle() -> None:
    """Make a bundle of another project's weights; show, check or export one."""


@bundle.command("import")
@click.argument("checkpoint", metavar="CKPT")
@click.argument("out")
@with_options(_import_options, with_json)
def import_command(*, as_json: bool, output_stride: str | None, **asked: Any) -> int:  # noqa: ANN401
    """Write another project's checkpoint CKPT as the bundle OUT."""
    from jobs.bundle_commands import Import, import_bundle
    from jobs.bundle_text import describe_import

    stride = None if output_stride is None else int(output_stride)
    found = import_bundle(Import(output_stride=stride, **asked))
    click.echo(_dump(found) if as_json else describe_import(found, asked["out"]))
    return OK


@bundle.command()
@click.argument("file")
@with_options(with_store, with_json)
def show(file: str, *, as_json: bool, **_: object) -> int:
    """Show all that the bundle FILE says of itself; 'demo' is ours."""
    from jobs.bundle_commands import show_bundle
    from jobs.bundle_text import describe_bundle

    found = show_bundle(file, read_access())
    click.echo(_dump(found) if as_json else describe_bundle(found, file))
    return OK


@bundle.command()
@click.argument("file")
@with_options(with_store, with_json)
def verify(file: str, *, as_json: bool, **_: object) -> int:
    """Check that the bundle FILE is whole and its network computes."""
    from jobs.bundle_commands import verify_bundle
    from jobs.bundle_text import describe_verified

    found = verify_bundle(file, read_access())
    click.echo(_dump(found) if as_json else describe_verified(found))
    for note in found.get("notes", ()):
        click.echo(f"note: {note}", err=True)
    return DIFFERENCE if found["differs"] else OK


@bundle.command()
@click.argument("file")
@click.argument("out", metavar="OUT.onnx|OUT.pt2")
@with_options(
    click.option("--batch", type=int, default=1, help="Tiles that it takes at once."),
    with_store,
    with_json,
)
def export(file: str, out: str, *, batch: int, as_json: bool, **_: object) -> int:
    """Write the bundle FILE for ONNX or torch.export, and compare the logits."""
    from jobs.bundle_commands import export_bundle
    from jobs.bundle_text import describe_exported

    found = export_bundle(file, out, read_access(), batch=batch)
    click.echo(_dump(found) if as_json else describe_exported(found))
    return OK


def _dump(found: dict[str, Any]) -> str:
    return json.dumps(found, default=dataclasses.asdict)
