"""The same files prepared by both engines."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyspark.sql import SparkSession

from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.preparation.layout import (
    NULL_VALUES,
    Column,
    Columns,
    Decimal,
    FileForm,
    Format,
    PreparationError,
)
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.spark.prepare import run_task
from batchrec_dagster.preparation.spark.task import SourceFile, SparkTask
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers
from batchrec_dagster_tests.guard.servers.spark import QUICK_ARGUMENTS, quick_session

__all__ = ["QUICK_ARGUMENTS", "quick_session"]

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How files are written, and which of their columns holds what, in one line."""

    delimiter: str
    user: Column
    item: Column
    rating: Column | None
    timestamp: Column | None
    timestamp_unit: str = "auto"
    event_type: Column | None = None
    event_value: Column | None = None
    format: Format = "csv"
    quoted: bool = True
    types: Mapping[str, str] = field(default_factory=dict)
    decimal: Decimal = "."
    null_values: Sequence[str] = NULL_VALUES
    timezone: str | None = None
    skipped_lines: int = 0
    # None would be a day after now on this machine, and on Spark no limit.
    latest: int = 2**62

    @property
    def form(self) -> FileForm:
        header = self.skipped_lines + (1 if self.columns.are_named else 0)
        return FileForm(
            self.format, self.delimiter, header if self.skipped_lines else None, quoted=self.quoted
        )

    @property
    def columns(self) -> Columns:
        names = ("user", "item", "rating", "timestamp", "event_type", "event_value")
        roles = {name: getattr(self, name) for name in names}
        return Columns(
            {role: column for role, column in roles.items() if column is not None},
            self.timestamp_unit,
            self.timezone,
            self.types,
            self.decimal if self.format == "csv" else None,
            self.null_values,
            self.latest,
        )


@dataclass(frozen=True)
class Outcome:
    """What an engine wrote, or the error that it raised in its place."""

    csv_text: str | None = None
    events: Mapping[str, int] | None = None
    rows_read: int = 0
    left_out: dict[str, int] | None = None
    unit: str = ""
    examples: tuple[str, ...] = ()
    error: str = ""
    event_types: int = 0
    erased_users: int = 0


def prepare_on_polars(
    files: Sequence[Path], layout: Layout, rules: Rules, suppressed: ErasedUsers = NOBODY
) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "interactions.csv"
        try:
            raw_files = [RawFile(file, file.name) for file in files]
            with open_ratings(raw_files, layout.form, layout.columns, rules, suppressed) as ratings:
                result = ratings.write_interactions(target)
        except PreparationError as error:
            return Outcome(error=str(error))
        counts = count_rows(scan_interactions(target))
        return Outcome(
            target.read_bytes().decode(),
            counts.events,
            result.rows_read,
            dict(result.left_out),
            result.timestamp_unit,
            tuple(result.bad_row_examples),
            event_types=counts.event_types,
            erased_users=result.erased_users,
        )


def prepare_on_spark(
    spark: SparkSession,
    files: Sequence[Path],
    layout: Layout,
    rules: Rules,
    suppressed: ErasedUsers = NOBODY,
) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        task = build_spark_task(files, layout, rules, Path(folder))
        if suppressed:
            list_file = Path(folder) / "erased_users.json"
            list_file.write_bytes(suppressed.encode())
            task = replace(task, suppressed=f"file://{list_file}")
        try:
            result = run_task(spark, task, LOG)
        except PreparationError as error:
            return Outcome(error=str(error))
        return Outcome(
            Path(task.destination.removeprefix("file://")).read_bytes().decode(),
            result.events,
            result.rows_read,
            dict(result.left_out),
            result.timestamp_unit,
            tuple(result.bad_row_examples),
            event_types=result.event_types,
            erased_users=result.erased_users,
        )


def build_spark_task(
    files: Sequence[Path], layout: Layout, rules: Rules, folder: Path
) -> SparkTask:
    """The task of preparing the files into the folder."""
    return SparkTask(
        [SourceFile(f"file://{file}", file.name) for file in files],
        layout.form,
        layout.columns,
        rules,
        f"file://{folder}/interactions.csv",
        f"file://{folder}/work",
    )
