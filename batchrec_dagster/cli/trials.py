"""`batchrec run --trial` and `--as-of`: lists that nobody reads, and what differs in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.declared_pipelines import UnknownNameError, find_declared_pipelines
from batchrec_dagster.cli.project import (
    find_project,
    importable_project,
    load_environment,
    load_storage,
    make_job_command,
)
from batchrec_dagster.cli.terminal import format_program, get_terminal_width, shorten_path
from batchrec_dagster.cli.watched_run import watch_run

if TYPE_CHECKING:
    import dagster as dg

    from batchrec_dagster.config import Pipeline
    from batchrec_dagster.config.trial import Trial
    from batchrec_dagster.pipeline.component import BatchRecommendations
    from batchrec_dagster.reporting.run_stages import RunStages
    from batchrec_dagster.storage.paths import PipelineFiles

DAYS_BETWEEN = 7


def run_trials(
    address: str, texts: Sequence[str], as_of: str | None, every: int | None, *, keep: bool
) -> int:
    """Run the trial of the pipeline, show what differs in its lists, and return the exit code.

    address: the pipeline's name, or that of one of its lists, such as `shop/newsletter`.
    texts: the settings to try, such as `solution.recipe=aws-popularity-count`.
    as_of: the day at whose end the data end, or a range of days; None for all data.
    every: after how many days of the range comes the next.
    keep: whether to write the settings into the defs.yaml.
    Raises click.ClickException if the trial cannot be made.
    """
    from batchrec_dagster.config.trial import Trial, TrialError, parse_settings
    from batchrec_dagster.steps.errors import StepError
    from batchrec_dagster.steps.trials import begin_trial

    name, _, list_name = address.partition("/")
    days = _parse_days(as_of, every)
    if keep and (as_of is not None or not texts):
        raise click.UsageError("--keep keeps settings: name them with --trial, without --as-of")
    try:
        trial = Trial.parse(parse_settings(tuple(texts)), as_of or "", list_name or None)
    except TrialError as error:
        raise click.ClickException(str(error)) from error
    options = [*(part for text in texts for part in ("--trial", text))]
    if as_of is not None:
        options += ["--as-of", as_of, *(("--every", str(every)) if every else ())]
    trial_run = _TrialRun(address, trial, options, keep=keep)
    try:
        files = trial_run.lists[0].files
        begin_trial(files, trial, has_same_data=trial_run.has_same_data and days is None)
    except StepError as error:
        raise UnknownNameError(str(error)) from error
    exit_code = trial_run.run(trial) if days is None else trial_run.run_days(days)
    if not exit_code and keep:
        click.echo(_keep_settings(name, trial))
    return exit_code


def _keep_settings(name: str, trial: Trial) -> str:
    """Write the trial's settings into the pipeline's defs.yaml, and return what was changed.

    Raises click.ClickException if they cannot be written.
    """
    from batchrec_dagster.config.changed_declaration import change_declaration
    from batchrec_dagster.config.trial import TrialError, format_value

    file = find_declared_pipelines(find_project())[name]
    text = file.read_bytes().decode()
    try:
        changed = change_declaration(text, name, trial.settings)
    except TrialError as error:
        raise click.ClickException(f"{shorten_path(file)}: {error}") from error
    if changed == text:
        return f"\n{shorten_path(file)} has these settings already"
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(changed.encode())
    part.replace(file)
    lines = [
        f"  {path} is not set" if value is None else f"  {path}: {format_value(value)}"
        for path, value in trial.settings.items()
    ]
    return "\n".join([f"\n{shorten_path(file)} is changed:", *lines])


def _parse_days(as_of: str | None, every: int | None) -> list[date] | None:
    """The days to try, oldest first; None if all data are tried. Raises click.UsageError."""
    if as_of is None:
        if every is not None:
            raise click.UsageError("--every is for a range of days: --as-of DAY..DAY")
        return None
    first_text, separator, last_text = as_of.partition("..")
    if every is not None and not separator:
        raise click.UsageError("--every is for a range of days: --as-of DAY..DAY")
    try:
        first = date.fromisoformat(first_text)
        last = date.fromisoformat(last_text) if separator else first
    except ValueError as error:
        raise click.UsageError(
            f"--as-of {as_of}: write a day such as 2026-11-24, or a range such as"
            " 2026-09-01..2026-11-24"
        ) from error
    if last < first:
        raise click.UsageError(f"--as-of {as_of}: the range ends before it starts")
    step = timedelta(days=every or DAYS_BETWEEN)
    days = [first + number * step for number in range((last - first) // step + 1)]
    from batchrec_dagster.config.trial import MOST_DAYS

    if len(days) > MOST_DAYS:
        raise click.UsageError(
            f"--as-of {as_of} has {len(days):,} days to try, and {MOST_DAYS} are possible: set a"
            " larger --every"
        )
    return days


@dataclass(frozen=True)
class _TrialList:
    """A list that a trial makes, and the one that readers have."""

    address: str
    """What people call it: the pipeline, or a list of it."""
    files: PipelineFiles
    live_files: PipelineFiles

    def find_days(self) -> set[str]:
        """The days that the trial has made the list for, in ISO 8601."""
        return {str(edition.about.get("as_of")) for edition in self.files.table.all_editions()}


class _TrialRun:
    """Runs of the trial of a pipeline.

    address: the pipeline's name, or that of one of its lists.
    options: those of `batchrec run` that start the same trial again.
    keep: whether its settings are written into the defs.yaml afterwards.
    Raises click.ClickException if the trial cannot be made.
    """

    def __init__(self, address: str, trial: Trial, options: Sequence[str], *, keep: bool) -> None:
        from batchrec_dagster.pipeline.trial_definitions import describe_run

        self.address, self.trial, self.options = address, trial, options
        self.name = name = address.partition("/")[0]
        self._keeps_settings = keep
        self._project = find_project()
        declared = find_declared_pipelines(self._project)
        if name not in declared:
            raise click.ClickException(f"{name} is made by Python: change its settings there")
        self._file = declared[name]
        self._describe_run = describe_run
        pipeline = self._load()
        self.has_same_data = pipeline.has_same_data
        self.lists = [*self._list_files(pipeline)]
        if all(trial_list.live_files.table.current() is None for trial_list in self.lists):
            raise UnknownNameError(
                f"{name} has published nothing yet, so there is nothing to compare a trial with:"
                f" {format_program()} run {name}"
            )

    @property
    def _folder(self) -> str:
        """The folder of the trial in the storage, by which `batchrec diff` finds it."""
        return f"{self.name}/trials/{self.trial.name}"

    def _load(self) -> BatchRecommendations:
        """The pipeline with the trial's settings. Raises click.ClickException."""
        from batchrec_dagster.config.declaration_errors import DeclarationError
        from batchrec_dagster.config.trial import TrialError
        from batchrec_dagster.pipeline.trial_definitions import load_pipeline

        load_environment()
        project = self._project
        with importable_project(project):
            try:
                declared = load_pipeline(project.defs, self._file, self.name)
            except DeclarationError as error:
                raise click.ClickException(str(error)) from error
            try:
                return declared.make_trial(self.trial)
            except (DeclarationError, TrialError, ValueError) as error:
                raise click.ClickException(f"this cannot be tried: {error}") from error

    def _list_files(self, pipeline: Pipeline) -> Iterator[_TrialList]:
        from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys

        storage = load_storage()
        for list_pipeline in pipeline.list_pipelines:
            live_keys = StorageKeys(list_pipeline.address)
            yield _TrialList(
                list_pipeline.address,
                PipelineFiles(storage, list_pipeline.storage_keys),
                PipelineFiles(storage, live_keys),
            )

    def run(self, trial: Trial, *, is_one_of_many: bool = False) -> int:
        """Run the trial once, and return the exit code.

        is_one_of_many: whether a table of all days follows, so that one line is enough.
        """
        from batchrec_dagster.pipeline.trial_definitions import TRIAL_VARIABLE

        project = self._project
        run = self._describe_run(project.module, project.defs, self._file, self.name, trial)
        return watch_run(
            self.address,
            make_job_command(f"{self.name}_trial", "batchrec_dagster.pipeline.trial_definitions"),
            self._describe_day if is_one_of_many else self._describe_result,
            environment={TRIAL_VARIABLE: run},
            arguments=["run", self.address, *self.options],
        )

    def run_days(self, days: Sequence[date]) -> int:
        """Run the trial with the data of each day that it has no lists of yet.

        Returns the exit code of the last run; the first that fails is the last.
        """
        days_measured = (days[1] - days[0]).days if len(days) > 1 else None
        for number, day in enumerate(days, start=1):
            if day.isoformat() in self._find_days_with_lists():
                continue
            if len(days) > 1:
                click.echo(f"{self.name} as of {day} ({number} of {len(days)})")
            trial = replace(self.trial, as_of=day, days_measured=days_measured)
            exit_code = self.run(trial, is_one_of_many=len(days) > 1)
            if exit_code:
                return exit_code
        click.echo(f"{self._folder}: readers have what they had")
        for trial_list in self.lists:
            click.echo(_describe_days(trial_list), nl=False)
        return 0

    def _find_days_with_lists(self) -> set[str]:
        """The days whose lists are made, in each of the lists."""
        return set.intersection(*(trial_list.find_days() for trial_list in self.lists))

    def _describe_day(self, run: dg.DagsterRun, stages: RunStages, duration: str) -> list[str]:
        return [f"tried in {duration}", *(f"  warning   {text}" for text in stages.warnings), ""]

    def _describe_result(self, run: dg.DagsterRun, stages: RunStages, duration: str) -> list[str]:
        lines = [f"\n{self._folder}: tried in {duration}. Readers have what they had"]
        lines += [f"  {'warning':<9} {warning}" for warning in stages.warnings]
        for trial_list in self.lists:
            lines += ["", *self._describe_list(trial_list)]
        if self.trial.settings and not self._keeps_settings and "--as-of" not in self.options:
            command = [format_program(), "run", self.address, *self.options, "--keep"]
            lines += ["", f"Keep these settings for the next run: {_join(command)}"]
        return lines

    def _describe_list(self, trial_list: _TrialList) -> Iterator[str]:
        """Lines about the trial's lists, and what differs from those that readers have."""
        from batchrec_dagster.reporting.changes import format_comparison
        from batchrec_dagster.reporting.comparison import compare_lists, name_lists

        live, edition = trial_list.live_files.table.current(), trial_list.files.table.current()
        if live is None or edition is None:
            yield f"{trial_list.address}: readers have nothing yet, so nothing is compared"
        else:
            comparison = compare_lists(
                name_lists(trial_list.live_files, live), name_lists(trial_list.files, edition)
            )
            yield format_comparison(comparison, get_terminal_width()).rstrip()
        storage = trial_list.files.storage
        report = trial_list.files.uri(trial_list.files.storage_keys.report)
        if storage.store.head(report) is not None:
            yield f"\nreport  {storage.where(report)}"


def _join(command: Sequence[str]) -> str:
    import shlex

    return " ".join([command[0], shlex.join(command[1:])])


def _describe_days(trial_list: _TrialList) -> str:
    """What the lists of each day would have brought. It needs the extra `report`."""
    from batchrec_dagster.outcomes.outcome_estimates import estimate_outcomes
    from batchrec_dagster.outcomes.sums import pool_periods
    from batchrec_dagster.reporting.backtest import format_backtest
    from batchrec_dagster.steps.outcomes import read_sums

    sums = read_sums(trial_list.files)
    outcomes = [*estimate_outcomes(sums), *estimate_outcomes(pool_periods(sums))]
    editions = trial_list.files.table.all_editions()
    return format_backtest(trial_list.address, outcomes, editions, get_terminal_width())
