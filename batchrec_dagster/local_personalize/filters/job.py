"""A filter in a batch job: masks over items for inference, over users for segments.

Conditions that do not depend on the user are evaluated once over all items, for each distinct set
of `filterValues`. A user's own items are looked up for a chunk of users at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.local_personalize.filters.columns import (
    Bindings,
    Mask,
    Rows,
    Table,
    make_column,
)
from batchrec_dagster.local_personalize.filters.exclusion_mask import (
    ExclusionMask,
    encode,
    group_lines,
)
from batchrec_dagster.local_personalize.filters.tables import (
    CurrentItems,
    Read,
    UserItems,
    align_items,
    load_datasets,
    user_event_types,
)
from batchrec_dagster.local_personalize.learning.serving import Exclude
from batchrec_dagster.personalize.datasets import FILTER_HISTORY
from batchrec_dagster.personalize.filter_expressions import parse_values, placeholder_uses
from batchrec_dagster.personalize.filter_grammar import (
    USER_TARGET,
    And,
    Expression,
    Literal,
    Variable,
    parse,
)
from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS, USER_ID, USERS

CACHED_VALUES = 4096


class JobFilter:
    """Which items, or users, a filter excludes from the answer to each input line."""

    def __init__(
        self, expression: str, read: Read, item_ids: Sequence[str], latest: int = FILTER_HISTORY
    ) -> None:
        """`expression` has passed CreateFilter; `item_ids` are the model's, in its order. Of a
        user's interactions of an event type, only the latest count.

        Raises JobFailedError when a dataset that it needs is missing, or has changed so that the
        filter no longer fits.
        """
        self._expressions = parse(expression)
        frames = load_datasets(self._expressions, read)
        is_string = {
            (dataset_type, name): dtype == pl.String
            for dataset_type, frame in frames.items()
            for name, dtype in frame.schema.items()
        }
        self._uses = placeholder_uses(self._expressions, is_string)
        self._names = list(dict.fromkeys(use.placeholder.name for use in self._uses))
        self._parse_bindings = lru_cache(maxsize=CACHED_VALUES)(self._bindings_of)
        users, events = frames.get(USERS), frames.get(INTERACTIONS)
        self._users: Table | None = None
        if users is not None:
            columns = {name: make_column(cells) for name, cells in users.to_dict().items()}
            self._users = Table(users[USER_ID], columns)
        self._event_types: Table | None = None
        if self._expressions[0].target == USER_TARGET:
            self._event_types = user_event_types(events) if events is not None else None
            return
        items = frames.get(ITEMS)
        self._user_items = UserItems(events, item_ids, latest) if events is not None else None
        self._current = CurrentItems(self._expressions, items) if items is not None else None
        self._mask = ExclusionMask(
            self._expressions,
            len(item_ids),
            align_items(items, item_ids) if items is not None else {},
            self._user_items,
        )

    def problem(self, values: Mapping[str, str]) -> str | None:
        """Why a line with these `filterValues` cannot be answered; None when it can."""
        for use in self._uses:
            problem = use.problem(values.get(use.placeholder.name))
            if problem is not None:
                return problem
        return None

    def mask_for_users(
        self, user_ids: Sequence[str], values: Sequence[Mapping[str, str]]
    ) -> Exclude:
        """The mask for lines with these users and `filterValues`, for `UserModel.recommend`."""
        users = self._users.rows(user_ids) if self._users is not None else None
        codes, bindings = self._encode(values)
        group_of_line, groups = group_lines(
            self._expressions, codes, bindings, self._if_evaluator(users)
        )
        owners = self._user_items.users(user_ids) if self._user_items is not None else None
        return self._mask.for_lines(groups, group_of_line, owners)

    def mask_for_items(
        self, current_item_ids: Sequence[str], values: Sequence[Mapping[str, str]]
    ) -> Exclude:
        """The mask for lines that ask for similar items: no user, so no interactions and no IF."""
        codes, bindings = self._encode(values)
        if self._current is not None and self._current.fields:
            codes, distinct = encode(list(zip(current_item_ids, codes.tolist(), strict=True)))
            of_items = self._current.bindings([item for item, _ in distinct])
            bindings = [
                {**bindings[code], **of_item}
                for (_, code), of_item in zip(distinct, of_items, strict=True)
            ]
        group_of_line, groups = group_lines(
            self._expressions, codes, bindings, self._if_evaluator(None)
        )
        return self._mask.for_lines(groups, group_of_line, None)

    def user_mask(
        self,
        user_ids: Sequence[str] | npt.NDArray[np.object_],
        values: Mapping[str, str] | None = None,
    ) -> Mask:
        """(len(user_ids),): which users may be in a segment, given a line's `filterValues`."""
        _, (bindings,) = self._encode([values or {}])
        included: Mask | None = None
        excluded = np.zeros(len(user_ids), dtype=bool)
        for expression in self._expressions:
            table = self._event_types if expression.on_interactions else self._users
            assert table is not None  # `load_datasets` reads every dataset of the expressions
            mask = table.matches(expression.where, bindings, table.rows(user_ids))
            if expression.include:
                included = mask if included is None else included | mask
            else:
                excluded |= mask
        return ~excluded if included is None else included & ~excluded

    def _if_evaluator(self, users: Rows | None) -> Callable[[Expression, Bindings, Rows], Mask]:
        def if_matches(expression: Expression, bindings: Bindings, lines: Rows) -> Mask:
            if users is None or self._users is None:
                return np.zeros(len(lines), dtype=bool)
            return self._users.matches(And(expression.users), bindings, users[lines])

        return if_matches

    def _encode(self, values: Sequence[Mapping[str, str]]) -> tuple[Rows, list[Bindings]]:
        """Each line's index in the distinct bindings, and the bindings."""
        if not self._names:
            return np.zeros(len(values), dtype=np.int64), [{}]
        codes, distinct = encode([tuple(line.get(name) for name in self._names) for line in values])
        return codes, [self._parse_bindings(texts) for texts in distinct]

    def _bindings_of(self, texts: tuple[str | None, ...]) -> Bindings:
        bindings: dict[Variable, tuple[Literal, ...]] = {}
        text_by_name = dict(zip(self._names, texts, strict=True))
        for use in self._uses:
            text = text_by_name[use.placeholder.name]
            if text is not None and use.problem(text) is None:
                bindings[use.placeholder] = parse_values(text) or ()
        return bindings
