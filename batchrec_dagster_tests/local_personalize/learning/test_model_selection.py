"""Which components are blended, and that noise does not decide it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import (
    components,
    evaluation,
    fit_components,
    train_blend,
    validation,
)
from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.components import (
    FACTORS,
    FACTORS_HIGH_REG,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
    PopularityScorer,
    Scorer,
)
from batchrec_dagster.local_personalize.learning.evaluation import (
    EARLIER_CUTOFFS,
    split,
)
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    History,
    ModelFileError,
    log_popularity,
    order_by_popularity,
)
from batchrec_dagster.local_personalize.learning.model_selection import (
    BLEND_WEIGHTS,
    RECENCY_EXPONENTS,
    Blend,
    fit_temperature,
    select_blend,
)
from batchrec_dagster.local_personalize.learning.models import load_model
from batchrec_dagster.local_personalize.learning.ranking import top_k
from batchrec_dagster.local_personalize.learning.validation import (
    CANDIDATES,
    ScoredUsers,
    ValidationSet,
    make_validation_sets,
)
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of, lists, tastes

Float32 = npt.NDArray[np.float32]
USERS, ITEMS = 80, 60


@dataclass(frozen=True)
class NoisyScorer:
    """Scores the truth plus noise, which may depend on the exponent."""

    table: Float32  # (users, items); user u has the history [u]
    noise: Float32
    best_exponent: float | None = None
    kind: str = field(default="noisy", init=False)
    scored: list[tuple[int, float]] = field(default_factory=list, init=False)

    def score(self, history: History, exponent: float) -> Float32:
        self.scored.extend((int(user), exponent) for user in history.items)
        off = 0.0 if self.best_exponent is None else 3 * abs(exponent - self.best_exponent)
        return np.asarray((self.table + (1 + off) * self.noise)[history.items], dtype=np.float32)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {}


def validation_set_of(**noises: Float32 | NoisyScorer) -> ValidationSet:
    """Users with the history [u] and one relevant item; scorers add noise to the truth."""
    starts = np.arange(USERS + 1, dtype=np.int64)
    inputs = History(starts, np.arange(USERS, dtype=np.int32), np.zeros(USERS, np.float32), 200)
    table = truth_table()
    scorers: dict[str, Scorer] = {
        name: noise if isinstance(noise, NoisyScorer) else NoisyScorer(table, noise)
        for name, noise in noises.items()
    }
    return ValidationSet(scorers, inputs, csr_matrix(table), np.arange(USERS, dtype=np.int32))


def truth_table() -> Float32:
    table = np.zeros((USERS, 200), np.float32)
    table[np.arange(USERS), 100 + np.arange(USERS) % ITEMS] = 1
    return table


def noise(seed: int, size: float) -> Float32:
    return (np.random.default_rng(seed).normal(size=(USERS, 200)) * size).astype(np.float32)


def single_ndcg(validation_set: ValidationSet, name: str, exponent: float) -> float:
    scores = validation_set.scorers[name].score(validation_set.inputs, exponent)
    scores[validation_set.inputs.recency_weights(0.0).nonzero()] = -np.inf
    hits = np.take_along_axis(validation_set.truth.toarray() > 0, top_k(scores, 25), axis=1)
    return float(evaluation.ndcg(hits, np.ones(USERS, np.int64)).mean())


def share_of(blend: Blend, one: ValidationSet) -> dict[str, float]:
    """The weights on scores of the same spread."""
    exponents = blend.recency_exponents
    return {
        name: weight
        * float(one.scorers[name].score(one.inputs, exponents[name]).std(axis=1).mean())
        for name, weight in blend.weights.items()
    }


def test_components_with_different_errors_are_blended() -> None:
    one = validation_set_of(sequence=noise(2, 0.6), factors=noise(3, 0.6))
    blend = select_blend([one], recency=True)
    assert len(blend.weights) > 1
    assert blend.ndcg > max(
        single_ndcg(one, name, RECENCY_EXPONENTS[name][0]) for name in (SEQUENCE, FACTORS)
    )


@pytest.mark.parametrize("good", [SEQUENCE, SYMMETRIC_COOC, FACTORS])
def test_a_good_component_among_bad_ones_serves_alone(good: str) -> None:
    noises = {name: noise(i, 50.0) for i, name in enumerate((SEQUENCE, SYMMETRIC_COOC, FACTORS))}
    one = validation_set_of(**{**noises, good: noise(7, 0.3)})
    blend = select_blend([one], recency=True)
    assert list(blend.weights) == [good]
    assert blend.ndcg == pytest.approx(single_ndcg(one, good, blend.recency_exponents[good]))


@pytest.mark.parametrize(("sequence", "symmetric"), [(0.9, 0.3), (0.3, 0.9)])
def test_the_better_cooccurrence_weighs_more(sequence: float, symmetric: float) -> None:
    noises = {
        SEQUENCE: noise(2, sequence),
        SYMMETRIC_COOC: noise(4, symmetric),
    }
    one = validation_set_of(**noises, factors=noise(3, 0.6))
    weights = share_of(select_blend([one], recency=True), one)
    more, less = (SYMMETRIC_COOC, SEQUENCE) if symmetric < sequence else (SEQUENCE, SYMMETRIC_COOC)
    assert weights[more] > 2 * weights.get(less, 0.0)


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.5), (0.5, 0.3)])
def test_the_better_regularization_of_factors_is_selected(low: float, high: float) -> None:
    noises = {FACTORS: noise(1, low), FACTORS_HIGH_REG: noise(1, high)}
    weights = select_blend([validation_set_of(**noises)], recency=True).weights
    assert set(weights) == {FACTORS if low < high else FACTORS_HIGH_REG}


@pytest.mark.parametrize(("size", "other", "added"), [(50.0, 0.0, True), (0.3, 50.0, False)])
def test_popularity_is_added_if_histories_say_little(
    size: float, other: float, added: bool
) -> None:
    counts = truth_table().sum(axis=0)  # each relevant item as often as the others
    popular = NoisyScorer(np.tile(counts, (USERS, 1)), noise(5, other))
    one = validation_set_of(sequence=noise(1, size), factors=noise(2, 60.0), popularity=popular)
    blend = select_blend([one], recency=True)
    assert (POPULARITY in blend.weights) == added
    if added:
        assert blend.ndcg > single_ndcg(one, SEQUENCE, RECENCY_EXPONENTS[SEQUENCE][0])


def test_popularity_alone_serves_if_nothing_is_better() -> None:
    popular = NoisyScorer(truth_table(), noise(9, 0.3))
    one = validation_set_of(factors=noise(2, 60.0), popularity=popular)
    assert list(select_blend([one], recency=True).weights) == [POPULARITY]


def test_options_that_cannot_be_told_apart_are_averaged() -> None:
    same = noise(1, 0.5)
    one = validation_set_of(sequence=same, factors=same)
    blend = select_blend([one], recency=True)
    assert set(blend.weights) == {SEQUENCE, FACTORS}
    assert sum(share_of(blend, one).values()) == pytest.approx(1)
    assert blend.recency_exponents == {SEQUENCE: 1.2, FACTORS: 0.6}
    assert blend.ndcg == pytest.approx(single_ndcg(one, FACTORS, 0.6))


def test_cooccurrence_looks_at_newer_items_in_a_blend_unless_that_is_worse() -> None:
    worse = NoisyScorer(truth_table(), noise(2, 0.4), best_exponent=0.9)
    one = validation_set_of(sequence=worse, factors=noise(3, 0.6))
    assert select_blend([one], recency=True).recency_exponents[SEQUENCE] == 0.9


def test_the_candidates_of_components_tell_what_all_items_tell() -> None:
    one = validation_set_of(factors=noise(1, 0.6), sequence=noise(2, 0.6))
    users = ScoredUsers([one])
    keys = [(FACTORS, 0.6), (SEQUENCE, 0.9)]
    [candidates, *others] = users.candidates(keys)
    assert candidates.is_relevant.shape[1] <= 2 * CANDIDATES
    for blend in ({keys[0]: 1.0}, {keys[0]: 0.3, keys[1]: 0.7}):
        found = users.by_user(each.ndcg([blend]) for each in [candidates, *others])
        scores = np.zeros((USERS, 200), np.float32)
        for (name, exponent), weight in blend.items():
            scores += np.float32(weight) * one.scorers[name].score(one.inputs, exponent)
        whole = ScoredUsers([replace(one, scorers={FACTORS: NoisyScorer(scores, 0 * scores)})])
        assert found[0] == pytest.approx(whole.ndcg(FACTORS, [0.0])[0])


def test_blends_are_measured_together_as_alone() -> None:
    one = validation_set_of(factors=noise(1, 0.6), sequence=noise(2, 0.6))
    keys = [(FACTORS, 0.6), (SEQUENCE, 0.9)]
    blends = [{keys[0]: share, keys[1]: 1 - share} for share in (0.1, 0.5, 0.9)]
    for candidates in ScoredUsers([one]).candidates(keys):
        alone = np.concatenate([candidates.ndcg([blend]) for blend in blends])
        assert len(np.unique(alone, axis=0)) == len(blends)
        assert (candidates.ndcg(blends) == alone).all()


def test_an_exponent_is_selected_if_clearly_better() -> None:
    scorer = NoisyScorer(truth_table(), noise(1, 0.3), best_exponent=0.3)
    blend = select_blend([validation_set_of(factors=scorer)], recency=True)
    assert blend.recency_exponents == {FACTORS: 0.3}


def test_without_recency_exponents_are_0() -> None:
    one = validation_set_of(sequence=noise(2, 0.6), factors=noise(3, 0.6))
    assert set(select_blend([one], recency=False).recency_exponents.values()) == {0.0}


def test_without_users_the_first_component_serves_alone() -> None:
    nobody = History(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), 200)
    one = ValidationSet(
        validation_set_of(factors=noise(1, 1.0)).scorers,
        nobody,
        csr_matrix((0, 200)),
        np.zeros(0, np.int32),
    )
    assert select_blend([one], recency=True).weights == {FACTORS: 1.0}
    assert fit_temperature(lambda history: np.zeros((0, 200), np.float32), [one]) == 1.0


def test_repeating_the_same_users_adds_no_confidence() -> None:
    one = validation_set_of(sequence=noise(2, 0.6), factors=noise(3, 0.6))
    once, loaded_scorer = select_blend([one], recency=True), select_blend([one] * 5, recency=True)
    assert (loaded_scorer.recency_exponents, loaded_scorer.weights) == (
        once.recency_exponents,
        once.weights,
    )
    assert loaded_scorer.ndcg == pytest.approx(once.ndcg)


def test_a_component_scores_each_user_once_per_exponent() -> None:
    validation_set = validation_set_of(sequence=noise(2, 0.6), factors=noise(3, 0.6))
    select_blend([validation_set], recency=True)
    for name, scorer in validation_set.scorers.items():
        assert isinstance(scorer, NoisyScorer)
        expected_scorings = [
            (user, exponent) for user in range(USERS) for exponent in RECENCY_EXPONENTS[name]
        ]
        assert sorted(scorer.scored) == sorted(expected_scorings)


def test_few_users_get_earlier_cutoffs_and_many_do_not() -> None:
    held = split(interactions_of(tastes()))
    assert held is not None
    few = make_validation_sets({}, held, held.inputs.item_ids)
    assert len(few) == 1 + len(EARLIER_CUTOFFS)
    assert few[0].inputs.lengths.sum() > few[-1].inputs.lengths.sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "MIN_QUERIES", 2 * len(held.users))
        assert len(make_validation_sets({}, held, held.inputs.item_ids)) == 2
        patch.setattr(evaluation, "MIN_QUERIES", 1)
        assert len(make_validation_sets({}, held, held.inputs.item_ids)) == 1


@pytest.mark.parametrize(("users", "fits"), [(60, 3), (300, 2)])
def test_selection_costs_at_most_two_extra_fits(
    users: int, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_blend, "MIN_VALIDATION_USERS", 20)
    log_lines: list[str] = []
    train(
        "aws-user-personalization", interactions_of(tastes(users=users)), {}, log=log_lines.append
    )
    fitted_components = [line.partition(":")[0] for line in log_lines]
    assert (
        max(fitted_components.count(name) for name in (SEQUENCE, SYMMETRIC_COOC, FACTORS)) == fits
    )


def test_blend_weights_sum_to_1_over_known_components() -> None:
    for option in BLEND_WEIGHTS:
        assert sum(option.values()) == pytest.approx(1)
        assert set(option) <= set(RECENCY_EXPONENTS)


def test_a_large_catalogue_is_validated_by_fewer_users_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = validation_set_of(factors=noise(1, 0.6), sequence=noise(2, 0.6))
    blend = select_blend([one], recency=True)
    monkeypatch.setattr(validation, "CHUNK_SCORES", 3 * 200)
    assert {len(history.lengths) for history, _ in one.chunks(8)} == {3, 2}
    assert select_blend([one], recency=True) == blend


def test_the_temperature_maximizes_the_likelihood() -> None:
    one = validation_set_of(factors=noise(1, 0.3))

    def likelihood(temperature: float) -> float:
        logits = one.scorers[FACTORS].score(one.inputs, 0.6).astype(np.float64) / temperature
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return float(np.log(softmax[one.truth.nonzero()]).sum())

    temperature = fit_temperature(lambda history: one.scorers[FACTORS].score(history, 0.6), [one])
    assert likelihood(temperature) > max(
        likelihood(temperature / 1.5), likelihood(temperature * 1.5)
    )


def test_factors_solve_the_equations_of_the_paper() -> None:
    data = interactions_of(tastes())
    histories = Histories(data, data.item_ids[order_by_popularity(data)])
    history = histories.of_users(histories.users([*data.user_ids, "nobody"]))
    scorer = components.fit_factors(history.recency_weights(0.0)[:-1], factors=8, seed=0)
    items = scorer.item_factors.astype(np.float64)
    for exponent in (0.0, 0.6):
        confidence = 3.0 * history.recency_weights(exponent).toarray().astype(np.float64)
        found = scorer.score(history, exponent)
        for user in (0, 7, 59):
            met = confidence[user] > 0
            size = 4.0 ** np.rint(np.log2(8 + met.sum()) / 2)
            system_matrix = items.T @ items + 1.5 * np.sqrt(size) * np.eye(8)
            system_matrix += (items[met].T * (confidence[user, met] - 1)) @ items[met]
            expected = items @ np.linalg.solve(system_matrix, items[met].T @ confidence[user, met])
            assert found[user] == pytest.approx(expected, abs=1e-3)
        assert (found[-1] == 0).all()


@pytest.mark.parametrize(
    ("length", "a_day", "is_tried"), [(120, 1, False), (80, 1, True), (120, 30, True)]
)
def test_cooccurrence_in_either_order_is_for_short_histories_or_equal_times(
    length: int, a_day: int, is_tried: bool
) -> None:
    rows = [(f"u{user}", f"i{item}", item // a_day) for user in range(20) for item in range(length)]
    held = split(interactions_of(rows))
    assert held is not None
    assert (SYMMETRIC_COOC in train_blend.choose_options(held)) == is_tried


def test_an_unknown_component_is_refused_by_name(tmp_path: Path) -> None:
    data = interactions_of(tastes())
    fitted_components = fit_components.ComponentFitter(data, {}, 0, print).fit([POPULARITY], {})
    fitted_components.blend(Blend({POPULARITY: 0.6}, {POPULARITY: 1.0}, 0.1), 1.0).save(tmp_path)
    assert isinstance(load_model(tmp_path), BlendModel)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"kind": "popular"', '"kind": "of-later"'))
    with pytest.raises(ModelFileError, match="of-later"):
        load_model(tmp_path)


@pytest.mark.slow
def test_a_saved_blend_recommends_the_same(tmp_path: Path) -> None:
    rows = tastes()
    data = interactions_of(rows)
    model = train("aws-user-personalization", data, {}).model
    order = order_by_popularity(data)
    histories = Histories(data, model.item_ids)
    matrix = histories.of_users(histories.users(list(data.user_ids))).recency_weights(0.0)
    assert isinstance(model, BlendModel)
    blend = BlendModel(
        data.item_ids[order],
        log_popularity(data, order),
        {
            **model.scorers,
            FACTORS: components.fit_factors(matrix, factors=4, seed=0),
            POPULARITY: PopularityScorer(data.item_counts[order].astype(np.float32)),
        },
        {**model.recency_exponents, FACTORS: 0.6, POPULARITY: 0.0},
        {**model.weights, FACTORS: 2.0, POPULARITY: 0.1},
    )
    blend.save(tmp_path)
    loaded_scorer = load_model(tmp_path)
    users = [*data.user_ids, "nobody"]
    assert lists(loaded_scorer, users, data, 40) == lists(blend, users, data, 40)
