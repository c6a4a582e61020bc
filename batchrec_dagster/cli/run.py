"""`batchrec run`: the options of the command, and what they start."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click
import yaml

from batchrec_dagster.cli.component_files import TextDates
from batchrec_dagster.cli.declared_pipelines import (
    NO_PIPELINES,
    find_pipelines,
    make_undeclared_error,
)
from batchrec_dagster.cli.project import find_project, make_job_command
from batchrec_dagster.cli.run_result import describe_result
from batchrec_dagster.cli.watched_run import watch_run
from batchrec_dagster.storage.durable import temporary_folder


@click.command(short_help="Run a pipeline, and watch its stages.")
@click.argument("pipeline", metavar="[NAME]", required=False)
@click.option(
    "-c",
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
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
@click.option(
    "--trial",
    "settings",
    metavar="SETTING=VALUE",
    multiple=True,
    help="Try another value of a setting, by its path: nothing is published. Repeat for more.",
)
@click.option(
    "--as-of",
    metavar="DAY[..DAY]",
    help="Try the data as they were at the end of this day, in UTC, or of days in this range.",
)
@click.option(
    "--every",
    metavar="DAYS",
    type=click.IntRange(1),
    help="With a range of days: try each so many days. Default: 7.",
)
@click.option("--keep", is_flag=True, help="After a trial, write its settings into the defs.yaml.")
@click.pass_context
def run(
    context: click.Context,
    pipeline: str | None,
    config: Path | None,
    publish_anyway: bool,
    train: bool,
    imports: bool,
    settings: tuple[str, ...],
    as_of: str | None,
    every: int | None,
    keep: bool,
) -> None:
    """Make a pipeline's recommendations: run its job NAME_refresh, and show its stages.

    The run and its log are in Dagster's web page too (`batchrec ui`). A second run finds what is
    unchanged, and neither imports it nor trains on it again. Ctrl-C stops the run; the next one
    continues where it stopped. NAME can be left out if there is one pipeline.

    With --publish-anyway neither the quality gate nor missing data stop this run: all its lists are
    published. The next run compares with them. --import and --train cost what they cost on AWS.

    With --trial or --as-of it trains and infers as usual, but publishes nothing: the lists and a
    report are in a folder of their own, and what differs from the published lists is printed.
    --keep makes the settings of the trial those of the next run.

    \b
    Examples:
      batchrec run
      batchrec run shop
      batchrec run shop --publish-anyway
      batchrec run shop --import --train
      batchrec run shop | tee run.log          # one line a stage
      batchrec run shop --trial solution.recipe=aws-user-personalization
      batchrec run shop/newsletter --trial lists.newsletter.num_results=12
      batchrec run shop --as-of 2026-11-24
      batchrec run shop --as-of 2026-09-01..2026-11-24 --every 7

    \b
    Exit codes:
      0    the run succeeded
      1    it failed
      3    no such pipeline
      130  it was stopped by Ctrl-C
    """
    is_trial = bool(settings) or as_of is not None
    # A trial may make one list alone, such as shop/newsletter.
    list_name = pipeline.partition("/")[2] if pipeline and is_trial else ""
    name = _choose_pipeline(pipeline.partition("/")[0] if pipeline and list_name else pipeline)
    if config:
        _require_settings(config)
    switches = {"publish_anyway": publish_anyway, "import": imports, "train": train}
    switched_on = [option for option, is_on in switches.items() if is_on]
    options = [f"--{option.replace('_', '-')}" for option in switched_on]
    if is_trial:
        for option in ["--config"] * bool(config) + options:
            raise click.UsageError(f"{option} is for runs that publish: leave it out of a trial")
        from batchrec_dagster.cli.trials import run_trials

        address = f"{name}/{list_name}" if list_name else name
        exit_code = run_trials(address, settings, as_of, every, keep=keep)
    elif keep or every is not None:
        raise click.UsageError("--keep and --every are for trials: name what to try with --trial")
    else:
        command = make_job_command(f"{name}_refresh")
        describe = partial(describe_result, name)
        with temporary_folder() as folder:
            if options:
                # Before the file of --config, because Dagster lets the first one decide.
                file = folder / "options.yaml"
                file.write_text(json.dumps(dict.fromkeys(switched_on, True)))
                command += ["-c", str(file)]
            arguments = ["run", name, *options]
            exit_code = watch_run(name, command, describe, config=config, arguments=arguments)
    if exit_code:
        context.exit(exit_code)


def _choose_pipeline(name: str | None) -> str:
    """The pipeline of this name, or the only one.

    Raises click.UsageError if several could be meant, UnknownNameError if it is not declared, and
    click.ClickException if nothing is declared but what does not load.
    """
    declared = find_pipelines(find_project())
    if name is None:
        if not declared:
            from batchrec_dagster.cli.pipelines import find_pipeline_errors

            if errors := find_pipeline_errors(find_project()):
                raise click.ClickException("\n".join(errors))
            raise click.UsageError(NO_PIPELINES)
        if len(declared) > 1:
            names = ", ".join(sorted(declared))
            raise click.UsageError(f"name one of the pipelines: {names}")
        (name,) = declared
    if name not in declared:
        raise make_undeclared_error(name, declared)
    return name


def _require_settings(file: Path) -> None:
    """Raise click.ClickException for a file that is not YAML with settings."""
    try:
        settings = yaml.load(file.read_text(encoding="utf-8"), TextDates)  # noqa: S506
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise click.ClickException(f"{file}{line}: this is not YAML: {problem}") from error
    if not isinstance(settings, dict):
        raise click.ClickException(f"{file}: a run's settings start with ops:")
