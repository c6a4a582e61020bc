"""The `batchrec check` command."""

from __future__ import annotations

import click

from batchrec_dagster.cli.project import enter_project


@click.command(short_help="Check that all is ready for a run, and say what to fix.")
@click.option(
    "--offline",
    is_flag=True,
    help="Only the settings and the YAML: for a machine without the data, such as one of CI.",
)
@click.pass_context
def check(context: click.Context, offline: bool) -> None:
    """Check the deployment and every pipeline, and say what to fix.

    Checks the settings, and the YAML as strictly as `dg check defs`. Then checks Dagster's home,
    the folders and their disks, the storage, the sources and the declared columns in their first
    rows, the variables of alerts, and the sinks. On AWS, also checks the credentials, the region,
    and whether Personalize answers. Changes nothing, except that it writes small test objects to
    the storage, and next to exports, and deletes them again.

    A check that lacks a permission is `unknown`, which does not count as a failure.

    \b
    Examples:
      batchrec check
      batchrec check --offline

    \b
    Exit codes:
      0  nothing failed
      1  something failed
    """  # noqa: D301
    # These modules import boto3 and Dagster, which takes time that other commands do not need.
    from batchrec_dagster.cli.readiness.project import check_project
    from batchrec_dagster.reporting.views.check import print_readiness
    from batchrec_dagster.reporting.views.terminal import Terminal

    terminal = Terminal()
    with terminal.show_waiting("Checking"):
        results = [*check_project(enter_project(), offline=offline)]
    print_readiness(terminal, results)
    if any(result.status == "failed" for result in results):
        context.exit(1)
