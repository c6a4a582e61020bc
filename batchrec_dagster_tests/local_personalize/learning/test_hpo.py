"""performHPO: ranges, candidates, and that a search finds better values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.learning import model_selection, train_blend
from batchrec_dagster.local_personalize.learning.hpo import (
    Search,
    candidates,
    format_value,
    search_ranges,
    tune,
)
from batchrec_dagster.local_personalize.learning.train_blend import measure_blend
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster.personalize.recipes import HyperparameterError, Value
from batchrec_dagster_tests.local_personalize.learning.support import Row, interactions_of, tastes

pytestmark = pytest.mark.slow

RECIPE, SIMS = "aws-user-personalization", "aws-sims"


@pytest.mark.parametrize(
    ("recipe", "fixed_values", "search", "message"),
    [
        ("aws-popularity-count", {}, Search(), "no hyperparameter that performHPO can tune"),
        ("aws-similar-items", {}, Search(), "no hyperparameter that performHPO can tune"),
        ("aws-item-affinity", {}, Search(), "no hyperparameter that performHPO can tune"),
        ("aws-user-personalization-v2", {}, Search(), "no hyperparameter that performHPO"),
        ("aws-hrnn", {}, Search(), "is not supported locally"),
        (RECIPE, {}, Search(integers={"x": (1, 2)}), "no tunable hyperparameter x; tunable: "),
        (RECIPE, {}, Search(continuous={"max_user_history_length_percentile": (0, 1)}),
         "no tunable hyperparameter max_user"),
        (RECIPE, {}, Search(integers={"hidden_dimension": (16, 64)}),
         "range of hyperparameter hidden_dimension is 16 to 64; allowed: a whole number from 32"),
        (RECIPE, {}, Search(integers={"bptt": (20, 10)}), "is 20 to 10; .* in rising order"),
        (RECIPE, {}, Search(continuous={"bptt": (2, 3)}), "cannot be a continuous one"),
        (RECIPE, {}, Search(integers={"recency_mask": (0, 1)}), "cannot be an integer one"),
        (RECIPE, {}, Search(categories={"recency_mask": ["perhaps"]}), "allowed: true or false"),
        (RECIPE, {}, Search(categories={"recency_mask": []}), "allowed: true or false"),
        (RECIPE, {}, Search(categories={"bptt": ["2", "33"]}), "categories of .* bptt"),
        (SIMS, {}, Search(integers={"popularity_discount_factor": (0, 1)}), "cannot be an integer"),
        (SIMS, {}, Search(continuous={"popularity_discount_factor": (0, float("nan"))}),
         "0 to nan"),
        (RECIPE, {}, Search(integers={"bptt": (2, 3)}, categories={"bptt": ["2"]}),
         "more than one range"),
        (RECIPE, {"hidden_dimension": "64", "bptt": "8", "recency_mask": "true"}, Search(),
         "nothing to tune"),
    ],
)  # fmt: skip
def test_impossible_searches_raise(
    recipe: str, fixed_values: dict[str, str], search: Search, message: str
) -> None:
    with pytest.raises(HyperparameterError, match=message):
        search_ranges(recipe, fixed_values, search)
    with pytest.raises(HyperparameterError, match=message):
        train(recipe, interactions_of(tastes()), fixed_values, search=search)


def test_without_ranges_the_recipes_bounds_are_searched() -> None:
    ranges = search_ranges(RECIPE, {"bptt": "8"}, Search())
    assert set(ranges) == {"hidden_dimension", "recency_mask"}
    assert [ranges["hidden_dimension"].contains(n) for n in (31, 32, 256, 257)] == [0, 1, 1, 0]
    discount = search_ranges(SIMS, {}, Search())["popularity_discount_factor"]
    assert [discount.contains(x) for x in (-0.1, 0, 1, 1.1)] == [
        0,
        1,
        1,
        0,
    ]


@given(
    st.integers(2, 32).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 32))),
    st.sampled_from([["true"], ["false"], ["true", "FALSE"], ["true", "true"]]),
    st.integers(1, 40),
    st.integers(0, 5),
)
def test_candidates_are_in_range_distinct_and_reproducible(
    ends: tuple[int, int], truths: list[str], jobs: int, seed: int
) -> None:
    search = Search(jobs, integers={"bptt": ends}, categories={"recency_mask": truths})
    ranges = search_ranges(RECIPE, {}, search)
    tried_values = list(candidates(ranges, {"bptt": 7}, jobs, seed))
    assert tried_values == list(candidates(ranges, {"bptt": 7}, jobs, seed))
    assert 1 <= len(tried_values) <= jobs
    assert len({tuple(values.items()) for values in tried_values}) == len(tried_values)
    assert all(ends[0] <= values["bptt"] <= ends[1] for values in tried_values)
    assert {format_value(values["recency_mask"]) for values in tried_values} <= {
        text.lower() for text in truths
    }
    if ends[0] <= 7 <= ends[1]:
        assert tried_values[0]["bptt"] == 7


def test_a_small_space_is_searched_completely() -> None:
    ranges = search_ranges(
        RECIPE, {}, Search(categories={"bptt": ["4", "8"], "recency_mask": ["true", "false"]})
    )
    tried_values = list(candidates(ranges, {}, 40, 0))
    assert sorted((values["bptt"], values["recency_mask"]) for values in tried_values) == sorted(
        itertools.product((4, 8), (True, False))
    )


def make_turning_rows() -> list[Row]:
    """Rows of users whose last few items predict the next and whose first do not."""
    rows = []
    for user in range(150):
        old = [f"old{(user * 7 + n * 11) % 40}" for n in range(10)]
        new = [f"new{user % 10}-{n}" for n in range(8)]
        rows += [(f"u{user}", item, n) for n, item in enumerate(old + new)]
    return rows


def test_a_search_finds_the_better_value() -> None:
    data = interactions_of(make_turning_rows())
    search = Search(4, categories={"recency_mask": ["true", "false"]})
    log_lines: list[str] = []
    trained_model = train(
        RECIPE, data, {"recency_mask": "false"}, search=search, log=log_lines.append
    )
    tried_values = {
        found[1]: float(found[2])
        for line in log_lines
        if (found := re.match(r"tried {'recency_mask': (\w+)}: NDCG at 25 of ([\d.]+)", line))
    }
    assert set(tried_values) == {"True", "False"}
    assert trained_model.tuned == {
        "recency_mask": max(tried_values, key=lambda key: tried_values[key]).lower()
    }
    plain = train(RECIPE, data, trained_model.tuned)
    assert plain.metrics == trained_model.metrics


def test_similar_items_are_tuned_too() -> None:
    rows = tastes(users=120)
    search = Search(6, continuous={"popularity_discount_factor": (0.2, 0.9)})
    trained_model = train(SIMS, interactions_of(rows), {}, search=search)
    assert set(trained_model.tuned) == {"popularity_discount_factor"}
    assert 0.2 <= float(trained_model.tuned["popularity_discount_factor"]) <= 0.9
    plain = train(SIMS, interactions_of(rows), trained_model.tuned)
    assert plain.metrics == trained_model.metrics


def test_tries_at_most_max_jobs_and_fits_shared_components_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[Mapping[str, Value]] = []

    def count_and_train(*args: object, **options: object) -> object:
        tries.append(options)  # type: ignore[arg-type]
        return model_selection.select_blend(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(train_blend, "select_blend", count_and_train)
    data = interactions_of(tastes())
    ranges = search_ranges(RECIPE, {}, Search())
    log_lines: list[str] = []
    found = tune(measure_blend, data, {}, ranges, 5, 0, log_lines.append)
    assert len(tries) == 5
    assert all(ranges[name].contains(value) for name, value in found.items())
    assert sum(line.startswith("popularity") for line in log_lines) == 1


@pytest.mark.parametrize("recipe", [RECIPE, SIMS])
def test_without_users_to_tune_on_the_given_values_stay(recipe: str) -> None:
    rows = [("u", "a", 1), ("u", "b", 2), ("v", "a", 1), ("v", "b", 2)]
    name = {RECIPE: "bptt", SIMS: "min_cointeraction_count"}[recipe]
    assert train(recipe, interactions_of(rows[:2]), {}, search=Search()).tuned
    tuned = train(
        recipe, interactions_of(rows), {name: "7"}, search=Search(integers={name: (2, 9)})
    ).tuned
    assert tuned == {name: "7"}
