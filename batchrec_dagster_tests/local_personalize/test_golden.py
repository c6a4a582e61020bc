"""Tests of batch jobs' output for each recipe, byte for byte.

The input is golden/RECIPE.json, the output golden/RECIPE.json.out.
The models here give fixed answers. The lines around the answers have Personalize's format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from batchrec_dagster.local_personalize.batch_lines import AnswerLines, answer_file
from batchrec_dagster.local_personalize.engine.blend_model import BlendModel
from batchrec_dagster.local_personalize.engine.data import Interactions
from batchrec_dagster.local_personalize.engine.segments import SegmentModel
from batchrec_dagster.local_personalize.engine.serve import Lists
from batchrec_dagster.local_personalize.engine.similar import SimilarItems
from batchrec_dagster.local_personalize.operations import batch_inference_jobs
from batchrec_dagster.local_personalize.operations.batch_inference_jobs import Recommender
from batchrec_dagster.local_personalize.operations.batch_segment_jobs import (
    FindItems,
    Segmenter,
    find_item,
    find_items_by_attributes,
)
from batchrec_dagster.local_personalize.trained_recipes import RECIPES, Recipe
from batchrec_dagster.personalize import formats
from batchrec_dagster.personalize.schemas import ITEMS, Field, Schema

GOLDEN = Path(__file__).parent / "golden"
INTERACTIONS = Interactions.from_frame(
    pl.DataFrame(
        {
            "USER_ID": ["zoë", "ann", "bob"],
            "ITEM_ID": ["105", "106", "107"],
            "TIMESTAMP": [1, 2, 3],
        }
    )
)


def _build_ids(*ids: str) -> npt.NDArray[np.object_]:
    return np.array(ids, dtype=object)


class FixedUsers(BlendModel):
    """A model with fixed lists and scores for users, in chunks of a single user."""

    new_items = None

    item_ids = _build_ids("63992", "115149", "110102", "148626")
    lists: dict[str, tuple[list[int], list[float]]] = {  # noqa: RUF012
        "4638": ([0, 1, 2, 3], [0.0152238, 0.00690811, 0.00682219, 0.006394]),
        "663": ([1, 0, 3, 2], [0.9, 0.05, 0.00000011, 0.00000004]),
        "3384": ([3, -1, -1, -1], [1.0, 0.0, 0.0, 0.0]),
        'Zoë "the" \\ 1': ([-1, -1, -1, -1], [0.0, 0.0, 0.0, 0.0]),
        "nobody knows": ([0, 1, 2, 3], [0.4, 0.3, 0.2, 0.1]),
    }

    def __init__(self) -> None: ...


def recommend(model: FixedUsers, user_ids: Sequence[str], *_: Any) -> Iterator[Lists]:
    for user in user_ids:
        items, scores = model.lists[user]
        yield Lists(np.array([items], np.int32), np.array([scores]))


class FixedItems(SimilarItems):
    """A model that answers with the two next items, and with popular items for an unknown item."""

    item_ids = _build_ids("105", "106", "107", "49")

    def __init__(self) -> None: ...

    def list_similar(self, item_ids: Sequence[str], k: int, _: Any = None) -> Iterator[Lists]:
        lists = {"105": [1, 2], "106": [2, 3], "never met": [0, 1]}
        items = np.array([lists[item] for item in item_ids], np.int32)
        yield Lists(items, np.zeros(items.shape))


class FixedSegments(SegmentModel):
    """A model that answers item 105 with ann and zoë, and anything else with bob and ann."""

    item_ids = _build_ids("105", "106", "107")

    def __init__(self) -> None: ...

    def list_users(
        self, queries: Sequence[npt.NDArray[np.int32]], *_: Any, **__: Any
    ) -> list[npt.NDArray[np.int32]]:
        users = list(INTERACTIONS.user_ids)
        first, other = ["ann", "zoë"], ["bob", "ann"]
        return [
            np.array([users.index(u) for u in (first if q.tolist() == [0] else other)], np.int32)
            for q in queries
        ]


def _search_attributes() -> FindItems:
    schema = Schema(ITEMS, (Field("ITEM_ID", "string"), Field("GENRES", "string")))
    rows = pl.DataFrame(
        {"ITEM_ID": ["105", "106", "9"], "GENRES": ["Action|Comedy", "Comedy", "Western"]}
    )
    return partial(
        find_items_by_attributes,
        FixedSegments.item_ids,
        schema,
        lambda _, columns, take: take(rows.lazy().select(columns)),
    )


def _build_answers(recipe: Recipe) -> AnswerLines:
    if recipe.makes_segments:
        find_items: FindItems = partial(find_item, FixedSegments.item_ids)
        if "attribute" in recipe.name:
            find_items = _search_attributes()
        users = np.ones(len(INTERACTIONS.user_ids), bool)
        return Segmenter(
            FixedSegments(), INTERACTIONS, 2, find_items, users, lambda *_: lambda _: None
        ).answer_lines
    if recipe.type == "RELATED_ITEMS":
        return Recommender(FixedItems(), None, 4).answer_lines
    return Recommender(FixedUsers(), INTERACTIONS, 4).answer_lines


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_the_output_of_a_recipe_to_the_byte(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_inference_jobs, "recommend", recommend)
    source = GOLDEN / f"{recipe.name}.json"
    steps: list[int] = []
    answers = _build_answers(recipe)
    answer_file(source, tmp_path / "out", recipe.input_field, answers, steps.append)
    output = (tmp_path / "out").read_bytes()
    assert output == source.with_suffix(".json.out").read_bytes()
    assert sum(steps) == output.count(b"\n")
    assert len(formats.read_output_lines(output)) == sum(steps)


def test_both_names_of_the_list_of_users_are_read() -> None:
    read = formats.read_output_lines(
        b'{"input": {"itemId": "1"}, "output": {"usersList": ["a", "b"]}, "error": null}\n'
        b'{"input": {"itemId": "2"}, "output": {"recommendedUsers": ["c"]}}\n'
        b'{"input": {"itemAttributes": "x"}, "output": {"usersList": []}, "error": "User error"}\n'
    )
    assert read.to_dicts() == [
        {"subject": "1", "members": ["a", "b"], "scores": None, "error": None},
        {"subject": "2", "members": ["c"], "scores": None, "error": None},
        {"subject": "x", "members": [], "scores": None, "error": "User error"},
    ]
    assert formats.read_output_lines(b"").is_empty()
    with pytest.raises(ValueError, match="not a batch inference output file"):
        formats.read_output_lines(b"{")
