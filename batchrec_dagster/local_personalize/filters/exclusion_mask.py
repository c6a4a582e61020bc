"""Takes what a filter forbids out of the scores of a chunk of lines."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from batchrec_dagster.local_personalize.filters.columns import Column, Given, Mask, Rows, holds
from batchrec_dagster.local_personalize.filters.tables import Int32, UserItems
from batchrec_dagster.local_personalize.learning.serving import Float32, Forbid
from batchrec_dagster.personalize.filter_grammar import (
    Expression,
    Literal,
    Placeholder,
    Variable,
    comparisons,
)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Case:
    """What placeholders and CurrentItem stand for, and which expressions count (one flag each)."""

    given: Given
    counts: tuple[bool, ...]


def coded(keys: Sequence[K]) -> tuple[Rows, list[K]]:
    """The distinct keys, and which of them each line has."""
    distinct: dict[K, int] = {}
    codes = [distinct.setdefault(key, len(distinct)) for key in keys]
    return np.array(codes, dtype=np.int64), list(distinct)


def same(codes: Rows) -> Iterator[tuple[int, Rows]]:
    """Each code, and the positions at which it stands, ascending."""
    order = np.argsort(codes, kind="stable")
    for lines in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(lines):
            yield int(codes[lines[0]]), lines


def cases(
    expressions: Sequence[Expression],
    codes: Rows,
    given: Sequence[Given],
    holds: Callable[[Expression, Given, Rows], Mask],
) -> tuple[Rows, list[Case]]:
    """The distinct cases, and which of them each line is.

    Line i has the values `given[codes[i]]`; `holds` says for which of some lines the IF condition
    of an expression holds.
    """
    conditional = [number for number, e in enumerate(expressions) if e.users]
    if not conditional:
        return codes, [Case(values, (True,) * len(expressions)) for values in given]
    flags = np.ones((len(codes), len(expressions)), dtype=np.int64)
    for number in conditional:
        expression = expressions[number]
        if not any(isinstance(o, Placeholder) for c in expression.users for o in c.operands):
            flags[:, number] = holds(expression, {}, np.arange(len(codes)))
            continue
        for code, lines in same(codes):
            flags[lines, number] = holds(expression, given[code], lines)
    distinct, of_line = np.unique(np.column_stack([codes, flags]), axis=0, return_inverse=True)
    found = [Case(given[code], tuple(map(bool, counts))) for code, *counts in distinct.tolist()]
    return of_line.reshape(-1), found


CACHED_BYTES = 32 << 20

_NO_PAIRS = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)


class Forbidding:
    """Expressions with ItemID, over a model's items."""

    def __init__(
        self,
        expressions: Sequence[Expression],
        n_items: int,
        items: Mapping[str, Column],
        had: UserItems | None,
    ) -> None:
        """`items` are columns in the model's order, `had` is what users had."""
        self._expressions = expressions
        self._n_items = n_items
        self._items = items
        self._had = had
        self._of_kind: dict[tuple[bool, bool], list[int]] = {}
        for number, expression in enumerate(expressions):
            kind = (expression.include, expression.on_interactions)
            self._of_kind.setdefault(kind, []).append(number)
        self._variables = [
            [
                operand
                for comparison in comparisons(e.where)
                for operand in comparison.operands
                if isinstance(operand, Variable)
            ]
            for e in expressions
        ]
        kept = 16 + CACHED_BYTES // max(1, n_items)
        self._mask = lru_cache(maxsize=kept)(self._find_mask)

    def forbid(self, cases: Sequence[Case], of_line: Rows, users: Rows | None) -> Forbid:
        """For lines that are these cases, of users with these indexes of `had`."""

        def forbid(part: slice, scores: Float32) -> None:
            for case, lines in same(of_line[part]):
                pairs = _NO_PAIRS
                if self._had is not None and users is not None:
                    pairs = self._had.pairs(users[part][lines])
                first, last = int(lines[0]), int(lines[-1]) + 1
                if last - first == len(lines):
                    self._apply(cases[case], scores[first:last], *pairs)
                else:
                    block = scores[lines]
                    self._apply(cases[case], block, *pairs)
                    scores[lines] = block

        return forbid

    def _apply(self, case: Case, scores: Float32, lines: Rows, items: Int32, rows: Rows) -> None:
        """Within the lines of one case; pair i is of line `lines[i]` and item `items[i]`."""
        excluded, included = (
            self._over_items(case, include=False),
            self._over_items(case, include=True),
        )
        excluded_pairs = self._over_pairs(case, rows, include=False)
        included_pairs = self._over_pairs(case, rows, include=True)
        if included is None and included_pairs is None:
            forbidden = excluded
        else:
            forbidden = np.ones(self._n_items, dtype=bool) if included is None else ~included
            if excluded is not None:
                forbidden = forbidden | excluded
        if forbidden is not None and forbidden.any():
            kept = included_pairs
            if kept is not None and excluded is not None:
                kept = kept & ~excluded[items]
            saved = None if kept is None else scores[lines[kept], items[kept]]
            # Faster than a mask, and finite scores stay as they are.
            scores += np.where(forbidden, np.float32(-np.inf), np.float32(0))
            if kept is not None:
                scores[lines[kept], items[kept]] = saved
        if excluded_pairs is not None:
            scores[lines[excluded_pairs], items[excluded_pairs]] = -np.inf

    def _over_items(self, case: Case, *, include: bool) -> Mask | None:
        """The items that any expression of that kind on Items names; None when none counts."""
        found: Mask | None = None
        for number in self._numbers(case, include=include, on_interactions=False):
            given = case.given
            key = tuple((o, given[o]) for o in self._variables[number] if o in given)
            mask = self._mask(number, key)
            found = mask if found is None else found | mask
        return found

    def _over_pairs(self, case: Case, rows: Rows, *, include: bool) -> Mask | None:
        """The pairs that any expression of that kind on Interactions names; None as above."""
        found: Mask | None = None
        for number in self._numbers(case, include=include, on_interactions=True):
            mask = np.zeros(len(rows), dtype=bool)
            if self._had is not None and len(rows):
                where = self._expressions[number].where
                mask = holds(where, self._had.columns, case.given, rows)
            found = mask if found is None else found | mask
        return found

    def _numbers(self, case: Case, *, include: bool, on_interactions: bool) -> list[int]:
        of_kind = self._of_kind.get((include, on_interactions), [])
        return [number for number in of_kind if case.counts[number]]

    def _find_mask(
        self, number: int, given: tuple[tuple[Variable, tuple[Literal, ...]], ...]
    ) -> Mask:
        return holds(self._expressions[number].where, self._items, dict(given))
