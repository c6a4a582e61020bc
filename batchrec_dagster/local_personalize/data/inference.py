"""The lines of a batch inference job: each answered in its place, the bad ones too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchrec_dagster.local_personalize.data.batch_lines import Request, Step, answer_lines
from batchrec_dagster.local_personalize.filters.job import JobFilter
from batchrec_dagster.local_personalize.learning.interactions import Interactions, positions
from batchrec_dagster.local_personalize.learning.model import (
    AnyModel,
    ItemModel,
    Recommended,
    UserModel,
)
from batchrec_dagster.local_personalize.recipes import (
    ITEM_ID,
    ITEM_LIST,
    PERSONALIZED_RANKING,
    RELATED_ITEMS,
    USER_ID,
    Recipe,
)
from batchrec_dagster.personalize.batch_inference import output_line

# The items of one answer, best first, and their scores if the recipe gives any.
Answer = tuple[list[str], list[float] | None]


@dataclass(frozen=True)
class Recommender:
    """A trained model with the data set of now, and what a job asks of it."""

    recipe: Recipe
    model: AnyModel
    interactions: Interactions | None  # related items are found without
    num_results: int
    filter: JobFilter | None

    def answer(self, source: Path, target: Path, step: Step) -> None:
        """Writes an output line for each line of `source` to `target`."""
        answer_lines(source, target, self.recipe, self._lines, step)

    def _lines(self, requests: Sequence[Request]) -> Iterator[str]:
        problems = [request.problem or self._filter_problem(request) for request in requests]
        good = [r for r, problem in zip(requests, problems, strict=True) if problem is None]
        answers = self._answers(good)
        for request, problem in zip(requests, problems, strict=True):
            if problem is not None:
                yield output_line(request.echo, [], error=problem)
            else:
                yield output_line(request.echo, *next(answers))

    def _filter_problem(self, request: Request) -> str | None:
        problem = self.filter.problem(request.values) if self.filter else None
        return problem and f"User error: {problem}"

    def _answers(self, requests: Sequence[Request]) -> Iterator[Answer]:
        if self.recipe.type == PERSONALIZED_RANKING:
            return self._ranked(requests)
        if self.recipe.type == RELATED_ITEMS:
            return self._similar(requests)
        return self._recommended(requests)

    def _recommended(self, requests: Sequence[Request]) -> Iterator[Answer]:
        assert isinstance(self.model, UserModel)
        assert self.interactions is not None
        users = [request.echo[USER_ID] for request in requests]
        values = [request.values for request in requests]
        forbid = self.filter.forbid(users, values) if self.filter else None
        most = min(self.num_results, len(self.model.item_ids))
        return self._unpacked(
            self.model.recommend(users, self.interactions, most, forbid=forbid),
        )

    def _similar(self, requests: Sequence[Request]) -> Iterator[Answer]:
        assert isinstance(self.model, ItemModel)
        items = [request.echo[ITEM_ID] for request in requests]
        values = [request.values for request in requests]
        forbid = self.filter.forbid_for_items(items, values) if self.filter else None
        most = min(self.num_results, len(self.model.item_ids))
        return self._unpacked(self.model.similar(items, most, forbid=forbid))

    def _ranked(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Each list whole, whatever `num_results`; unknown items last, in their order, with 0.

        An item that is listed twice is ranked once.
        """
        assert isinstance(self.model, UserModel)
        assert self.interactions is not None
        users = [request.echo[USER_ID] for request in requests]
        values = [request.values for request in requests]
        lists = [list(dict.fromkeys(request.echo[ITEM_LIST])) for request in requests]
        flat = positions(self.model.item_ids, [item for items in lists for item in items])
        placed = np.split(flat, np.cumsum([len(items) for items in lists])[:-1])
        forbid = self.filter.forbid(users, values) if self.filter else None
        ranked = self._unpacked(
            self.model.rank(users, [at[at >= 0] for at in placed], self.interactions, forbid=forbid)
        )
        for items, at, (found, scores) in zip(lists, placed, ranked, strict=True):
            unknown = [item for item, place in zip(items, at, strict=True) if place < 0]
            yield found + unknown, (scores or []) + [0.0] * len(unknown)

    def _unpacked(self, chunks: Iterator[Recommended]) -> Iterator[Answer]:
        item_ids = self.model.item_ids
        for chunk in chunks:
            counts = (chunk.items >= 0).sum(axis=1)  # a list that ran out of items is padded
            for row, scores, count in zip(chunk.items, chunk.scores, counts, strict=True):
                items = item_ids[row[:count]].tolist()
                yield items, scores[:count].tolist() if self.recipe.scores else None
