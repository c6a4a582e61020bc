"""Tests of blends: the choice of components, their weights, and repeats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.engine import evaluate, select
from batchrec_dagster.local_personalize.engine.blend import train
from batchrec_dagster.local_personalize.engine.blend_model import PopularityScorer
from batchrec_dagster.local_personalize.engine.data import Float32, History
from batchrec_dagster.local_personalize.engine.factors import FactorScorer
from batchrec_dagster.local_personalize.engine.select import (
    CONTENT,
    COOCCURRENCE,
    FACTORS,
    POPULARITY,
    SEQUENCE,
    Blend,
    Repeats,
    Scorer,
    fit_repeats,
    fit_temperature,
    is_better,
    list_options,
    scale_blend,
    score_users,
    select_blend,
)
from batchrec_dagster_tests.local_personalize.engine.support import (
    history_of,
    interactions_of,
    lists,
    tastes,
)

USERS, ITEMS = 300, 60


@dataclass(frozen=True)
class Oracle:
    """A component that knows the wanted items, but for noise, which its best exponent lowers."""

    noise: float
    best_exponent: float | None = None
    seed: int = 0

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        wanted = np.zeros((len(history.lengths), ITEMS), np.float32)
        wanted[np.arange(len(wanted)), wanted_items(history)] = 1
        distance = 0 if self.best_exponent is None else abs(exponent - self.best_exponent)
        rng = np.random.default_rng([self.seed, *history.items[:1].tolist()])
        noise = (self.noise + distance) * rng.standard_normal(wanted.shape, np.float32)
        scores += weight * (wanted + noise)


@dataclass(frozen=True)
class OracleOfSome(Oracle):
    """An oracle that knows only for some items whether users want them."""

    first: int = 0
    end: int = ITEMS

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        of_all = np.zeros_like(scores)
        super().add(of_all, history, exponent, weight)
        scores[:, self.first : self.end] += of_all[:, self.first : self.end]


def wanted_items(history: History) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return each user's next item: the number after the newest item's number."""
    newest = history.items[history.starts[:-1]]
    return ((newest + 1) % ITEMS).astype(np.int64)


@pytest.fixture
def tested() -> evaluate.Tested:
    rng = np.random.default_rng(0)
    history = history_of([[int(rng.integers(ITEMS))] for _ in range(USERS)], ITEMS)
    ones = np.ones(USERS, bool)
    truth = csr_matrix((ones, (np.arange(USERS), wanted_items(history))), shape=(USERS, ITEMS))
    return evaluate.Tested(history, truth, csr_matrix(truth.shape, dtype=bool))


def scorers_with(**noise: float) -> dict[str, Scorer]:
    """Return all components by name, with this noise; components without a noise know nothing."""
    names = (SEQUENCE, COOCCURRENCE, FACTORS)
    scorers: dict[str, Scorer] = {
        name: Oracle(noise.get(name, 50.0), seed=number) for number, name in enumerate(names)
    }
    scorers[POPULARITY] = PopularityScorer(np.arange(ITEMS, 0, -1).astype(np.float32))
    return scorers


@pytest.mark.parametrize("good", [SEQUENCE, COOCCURRENCE, FACTORS])
def test_a_good_component_among_bad_ones_serves_almost_alone(
    good: str, tested: evaluate.Tested
) -> None:
    blend = select_blend(scorers_with(**{good: 0.1}), tested, recency=True)
    assert blend.weights[good] > 0.6
    assert sum(blend.weights.values()) == pytest.approx(1)


def test_components_with_different_errors_are_blended(tested: evaluate.Tested) -> None:
    blend = select_blend(scorers_with(sequence=0.45, factors=0.45), tested, recency=True)
    assert min(blend.weights[SEQUENCE], blend.weights[FACTORS]) > 0.2


def test_popularity_alone_serves_if_nothing_is_better(tested: evaluate.Tested) -> None:
    ones = np.ones(USERS, bool)
    zeros = np.zeros(USERS, int)
    popular = csr_matrix((ones, (np.arange(USERS), zeros)), shape=(USERS, ITEMS))
    blend = select_blend(
        scorers_with(), evaluate.Tested(tested.history, popular, tested.repeated), recency=True
    )
    assert blend.weights[POPULARITY] > 0.6


def test_the_exponents_that_are_best_together_are_taken(tested: evaluate.Tested) -> None:
    scorers = scorers_with()
    scorers[SEQUENCE] = Oracle(0.2, best_exponent=0.9)
    scorers[FACTORS] = Oracle(0.2, best_exponent=0.3, seed=2)
    exponents = select_blend(scorers, tested, recency=True).exponents
    assert exponents[FACTORS] == 0.3
    assert exponents[SEQUENCE] == 0.9
    assert set(select_blend(scorers, tested, recency=False).exponents.values()) == {0.0}


@pytest.mark.parametrize("items", [ITEMS // 2, ITEMS])
def test_a_blend_is_selected_by_the_most_popular_items(
    items: int, tested: evaluate.Tested, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = ITEMS // 2
    scorers = scorers_with()
    scorers[FACTORS] = OracleOfSome(0.1, end=half)
    scorers[SEQUENCE] = OracleOfSome(0.1, first=half)
    monkeypatch.setattr(select, "MOST_ITEMS", items)
    weights = select_blend(scorers, tested, recency=True).weights
    assert (weights[FACTORS] > 2 * weights[SEQUENCE]) == (items == half)


def test_a_blend_is_selected_by_users_with_ids_of_all_kinds(
    tested: evaluate.Tested, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The users with the lowest ids want popular items, and all other users the next item."""
    quarter = USERS // 4
    wanted = np.where(np.arange(USERS) < quarter, 0, wanted_items(tested.history))
    truth = csr_matrix((np.ones(USERS, bool), (np.arange(USERS), wanted)), shape=(USERS, ITEMS))
    mixed = evaluate.Tested(tested.history, truth, tested.repeated)
    monkeypatch.setattr(select, "MOST_USERS", quarter)
    weights = select_blend(scorers_with(sequence=0.1), mixed, recency=True).weights
    assert weights[SEQUENCE] > 0.6


def test_content_is_added_only_if_it_is_better(tested: evaluate.Tested) -> None:
    for noise, is_added in ((0.1, True), (50.0, False)):
        scorers = {**scorers_with(sequence=0.8), CONTENT: Oracle(noise, seed=9)}
        blend = select_blend(scorers, tested, recency=True)
        assert (CONTENT in blend.weights) == is_added


def test_options_sum_to_1_over_known_components() -> None:
    options = list_options(FACTORS)
    assert all(sum(option.values()) == pytest.approx(1) for option in options)
    assert set().union(*options) == {SEQUENCE, COOCCURRENCE, FACTORS, POPULARITY}
    assert len({tuple(sorted(option.items())) for option in options}) == len(options)


def test_few_users_tell_nothing() -> None:
    assert not is_better(np.array([1.0]), np.array([0.0]))
    assert is_better(np.array([1.0, 0.9, 1.0]), np.array([0.0, 0.0, 0.1]))
    assert not is_better(np.array([1.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.4]))


def test_the_temperature_makes_softmax_scores_probabilities(tested: evaluate.Tested) -> None:
    """Items are drawn with known probabilities, from logits that are then multiplied by 2."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((USERS, ITEMS)).astype(np.float32)
    drawn = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    truth = csr_matrix((np.ones(USERS, bool), (np.arange(USERS), drawn)), shape=logits.shape)
    temperature = fit_temperature(
        2 * logits, evaluate.Tested(tested.history, truth, tested.repeated)
    )
    assert temperature == pytest.approx(2, rel=0.3)


def test_weights_are_scaled_by_the_spread_of_scores(tested: evaluate.Tested) -> None:
    scorers = scorers_with(sequence=0.1)
    blend = Blend({SEQUENCE: 0.5, POPULARITY: 0.5}, {SEQUENCE: 0.9, POPULARITY: 0.0})
    weights = scale_blend(blend, scorers, tested).weights
    scores = [score_users(scorers[name], tested.history, 0.9) for name in weights]
    spreads = [np.std(of_users, axis=1).mean() for of_users in scores]
    contributions = [w * s for w, s in zip(weights.values(), spreads, strict=True)]
    assert contributions[0] == pytest.approx(contributions[1], rel=0.3)


def test_repeats_raise_frequent_and_recent_items_to_the_share() -> None:
    history = history_of([[0, 1]], 4)
    object.__setattr__(
        history, "counts", np.array([1, 3], np.float32)
    )  # item 1 once, item 0 three times
    logits = np.zeros((1, 4), np.float32)
    Repeats(0.5, 1.0).add(logits, history)
    odds = np.exp(logits[0].astype(float))
    # The probabilities of items 1 and 0 are as 1 / 1 to 3 / 2, with the same sum as the model's.
    np.testing.assert_allclose(odds, [1 + 4 * 0.6, 1 + 4 * 0.4, 1, 1], rtol=1e-5)


def test_repeats_are_used_where_users_have_items_again(tested: evaluate.Tested) -> None:
    def score(history: History) -> Float32:
        return np.zeros((len(history.lengths), ITEMS), np.float32)

    assert fit_repeats(score, tested) is None
    bought_counts = csr_matrix(
        (np.ones(USERS, bool), tested.history.items, tested.history.starts), (USERS, ITEMS)
    )
    repeats = fit_repeats(score, evaluate.Tested(tested.history, tested.truth, bought_counts))
    assert repeats is not None
    assert repeats.share == pytest.approx(0.5)


def test_customers_of_a_bakery_get_what_they_buy() -> None:
    rows = [(user, item, 10**6 * day + time) for day in range(4) for user, item, time in tastes()]
    data = interactions_of(rows)
    model, _ = train(data, None, {}, lambda _: None)
    users = [f"u{n}" for n in range(60)]
    had = {(user, item) for user, item, _ in rows}
    for user, items in zip(users, lists(model, users, data, 5), strict=True):
        assert all((user, item) in had for item in items)


def test_hyperparameters_have_their_effect() -> None:
    data = interactions_of(tastes())
    by_size = train(data, None, {"hidden_dimension": 5}, lambda _: None)[0]
    factors = [s for s in by_size.scorers.values() if isinstance(s, FactorScorer)]
    assert all(scorer.item_factors.shape[1] == 5 for scorer in factors)
    plain = train(data, None, {"recency_mask": False}, lambda _: None)[0]
    assert set(plain.blend.exponents.values()) == {0.0}
    short = train(data, None, {"max_user_history_length_percentile": 0.5}, lambda _: None)[0]
    assert len(short.item_ids) == 40
