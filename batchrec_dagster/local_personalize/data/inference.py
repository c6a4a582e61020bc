"""Answers the lines of a batch inference job in order; a bad line gets an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from batchrec_dagster.local_personalize.data.batch_lines import Answerer, Request
from batchrec_dagster.local_personalize.filters.job import JobFilter
from batchrec_dagster.local_personalize.learning.interactions import Interactions, positions
from batchrec_dagster.local_personalize.learning.models import AnyModel
from batchrec_dagster.local_personalize.learning.related import RelatedItemsModel
from batchrec_dagster.local_personalize.learning.serving import Recommended, UserModel
from batchrec_dagster.local_personalize.recipes import (
    PERSONALIZED_RANKING,
    RELATED_ITEMS,
    Output,
    Recipe,
)
from batchrec_dagster.personalize.batch_files import (
    ITEM_FIELD,
    ITEM_LIST,
    USER_FIELD,
    inference_line,
)

# The items of one answer, best first, and their scores if the recipe has any.
Answer = tuple[list[str], list[float] | None]


@dataclass(frozen=True)
class Recommender(Answerer):
    """A model with the current interactions and the job's options."""

    recipe: Recipe
    model: AnyModel
    interactions: Interactions | None  # None for related items
    num_results: int
    filter: JobFilter | None
    v2_lines: bool = False

    def _lines(self, requests: Sequence[Request]) -> Iterator[str]:
        problems = [request.problem or self._filter_problem(request) for request in requests]
        valid = [r for r, problem in zip(requests, problems, strict=True) if problem is None]
        answers = self._answers(valid)
        for request, problem in zip(requests, problems, strict=True):
            if problem is not None:
                yield inference_line(request.echo, [], error=problem)
            elif self.v2_lines:
                yield self._v2_line(request, *next(answers))
            else:
                yield inference_line(request.echo, *next(answers))

    def _v2_line(self, request: Request, items: list[str], scores: list[float] | None) -> str:
        """The line with reasons; the last fifth of a filtered list are placeholders.

        Source: developer guide, "Recommendation reasons". It does not show the member's name in
        a line, nor how many items are placeholders.
        """
        placeholders = max(1, len(items) // 5) if self.filter and items else 0
        scored = len(items) - placeholders
        reasons: list[list[str]] = [[] for _ in range(scored)]
        reasons += [["Popular item"]] * placeholders
        return inference_line(request.echo, items, (scores or [])[:scored], reasons=reasons)

    def _filter_problem(self, request: Request) -> str | None:
        problem = self.filter.problem(request.values) if self.filter else None
        return problem and f"User error: {problem}"

    def _answers(self, requests: Sequence[Request]) -> Iterator[Answer]:
        if self.recipe.type == PERSONALIZED_RANKING:
            return self._rank(requests)
        if self.recipe.type == RELATED_ITEMS:
            return self._similar_items(requests)
        return self._recommend(requests)

    def _recommend(self, requests: Sequence[Request]) -> Iterator[Answer]:
        assert isinstance(self.model, UserModel)
        assert self.interactions is not None
        users = [request.echo[USER_FIELD] for request in requests]
        values = [request.values for request in requests]
        exclude = self.filter.mask_for_users(users, values) if self.filter else None
        most = min(self.num_results, len(self.model.item_ids))
        return self._unpack(
            self.model.recommend(users, self.interactions, most, exclude=exclude),
        )

    def _similar_items(self, requests: Sequence[Request]) -> Iterator[Answer]:
        assert isinstance(self.model, RelatedItemsModel)
        items = [request.echo[ITEM_FIELD] for request in requests]
        values = [request.values for request in requests]
        exclude = self.filter.mask_for_items(items, values) if self.filter else None
        most = min(self.num_results, len(self.model.item_ids))
        return self._unpack(self.model.similar(items, most, exclude=exclude))

    def _rank(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Each line's list, complete; unknown items last, in input order, with score 0.

        An item that is listed twice is ranked once.
        """
        assert isinstance(self.model, UserModel)
        assert self.interactions is not None
        users = [request.echo[USER_FIELD] for request in requests]
        values = [request.values for request in requests]
        lists = [list(dict.fromkeys(request.echo[ITEM_LIST])) for request in requests]
        flat = positions(self.model.item_ids, [item for items in lists for item in items])
        at_by_line = np.split(flat, np.cumsum([len(items) for items in lists])[:-1])
        exclude = self.filter.mask_for_users(users, values) if self.filter else None
        ranked = self._unpack(
            self.model.rank(
                users, [at[at >= 0] for at in at_by_line], self.interactions, exclude=exclude
            )
        )
        for items, at, (known, scores) in zip(lists, at_by_line, ranked, strict=True):
            unknown = [item for item, place in zip(items, at, strict=True) if place < 0]
            yield known + unknown, (scores or []) + [0.0] * len(unknown)

    def _unpack(self, chunks: Iterator[Recommended]) -> Iterator[Answer]:
        item_ids, scored = self.model.item_ids, self.recipe.output == Output.SCORED_ITEMS
        for chunk in chunks:
            counts = (chunk.items >= 0).sum(axis=1)  # short lists are padded
            for row, scores, count in zip(chunk.items, chunk.scores, counts, strict=True):
                items = item_ids[row[:count]].tolist()
                yield items, scores[:count].tolist() if scored else None
