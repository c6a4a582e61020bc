"""SQL conditions on a row, such as `interactions.filter`, parsed and checked by Polars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from batchrec_dagster.preparation.file_form import BLANKS

# The Polars type for each type of `Columns.types`.
TYPES: Mapping[str, pl.DataType] = {
    "string": pl.String(),
    "long": pl.Int64(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
}
# Descriptions of the nodes of Polars' plan that look at more than one row.
_NODES_BEYOND_THE_ROW = {
    "Agg": "an aggregate of all rows",
    "Explode": "a list taken apart",
    "Len": "a count of all rows",
    "Over": "a window over other rows",
    "SubPlan": "a query in it",
}


def parse_as(text: pl.Expr, kind: str) -> pl.Expr:
    """Return the cell as this type of `Columns.types`; null where it is missing or does not fit."""
    if kind == "string":
        return text
    trimmed = text.str.strip_chars(BLANKS)
    if kind == "boolean":
        return trimmed.str.to_lowercase().replace_strict(
            {"true": True, "false": False}, default=None, return_dtype=pl.Boolean
        )
    number = trimmed.cast(TYPES[kind], strict=False)
    return number if kind == "long" else pl.when(number.is_finite()).then(number)


class RowConditionError(ValueError):
    """The error of a text that is not a condition on a row.

    The message gives the reason in one line.
    """


def parse_filter(text: str) -> pl.Expr:
    """Return the condition as an expression.

    Raises RowConditionError if the text is not SQL, or looks at more than one row.
    """
    try:
        condition = pl.sql_expr(text)
        plan = json.loads(condition.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError):
        raise RowConditionError(
            f"{text!r} cannot be read: write a condition on the columns of one row, such as"
            " rating >= 3.5 AND category <> 'gift'"
        ) from None
    node = _find_node_beyond_the_row(plan)
    if node is not None:
        raise RowConditionError(f"it has {node}: use only columns of the row itself")
    return condition


def list_filter_columns(text: str) -> list[str]:
    """Return the distinct columns that the condition names.

    Raises RowConditionError if the text is not a condition on a row, or names no column.
    """
    names = list(dict.fromkeys(parse_filter(text).meta.root_names()))
    if not names:
        raise RowConditionError("it names no column, so it keeps either all rows or none")
    return names


def require_condition_on(text: str, types: Mapping[str, str]) -> None:
    """Raise RowConditionError unless the text is a condition on columns of the given types."""
    schema = {name: TYPES[kind] for name, kind in types.items()}
    try:
        result = pl.LazyFrame(schema=schema).select(kept=parse_filter(text)).collect_schema()
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
        raise RowConditionError(f"{reason}; the columns are {columns}") from None
    if result["kept"] != pl.Boolean:
        raise RowConditionError("it is not a condition: write a comparison, such as rating >= 3.5")


def _find_node_beyond_the_row(plan: Any) -> str | None:
    """Return a description of the plan's first part that looks at more than one row.

    plan: the parsed JSON of Polars' plan, or of a part.
    """
    if isinstance(plan, str):
        return _NODES_BEYOND_THE_ROW.get(plan)
    parts: list[Any] = []
    if isinstance(plan, list):
        parts = plan
    elif isinstance(plan, dict):
        # Column names and literal values are the user's words, not nodes of the plan.
        names = [name for name in plan if name not in ("Column", "Literal")]
        parts = [part for name in names for part in (name, plan[name])]
    for part in parts:
        words = _find_node_beyond_the_row(part)
        if words is not None:
            return words
    return None
