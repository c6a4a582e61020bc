"""What a filter on items (ItemID) excludes from the scores of a model's items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, reduce

import numpy as np
import polars as pl

from batchrec_dagster.personalize.conditions import find_matches
from batchrec_dagster.personalize.filters import Expression

from ..engine.data import Float32, Int32
from ..engine.serve import Exclude
from .condition_table import Mask, RowIndexes
from .event_types import UserItemPairs

EvaluateIf = Callable[[Expression], Mask]
"""Returns which of all lines meet the IF condition of an expression."""

LineGroup = tuple[bool, ...]
"""Which expressions of the filter apply to the lines of a group: a flag for each."""


def group_positions(codes: RowIndexes) -> Iterator[tuple[int, RowIndexes]]:
    """Yield each distinct code with the ascending positions that have it."""
    order = np.argsort(codes, kind="stable")
    is_new_code = np.diff(codes[order]) != 0
    starts = np.flatnonzero(is_new_code) + 1
    for positions in np.split(order, starts):
        if len(positions):
            yield int(codes[positions[0]]), positions


def group_lines(
    expressions: Sequence[Expression], lines: int, evaluate_if: EvaluateIf
) -> tuple[RowIndexes, list[LineGroup]]:
    """Return each line's index in the groups, and the groups.

    lines: how many lines there are.
    """
    # Lines differ only in whether their users meet the IF conditions.
    applies = np.ones((lines, len(expressions)), dtype=np.int64)
    for number, expression in enumerate(expressions):
        if expression.users:
            applies[:, number] = evaluate_if(expression)
    distinct, group_of_line = np.unique(applies, axis=0, return_inverse=True)
    groups = [tuple(map(bool, flags)) for flags in distinct.tolist()]
    return group_of_line.reshape(-1), groups


# Of lines without a user: their positions, items and pairs.
_NO_PAIRS: tuple[RowIndexes, Int32, RowIndexes] = (
    np.zeros(0, np.int64),
    np.zeros(0, np.int32),
    np.zeros(0, np.int64),
)


def combine_masks(masks: Iterable[Mask]) -> Mask | None:
    """Return what is in any of the masks, or None without one."""
    masks = list(masks)
    return reduce(np.logical_or, masks) if masks else None


class ItemMask:
    """The expressions of a filter on items, applied to a model's items.

    Expressions on Items are evaluated over all items. Expressions on Interactions are evaluated
    only over the items that a line's user has interacted with: its pairs.
    """

    def __init__(
        self,
        expressions: Sequence[Expression],
        n_items: int,
        items: pl.DataFrame,
        user_items: UserItemPairs | None,
    ) -> None:
        """Prepare the masks, which are evaluated when a line first needs them.

        n_items: how many items the model has.
        items: the columns of Items, with a row for each of the model's items.
        user_items: the pairs of users and items, if an expression is on Interactions.
        """
        self._expressions = expressions
        self._n_items = n_items
        self._items = items
        self._user_items = user_items
        self._evaluate_items = cache(self._evaluate_items_now)

    def make_exclude(
        self, groups: Sequence[LineGroup], group_of_line: RowIndexes, users: RowIndexes | None
    ) -> Exclude:
        """Return the function that excludes items from the scores of these lines.

        group_of_line: for each line, the index of its group in `groups`.
        users: for each line, the index of its user in the pairs, or None without users.
        """

        def exclude(chunk: slice, scores: Float32) -> None:
            for number, lines in group_positions(group_of_line[chunk]):
                pairs = _NO_PAIRS
                if self._user_items is not None and users is not None:
                    pairs = self._user_items.find_pairs(users[chunk][lines])
                first, end = int(lines[0]), int(lines[-1]) + 1
                if end - first == len(lines):
                    self._exclude_in_group(groups[number], scores[first:end], *pairs)
                else:
                    group_scores = scores[lines]
                    self._exclude_in_group(groups[number], group_scores, *pairs)
                    scores[lines] = group_scores

        return exclude

    def _exclude_in_group(
        self,
        group: LineGroup,
        scores: Float32,
        lines: RowIndexes,
        items: Int32,
        pairs: RowIndexes,
    ) -> None:
        """Set the scores of excluded items to minus infinity.

        scores: (lines of the group, items of the model).
        lines, items, pairs: of each pair of a line's user and an item, the line's index in the
            group, the item's index in the model, and the index of the pair in `UserItemPairs`.
        """
        excluded = self._mask_items(group, include=False)
        included = self._mask_items(group, include=True)
        excluded_pairs = self._mask_pairs(group, pairs, include=False)
        included_pairs = self._mask_pairs(group, pairs, include=True)
        if included is None and included_pairs is None:
            masked = excluded
        else:
            # There is an INCLUDE, so that all other items are excluded.
            masked = np.ones(self._n_items, dtype=bool) if included is None else ~included
            if excluded is not None:
                masked = masked | excluded
        if masked is not None and masked.any():
            spared_pairs = included_pairs
            if spared_pairs is not None and excluded is not None:
                spared_pairs = spared_pairs & ~excluded[items]
            spared_scores = None
            if spared_pairs is not None:
                spared_scores = scores[lines[spared_pairs], items[spared_pairs]]
            # Faster than boolean indexing, and finite scores keep their exact value.
            scores += np.where(masked, np.float32(-np.inf), np.float32(0))
            if spared_pairs is not None:
                scores[lines[spared_pairs], items[spared_pairs]] = spared_scores
        if excluded_pairs is not None:
            scores[lines[excluded_pairs], items[excluded_pairs]] = -np.inf

    def _mask_items(self, group: LineGroup, *, include: bool) -> Mask | None:
        """Return the items that expressions on Items match, or None when none applies.

        include: whether INCLUDE expressions are meant, not EXCLUDE.
        """
        numbers = self._select_expressions(group, include=include, on_interactions=False)
        return combine_masks(map(self._evaluate_items, numbers))

    def _mask_pairs(self, group: LineGroup, pairs: RowIndexes, *, include: bool) -> Mask | None:
        """Return which pairs expressions on Interactions match, or None when none applies."""
        masks = []
        for number in self._select_expressions(group, include=include, on_interactions=True):
            if self._user_items is None or not len(pairs):
                masks.append(np.zeros(len(pairs), dtype=bool))
                continue
            masks.append(self._user_items.match(self._expressions[number].where, pairs))
        return combine_masks(masks)

    def _select_expressions(
        self, group: LineGroup, *, include: bool, on_interactions: bool
    ) -> list[int]:
        """Return the numbers of the expressions of this kind that apply to the group."""
        return [
            number
            for number, expression in enumerate(self._expressions)
            if group[number]
            and expression.include == include
            and expression.on_interactions == on_interactions
        ]

    def _evaluate_items_now(self, number: int) -> Mask:
        """Return which items match the expression with this number. Its results are cached."""
        return find_matches(self._expressions[number].where, self._items).to_numpy()
