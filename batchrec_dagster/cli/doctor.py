"""`batchrec doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.project import load_environment
from batchrec_dagster.cli.terminal import get_terminal_width

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec_dagster.doctor import Finding

# Columns for the name of what was checked. Findings are printed as they come, so the longest name
# is not known.
NAME_WIDTH = 22


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check this deployment, and say what to fix.

    Checks settings, Dagster's home, storage, disks and clock; on AWS also credentials, role, bucket
    policy and quotas; the pipelines' YAML, their sources and their sinks. Changes nothing, except
    that it writes small test objects to the storage, and next to exports, and deletes them.

    A check that lacks a permission is `unknown`, and does not fail.

    \b
    Examples:
      batchrec doctor
      batchrec doctor --json | jq -r '.[] | select(.status == "failed") | .fix'

    \b
    Exit codes:
      0  nothing failed
      1  something failed
    """
    import json
    from dataclasses import asdict
    from itertools import chain

    from batchrec_dagster.doctor import check_deployment

    findings = []
    for finding in chain(check_deployment(load_environment()), _check_pipelines()):
        findings.append(finding)
        if not as_json:
            click.echo("\n".join(_format_finding(finding)))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.status == "failed" for finding in findings):
        context.exit(1)


def _format_finding(finding: Finding) -> Iterator[str]:
    """The lines for people: three columns, of which a long name has a line of its own."""
    from batchrec_dagster.reporting.messages import format_labelled

    width = get_terminal_width()
    mark = "FAILED" if finding.status == "failed" else finding.status
    no_name = f"{'':8} {'':{NAME_WIDTH}} "
    if len(finding.check) > NAME_WIDTH:
        yield f"{mark:8} {finding.check}"
        yield format_labelled(no_name, finding.message, width)
    else:
        yield format_labelled(f"{mark:8} {finding.check:{NAME_WIDTH}} ", finding.message, width)
    if finding.status != "ok":
        yield format_labelled(f"{no_name}-> ", finding.fix, width)


def _check_pipelines() -> Iterator[Finding]:
    """The findings about the pipelines of the project in this folder."""
    from batchrec_dagster.cli.pipelines import find_definitions_errors
    from batchrec_dagster.cli.project import ProjectError, find_project, importable_project
    from batchrec_dagster.doctor import check_pipelines
    from batchrec_dagster.doctor.findings import failed, unknown

    try:
        project = find_project()
    except ProjectError as error:
        yield unknown("pipelines", error.message, "run batchrec doctor there")
        return
    with importable_project(project):
        yield from check_pipelines(project.defs.parent)
        for line in find_definitions_errors(project):
            yield failed("project", line, "for details, run: dg check defs")
