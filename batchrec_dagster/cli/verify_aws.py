"""`batchrec verify-aws`."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from batchrec_dagster.cli.project import environment


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
    from dagster import Failure

    from batchrec_dagster.deployment import Deployment, DeploymentError
    from batchrec_dagster.doctor.aws_questions import DELETED, estimated
    from batchrec_dagster.doctor.verify_aws import Verification, VerifyError
    from batchrec_dagster.steps.cost import summary
    from batchrec_dagster.storage.object_store import StorageError

    logging.basicConfig(format="%(message)s")
    log = logging.getLogger(__name__)
    log.setLevel(logging.INFO)
    try:
        personalize = Deployment.from_environment(environment()).personalize_resource
        verification = Verification.opened(output, personalize, log, glue_job)
        if only_delete:
            if not output.exists():
                raise VerifyError(f"there is no {output}: nothing was made")
            verification.delete()
        else:
            if verification.state["stage"] != DELETED:
                cost = estimated()
                click.echo(f"On AWS this costs {summary(cost)}.")
                if sum(each.usd for each in cost) > budget:
                    raise VerifyError(f"that is more than --budget {budget:g}: nothing was made")
                if not yes:
                    click.confirm("Run it?", abort=True)
            verification.run()
    except (DeploymentError, VerifyError) as error:
        raise click.ClickException(str(error)) from error
    except (StorageError, Failure, BotoCoreError, ClientError) as error:
        reason = getattr(error, "description", None) or str(error)
        again = "run it again to continue, or with --delete to delete what it made"
        raise click.ClickException(f"{reason}. Then {again}") from error
    for name, found in verification.state["answers"].items():
        click.echo(f"{found['status']:9} {name:18} {found.get('reason', '')}".rstrip())
    click.echo(f"Written: {output}, {output.with_suffix('.md')}. To ask all again, move them away.")
