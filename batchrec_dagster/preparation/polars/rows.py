"""From the cells of a row to its ids, its time, and what is wrong with it.

This is the only way to read a row of ratings, on this machine and on Spark.

Every cell is read as text and in one pass, so that each error has its line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from batchrec_dagster.preparation.layout import AUTO, EPOCH_UNITS, FILTER, Columns
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.cells import FLAW, ROW
from batchrec_dagster.preparation.polars.row_conditions import TYPES, parse_filter
from batchrec_dagster.preparation.row_problems import list_row_problems, list_time_problems
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    ERASED_USER,
    NOT_IN_FILTER,
    Rules,
)

# Columns of a parsed row, besides those of the roles.
# The number of the row's file.
FILE = "file"
# The row's time, in seconds since 1970.
SECONDS = "seconds"
# What is wrong with the row; null if it is good.
PROBLEM = "problem"
# Why the row is left out; null if it is kept.
REASON = "reason"
# In which form the row's time is written.
FORM = "form"

Reason = tuple[pl.Expr, str]
"""A condition on a row, and what it means if it holds."""

# The column that says whether the filter holds, if there is a filter.
IN_FILTER = "in filter"
NO_IDS = pl.Series("user", [], pl.String)
# The column with all others packed into it. No name in a header begins with a space.
_PACKED = " row"
_BLANKS = " \t"


def parse_rows(
    cells: pl.LazyFrame,
    columns: Columns,
    rules: Rules,
    unit: str,
    erased: pl.Series = NO_IDS,
    *,
    plain: bool = False,
) -> pl.LazyFrame:
    """ROW, user, item, SECONDS, event_type, event_value, PROBLEM and REASON of every row.

    This is how a row of ratings is read, on this machine and on Spark.

    cells: the cells of `Columns.wanted`, from one of the functions of `cells`.
    unit: how times are written, as in `Columns.time_form` but not `auto`.
    erased: the ids in the cells whose users were erased. Their rows have no time and no problem.
    plain: whether the file has nothing in it that an id must not have.

    event_type and event_value are text; they are null where there is none.
    """
    none = pl.lit(None, dtype=pl.String)
    seconds = pl.col(SECONDS)
    time_reasons = list_time_problems(seconds, seconds.is_null(), unit, columns)
    problem = choose_first_reason([*_list_row_problems(columns, plain=plain), *time_reasons])
    typed_columns = {
        name: parse_as(pl.col(FILTER + name), kind) for name, kind in columns.types.items()
    }
    time = times.parse_seconds(pl.col("timestamp"), unit, columns.timezone)
    if columns.time_form == AUTO and unit in EPOCH_UNITS:
        # It is a time in another form than those before it.
        time = pl.when(~times.is_compact(times.parse_epoch_number(pl.col("timestamp")))).then(time)
    problem = pl.coalesce(FLAW, problem)
    reason = pl.coalesce(PROBLEM, choose_first_reason(_list_reasons_by_rules(rules)))
    if len(erased):
        is_erased = is_of_erased_user(erased)
        time, problem = pl.when(~is_erased).then(time), pl.when(~is_erased).then(problem)
        reason = pl.when(is_erased).then(pl.lit(ERASED_USER)).otherwise(reason)
    return (
        evaluate_filter(cells, typed_columns, rules)
        .with_columns(time.alias(SECONDS))
        .with_columns(problem.alias(PROBLEM))
        .select(
            ROW,
            "user",
            "item",
            SECONDS,
            event_type=none if "event_type" not in columns.roles else pl.col("event_type"),
            event_value=none if "event_value" not in columns.roles else _trim_event_value(columns),
            problem=PROBLEM,
            reason=reason,
        )
    )


def is_of_erased_user(erased: pl.Series) -> pl.Expr:
    """Whether a row is of one of these users."""
    return pl.col("user").is_in(erased.implode()).fill_null(value=False)


def find_time_forms(
    cells: pl.LazyFrame, columns: Columns, erased: pl.Series = NO_IDS, *, plain: bool = False
) -> pl.LazyFrame:
    """ROW and FORM of the rows with nothing wrong, and a time in some form.

    The parameters are those of `parse_rows`.
    """
    if len(erased):
        cells = cells.filter(~is_of_erased_user(erased))
    problem = choose_first_reason(_list_row_problems(columns, plain=plain))
    return (
        cells.filter(pl.coalesce(FLAW, problem).is_null())
        .select(ROW, times.classify_form(pl.col("timestamp")).alias(FORM))
        .filter(pl.col(FORM).is_not_null())
    )


def read_error(name: str, error: object, rules: Rules) -> str:
    """What to say of rows of the file `name` that Polars cannot read, or not filter.

    error: what Polars raised, or the words of it.
    """
    # Polars shows the values that it could not convert, which may be ids of users.
    reason = re.sub(r" values: \[.*", " values", str(error).partition("\n")[0])
    if rules.filter is not None:
        return f"{name}: interactions.filter fails: {reason}"
    return f"{name} cannot be read: {reason}"


def evaluate_filter(
    cells: pl.LazyFrame, columns: Mapping[str, pl.Expr], rules: Rules
) -> pl.LazyFrame:
    """The cells, with IN_FILTER if there is a filter.

    columns: the columns that the filter names. Roles may have the same names.
    """
    if rules.filter is None:
        return cells
    # The cells are packed into one column meanwhile, so that the filter's columns can have their
    # own names, whatever the roles are called.
    filter_columns = [column.alias(name) for name, column in columns.items()]
    is_in_filter = parse_filter(rules.filter).fill_null(value=False)
    packed = cells.select(pl.struct(pl.all()).alias(_PACKED), *filter_columns)
    return packed.select(pl.col(_PACKED).struct.unnest(), is_in_filter.alias(IN_FILTER))


def parse_as(text: pl.Expr, kind: str) -> pl.Expr:
    """The cell as the type of `Columns.types`; null where it is missing or does not fit."""
    if kind == "string":
        return text
    trimmed = text.str.strip_chars(_BLANKS)
    if kind == "boolean":
        return trimmed.str.to_lowercase().replace_strict(
            {"true": True, "false": False}, default=None, return_dtype=pl.Boolean
        )
    number = trimmed.cast(TYPES[kind], strict=False)
    return number if kind == "long" else pl.when(number.is_finite()).then(number)


@dataclass(frozen=True)
class CellConditions:
    """The conditions of `list_row_problems`."""

    null_values: Sequence[str]

    def is_missing(self, role: str) -> pl.Expr:
        text = pl.col(role)
        return text.is_null() | (text.str.strip_chars(_BLANKS) == "")

    def means_nothing(self, role: str) -> pl.Expr:
        is_null_value = pl.col(role).str.strip_chars(" ").is_in(self.null_values)
        return is_null_value.fill_null(value=False)

    def is_longer(self, role: str, most: int) -> pl.Expr:
        return pl.col(role).str.len_chars() > most

    def is_not_of_type(self, role: str, kind: str) -> pl.Expr:
        return parse_as(pl.col(role), kind).is_null()

    def has_decimal_comma(self, role: str) -> pl.Expr:
        return pl.col(role).str.contains(r"^[ \t]*[-+0-9.]*,[0-9]+[ \t]*$")

    def has_line_break(self, role: str) -> pl.Expr:
        return pl.col(role).str.contains(r"[\n\r\x00]")

    def is_not_utf8(self, role: str) -> pl.Expr:
        return pl.col(role).str.contains("\ufffd", literal=True)


def _list_row_problems(columns: Columns, *, plain: bool) -> Iterator[Reason]:
    return list_row_problems(columns, CellConditions(columns.null_values), plain=plain)


def _list_reasons_by_rules(rules: Rules) -> Iterator[Reason]:
    if rules.min_rating is not None:
        yield parse_as(pl.col("rating"), "double") < rules.min_rating, BELOW_MIN_RATING
    if rules.filter is not None:
        yield ~pl.col(IN_FILTER), NOT_IN_FILTER


def choose_first_reason(reasons: Iterable[Reason]) -> pl.Expr:
    """The text of the first condition that holds; null where none does."""
    texts = [pl.when(condition).then(pl.lit(text)) for condition, text in reasons]
    return pl.coalesce(*texts, pl.lit(None, dtype=pl.String))


def _trim_event_value(columns: Columns) -> pl.Expr:
    """The event value without the blanks around it; null where it is missing."""
    cells = CellConditions(columns.null_values)
    is_given = ~(cells.is_missing("event_value") | cells.means_nothing("event_value"))
    return pl.when(is_given).then(pl.col("event_value").str.strip_chars(_BLANKS))


# How many bad rows are named.
EXAMPLES = 5

Write = Callable[[pl.DataFrame], None]


@dataclass
class RowFindings:
    """What was found in the rows."""

    rows: int = 0

    left_out: dict[str, int] = field(default_factory=dict)
    """How many rows are left out for each reason, in the order of the reasons' words."""

    examples: list[dict[str, Any]] = field(default_factory=list)
    """The first bad rows: FILE, ROW and PROBLEM."""

    earliest: int | None = None
    """The first time of a good row, in seconds since 1970."""

    latest: int | None = None

    erased_users: set[str] = field(default_factory=set)
    """The ids of users who were erased and have rows."""


def inspect_rows(rows: pl.LazyFrame, write: Write | None = None) -> RowFindings:
    """What is found in parsed rows with FILE.

    write: is given the rows that are kept, part by part, in their order.

    Raises PolarsError where the file cannot be read.
    """
    findings = RowFindings()
    left_out: Counter[str | None] = Counter()

    def inspect_part(part: pl.DataFrame) -> None:
        findings.rows += part.height
        part_left_out = dict(part.get_column(REASON).value_counts().iter_rows())
        left_out.update(part_left_out)
        if ERASED_USER in part_left_out:
            of_erased = part.filter(pl.col(REASON) == ERASED_USER)
            findings.erased_users.update(of_erased.get_column("user").unique())
        is_bad = part.get_column(PROBLEM).is_not_null()
        if is_bad.any() and len(findings.examples) < EXAMPLES:
            bad = part.filter(is_bad).head(EXAMPLES - len(findings.examples))
            findings.examples += bad.select(FILE, ROW, PROBLEM).to_dicts()
        seconds = part.filter(~is_bad).get_column(SECONDS)
        extremes: list[Any] = [findings.earliest, findings.latest, seconds.min(), seconds.max()]
        extremes = [time for time in extremes if time is not None]
        findings.earliest = min(extremes, default=None)
        findings.latest = max(extremes, default=None)
        if write is not None:
            write(part.filter(pl.col(REASON).is_null()))

    rows.sink_batches(inspect_part, maintain_order=True)
    left_out.pop(None, None)
    findings.left_out = dict(sorted((str(reason), count) for reason, count in left_out.items()))
    return findings
