"""The same files prepared by both engines."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from batchrec_dagster.preparation.layout import (
    AUTO,
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
from batchrec_dagster.preparation.rules import PreparationResult, Rules
from batchrec_dagster.preparation.spark.prepare import run_task
from batchrec_dagster.preparation.spark.task import PARTS, SUPPRESSED, SparkTask
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
    encoding: str = "auto"
    # None would be a day after now on this machine, and on Spark no limit.
    latest: int = 2**62

    @property
    def form(self) -> FileForm:
        header = self.skipped_lines + (1 if self.columns.are_named else 0)
        return FileForm(
            self.format,
            self.delimiter,
            header if self.skipped_lines else None,
            self.encoding,
            self.quoted,
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


COMMA = Layout(",", "userId", "movieId", "rating", "timestamp")
HEADER = "userId,movieId,rating,timestamp\n"
SKIP = Rules(on_bad_rows="skip")


DIRTY = [
    *("1,10,good,1000", "1,10,nan,1000", "1,10,inf,1000", "1,10,1e400,1000", "1,10,.5,1000"),
    *("1,10,5.,1000", "1,10,+5,+1000", "1,10, 5 ,\t1000 ", "1,10,1e1,1000", "1,10,0x5,1000"),
    *("1,10,5,yesterday", "1,10,5,1000.5", "1,10,5,-1000", "1,10,5,99999999999999999999"),
    *("1,10,5", "1,10", "1", "1,10,5,1000,more", "1,10,5,1000,", "1,10,5,1000,,x"),
    *(",10,5,1000", "1, ,5,1000", "\t,10,5,1000", f"{'x' * 257},10,5,1000", "x" * 300 + ",1,1,1"),
    *(",,,", "", "   ", ",,,,,,x", ",,,,x", "001,010,5,1000", " 1, 10,5,1000", "é,ü,5,1000"),
    *("NULL,10,5,1000", "1,\\N,5,1000", " None ,10,5,1000", "1,10,NULL,1000", "1,10,5,nan"),
    *("-1,10,5,1000", "1,10,-1,1000", "Nonesuch,10,5,1000"),
    *("1\x00,2,5,1000", "😀,2,5,1000", "\u3000,2,5,1000", f"{'é' * 256},10,5,1000"),
]
QUOTED = [
    *('"a,b",10,5,1000', '"a""b",10,5,1000', '1,10,"5","1000"', '"",10,5,1000', '"","","",""'),
    *(',,,,""', '"",,,', '" 1",10," 5 ","\t1000"', 'a"b"c,10,5,1000', '1,"\'",5,1000'),
]


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    with quick_session() as session:
        yield session


@dataclass(frozen=True)
class Outcome:
    """What an engine wrote, or the error that it raised in its place."""

    lines: tuple[str, ...] = ()
    """The lines of the interactions, sorted, without the header."""
    rows_read: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    unit: str = ""
    erased_users: int = 0
    examples: Sequence[str] = field(default=(), compare=False)
    """The bad rows in words, which Spark names without their lines."""
    error: str = field(default="", compare=False)
    """The engines word their errors differently."""

    @classmethod
    def of(cls, result: PreparationResult, text: str) -> Outcome:
        return cls(
            tuple(sorted(text.splitlines())),
            result.rows_read,
            result.left_out,
            result.timestamp_unit,
            result.erased_users,
            result.bad_row_examples,
        )


def prepare_on_polars(
    files: Sequence[Path], layout: Layout, rules: Rules, suppressed: ErasedUsers = NOBODY
) -> Outcome:
    raw_files = [RawFile(file, file.name) for file in files]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "interactions.csv"
        try:
            with open_ratings(raw_files, layout.form, layout.columns, rules, suppressed) as ratings:
                result = ratings.write_interactions(target)
        except PreparationError as error:
            return Outcome(error=str(error))
        return Outcome.of(result, target.read_text().partition("\n")[2])


def prepare_on_spark(
    spark: SparkSession,
    files: Sequence[Path],
    layout: Layout,
    rules: Rules,
    suppressed: ErasedUsers = NOBODY,
    unit: str = "s",
) -> Outcome:
    """unit: that of the times, where the layout does not say it."""
    with tempfile.TemporaryDirectory() as folder:
        task = build_spark_task(files, layout, rules, Path(folder), unit)
        Path(folder, SUPPRESSED).write_bytes(suppressed.encode())
        try:
            result = run_task(spark, task, LOG)
        except PreparationError as error:
            return Outcome(error=str(error))
        return Outcome.of(result, read_parts(task))


def build_spark_task(
    files: Sequence[Path], layout: Layout, rules: Rules, folder: Path, unit: str = "s"
) -> SparkTask:
    """The task of preparing the files into the folder."""
    sources = {file.name: f"file://{file}" for file in files}
    unit = unit if layout.timestamp_unit == AUTO else layout.timestamp_unit
    return SparkTask(sources, layout.form, layout.columns, rules, unit, f"file://{folder}")


def read_parts(task: SparkTask) -> str:
    """The interactions that the job has written on this machine."""
    folder = Path(task.work.removeprefix("file://"), PARTS)
    return "".join(part.read_text() for part in sorted(folder.glob("part-*")))


def compare_engines(
    spark: SparkSession,
    files: Sequence[Path],
    layout: Layout,
    rules: Rules,
    suppressed: ErasedUsers = NOBODY,
) -> Outcome:
    """What Spark did, which is what the local engine did."""
    expected = prepare_on_polars(files, layout, rules, suppressed)
    outcome = prepare_on_spark(spark, files, layout, rules, suppressed, expected.unit or "s")
    assert outcome == expected
    assert bool(outcome.error) == bool(expected.error)
    return outcome


def prepare_by_both(
    spark: SparkSession,
    folder: Path,
    contents: str | bytes | Mapping[str, str | bytes],
    layout: Layout = COMMA,
    rules: Rules = SKIP,
    suppressed: ErasedUsers = NOBODY,
) -> Outcome:
    """`compare_engines` of files of this content."""
    if not isinstance(contents, Mapping):
        contents = {"ratings.csv": contents}
    files = []
    for name, content in contents.items():
        files.append(folder / name)
        files[-1].write_bytes(content.encode() if isinstance(content, str) else content)
    return compare_engines(spark, files, layout, rules, suppressed)
