"""`batchrec run`: the options of the command, and what they start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from batchrec_dagster.cli.pipelines import choose_pipeline
from batchrec_dagster.cli.project import load_storage, make_job_command
from batchrec_dagster.cli.watched_run import watch_run
from batchrec_dagster.storage.durable import temporary_folder

if TYPE_CHECKING:
    import dagster as dg

    from batchrec_dagster.cli.run_stages import RunStages
    from batchrec_dagster.config import Pipeline


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

    The run and its log are in Dagster's web page too (`batchrec ui`). A second run finds what is
    unchanged, and neither imports it nor trains on it again. Ctrl-C stops the run; the next one
    continues where it stopped. NAME can be left out if there is one pipeline.

    With --publish-anyway neither the quality gate nor missing data stop this run: all its lists are
    published. The next run compares with them. --import and --train cost what they cost on AWS.

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
    """
    name = pipeline or choose_pipeline()
    if config:
        _require_settings(config)
    switches = {"publish_anyway": publish_anyway, "import": imports, "train": train}
    switched_on = [option for option, is_on in switches.items() if is_on]
    options = [f"--{option.replace('_', '-')}" for option in switched_on]
    command = make_job_command(f"{name}_refresh")
    with temporary_folder() as folder:
        if options:
            # Before the file of --config, because Dagster lets the first one decide.
            file = folder / "options.yaml"
            file.write_text(json.dumps(dict.fromkeys(switched_on, True)))
            command += ["-c", str(file)]
        arguments = ["run", name, *options]
        exit_code = watch_run(name, command, _print_result, config=config, arguments=arguments)
    if exit_code:
        context.exit(exit_code)


def _print_result(pipeline: Pipeline, run: dg.DagsterRun, stages: RunStages, duration: str) -> None:
    """Print what the run has published, and the commands that show more of it."""
    from batchrec_dagster.reporting.insight.overview import read_overview
    from batchrec_dagster.reporting.insight.tables import find_similar_items
    from batchrec_dagster.reporting.views import run as views
    from batchrec_dagster.reporting.views.terminal import Terminal
    from batchrec_dagster.storage.layout import ListFiles, ListKeys

    storage = load_storage()
    lists = [ListFiles(storage, published.keys) for published in pipeline.user_lists]
    overviews = [read_overview(files) for files in lists]
    similar_items = find_similar_items(ListFiles(storage, ListKeys(pipeline.name)))
    if similar_items.editions.live() is not None:
        overviews.append(read_overview(similar_items))
    terminal = Terminal()
    are_new = [
        views.print_result(terminal, overview, run.run_id, duration) for overview in overviews
    ]
    views.print_warnings(terminal, stages.warnings)
    if any(are_new):
        users = [
            overview.example_user for overview in overviews if overview.example_user is not None
        ]
        views.print_next_commands(terminal, pipeline.name, users[0] if users else None)


def _require_settings(file: Path) -> None:
    """Raise click.ClickException for a file that is not YAML with settings."""
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
