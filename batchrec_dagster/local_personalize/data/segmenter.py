"""Answers the lines of batch segment jobs: users, by an item or by the attributes of items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from batchrec_dagster.personalize import formats
from batchrec_dagster.personalize.conditions import check_condition, find_matches
from batchrec_dagster.personalize.filters import (
    FilterExpressionError,
    iterate_comparisons,
    parse_attributes,
)
from batchrec_dagster.personalize.schemas import ITEM_ID, ITEMS, Schema
from batchrec_dagster.storage.progress import Progress

from ..engine.data import Ids, Int32, Interactions, find_positions
from ..engine.segments import SegmentModel
from ..filters.condition_table import Mask
from ..filters.group_data import ReadColumns
from .batch_lines import InputLine, LineAnswerer

UserIndexes = Int32
"""Indexes into the users of the interactions."""

USERS_AT_ONCE = 32 << 20
"""How many users are held in memory for the segments of several lines: 128 MiB."""


ItemPositions = Int32
"""Positions in a model's items."""


@dataclass(frozen=True)
class ItemAttributes:
    """The Items dataset, over the items that a model knows. Values are compared as in filters."""

    schema: Schema
    """The schema of the Items dataset."""
    read: ReadColumns
    """Reads columns of the group's datasets."""
    item_ids: Ids
    """The model's items, in its order."""

    def find_items(self, expression: str) -> ItemPositions:
        """Return the items that match the expression.

        Raises FilterExpressionError if it is wrong.
        """
        condition = parse_attributes(expression)
        check_condition(condition, ITEMS, {ITEMS: self.schema})
        columns = [comparison.field.column for comparison in iterate_comparisons(condition)]
        rows = self.read(ITEMS, list(dict.fromkeys([ITEM_ID, *columns])))
        # A later row of an item replaces the earlier ones.
        rows = rows.unique(ITEM_ID, keep="last", maintain_order=True)
        positions = pl.Series(find_positions(rows[ITEM_ID], self.item_ids)).replace(-1, None)
        matching = find_matches(condition, rows.select(pl.all().gather(positions)))
        return np.flatnonzero(matching.to_numpy()).astype(np.int32)


class SegmentQuery(NamedTuple):
    """A line that can be answered, and the items whose users it asks for."""

    line: InputLine
    items: ItemPositions


@dataclass(frozen=True)
class Segmenter(LineAnswerer):
    """A model with the current interactions and the job's options."""

    model: SegmentModel
    interactions: Interactions
    num_results: int
    attributes: ItemAttributes | None
    """Finds items by their attributes, for aws-item-attribute-affinity; None for other recipes."""
    log: Callable[[str], None]
    checkpoint: Callable[[], None]
    """Raises if the job must stop."""

    def _answer_lines(self, lines: Sequence[InputLine]) -> Iterator[str]:
        queries = [self._make_query(line) for line in lines]
        valid_queries = [query for query in queries if not isinstance(query, str)]
        segments = self._find_segments(valid_queries)
        for line, query in zip(lines, queries, strict=True):
            if isinstance(query, str):
                yield formats.format_segment_line(line.content, [], error=f"User error: {query}")
            else:
                yield formats.format_segment_line(line.content, next(segments))

    def _make_query(self, line: InputLine) -> SegmentQuery | str:
        """Return the query of a line, or why it cannot be answered."""
        if line.problem is not None:
            return line.problem
        if self.attributes is None:
            item = line.content[formats.ITEM_FIELD]
            items = find_positions(self.model.item_ids, [item])
            if items[0] < 0:
                return f"the solution version does not know item {item}"
            return SegmentQuery(line, items)
        expression = line.content[formats.ITEM_ATTRIBUTES]
        try:
            items = self.attributes.find_items(expression)
        except FilterExpressionError as error:
            return str(error)
        if not len(items):
            return f"no known item matches {expression}"
        return SegmentQuery(line, items)

    def _find_segments(self, queries: Sequence[SegmentQuery]) -> Iterator[list[str]]:
        """Yield the ids of the users in each segment, best first."""
        size = min(self.num_results, len(self.interactions.user_ids))
        queries_at_once = max(1, USERS_AT_ONCE // max(1, size))
        for start in range(0, len(queries), queries_at_once):
            for users in self._find_users(queries[start : start + queries_at_once], size):
                yield self.interactions.user_ids[users].tolist()

    def _find_users(self, queries: Sequence[SegmentQuery], size: int) -> list[UserIndexes]:
        """Return the users of each segment.

        size: how many users a segment has at most.
        """
        return self.model.list_users(
            [query.items for query in queries],
            self.interactions,
            size,
            users=self._allowed_users,
            checkpoint=self._make_report(len(queries), int(self._allowed_users.sum())),
        )

    @cached_property
    def _allowed_users(self) -> Mask:
        """Which users may be in a segment."""
        if self.filter is None:
            return np.ones(len(self.interactions.user_ids), dtype=bool)
        return self.filter.mask_users(self.interactions.user_ids)

    def _make_report(self, segment_count: int, user_count: int) -> Callable[[int], None]:
        """Return what is called with the number of users that were scored since the last call."""
        progress = Progress(f"users scored for {segment_count} segments", user_count, self.log)

        def report(count: int) -> None:
            progress.add(count)
            self.checkpoint()

        return report
