"""`batchrec doctor`."""

from __future__ import annotations

import click

MARKS = {"ok": "ok", "warning": "warning", "unknown": "unknown", "failed": "FAILED"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Tell it as JSON, for another program.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check this deployment, one thing after the other, and say what to mend.

    Settings, Dagster's home, the storage, the disks and clock; on AWS also the credentials, the
    role, the bucket's policy and the quotas. Nothing is changed, but for a small object that is
    written to the storage and deleted again.

    What may not be looked at for want of a permission is `unknown`, and does not fail.

    \b
    Examples:
      batchrec doctor
      batchrec doctor --json | jq -r '.[] | select(.status == "failed") | .mend'

    \b
    Exit codes:
      0  nothing failed
      1  something failed
    """
    import json
    from dataclasses import asdict

    from batchrec_dagster.commands.deployed import environment
    from batchrec_dagster.doctor import examine

    found = []
    for finding in examine(environment()):
        found.append(finding)
        if not as_json:
            click.echo(f"{MARKS[finding.status]:8} {finding.check:22} {finding.message}")
            if finding.status != "ok":
                click.echo(f"{'':8} {'':22} -> {finding.mend}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    if any(finding.status == "failed" for finding in found):
        context.exit(1)
