"""Components are selected on a sample where the data are large, and on all users elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
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
from batchrec_dagster.local_personalize.learning.evidence import measure
from batchrec_dagster.local_personalize.learning.held_out import HeldOut
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    Interactions,
    find_positions,
)
from batchrec_dagster.local_personalize.learning.model_selection import Blend
from batchrec_dagster.local_personalize.learning.popularity import PopularityModel
from batchrec_dagster.local_personalize.learning.training import TrainedModel
from batchrec_dagster.local_personalize.recipes import train
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
    monkeypatch.setattr(sampling, "MAX_HELD_OUT", 15)


def many() -> Interactions:
    return interactions_of(tastes(users=300))


def held_out_of(data: Interactions) -> Split:
    held_out = split(data, 0, share=sampling.held_out_share(data))
    assert held_out is not None
    return held_out


def trained(data: Interactions) -> tuple[TrainedModel, list[str]]:
    logged: list[str] = []
    return train(RECIPE, data, {}, log=logged.append), logged


def test_small_data_are_never_sampled() -> None:
    data = many()
    assert not sampling.is_large(data)
    assert sampling.held_out_share(data) == 0.1
    _, logged = trained(data)
    assert not any("sample" in line for line in logged)


@pytest.mark.usefixtures("small_limits")
def test_a_sample_has_whole_users_and_the_most_popular_items() -> None:
    held_out = held_out_of(many())
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
    kept = []
    for rows in (len(data) + 1, len(data)):
        monkeypatch.setattr(fit_components, "MANY_ROWS", rows)
        fitter = fit_components.ComponentFitter(data, {}, 0, lambda _: None)
        weights = fitter.fit([SEQUENCE], {}).scorers[SEQUENCE].arrays()
        kept.append(np.diff(weights["indptr"]).max())
    assert kept[0] > kept[1] == 3


@pytest.mark.usefixtures("small_limits")
def test_the_seed_decides_the_sample() -> None:
    held_out = held_out_of(many())
    one, same, other = (sampling.sample(held_out, seed).train for seed in (1, 1, 2))
    assert one.users.tolist() == same.users.tolist()
    assert set(one.users) != set(other.users)


@pytest.mark.usefixtures("small_limits")
def test_the_rewards_of_an_objective_follow_their_items() -> None:
    data = many()
    rewards = np.arange(len(data.item_ids), dtype=np.float64)
    part = sampling.sample(held_out_of(replace(data, rewards=rewards)), seed=0).train
    of_item = dict(zip(data.item_ids, rewards, strict=True))
    assert part.rewards is not None
    assert part.rewards.tolist() == [of_item[item] for item in part.item_ids]


def test_a_few_users_with_very_many_interactions_are_not_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "MAX_ROWS", 1_000)
    monkeypatch.setattr(sampling, "SAMPLE_ROWS", 100)
    data = many()
    assert not sampling.is_large(data)  # MIN_SAMPLE_USERS are more than there are
    monkeypatch.setattr(sampling, "MIN_SAMPLE_USERS", 150)
    assert sampling.is_large(data)
    monkeypatch.setattr(sampling, "MIN_SAMPLE_USERS", 151)
    assert not sampling.is_large(data)


def test_a_large_catalogue_is_sampled_by_its_items_where_users_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = many()
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
    done, logged = trained(data)
    selected = next(at for at, line in enumerate(logged) if "selected on the sample" in line)
    # With few users held out, both splits are sampled.
    assert sum(line.startswith(f"{SEQUENCE}:") for line in logged[:selected]) == 2
    assert done.metrics[NDCG] > 0
    assert isinstance(done.model, BlendModel)
    assert all(lists(done.model, list(data.user_ids[:20]), data, 5))


@pytest.mark.usefixtures("small_limits")
def test_large_data_are_measured_without_the_held_out_users_and_served_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = Blend({SEQUENCE: 0.6}, {SEQUENCE: 1.0}, 0.0)
    monkeypatch.setattr(train_blend, "select_blend", lambda sets, **_: choice)
    monkeypatch.setattr(train_blend, "MIN_VALIDATION_USERS", 1)
    lonely = [(f"u{user}", f"own{user}", 10**7) for user in range(300)]
    data = interactions_of([*tastes(users=300), *lonely])
    done, _ = trained(data)
    assert isinstance(done.model, BlendModel)
    done.model.save(tmp_path)
    remembered = HeldOut.load(tmp_path)
    assert remembered is not None
    assert len(remembered.users) == 15
    unknown = {
        item
        for item, count in zip(remembered.model.item_ids, remembered.model.popularity, strict=True)
        if count < 0
    }
    assert unknown == {f"own{user.removeprefix('u')}" for user in remembered.users}
    assert (done.model.popularity >= 0).all()
    assert done.evidence["all/users"] <= 15
    assert done.metrics[NDCG] > 0
    assert all(lists(done.model, list(data.user_ids[:20]), data, 5))
    assert list(done.model.scorers) == [SEQUENCE]


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("few", [0.04, 0.05])
def test_few_held_out_users_are_not_worth_a_second_fit(
    few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = Blend({SEQUENCE: 0.6, FACTORS: 0.3}, {SEQUENCE: 1.0, FACTORS: 1.0}, 0.0)
    monkeypatch.setattr(train_blend, "select_blend", lambda sets, **_: choice)
    monkeypatch.setattr(train_blend, "MIN_VALIDATION_USERS", 1)
    monkeypatch.setattr(train_blend, "FEW_HELD_OUT", few)  # 15 of 300 users
    lonely = [(f"u{user}", f"own{user}", 10**7) for user in range(300)]
    data = interactions_of([*tastes(users=300), *lonely])
    done, logged = trained(data)
    in_full = [line for line in logged if line.startswith(f"{SEQUENCE}: 3,")]
    assert len(in_full) == (1 if few == 0.05 else 2)
    assert isinstance(done.model, BlendModel)
    assert done.model.held_out is not None
    assert (done.model.popularity >= 0).all()
    before, after = done.model.held_out.model, done.model
    history = Histories(data, after.item_ids).of_users(np.arange(20, dtype=np.int32))
    same = Histories(data, before.item_ids).of_users(np.arange(20, dtype=np.int32))
    known = find_positions(before.item_ids, after.item_ids)
    assert sorted(known) == list(range(len(known)))
    for name in (SEQUENCE, FACTORS):
        scores = after.scorers[name].score(history, 0.0)
        earlier = before.scorers[name].score(same, 0.0)[:, known]
        assert np.allclose(scores, earlier, rtol=1e-4, atol=1e-6) == (few == 0.05)


def test_factors_of_very_many_interactions_are_fitted_on_a_sample_and_then_once_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = many()
    monkeypatch.setattr(fit_components, "FACTOR_ROWS", len(data) // 2)
    fits, fit = [], components.fit_factors

    def counted(matrix: csr_matrix, **named: Any) -> FactorScorer:
        fits.append((matrix.shape[0], named.get("iterations")))
        return fit(matrix, **named)

    monkeypatch.setattr(fit_components, "fit_factors", counted)
    fitter = fit_components.ComponentFitter(data, {}, 0, lambda _: None)
    fitted = fitter.fit([FACTORS], {})
    (users, iterations), (of_all, last) = fits
    assert 100 < users < 200
    assert (iterations, of_all, last) == (None, 300, 1)
    model = fitted.blend(Blend({FACTORS: 0.0}, {FACTORS: 1.0}, 0.0), 1.0)
    popular = PopularityModel(model.item_ids, model.popularity)
    assert measure(model, held_out_of(data))[NDCG] > measure(popular, held_out_of(data))[NDCG]


def test_large_arrays_are_not_copied_where_nothing_is_left_out() -> None:
    data = many()
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
