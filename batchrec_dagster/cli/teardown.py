"""The `batchrec teardown` command."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.pipelines import (
    UnknownNameError,
    describe_runs_under_way,
    load_pipelines,
)
from batchrec_dagster.cli.project import enter_project_if_any, load_deployment, open_console_log
from batchrec_dagster.reporting.views.plain import get_terminal_width, shorten_path, wrap
from batchrec_dagster.storage.durable import delete_empty_folders

if TYPE_CHECKING:
    from batchrec_dagster.config import Pipeline
    from batchrec_dagster.personalize.resources import Resources
    from batchrec_dagster.storage.connection import Storage
    from batchrec_dagster.storage.objects import ObjectInfo


@click.command(short_help="Delete what a pipeline left in Personalize.")
@click.argument("name", metavar="NAME")
@click.option("--storage", "with_files", is_flag=True, help="Also delete its files in the storage.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def teardown(name: str, with_files: bool, yes: bool) -> None:
    """Delete what a pipeline left in Personalize, whether it is still declared or not.

    Shows what it would delete, asks, and deletes it. Deletes nothing while a run of the pipeline is
    under way, if the pipeline is declared.

    \b
    Examples:
      batchrec teardown shop               # show, ask, delete
      batchrec teardown shop --storage     # the tables and copied ratings too
    """  # noqa: D301
    from batchrec_dagster.config.declaration import PIPELINE_NAME
    from batchrec_dagster.personalize.api import PIPELINE_TAG
    from batchrec_dagster.personalize.cleanup import plan_teardown
    from batchrec_dagster.steps.locks import hold_locks, list_lock_uris

    try:
        PIPELINE_NAME.require(name)
    except ValueError as error:
        raise click.BadParameter(f"{name!r} is no name of a pipeline: {error}") from None
    log = open_console_log()
    project = enter_project_if_any()
    deployment = load_deployment()
    storage = deployment.open_storage()
    resources = deployment.personalize_resource.open_resources(log, {PIPELINE_TAG: name})
    step, running, stays = None, [], []
    loaded = None if project is None else load_pipelines(project)
    # This raises an error if the project does not load: the project may declare this pipeline, and
    # a teardown has to take the pipeline's locks.
    steps = {} if loaded is None else loaded.open_steps("teardown", log)
    if loaded is not None and name in steps:
        step = steps[name]
        running = describe_runs_under_way(loaded, step)
        stays = _describe_what_stays(step.pipeline, loaded.files[name])
    pipeline = step.pipeline if step is not None else None
    plan, files = plan_teardown(resources, name), _list_files(storage, name, pipeline, with_files)
    root = storage.uri(f"{name}/")
    click.echo(
        "\n".join(plan.describe([info.size for info in files], storage.where(root), running))
    )
    if running:
        raise click.ClickException(
            f"nothing was deleted: {'; '.join(running)}, and would write again what is deleted."
            " Wait until it ends or cancel it, then start the teardown again. If its process is"
            " dead, use Terminate, Force termination immediately, in the UI"
        )
    if not plan.pieces and not files:
        raise UnknownNameError(f"there is nothing of {name} to delete")
    for line in stays:
        click.echo(wrap(line, get_terminal_width(), start="  ", hang=4))
    if not yes:
        click.confirm("Delete this?", abort=True)
    with ExitStack() as locks:
        if step is not None:
            hold_locks(locks, step)
        _delete(resources, storage, name, pipeline, with_files)
    if with_files:
        for uri in list_lock_uris(storage, pipeline) if pipeline is not None else ():
            storage.store.delete(uri)
        delete_empty_folders(storage.store.local_path(root))
        storage.remove_copies()
    click.echo(f"deleted what {name} left")


def _delete(
    resources: Resources,
    storage: Storage,
    name: str,
    pipeline: Pipeline | None,
    with_files: bool,
) -> None:
    """Delete the pipeline's resources in Personalize, and its files if `with_files` is set.

    Resources and files are listed again, because new ones may exist since the user was asked.
    """
    from batchrec_dagster.personalize.cleanup import delete, plan_teardown

    delete(resources, plan_teardown(resources, name))
    for info in _list_files(storage, name, pipeline, with_files):
        storage.store.delete(info.uri)


def _list_files(
    storage: Storage, name: str, pipeline: Pipeline | None, with_files: bool
) -> list[ObjectInfo]:
    """Return the files to delete: all files of the pipeline except the locks.

    A teardown itself holds the locks. There is nothing to delete unless `with_files` is set.
    """
    from batchrec_dagster.steps.locks import list_lock_uris

    if not with_files:
        return []
    locks = list_lock_uris(storage, pipeline) if pipeline is not None else ()
    files = storage.store.list(storage.uri(f"{name}/"))
    return [info for info in files if info.uri not in locks]


def _describe_what_stays(pipeline: Pipeline, file: Path) -> list[str]:
    """Return lines on what a teardown does not delete: the sinks' output, and the declaration."""
    descriptions = [
        sink.describe(Path())
        for published in pipeline.published_lists()
        for sink in published.sinks.declared.values()
    ]
    removals = [description.removal for description in descriptions if description.removal]
    return [
        *(f"left alone, for those who use it: {removal}" for removal in removals),
        f"{pipeline.name} is still declared in {shorten_path(file)}: its next run makes all of"
        " this again. Stop its schedule and its sensors first.",
    ]
