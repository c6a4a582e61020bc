"""`batchrec doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec_dagster.doctor import Finding

MARKS = {"ok": "ok", "warning": "warning", "unknown": "unknown", "failed": "FAILED"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Tell it as JSON, for another program.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check this deployment, one thing after the other, and say what to fix.

    Settings, Dagster's home, the storage, the disks and clock; on AWS also the credentials, the
    role, the bucket's policy and the quotas; what the pipelines' YAML declares, and whether its
    sinks can be written. Nothing is changed, but for small objects that are written to the storage,
    and beside exports, and deleted again.

    What may not be looked at for want of a permission is `unknown`, and does not fail.

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
    """Whether the project's declarations can be loaded, as Dagster does in its folder."""
    import sys

    from batchrec_dagster.cli.project import ProjectError, find_project
    from batchrec_dagster.doctor.findings import unknown
    from batchrec_dagster.doctor.pipelines import pipelines_findings

    try:
        project = find_project()
    except ProjectError as error:
        yield unknown("pipelines", str(error), "ask again there")
        return
    sys.path.insert(0, str(project.root))
    try:
        yield from pipelines_findings(project.defs.parent)
    finally:
        sys.path.remove(str(project.root))
