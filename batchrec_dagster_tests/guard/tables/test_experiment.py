"""Tests of experiments: the fixed arms of users, and the certainty of the arms' difference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy  # scipy.stats, which takes a second, once it is used

from batchrec_dagster_tests.guard.oracles.outcomes import DAY, Event
from batchrec_dagster_tests.guard.seams.outcomes import ListHistory, assign_arm
from batchrec_dagster_tests.guard.tables.test_outcomes import T0, to_frame, to_typed_frame

USERS = [f"user {number}" for number in range(2_000)]
HOLDOUT = {"name": "holdout", "control_share": 0.4, "control": "popular"}


def find_control(name: str, share: float, salt: str = "") -> set[str]:
    experiment = {"name": name, "control_share": share, "salt": salt}
    return {user for user in USERS if assign_arm(user, experiment) == "control"}


def test_an_arm_never_changes() -> None:
    """Moving users between arms would void running experiments."""
    half = {"name": "holdout", "control_share": 0.5}
    arms = [assign_arm(user, half) for user in ("1", "2", "3", "Zoë", "")]
    assert arms == ["control", "control", "control", "model", "control"]


def test_arms_have_their_share_and_a_larger_share_moves_users_one_way() -> None:
    shares = (0.05, 0.1, 0.3, 0.5)
    controls = [find_control("holdout", share) for share in shares]
    for share, control in zip(shares, controls, strict=True):
        assert scipy.stats.binomtest(len(control), len(USERS), share).pvalue > 0.001
    for smaller, larger in pairwise(controls):
        assert smaller < larger


def test_another_name_and_another_salt_divide_the_users_anew() -> None:
    control = find_control("holdout", 0.3)
    for other in (find_control("other", 0.3), find_control("holdout", 0.3, salt="2")):
        shared_users = len(control & other)
        assert scipy.stats.binomtest(shared_users, len(USERS), 0.3 * 0.3).pvalue > 0.001


def simulate_purchases(
    experiment: Mapping[str, Any], users: int, seed: int, lift: float = 0.5
) -> tuple[list[Event], dict[str, list[str]]]:
    """Return purchases of two days: a user buys at most a few items, for very different amounts."""
    chance = np.random.default_rng(seed)
    ids = [f"u{number}" for number in range(users)]
    lists = {user: [f"i{n}" for n in chance.permutation(40)[:5]] for user in ids}
    events = [Event(user, "x", T0, "click") for user in ids]
    for user in ids:
        factor = 1 + lift if assign_arm(user, experiment) == "model" else 1
        for _ in range(chance.poisson(1.2 * factor)):
            item = str(chance.choice(lists[user])) if chance.random() < 0.5 else "i99"
            time = T0 + DAY + int(chance.integers(1, 2 * DAY))
            events.append(Event(user, item, time, "purchase", float(chance.lognormal(3, 1))))
            events.append(Event(user, f"i{chance.integers(40)}", time, "click", 1e6))
    events.append(Event(ids[0], "x", T0 + 3 * DAY, "click"))
    return events, lists


def test_the_interval_of_revenue_is_that_of_a_bootstrap_over_users(tmp_path: Path) -> None:
    events, lists = simulate_purchases(HOLDOUT, 1500, 1)
    history = ListHistory(tmp_path, success=["purchase"])
    history.publish(lists, at=T0 + DAY, data_until=T0, experiment=HOLDOUT)
    summary = history.compare_arms(to_typed_frame(events))
    assert summary is not None
    assert (summary.name, summary.success, summary.is_uneven) == ("holdout", "purchase", False)
    assert summary.model_users + summary.control_users == 1500
    spent: dict[str, float] = defaultdict(float)
    bought: dict[str, float] = defaultdict(float)
    for event in events:
        if event.kind == "purchase":
            spent[event.user] += event.value or 0
            bought[event.user] += 1
    is_model = np.array([assign_arm(user, HOLDOUT) == "model" for user in lists])
    for effect, by_user in zip(summary.effects[:2], (bought, spent), strict=True):
        per_day = np.array([by_user[user] for user in lists]) / 2
        model, control = per_day[is_model], per_day[~is_model]
        assert effect.model == pytest.approx(model.mean())
        assert effect.control == pytest.approx(control.mean())
        low, high = effect.difference
        assert (low + high) / 2 == pytest.approx(model.mean() - control.mean())
        chance = np.random.default_rng(0)
        differences = [
            chance.choice(model, len(model)).mean() - chance.choice(control, len(control)).mean()
            for _ in range(1000)
        ]
        bootstrap_low, bootstrap_high = np.quantile(differences, [0.025, 0.975])
        assert high - low == pytest.approx(bootstrap_high - bootstrap_low, rel=0.2)
    assert summary.effects[0].lift is not None
    lift_low, lift_high = summary.effects[0].lift
    assert lift_low < 0.5 < lift_high


def test_few_users_without_a_difference_prove_none(tmp_path: Path) -> None:
    found = 0
    for seed in range(20):
        experiment = {**HOLDOUT, "name": f"seed-{seed}"}
        events, lists = simulate_purchases(experiment, 120, seed, lift=0.0)
        history = ListHistory(tmp_path / f"{seed}")
        history.publish(lists, at=T0 + DAY, data_until=T0, experiment=experiment)
        summary = history.compare_arms(to_frame(events))
        assert summary is not None
        low, high = summary.effects[0].difference
        found += not low <= 0 <= high
    # More than 3 of 20 would happen by chance once in 60 times.
    assert found <= 3


def test_the_newest_experiment_is_reported_and_without_one_there_is_no_result(
    tmp_path: Path,
) -> None:
    events, lists = simulate_purchases(HOLDOUT, 200, 1)
    history = ListHistory(tmp_path)
    history.publish(lists, at=T0 + DAY, data_until=T0)
    assert history.compare_arms(to_frame(events)) is None
    for day, name in ((2, "first"), (3, "second")):
        experiment = {**HOLDOUT, "name": name}
        at = T0 + DAY + day * 1000
        history.publish(lists, at=at, data_until=at - 1000, experiment=experiment)
    summary = history.compare_arms(to_frame(events))
    assert summary is not None
    assert summary.name == "second"
    # The experiment before no longer counts.
    alone = ListHistory(tmp_path / "alone")
    alone.publish(lists, at=at, data_until=at - 1000, experiment=experiment)
    assert alone.compare_arms(to_frame(events)) == summary
