"""Which items a line for aws-item-attribute-affinity means: `ITEMS.genres = "Comedy" AND …`.

Source: developer guide, "Preparing input data for user segments": conditions of equality, joined
by AND, on any column of the Items dataset that is not textual. Keywords and names are taken in any
case, as in filters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.local_personalize.learning.interactions import Ids, positions
from batchrec_dagster.personalize.datasets import ITEM_ID
from batchrec_dagster.personalize.schemas import ITEMS, Field, Schema

Read = Callable[[str, Sequence[str]], pl.DataFrame]

_CONDITION = re.compile(
    r"""\s* items \s*\.\s* (?P<field>[a-z_]\w*) \s*=\s*
    (?: "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>(?:[^'\\]|\\.)*)' | (?P<bare>[\w.+-]+) ) \s*""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL | re.ASCII,
)
_AND = re.compile(r"AND\b", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class ItemAttributesError(ValueError):
    """The expression cannot be used; the message says why."""


class Condition(NamedTuple):
    """A field of the Items dataset, as it was spelt, and the value that it must have."""

    field: str
    value: str


def parse_conditions(expression: str) -> list[Condition]:
    """The conditions that AND joins. Raises ItemAttributesError."""
    conditions = []
    start = 0
    while found := _CONDITION.match(expression, start):
        value = found["bare"]
        if value is None:
            value = _ESCAPED.sub(r"\1", found["double"] or found["single"] or "")
        conditions.append(Condition(found["field"], value))
        start = found.end()
        if start == len(expression):
            return conditions
        joined = _AND.match(expression, start)
        if joined is None:
            break
        start = joined.end()
    raise ItemAttributesError(
        f"itemAttributes cannot be read from character {start + 1} on: it must be conditions such"
        ' as ITEMS.genres = "Comedy", joined by AND'
    )


def conditions(expression: str, schema: Schema) -> list[tuple[Field, pl.Expr]]:
    """The field of each condition, and whether a value of it fulfils it.

    Raises ItemAttributesError, also for what the schema of the Items dataset does not allow.
    """
    found = []
    for condition in parse_conditions(expression):
        field = schema.field(condition.field)
        if field is None:
            raise ItemAttributesError(f"the Items schema has no field {condition.field}")
        if field.textual:
            raise ItemAttributesError(f"{field.name} is textual: it cannot be an attribute")
        found.append((field, _equals(field, condition.value)))
    return found


class ItemAttributes:
    """The Items dataset as a model sees it."""

    def __init__(self, schema: Schema, read: Read, item_ids: Ids) -> None:
        """`read` gives the columns of the Items dataset, `item_ids` are the model's."""
        self._schema, self._read, self._item_ids = schema, read, item_ids
        self._items = cache(self._load)

    def find(self, expression: str) -> npt.NDArray[np.int32]:
        """Positions in the model's items of those that fulfil it. Raises ItemAttributesError."""
        found = np.ones(len(self._item_ids), dtype=bool)
        for field, equals in conditions(expression, self._schema):
            where, values = self._items(field.name)
            equal = values.select(equals).to_series().to_numpy()
            good = np.zeros(len(self._item_ids), dtype=bool)
            good[where[equal]] = True
            found &= good
        return np.flatnonzero(found).astype(np.int32)

    def _load(self, name: str) -> tuple[npt.NDArray[np.int32], pl.DataFrame]:
        """The field's values, and the position of the item that has each."""
        rows = self._read(ITEMS, list(dict.fromkeys([ITEM_ID, name])))
        rows = rows.unique(ITEM_ID, keep="last", maintain_order=True)  # a later row counts
        at = positions(self._item_ids, rows[ITEM_ID].to_list())
        known = at >= 0
        return at[known], rows.filter(pl.Series(known)).select(name)


def _equals(field: Field, value: str) -> pl.Expr:
    cell = pl.col(field.name)
    try:
        equal = _equal(field, cell, value)
    except ValueError:
        raise ItemAttributesError(f"{field.name} is {field.type}, {value!r} is not") from None
    return equal.fill_null(value=False)


def _equal(field: Field, cell: pl.Expr, value: str) -> pl.Expr:
    match field.type:
        case "string":
            return cell.str.split("|").list.contains(value)
        case "boolean":
            truths = {"true": True, "false": False}
            if value.lower() not in truths:
                raise ValueError(value)
            return cell == truths[value.lower()]
        case "int" | "long":
            whole = int(value)
            if not -(2**63) <= whole < 2**63:
                raise ValueError(value)
            return cell == whole
        case kind:
            number = float(value)
            if not math.isfinite(number):
                raise ValueError(value)
            return cell == pl.lit(number, dtype=pl.Float32 if kind == "float" else pl.Float64)
