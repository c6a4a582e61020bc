"""`batchrec check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.pipelines import find_definitions_errors, load_pipelines
from batchrec_dagster.cli.project import Project, enter_project
from batchrec_dagster.reporting.views.plain import shorten_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrec_dagster.reporting.insight.readiness import Readiness


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
    from batchrec_dagster.reporting.views.check import print_readiness
    from batchrec_dagster.reporting.views.terminal import Terminal

    terminal = Terminal()
    with terminal.waiting("Checking"):
        results = [*_check_project(enter_project(), offline=offline)]
    print_readiness(terminal, results)
    if any(result.status == "failed" for result in results):
        context.exit(1)


def _check_project(project: Project, *, offline: bool) -> Iterator[Readiness]:
    from batchrec_dagster.cli.readiness.deployment import check_deployment, check_settings
    from batchrec_dagster.cli.readiness.pipelines import (
        check_connections,
        check_filters,
        check_upstream,
    )
    from batchrec_dagster.pipeline.deployment import Deployment, DeploymentError
    from batchrec_dagster.pipeline.loading import list_asset_keys
    from batchrec_dagster.reporting.insight.readiness import failed, ok

    try:
        deployment = Deployment.from_environment()
    except DeploymentError as error:
        yield failed("settings", str(error), "correct it in the environment or in .env")
        return
    yield from check_settings(deployment)
    loaded = load_pipelines(project)
    errors = loaded.errors or find_definitions_errors(project)
    for line in errors:
        yield failed("pipelines", line, "fix it; for details, run: dg check defs")
    pipelines = [*loaded.pipelines.values()]
    if not errors:
        names = ", ".join(sorted(loaded.pipelines))
        folder = shorten_path(project.defs)
        yield ok("pipelines", f"All pipelines in {folder} load: {names or 'there are none yet'}")
    assets = set() if loaded.definitions is None else list_asset_keys(loaded.definitions)
    for pipeline in pipelines:
        yield from check_filters(pipeline)
        yield from check_upstream(pipeline, assets)
    if offline:
        return
    storage = deployment.open_storage()
    yield from check_deployment(deployment, storage)
    for pipeline in pipelines:
        yield from check_connections(pipeline, storage, project.root)
