"""From cells of text to typed rows and their problems; see `layout` and `rules`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.preparation.layout import (
    FILTER,
    Layout,
    PreparationError,
    row_problems,
    time_problems,
)
from batchrec_dagster.preparation.rules import BELOW_MIN_RATING, NOT_IN_FILTER, Rules
from batchrec_dagster.preparation.spark import times
from batchrec_dagster.preparation.spark.lines import ROW
from batchrec_dagster.preparation.spark.tables import FLAW

_QUOTED = re.compile(r"""'((?:[^']|'')*)'|"((?:[^"]|"")*)\"""")


def for_spark(condition: str) -> str:
    """The condition as Spark's parser reads it."""

    def translated(match: re.Match[str]) -> str:
        text, name = match.groups()
        if name is not None:
            return "`" + name.replace('""', '"').replace("`", "``") + "`"
        escaped = text.replace("\\", "\\\\").replace("''", "\\'")
        return f"'{escaped}'"

    return _QUOTED.sub(translated, condition)


SECONDS, PROBLEM, REASON, FORM = "seconds", "problem", "reason", "form"
Reason = tuple[Column, str]
_PACKED, _IN_FILTER = " row", " in filter"
_NUMBER = r"^[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\z"


def parsed(cells: DataFrame, layout: Layout, rules: Rules) -> DataFrame:
    """ROW, user, item, timestamp, event_type, event_value of every row; PROBLEM, what is wrong with
    it but for its time; REASON, why it is left out if nothing is wrong with it."""
    none = F.lit(None).cast("string")
    problem = _first(row_problems(layout, _Cells(layout)))
    value = _value(layout) if layout.event_value is not None else none
    return _filtered(cells, layout, rules).select(
        ROW,
        role("user").alias("user"),
        role("item").alias("item"),
        (none if layout.timestamp is None else role("timestamp")).alias("timestamp"),
        (none if layout.event_type is None else role("event_type")).alias("event_type"),
        value.alias("event_value"),
        F.coalesce(F.col(FLAW), problem).alias(PROBLEM),
        _first(_left_out(rules)).alias(REASON),
    )


def timed(rows: DataFrame, unit: str, timezone: str | None) -> DataFrame:
    """The same rows with SECONDS in place of the timestamp, and PROBLEM and REASON complete."""
    seconds = F.col(SECONDS)
    of_time = _first(time_problems(seconds, seconds.isNull(), unit, timezone))
    problem = F.coalesce(F.col(PROBLEM), of_time)
    return (
        rows.withColumn(SECONDS, times.seconds(F.col("timestamp"), unit, timezone))
        .drop("timestamp")
        .withColumn(PROBLEM, problem)
        .withColumn(REASON, F.coalesce(F.col(PROBLEM), F.col(REASON)))
    )


def time_forms(rows: DataFrame) -> DataFrame:
    """ROW, timestamp and FORM of the rows with nothing wrong, and a time in some form."""
    return (
        rows.filter(F.col(PROBLEM).isNull())
        .select(ROW, "timestamp", times.form(F.col("timestamp")).alias(FORM))
        .filter(F.col(FORM).isNotNull())
    )


def role(name: str) -> Column:
    return F.col(f"` {name.replace('`', '``')}`")


def _filtered(cells: DataFrame, layout: Layout, rules: Rules) -> DataFrame:
    """The cells, and whether the filter holds; it calls its columns by names that roles have."""
    if rules.filter is None:
        return cells
    columns = [_typed(role(FILTER + name), kind).alias(name) for name, kind in layout.types.items()]
    packed = cells.select(F.struct("*").alias(_PACKED), *columns)
    try:
        holds = F.coalesce(F.expr(for_spark(rules.filter)), F.lit(False))
        return packed.select(F.col(f"`{_PACKED}`.*"), holds.alias(_IN_FILTER))
    except AnalysisException as error:
        # Polars' SQL has functions that Spark's has not, or calls otherwise.
        reason = str(error).partition("\n")[0]
        raise PreparationError(f"interactions.filter is not for Spark: {reason}") from error


def _typed(text: Column, kind: str) -> Column:
    """The cell as the type of `Layout.types`; null where it is missing or does not fit."""
    if kind == "string":
        return text
    plain = times.trimmed(text)
    if kind == "boolean":
        lower = F.lower(plain)
        return F.when(lower == "true", F.lit(True)).when(lower == "false", F.lit(False))
    if kind == "long":
        return times.whole_number(text)
    number = plain.cast("double")
    return F.when(plain.rlike(_NUMBER) & (F.abs(number) < float("inf")), number)


@dataclass(frozen=True)
class _Cells:
    """The conditions of `row_problems`."""

    layout: Layout

    def missing(self, name: str) -> Column:
        return role(name).isNull() | (F.length(times.trimmed(role(name))) == 0)

    def means_nothing(self, name: str) -> Column:
        found = F.trim(role(name)).isin(list(self.layout.null_values))
        return F.coalesce(found, F.lit(False))

    def longer(self, name: str, most: int) -> Column:
        return F.length(role(name)) > most

    def not_a(self, name: str, kind: str) -> Column:
        return _typed(role(name), kind).isNull()

    def broken(self, name: str) -> Column:
        text = role(name)
        return text.contains("\n") | text.contains("\r") | text.contains("\x00")

    def not_utf8(self, name: str) -> Column:
        return role(name).contains("\ufffd")


def _left_out(rules: Rules) -> Iterator[Reason]:
    if rules.min_rating is not None:
        yield _typed(role("rating"), "double") < rules.min_rating, BELOW_MIN_RATING
    if rules.filter is not None:
        yield ~F.col(f"`{_IN_FILTER}`"), NOT_IN_FILTER


def _first(reasons: Iterable[Reason]) -> Column:
    """The text of the first condition that holds; null where none does."""
    found = F.when(F.lit(False), F.lit(""))
    for condition, text in reasons:
        found = found.when(condition, F.lit(text))
    return found


def _value(layout: Layout) -> Column:
    cells = _Cells(layout)
    given = ~(cells.missing("event_value") | cells.means_nothing("event_value"))
    return F.when(given, times.trimmed(role("event_value")))
