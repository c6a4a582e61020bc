"""A filter in a batch job: it excludes items from lists, or users from segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.personalize.filters import (
    USER_TARGET,
    And,
    Expression,
    parse,
)
from batchrec_dagster.personalize.schemas import (
    FILTER_HISTORY,
    INTERACTIONS,
    ITEM_ID,
    ITEMS,
    USER_ID,
    USERS,
)

from ..engine.data import find_positions
from ..engine.serve import Exclude
from .condition_table import ConditionTable, Mask
from .event_types import UserItemPairs, index_event_types
from .group_data import ReadColumns, load_datasets
from .item_mask import ItemMask, combine_masks, group_lines


class JobFilter:
    """Which items, or users, a filter excludes from the answer to each input line."""

    def __init__(
        self,
        expression: str,
        read: ReadColumns,
        item_ids: Sequence[str],
        latest: int = FILTER_HISTORY,
    ) -> None:
        """Read the data that the filter needs.

        expression: the filter's expression, which CreateFilter has checked.
        read: reads columns of the group's datasets.
        item_ids: the model's items, in its order.
        latest: how many of a user's latest interactions of each event type count.

        Raises JobFailedError when a dataset that it needs is missing, or has changed so that the
        filter no longer fits.
        """
        self._expressions = parse(expression)
        frames = load_datasets(self._expressions, read)
        users, events = frames.get(USERS), frames.get(INTERACTIONS)
        self._users = ConditionTable(users[USER_ID], users) if users is not None else None
        self._event_types: ConditionTable | None = None
        if self._expressions[0].target == USER_TARGET:
            # The filter is for segments: it excludes users, and no items.
            self._event_types = index_event_types(events) if events is not None else None
            return
        items = frames.get(ITEMS)
        self._user_items = UserItemPairs(events, item_ids, latest) if events is not None else None
        self._item_mask = ItemMask(
            self._expressions,
            len(item_ids),
            _align_items(items, item_ids) if items is not None else pl.DataFrame(),
            self._user_items,
        )

    def exclude_for_users(self, user_ids: Sequence[str]) -> Exclude:
        """Return what excludes items from the scores of lines with users.

        user_ids: the user of each line.
        """
        users = self._users.find_rows(user_ids) if self._users is not None else None

        def evaluate_if(expression: Expression) -> Mask:
            if users is None or self._users is None:
                return np.zeros(len(user_ids), dtype=bool)
            return self._users.match(And(expression.users), users)

        group_of_line, groups = group_lines(self._expressions, len(user_ids), evaluate_if)
        pair_users = self._user_items.find_users(user_ids) if self._user_items is not None else None
        return self._item_mask.make_exclude(groups, group_of_line, pair_users)

    def exclude_for_items(self, lines: int) -> Exclude:
        """Return what excludes items from the scores of so many lines that ask for similar items.

        These lines have no user, and so no interactions, and no IF condition holds.
        """
        group_of_line, groups = group_lines(
            self._expressions, lines, lambda expression: np.zeros(lines, dtype=bool)
        )
        return self._item_mask.make_exclude(groups, group_of_line, None)

    def mask_users(self, user_ids: Sequence[str] | npt.NDArray[np.object_]) -> Mask:
        """Return which of the users may be in a segment."""
        included_masks: list[Mask] = []
        excluded_masks: list[Mask] = []
        for expression in self._expressions:
            table = self._event_types if expression.on_interactions else self._users
            # `load_datasets` has read every dataset of the expressions.
            assert table is not None
            mask = table.match(expression.where, table.find_rows(user_ids))
            masks = included_masks if expression.include else excluded_masks
            masks.append(mask)
        included, excluded = combine_masks(included_masks), combine_masks(excluded_masks)
        allowed = np.ones(len(user_ids), dtype=bool) if included is None else included
        return allowed if excluded is None else allowed & ~excluded


def _align_items(items: pl.DataFrame, item_ids: Sequence[str]) -> pl.DataFrame:
    """Return the columns of Items, with a row for each of `item_ids`.

    The cells of an id that Items lacks are null.
    """
    rows = pl.Series(find_positions(items[ITEM_ID], item_ids)).replace(-1, None)
    return items.select(pl.all().gather(rows))
