"""`batchrec doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec_dagster.doctor import Finding

MARKS = {"ok": "ok", "warning": "warning", "unknown": "unknown", "failed": "FAILED"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check this deployment, and say what to fix.

    Checks settings, Dagster's home, storage, disks and clock; on AWS also credentials, role, bucket
    policy and quotas; the pipelines' YAML and their sinks. Changes nothing, except that it writes
    small test objects to the storage, and next to exports, and deletes them.

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

    from batchrec_dagster.cli.project import environment
    from batchrec_dagster.doctor import examine

    found = []
    for finding in chain(examine(environment()), _pipelines()):
        found.append(finding)
        if not as_json:
            click.echo(f"{MARKS[finding.status]:8} {finding.check:22} {finding.message}")
            if finding.status != "ok":
                click.echo(f"{'':8} {'':22} -> {finding.fix}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    if any(finding.status == "failed" for finding in found):
        context.exit(1)


def _pipelines() -> Iterator[Finding]:
    """Whether the project's declarations load, and all of its definitions with them."""
    from batchrec_dagster.cli.pipelines import problems_of_the_whole
    from batchrec_dagster.cli.project import ProjectError, find_project, importable
    from batchrec_dagster.doctor import pipelines_findings
    from batchrec_dagster.doctor.findings import failed, unknown

    try:
        project = find_project()
    except ProjectError as error:
        yield unknown("pipelines", error.message, "run batchrec doctor there")
        return
    with importable(project):
        yield from pipelines_findings(project.defs.parent)
        for line in problems_of_the_whole(f"{project.module}.definitions"):
            yield failed("project", line, "for details, run: dg check defs")
