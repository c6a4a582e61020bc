"""What people did with the lists: counted again in plain Python, and what a run keeps and says."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.reporting.insight.outcomes import describe_outcome
from batchrec_dagster.steps.outcome_periods import find_periods as periods_of
from batchrec_dagster.steps.outcomes import MeasuredOutcomes, measure_outcomes
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster.storage.nights import Night
from batchrec_dagster_tests.guard.builders import declaration
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition

SHOP = Pipeline.model_validate(declaration("shop", "ratings.csv"))
LIST = SHOP.user_lists[0]
DAY = 86_400
T0 = 1_700_000_000

Lists = Mapping[str, Sequence[str]]
Event = tuple[str, str, int]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(root=str(tmp_path / "storage"), s3=S3Connection())


def publish(storage: Storage, folder: Path, lists: Lists, **about: Any) -> None:
    table = Work(SHOP, storage).files_of(LIST).editions
    rows = [
        {"user_id": user, "rank": rank, "item_id": item}
        for user, items in lists.items()
        for rank, item in enumerate(items, 1)
    ]
    number = table.next_number()
    with ListWriter(folder / "lists.parquet") as writer:
        writer.write(
            pl.DataFrame(
                rows, schema={"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
            ).to_arrow()
        )
        writer.finish(make_edition({"number": number, "version": f"v{number}", **about}))
    table.publish(writer.path, 9, ALONE)


def format_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def write_events(storage: Storage, events: Sequence[Event]) -> None:
    frame = pl.DataFrame(events, schema=["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row")
    storage.store.put(storage.uri(SHOP.keys.interactions), frame.write_csv().encode())


def measure(storage: Storage) -> MeasuredOutcomes:
    return measure_outcomes(Work(SHOP, storage), LIST)


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
    had_then = {(user, item) for user, item, time in events if time <= known_until}
    popular = Counter(item for _, item in had_then)
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


LISTS = {"ann": ["a", "b"], "bob": ["b", "c"], "eve": ["c", "d"]}
BEFORE = [("ann", "x", T0), ("bob", "x", T0), ("bob", "a", T0 - 5), ("eve", "b", T0 - 9)]


def test_sums_that_something_cut_are_measured_again_with_a_warning(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(storage, tmp_path, LISTS, made_at=format_time(T0 + 60), data_until=T0)
    write_events(storage, [*BEFORE, ("ann", "a", T0 + 90)])
    first = measure(storage)
    storage.store.put(storage.uri(LIST.keys.outcome_sums), b"PAR1")
    assert measure(storage).sums.equals(first.sums)
    assert re.search(r"sums.parquet is damaged .*measured again", caplog.text)


def test_an_edition_that_something_changed_keeps_its_outcomes(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = [*BEFORE, ("ann", "a", T0 + 90), ("bob", "b", T0 + 190)]
    write_events(storage, events)
    for at in (60, 120):
        publish(storage, tmp_path, LISTS, made_at=format_time(T0 + at), data_until=T0)
    first = measure(storage)
    editions = Work(SHOP, storage).files_of(LIST).editions
    older = editions.older()[0]
    content = bytearray(storage.store.get(older.uri))
    content[4:40] = bytes(36)
    storage.store.put(older.uri, bytes(content))
    assert measure(storage).sums.equals(first.sums)
    assert "is damaged, and is not measured again" in caplog.text


def build_editions(*made_times: int, data_until: Sequence[int] = ()) -> list[Edition]:
    until = data_until or [made_time - 60 for made_time in made_times]
    return [
        make_edition(
            {
                "number": n,
                "version": "v",
                "made_at": format_time(made_time),
                "data_until": known_until,
            }
        )
        for n, (made_time, known_until) in enumerate(zip(made_times, until, strict=True), 1)
    ]


def list_spans(periods: Sequence[Any]) -> list[tuple[int, int, int]]:
    return [(period.edition.number, period.start, period.end) for period in periods]


def test_an_edition_that_is_not_kept_still_ends_the_periods_of_others() -> None:
    editions = build_editions(100, 200, 300, data_until=[10, 20, 30])
    publications = [Night.of(edition) for edition in editions]
    kept = [editions[0], editions[2]]
    periods = periods_of(kept, 400, publications)
    assert list_spans(periods) == [(1, 100, 200), (3, 300, 400)]
    periods_of_data = periods_of(kept, 90, publications)
    assert list_spans(periods_of_data) == [(1, 10, 20), (3, 30, 90)]


def test_the_report_has_the_numbers_of_a_plain_count(storage: Storage, tmp_path: Path) -> None:
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
    first, newest_outcome = measure(storage).outcomes
    assert (first.edition, newest_outcome.edition) == (1, 2)
    sentences = " ".join(describe_outcome(newest_outcome))
    assert f"{plain['active']:.0f} of 40 users chose items" in sentences
    assert f"Of these, {plain['hit_users'] / plain['active']:.1%} (95% interval" in sentences
    popular = f"{plain['popular_hit_users'] / plain['active']:.1%}"
    assert f"would have reached {popular}." in sentences
