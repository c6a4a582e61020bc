"""`batchrec show`."""

import os

import click

from batchrec_dagster.commands.completion import pipelines as pipelines_that_begin


@click.command()
@click.option(
    "--pipeline", metavar="NAME", help="Only this pipeline.", shell_complete=pipelines_that_begin
)
def show(pipeline: str | None) -> None:
    """Show what the newest recommendations were made from, how good they are, where they lie.

    \b
    Examples:
      batchrec show
      batchrec show --pipeline movielens
    """
    if not os.environ.get("DAGSTER_HOME"):
        raise click.ClickException(
            "DAGSTER_HOME is not set, so that the runs cannot be found: set it to the folder that"
            " dagster uses (make uses .batchrec/dagster)"
        )
    # Dagster takes half a second to import, which --help does not have to wait for.
    import dagster as dg

    from batchrec_dagster.reporting.summary import pipelines, summary

    with dg.DagsterInstance.get() as instance:
        found = pipelines(instance)
        if pipeline and pipeline not in found:
            raise click.ClickException(
                f"no recommendations of {pipeline!r} yet; there are those of: "
                f"{', '.join(found) or 'no pipeline'}"
            )
        if not found:
            raise click.ClickException("no recommendations yet: start a refresh job first")
        for name in [pipeline] if pipeline else found:
            click.echo("\n".join(summary(instance, name)))
