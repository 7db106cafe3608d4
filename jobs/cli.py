"""The command line: what a flag means is written once, for every command.

Only click is imported at the top, so that ``atrous -h`` answers at once.
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from jobs.cli_bundle import bundle
from jobs.cli_export import export
from jobs.cli_options import (
    read_access,
    read_settings,
    setting,
    with_json,
    with_options,
    with_store,
)
from jobs.cli_run import clean, verify
from jobs.config import make_request, write_job_file
from jobs.errors import DEAD_LETTERS, OK, AtrousError, InputError, ItemError
from jobs.redact import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.spec import JobName

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}
_INTERRUPTED = 130


_bundle = setting("bundle")
_limit = setting("limit")
_skip = setting("skip_done_in", metavar="OLD_RUN")
_where = with_options(
    setting("local"),
    setting("address", metavar="ADDRESS", envvar="RAY_ADDRESS", show_envvar=True),
    setting("replicas"),
)
_confidence = setting("confidence")
_mosaic = setting("mosaic")
_resize = setting("resize", metavar="long=PX|short=PX")
_aoi = setting("aoi", metavar="FILE|BBOX")
_masks = with_options(
    setting("min_confidence", metavar="NUMBER|CLASS=NUMBER,..."), setting("mask_encoding")
)


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="atrous")
def cli() -> None:
    """Segment millions of images, or a country of aerial imagery, on a Ray cluster."""


cli.add_command(bundle)
cli.add_command(verify)
cli.add_command(clean)
cli.add_command(export)


@cli.command()
@click.argument("source")
@click.argument("run")
@with_options(_bundle, _limit, _skip, _resize, _masks, _where, with_store)
def label(source: str, run: str, **_: object) -> int:
    """Segment the images under SOURCE into the Parquet data set RUN/masks."""
    return _start("label", source, run)


@cli.command("map")
@click.argument("source")
@click.argument("run")
@with_options(_bundle, _aoi, _mosaic, _confidence, _where, with_store)
def map_command(source: str, run: str, **_: object) -> int:
    """Segment the GeoTIFFs under SOURCE into one COG each in RUN/rasters, or into one."""
    return _start("map", source, run)


@cli.command()
@click.argument("source")
@click.argument("run")
@with_options(
    _bundle,
    setting("truth"),
    setting("truth_format"),
    _limit,
    _where,
    with_store,
    with_json,
)
def evaluate(source: str, run: str, *, as_json: bool, **_: object) -> int:
    """Hold masks of SOURCE against --truth; counts and measures go to RUN."""
    from jobs.commands import start
    from jobs.evaluation import FIGURE, read_evaluation
    from jobs.evaluation_text import describe_evaluation
    from jobs.progress import ProgressLine
    from jobs.storage import open_store

    request = make_request("evaluate", source, run, read_settings("evaluate"))
    summary = start(request, ProgressLine())
    found = read_evaluation(open_store(request.access), summary["run"])
    click.echo(describe_evaluation(found), err=as_json)
    click.echo(f"figure: {summary['run']}/{FIGURE}", err=True)
    return _end(summary, run, json.dumps(found) if as_json else None)


@cli.command()
@click.argument("run")
@click.option(
    "--code",
    "codes",
    multiple=True,
    metavar="CODE",
    help="Of this reason only, e.g. timed_out.",
)
@with_options(_bundle, _where, with_store)
def retry(run: str, codes: tuple[str, ...], **_: object) -> int:
    """Try the dead letters of RUN again; finished work stays as it is."""
    from jobs.progress import ProgressLine
    from jobs.retry_commands import make_retry, start_retry

    request = make_retry(run, codes, read_settings("retry"))
    summary = start_retry(request, ProgressLine())
    if summary is not None:
        return _end(summary, run)
    click.echo("nothing to retry", err=True)
    return OK


@cli.command()
@click.argument("job", type=click.Choice(["label", "map", "evaluate"]))
@click.argument("source")
@with_options(_bundle, _aoi, _mosaic, _limit, _skip, with_store)
@click.option("--show-config", is_flag=True, help="Print the job file of this instead.")
@with_json
def plan(
    job: JobName, source: str, *, show_config: bool, as_json: bool, **_: object
) -> int:
    """Show what a job would do, without starting it."""
    settings = read_settings(job)
    if show_config:
        make_request(job, source, ".", {**settings, "bundle": settings["bundle"] or "-"})
        click.echo(json.dumps(settings) if as_json else write_job_file(job, settings))
        return OK
    from jobs.commands import preview_plan

    found = preview_plan(make_request(job, source, ".", settings))
    if as_json:
        click.echo(json.dumps(found))
        return OK
    click.echo(f"{job} {found['source']}")
    click.echo(f"  items   {found['items']}, {found['bytes'] / 1e6:.1f} MB")
    if "skipped" in found:
        click.echo(f"  skipped {found['skipped']}, which are done")
    click.echo(f"  pixels  {found['pixels'] / 1e6:.1f} M in {found['tiles']} tiles")
    click.echo(f"  tiles   {_describe_tiles(found)}")
    if found["read_amplification"] is not None:
        click.echo(f"  reading {found['read_amplification']:g} px are decoded for each px")
    click.echo(f"  refused {found['refused']}")
    click.echo(f"  shards  {found['shards']}")
    click.echo(f"start it: {shlex.join(['atrous', job, source, 'RUN', *_typed(job)])}")
    return OK


def _describe_tiles(found: dict[str, Any]) -> str:
    tiles = f"{found['tile']} px, overlap {found['overlap']} px, blend {found['blend']}"
    if found["waste"] is None:
        return tiles
    return f"{tiles}: the network sees {found['waste']:g} px for each px"


def _typed(job: str) -> list[str]:
    """The options of the command under way, as they are typed for another one."""
    context = click.get_current_context()
    flags = {option.name for option in cli.commands[job].params}
    words: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(option, click.Option):
            for one in value if option.multiple else [value]:
                if name not in flags:
                    words += ["-c", f"{name}={one}"]
                else:
                    words += [option.opts[-1], *([] if option.is_flag else [str(one)])]
    return words


@cli.command()
@click.argument("run")
@with_options(with_store, with_json)
def status(run: str, *, as_json: bool, **_: object) -> int:
    """Show how far RUN is, from its folder alone, also while it is running."""
    from jobs.status import describe_status, read_status
    from jobs.storage import open_store, resolve

    found = read_status(open_store(read_access()), resolve(run))
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


def _start(job: JobName, source: str, run: str) -> int:
    request = make_request(job, source, run, read_settings(job))
    from jobs.commands import start
    from jobs.progress import ProgressLine

    return _end(start(request, ProgressLine()), run)


_RESULTS = {"label": "masks", "map": "rasters", "evaluate": "evaluation.json"}


def _end(summary: dict[str, Any], run: str, shown: str | None = None) -> int:
    """Say where the results are, or show them, and what to do next."""
    from jobs.rates import describe_rates

    for line in describe_rates(summary):
        click.echo(" ".join(line.split()), err=True)
    dead = summary["dead_letters"]
    click.echo(shown or f"{summary['run']}/{_RESULTS[summary['job']]}")
    if dead:
        click.echo(f"{dead} dead letters: {summary['run']}/dead_letter.parquet", err=True)
        click.echo(f"try them again: atrous retry {run}", err=True)
    click.echo(f"look at it: atrous status {run}", err=True)
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
        message = " ".join(error.format_message().split())
        click.echo(f"atrous: {printable(message)}", err=True)
        return error.exit_code
    except AtrousError as error:
        click.echo(f"atrous: {printable(str(error))}", err=True)
        return error.exit_code
    except ItemError as error:
        message = printable(error.message)
        click.echo(f"atrous: {message}; check the run folder and the access", err=True)
        return InputError.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "atrous: interrupted; the same command goes on where it stopped", err=True
        )
        return _INTERRUPTED
    return code
