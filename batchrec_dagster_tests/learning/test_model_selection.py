"""What is blended, and that chance does not decide it."""

from __future__ import annotations

from dataclasses import dataclass, field
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
)
from batchrec_dagster.local_personalize.learning import split as splitting
from batchrec_dagster.local_personalize.learning.blend_model import BlendModel
from batchrec_dagster.local_personalize.learning.components import (
    EASE,
    EASE_HIGH_REG,
    FACTORS,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
    PopularityScorer,
    Scorer,
)
from batchrec_dagster.local_personalize.learning.histories import Histories, History
from batchrec_dagster.local_personalize.learning.interactions import log_popularity, popular_first
from batchrec_dagster.local_personalize.learning.model import load_model
from batchrec_dagster.local_personalize.learning.model_selection import (
    BLEND_WEIGHTS,
    RECENCY_EXPONENTS,
    Blend,
    ValidationSet,
    fit_temperature,
    select_blend,
    validation_sets,
)
from batchrec_dagster.local_personalize.learning.ranking import top_k
from batchrec_dagster.local_personalize.learning.split import EARLIER_CUTOFFS, split
from batchrec_dagster.local_personalize.learning.training import train
from batchrec_dagster_tests.learning.support import interactions_of, lists, tastes

Float32 = npt.NDArray[np.float32]
USERS, ITEMS = 80, 60


@dataclass(frozen=True)
class Told:
    """A part that knows each user's truth, blurred by noise that may depend on the exponent."""

    table: Float32  # (users, items); a user is known by the one item met
    noise: Float32
    best_power: float | None = None
    kind: str = field(default="told", init=False)

    def score(self, history: History, exponent: float) -> Float32:
        off = 0.0 if self.best_power is None else 3 * abs(exponent - self.best_power)
        return np.asarray((self.table + (1 + off) * self.noise)[history.items], dtype=np.float32)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {}


def trial_of(**noises: Float32 | Told) -> ValidationSet:
    """Users who met item u and will meet one other item; scorers know it up to their noise."""
    starts = np.arange(USERS + 1, dtype=np.int64)
    inputs = History(starts, np.arange(USERS, dtype=np.int32), np.zeros(USERS, np.float32), 200)
    table = truth_table()
    scorers: dict[str, Scorer] = {
        name: noise if isinstance(noise, Told) else Told(table, noise)
        for name, noise in noises.items()
    }
    return ValidationSet(scorers, inputs, csr_matrix(table), np.arange(USERS, dtype=np.int32))


def truth_table() -> Float32:
    table = np.zeros((USERS, 200), np.float32)
    table[np.arange(USERS), 100 + np.arange(USERS) % ITEMS] = 1
    return table


def noise(seed: int, size: float) -> Float32:
    return (np.random.default_rng(seed).normal(size=(USERS, 200)) * size).astype(np.float32)


def ndcg_alone(run: ValidationSet, name: str, exponent: float) -> float:
    scores = run.scorers[name].score(run.inputs, exponent)
    scores[run.inputs.recency_weights(0.0).nonzero()] = -np.inf
    hits = np.take_along_axis(run.truth.toarray() > 0, top_k(scores, 25), axis=1)
    return float(evaluation.ndcg(hits, np.ones(USERS, np.int64)).mean())


def test_parts_that_err_differently_are_blended() -> None:
    run = trial_of(ease=noise(1, 0.6), sequence=noise(2, 0.6), factors=noise(3, 0.6))
    choice = select_blend([run], recency=True)
    assert len(choice.weights) > 1
    assert choice.ndcg > max(
        ndcg_alone(run, name, RECENCY_EXPONENTS[name][0]) for name in (EASE, SEQUENCE, FACTORS)
    )


@pytest.mark.parametrize("good", [EASE, SEQUENCE, FACTORS])
def test_a_part_that_others_only_spoil_serves_alone(good: str) -> None:
    noises = {name: noise(i, 50.0) for i, name in enumerate((EASE, SEQUENCE, FACTORS))}
    run = trial_of(**{**noises, good: noise(7, 0.01)})
    choice = select_blend([run], recency=True)
    assert list(choice.weights) == [good]
    assert choice.ndcg == pytest.approx(ndcg_alone(run, good, choice.recency_exponents[good]))


@pytest.mark.parametrize(("sequence", "either"), [(0.9, 0.4), (0.4, 0.9), (0.6, 0.6)])
def test_either_way_stands_for_the_sequence_where_it_is_better(
    sequence: float, either: float
) -> None:
    noises = {EASE: noise(1, 0.5), SEQUENCE: noise(2, sequence), SYMMETRIC_COOC: noise(2, either)}
    choice = select_blend([trial_of(**noises, factors=noise(3, 0.6))], recency=True)
    used, left = (SYMMETRIC_COOC, SEQUENCE) if either < sequence else (SEQUENCE, SYMMETRIC_COOC)
    assert used in choice.weights
    assert left not in choice.weights


@pytest.mark.parametrize(("usual", "shrunk"), [(0.9, 0.4), (0.4, 0.9), (0.6, 0.6)])
def test_more_regularization_is_taken_unless_less_is_better(usual: float, shrunk: float) -> None:
    noises = {EASE: noise(1, usual), EASE_HIGH_REG: noise(1, shrunk)}
    choice = select_blend([trial_of(**noises, sequence=noise(2, 0.6))], recency=True)
    used, left = (EASE, EASE_HIGH_REG) if usual < shrunk else (EASE_HIGH_REG, EASE)
    assert used in choice.weights
    assert left not in choice.weights


@pytest.mark.parametrize(("size", "added"), [(50.0, True), (0.01, False)])
def test_what_is_popular_is_added_where_histories_tell_little(size: float, added: bool) -> None:
    counts = truth_table().sum(axis=0)  # the items sought, all alike
    popular = Told(np.tile(counts, (USERS, 1)), np.zeros((USERS, 200), np.float32))
    run = trial_of(ease=noise(1, size), factors=noise(2, 60.0), popularity=popular)
    choice = select_blend([run], recency=True)
    assert (POPULARITY in choice.weights) == added
    if added:
        assert choice.ndcg > ndcg_alone(run, EASE, RECENCY_EXPONENTS[EASE][0])


def test_parts_alike_keep_their_defaults_and_no_blend() -> None:
    same = noise(1, 0.5)
    choice = select_blend([trial_of(ease=same, sequence=same, factors=same)], recency=True)
    assert len(choice.weights) == 1
    assert all(
        choice.recency_exponents[name] == RECENCY_EXPONENTS[name][0]
        for name in choice.recency_exponents
    )


def test_a_power_is_taken_when_it_is_clearly_better() -> None:
    told = Told(truth_table(), noise(1, 0.3), best_power=0.3)
    choice = select_blend([trial_of(ease=told)], recency=True)
    assert choice.recency_exponents == {EASE: 0.3}


def test_without_recency_there_is_no_power_to_choose() -> None:
    run = trial_of(ease=noise(1, 0.6), sequence=noise(2, 0.6), factors=noise(3, 0.6))
    assert set(select_blend([run], recency=False).recency_exponents.values()) == {0.0}


def test_nobody_to_try_on_leaves_the_first_part_alone() -> None:
    nobody = History(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), 200)
    run = ValidationSet(
        trial_of(ease=noise(1, 1.0)).scorers, nobody, csr_matrix((0, 200)), np.zeros(0, np.int32)
    )
    assert select_blend([run], recency=True).weights == {EASE: 1.0}
    assert fit_temperature(lambda history: np.zeros((0, 200), np.float32), [run]) == 1.0


def test_asking_the_same_users_again_is_no_surer_than_asking_once() -> None:
    run = trial_of(ease=noise(1, 0.6), sequence=noise(2, 0.6), factors=noise(3, 0.6))
    once, again = select_blend([run], recency=True), select_blend([run] * 5, recency=True)
    assert (again.recency_exponents, again.weights) == (once.recency_exponents, once.weights)
    assert again.ndcg == pytest.approx(once.ndcg)


def test_few_users_are_asked_at_several_times_and_many_once() -> None:
    held = split(interactions_of(tastes()), 0)
    assert held is not None
    few = validation_sets({}, held, held.inputs.item_ids)
    assert len(few) == 1 + len(EARLIER_CUTOFFS)
    assert few[0].inputs.lengths.sum() > few[-1].inputs.lengths.sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "MIN_QUERIES", 2 * len(held.users))
        assert len(validation_sets({}, held, held.inputs.item_ids)) == 2
        patch.setattr(splitting, "MIN_QUERIES", 1)
        assert len(validation_sets({}, held, held.inputs.item_ids)) == 1


@pytest.mark.parametrize(("users", "fits"), [(60, 3), (300, 2)])
def test_choosing_costs_at_most_two_fits_beside_the_one_that_serves(
    users: int, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_blend, "MIN_VALIDATION_USERS", 20)
    logged: list[str] = []
    train("aws-user-personalization", interactions_of(tastes(users=users)), {}, log=logged.append)
    fitted = [line.partition(":")[0] for line in logged]
    assert fitted.count(EASE) + fitted.count(EASE_HIGH_REG) == 3
    assert (
        max(fitted.count(name) for name in (EASE, EASE_HIGH_REG, SEQUENCE, SYMMETRIC_COOC, FACTORS))
        == fits
    )


def test_mixes_are_shares_of_known_parts() -> None:
    for mix in BLEND_WEIGHTS:
        assert sum(mix.values()) == pytest.approx(1)
        assert set(mix) <= set(RECENCY_EXPONENTS)


def test_the_temperature_makes_the_truth_likeliest() -> None:
    run = trial_of(ease=noise(1, 0.3))

    def likelihood(temperature: float) -> float:
        logits = run.scorers[EASE].score(run.inputs, 0.6).astype(np.float64) / temperature
        weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return float(np.log(weights[run.truth.nonzero()]).sum())

    temperature = fit_temperature(lambda history: run.scorers[EASE].score(history, 0.6), [run])
    assert likelihood(temperature) > max(
        likelihood(temperature / 1.5), likelihood(temperature * 1.5)
    )


def test_factors_solve_the_papers_equations() -> None:
    data = interactions_of(tastes())
    histories = Histories(data, data.item_ids[popular_first(data)])
    history = histories.of_users(histories.users([*data.user_ids, "nobody"]))
    part = components.fit_factors(history.recency_weights(0.0)[:-1], factors=8, seed=0)
    items = part.item_factors.astype(np.float64)
    for exponent in (0.0, 0.6):
        confidence = history.recency_weights(exponent).toarray().astype(np.float64)
        found = part.score(history, exponent)
        for user in (0, 7, 59):
            met = confidence[user] > 0
            left = items.T @ items + part.regularization * np.eye(8)
            left += (items[met].T * (confidence[user, met] - 1)) @ items[met]
            expected = items @ np.linalg.solve(left, items[met].T @ confidence[user, met])
            assert found[user] == pytest.approx(expected, abs=1e-3)
        assert (found[-1] == 0).all()


@pytest.mark.slow
def test_a_blend_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    rows = tastes()
    data = interactions_of(rows)
    model = train("aws-user-personalization", data, {}).model
    order = popular_first(data)
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
    again = load_model(tmp_path)
    users = [*data.user_ids, "nobody"]
    assert lists(again, users, data, 40) == lists(blend, users, data, 40)


def test_a_model_saved_with_the_old_names_of_components_is_read(tmp_path: Path) -> None:
    data = interactions_of(tastes())
    fitter = fit_components.ComponentFitter(data, {}, 0, print)
    names = (EASE_HIGH_REG, SYMMETRIC_COOC, FACTORS)
    blend = Blend(dict.fromkeys(names, 0.6), dict.fromkeys(names, 0.5), 0.1)
    model = fitter.fit(names, {}).blend(blend, 1.0)
    model.save(tmp_path)
    old = {EASE_HIGH_REG: "ease-shrunk", SYMMETRIC_COOC: "either-way"}
    path = tmp_path / "manifest.json"
    text = path.read_text().replace("recency_exponent", "power").replace('"weight"', '"share"')
    text = text.replace('"components"', '"parts"')
    for new, name in old.items():
        text = text.replace(new, name)
        for file in tmp_path.glob(f"{new}.*"):
            file.rename(file.with_name(file.name.replace(new, name)))
    path.write_text(text)
    again = load_model(tmp_path)
    assert isinstance(again, BlendModel)
    assert set(again.scorers) == set(names)
    users = list(data.user_ids)
    assert lists(again, users, data, 40) == lists(model, users, data, 40)
