"""Sets the scores of items that a filter excludes to -inf, for a chunk of input lines at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from batchrec_dagster.local_personalize.filters.columns import (
    Bindings,
    Column,
    Mask,
    Rows,
    matches,
)
from batchrec_dagster.local_personalize.filters.tables import Int32, UserItems
from batchrec_dagster.local_personalize.learning.serving import Exclude, Float32
from batchrec_dagster.personalize.filter_grammar import (
    Expression,
    Literal,
    Placeholder,
    Variable,
    comparisons,
)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class LineGroup:
    """Input lines with the same bindings, to which the same expressions apply."""

    bindings: Bindings
    applies: tuple[bool, ...]  # one flag for each expression


def encode(keys: Sequence[K]) -> tuple[Rows, list[K]]:
    """Each line's index in the distinct keys, and the distinct keys."""
    distinct: dict[K, int] = {}
    codes = [distinct.setdefault(key, len(distinct)) for key in keys]
    return np.array(codes, dtype=np.int64), list(distinct)


def positions_by_code(codes: Rows) -> Iterator[tuple[int, Rows]]:
    """Each code with its ascending positions."""
    order = np.argsort(codes, kind="stable")
    for lines in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(lines):
            yield int(codes[lines[0]]), lines


def group_lines(
    expressions: Sequence[Expression],
    codes: Rows,
    bindings: Sequence[Bindings],
    if_matches: Callable[[Expression, Bindings, Rows], Mask],
) -> tuple[Rows, list[LineGroup]]:
    """Each line's index in the distinct groups, and the groups.

    Line i has the bindings `bindings[codes[i]]`; `if_matches` gives the lines that meet an
    expression's IF condition.
    """
    conditional = [number for number, e in enumerate(expressions) if e.users]
    if not conditional:
        return codes, [LineGroup(values, (True,) * len(expressions)) for values in bindings]
    flags = np.ones((len(codes), len(expressions)), dtype=np.int64)
    for number in conditional:
        expression = expressions[number]
        if not any(isinstance(o, Placeholder) for c in expression.users for o in c.operands):
            flags[:, number] = if_matches(expression, {}, np.arange(len(codes)))
            continue
        for code, lines in positions_by_code(codes):
            flags[lines, number] = if_matches(expression, bindings[code], lines)
    distinct, group_of_line = np.unique(
        np.column_stack([codes, flags]), axis=0, return_inverse=True
    )
    groups = [
        LineGroup(bindings[code], tuple(map(bool, applies))) for code, *applies in distinct.tolist()
    ]
    return group_of_line.reshape(-1), groups


CACHED_BYTES = 32 << 20

_NO_PAIRS = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)


class ExclusionMask:
    """The expressions of a filter on items (ItemID), over a model's items."""

    def __init__(
        self,
        expressions: Sequence[Expression],
        n_items: int,
        items: Mapping[str, Column],
        user_items: UserItems | None,
    ) -> None:
        """`items` are the columns of Items in the model's order."""
        self._expressions = expressions
        self._n_items = n_items
        self._items = items
        self._user_items = user_items
        self._numbers_by_kind: dict[tuple[bool, bool], list[int]] = {}
        for number, expression in enumerate(expressions):
            kind = (expression.include, expression.on_interactions)
            self._numbers_by_kind.setdefault(kind, []).append(number)
        self._variables = [
            [
                operand
                for comparison in comparisons(e.where)
                for operand in comparison.operands
                if isinstance(operand, Variable)
            ]
            for e in expressions
        ]
        cached_masks = 16 + CACHED_BYTES // max(1, n_items)
        self._item_mask = lru_cache(maxsize=cached_masks)(self._find_item_mask)

    def for_lines(
        self, groups: Sequence[LineGroup], group_of_line: Rows, users: Rows | None
    ) -> Exclude:
        """The mask for lines of these groups, of users with these indexes in `user_items`."""

        def exclude(chunk: slice, scores: Float32) -> None:
            for group, lines in positions_by_code(group_of_line[chunk]):
                pairs = _NO_PAIRS
                if self._user_items is not None and users is not None:
                    pairs = self._user_items.pairs(users[chunk][lines])
                first, last = int(lines[0]), int(lines[-1]) + 1
                if last - first == len(lines):
                    self._apply(groups[group], scores[first:last], *pairs)
                else:
                    block = scores[lines]
                    self._apply(groups[group], block, *pairs)
                    scores[lines] = block

        return exclude

    def _apply(
        self, group: LineGroup, scores: Float32, lines: Rows, items: Int32, rows: Rows
    ) -> None:
        """Exclude within one group's lines; pair i is of line `lines[i]` and item `items[i]`."""
        excluded = self._over_items(group, include=False)
        included = self._over_items(group, include=True)
        excluded_pairs = self._over_pairs(group, rows, include=False)
        included_pairs = self._over_pairs(group, rows, include=True)
        if included is None and included_pairs is None:
            masked = excluded
        else:
            masked = np.ones(self._n_items, dtype=bool) if included is None else ~included
            if excluded is not None:
                masked = masked | excluded
        if masked is not None and masked.any():
            kept = included_pairs
            if kept is not None and excluded is not None:
                kept = kept & ~excluded[items]
            kept_scores = None if kept is None else scores[lines[kept], items[kept]]
            # Faster than boolean indexing, and finite scores keep their exact value.
            scores += np.where(masked, np.float32(-np.inf), np.float32(0))
            if kept is not None:
                scores[lines[kept], items[kept]] = kept_scores
        if excluded_pairs is not None:
            scores[lines[excluded_pairs], items[excluded_pairs]] = -np.inf

    def _over_items(self, group: LineGroup, *, include: bool) -> Mask | None:
        """The items that expressions on Items match; None when no such expression applies."""
        union: Mask | None = None
        bindings = group.bindings
        for number in self._numbers(group, include=include, on_interactions=False):
            key = tuple((o, bindings[o]) for o in self._variables[number] if o in bindings)
            mask = self._item_mask(number, key)
            union = mask if union is None else union | mask
        return union

    def _over_pairs(self, group: LineGroup, rows: Rows, *, include: bool) -> Mask | None:
        """The pairs that expressions on Interactions match; None when none applies."""
        union: Mask | None = None
        for number in self._numbers(group, include=include, on_interactions=True):
            mask = np.zeros(len(rows), dtype=bool)
            if self._user_items is not None and len(rows):
                where = self._expressions[number].where
                mask = matches(where, self._user_items.columns, group.bindings, rows)
            union = mask if union is None else union | mask
        return union

    def _numbers(self, group: LineGroup, *, include: bool, on_interactions: bool) -> list[int]:
        numbers = self._numbers_by_kind.get((include, on_interactions), [])
        return [number for number in numbers if group.applies[number]]

    def _find_item_mask(
        self, number: int, bindings: tuple[tuple[Variable, tuple[Literal, ...]], ...]
    ) -> Mask:
        return matches(self._expressions[number].where, self._items, dict(bindings))
