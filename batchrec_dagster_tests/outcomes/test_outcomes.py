"""What people did with the lists: counted again in plain Python, and what a run keeps and says."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.outcomes.periods import DATA, PUBLICATION, Period
from batchrec_dagster.outcomes.periods import find_periods as periods_of
from batchrec_dagster.reporting.outcomes import (
    NOTHING_YET,
    build_outcomes_section,
    describe_outcome,
)
from batchrec_dagster.steps.outcomes import MeasuredOutcomes, measure_outcomes
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.publications import PublicationRecord, Publications, Rollback
from batchrec_dagster.storage.published_table import Edition, TableWriter
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import declaration, outcomes_of
from batchrec_dagster_tests.guard.editions import complete_about
from batchrec_dagster_tests.guard.repeats import repeats

SHOP = Pipeline.model_validate(declaration("shop", "ratings.csv"))
DAY = 86_400
T0 = 1_700_000_000
LISTED = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}

Lists = Mapping[str, Sequence[str]]
Event = tuple[str, str, int]


@pytest.fixture
def storage(tmp_path: Path) -> StorageResource:
    return StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())


def publish(storage: StorageResource, folder: Path, lists: Lists, **about: Any) -> None:
    table = Work(SHOP, storage).files.table
    rows = [
        {"user_id": user, "rank": rank, "item_id": item}
        for user, items in lists.items()
        for rank, item in enumerate(items, 1)
    ]
    number = table.next_number()
    with TableWriter(folder / "lists.parquet") as writer:
        writer.write(
            pl.DataFrame(
                rows, schema={"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
            ).to_arrow()
        )
        writer.finish(complete_about({"edition": number, "version": f"v{number}", **about}))
    table.publish(writer.path, keep=9)


def format_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def write_events(storage: StorageResource, events: Sequence[Event]) -> None:
    frame = pl.DataFrame(events, schema=["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row")
    storage.store.put(storage.uri(SHOP.storage_keys.interactions), frame.write_csv().encode())


def measure(storage: StorageResource) -> MeasuredOutcomes:
    return measure_outcomes(Work(SHOP, storage))


def sum_plainly(
    events: Sequence[Event],
    lists: Lists,
    known_until: int,
    start: int,
    end: int,
    *,
    excludes_seen: bool,
) -> dict[str, float]:
    """The sums of a period, the slow and plain way."""
    popular = Counter(item for _, item, time in events if time <= known_until)
    items_by_popularity = sorted(popular, key=lambda item: (-popular[item], item))
    had: dict[str, set[str]] = defaultdict(set)
    new: dict[str, set[str]] = defaultdict(set)
    sums: dict[str, float] = defaultdict(float)
    for user, item, time in events:
        if time <= start:
            had[user].add(item)
        elif time <= end and user in lists:
            new[user].add(item)
            sums["interactions"] += 1
    for user in lists:
        new_items = new[user] - (had[user] if excludes_seen else set())
        if not new_items:
            continue
        known_items = {
            item for event_user, item, time in events if event_user == user and time <= known_until
        }
        best = [
            item for item in items_by_popularity if not excludes_seen or item not in known_items
        ][: len(lists[user])]
        for name, listed_items in (("", lists[user]), ("popular_", best)):
            hits = len(new_items & {*listed_items})
            sums[f"{name}hits"] += hits
            sums[f"{name}hit_users"] += hits > 0
            sums[f"{name}recall"] += hits / len(new_items)
        sums["active"] += 1
        sums["new"] += len(new_items)
    return {**sums, "users": len(lists)}


@pytest.mark.parametrize("seed", range(repeats(6, 2)))
@pytest.mark.parametrize("excludes_seen", [True, False])
def test_the_sums_are_those_of_a_plain_count(
    storage: StorageResource, tmp_path: Path, seed: int, *, excludes_seen: bool
) -> None:
    chance = random.Random(seed)
    people, items = [f"u{n}" for n in range(30)], [f"i{n}" for n in range(12)]
    events = [
        (chance.choice(people), chance.choice(items), T0 + chance.randrange(6 * DAY))
        for _ in range(400)
    ]
    # The lists may contain an item that nobody had, and go to people who never did anything.
    editions = [
        {
            user: chance.sample([*items, "new"], chance.randint(1, 5))
            for user in [*chance.sample(people, 20), "stranger"]
        }
        for _ in range(3)
    ]
    for day, lists in enumerate(editions, 1):
        about = {"made_at": format_time(T0 + day * DAY + 3600), "data_until": T0 + day * DAY}
        publish(storage, tmp_path, lists, exclude_seen=excludes_seen, **about)
    write_events(storage, events)
    sums = measure(storage).sums
    newest = max(time for _, _, time in events)
    for day, lists in enumerate(editions, 1):
        start = T0 + day * DAY + 3600
        end = start + DAY if day < 3 else newest
        expected = sum_plainly(
            events, lists, T0 + day * DAY, start, end, excludes_seen=excludes_seen
        )
        edition_sums = sums.filter(edition=day)
        for name, value in expected.items():
            assert edition_sums[name].sum() == pytest.approx(value), (day, name)


LISTS = {"ann": ["a", "b"], "bob": ["b", "c"], "eve": ["c", "d"]}
BEFORE = [("ann", "x", T0), ("bob", "x", T0), ("bob", "a", T0 - 5), ("eve", "b", T0 - 9)]


def test_only_what_came_after_counts_and_nothing_else_changes_the_rates(
    storage: StorageResource, tmp_path: Path
) -> None:
    publish(storage, tmp_path, LISTS, made_at=format_time(T0 + 60), data_until=T0)
    later_events = [("ann", "a", T0 + 61), ("ann", "z", T0 + 70), ("bob", "z", T0 + 80)]
    write_events(storage, [*BEFORE, *later_events])
    (first,) = measure(storage).outcomes
    assert (first.users, first.active_users, first.new_interactions, first.on_list) == (3, 2, 3, 1)
    assert first.hit_rate is not None
    assert first.recall is not None
    assert (first.hit_rate.value, first.recall.value) == (0.5, 0.25)
    # Two users prove nothing, even where they agree.
    assert first.gain is not None
    assert first.gain.low < 0 < first.gain.high
    # These were chosen before the lists were published, had before, or by somebody without a list.
    leaks = [("eve", "c", T0 + 60), ("ann", "x", T0 + 65), ("zoe", "a", T0 + 75)]
    write_events(storage, [*BEFORE, *later_events, *leaks])
    (second_outcome,) = measure(storage).outcomes
    assert second_outcome.hit_rate == first.hit_rate
    assert second_outcome.recall == first.recall


def test_without_later_interactions_there_is_no_number(
    storage: StorageResource, tmp_path: Path
) -> None:
    publish(storage, tmp_path, LISTS, made_at=format_time(T0 + 60), data_until=T0)
    write_events(storage, BEFORE)
    measurement = measure(storage)
    assert measurement.outcomes == []
    assert measurement.table.is_empty()
    # Nobody with a list did anything.
    write_events(storage, [*BEFORE, ("zoe", "a", T0 + 90)])
    (outcome,) = measure(storage).outcomes
    assert (outcome.active_users, outcome.hit_rate, outcome.gain) == (0, None, None)
    (sentence,) = describe_outcome(outcome)
    assert sentence.endswith("0 of 3 users chose items that they did not have.")


def test_a_rerun_changes_nothing_and_what_history_dropped_stays(
    storage: StorageResource, tmp_path: Path
) -> None:
    events = [*BEFORE]
    for night in range(1, 4):
        publish(
            storage,
            tmp_path,
            LISTS,
            made_at=format_time(T0 + night * DAY),
            data_until=T0 + (night - 1) * DAY,
        )
        events.append(("ann", f"{night}", T0 + night * DAY + 5))
        write_events(storage, events)
    first = measure(storage)
    assert [outcome.edition for outcome in first.outcomes] == [1, 2, 3]
    assert outcomes_of(first.table) == first.outcomes
    assert measure(storage).sums.equals(first.sums)
    for old in storage.store.list(Work(SHOP, storage).files.table.history):
        storage.store.delete(old.uri)
    assert measure(storage).sums.equals(first.sums)


def test_a_rollback_is_remembered_when_the_restored_edition_is_no_longer_kept(
    storage: StorageResource, tmp_path: Path
) -> None:
    files = Work(SHOP, storage).files
    publications = Publications(files)
    events = [*BEFORE]

    def publish_at(day: int) -> None:
        about = {"made_at": format_time(T0 + day * DAY), "data_until": T0}
        publish(storage, tmp_path, LISTS, **about)
        publications.settle()

    def measure_at(day: int) -> MeasuredOutcomes:
        events.append(("ann", f"day {day}", T0 + day * DAY - 5))
        write_events(storage, events)
        return measure(storage)

    publish_at(1)
    measure_at(2)
    publish_at(2)
    measure_at(3)
    # From the second edition back to the first.
    (first,) = files.table.older()
    moment = datetime.fromtimestamp(T0 + 3 * DAY, UTC)
    record = replace(publications.read(), rollback=Rollback("run", "1", 1, moment))
    publications.write(record)
    files.table.put_back(first, keep=9)
    publications.settle()
    measure_at(4)
    publish_at(4)
    before = measure_at(5).sums
    spans = before.select("edition", "start").unique().sort("start").rows()
    assert [(number, (start - T0) // DAY) for number, start in spans] == [
        (1, 1),
        (2, 2),
        (1, 3),
        (3, 4),
    ]
    # The first edition leaves the history, and what was measured of it does not change.
    storage.store.delete(f"{files.table.history}{first.name}.parquet")
    assert measure(storage).sums.equals(before)
    after = measure_at(6).sums
    assert after.filter(pl.col("edition") < 3).equals(before.filter(pl.col("edition") < 3))
    assert after["interactions"].sum() == 5


def test_sums_that_something_cut_are_refused_by_name(
    storage: StorageResource, tmp_path: Path
) -> None:
    publish(storage, tmp_path, LISTS, made_at=format_time(T0 + 60), data_until=T0)
    write_events(storage, [*BEFORE, ("ann", "a", T0 + 90)])
    first = measure(storage)
    storage.store.put(storage.uri(SHOP.storage_keys.outcome_sums), b"PAR1")
    with pytest.raises(StorageError, match=r"sums.parquet.*delete it"):
        measure(storage)
    storage.store.delete(storage.uri(SHOP.storage_keys.outcome_sums))
    assert measure(storage).sums.equals(first.sums)


def build_editions(*made_times: int, data_until: Sequence[int] = ()) -> list[Edition]:
    until = data_until or [made_time - 60 for made_time in made_times]
    return [
        Edition(
            complete_about(
                {
                    "edition": n,
                    "version": "v",
                    "made_at": format_time(made_time),
                    "data_until": known_until,
                }
            ),
            "",
        )
        for n, (made_time, known_until) in enumerate(zip(made_times, until, strict=True), 1)
    ]


def find_periods(
    editions: Sequence[Edition], newest: int, rolled_back_to: Sequence[tuple[int, int]] = ()
) -> list[Period]:
    """The periods of editions that were published one after the other, and then rolled back.

    rolled_back_to: the number of an edition, and the time.
    """
    record = PublicationRecord()
    for edition in editions:
        record = record.add_live(edition, None)
    for number, time in rolled_back_to:
        moment = datetime.fromtimestamp(time, UTC)
        record = replace(record, rollback=Rollback("run", "previous", number, moment))
        record = record.add_live(editions[number - 1], None)
    return periods_of(editions, newest, record.publications)


def list_spans(periods: Sequence[Any]) -> list[tuple[int, int, int]]:
    return [(period.edition.number, period.start, period.end) for period in periods]


def test_periods_run_from_publication_to_publication() -> None:
    periods = find_periods(build_editions(100, 200, 300), newest=250)
    assert list_spans(periods) == [(1, 100, 200), (2, 200, 250)]
    assert {period.since for period in periods} == {PUBLICATION}


def test_what_an_edition_was_made_from_is_not_after_it() -> None:
    ahead = build_editions(100, 200, data_until=[90, 250])
    assert list_spans(find_periods(ahead, newest=250)) == [(1, 100, 250)]
    assert list_spans(find_periods(ahead, newest=300)) == [(1, 100, 250), (2, 250, 300)]
    # The second was rolled back before the first interaction that could follow it.
    assert list_spans(find_periods(ahead, 300, [(1, 220)])) == [(1, 100, 300)]


def test_after_a_rollback_people_get_the_older_lists_again() -> None:
    rollback = [(1, 250)]
    periods = find_periods(build_editions(100, 200), 400, rollback)
    assert list_spans(periods) == [(1, 100, 200), (2, 200, 250), (1, 250, 400)]
    # An edition is published again while it is published if a killed rollback is run again.
    two_rollbacks = [*rollback, (1, 260)]
    assert list_spans(find_periods(build_editions(100, 200), 400, two_rollbacks)) == list_spans(
        periods
    )


def test_an_edition_that_is_not_kept_still_ends_the_periods_of_others() -> None:
    editions = build_editions(100, 200, 300, data_until=[10, 20, 30])
    record = PublicationRecord()
    for edition in editions:
        record = record.add_live(edition, None)
    kept = [editions[0], editions[2]]
    periods = periods_of(kept, 400, record.publications)
    assert list_spans(periods) == [(1, 100, 200), (3, 300, 400)]
    periods_of_data = periods_of(kept, 90, record.publications)
    assert list_spans(periods_of_data) == [(1, 10, 20), (3, 30, 90)]


def test_data_that_end_before_any_publication_count_from_their_own_end() -> None:
    old_editions = build_editions(9_000, 9_100, 9_200, data_until=[100, 200, 200])
    periods = find_periods(old_editions, newest=300)
    assert list_spans(periods) == [(1, 100, 200), (3, 200, 300)]
    assert {period.since for period in periods} == {DATA}


def test_the_report_has_the_numbers_of_a_plain_count(
    storage: StorageResource, tmp_path: Path
) -> None:
    chance = random.Random(1)
    events = [
        (f"u{chance.randrange(40)}", f"i{chance.randrange(9)}", T0 + chance.randrange(3 * DAY))
        for _ in range(400)
    ]
    lists = {f"u{n}": chance.sample([f"i{n}" for n in range(9)], 3) for n in range(40)}
    for day in (1, 2):
        known_until = T0 + day * DAY
        publish(
            storage, tmp_path, lists, made_at=format_time(known_until + 60), data_until=known_until
        )
    write_events(storage, events)
    newest = max(time for _, _, time in events)
    known_until = T0 + 2 * DAY
    plain = sum_plainly(events, lists, known_until, known_until + 60, newest, excludes_seen=True)
    section = build_outcomes_section(measure(storage).outcomes)
    values = {
        tile.fact: float(re.findall('value="(.+?)"', tile.value)[0]) for tile in section.tiles
    }
    assert values == {
        "hit_rate": pytest.approx(plain["hit_users"] / plain["active"]),
        "list_share": pytest.approx(plain["hits"] / plain["new"]),
        "outcome_recall": pytest.approx(plain["recall"] / plain["active"]),
        "active_users": plain["active"],
    }
    popular = f"{plain['popular_hit_users'] / plain['active']:.1%}"
    assert f"would have reached {popular}." in section.text[0]
    (figure,) = section.figures
    assert figure.chart is not None
    assert [row[0].partition(".")[0] for row in figure.rows] == ["2", "1"]
    assert build_outcomes_section([]).text == [NOTHING_YET]
