"""Outcomes and experiments that count purchases: counted plainly, and intervals by a bootstrap."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.outcomes.arms import CONTROL, MODEL, assign_arms
from batchrec_dagster.outcomes.outcome import Outcome
from batchrec_dagster.outcomes.sums import SUMS, VALUES
from batchrec_dagster.reporting.experiment import describe_result
from batchrec_dagster.reporting.outcomes import build_outcomes_section
from batchrec_dagster.steps.outcomes import MeasuredOutcomes, measure_outcomes
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import declaration, outcomes_of
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.outcomes.test_outcomes import DAY, T0, format_time, publish

COLUMNS = {"user": "u", "item": "i", "timestamp": "t", "event_type": "e", "event_value": "v"}
Event = tuple[str, str, int, str, float | None]


def build_shop(*success: str) -> Pipeline:
    ratings = {"source": "ratings.csv", "columns": COLUMNS}
    solution = {"success": [*success]}
    return Pipeline.model_validate(
        declaration("shop", "ratings.csv", ratings=ratings, interactions={}, solution=solution)
    )


@pytest.fixture
def storage(tmp_path: Path) -> StorageResource:
    return StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())


def write_events(storage: StorageResource, events: Sequence[Event]) -> None:
    columns = ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE", "EVENT_VALUE"]
    frame = pl.DataFrame(events, schema=columns, orient="row", infer_schema_length=None)
    uri = storage.uri(build_shop().storage_keys.interactions)
    storage.store.put(uri, frame.write_csv().encode())


def measure(storage: StorageResource, *success: str) -> MeasuredOutcomes:
    return measure_outcomes(Work(build_shop(*success), storage))


def sum_plainly(
    events: Sequence[Event],
    lists: Mapping[str, Sequence[str]],
    span: tuple[int, int, int],
    *,
    excludes_seen: bool,
) -> dict[str, float]:
    """The sums of a period that counts purchases, row by row.

    span: until when the lists know the data, and the period's start and end.
    """
    known_until, start, end = span
    popular = Counter(item for _, item, time, _, _ in events if time <= known_until)
    ranking = sorted(popular, key=lambda item: (-popular[item], item))
    had: dict[str, set[str]] = defaultdict(set)
    known: dict[str, set[str]] = defaultdict(set)
    bought: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for user, item, time, kind, value in events:
        if time <= start:
            had[user].add(item)
        elif time <= end and kind.lower() == "purchase" and user in lists:
            bought[user].append((item, value or 0.0))
        if time <= known_until:
            known[user].add(item)
    sums: dict[str, float] = defaultdict(float)
    for user, listed_items in lists.items():
        sums["users"] += 1
        sums["interactions"] += len(bought[user])
        sums["value"] += sum(value for _, value in bought[user])
        new = {item for item, _ in bought[user]} - (had[user] if excludes_seen else set())
        if not new:
            continue
        unknown = [item for item in ranking if not excludes_seen or item not in known[user]]
        sums["active"] += 1
        sums["new"] += len(new)
        for prefix, items in (("", listed_items), ("popular_", unknown[: len(listed_items)])):
            hits = new & {*items}
            sums[f"{prefix}hits"] += len(hits)
            sums[f"{prefix}hit_users"] += bool(hits)
            sums[f"{prefix}recall"] += len(hits) / len(new)
            sums[f"{prefix}hit_value"] += sum(v for item, v in bought[user] if item in hits)
    return sums


@pytest.mark.parametrize("seed", range(repeats(6, 2)))
@pytest.mark.parametrize("excludes_seen", [True, False])
def test_the_sums_of_purchases_are_those_of_a_plain_count(
    storage: StorageResource, tmp_path: Path, seed: int, *, excludes_seen: bool
) -> None:
    chance = random.Random(seed)
    people, items = [f"u{n}" for n in range(30)], [f"i{n}" for n in range(12)]
    kinds = ["click", "click", "Purchase", "purchase"]
    events: list[Event] = [
        (
            chance.choice(people),
            chance.choice(items),
            T0 + chance.randrange(6 * DAY),
            chance.choice(kinds),
            chance.choice([None, 0.0, -2.5, 19.9, 1000.0]),
        )
        for _ in range(500)
    ]
    lists = {user: chance.sample(items, chance.randint(1, 5)) for user in people[:20]}
    about = {"made_at": format_time(T0 + 2 * DAY), "data_until": T0 + DAY}
    publish(storage, tmp_path, lists, exclude_seen=excludes_seen, **about)
    write_events(storage, events)
    measured = measure(storage, "PURCHASE")
    newest = max(time for _, _, time, _, _ in events)
    span = T0 + DAY, T0 + 2 * DAY, newest
    expected = sum_plainly(events, lists, span, excludes_seen=excludes_seen)
    for name in (*SUMS, *VALUES):
        assert measured.sums[name].sum() == pytest.approx(expected[name]), name
    [outcome] = measured.outcomes
    user_days = 20 * (newest - T0 - 2 * DAY) / DAY
    assert outcome.success == "purchase"
    for rate, name in ((outcome.event_value, "value"), (outcome.list_event_value, "hit_value")):
        assert rate is not None
        assert rate.value == pytest.approx(expected[name] / user_days)
        assert rate.low < rate.value < rate.high
    assert outcome.popular_event_value == pytest.approx(expected["popular_hit_value"] / user_days)
    assert outcomes_of(measured.table) == measured.outcomes


def test_other_events_have_sums_of_their_own(storage: StorageResource, tmp_path: Path) -> None:
    experiment = Experiment(name="a", control="none", control_share=0.5).model_dump()
    people = [f"u{n}" for n in range(80)]
    lists = {user: ["a"] for user in people}
    events: list[Event] = [(user, "x", T0, "click", None) for user in people]

    def publish_at(day: int) -> None:
        about = {"made_at": format_time(T0 + day * DAY), "data_until": T0 + (day - 1) * DAY}
        publish(storage, tmp_path, lists, experiment=experiment, exclude_seen=True, **about)
        time = T0 + day * DAY + 60
        events.extend((user, "a", time, "click", None) for user in people)
        events.extend((user, "b", time + 1, "purchase", 5.0) for user in people[::2])
        write_events(storage, events)

    publish_at(1)
    before = measure(storage)
    assert before.outcomes[0].interactions > 0
    assert (before.outcomes[0].success, before.outcomes[0].event_value) == ("", None)
    assert measure(storage).sums.equals(before.sums)
    # The first edition is no longer kept when purchases start to count.
    publish_at(2)
    for old in storage.store.list(Work(build_shop(), storage).files.table.history):
        storage.store.delete(old.uri)
    after = measure(storage, "purchase")
    assert after.sums.filter(edition=1).drop("end").equals(before.sums.drop("end"))
    assert after.sums.filter(edition=2)["success"].unique().to_list() == ["purchase"]
    assert after.sums.filter(edition=2)["value"].sum() == 5 * 40
    assert measure(storage, "purchase").sums.equals(after.sums)
    result = after.experiment
    assert result is not None
    assert (result.editions, result.other_editions, result.success) == (1, 1, "purchase")
    assert "1 edition before solution.success changed count other events, and are" in (
        " ".join(describe_result(result))
    )


def simulate_purchases(users: int, seed: int) -> tuple[list[Event], dict[str, list[str]]]:
    """Purchases of two days: each user buys at most a few things, for very different amounts."""
    chance = np.random.default_rng(seed)
    ids = [f"u{number}" for number in range(users)]
    lists = {user: [f"i{n}" for n in chance.permutation(40)[:5]] for user in ids}
    lift = np.where(assign_arms(pl.Series(ids), HOLDOUT) == MODEL, 1.5, 1.0)
    events: list[Event] = [(user, "x", T0, "click", None) for user in ids]
    for user, factor in zip(ids, lift, strict=True):
        for _ in range(chance.poisson(1.2 * factor)):
            item = str(chance.choice(lists[user])) if chance.random() < 0.5 else "i99"
            time = T0 + DAY + int(chance.integers(1, 2 * DAY))
            events.append((user, item, time, "purchase", float(chance.lognormal(3, 1))))
            events.append((user, f"i{chance.integers(40)}", time, "click", 1e6))
    events.append((ids[0], "x", T0 + 3 * DAY, "click", None))
    return events, lists


HOLDOUT = Experiment(name="holdout", control_share=0.4, control="popular")


def test_the_interval_of_revenue_is_that_of_a_bootstrap_over_users(
    storage: StorageResource, tmp_path: Path
) -> None:
    events, lists = simulate_purchases(1500, 1)
    about = {"made_at": format_time(T0 + DAY), "data_until": T0, "exclude_seen": True}
    publish(storage, tmp_path, lists, experiment=HOLDOUT.model_dump(), **about)
    write_events(storage, events)
    measured = measure(storage, "purchase")
    result = measured.experiment
    assert result is not None
    assert [effect.measure for effect in result.effects] == [
        "interactions of type purchase",
        "event value",
        "new interactions of type purchase on the list",
        "event value of items on the list",
    ]
    value, value_on_list = result.effects[1], result.effects[3]
    spent: dict[str, float] = defaultdict(float)
    on_list: dict[str, float] = defaultdict(float)
    for user, item, _, kind, amount in events:
        if kind == "purchase":
            spent[user] += amount or 0
            on_list[user] += (amount or 0) * (item in lists[user])
    arms = assign_arms(pl.Series([*lists]), HOLDOUT).to_numpy()
    for effect, by_user in ((value, spent), (value_on_list, on_list)):
        per_day = np.array([by_user[user] for user in lists]) / 2
        by_arm = {arm: per_day[arms == arm] for arm in (MODEL, CONTROL)}
        assert effect.model.value == pytest.approx(by_arm[MODEL].mean())
        assert effect.control.value == pytest.approx(by_arm[CONTROL].mean())
        low, high = bootstrap_difference(by_arm)
        assert effect.difference.high - effect.difference.low == pytest.approx(high - low, rel=0.2)
        assert (effect.difference.low + effect.difference.high) / 2 == pytest.approx(
            by_arm[MODEL].mean() - by_arm[CONTROL].mean()
        )
    text = " ".join(describe_result(result))
    assert "Event value per user and day: " in text
    assert "a lift of +" in text
    assert_section(measured.outcomes)


def bootstrap_difference(values_by_arm: Mapping[str, Any]) -> tuple[float, float]:
    """The 95% interval of the difference of the arms' means, with resampled users."""
    chance = np.random.default_rng(0)
    means = [
        [chance.choice(values, len(values)).mean() for _ in range(1000)]
        for values in (values_by_arm[MODEL], values_by_arm[CONTROL])
    ]
    model, control = np.array(means)
    low, high = np.quantile(model - control, [0.025, 0.975])
    return float(low), float(high)


def assert_section(outcomes: Sequence[Outcome]) -> None:
    section = build_outcomes_section(outcomes)
    text = " ".join(section.text)
    assert "users chose items that they did not have, by purchase alone." in text
    assert "Event value per user and day: " in text
    assert "of that day's most popular items " in text
    assert "Event value" in [tile.title for tile in section.tiles]
