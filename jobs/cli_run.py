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
