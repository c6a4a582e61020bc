"""What is blended, and that chance does not decide it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import factorization, metrics
from batchrec_dagster.local_personalize.learning import split as splitting
from batchrec_dagster.local_personalize.learning import train_blend as personalizing
from batchrec_dagster.local_personalize.learning.blend_model import PersonalizationModel
from batchrec_dagster.local_personalize.learning.components import Part, Popular
from batchrec_dagster.local_personalize.learning.histories import Histories, History
from batchrec_dagster.local_personalize.learning.model import load_model
from batchrec_dagster.local_personalize.learning.model_selection import (
    EASE,
    EITHER,
    FACTORS,
    MIXES,
    POPULARITY,
    POWERS,
    SEQUENCE,
    SHRUNK,
    Trial,
    choose,
    temperature,
    trials,
)
from batchrec_dagster.local_personalize.learning.popularity import log_popularity, popular_first
from batchrec_dagster.local_personalize.learning.ranking import top
from batchrec_dagster.local_personalize.learning.split import EARLIER, split
from batchrec_dagster.local_personalize.learning.training import train
from batchrec_dagster_tests.learning.support import interactions_of, lists, tastes

Float32 = npt.NDArray[np.float32]
USERS, ITEMS = 80, 60


@dataclass(frozen=True)
class Told:
    """A part that knows each user's truth, blurred by noise that may depend on the power."""

    table: Float32  # (users, items); a user is known by the one item met
    noise: Float32
    best_power: float | None = None
    kind: str = field(default="told", init=False)

    def score(self, history: History, power: float) -> Float32:
        off = 0.0 if self.best_power is None else 3 * abs(power - self.best_power)
        return np.asarray((self.table + (1 + off) * self.noise)[history.items], dtype=np.float32)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {}


def trial_of(**noises: Float32 | Told) -> Trial:
    """Users who met item u and will meet one other item; parts know it up to their noise."""
    starts = np.arange(USERS + 1, dtype=np.int64)
    inputs = History(starts, np.arange(USERS, dtype=np.int32), np.zeros(USERS, np.float32), 200)
    table = truth_table()
    parts: dict[str, Part] = {
        name: noise if isinstance(noise, Told) else Told(table, noise)
        for name, noise in noises.items()
    }
    return Trial(parts, inputs, csr_matrix(table), np.arange(USERS, dtype=np.int32))


def truth_table() -> Float32:
    table = np.zeros((USERS, 200), np.float32)
    table[np.arange(USERS), 100 + np.arange(USERS) % ITEMS] = 1
    return table


def noise(seed: int, size: float) -> Float32:
    return (np.random.default_rng(seed).normal(size=(USERS, 200)) * size).astype(np.float32)


def ndcg_alone(run: Trial, name: str, power: float) -> float:
    scores = run.parts[name].score(run.inputs, power)
    scores[run.inputs.weights(0.0).nonzero()] = -np.inf
    hits = np.take_along_axis(run.truth.toarray() > 0, top(scores, 25), axis=1)
    return float(metrics.ndcg(hits, np.ones(USERS, np.int64)).mean())


def test_parts_that_err_differently_are_blended() -> None:
    run = trial_of(ease=noise(1, 0.6), sequence=noise(2, 0.6), factors=noise(3, 0.6))
    choice = choose([run], recency=True)
    assert len(choice.shares) > 1
    assert choice.ndcg > max(
        ndcg_alone(run, name, POWERS[name][0]) for name in (EASE, SEQUENCE, FACTORS)
    )


@pytest.mark.parametrize("good", [EASE, SEQUENCE, FACTORS])
def test_a_part_that_others_only_spoil_serves_alone(good: str) -> None:
    noises = {name: noise(i, 50.0) for i, name in enumerate((EASE, SEQUENCE, FACTORS))}
    run = trial_of(**{**noises, good: noise(7, 0.01)})
    choice = choose([run], recency=True)
    assert list(choice.shares) == [good]
    assert choice.ndcg == pytest.approx(ndcg_alone(run, good, choice.powers[good]))


@pytest.mark.parametrize(("sequence", "either"), [(0.9, 0.4), (0.4, 0.9), (0.6, 0.6)])
def test_either_way_stands_for_the_sequence_where_it_is_better(
    sequence: float, either: float
) -> None:
    noises = {EASE: noise(1, 0.5), SEQUENCE: noise(2, sequence), EITHER: noise(2, either)}
    choice = choose([trial_of(**noises, factors=noise(3, 0.6))], recency=True)
    used, left = (EITHER, SEQUENCE) if either < sequence else (SEQUENCE, EITHER)
    assert used in choice.shares
    assert left not in choice.shares


@pytest.mark.parametrize(("usual", "shrunk"), [(0.9, 0.4), (0.4, 0.9), (0.6, 0.6)])
def test_more_regularization_is_taken_unless_less_is_better(usual: float, shrunk: float) -> None:
    noises = {EASE: noise(1, usual), SHRUNK: noise(1, shrunk)}
    choice = choose([trial_of(**noises, sequence=noise(2, 0.6))], recency=True)
    used, left = (EASE, SHRUNK) if usual < shrunk else (SHRUNK, EASE)
    assert used in choice.shares
    assert left not in choice.shares


@pytest.mark.parametrize(("size", "added"), [(50.0, True), (0.01, False)])
def test_what_is_popular_is_added_where_histories_tell_little(size: float, added: bool) -> None:
    counts = truth_table().sum(axis=0)  # the items sought, all alike
    popular = Told(np.tile(counts, (USERS, 1)), np.zeros((USERS, 200), np.float32))
    run = trial_of(ease=noise(1, size), factors=noise(2, 60.0), popularity=popular)
    choice = choose([run], recency=True)
    assert (POPULARITY in choice.shares) == added
    if added:
        assert choice.ndcg > ndcg_alone(run, EASE, POWERS[EASE][0])


def test_parts_alike_keep_their_defaults_and_no_blend() -> None:
    same = noise(1, 0.5)
    choice = choose([trial_of(ease=same, sequence=same, factors=same)], recency=True)
    assert len(choice.shares) == 1
    assert all(choice.powers[name] == POWERS[name][0] for name in choice.powers)


def test_a_power_is_taken_when_it_is_clearly_better() -> None:
    told = Told(truth_table(), noise(1, 0.3), best_power=0.3)
    choice = choose([trial_of(ease=told)], recency=True)
    assert choice.powers == {EASE: 0.3}


def test_without_recency_there_is_no_power_to_choose() -> None:
    run = trial_of(ease=noise(1, 0.6), sequence=noise(2, 0.6), factors=noise(3, 0.6))
    assert set(choose([run], recency=False).powers.values()) == {0.0}


def test_nobody_to_try_on_leaves_the_first_part_alone() -> None:
    nobody = History(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), 200)
    run = Trial(
        trial_of(ease=noise(1, 1.0)).parts, nobody, csr_matrix((0, 200)), np.zeros(0, np.int32)
    )
    assert choose([run], recency=True).shares == {EASE: 1.0}
    assert temperature(lambda history: np.zeros((0, 200), np.float32), [run]) == 1.0


def test_asking_the_same_users_again_is_no_surer_than_asking_once() -> None:
    run = trial_of(ease=noise(1, 0.6), sequence=noise(2, 0.6), factors=noise(3, 0.6))
    once, again = choose([run], recency=True), choose([run] * 5, recency=True)
    assert (again.powers, again.shares) == (once.powers, once.shares)
    assert again.ndcg == pytest.approx(once.ndcg)


def test_few_users_are_asked_at_several_times_and_many_once() -> None:
    held = split(interactions_of(tastes()), 0)
    assert held is not None
    few = trials({}, held, held.inputs.item_ids)
    assert len(few) == 1 + len(EARLIER)
    assert few[0].inputs.lengths.sum() > few[-1].inputs.lengths.sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "ENOUGH_TIMES", 2 * len(held.users))
        assert len(trials({}, held, held.inputs.item_ids)) == 2
        patch.setattr(splitting, "ENOUGH_TIMES", 1)
        assert len(trials({}, held, held.inputs.item_ids)) == 1


@pytest.mark.parametrize(("users", "fits"), [(60, 3), (300, 2)])
def test_choosing_costs_at_most_two_fits_beside_the_one_that_serves(
    users: int, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personalizing, "ENOUGH_USERS", 20)
    logged: list[str] = []
    train("aws-user-personalization", interactions_of(tastes(users=users)), {}, log=logged.append)
    fitted = [line.partition(":")[0] for line in logged]
    assert fitted.count(EASE) + fitted.count(SHRUNK) == 3
    assert max(fitted.count(name) for name in (EASE, SHRUNK, SEQUENCE, EITHER, FACTORS)) == fits


def test_mixes_are_shares_of_known_parts() -> None:
    for mix in MIXES:
        assert sum(mix.values()) == pytest.approx(1)
        assert set(mix) <= set(POWERS)


def test_the_temperature_makes_the_truth_likeliest() -> None:
    run = trial_of(ease=noise(1, 0.3))

    def likelihood(heat: float) -> float:
        logits = run.parts[EASE].score(run.inputs, 0.6).astype(np.float64) / heat
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return float(np.log(shares[run.truth.nonzero()]).sum())

    heat = temperature(lambda history: run.parts[EASE].score(history, 0.6), [run])
    assert likelihood(heat) > max(likelihood(heat / 1.5), likelihood(heat * 1.5))


def test_factors_solve_the_papers_equations() -> None:
    data = interactions_of(tastes())
    histories = Histories(data, data.item_ids[popular_first(data)])
    history = histories.of(histories.users([*data.user_ids, "nobody"]))
    part = factorization.fit(history.weights(0.0)[:-1], dimension=8, seed=0)
    items = part.item_factors.astype(np.float64)
    for power in (0.0, 0.6):
        confidence = history.weights(power).toarray().astype(np.float64)
        found = part.score(history, power)
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
    matrix = histories.of(histories.users(list(data.user_ids))).weights(0.0)
    assert isinstance(model, PersonalizationModel)
    blend = PersonalizationModel(
        data.item_ids[order],
        log_popularity(data, order),
        {
            **model.parts,
            FACTORS: factorization.fit(matrix, dimension=4, seed=0),
            POPULARITY: Popular(data.item_counts[order].astype(np.float32)),
        },
        {**model.powers, FACTORS: 0.6, POPULARITY: 0.0},
        {**model.shares, FACTORS: 2.0, POPULARITY: 0.1},
    )
    blend.save(tmp_path)
    again = load_model(tmp_path)
    users = [*data.user_ids, "nobody"]
    assert lists(again, users, data, 40) == lists(blend, users, data, 40)
