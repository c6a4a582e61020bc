"""Tests that each receiver gets a single message about late lists and, if wanted, new lists."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.seams.declaration import (
    look_at,
    publish_lists,
    record_unchanged_night,
)
from batchrec_dagster_tests.guard.servers.inbox import ALERTS, ON_LISTS, Inbox, open_inbox, tick

pytestmark = pytest.mark.slow

DAILY = {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "enabled": True}
# 3:00 in Berlin
DUE = datetime(2026, 1, 10, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Dagster home with its tables, which is copied ten times as fast as made anew."""
    home = tmp_path_factory.mktemp("empty-home")
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        assert not instance.all_instigator_state()
    return home


@pytest.fixture
def keeping_schedules(empty_home: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Yield an instance that stores schedules, which the instance in memory cannot."""
    home = shutil.copytree(empty_home, tmp_path / "dagster-home")
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        yield instance


class Watch:
    """A receiver of messages about the lists of `shop`. The sensor looks at the test's times."""

    def __init__(
        self, project: Project, defs: dg.Definitions, instance: dg.DagsterInstance, inbox: Inbox
    ) -> None:
        self.project, self.defs, self.instance, self.inbox = project, defs, instance, inbox
        self.cursor: str | None = None
        self.reason = ""

    def look(self, time: datetime) -> list[str]:
        """Evaluate the sensor at this time, and return the messages that arrive."""
        texts_before = len(self.inbox.texts)
        with look_at(time):
            result = tick(self.defs, ON_LISTS, self.instance, self.cursor)
        self.cursor, self.reason = result.cursor, result.skip_message or ""
        return self.inbox.texts[texts_before:]


@pytest.fixture
def watch(
    project: Project,
    keeping_schedules: dg.DagsterInstance,
    inbox: Inbox,
    request: pytest.FixtureRequest,
) -> Iterator[Watch]:
    """Return a watch with alerts, a daily schedule and the settings of the test's parameter."""
    settings: dict[str, Any] = {"schedule": DAILY, **getattr(request, "param", {})}
    alerts = {**ALERTS, **settings.pop("alerts", {})}
    project.declare(declaration("shop", "ratings.csv", alerts=alerts, **settings))
    with definitions(project) as defs:
        yield Watch(project, defs, keeping_schedules, inbox)


def test_a_schedule_that_brings_no_lists_is_told_once_a_day(watch: Watch) -> None:
    publish_lists(watch.project, "shop", DUE - 20 * HOUR)
    messages = []
    # The sensor runs every hour for three days. Only the first and third nights bring new lists.
    for hour in range(-5, 72):
        if hour in (1, 49):
            publish_lists(watch.project, "shop", DUE + hour * HOUR)
        messages += [(hour, text) for text in watch.look(DUE + hour * HOUR)]
    ((hour, text),) = messages
    # a day, and the default six hours after which lists are late
    assert hour == 24 + 6
    assert "shop" in text.splitlines()[0]
    assert "2026-01-11 03:00 CET" in text
    assert "2026-01-10 04:00" in text


def test_lists_of_this_morning_are_not_late_if_the_schedule_is_new(watch: Watch) -> None:
    assert watch.look(DUE + 12 * HOUR) == []
    (text,) = watch.look(DUE + 36 * HOUR)
    assert "never" in text


@pytest.mark.parametrize("watch", [{"schedule": {**DAILY, "enabled": False}}], indirect=True)
def test_a_schedule_that_is_off_is_never_late(watch: Watch) -> None:
    assert watch.look(DUE - HOUR) == []
    assert watch.look(DUE + 36 * HOUR) == []


@pytest.mark.parametrize("watch", [{"lists": {"home": {}, "app": {}}}], indirect=True)
def test_the_list_that_is_late_is_named(watch: Watch) -> None:
    assert watch.look(DUE - HOUR) == []
    publish_lists(watch.project, "shop/home", DUE + HOUR)
    (text,) = watch.look(DUE + 7 * HOUR)
    assert "shop/app" in text.splitlines()[0]
    publish_lists(watch.project, "shop/app", DUE + 8 * HOUR)
    assert watch.look(DUE + 9 * HOUR) == []


def test_lists_that_cannot_be_read_do_not_repeat_the_messages_of_others(
    project: Project, keeping_schedules: dg.DagsterInstance, inbox: Inbox
) -> None:
    for name in ("broken", "shop", "toys"):
        project.declare(declaration(name, "ratings.csv", alerts=ALERTS, schedule=DAILY))
    with definitions(project) as defs:
        watch = Watch(project, defs, keeping_schedules, inbox)
        assert watch.look(DUE - HOUR) == []
        publish_lists(project, "toys", DUE + HOUR)
        publish_lists(project, "broken", DUE + HOUR)
        (lists,) = (project.storage / "broken").rglob("recommendations.parquet")
        lists.write_bytes(b"no table")
        (text,) = watch.look(DUE + 7 * HOUR)
        assert "shop is late" in text
        assert "broken" in watch.reason
        assert watch.look(DUE + 8 * HOUR) == []


def test_an_unchanged_night_is_not_late_and_the_next_missing_night_is(watch: Watch) -> None:
    publish_lists(watch.project, "shop", DUE - 20 * HOUR)
    assert watch.look(DUE - HOUR) == []
    record_unchanged_night(watch.project, "shop", DUE + HOUR)
    assert watch.look(DUE + 7 * HOUR) == []
    (text,) = watch.look(DUE + 31 * HOUR)
    assert "shop is late" in text
    assert "2026-01-11 03:00 CET" in text


def test_dagsters_events_alone_do_not_make_lists_punctual(watch: Watch) -> None:
    publish_lists(watch.project, "shop", DUE - 20 * HOUR)
    assert watch.look(DUE - HOUR) == []
    key = dg.AssetKey(["shop", "recommendations"])
    watch.instance.report_runless_asset_event(dg.AssetMaterialization(key))
    assert len(watch.look(DUE + 7 * HOUR)) == 1


def test_late_lists_that_nobody_was_told_of_say_so_in_the_tick(watch: Watch) -> None:
    assert watch.look(DUE - HOUR) == []
    watch.inbox.answers = [500]
    assert watch.look(DUE + 7 * HOUR) == []
    assert "SHOP_ALERTS" in watch.reason
    assert "planted" not in watch.reason


def test_a_receiver_that_was_down_gets_the_alert_later_and_once(watch: Watch) -> None:
    assert watch.look(DUE - HOUR) == []
    watch.inbox.answers = [500, 503]
    assert watch.look(DUE + 7 * HOUR) == []
    assert watch.look(DUE + 8 * HOUR) == []
    (text,) = watch.look(DUE + 9 * HOUR)
    assert "shop is late" in text
    assert watch.look(DUE + 10 * HOUR) == []
    # The next late night brings the next alert.
    assert len(watch.look(DUE + 31 * HOUR)) == 1


def test_only_the_receiver_that_was_down_gets_the_alert_again(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_inbox() as second:
        monkeypatch.setenv("SHOP_ALERTS", f"{watch.inbox.url} {second.url}")
        assert watch.look(DUE - HOUR) == []
        second.answers = [500]
        assert len(watch.look(DUE + 7 * HOUR)) == 1
        assert second.texts == []
        assert watch.look(DUE + 8 * HOUR) == []
        assert len(second.texts) == 1
        assert watch.look(DUE + 9 * HOUR) == []
        assert len(second.texts) == 1


def test_new_lists_are_told_once_with_verdict_and_link(
    first_run_of_shop: None,
    project: Project,
    instance: dg.DagsterInstance,
    keeping_schedules: dg.DagsterInstance,
    inbox: Inbox,
) -> None:
    alerts = {**ALERTS, "published": True}
    project.declare(declaration("shop", "ratings.csv", alerts=alerts))
    with definitions(project) as defs:
        # Earlier lists are not announced.
        cursor = tick(defs, ON_LISTS, keeping_schedules, None).cursor
        assert inbox.texts == []
    write_ratings(project.root / "ratings.csv", users=61)
    assert refresh(project, "shop", instance, report=True).success
    with definitions(project) as defs:
        for _ in range(3):
            cursor = tick(defs, ON_LISTS, keeping_schedules, cursor).cursor
    (text,) = inbox.texts
    title, *lines = text.splitlines()
    assert "edition 2 of shop" in title
    openings = ("Good to send", "Checks passed", "Look before you send", "Do not send")
    assert any(line.startswith(openings) for line in lines)
    assert any("1 new people" in line for line in lines)
    assert lines[-1].endswith("https://dagster.example.com/assets/shop/recommendations")


@pytest.mark.parametrize("watch", [{"alerts": {"published": True}}], indirect=True)
def test_new_lists_wait_for_the_reports_verdict_for_an_hour(watch: Watch) -> None:
    assert watch.look(DUE - HOUR) == []
    publish_lists(watch.project, "shop", DUE)
    assert watch.look(DUE + HOUR / 2) == []
    (text,) = watch.look(DUE + 2 * HOUR)
    assert "edition 1 of shop" in text
    assert watch.look(DUE + 3 * HOUR) == []
