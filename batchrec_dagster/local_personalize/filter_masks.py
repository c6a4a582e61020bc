"""Masks of the items or users that a batch job's filter allows in lists or segments.

Each expression of a filter becomes a mask. The matches of all INCLUDE expressions are united, and
then the matches of all EXCLUDE expressions are removed.

Source: developer guide, "Filter expressions". Only the latest interactions of each user and event
type count, by default 100. The case of event types does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix, vstack

from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.conditions import find_matches
from batchrec_dagster.personalize.filters import And, Condition, Expression, list_fields, parse

from .engine.data import (
    ROWS_AT_ONCE,
    Float32,
    Ids,
    Int32,
    Int64,
    find_positions,
    list_distinct_texts,
    split_rows,
    starts_of,
    string_series,
)
from .engine.serve import Exclude
from .imported_rows import ReadColumns

Mask = npt.NDArray[np.bool_]
"""A flag for each item, user, line or pair."""

_KEYS = {schemas.ITEMS: schemas.ITEM_ID, schemas.USERS: schemas.USER_ID}

_EVENT_COLUMNS = (schemas.USER_ID, schemas.ITEM_ID, schemas.TIMESTAMP, schemas.EVENT_TYPE)


def read_attributes(dataset_type: str, fields: Sequence[str], read: ReadColumns) -> pl.DataFrame:
    """Return the ids and the given fields of the group's items or users.

    If an item or a user was imported several times, its last row counts.

    Raises JobFailedError if the dataset has no data.
    """
    key = _KEYS[dataset_type]
    rows = read(dataset_type, list(dict.fromkeys([key, *fields])), pl.LazyFrame.collect)
    return rows.unique(key, keep="last", maintain_order=True)


def match_ids(condition: Condition, table: pl.DataFrame, ids: pl.Series) -> Mask:
    """Return a mask of the ids that have a row which meets the condition.

    table: rows with distinct ids in the first column.
    """
    rows = pl.DataFrame({" id": ids}).join(
        table,
        left_on=" id",
        right_on=table.columns[0],
        how="left",
        # With coalesce=False, an id without a row has null in the table's id column, too.
        coalesce=False,
        maintain_order="left",
    )
    return find_matches(condition, rows).to_numpy()


def mask_users(expression: str, read: ReadColumns, user_ids: Sequence[str] | Ids) -> Mask:
    """Return a mask of the users that a filter on users allows in segments.

    Raises JobFailedError if a dataset that the filter needs has no data.
    """
    expressions, tables = _read_tables(expression, read)
    if any(part.on_interactions for part in expressions):
        columns = (schemas.USER_ID, schemas.EVENT_TYPE)
        tables[schemas.INTERACTIONS] = read(schemas.INTERACTIONS, columns, _list_event_types)
    ids = string_series(user_ids)
    included, excluded = np.zeros((2, len(ids)), bool)
    for part in expressions:
        table = tables[schemas.INTERACTIONS if part.on_interactions else schemas.USERS]
        mask = included if part.include else excluded
        mask |= match_ids(part.where, table, ids)
    if not any(part.include for part in expressions):
        included[:] = True
    return included & ~excluded


class ItemFilter:
    """A filter on items, which excludes items from the list of each line."""

    def __init__(
        self,
        expression: str,
        read: ReadColumns,
        item_ids: Sequence[str] | Ids,
        latest: int,
    ) -> None:
        """Read the data that the filter needs, and find what its expressions match.

        expression: the filter's expression, which CreateFilter has checked.
        item_ids: the model's items, in the model's order.
        latest: the number of a user's latest interactions of each event type that count.

        Raises JobFailedError if a dataset that the filter needs has no data.
        """
        expressions, tables = _read_tables(expression, read)
        self._users = tables.get(schemas.USERS)
        self._parts: list[_Part] = []
        ids = string_series(item_ids)
        self._event_users = pl.Series(dtype=pl.String)
        if any(part.on_interactions for part in expressions):
            find_events = partial(_EventSets.find, item_ids=ids, latest=latest)
            events = read(schemas.INTERACTIONS, _EVENT_COLUMNS, find_events)
            self._event_users = events.user_ids
        for part in expressions:
            if part.on_interactions:
                self._parts.append(_Part(part, events.match(part.where)))
            else:
                self._parts.append(_Part(part, match_ids(part.where, tables[schemas.ITEMS], ids)))

    @property
    def excludes_history(self) -> bool:
        """Whether the filter excludes all items of the user's events, of any event type.

        The filter knows only the latest interactions. Clients that use such a filter remove the
        items of older interactions from the lists afterwards.
        """
        return any(
            isinstance(part.matches, csr_matrix) and bool(part.matches.data.all())
            for part in self._parts
            if not (part.expression.include or part.expression.users)
        )

    def exclude_for(self, user_ids: Sequence[str | None]) -> Exclude:
        """Return a function that excludes items from the scores of the given lines.

        user_ids: the user of each line, or None for a line without a user. Such a line has no
            interactions and meets no IF condition.
        """
        ids = pl.Series(list(user_ids), dtype=pl.String)
        applies = [self._find_lines(part.expression, ids) for part in self._parts]
        users = find_positions(self._event_users, ids)
        has_includes = any(part.expression.include for part in self._parts)

        def exclude(block: slice, scores: Float32) -> None:
            included = np.zeros(scores.shape if has_includes else (0, 0), bool)
            has_include = np.zeros(len(scores), bool)
            for part, lines_it_applies_to in zip(self._parts, applies, strict=True):
                lines = np.flatnonzero(lines_it_applies_to[block])
                cells = part.find_cells(lines, users[block])
                if part.expression.include:
                    included[cells] = True
                    has_include[lines] = True
                else:
                    scores[cells] = -np.inf
            if has_includes:
                scores[has_include[:, None] & ~included] = -np.inf

        return exclude

    def _find_lines(self, expression: Expression, user_ids: pl.Series) -> Mask:
        """Return a mask of the lines with a user that meets the expression's IF condition."""
        if not expression.users:
            return np.ones(len(user_ids), bool)
        assert self._users is not None
        return match_ids(And(expression.users), self._users, user_ids)


class _Part(NamedTuple):
    """An expression of a filter on items, and its matches."""

    expression: Expression
    matches: Mask | csr_matrix
    """A mask of shape (items,), or of shape (users, items) for an expression on interactions."""

    def find_cells(self, lines: Int64, users: Int32) -> tuple[np.ndarray, ...]:
        """Return the index of the matching cells in the scores, which have shape (lines, items).

        lines: the lines that the expression applies to.
        users: the index in `matches` of each line's user, for all lines of the scores.
        """
        if not isinstance(self.matches, csr_matrix):
            return np.ix_(lines, np.flatnonzero(self.matches))
        pairs = self.matches[users[lines]].tocoo()
        return lines[pairs.row[pairs.data]], pairs.col[pairs.data]


class _EventSets(NamedTuple):
    """The event types of each pair of a user and an item."""

    user_ids: pl.Series
    """The users who have events."""
    types: list[str]
    """The distinct event types, in lower case."""
    sets: csr_matrix
    """The set of each pair's event types, with a bit for each type, of shape (users + 1, items).

    The last row is empty. It is the row of users without events, who have the index -1.
    """

    @classmethod
    def find(cls, rows: pl.LazyFrame, item_ids: pl.Series, latest: int) -> _EventSets:
        """Return the event types of all pairs in interactions.

        The strings of the rows are never in memory all at once.

        rows: the columns USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE of Interactions.
        item_ids: the model's items. Rows with other items are left out.
        latest: the number of latest rows of each user and event type that count.
        """
        rows = rows.drop_nulls(schemas.EVENT_TYPE)
        user_ids = list_distinct_texts(rows, schemas.USER_ID)
        texts = list_distinct_texts(rows, schemas.EVENT_TYPE)
        coded = rows.select(
            schemas.TIMESTAMP,
            user=_encode(schemas.USER_ID, user_ids),
            item=_encode(schemas.ITEM_ID, item_ids),
            type=_encode(schemas.EVENT_TYPE, texts),
        ).collect(engine="streaming")
        lower_case = [text.lower() for text in texts]
        types = list(dict.fromkeys(lower_case))
        codes = np.array([types.index(text) for text in lower_case], np.int32)
        coded = coded.with_columns(type=pl.Series(codes[coded["type"].to_numpy()]))
        lengths = np.bincount(coded["user"].to_numpy(), minlength=len(user_ids))
        sets = [
            _find_sets(coded, users, len(item_ids), latest)
            for users in split_rows(starts_of(lengths), ROWS_AT_ONCE)
        ]
        no_events = csr_matrix((1, len(item_ids)), dtype=np.int32)
        return cls(user_ids, types, vstack([*sets, no_events], format="csr"))

    def match(self, condition: Condition) -> csr_matrix:
        """Return a mask of the pairs with event types that meet the condition, shaped as `sets`."""
        # A dataset has at most MAX_EVENT_TYPES types, so there are few sets.
        sets = [
            [name for code, name in enumerate(self.types) if number >> code & 1]
            for number in range(1 << len(self.types))
        ]
        table = pl.DataFrame(
            {schemas.EVENT_TYPE: sets}, schema={schemas.EVENT_TYPE: pl.List(pl.String)}
        )
        is_match = find_matches(condition, table).to_numpy()
        pairs = self.sets
        return csr_matrix(
            (is_match[pairs.data], pairs.indices, pairs.indptr), shape=pairs.shape, copy=False
        )


def _encode(column: str, values: pl.Series) -> pl.Expr:
    """Return, for each text in a column, its index in `values`; null if `values` lacks the text."""
    return pl.col(column).cast(pl.Enum(values), strict=False).to_physical().cast(pl.Int32)


def _list_event_types(rows: pl.LazyFrame) -> pl.DataFrame:
    """Return the users who have events, each with a list of the event types in lower case."""
    types = pl.col(schemas.EVENT_TYPE).str.to_lowercase().unique()
    events = rows.drop_nulls(schemas.EVENT_TYPE)
    return events.group_by(schemas.USER_ID).agg(types).collect(engine="streaming")


def _read_tables(
    expression: str, read: ReadColumns
) -> tuple[tuple[Expression, ...], dict[str, pl.DataFrame]]:
    """Return the filter's expressions, and the items and users that they use, by dataset type."""
    expressions = parse(expression)
    fields: dict[str, list[str]] = {}
    for dataset_type, column in sorted(list_fields(expressions)):
        fields.setdefault(dataset_type, []).append(column)
    return expressions, {
        dataset_type: read_attributes(dataset_type, columns, read)
        for dataset_type, columns in fields.items()
        if dataset_type in _KEYS
    }


def _find_sets(coded: pl.DataFrame, users: slice, n_items: int, latest: int) -> csr_matrix:
    """Return the rows of `_EventSets.sets` for a range of users.

    coded: the columns TIMESTAMP, and user, item and type as numbers. The item is null if the model
        lacks it.
    latest: the number of latest rows of each user and event type that count.
    """
    is_of_users = pl.col("user").is_between(users.start, users.stop, closed="left")
    events = (
        _select_latest(coded.filter(is_of_users), latest)
        .drop_nulls("item")
        .select("user", "item", "type")
        .unique()
    )
    # The sum of distinct bits is their union.
    bits = np.int32(1) << events["type"].to_numpy()
    pairs = events["user"].to_numpy() - users.start, events["item"].to_numpy()
    return csr_matrix((bits, pairs), shape=(users.stop - users.start, n_items))


def _select_latest(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    """Return the latest `limit` rows of each user and event type. The first row wins a tie."""
    if rows.height <= limit:
        return rows
    is_over_limit = pl.len().over("user", "type") > limit
    latest = (
        rows.filter(is_over_limit)
        .sort(schemas.TIMESTAMP, descending=True, maintain_order=True)
        .group_by("user", "type", maintain_order=True)
        .head(limit)
    )
    return pl.concat([rows.filter(~is_over_limit), latest.select(rows.columns)])
