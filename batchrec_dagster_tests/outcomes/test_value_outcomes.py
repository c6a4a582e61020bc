"""What people did with the lists, by columns of users: counted again in plain Python."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.outcomes.arms import CONTROL, MODEL
from batchrec_dagster.outcomes.outcomes_by_value import OutcomesByValue
from batchrec_dagster.outcomes.value_outcomes import FEWEST_ACTIVE, estimate_by_value
from batchrec_dagster.personalize.breakdown import MOST_VALUES
from batchrec_dagster.reporting.outcomes import build_outcomes_section
from batchrec_dagster.steps.outcomes import (
    VALUES_RECORD,
    measure_outcomes,
    read_outcomes_by_value,
)
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.outcomes.test_outcomes import (
    DAY,
    T0,
    format_time,
    publish,
    sum_plainly,
    write_events,
)
from batchrec_dagster_tests.support import declaration

COLUMNS = {"user": "id", "categories": {"COUNTRY": "country"}}
SHOP = Pipeline.model_validate(
    declaration("shop", "ratings.csv", users={"source": "people.csv", "columns": COLUMNS})
)


def write_people(storage: StorageResource, countries: dict[str, str | None]) -> None:
    people = pl.DataFrame({"USER_ID": list(countries), "COUNTRY": list(countries.values())})
    storage.store.put(storage.uri(SHOP.storage_keys.users), people.write_csv().encode())


def test_each_value_is_counted_as_if_it_were_alone(tmp_path: Path) -> None:
    storage = StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())
    chance = random.Random(1)
    people, items = [f"u{n}" for n in range(60)], [f"i{n}" for n in range(12)]
    events = [
        (chance.choice(people), chance.choice(items), T0 + chance.randrange(4 * DAY))
        for _ in range(500)
    ]
    countries = {user: ["AT", "DE", None, "AT|CH"][n % 4] for n, user in enumerate(people)}
    write_people(storage, countries)
    write_events(storage, events)
    lists = {}
    for day in (1, 2):
        lists = {user: chance.sample(items, 3) for user in chance.sample(people, 50)}
        about = {"made_at": format_time(T0 + day * DAY), "data_until": T0 + day * DAY}
        publish(storage, tmp_path, lists, exclude_seen=True, **about)
    work = Work(SHOP, storage)
    outcomes = measure_outcomes(work).outcomes
    by_value = read_outcomes_by_value(work.files)
    assert by_value is not None
    # The newest period alone.
    assert (by_value.edition, by_value.start) == (2, T0 + 2 * DAY)
    [country] = by_value.columns
    assert country.column == "COUNTRY"
    assert country.values[0].value == "AT"
    assert {value.value for value in country.values} == {"AT", "DE", "CH"}
    newest = max(time for _, _, time in events)
    for value in country.values:
        own = {u: listed for u, listed in lists.items() if str(value.value) in str(countries[u])}
        expected = sum_plainly(events, own, T0 + 2 * DAY, T0 + 2 * DAY, newest, excludes_seen=True)
        assert (value.users, value.active_users) == (len(own), expected["active"])
        assert value.hit_rate == pytest.approx(expected["hit_users"] / expected["active"])
        assert value.popular_hit_rate == pytest.approx(
            expected["popular_hit_users"] / expected["active"]
        )
        assert (value.interval is None) == (expected["active"] < FEWEST_ACTIVE)

    section = build_outcomes_section(outcomes, by_value=by_value)
    assert [figure.name for figure in section.figures] == ["outcomes-over-time", "outcomes-column1"]
    assert [row[0] for row in section.figures[1].rows] == [value.value for value in country.values]
    # Those of another period are not of the newest outcomes.
    old = OutcomesByValue(1, by_value.start, by_value.columns)
    assert len(build_outcomes_section(outcomes, by_value=old).figures) == 1

    # A damaged record says nothing, and is written again.
    uri = storage.uri(SHOP.storage_keys.list_record(VALUES_RECORD))
    assert b"u1" not in storage.store.get(uri)
    storage.store.put(uri, b'{"edition": "two"}')
    assert read_outcomes_by_value(work.files) is None
    measure_outcomes(work)
    assert read_outcomes_by_value(work.files) == by_value


def test_without_users_nothing_is_kept(tmp_path: Path) -> None:
    storage = StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())
    publish(storage, tmp_path, {"ann": ["a"]}, made_at=format_time(T0), data_until=T0)
    write_events(storage, [("ann", "x", T0 - 5), ("ann", "a", T0 + 5)])
    # The file of users was not made yet.
    assert len(measure_outcomes(Work(SHOP, storage)).outcomes) == 1
    assert read_outcomes_by_value(Work(SHOP, storage).files) is None


def make_measured(active: dict[str, bool], arm: str = MODEL) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": list(active),
            "arm": [arm] * len(active),
            "group": list(range(len(active))),
            "active": [True if is_active else None for is_active in active.values()],
            "hit_users": [is_active and user > "u5" for user, is_active in active.items()],
            "popular_hit_users": [False] * len(active),
        }
    )


def test_rare_values_and_people_who_did_nothing() -> None:
    measured = make_measured({f"u{n}": n != 3 for n in range(10)})
    people = pl.DataFrame(
        {
            "USER_ID": [f"u{n}" for n in range(10)],
            "CITY": [f"C{n}" for n in range(10)],
            "PLAN": ["a", "a", "a", "b", None, "", "a", "a", "a", "a"],
        }
    )
    city, plan = estimate_by_value(measured, people, ["CITY", "PLAN"])
    # Nobody in C3 did anything, and two cities are one group.
    assert len(city.values) == MOST_VALUES
    assert (city.values[-1].value, city.values[-1].users) == (None, 2)
    assert [(v.value, v.users, v.active_users) for v in plan.values] == [("a", 7, 7)]
    assert plan.values[0].hit_rate == pytest.approx(4 / 7)
    assert plan.values[0].interval is None
    # The control has no lists of the model.
    assert estimate_by_value(make_measured({"u1": True}, CONTROL), people, ["PLAN"]) == []
