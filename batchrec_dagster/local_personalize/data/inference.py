"""Answers the lines of batch jobs in order, by items or by users; a bad line gets an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import polars as pl

from batchrec_dagster.personalize import batch_files
from batchrec_dagster.personalize.item_attributes import ItemAttributesError, typed_conditions
from batchrec_dagster.personalize.schemas import ITEM_ID, ITEMS, Schema
from batchrec_dagster.storage.progress import Progress

from ..filters.columns import Column, Mask, make_column
from ..filters.group_data import ReadColumns
from ..learning.interactions import Ids, Int32, Interactions, find_positions
from ..learning.models import AnyModel, BlendModel, SegmentationModel
from ..learning.related import RelatedItemsModel
from ..learning.serving import Exclude, RecommendedLists, UserModel
from ..recipes import PERSONALIZED_RANKING, RELATED_ITEMS, Output
from .batch_lines import InputLine, LineAnswerer

# The items of one answer, best first, and their scores if the recipe has any.
RankedItems = tuple[list[str], list[float] | None]


@dataclass(frozen=True)
class Recommender(LineAnswerer):
    """A model with the current interactions and the job's options."""

    model: AnyModel
    interactions: Interactions | None  # None for related items
    num_results: int
    v2_lines: bool = False

    def _answer_lines(self, requests: Sequence[InputLine]) -> Iterator[str]:
        problems = list(map(self.find_problem, requests))
        valid = [r for r, problem in zip(requests, problems, strict=True) if problem is None]
        answers = self._answers(valid)
        for request, problem in zip(requests, problems, strict=True):
            if problem is not None:
                yield batch_files.format_inference_line(
                    request.content, [], error=f"User error: {problem}"
                )
            elif self.v2_lines:
                yield self._v2_line(request, *next(answers))
            else:
                yield batch_files.format_inference_line(request.content, *next(answers))

    def _v2_line(self, request: InputLine, items: list[str], scores: list[float] | None) -> str:
        """The line with reasons; the last fifth of a filtered list are placeholders.

        Source: developer guide, "Recommendation reasons". It does not show the member's name in
        a line, nor how many items are placeholders.
        """
        placeholders = max(1, len(items) // 5) if self.filter and items else 0
        scored = len(items) - placeholders
        reasons = [["Exploration"] if item in self._new_ids else [] for item in items[:scored]]
        reasons += [["Popular item"]] * placeholders
        return batch_files.format_inference_line(
            request.content, items, (scores or [])[:scored], reasons=reasons
        )

    @cached_property
    def _new_ids(self) -> frozenset[str]:
        """The items with which nobody had interacted in the training."""
        if not isinstance(self.model, BlendModel) or self.model.new_items is None:
            return frozenset()
        return frozenset(self.model.item_ids[len(self.model.popularity) :])

    def _answers(self, requests: Sequence[InputLine]) -> Iterator[RankedItems]:
        if self.recipe.type == PERSONALIZED_RANKING:
            return self._rank(requests)
        if self.recipe.type == RELATED_ITEMS:
            return self._similar_items(requests)
        return self._recommend(requests)

    def _recommend(self, requests: Sequence[InputLine]) -> Iterator[RankedItems]:
        assert isinstance(self.model, UserModel)
        assert self.interactions is not None
        users, exclude = self._users(requests)
        most = min(self.num_results, len(self.model.item_ids))
        return self._unpack(self.model.recommend(users, self.interactions, most, exclude=exclude))

    def _users(self, requests: Sequence[InputLine]) -> tuple[list[str], Exclude | None]:
        """The user of each request, and the filter's mask for them."""
        users = [request.content[batch_files.USER_FIELD] for request in requests]
        values = [request.values for request in requests]
        return users, self.filter.exclude_for_users(users, values) if self.filter else None

    def _similar_items(self, requests: Sequence[InputLine]) -> Iterator[RankedItems]:
        assert isinstance(self.model, RelatedItemsModel)
        items = [request.content[batch_files.ITEM_FIELD] for request in requests]
        values = [request.values for request in requests]
        exclude = self.filter.exclude_for_items(items, values) if self.filter else None
        most = min(self.num_results, len(self.model.item_ids))
        return self._unpack(self.model.similar(items, most, exclude=exclude))

    def _rank(self, requests: Sequence[InputLine]) -> Iterator[RankedItems]:
        """Each line's list, complete; unknown items last, in input order, with score 0.

        An item that is listed twice is ranked once.
        """
        assert isinstance(self.model, UserModel)
        assert self.interactions is not None
        users, exclude = self._users(requests)
        lists = [
            list(dict.fromkeys(request.content[batch_files.ITEM_LIST])) for request in requests
        ]
        flat = find_positions(self.model.item_ids, [item for items in lists for item in items])
        at_by_line = np.split(flat, np.cumsum([len(items) for items in lists])[:-1])
        known_at = [at[at >= 0] for at in at_by_line]
        ranked = self._unpack(self.model.rank(users, known_at, self.interactions, exclude=exclude))
        for items, at, (known, scores) in zip(lists, at_by_line, ranked, strict=True):
            unknown = [item for item, place in zip(items, at, strict=True) if place < 0]
            yield known + unknown, (scores or []) + [0.0] * len(unknown)

    def _unpack(self, chunks: Iterator[RecommendedLists]) -> Iterator[RankedItems]:
        item_ids, scored = self.model.item_ids, self.recipe.output == Output.SCORED_ITEMS
        for chunk in chunks:
            counts = (chunk.items >= 0).sum(axis=1)  # short lists are padded
            for row, scores, count in zip(chunk.items, chunk.scores, counts, strict=True):
                items = item_ids[row[:count]].tolist()
                yield items, scores[:count].tolist() if scored else None


ItemPositions = Int32  # positions in the model's items
UserIndexes = Int32  # indexes into the users of the interactions

# Users held in memory for the segments of several lines: 128 MiB.
USERS_AT_ONCE = 32 << 20


class ItemAttributes:
    """The Items dataset, over the items that a model knows; values are equal as in filters."""

    def __init__(self, schema: Schema, read: ReadColumns, item_ids: Ids) -> None:
        """`item_ids` are the model's, in its order."""
        self._schema, self._read, self._item_ids = schema, read, item_ids
        self._column = cache(self._load)

    def find_items(self, expression: str) -> ItemPositions:
        """Positions in `item_ids` of the items that match. Raises ItemAttributesError."""
        matching = np.ones(len(self._item_ids), dtype=bool)
        for field, value in typed_conditions(expression, self._schema):
            matching &= self._column(field.name).compare("=", (value,), None)
        return np.flatnonzero(matching).astype(np.int32)

    def _load(self, name: str) -> Column:
        """The field's cells for each item of the model; null for one that the dataset lacks."""
        rows = self._read(ITEMS, list(dict.fromkeys([ITEM_ID, name])))
        rows = rows.unique(ITEM_ID, keep="last", maintain_order=True)  # a later row counts
        at = pl.Series(find_positions(rows[ITEM_ID], self._item_ids)).replace(-1, None)
        return make_column(rows[name].gather(at))


@dataclass(frozen=True)
class Segmenter(LineAnswerer):
    """A model with the current interactions and the job's options."""

    model: SegmentationModel
    interactions: Interactions
    num_results: int
    attributes: ItemAttributes | None  # for aws-item-attribute-affinity
    log: Callable[[str], None]
    checkpoint: Callable[[], None]

    def _answer_lines(self, requests: Sequence[InputLine]) -> Iterator[str]:
        queries = [self._query(request) for request in requests]
        segments = self._segments(
            [(q, r) for q, r in zip(queries, requests, strict=True) if not isinstance(q, str)]
        )
        for request, query in zip(requests, queries, strict=True):
            if isinstance(query, str):
                yield batch_files.format_segment_line(
                    request.content, [], error=f"User error: {query}"
                )
            else:
                yield batch_files.format_segment_line(request.content, next(segments))

    def _query(self, request: InputLine) -> ItemPositions | str:
        """The items of a line, or why it cannot be answered."""
        if (problem := self.find_problem(request)) is not None:
            return problem
        if self.attributes is None:
            item = request.content[batch_files.ITEM_FIELD]
            query = find_positions(self.model.item_ids, [item])
            return query if query[0] >= 0 else f"the solution version does not know item {item}"
        expression = request.content[batch_files.ITEM_ATTRIBUTES]
        try:
            query = self.attributes.find_items(expression)
        except ItemAttributesError as error:
            return str(error)
        return query if len(query) else f"no known item matches {expression}"

    def _segments(self, lines: Sequence[tuple[ItemPositions, InputLine]]) -> Iterator[list[str]]:
        size = min(self.num_results, len(self.interactions.user_ids))
        at_once = max(1, USERS_AT_ONCE // max(1, size))
        for start in range(0, len(lines), at_once):
            for users in self._top_users(lines[start : start + at_once], size):
                yield self.interactions.user_ids[users].tolist()

    def _top_users(
        self, lines: Sequence[tuple[ItemPositions, InputLine]], size: int
    ) -> list[UserIndexes]:
        """The segment of each line; lines with the same filter values are answered together."""
        groups: dict[frozenset[tuple[str, str]], list[int]] = {}
        for number, (_, request) in enumerate(lines):
            line_values = request.values if self.filter else {}
            groups.setdefault(frozenset(line_values.items()), []).append(number)
        best: dict[int, UserIndexes] = {}
        for values, numbers in groups.items():
            mask = self._user_mask(dict(values))
            segments = self.model.segment(
                [lines[number][0] for number in numbers],
                self.interactions,
                size,
                users=mask,
                checkpoint=self._step(len(numbers), int(mask.sum())),
            )
            best.update(zip(numbers, segments, strict=True))
        return [best[number] for number in range(len(lines))]

    def _user_mask(self, values: dict[str, str]) -> Mask:
        if self.filter is None:
            return np.ones(len(self.interactions.user_ids), dtype=bool)
        return self.filter.mask_users(self.interactions.user_ids, values)

    def _step(self, segments: int, users: int) -> Callable[[int], None]:
        progress = Progress(f"users scored for {segments} segments", users, self.log)

        def step(count: int) -> None:
            progress.add(count)
            self.checkpoint()

        return step
