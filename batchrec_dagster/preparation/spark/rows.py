"""From cells of text to typed rows and their problems; see `layout` and `rules`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.preparation.layout import (
    BEFORE_1970,
    FILTER,
    FIRST_SENTINEL,
    NULL_ID,
    SENTINEL,
    TWO_DIGITS,
    YEAR_100,
    Layout,
    PreparationError,
    time_problem,
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
MAX_ID_LENGTH = 256
Reason = tuple[Column, str]
_PACKED, _IN_FILTER = " row", " in filter"
_NUMBER = r"^[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\z"


def parsed(cells: DataFrame, layout: Layout, rules: Rules) -> DataFrame:
    """ROW, user, item, timestamp, event_type, event_value of every row; PROBLEM, what is wrong with
    it but for its time; REASON, why it is left out if nothing is wrong with it."""
    none = F.lit(None).cast("string")
    problem = _first([*_problems(layout), *_type_problems(layout, rules)])
    value = _value("event_value", layout) if layout.event_value is not None else none
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
    problem = F.coalesce(
        F.col(PROBLEM),
        F.when(F.col(SECONDS).isNull(), time_problem(unit, timezone))
        .when((F.col(SECONDS) < YEAR_100) & F.lit("%Y" in unit), TWO_DIGITS)
        .when(F.col(SECONDS) < 0, BEFORE_1970)
        .when((F.col(SECONDS) == 0) | (F.col(SECONDS) >= FIRST_SENTINEL), SENTINEL),
    )
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
    """The cell of the role."""
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


def _problems(layout: Layout) -> Iterator[Reason]:
    """What is wrong with a row, but for its time; the first that holds counts."""
    user, item = role("user"), role("item")
    yield _missing(user), "no user"
    yield _missing(item), "no item"
    yield _null(user, layout) | _null(item, layout), NULL_ID
    too_long = (F.length(user) > MAX_ID_LENGTH) | (F.length(item) > MAX_ID_LENGTH)
    yield too_long, f"an id longer than {MAX_ID_LENGTH} characters"
    yield _broken(user) | _broken(item), "an id with a line break or a NUL in it"
    yield user.contains("\ufffd") | item.contains("\ufffd"), "an id that is not UTF-8 text"
    if layout.rating is not None:
        rating = role("rating")
        yield _missing(rating), "no rating"
        yield _typed(rating, "double").isNull(), "the rating is not a number"
        yield _null(rating, layout), "no rating"
    if layout.event_type is not None:
        event_type = role("event_type")
        yield _missing(event_type) | _null(event_type, layout), "no event type"
        yield _broken(event_type), "an event type with a line break or a NUL in it"
    if layout.event_value is not None:
        value = _value("event_value", layout)
        not_a_number = value.isNotNull() & _typed(value, "double").isNull()
        yield not_a_number, "the event value is not a number"
    if layout.timestamp is not None:
        time = role("timestamp")
        yield _missing(time) | _null(time, layout), "no timestamp"


def _type_problems(layout: Layout, rules: Rules) -> Iterator[Reason]:
    for name, kind in layout.types.items() if rules.filter else ():
        cell = role(FILTER + name)
        if kind != "string":
            yield ~_missing(cell) & _typed(cell, kind).isNull(), f"{name} is not of type {kind}"


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


def _missing(text: Column) -> Column:
    return text.isNull() | (F.length(times.trimmed(text)) == 0)


def _null(text: Column, layout: Layout) -> Column:
    return F.coalesce(F.trim(text).isin(list(layout.null_values)), F.lit(False))


def _value(name: str, layout: Layout) -> Column:
    trimmed = times.trimmed(role(name))
    return F.when((F.length(trimmed) > 0) & ~_null(role(name), layout), trimmed)


def _broken(text: Column) -> Column:
    return text.contains("\n") | text.contains("\r") | text.contains("\x00")
