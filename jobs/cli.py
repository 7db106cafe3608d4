"""The command line: what a flag means is written once, for every command.

Only click is imported at the top, so that ``atrous -h`` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_bundle import bundle
from jobs.cli_options import with_json, with_options, with_store
from jobs.errors import DEAD_LETTERS, OK, AtrousError, InputError, ItemError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.commands import Request
    from jobs.spec import JobName

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}
_INTERRUPTED = 130


_bundle = click.option(
    "--bundle", required=True, help="Bundle file, local or s3://, or 'demo' for ours."
)
_limit = click.option("--limit", type=int, help="Take the first N items only.")
_place = with_options(
    click.option("--local", is_flag=True, help="One process, without Ray."),
    click.option(
        "--address",
        metavar="ADDRESS",
        envvar="RAY_ADDRESS",
        show_envvar=True,
        help="Ray cluster to join, e.g. auto.",
    ),
    click.option("--replicas", type=int, help="Models to hold.  [default: all that fit]"),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        help="Device.",
    ),
    click.option("--threads", type=int, default=1, help="CPU threads of a replica."),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16"]),
        default="fp32",
        help="Arithmetic.",
    ),
)
_shard_items = click.option(
    "--shard-items", type=int, default=64, help="Most images in a shard."
)
_block = click.option("--block", type=int, default=4096, help="Block side in px.")


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="atrous")
def cli() -> None:
    """Segment millions of images, or a country of aerial imagery, on a Ray cluster."""


cli.add_command(bundle)


@cli.command()
@click.argument("source")
@click.argument("run")
@with_options(_bundle, _shard_items, _limit, _place, with_store)
def label(**options: Any) -> int:  # noqa: ANN401
    """Segment the images under SOURCE into the Parquet data set RUN/masks."""
    return _start(_request("label", options))


@cli.command("map")
@click.argument("source")
@click.argument("run")
@with_options(_bundle, _block, _limit, _place, with_store)
def map_command(**options: Any) -> int:  # noqa: ANN401
    """Segment the GeoTIFFs under SOURCE into one COG each in RUN/rasters."""
    return _start(_request("map", options))


@cli.command()
@click.argument("job", type=click.Choice(["label", "map"]))
@click.argument("source")
@with_options(_bundle, _shard_items, _block, _limit, with_store, with_json)
def plan(job: JobName, *, as_json: bool, **options: Any) -> int:  # noqa: ANN401
    """Show what a job would do, without starting it."""
    from jobs.commands import preview_plan

    request = _request(job, {**options, "run": "."})
    found = preview_plan(request)
    if as_json:
        click.echo(json.dumps(found))
        return OK
    click.echo(f"{job} {found['source']}")
    click.echo(f"  items   {found['items']}, {found['bytes'] / 1e6:.1f} MB")
    click.echo(f"  pixels  {found['pixels'] / 1e6:.1f} M in {found['tiles']} tiles")
    click.echo(f"  refused {found['refused']}")
    click.echo(f"  shards  {found['shards']}")
    click.echo(
        f"start it: atrous {job} {options['source']} RUN --bundle {options['bundle']}"
    )
    return OK


@cli.command()
@click.argument("run")
@with_options(with_store, with_json)
def status(run: str, *, as_json: bool, **options: Any) -> int:  # noqa: ANN401
    """Show how far RUN is, from its folder alone, also while it is running."""
    from jobs.status import describe_status, read_status
    from jobs.storage import Access, open_store, resolve

    found = read_status(open_store(Access(**options)), resolve(run))
    click.echo(json.dumps(found) if as_json else describe_status(found))
    return OK


@cli.command()
@click.argument("folder", default="atrous-demo")
@click.option("--seed", type=int, default=2024, help="Of the scenes; any you like.")
@click.option("--size", type=int, default=4096, help="Side of the mapped scene, in px.")
@click.option("--images", type=int, default=24, help="Images to label.")
@click.option("--replicas", type=int, default=2, help="Models to hold.")
def demo(folder: str, *, replicas: int, **options: int) -> int:
    """Make aerial scenes, run both jobs on them and score the result."""
    from jobs.demo import World, run_demo

    return run_demo(folder=folder, world=World(**options), replicas=replicas)


def _request(job: JobName, options: dict[str, Any]) -> Request:
    from jobs.commands import Request
    from jobs.engine import Place
    from jobs.spec import Cut
    from jobs.storage import Access

    def pick(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
        names = [field.name for field in dataclasses.fields(kind)]
        return {name: options[name] for name in names if name in options}

    return Request(
        job=job,
        source=options["source"],
        run=options["run"],
        bundle=options["bundle"],
        limit=options["limit"],
        precision=options.get("precision", "fp32"),
        cut=Cut(**pick(Cut)),
        access=Access(**pick(Access)),
        place=Place(**pick(Place)),
    )


def _start(request: Request) -> int:
    from jobs.commands import start
    from jobs.progress import ProgressLine

    summary = start(request, ProgressLine())
    dead = summary["dead_letters"]
    where = "masks" if request.job == "label" else "rasters"
    click.echo(f"{summary['run']}/{where}")
    if dead:
        click.echo(f"{dead} dead letters: {summary['run']}/dead_letter.parquet", err=True)
    click.echo(f"look at it: atrous status {request.run}", err=True)
    return DEAD_LETTERS if dead else OK


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code; errors are one line on stderr."""
    sys.exit(_main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    try:
        code: int = cli(args=arguments, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"atrous: {' '.join(error.format_message().split())}", err=True)
        return error.exit_code
    except AtrousError as error:
        click.echo(f"atrous: {error}", err=True)
        return error.exit_code
    except ItemError as error:
        click.echo(
            f"atrous: {error.message}; check the run folder and the access", err=True
        )
        return InputError.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "atrous: interrupted; the same command goes on where it stopped", err=True
        )
        return _INTERRUPTED
    return code
