"""Commands over a run folder alone: no cluster, no source and no model is needed.

Only click is imported at the top, so that ``atrous -h`` answers at once.
"""

from __future__ import annotations

import json

import click

from jobs.cli_options import read_access, with_json, with_options, with_store
from jobs.errors import DIFFERENCE, OK, UnfinishedError


@click.command()
@click.argument("run")
@click.option("--deep", is_flag=True, help="Read every output and count its pixels again.")
@with_options(with_store, with_json)
def verify(run: str, *, deep: bool, as_json: bool, **_: object) -> int:
    """Prove that nothing of RUN is lost, doubled or changed, from its folder alone.

    Ends with 0 if it is sound, 5 if there is a difference, and 4 if it is sound but
    not finished.
    """
    from jobs.storage import open_store, resolve
    from jobs.verify import verify_run
    from jobs.verify_report import describe_report

    report = verify_run(open_store(read_access()), resolve(run), deep=deep)
    click.echo(json.dumps(report.to_json()) if as_json else describe_report(report))
    if report.differences:
        return DIFFERENCE
    return OK if report.finished else UnfinishedError.exit_code


@click.command()
@click.argument("run")
@click.option("--delete", is_flag=True, help="Remove it; otherwise it is only shown.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=1.0,
    metavar="HOURS",
    help="Leave what is younger.",
)
@click.option(
    "--uploads-older-than",
    type=click.FloatRange(min=0),
    default=24.0,
    metavar="HOURS",
    help="Leave unfinished uploads that are younger.",
)
@with_options(with_store, with_json)
def clean(
    run: str,
    *,
    delete: bool,
    older_than: float,
    uploads_older_than: float,
    as_json: bool,
    **_: object,
) -> int:
    """Show what killed processes left in RUN, and remove it with --delete.

    What a record names, or an attempt under way may write, is never removed.
    """
    from datetime import timedelta

    from jobs.clean import clean_run, describe_cleaning
    from jobs.storage import open_store, resolve

    found = clean_run(
        open_store(read_access()),
        resolve(run),
        delete=delete,
        older_than=timedelta(hours=older_than),
        uploads_older_than=timedelta(hours=uploads_older_than),
    )
    click.echo(json.dumps(found.to_json()) if as_json else describe_cleaning(found))
    return OK
