"""`batchrec check`."""

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

    Checks the settings, and the YAML as strictly as `dg check defs`. Then Dagster's home, the
    folders and their disks, the storage, the sources, in whose first rows it looks for the declared
    columns, the variables of alerts, and the sinks; on AWS also the credentials, the region, and
    whether Personalize answers. Changes nothing, except that it writes small test objects to the
    storage, and next to exports, and deletes them.

    A check that lacks a permission is `unknown`, and does not fail.

    \b
    Examples:
      batchrec check
      batchrec check --offline

    \b
    Exit codes:
      0  nothing failed
      1  something failed
    """
    # Imported here, because they need boto3 and Dagster.
    from batchrec_dagster.cli.readiness.project import check_project
    from batchrec_dagster.reporting.views.check import print_readiness
    from batchrec_dagster.reporting.views.terminal import Terminal

    terminal = Terminal()
    with terminal.show_waiting("Checking"):
        results = [*check_project(enter_project(), offline=offline)]
    print_readiness(terminal, results)
    if any(result.status == "failed" for result in results):
        context.exit(1)
