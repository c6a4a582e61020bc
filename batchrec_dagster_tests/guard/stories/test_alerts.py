"""Who is to know gets one message: of a failed run, of late lists, of new lists if wanted."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.hostile import CONTROLS, HOSTILE
from batchrec_dagster_tests.guard.seams.declaration import look_at, publish_lists
from batchrec_dagster_tests.guard.servers.inbox import (
    ALERTS,
    ON_FAILURE,
    ON_LISTS,
    Inbox,
    open_inbox,
    tick,
)

pytestmark = pytest.mark.slow


# A failed run


def fail(
    defs: dg.Definitions, instance: dg.DagsterInstance, name: str = "shop"
) -> dg.ExecuteInProcessResult:
    """A refresh that ends at the first step."""
    result = defs.resolve_job_def(f"{name}_refresh").execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey([name, "raw_ratings"])],
        raise_on_error=False,
    )
    assert not result.success
    return result


def test_a_failed_run_is_told_once_with_step_reason_and_link(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    source = write_ratings(project.root / "ratings.csv", users=20)
    project.declare(declaration("shop", source, alerts=ALERTS))
    project.declare(declaration("shop_2", source))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        # Another pipeline's failure is not this one's, though its name begins with it.
        for job in ("shop_2_refresh", "shop_refresh"):
            result = defs.resolve_job_def(job).execute_in_process(
                instance=instance, raise_on_error=False
            )
            assert not result.success
        for _ in range(4):
            cursor = tick(defs, ON_FAILURE, instance, cursor).cursor
    (text,) = inbox.texts
    title, reason, link = text.splitlines()
    assert "shop_refresh" in title
    assert "interactions" in reason
    assert "1,000" in reason
    assert link.endswith(f"https://dagster.example.com/runs/{result.run_id}")


def test_a_failed_run_of_some_assets_or_of_a_teams_job_is_told_too(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    project.declare(declaration("shop", "missing.csv", alerts=ALERTS))
    project.declare(declaration("toys", "missing.csv"))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        # The job of which the UI and `dagster asset materialize` run a part.
        defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["shop", "raw_ratings"])],
            raise_on_error=False,
        )
        nightly = dg.Definitions(jobs=[dg.define_asset_job("nightly", "*")])
        dg.Definitions.merge(defs, nightly).resolve_job_def("nightly").execute_in_process(
            instance=instance, raise_on_error=False
        )
        fail(defs, instance, "toys")
        for _ in range(3):
            cursor = tick(defs, ON_FAILURE, instance, cursor).cursor
    some_assets, of_the_team = inbox.texts
    assert "shop" in some_assets.splitlines()[0]
    assert "missing.csv" in some_assets
    assert "nightly" in of_the_team.splitlines()[0]


def test_a_failed_run_of_another_code_location_is_left_to_it(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    project.declare(declaration("shop", "missing.csv", alerts=ALERTS))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        fail(defs, instance)
        repository = defs.get_repository_def()
        context = dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            repository_def=repository,
            repository_name="another",
            sensor_name=ON_FAILURE,
        )
        repository.get_sensor_def(ON_FAILURE).evaluate_tick(context)
    assert inbox.texts == []


@pytest.mark.attack
def test_data_in_a_message_are_text(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    chats = "<!channel> <https://evil.example|pay> @everyone [pay](https://evil.example) NDCG@25"
    names = [chats, "line\nRun: https://evil.example/", *HOSTILE]
    pl.DataFrame({name: ["x"] for name in names}).write_parquet(project.root / "ratings.parquet")
    project.declare(declaration("shop", "ratings.parquet", alerts=ALERTS))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        result = defs.resolve_job_def("shop_refresh").execute_in_process(
            instance=instance, raise_on_error=False
        )
        tick(defs, ON_FAILURE, instance, cursor)
    (text,) = inbox.texts
    # What chats read as a mention, a command or a link is broken by a space of no width.
    for mark in ("<!", "<https", "@every", "]("):
        assert mark not in text
    visible = text.replace("\u200b", "")
    assert chats in visible
    assert not CONTROLS.search(visible)
    # No line of the data passes for one of batchrec's.
    links = [line for line in text.splitlines() if line.startswith("Run: ")]
    assert links == [f"Run: https://dagster.example.com/runs/{result.run_id}"]


def test_a_secret_in_a_reason_is_hidden(
    project: Project,
    instance: dg.DagsterInstance,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_API_TOKEN", "planted-token")
    project.declare(declaration("shop", "planted-token.csv", alerts=ALERTS))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        fail(defs, instance)
        tick(defs, ON_FAILURE, instance, cursor)
    (text,) = inbox.texts
    assert "***.csv" in text
    assert "planted" not in text


def test_a_message_that_is_not_taken_fails_the_look_and_is_not_repeated(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    project.declare(declaration("shop", "missing.csv", alerts=ALERTS))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        fail(defs, instance)
        inbox.answers = [500]
        look = tick(defs, ON_FAILURE, instance, cursor)
        (reaction,) = look.dagster_run_reactions
        assert "SHOP_ALERTS" in str(reaction.error)
        assert "planted" not in str(reaction.error)
        second = fail(defs, instance)
        tick(defs, ON_FAILURE, instance, look.cursor)
    (text,) = inbox.texts
    assert second.run_id in text


def test_a_message_says_whether_dagster_tries_again(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    project.declare(declaration("shop", "missing.csv", alerts=ALERTS))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        for will_retry in ("false", "true"):
            instance.add_run_tags(fail(defs, instance).run_id, {"dagster/will_retry": will_retry})
        for _ in range(2):
            cursor = tick(defs, ON_FAILURE, instance, cursor).cursor
    assert ["retry" in text for text in inbox.texts] == [False, True]


def test_each_url_gets_the_message_though_another_fails(
    project: Project,
    instance: dg.DagsterInstance,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.declare(declaration("shop", "missing.csv", alerts=ALERTS))
    with open_inbox() as other, definitions(project) as defs:
        urls = f"{inbox.url} json://127.0.0.1:9/planted-path {other.url}"
        monkeypatch.setenv("SHOP_ALERTS", urls)
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        fail(defs, instance)
        (reaction,) = tick(defs, ON_FAILURE, instance, cursor).dagster_run_reactions
        assert inbox.texts == other.texts
        assert len(inbox.texts) == 1
    assert "URL 2" in str(reaction.error)
    assert "planted" not in str(reaction.error)


@pytest.mark.parametrize(
    "urls",
    ["", "planted-secret", "nobody://planted-secret/x", "json://", "http://[planted-secret/x"],
)
def test_a_message_that_nobody_can_get_is_an_error_without_the_url(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    urls: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SHOP_ALERTS", urls)
    project.declare(declaration("shop", "missing.csv", alerts=ALERTS))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        fail(defs, instance)
        (reaction,) = tick(defs, ON_FAILURE, instance, cursor).dagster_run_reactions
    assert "SHOP_ALERTS" in str(reaction.error)
    assert "planted" not in f"{reaction.error}{caplog.text}{capfd.readouterr()}"


def test_without_urls_no_sensor_looks(project: Project) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    with definitions(project) as defs:
        names = {sensor.name for sensor in defs.get_repository_def().sensor_defs}
    assert not {ON_FAILURE, ON_LISTS} & names


def test_without_the_extra_it_is_said_how_to_install_it(
    project: Project,
    instance: dg.DagsterInstance,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.declare(declaration("shop", "missing.csv", alerts=ALERTS))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        fail(defs, instance)
        monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
        for module in [name for name in sys.modules if name.partition(".")[0] == "apprise"]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, "apprise", None)
        (reaction,) = tick(defs, ON_FAILURE, instance, cursor).dagster_run_reactions
    assert "batchrec-dagster[alerts]" in str(reaction.error)


# Late lists, and new ones

DAILY = {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "enabled": True}
# 3:00 in Berlin.
DUE = datetime(2026, 1, 10, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dagster's folder with its tables, which are copied ten times as fast as they are made."""
    home = tmp_path_factory.mktemp("empty-home")
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        assert not instance.all_instigator_state()
    return home


@pytest.fixture
def keeping_schedules(empty_home: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """The instance in memory cannot keep schedules."""
    home = shutil.copytree(empty_home, tmp_path / "dagster-home")
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        yield instance


class Watch:
    """Someone who is told of the lists of `shop`: the sensor looks, at times of the test."""

    def __init__(
        self, project: Project, defs: dg.Definitions, instance: dg.DagsterInstance, inbox: Inbox
    ) -> None:
        self.project, self.defs, self.instance, self.inbox = project, defs, instance, inbox
        self.cursor: str | None = None
        self.reason = ""

    def look(self, time: datetime) -> list[str]:
        """The messages that arrive when the sensor looks then."""
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
    """With the settings of the test's parameter beside alerts and a daily schedule."""
    settings: dict[str, Any] = {"schedule": DAILY, **getattr(request, "param", {})}
    alerts = {**ALERTS, **settings.pop("alerts", {})}
    project.declare(declaration("shop", "ratings.csv", alerts=alerts, **settings))
    with definitions(project) as defs:
        yield Watch(project, defs, keeping_schedules, inbox)


def test_a_schedule_that_brings_no_lists_is_told_once_a_day(watch: Watch) -> None:
    publish_lists(watch.project, "shop", DUE - 20 * HOUR)
    messages = []
    # Every hour of three days, with new lists after the first time and the third only.
    for hour in range(-5, 72):
        if hour in (1, 49):
            publish_lists(watch.project, "shop", DUE + hour * HOUR)
        messages += [(hour, text) for text in watch.look(DUE + hour * HOUR)]
    ((hour, text),) = messages
    # A day, and the six hours after which lists are late unless it is declared otherwise.
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


def test_a_night_without_news_publishes_nothing_and_is_late(watch: Watch) -> None:
    """Whatever Dagster records of it."""
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
        # What was there before is not told.
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
