"""Answers the lines of batch inference jobs: recommended or similar items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from batchrec_dagster.personalize import formats

from ..engine.blend import BlendModel
from ..engine.data import Interactions
from ..engine.serve import Lists, recommend
from ..engine.similar import SimilarItems
from ..recipes import RELATED_ITEMS, AnyModel, Output
from .batch_lines import InputLine, LineAnswerer

RankedItems = tuple[list[str], list[float] | None]
"""The items of one answer, best first, and their scores if the recipe has any."""


@dataclass(frozen=True)
class Recommender(LineAnswerer):
    """A model with the current interactions and the job's options."""

    model: AnyModel
    interactions: Interactions | None
    """What the users did; None for related items, which need no users."""
    num_results: int
    v2_lines: bool = False
    """Whether lists have reasons and, with a filter, placeholders without scores at their end."""

    def _answer_lines(self, lines: Sequence[InputLine]) -> Iterator[str]:
        answers = self._find_items([line for line in lines if line.problem is None])
        for line in lines:
            if line.problem is not None:
                yield formats.format_inference_line(
                    line.content, [], error=f"User error: {line.problem}"
                )
                continue
            items, scores = next(answers)
            if self.v2_lines:
                yield self._format_v2_line(line, items, scores)
            else:
                yield formats.format_inference_line(line.content, items, scores)

    def _format_v2_line(self, line: InputLine, items: list[str], scores: list[float] | None) -> str:
        """Return the output line with reasons.

        The last fifth of a filtered list are placeholders.

        Source: developer guide, "Recommendation reasons". It does not show the member's name in
        a line, nor how many items are placeholders.
        """
        placeholders = max(1, len(items) // 5) if self.filter and items else 0
        scored = len(items) - placeholders
        reasons = [["Exploration"] if item in self._new_ids else [] for item in items[:scored]]
        reasons += [["Popular item"]] * placeholders
        return formats.format_inference_line(
            line.content, items, (scores or [])[:scored], reasons=reasons
        )

    @cached_property
    def _new_ids(self) -> frozenset[str]:
        """The items with which nobody had interacted in the training."""
        if not isinstance(self.model, BlendModel) or self.model.new_items is None:
            return frozenset()
        return frozenset(self.model.item_ids[-len(self.model.new_items.ages) :])

    def _find_items(self, lines: Sequence[InputLine]) -> Iterator[RankedItems]:
        """Yield the items of each line, in the way of the recipe's type."""
        if self.recipe.type == RELATED_ITEMS:
            return self._find_similar(lines)
        return self._recommend(lines)

    def _recommend(self, lines: Sequence[InputLine]) -> Iterator[RankedItems]:
        assert isinstance(self.model, BlendModel)
        assert self.interactions is not None
        users = [line.content[formats.USER_FIELD] for line in lines]
        exclude = None
        if self.filter is not None:
            exclude = self.filter.exclude_for_users(users)
        length = min(self.num_results, len(self.model.item_ids))
        return self._unpack(recommend(self.model, users, self.interactions, length, exclude))

    def _find_similar(self, lines: Sequence[InputLine]) -> Iterator[RankedItems]:
        assert isinstance(self.model, SimilarItems)
        items = [line.content[formats.ITEM_FIELD] for line in lines]
        exclude = None
        if self.filter is not None:
            exclude = self.filter.exclude_for_items(len(items))
        length = min(self.num_results, len(self.model.item_ids))
        return self._unpack(self.model.list_similar(items, length, exclude))

    def _unpack(self, chunks: Iterator[Lists]) -> Iterator[RankedItems]:
        """Yield the lists of all chunks, one by one."""
        has_scores = self.recipe.output == Output.SCORED_ITEMS
        for chunk in chunks:
            # Short lists are padded with -1.
            lengths = (chunk.items >= 0).sum(axis=1)
            for positions, scores, length in zip(chunk.items, chunk.scores, lengths, strict=True):
                items = self.model.item_ids[positions[:length]].tolist()
                yield items, scores[:length].tolist() if has_scores else None
