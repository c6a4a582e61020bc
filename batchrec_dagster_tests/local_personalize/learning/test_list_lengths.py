"""How long a list is asked for does not change who leads it: for every recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.content import ContentScorer
from batchrec_dagster.local_personalize.learning.interactions import (
    Float32,
    Histories,
    History,
    Interactions,
)
from batchrec_dagster.local_personalize.learning.models import AnyModel
from batchrec_dagster.local_personalize.learning.new_items import NewItems
from batchrec_dagster.local_personalize.learning.ranking import top_k
from batchrec_dagster.local_personalize.learning.related import RelatedItemsModel
from batchrec_dagster.local_personalize.learning.segmentation import SegmentationModel
from batchrec_dagster.local_personalize.learning.serving import Exclude, exclude_entries
from batchrec_dagster.local_personalize.recipes import RECIPES, train
from batchrec_dagster_tests.local_personalize.learning.support import (
    for_users,
    interactions_of,
    tastes,
)
from batchrec_dagster_tests.local_personalize.learning.test_content import features_of

WEIGHTS = (0.01, 0.1, 0.3, 0.5, 0.9, 1.0)
LENGTHS = (1, 2, 5, 10, 25, 26, 99, 500)
N_ITEMS = 60
N_NEW = 30


def _make_new_items(count: int, weight: float) -> NewItems:
    """New items whose scores the test gives."""
    none = csr_matrix((0, 0), dtype=np.float32)
    scorer = ContentScorer(none, np.zeros((0, 0), np.float32))
    return NewItems(scorer, np.zeros(count), weight)


def _make_history(had: npt.NDArray[np.bool_]) -> History:
    """The history of these items, (users, n_items)."""
    matrix = csr_matrix(had)
    ranks = np.zeros(matrix.nnz, np.float32)
    return History(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), ranks, had.shape[1]
    )


def _choose_plainly(
    scores: Float32, had: npt.NDArray[np.bool_], n_own: int, weight: float, length: int
) -> list[int]:
    """One list, item by item: the best item that its share allows."""
    candidates = [item for item in range(len(scores)) if scores[item] > -np.inf]
    ranked_items = sorted(candidates, key=lambda item: (-scores[item], item))
    new = [item for item in ranked_items if item >= n_own and not had[item]]
    others = [item for item in ranked_items if item not in new]
    chosen: list[int] = []
    counted = new_count = 0
    while len(chosen) < length and (others or new):
        is_allowed = new_count + 1 <= weight * (counted + new_count + 1) + 1e-9
        is_best = bool(new) and (not others or scores[new[0]] > scores[others[0]])
        if new and (not others or (is_allowed and is_best)):
            chosen.append(new.pop(0))
            new_count += 1
        else:
            item = others.pop(0)
            chosen.append(item)
            counted += not had[item]
    return chosen


@st.composite
def scored_items(draw: st.DrawFn) -> tuple[Float32, npt.NDArray[np.bool_], int]:
    """Scores with ties and excluded items, what the users had, and how many items are not new."""
    seed = draw(st.integers(0, 2**32 - 1))
    n_own, n_new = draw(st.integers(0, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(seed)
    shape = draw(st.integers(1, 4)), n_own + n_new
    scores = rng.integers(0, draw(st.sampled_from([3, 1000])), shape).astype(np.float32)
    scores[:, n_own:] += draw(st.sampled_from([-2, 0, 2, 500]))
    scores[rng.random(shape) < draw(st.sampled_from([0, 0.3, 0.9]))] = -np.inf
    had = rng.random(shape) < draw(st.sampled_from([0, 0.2, 0.8]))
    return scores, had, n_own


@given(scored_items(), st.sampled_from(WEIGHTS), st.integers(1, 90), st.booleans())
def test_lists_with_new_items_are_those_that_are_chosen_item_by_item(
    items: tuple[Float32, npt.NDArray[np.bool_], int], weight: float, length: int, counts_all: bool
) -> None:
    scores, had, n_own = items
    if counts_all:
        had = np.zeros_like(had)
    new_items = _make_new_items(scores.shape[1] - n_own, weight)
    history = None if counts_all else _make_history(had)
    chosen = new_items.choose_items(scores.copy(), length, history)
    assert chosen.shape == (len(scores), length)
    for row, row_scores, row_had in zip(chosen, scores, had, strict=True):
        expected = _choose_plainly(row_scores, row_had, n_own, weight, length)
        assert row[row >= 0].tolist() == row[: len(expected)].tolist() == expected


@given(scored_items(), st.sampled_from(WEIGHTS), st.integers(1, 40))
def test_dropping_what_users_had_gives_the_lists_that_a_filter_gives(
    items: tuple[Float32, npt.NDArray[np.bool_], int], weight: float, length: int
) -> None:
    scores, had, n_own = items
    new_items = _make_new_items(scores.shape[1] - n_own, weight)
    history = _make_history(had)
    filtered_scores = np.where(had, np.float32(-np.inf), scores)
    expected = new_items.choose_items(filtered_scores, length, history)
    for row, row_had, row_expected in zip(
        new_items.choose_items(scores, scores.shape[1], history), had, expected, strict=True
    ):
        items_left = [item for item in row.tolist() if item >= 0 and not row_had[item]]
        assert items_left[:length] == row_expected[row_expected >= 0].tolist()


@given(scored_items(), st.sampled_from(WEIGHTS), st.integers(1, 90))
def test_a_list_of_every_length_has_the_items_of_the_cut_share(
    items: tuple[Float32, npt.NDArray[np.bool_], int], weight: float, length: int
) -> None:
    """Before, a list of k had the best k of all with the best weight * k new items."""
    scores, _, n_own = items
    scores += np.linspace(0, 0.5, scores.shape[1], dtype=np.float32)  # no ties among new items
    most_new = int(weight * length + 1e-9)
    capped_scores = scores.copy()
    for row in capped_scores:
        row[n_own + np.argsort(-row[n_own:])[most_new:]] = -np.inf
    had_enough = (capped_scores > -np.inf).sum(axis=1) >= length
    new_items = _make_new_items(scores.shape[1] - n_own, weight)
    chosen = new_items.choose_items(scores, length, None)
    for row, before in zip(
        chosen[had_enough], top_k(capped_scores, length)[had_enough], strict=True
    ):
        assert sorted(row) == sorted(before)


@pytest.fixture(scope="module")
def data() -> Interactions:
    rows = [*tastes(users=50, items=N_ITEMS, items_per_user=14), ("single", "i1", 5)]
    ids = [f"i{n}" for n in range(N_ITEMS)] + [f"new{n}" for n in range(N_NEW)]
    kinds = [("even", "odd")[n % 2] for n in range(N_ITEMS)] + ["even", "odd"] * (N_NEW // 2)
    features = features_of(ITEM_ID=ids, GENRES=kinds)
    return replace(interactions_of(rows), features=features)


Lists = tuple[list[list[int]], list[list[float]]]


def _make_lists(
    model: AnyModel, data: Interactions, exclude: Exclude | None
) -> Callable[[int], Lists]:
    """Returns what gives the lists of a length, and their scores."""
    users = [*data.user_ids.tolist(), "nobody", "nobody else"]

    def recommend(length: int) -> Lists:
        if isinstance(model, RelatedItemsModel):
            items = [*model.item_ids.tolist(), "no such item"][: len(users)]
            chunks = model.similar(items, length, exclude=exclude)
        else:
            chunks = for_users(model).recommend(
                users, data, length, exclude=exclude, excludes_history=exclude is not None
            )
        pairs = [pair for c in chunks for pair in zip(c.items, c.scores, strict=True)]
        return [i.tolist() for i, _ in pairs], [s.tolist() for _, s in pairs]

    return recommend


@pytest.mark.parametrize("filtered_scores", [False, True])
@pytest.mark.parametrize(
    "recipe",
    [r.name for r in RECIPES.values() if not r.makes_segments],
)
def test_lists_are_the_beginnings_of_longer_ones(
    data: Interactions, recipe: str, filtered_scores: bool
) -> None:
    model = train(recipe, data, {}).model
    assert not isinstance(model, SegmentationModel)
    weights = WEIGHTS if isinstance(model, BlendModel) else (0.3,)
    for weight in weights:
        if isinstance(model, BlendModel):
            model = model.with_exploration(weight, np.inf)
        exclude = None
        if filtered_scores:
            users = [*data.user_ids.tolist(), "nobody", "nobody else"]
            histories = Histories(data, model.item_ids)
            seen = histories.of_users(histories.users(users)).seen.astype(np.float32)
            # As a filter that knows only some of what each user had.
            seen.data[::3] = 0
            seen.eliminate_zeros()
            exclude = exclude_entries(seen)
        recommend = _make_lists(model, data, exclude)
        longest_items, longest_scores = recommend(LENGTHS[-1])
        assert all(row == sorted(row, reverse=True) for row in longest_scores)
        for length in LENGTHS[:-1]:
            items, scores = recommend(length)
            assert items == [row[:length] for row in longest_items]
            assert scores == [row[:length] for row in longest_scores]


@pytest.mark.parametrize("recipe", [r.name for r in RECIPES.values() if r.makes_segments])
def test_segments_are_the_beginnings_of_larger_ones(data: Interactions, recipe: str) -> None:
    model = train(recipe, data, {}).model
    assert isinstance(model, SegmentationModel)
    queries = [np.array(items, np.int32) for items in ([0], [1, 2, 3], [59])]
    is_even = np.arange(len(data.user_ids)) % 2 == 0
    for users in (None, is_even):
        largest = [s.tolist() for s in model.segment(queries, data, LENGTHS[-1], users=users)]
        for length in LENGTHS[:-1]:
            segments = model.segment(queries, data, length, users=users)
            assert [s.tolist() for s in segments] == [s[:length] for s in largest]


def test_a_late_new_item_has_the_score_of_the_item_before_it(data: Interactions) -> None:
    model = train("aws-user-personalization-v2", data, {}).model
    assert isinstance(model, BlendModel)
    model = model.with_exploration(0.9, np.inf)  # new items have the highest scores
    n_own = len(model.popularity)
    for chunk in model.recommend(["u0", "u1"], data, 10):
        for items, scores in zip(chunk.items, chunk.scores, strict=True):
            assert items[0] < n_own <= items[1]
            assert scores[0] == scores[1]
