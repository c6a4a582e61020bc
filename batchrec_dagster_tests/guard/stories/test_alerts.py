"""Tests that each receiver of an alert gets a single message about a failed run."""

from __future__ import annotations

import logging
import sys

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import Project, declaration, definitions, write_ratings
from batchrec_dagster_tests.guard.hostile import CONTROLS, HOSTILE
from batchrec_dagster_tests.guard.servers.inbox import (
    ALERTS,
    ON_FAILURE,
    ON_LISTS,
    Inbox,
    open_inbox,
    tick,
)

pytestmark = pytest.mark.slow


def fail(
    defs: dg.Definitions, instance: dg.DagsterInstance, name: str = "shop"
) -> dg.ExecuteInProcessResult:
    """Run a refresh that fails at the first step."""
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
        # A failure of `shop_2` is not a failure of `shop`, though the names begin alike.
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
        # The UI and `dagster asset materialize` run a part of this job.
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
    # A zero-width space breaks texts that chats read as a mention, a command or a link.
    for mark in ("<!", "<https", "@every", "]("):
        assert mark not in text
    visible = text.replace("\u200b", "")
    assert chats in visible
    assert not CONTROLS.search(visible)
    # No line from the data looks like a line of batchrec's.
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


def test_a_missing_extra_is_reported_with_its_install_command(
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
