"""Diagnoses of rows: every cell is read as text, in one pass, so that each error has its line; and
`filter`, a condition in SQL over the columns, parsed by Polars' SQL engine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from batchrec_dagster.preparation.layout import FILTER, Layout, row_problems, time_problems
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.cells import FLAW, ROW, TEXT
from batchrec_dagster.preparation.rules import BELOW_MIN_RATING, NOT_IN_FILTER, Rules

# Columns of a parsed row, next to the roles': which file, the time, what is wrong with it (null
# where it is good), why it is not kept (null where it is), and what its time looks like.
FILE, SECONDS, PROBLEM, REASON, FORM = "file", "seconds", "problem", "reason", "form"

Reason = tuple[pl.Expr, str]
IN_FILTER = "in filter"
# No name in a header begins with a space.
_PACKED = " row"
_BLANKS = " \t"


def parse_rows(
    cells: pl.LazyFrame, layout: Layout, rules: Rules, unit: str, *, plain: bool = False
) -> pl.LazyFrame:
    """ROW, TEXT, user, item, SECONDS, event_type, event_value, PROBLEM and REASON of every row.

    This is how a row of ratings is read, on this machine and on Spark.

    cells: the cells of `Layout.roles`, from one of the functions of `cells`.
    unit: how times are written, as in `Layout.timestamp_unit` but not `auto`.
    plain: whether the file has nothing in it that an id must not have.

    event_type and event_value are text; they are null where the layout has none.
    """
    none = pl.lit(None, dtype=pl.String)
    seconds = pl.col(SECONDS)
    of_time = time_problems(seconds, seconds.is_null(), unit, layout.timezone)
    problem = first_reason([*_row_problems(layout, plain=plain), *of_time])
    typed_columns = {
        name: parse_as(pl.col(FILTER + name), kind) for name, kind in layout.types.items()
    }
    return (
        evaluate_filter(cells, typed_columns, rules)
        .with_columns(
            times.parse_seconds(pl.col("timestamp"), unit, layout.timezone).alias(SECONDS)
        )
        .with_columns(pl.coalesce(FLAW, problem).alias(PROBLEM))
        .select(
            ROW,
            TEXT,
            "user",
            "item",
            SECONDS,
            event_type=none if layout.event_type is None else pl.col("event_type"),
            event_value=none if layout.event_value is None else _value(layout),
            problem=PROBLEM,
            reason=pl.coalesce(PROBLEM, first_reason(_left_out(rules))),
        )
    )


def find_time_forms(cells: pl.LazyFrame, layout: Layout, *, plain: bool = False) -> pl.LazyFrame:
    """ROW, timestamp and FORM of the rows with nothing wrong, and a time in some form.

    The parameters are those of `parse_rows`.
    """
    problem = first_reason(_row_problems(layout, plain=plain))
    return (
        cells.filter(pl.coalesce(FLAW, problem).is_null())
        .select(ROW, "timestamp", times.classify_form(pl.col("timestamp")).alias(FORM))
        .filter(pl.col(FORM).is_not_null())
    )


def read_error(name: str, error: object, rules: Rules) -> str:
    """What to say of rows of the file `name` that Polars cannot read, or not filter.

    error: what Polars raised, or the words of it.
    """
    reason = str(error).partition("\n")[0]
    if rules.filter is not None:
        return f"{name}: interactions.filter fails: {reason}"
    return f"{name} cannot be read: {reason}"


def evaluate_filter(
    cells: pl.LazyFrame, columns: Mapping[str, pl.Expr], rules: Rules
) -> pl.LazyFrame:
    """The cells, and in IN_FILTER whether the filter holds, where there is one; `columns` are the
    filter's, by names that roles have too."""
    if rules.filter is None:
        return cells
    named = [column.alias(name) for name, column in columns.items()]
    holds = parse_filter(rules.filter).fill_null(value=False)
    return cells.select(pl.struct(pl.all()).alias(_PACKED), *named).select(
        pl.col(_PACKED).struct.unnest(), holds.alias(IN_FILTER)
    )


def parse_as(text: pl.Expr, kind: str) -> pl.Expr:
    """The cell as the type of `Layout.types`; null where it is missing or does not fit."""
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
    """The conditions of `row_problems`."""

    null_values: Sequence[str]

    def missing(self, role: str) -> pl.Expr:
        text = pl.col(role)
        return text.is_null() | (text.str.strip_chars(_BLANKS) == "")

    def means_nothing(self, role: str) -> pl.Expr:
        found = pl.col(role).str.strip_chars(" ").is_in(self.null_values)
        return found.fill_null(value=False)

    def longer(self, role: str, most: int) -> pl.Expr:
        return pl.col(role).str.len_chars() > most

    def not_a(self, role: str, kind: str) -> pl.Expr:
        return parse_as(pl.col(role), kind).is_null()

    def broken(self, role: str) -> pl.Expr:
        return pl.col(role).str.contains(r"[\n\r\x00]")

    def not_utf8(self, role: str) -> pl.Expr:
        return pl.col(role).str.contains("\ufffd", literal=True)


def _row_problems(layout: Layout, *, plain: bool) -> Iterator[Reason]:
    return row_problems(layout, CellConditions(layout.null_values), plain=plain)


def _left_out(rules: Rules) -> Iterator[Reason]:
    if rules.min_rating is not None:
        yield parse_as(pl.col("rating"), "double") < rules.min_rating, BELOW_MIN_RATING
    if rules.filter is not None:
        yield ~pl.col(IN_FILTER), NOT_IN_FILTER


def first_reason(reasons: Iterable[Reason]) -> pl.Expr:
    """The text of the first condition that holds; null where none does."""
    texts = [pl.when(condition).then(pl.lit(text)) for condition, text in reasons]
    return pl.coalesce(*texts, pl.lit(None, dtype=pl.String))


def _value(layout: Layout) -> pl.Expr:
    cells = CellConditions(layout.null_values)
    given = ~(cells.missing("event_value") | cells.means_nothing("event_value"))
    return pl.when(given).then(pl.col("event_value").str.strip_chars(_BLANKS))


EXAMPLES = 5

Write = Callable[[pl.DataFrame], None]


@dataclass
class RowFindings:
    """What was found in the rows: how many, how many left out by reason (in order of the reason),
    the first bad ones (FILE, ROW, TEXT and PROBLEM), the times of the good ones in seconds."""

    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    earliest: int | None = None
    latest: int | None = None


def inspect_rows(rows: pl.LazyFrame, write: Write | None = None) -> RowFindings:
    """Look at the parsed rows, and hand those that are kept to `write`, in order.

    Raises PolarsError where the file cannot be read.
    """
    looked = RowFindings()
    left_out: Counter[str | None] = Counter()

    def batch(part: pl.DataFrame) -> None:
        looked.rows += part.height
        left_out.update(dict(part.get_column(REASON).value_counts().iter_rows()))
        bad = part.get_column(PROBLEM).is_not_null()
        if bad.any() and len(looked.examples) < EXAMPLES:
            first = part.filter(bad).head(EXAMPLES - len(looked.examples))
            looked.examples += first.select(FILE, ROW, TEXT, PROBLEM).to_dicts()
        times = part.filter(~bad).get_column(SECONDS)
        found: list[Any] = [looked.earliest, looked.latest, times.min(), times.max()]
        known = [time for time in found if time is not None]
        looked.earliest, looked.latest = min(known, default=None), max(known, default=None)
        if write is not None:
            write(part.filter(pl.col(REASON).is_null()))

    rows.sink_batches(batch, maintain_order=True)
    left_out.pop(None, None)
    looked.left_out = dict(sorted((str(reason), count) for reason, count in left_out.items()))
    return looked


TYPES: Mapping[str, pl.DataType] = {
    "string": pl.String(),
    "long": pl.Int64(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
}
# What looks at more than the one row, by the names of Polars' own plan.
_BEYOND_THE_ROW = {
    "Agg": "an aggregate of all rows",
    "Explode": "a list taken apart",
    "Len": "a count of all rows",
    "Over": "a window over other rows",
    "SubPlan": "a query within it",
}


class RowConditionError(ValueError):
    """The text is not a condition on a row; one line that says why."""


def parse_filter(text: str) -> pl.Expr:
    """The condition. Raises FilterError."""
    try:
        condition = pl.sql_expr(text)
        plan = json.loads(condition.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RowConditionError(
            f"{reason}; write a condition on the columns of one row, such as rating >= 3.5 AND"
            " category <> 'gift'"
        ) from None
    if found := _beyond_the_row(plan):
        raise RowConditionError(f"it has {found}: only the columns of the row itself may be in it")
    return condition


def filter_columns(text: str) -> list[str]:
    """The columns that it names, each once. Raises FilterError."""
    names = list(dict.fromkeys(parse_filter(text).meta.root_names()))
    if not names:
        raise RowConditionError("it names no column, so that it is the same for every row")
    return names


def check_types(text: str, types: Mapping[str, str]) -> None:
    """Raise FilterError unless it is a condition on columns of these types."""
    schema = {name: TYPES[kind] for name, kind in types.items()}
    try:
        found = pl.LazyFrame(schema=schema).select(kept=parse_filter(text)).collect_schema()
    except pl.exceptions.PolarsError as error:
        columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
        raise RowConditionError(
            f"{str(error).partition(chr(10))[0]}; the columns are {columns}"
        ) from None
    if found["kept"] != pl.Boolean:
        raise RowConditionError("it is not a condition: write a comparison, such as rating >= 3.5")


def _beyond_the_row(plan: Any) -> str | None:
    if isinstance(plan, str):
        return _BEYOND_THE_ROW.get(plan)
    if isinstance(plan, list):
        return next((found for part in plan if (found := _beyond_the_row(part))), None)
    if isinstance(plan, dict):
        for key, part in plan.items():
            # Names and values are the user's.
            if key not in ("Column", "Literal") and (
                found := _BEYOND_THE_ROW.get(key) or _beyond_the_row(part)
            ):
                return found
    return None
