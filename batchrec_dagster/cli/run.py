"""The `batchrec run` command: its options, and the job that it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from batchrec_dagster.cli.pipelines import choose_pipeline, load_pipelines
from batchrec_dagster.cli.project import enter_project, load_storage
from batchrec_dagster.cli.watched_job import start_job
from batchrec_dagster.storage.durable import temporary_folder

if TYPE_CHECKING:
    from batchrec_dagster.cli.pipelines import LoadedPipelines
    from batchrec_dagster.cli.watched_job import WatchedJob
    from batchrec_dagster.storage.connection import Storage


@click.command(short_help="Run a pipeline, and watch its stages.")
@click.argument("pipeline", metavar="[NAME]", required=False)
@click.option(
    "-c",
    "--config",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Run configuration as YAML, as in Dagster's Launchpad.",
)
@click.option(
    "--publish-anyway",
    is_flag=True,
    help="Publish all lists although the quality gate refuses them or much of the data is missing.",
)
@click.option("--train", is_flag=True, help="Train all models although nothing has changed.")
@click.option(
    "--import", "imports", is_flag=True, help="Import the data although nothing has changed."
)
@click.pass_context
def run(
    context: click.Context,
    pipeline: str | None,
    config: Path | None,
    publish_anyway: bool,
    train: bool,
    imports: bool,
) -> None:
    """Make a pipeline's recommendations: run its job NAME_refresh, and show its stages.

    The run and its log are on Dagster's web page too (`batchrec ui`). A second run does not import
    unchanged data again, nor train on them again. Ctrl-C stops the run; the next run continues
    where it stopped. NAME can be left out if there is only one pipeline.

    With --publish-anyway, neither the quality gate nor missing data stops this run: all its lists
    are published, and the next run is compared with them. On AWS, --import and --train cost money.

    \b
    Examples:
      batchrec run
      batchrec run shop
      batchrec run shop --publish-anyway
      batchrec run shop --import --train
      batchrec run shop | tee run.log          # one line a stage

    \b
    Exit codes:
      0    the run succeeded
      1    it failed
      3    no such pipeline
      130  it was stopped by Ctrl-C
    """  # noqa: D301
    project = enter_project()
    loaded, name = None, pipeline
    if name is None:
        loaded = load_pipelines(project)
        name = choose_pipeline(loaded)
    if config:
        _require_settings(config)
    switches = {"publish_anyway": publish_anyway, "import": imports, "train": train}
    switched_on = [option for option, is_on in switches.items() if is_on]
    options = [f"--{option.replace('_', '-')}" for option in switched_on]
    with temporary_folder() as folder:
        options_file = folder / "options.yaml"
        options_file.write_text(json.dumps(dict.fromkeys(switched_on, True)))
        # If both files have a setting, Dagster takes the value in the first file.
        configs = [options_file, *([config] if config else [])]
        with start_job(project, f"{name}_refresh", configs) as job:
            # This is done while the job starts, because both processes take a while to import
            # Dagster.
            storage = load_storage()
            loaded = loaded or load_pipelines(project)
            loaded.require(name)
            job.watch(name, ["run", name, *options])
    if job.exit_code:
        context.exit(job.exit_code)
    _print_result(loaded, name, storage, job)


def _print_result(loaded: LoadedPipelines, name: str, storage: Storage, job: WatchedJob) -> None:
    """Print the editions that the run published, and the commands that show more."""
    from batchrec_dagster.editions.files import ListFiles
    from batchrec_dagster.reporting.insight.overview import read_overview
    from batchrec_dagster.reporting.views import run as views
    from batchrec_dagster.reporting.views.terminal import Terminal

    assert job.stages is not None
    run_id, duration = job.stages.run.run_id, job.duration
    published_lists = loaded.pipelines[name].published_lists()
    lists = [published for published in published_lists if published.is_addressed]
    overviews = [read_overview(ListFiles(storage, published.keys)) for published in lists]
    terminal = Terminal()
    are_new = [views.print_result(terminal, overview, run_id, duration) for overview in overviews]
    for warning in job.stages.warnings:
        terminal.print_finding("watch", warning)
    if any(are_new):
        users = (overview.example_user for overview in overviews)
        example = next((user for user in users if user is not None), None)
        is_only = len(loaded.pipelines) == 1
        views.print_next_commands(terminal, name, example, is_only=is_only)


def _require_settings(file: Path) -> None:
    """Raise click.ClickException unless the file is YAML with settings."""
    try:
        settings = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise click.ClickException(f"{file}{line}: this is not YAML: {problem}") from error
    if not isinstance(settings, yaml.MappingNode):
        raise click.ClickException(f"{file}: a run's settings start with ops:")
