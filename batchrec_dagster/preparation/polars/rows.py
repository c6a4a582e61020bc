"""The parsing of a row's cells to its ids, its time and its problem.

Every cell is text, and all cells are read in one pass, so that each error has its line. The local
engine and the workers of Spark read rows with `parse_rows`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from batchrec_dagster.preparation.file_form import AUTO, BLANKS, FILTER, Columns
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.row_conditions import parse_as, parse_filter
from batchrec_dagster.preparation.polars.row_problems import (
    FORM,
    SECONDS,
    Problem,
    choose_first,
    is_missing,
    list_row_problems,
    list_time_problems,
    means_nothing,
)
from batchrec_dagster.preparation.polars.row_table import FLAW, ROW
from batchrec_dagster.preparation.row_rules import BELOW_MIN_RATING, NOT_IN_FILTER, RowRules

# Columns of a parsed row, besides SECONDS and the columns of the roles.
# The number of the row's file.
FILE = "file"
# The problem of the row; null if the row is good.
PROBLEM = "problem"
# The reason for leaving out the row; null if the row is kept.
REASON = "reason"

# The column that says whether the filter holds, if there is a filter.
IN_FILTER = "in filter"
NO_IDS = pl.Series("user", [], pl.String)
# The column into which all other columns are packed. No name in a header begins with a space.
_PACKED = " row"


def parse_rows(
    cells: pl.LazyFrame, columns: Columns, rules: RowRules, unit: str, *, plain: bool = False
) -> pl.LazyFrame:
    """Return ROW, user, item, SECONDS, event_type, event_value, PROBLEM and REASON of every row.

    cells: ROW, FLAW, and the cells of `Columns.wanted` as text.
    unit: the form of the times: a value of `Columns.time_form` other than `auto`.
    plain: whether the file has no character that an id must not have.

    event_type and event_value are text. They are null if `columns` has no such role.
    """
    none = pl.lit(None, dtype=pl.String)
    filter_columns = {
        name: parse_as(pl.col(FILTER + name), kind) for name, kind in columns.types.items()
    }
    form = none
    if columns.time_form == AUTO:
        form = times.classify_form(pl.col("timestamp"))
    problems = [*list_row_problems(columns, plain=plain), *list_time_problems(columns, unit)]
    problem = pl.coalesce(FLAW, choose_first(problems))
    return (
        evaluate_filter(cells, filter_columns, rules)
        .with_columns(
            times.parse_seconds(pl.col("timestamp"), unit, columns.timezone).alias(SECONDS),
            form.alias(FORM),
        )
        .with_columns(problem.alias(PROBLEM))
        .select(
            ROW,
            "user",
            "item",
            SECONDS,
            event_type=pl.col("event_type") if "event_type" in columns.roles else none,
            event_value=_trim_event_value(columns) if "event_value" in columns.roles else none,
            problem=PROBLEM,
            reason=pl.coalesce(PROBLEM, choose_first(_list_reasons_by_rules(rules))),
        )
    )


def find_time_forms(cells: pl.LazyFrame, columns: Columns, *, plain: bool) -> pl.LazyFrame:
    """Return ROW and FORM of the good rows with a time in a known form.

    A row is good here if it has no flaw, and no problem of `list_row_problems`.

    The parameters are described in `parse_rows`.
    """
    problem = choose_first(list_row_problems(columns, plain=plain))
    return (
        cells.filter(pl.coalesce(FLAW, problem).is_null())
        .select(ROW, times.classify_form(pl.col("timestamp")).alias(FORM))
        .filter(pl.col(FORM).is_not_null())
    )


def is_of_erased_user(erased: pl.Series, column: str = "user") -> pl.Expr:
    """Return whether a row belongs to an erased user.

    erased: the ids of erased users.
    column: the column with the ids of users.
    """
    return pl.col(column).is_in(erased.implode()).fill_null(value=False)


def leave_out_erased(rows: pl.LazyFrame, erased: pl.Series) -> pl.LazyFrame:
    """Return the rows without the rows of erased users.

    These rows are left out before rows are checked for problems.

    erased: the ids of erased users.
    """
    return rows.filter(~is_of_erased_user(erased)) if len(erased) else rows


def describe_read_error(name: str, error: Exception, row_filter: str | None = None) -> str:
    """Return a message about rows of the file `name` that Polars cannot read or filter.

    error: the error that Polars raised.
    row_filter: the filter of the rows, if any. With a filter, the message blames the filter.
    """
    # Polars shows the values that it could not convert, which may be ids of users.
    reason = re.sub(r" values: \[.*", " values", str(error).partition("\n")[0])
    if row_filter is not None:
        return f"{name}: interactions.filter fails: {reason}"
    return f"{name} cannot be read: {reason}"


def evaluate_filter(
    cells: pl.LazyFrame, columns: Mapping[str, pl.Expr], rules: RowRules
) -> pl.LazyFrame:
    """Return the cells, with IN_FILTER if there is a filter.

    columns: an expression for each column that the filter names, by the column's name. A column may
    have the same name as a role.
    """
    if rules.filter is None:
        return cells
    # The cells are packed into one column for a while, so that the filter's columns can have their
    # own names even if a role has the same name.
    filter_columns = [column.alias(name) for name, column in columns.items()]
    is_in_filter = parse_filter(rules.filter).fill_null(value=False)
    packed = cells.select(pl.struct(pl.all()).alias(_PACKED), *filter_columns)
    return packed.select(pl.col(_PACKED).struct.unnest(), is_in_filter.alias(IN_FILTER))


def _list_reasons_by_rules(rules: RowRules) -> Iterator[Problem]:
    if rules.min_rating is not None:
        yield parse_as(pl.col("rating"), "double") < rules.min_rating, BELOW_MIN_RATING
    if rules.filter is not None:
        yield ~pl.col(IN_FILTER), NOT_IN_FILTER


def _trim_event_value(columns: Columns) -> pl.Expr:
    """Return the event value without the blanks around it; null where it is missing."""
    is_given = ~(is_missing("event_value") | means_nothing("event_value", columns.null_values))
    return pl.when(is_given).then(pl.col("event_value").str.strip_chars(BLANKS))


# The number of bad rows that are described.
EXAMPLES = 5

Write = Callable[[pl.DataFrame], None]


@dataclass
class RowFindings:
    """The counts and problems that were found in the rows."""

    rows: int = 0

    left_out: dict[str, int] = field(default_factory=dict)
    """The number of rows that are left out for each reason, sorted by the text of the reason."""

    examples: list[dict[str, Any]] = field(default_factory=list)
    """The first bad rows: FILE, ROW and PROBLEM."""

    fatal: dict[str, Any] | None = None
    """The first row with a problem that is an error even if bad rows are skipped."""


def inspect_rows(
    rows: pl.LazyFrame, write: Write | None = None, fatal_problems: Set[str] = frozenset()
) -> RowFindings:
    """Return the counts and the problems of parsed rows.

    rows: the parsed rows, with the column FILE.
    write: the function that gets the rows that are kept, part by part, in their order.
    fatal_problems: the problems that are an error even if only one row has them.

    Raises PolarsError if the file cannot be read.
    """
    findings = RowFindings()
    left_out: Counter[str] = Counter()

    def inspect_part(part: pl.DataFrame) -> None:
        findings.rows += part.height
        counts = part.get_column(REASON).drop_nulls().value_counts()
        left_out.update(dict(counts.iter_rows()))
        bad = part.filter(pl.col(PROBLEM).is_not_null()).select(FILE, ROW, PROBLEM)
        findings.examples += bad.head(EXAMPLES - len(findings.examples)).to_dicts()
        if findings.fatal is None and not fatal_problems.isdisjoint(counts.get_column(REASON)):
            is_fatal = pl.col(PROBLEM).is_in(list(fatal_problems))
            findings.fatal = bad.filter(is_fatal).row(0, named=True)
        if write is not None:
            write(part.filter(pl.col(REASON).is_null()))

    rows.sink_batches(inspect_part, maintain_order=True)
    findings.left_out = dict(sorted(left_out.items()))
    return findings
