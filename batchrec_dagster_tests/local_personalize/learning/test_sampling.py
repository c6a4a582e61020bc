"""Components are selected on a sample where the data are large, and on all users elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import (
    components,
    fit_components,
    sampling,
    train_blend,
)
from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.components import (
    FACTORS,
    SEQUENCE,
    FactorScorer,
)
from batchrec_dagster.local_personalize.learning.evaluation import Split, split
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    Interactions,
    find_positions,
)
from batchrec_dagster.local_personalize.learning.measurements import (
    Measurements,
    PopularityModel,
    measure,
)
from batchrec_dagster.local_personalize.learning.model_selection import Blend
from batchrec_dagster.local_personalize.learning.training import TrainedModel
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster.personalize import split as split_module
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of, lists, tastes

RECIPE = "aws-user-personalization-v2"
NDCG = "normalized_discounted_cumulative_gain_at_25"


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 300 users with 12 interactions each were many."""
    monkeypatch.setattr(sampling, "MAX_ROWS", 3_000)
    monkeypatch.setattr(sampling, "SAMPLE_ROWS", 1_200)
    monkeypatch.setattr(sampling, "SAMPLE_ITEMS", 30)
    monkeypatch.setattr(sampling, "MIN_SAMPLE_USERS", 20)
    monkeypatch.setattr(split_module, "MOST_USERS", 15)


def make_many_interactions() -> Interactions:
    return interactions_of(tastes(users=300))


def held_out_of(data: Interactions) -> Split:
    held_out = split(data)
    assert held_out is not None
    return held_out


def train_and_log(data: Interactions) -> tuple[TrainedModel, list[str]]:
    log_lines: list[str] = []
    return train(RECIPE, data, {}, log=log_lines.append), log_lines


def record_measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[BlendModel, Split]]:
    """The models that are measured from now on, with the users that they are measured on."""
    measured: list[tuple[BlendModel, Split]] = []

    def record_and_measure(model: BlendModel, held_out: Split) -> Measurements:
        measured.append((model, held_out))
        return measure(model, held_out)

    monkeypatch.setattr(train_blend, "measure", record_and_measure)
    return measured


def test_small_data_are_never_sampled() -> None:
    data = make_many_interactions()
    assert not sampling.is_large(data)
    _, log_lines = train_and_log(data)
    assert not any("sample" in line for line in log_lines)


@pytest.mark.usefixtures("small_limits")
def test_a_sample_has_whole_users_and_the_most_popular_items() -> None:
    held_out = held_out_of(make_many_interactions())
    assert len(held_out.users) == 15
    part = sampling.sample(held_out, seed=0)
    assert 600 < len(part.train) < 1_200
    chosen = np.unique(part.train.users)
    assert 70 < len(chosen) < 130
    assert not set(chosen) & set(held_out.users)
    assert part.users.tolist() == held_out.users.tolist()
    of_chosen = held_out.train.filter(np.isin(held_out.train.users, chosen))
    popular = np.argsort(-of_chosen.item_counts, kind="stable")[:30]
    assert sorted(part.train.item_ids) == sorted(held_out.train.item_ids[popular])
    for before, after in ((of_chosen, part.train), (held_out.truth, part.truth)):
        rows = np.isin(before.items, popular)
        assert after.users.tolist() == before.users[rows].tolist()
        names = before.item_ids[before.items[rows]]
        assert after.item_ids[after.items].tolist() == names.tolist()


def test_of_many_interactions_co_occurrence_keeps_fewer_neighbors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit_components, "COOC_NEIGHBORS_OF_MANY", 3)
    data = interactions_of(tastes())
    most_neighbors = []
    for rows in (len(data) + 1, len(data)):
        monkeypatch.setattr(fit_components, "MANY_ROWS", rows)
        fitter = fit_components.ComponentFitter(data, {}, 0, lambda _: None)
        weights = fitter.fit([SEQUENCE], {}).scorers[SEQUENCE].arrays()
        most_neighbors.append(np.diff(weights["indptr"]).max())
    assert most_neighbors[0] > most_neighbors[1] == 3


@pytest.mark.usefixtures("small_limits")
def test_the_seed_decides_the_sample() -> None:
    held_out = held_out_of(make_many_interactions())
    sample, repeated_sample, other_sample = (
        sampling.sample(held_out, seed).train for seed in (1, 1, 2)
    )
    assert sample.users.tolist() == repeated_sample.users.tolist()
    assert set(sample.users) != set(other_sample.users)


def test_a_few_users_with_very_many_interactions_are_not_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "MAX_ROWS", 1_000)
    monkeypatch.setattr(sampling, "SAMPLE_ROWS", 100)
    data = make_many_interactions()
    assert not sampling.is_large(data)  # MIN_SAMPLE_USERS are more than there are
    monkeypatch.setattr(sampling, "MIN_SAMPLE_USERS", 150)
    assert sampling.is_large(data)
    monkeypatch.setattr(sampling, "MIN_SAMPLE_USERS", 151)
    assert not sampling.is_large(data)


def test_a_large_catalogue_is_sampled_by_its_items_where_users_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_many_interactions()
    monkeypatch.setattr(sampling, "SAMPLE_ITEMS", 30)
    # Items that nobody has had do not count.
    more = replace(data, item_ids=np.array([*data.item_ids, "none"], dtype=object))
    monkeypatch.setattr(sampling, "MAX_ITEMS", len(data.item_ids))
    assert not sampling.is_large(more)
    monkeypatch.setattr(sampling, "MAX_ITEMS", len(data.item_ids) - 1)
    assert sampling.is_large(data)
    held_out = held_out_of(data)
    assert len(held_out.users) == 30
    part = sampling.sample(held_out, seed=0)
    assert len(part.train.item_ids) == 30
    assert set(part.train.users) == set(held_out.train.users)
    trained_model, log_lines = train_and_log(data)
    selection_line = next(
        line_number
        for line_number, line in enumerate(log_lines)
        if "selected on the sample" in line
    )
    # With few users held out, both splits are sampled.
    assert sum(line.startswith(f"{SEQUENCE}:") for line in log_lines[:selection_line]) == 2
    assert trained_model.metrics[NDCG] > 0
    assert isinstance(trained_model.model, BlendModel)
    assert all(lists(trained_model.model, list(data.user_ids[:20]), data, 5))


@pytest.mark.usefixtures("small_limits")
def test_large_data_are_measured_without_the_held_out_users_and_served_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = Blend({SEQUENCE: 0.6}, {SEQUENCE: 1.0}, 0.0)
    monkeypatch.setattr(train_blend, "select_blend", lambda sets, **_: choice)
    monkeypatch.setattr(train_blend, "MIN_VALIDATION_USERS", 1)
    lonely_rows = [(f"u{user}", f"own{user}", 10**7) for user in range(300)]
    data = interactions_of([*tastes(users=300), *lonely_rows])
    measured = record_measured(monkeypatch)
    trained_model, _ = train_and_log(data)
    assert isinstance(trained_model.model, BlendModel)
    [(measured_model, held_out)] = measured
    assert len(held_out.users) == 15
    counts = zip(measured_model.item_ids, measured_model.popularity, strict=True)
    unknown = {item for item, count in counts if count < 0}
    users = data.user_ids[held_out.users]
    assert unknown == {f"own{user.removeprefix('u')}" for user in users}
    assert (trained_model.model.popularity >= 0).all()
    assert trained_model.evidence["all/users"] <= 15
    assert trained_model.metrics[NDCG] > 0
    assert all(lists(trained_model.model, list(data.user_ids[:20]), data, 5))
    assert list(trained_model.model.scorers) == [SEQUENCE]


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("few", [0.04, 0.05])
def test_few_held_out_users_are_not_worth_a_second_fit(
    few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = Blend({SEQUENCE: 0.6, FACTORS: 0.3}, {SEQUENCE: 1.0, FACTORS: 1.0}, 0.0)
    monkeypatch.setattr(train_blend, "select_blend", lambda sets, **_: choice)
    monkeypatch.setattr(train_blend, "MIN_VALIDATION_USERS", 1)
    monkeypatch.setattr(train_blend, "FEW_HELD_OUT", few)  # 15 of 300 users
    lonely_rows = [(f"u{user}", f"own{user}", 10**7) for user in range(300)]
    data = interactions_of([*tastes(users=300), *lonely_rows])
    measured = record_measured(monkeypatch)
    trained_model, log_lines = train_and_log(data)
    in_full = [line for line in log_lines if line.startswith(f"{SEQUENCE}: 3,")]
    assert len(in_full) == (1 if few == 0.05 else 2)
    assert isinstance(trained_model.model, BlendModel)
    assert (trained_model.model.popularity >= 0).all()
    [(held_out_model, _)] = measured
    model = trained_model.model
    history = Histories(data, model.item_ids).of_users(np.arange(20, dtype=np.int32))
    held_out_history = Histories(data, held_out_model.item_ids).of_users(
        np.arange(20, dtype=np.int32)
    )
    positions = find_positions(held_out_model.item_ids, model.item_ids)
    assert sorted(positions) == list(range(len(positions)))
    for name in (SEQUENCE, FACTORS):
        scores = model.scorers[name].score(history, 0.0)
        held_out_scores = held_out_model.scorers[name].score(held_out_history, 0.0)[:, positions]
        assert np.allclose(scores, held_out_scores, rtol=1e-4, atol=1e-6) == (few == 0.05)


def test_factors_of_very_many_interactions_are_fitted_on_a_sample_and_then_once_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_many_interactions()
    monkeypatch.setattr(fit_components, "FACTOR_ROWS", len(data) // 2)
    fits, fit = [], components.fit_factors

    def count_and_fit(matrix: csr_matrix, **options: Any) -> FactorScorer:
        fits.append((matrix.shape[0], options.get("iterations")))
        return fit(matrix, **options)

    monkeypatch.setattr(fit_components, "fit_factors", count_and_fit)
    fitter = fit_components.ComponentFitter(data, {}, 0, lambda _: None)
    fitted = fitter.fit([FACTORS], {})
    (users, iterations), (of_all, last_iterations) = fits
    assert 100 < users < 200
    assert (iterations, of_all, last_iterations) == (None, 300, 1)
    model = fitted.blend(Blend({FACTORS: 0.0}, {FACTORS: 1.0}, 0.0), 1.0)
    popular = PopularityModel(model.item_ids, model.popularity)
    own, baseline = measure(model, held_out_of(data)), measure(popular, held_out_of(data))
    assert own.metrics[NDCG] > baseline.metrics[NDCG]


def test_large_arrays_are_not_copied_where_nothing_is_left_out() -> None:
    data = make_many_interactions()
    assert fit_components.drop_extreme_users(data, {}) is data
    without_some = data.filter(data.users != 7)
    assert fit_components.drop_extreme_users(without_some, {}) is without_some
    history = Histories(data, data.item_ids).of_users(np.arange(300, dtype=np.int32))
    matrix = history.slice(0, 150).recency_weights(0.0)
    [(_, place, rows)] = components._size_blocks(matrix)
    assert (place.start, place.stop) == (0, 150)
    assert (rows != matrix).nnz == 0
    assert np.shares_memory(rows.data, matrix.data)
    assert np.shares_memory(rows.indices, matrix.indices)
