"""The lines of a batch inference job: each answered in its place, the bad ones too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from batchrec_dagster.formats.batch_inference import output_line
from batchrec_dagster.local_personalize.filters import JobFilter
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.model import Model
from batchrec_dagster.local_personalize.recipes import Recipe

LINES_AT_ONCE = 200_000


@dataclass(frozen=True)
class Request:
    """One input line: what it holds, the user it asks for, or why it cannot be answered."""

    echo: dict[str, Any]
    user_id: str | None


@dataclass(frozen=True)
class Recommender:
    """A trained model with the data set of now, and what a job asks of it."""

    recipe: Recipe
    model: Model
    interactions: Interactions
    num_results: int
    filter: JobFilter | None

    def answer(self, source: Path, target: Path, checkpoint: Callable[[], None]) -> int:
        """Writes an output line for each line of `source` to `target`; returns how many."""
        count = 0
        item_ids = self.model.item_ids.tolist()
        with source.open("rb") as lines, target.open("w", encoding="utf-8", newline="\n") as out:
            while block := list(islice(_requests(lines, self.recipe), LINES_AT_ONCE)):
                for text in self._answers(block, item_ids, checkpoint):
                    out.write(text)
                    out.write("\n")
                count += len(block)
        return count

    def _answers(
        self, requests: Sequence[Request], item_ids: list[str], checkpoint: Callable[[], None]
    ) -> Iterator[str]:
        user_ids = [request.user_id for request in requests if request.user_id is not None]
        recommended = self._recommended(user_ids, item_ids, checkpoint)
        for request in requests:
            if request.user_id is None:
                yield output_line(request.echo, [], error=required_fields(self.recipe))
            else:
                items, scores = next(recommended)
                yield output_line(request.echo, items, scores)

    def _recommended(
        self, user_ids: list[str], item_ids: list[str], checkpoint: Callable[[], None]
    ) -> Iterator[tuple[list[str], list[float] | None]]:
        forbid = self.filter.forbid(user_ids, [{}] * len(user_ids)) if self.filter else None
        with_scores = self.model.has_scores
        most = min(self.num_results, len(item_ids))
        for chunk in self.model.recommend(user_ids, self.interactions, most, forbid=forbid):
            checkpoint()
            for row, scores in zip(chunk.items.tolist(), chunk.scores.tolist(), strict=True):
                found = sum(item >= 0 for item in row)  # a list that ran out of items is padded
                items = [item_ids[item] for item in row[:found]]
                yield items, scores[:found] if with_scores else None


def required_fields(recipe: Recipe) -> str:
    """Personalize's words for a line that lacks what the recipe needs."""
    fields = ", ".join(recipe.input_fields)
    return f"User error: Required fields for the provided recipe are {fields}"


def _requests(lines: Iterator[bytes], recipe: Recipe) -> Iterator[Request]:
    for line in lines:
        if line.strip():
            yield _request(line)


def _request(line: bytes) -> Request:
    try:
        echo = json.loads(line)
        # What the output could not repeat is no JSON either: NaN, half of a surrogate pair.
        json.dumps(echo, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return Request({}, None)
    if not isinstance(echo, dict):
        return Request({}, None)
    user_id = echo.get("userId")
    return Request(echo, user_id if isinstance(user_id, str) and user_id else None)
