"""`filter`: a condition in SQL over the columns of the file, parsed by Polars' SQL engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

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


class FilterError(ValueError):
    """The text is not a condition on a row; one line that says why."""


def parse_filter(text: str) -> pl.Expr:
    """The condition. Raises FilterError."""
    try:
        condition = pl.sql_expr(text)
        plan = json.loads(condition.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise FilterError(
            f"{reason}; write a condition on the columns of one row, such as rating >= 3.5 AND"
            " category <> 'gift'"
        ) from None
    if found := _beyond_the_row(plan):
        raise FilterError(f"it has {found}: only the columns of the row itself may be in it")
    return condition


def filter_columns(text: str) -> list[str]:
    """The columns that it names, each once. Raises FilterError."""
    names = list(dict.fromkeys(parse_filter(text).meta.root_names()))
    if not names:
        raise FilterError("it names no column, so that it is the same for every row")
    return names


def check_types(text: str, types: Mapping[str, str]) -> None:
    """Raise FilterError unless it is a condition on columns of these types."""
    schema = {name: TYPES[kind] for name, kind in types.items()}
    try:
        found = pl.LazyFrame(schema=schema).select(kept=parse_filter(text)).collect_schema()
    except pl.exceptions.PolarsError as error:
        columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
        raise FilterError(
            f"{str(error).partition(chr(10))[0]}; the columns are {columns}"
        ) from None
    if found["kept"] != pl.Boolean:
        raise FilterError("it is not a condition: write a comparison, such as rating >= 3.5")


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
