"""`batchrec doctor` and `batchrec verify-aws`."""

from __future__ import annotations

import logging
from pathlib import Path
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


@click.command("verify-aws", short_help="Find out what only an AWS account can tell.")
@click.option(
    "--budget",
    type=click.FloatRange(0, 10),
    default=10,
    show_default=True,
    help="The most USD that it may cost.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="verify-aws.json",
    show_default=True,
    help="The answers; a summary is written next to it, with the ending .md.",
)
@click.option("--glue-job", metavar="NAME", help="A Glue job whose last runs to report.")
@click.option("--delete", "only_delete", is_flag=True, help="Delete what it made, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def verify_aws(
    budget: float, output: Path, glue_job: str | None, only_delete: bool, yes: bool
) -> None:
    """Find out what only an AWS account can tell, with a small generated data set.

    Imports, trains and recommends under a name of its own in the deployment of BATCHREC_STORAGE
    and BATCHREC_PERSONALIZE, which takes hours on AWS, and deletes what it made. Run it again after
    an interruption to continue, and the day after to add the bill.

    \b
    Examples:
      batchrec verify-aws                  # show the cost, ask, run
      batchrec verify-aws --delete         # after an interruption: delete what it made
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from batchrec_dagster.deployment import Deployment
    from batchrec_dagster.doctor.aws_questions import DELETED, estimate_costs
    from batchrec_dagster.doctor.verify_aws import Verification, VerifyError
    from batchrec_dagster.personalize.errors import PersonalizeError
    from batchrec_dagster.storage.object_store import StorageError

    logging.basicConfig(format="%(message)s")
    log = logging.getLogger(__name__)
    log.setLevel(logging.INFO)
    try:
        personalize = Deployment.from_environment(load_environment()).personalize_resource
        verification = Verification.open(output, personalize, log, glue_job)
        if only_delete:
            if not output.exists():
                raise VerifyError(f"there is no {output}: nothing was made")
            verification.delete()
        else:
            if verification.state["stage"] != DELETED:
                prices = personalize.read_prices()
                costs = estimate_costs(prices)
                click.echo(f"On AWS this costs {prices.summarize(costs)}.")
                if sum(cost.usd for cost in costs) > budget:
                    raise VerifyError(f"that is more than --budget {budget:g}: nothing was made")
                if not yes:
                    click.confirm("Run it?", abort=True)
            verification.run()
    except VerifyError as error:
        raise click.ClickException(str(error)) from error
    except (StorageError, PersonalizeError, BotoCoreError, ClientError) as error:
        raise click.ClickException(
            f"{error}. Then run it again to continue, or with --delete to delete what it made"
        ) from error
    for name, record in verification.state["answers"].items():
        click.echo(f"{record['status']:9} {name:18} {record.get('reason', '')}".rstrip())
    click.echo(f"Written: {output}, {output.with_suffix('.md')}. To ask all again, move them away.")
