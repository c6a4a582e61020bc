"""`batchrec teardown`."""

from __future__ import annotations

import logging

import click

from batchrec_dagster.cli.project import (
    NotFoundError,
    ProjectError,
    declared_pipelines,
    environment,
    find_project,
)


@click.command(short_help="Delete what a pipeline that is no longer declared left.")
@click.argument("pipeline", metavar="NAME")
@click.option("--storage", "files", is_flag=True, help="Also delete its files in the storage.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def teardown(pipeline: str, files: bool, yes: bool) -> None:
    """Delete what a pipeline that is no longer declared left in Personalize.

    Shows what it would delete, asks, and deletes it. A pipeline that is still declared has the
    job NAME_teardown, which also waits for its runs.

    \b
    Examples:
      batchrec teardown shop               # show, ask, delete
      batchrec teardown shop --storage     # the tables and copied ratings too
    """
    from batchrec_dagster.deployment import Deployment
    from batchrec_dagster.personalize.ensure import PIPELINE_TAG
    from batchrec_dagster.personalize.teardown import delete, find
    from batchrec_dagster.pipeline.automation.teardown import delete_empty_folders

    _check_gone(pipeline)
    logging.basicConfig(format="%(message)s")
    log = logging.getLogger(__name__)
    log.setLevel(logging.INFO)
    deployment = Deployment.from_environment(environment())
    storage, personalize = deployment.storage_resource, deployment.personalize_resource
    store, root = storage.store, storage.uri(f"{pipeline}/")
    ensure = personalize.ensure(log, {PIPELINE_TAG: pipeline})
    plan = find(ensure, pipeline)
    found = store.list(root) if files else []
    click.echo("\n".join(plan.lines(found, root)))
    if not plan.pieces and not found:
        raise NotFoundError(f"there is nothing of {pipeline} to delete")
    if not yes:
        click.confirm("Delete this?", abort=True)
    delete(ensure, plan)
    for file in found:
        store.delete(file.uri)
    if files:
        delete_empty_folders(store.local_path(root))
    click.echo(f"deleted what {pipeline} left")


def _check_gone(pipeline: str) -> None:
    try:
        declared = declared_pipelines(find_project())
    except ProjectError:
        return
    if pipeline in declared:
        raise click.ClickException(
            f"{pipeline} is declared in {declared[pipeline]}: run its job {pipeline}_teardown"
        )
