"""A filter in a batch job: it excludes items from lists, or users from segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from batchrec_dagster.personalize.filter_expressions import list_placeholder_uses, parse_values
from batchrec_dagster.personalize.filter_grammar import (
    USER_TARGET,
    And,
    Expression,
    Literal,
    Variable,
    parse,
)
from batchrec_dagster.personalize.schemas import FILTER_HISTORY, INTERACTIONS, ITEMS, USER_ID, USERS

from ..learning.serving import Exclude
from .columns import Bindings, ColumnTable, Mask, RowIndexes, make_column
from .event_types import UserItemPairs, index_event_types
from .group_data import ReadColumns, load_datasets
from .item_mask import ItemMask, combine_masks
from .items import CurrentItemFields, align_items
from .line_groups import EvaluateIf, LineGroup, encode_distinct, group_lines

CACHED_VALUES = 4096
"""How many different `filterValues` are kept in parsed form."""


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
        frames, schemas = load_datasets(self._expressions, read)
        self._uses = list_placeholder_uses(self._expressions, schemas)
        self._names = list(dict.fromkeys(use.placeholder.name for use in self._uses))
        self._parse_texts = lru_cache(maxsize=CACHED_VALUES)(self._parse_texts_now)
        users, events = frames.get(USERS), frames.get(INTERACTIONS)
        self._users: ColumnTable | None = None
        if users is not None:
            columns = {name: make_column(cells) for name, cells in users.to_dict().items()}
            self._users = ColumnTable(users[USER_ID], columns)
        self._event_types: ColumnTable | None = None
        if self._expressions[0].target == USER_TARGET:
            # The filter is for segments: it excludes users, and no items.
            self._event_types = index_event_types(events) if events is not None else None
            return
        items = frames.get(ITEMS)
        self._user_items = UserItemPairs(events, item_ids, latest) if events is not None else None
        self._current = CurrentItemFields(self._expressions, items) if items is not None else None
        self._item_mask = ItemMask(
            self._expressions,
            len(item_ids),
            align_items(items, item_ids) if items is not None else {},
            self._user_items,
        )

    @property
    def excludes_history(self) -> bool:
        """Whether the filter excludes what users interacted with.

        It knows only their latest interactions. Whoever filters so drops the other ones too.
        """
        return any(not e.include and e.on_interactions for e in self._expressions)

    def find_problem(self, values: Mapping[str, str]) -> str | None:
        """Return why a line with these `filterValues` cannot be answered, or None if it can."""
        for use in self._uses:
            problem = use.problem(values.get(use.placeholder.name))
            if problem is not None:
                return problem
        return None

    def exclude_for_users(
        self, user_ids: Sequence[str], values: Sequence[Mapping[str, str]]
    ) -> Exclude:
        """Return what excludes items from the scores of lines with users.

        user_ids: the user of each line.
        values: the `filterValues` of each line.
        """
        users = self._users.find_rows(user_ids) if self._users is not None else None
        codes, bindings = self._encode(values)
        group_of_line, groups = self._group_lines(codes, bindings, users)
        pair_users = self._user_items.find_users(user_ids) if self._user_items is not None else None
        return self._item_mask.make_exclude(groups, group_of_line, pair_users)

    def exclude_for_items(
        self, current_item_ids: Sequence[str], values: Sequence[Mapping[str, str]]
    ) -> Exclude:
        """Return what excludes items from the scores of lines that ask for similar items.

        These lines have no user, and so no interactions, and no IF condition holds.

        current_item_ids: the item of each line.
        values: the `filterValues` of each line.
        """
        codes, bindings = self._encode(values)
        if self._current is not None and self._current.fields:
            keys = list(zip(current_item_ids, codes.tolist(), strict=True))
            codes, distinct_keys = encode_distinct(keys)
            item_bindings = self._current.find_bindings([item for item, _ in distinct_keys])
            bindings = [
                {**bindings[code], **fields}
                for (_, code), fields in zip(distinct_keys, item_bindings, strict=True)
            ]
        group_of_line, groups = self._group_lines(codes, bindings, None)
        return self._item_mask.make_exclude(groups, group_of_line, None)

    def mask_users(
        self, user_ids: Sequence[str] | npt.NDArray[np.object_], values: Mapping[str, str]
    ) -> Mask:
        """Return which of the users may be in the segment of a line with these `filterValues`."""
        _, (bindings,) = self._encode([values])
        included_masks: list[Mask] = []
        excluded_masks: list[Mask] = []
        for expression in self._expressions:
            table = self._event_types if expression.on_interactions else self._users
            # `load_datasets` has read every dataset of the expressions.
            assert table is not None
            mask = table.evaluate(expression.where, bindings, table.find_rows(user_ids))
            masks = included_masks if expression.include else excluded_masks
            masks.append(mask)
        included, excluded = combine_masks(included_masks), combine_masks(excluded_masks)
        allowed = np.ones(len(user_ids), dtype=bool) if included is None else included
        return allowed if excluded is None else allowed & ~excluded

    def _group_lines(
        self, codes: RowIndexes, bindings: Sequence[Bindings], users: RowIndexes | None
    ) -> tuple[RowIndexes, list[LineGroup]]:
        """Return each line's index in the groups, and the groups.

        users: each line's row in the Users dataset, or None without users.
        """
        evaluate_if = self._make_evaluate_if(users)
        return group_lines(self._expressions, codes, bindings, evaluate_if)

    def _make_evaluate_if(self, users: RowIndexes | None) -> EvaluateIf:
        def evaluate_if(expression: Expression, bindings: Bindings, lines: RowIndexes) -> Mask:
            if users is None or self._users is None:
                return np.zeros(len(lines), dtype=bool)
            return self._users.evaluate(And(expression.users), bindings, users[lines])

        return evaluate_if

    def _encode(self, values: Sequence[Mapping[str, str]]) -> tuple[RowIndexes, list[Bindings]]:
        """Return each line's index in the distinct bindings, and the distinct bindings."""
        if not self._names:
            return np.zeros(len(values), dtype=np.int64), [{}]
        texts = [tuple(line_values.get(name) for name in self._names) for line_values in values]
        codes, distinct_texts = encode_distinct(texts)
        return codes, [self._parse_texts(line_texts) for line_texts in distinct_texts]

    def _parse_texts_now(self, texts: tuple[str | None, ...]) -> Bindings:
        """Return the values of the placeholders. Results are cached, as many lines have the same.

        texts: the text of each placeholder in `_names`, or None where a line has none.
        """
        bindings: dict[Variable, tuple[Literal, ...]] = {}
        text_by_name = dict(zip(self._names, texts, strict=True))
        for use in self._uses:
            text = text_by_name[use.placeholder.name]
            if text is not None and use.problem(text) is None:
                bindings[use.placeholder] = parse_values(text) or ()
        return bindings
