"""A filter at work in a batch job.

What does not depend on the user is found once over all items, for each set of values that lines
bring. What a user had is looked up for a chunk of users at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.local_personalize.filters.columns import Given, Mask, Rows, Table, column_of
from batchrec_dagster.local_personalize.filters.exclusion_mask import Forbidding, cases, coded
from batchrec_dagster.local_personalize.filters.tables import (
    CurrentItems,
    Read,
    UserItems,
    load,
    placed,
    types_of_users,
)
from batchrec_dagster.local_personalize.learning.serving import Forbid
from batchrec_dagster.personalize.datasets import USER_ID
from batchrec_dagster.personalize.filter_expressions import read_values, uses
from batchrec_dagster.personalize.filter_grammar import (
    USER_TARGET,
    All,
    Expression,
    Literal,
    Variable,
    parse,
)
from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS, USERS

CACHED_VALUES = 4096


class JobFilter:
    """A filter in a batch job: what it forbids each input line to be answered with."""

    def __init__(self, expression: str, read: Read, item_ids: Sequence[str]) -> None:
        """`expression` has been checked; `item_ids` are the model's, in its order.

        Raises JobFailedError when a data set that it looks at is not there, or has changed so that
        the filter does not fit any more.
        """
        self._expressions = parse(expression)
        frames = load(self._expressions, read)
        strings = {
            (dataset_type, name): dtype == pl.String
            for dataset_type, frame in frames.items()
            for name, dtype in frame.schema.items()
        }
        self._uses = uses(self._expressions, strings)
        self._names = list(dict.fromkeys(use.placeholder.name for use in self._uses))
        self._read_values = lru_cache(maxsize=CACHED_VALUES)(self._values_of)
        users, events = frames.get(USERS), frames.get(INTERACTIONS)
        self._users: Table | None = None
        if users is not None:
            columns = {name: column_of(cells) for name, cells in users.to_dict().items()}
            self._users = Table(users[USER_ID], columns)
        self._types: Table | None = None
        if self._expressions[0].target == USER_TARGET:
            self._types = types_of_users(events) if events is not None else None
            return
        items = frames.get(ITEMS)
        self._had = UserItems(events, item_ids) if events is not None else None
        self._current = CurrentItems(self._expressions, items) if items is not None else None
        self._forbidding = Forbidding(
            self._expressions,
            len(item_ids),
            placed(items, item_ids) if items is not None else {},
            self._had,
        )

    def problem(self, values: Mapping[str, str]) -> str | None:
        """Why a line with these `filterValues` cannot be answered; None when it can."""
        for use in self._uses:
            problem = use.problem(values.get(use.placeholder.name))
            if problem is not None:
                return problem
        return None

    def forbid(self, user_ids: Sequence[str], values: Sequence[Mapping[str, str]]) -> Forbid:
        """For lines of these users and their `filterValues`, as `Model.recommend` takes it."""
        users = self._users.rows(user_ids) if self._users is not None else None
        codes, given = self._given(values)
        of_line, found = cases(self._expressions, codes, given, self._if_holds(users))
        had = self._had.users(user_ids) if self._had is not None else None
        return self._forbidding.forbid(found, of_line, had)

    def forbid_for_items(
        self, current_item_ids: Sequence[str], values: Sequence[Mapping[str, str]]
    ) -> Forbid:
        """For lines that ask for items like these: no user, hence no interactions and no IF."""
        codes, given = self._given(values)
        if self._current is not None and self._current.fields:
            # Lines share a case when their items and their values are the same.
            pairs, distinct = coded(list(zip(current_item_ids, codes.tolist(), strict=True)))
            currents = self._current.given([item for item, _ in distinct])
            given = [
                {**given[code], **current}
                for (_, code), current in zip(distinct, currents, strict=True)
            ]
            codes = pairs
        of_line, found = cases(self._expressions, codes, given, self._if_holds(None))
        return self._forbidding.forbid(found, of_line, None)

    def user_mask(
        self,
        user_ids: Sequence[str] | npt.NDArray[np.object_],
        values: Mapping[str, str] | None = None,
    ) -> Mask:
        """(len(user_ids),): who may be in a segment, given a line's `filterValues`."""
        _, (given,) = self._given([values or {}])
        included: Mask | None = None
        excluded = np.zeros(len(user_ids), dtype=bool)
        for expression in self._expressions:
            table = self._types if expression.on_interactions else self._users
            assert table is not None  # `load` has read what expressions look at
            found = table.holds(expression.where, given, table.rows(user_ids))
            if expression.include:
                included = found if included is None else included | found
            else:
                excluded |= found
        return ~excluded if included is None else included & ~excluded

    def _if_holds(self, users: Rows | None) -> Callable[[Expression, Given, Rows], Mask]:
        def holds(expression: Expression, given: Given, lines: Rows) -> Mask:
            if users is None or self._users is None:
                return np.zeros(len(lines), dtype=bool)
            return self._users.holds(All(expression.users), given, users[lines])

        return holds

    def _given(self, values: Sequence[Mapping[str, str]]) -> tuple[Rows, list[Given]]:
        """The distinct values of lines, and which of them each line has."""
        if not self._names:
            return np.zeros(len(values), dtype=np.int64), [{}]
        codes, distinct = coded([tuple(line.get(name) for name in self._names) for line in values])
        return codes, [self._read_values(raw) for raw in distinct]

    def _values_of(self, raw: tuple[str | None, ...]) -> Given:
        found: dict[Variable, tuple[Literal, ...]] = {}
        of_line = dict(zip(self._names, raw, strict=True))
        for use in self._uses:
            text = of_line[use.placeholder.name]
            if text is None or use.problem(text) is not None:
                continue
            found[use.placeholder] = read_values(text) or ()
        return found
