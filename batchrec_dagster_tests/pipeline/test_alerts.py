"""One alert when a run of the pipeline fails, to each URL of Apprise, without secrets."""

from __future__ import annotations

import logging

import dagster as dg
import pytest

from batchrec_dagster.config.project import Alerts
from batchrec_dagster.pipeline.automation.alerts import alert_sensors
from batchrec_dagster.pipeline.automation.send_alert import AlertError, Message, send_alert
from batchrec_dagster.storage import extras
from batchrec_dagster.storage.extras import ExtraMissingError
from batchrec_dagster_tests.guard.builders import Project, declaration, definitions, write_ratings
from batchrec_dagster_tests.guard.hostile import CONTROLS, HOSTILE, OUTSIDE
from batchrec_dagster_tests.guard.servers.inbox import (
    ALERTS,
    ON_FAILURE,
    ON_LISTS,
    Inbox,
    inbox,
    open_inbox,
    tick,
)
from batchrec_dagster_tests.pipeline.alerts_support import make_pipeline

__all__ = ["inbox"]
pytestmark = pytest.mark.slow


def test_a_failed_run_is_alerted_once_with_step_reason_and_link(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    source = write_ratings(project.root / "ratings.csv", users=20)
    project.declare(declaration("shop", source, alerts=ALERTS))
    project.declare(declaration("shop_2", source))
    with definitions(project) as defs:
        name = ON_FAILURE
        first = tick(defs, name, instance, None)
        # Another pipeline's failure is not this one's, though its name begins with it.
        for job in ("shop_2_refresh", "shop_refresh"):
            result = defs.resolve_job_def(job).execute_in_process(
                instance=instance, raise_on_error=False
            )
            assert not result.success
        cursor = first.cursor
        for _ in range(4):
            cursor = tick(defs, name, instance, cursor).cursor
    (text,) = inbox.texts
    title, reason, link = text.splitlines()
    assert title == "batchrec: shop_refresh failed"
    assert reason.startswith("Step shop__interactions: enough_interactions: ")
    assert "Personalize needs 1,000 interactions" in reason
    assert link == f"Run: https://dagster.example.com/runs/{result.run_id}"


def test_a_failed_run_of_some_assets_is_alerted_too(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    project.declare(declaration("shop", "missing.csv", alerts=ALERTS))
    with definitions(project) as defs:
        name = ON_FAILURE
        cursor = tick(defs, name, instance, None).cursor
        # The job of which the UI and `dagster asset materialize` run a part.
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["shop", "raw_ratings"])],
            raise_on_error=False,
        )
        assert not result.success
        cursor = tick(defs, name, instance, cursor).cursor
    (text,) = inbox.texts
    assert text.startswith("batchrec: a run of some assets of shop failed\nStep shop__raw_ratings:")
    assert "missing.csv" in text


def test_a_run_of_another_code_location_is_left_to_it(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    project.declare(declaration("shop", "missing.csv", alerts=ALERTS))
    with definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        job = defs.resolve_job_def("shop_refresh")
        job.execute_in_process(instance=instance, raise_on_error=False)
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


def test_a_check_of_its_own_that_closes_is_named_with_what_it_found(
    instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    pipeline = make_pipeline()

    @dg.asset(key_prefix="shop")
    def solution_version() -> None: ...

    @dg.asset_check(asset=solution_version, blocking=True)
    def gate() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description="NDCG@25 .05 is below .10")

    job = dg.define_asset_job("shop_refresh", selection="*")
    defs = dg.Definitions(
        assets=[solution_version],
        asset_checks=[gate],
        jobs=[job],
        sensors=alert_sensors({"shop": pipeline})[:1],
    )
    cursor = tick(defs, ON_FAILURE, instance, None).cursor
    defs.resolve_job_def("shop_refresh").execute_in_process(instance=instance, raise_on_error=False)
    tick(defs, ON_FAILURE, instance, cursor)
    (text,) = inbox.texts
    assert "Check of shop/solution_version: gate: NDCG@25 .05 is below .10" in text


def fails(*reasons: str, **alerts: str) -> dg.Definitions:
    """A job whose runs fail for these reasons, and the sensor that tells of it."""
    reasons_left = iter(reasons)

    @dg.asset(key_prefix="shop")
    def interactions() -> None:
        raise dg.Failure(next(reasons_left))

    jobs = [dg.define_asset_job("shop_refresh", selection="*")]
    sensors = alert_sensors({"shop": make_pipeline(alerts={**ALERTS, **alerts})})[:1]
    return dg.Definitions(assets=[interactions], jobs=jobs, sensors=sensors)


def run(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    defs.resolve_job_def("shop_refresh").execute_in_process(instance=instance, raise_on_error=False)


@pytest.mark.attack
def test_data_in_an_alert_are_text(instance: dg.DagsterInstance, inbox: Inbox) -> None:
    chats = "<!channel> <https://evil.example|pay> @everyone [pay](https://evil.example) NDCG@25"
    reason = "\n".join([*HOSTILE, chats, f"Run: https://{OUTSIDE}/"])
    name, defs = ON_FAILURE, fails(reason)
    cursor = tick(defs, name, instance, None).cursor
    run(defs, instance)
    tick(defs, name, instance, cursor)
    (text,) = inbox.texts
    title, first, *lines, link = text.split("\n")
    assert title == "batchrec: shop_refresh failed"
    # What chats read as a mention, a command or a link is broken by a space of no width.
    for mark in ("<!", "<https", "@every", "]("):
        assert mark not in text
    visible_text = text.replace("\u200b", "")
    visible_lines = [line.replace("\u200b", "") for line in lines]
    assert first.replace("\u200b", "") == f"Step shop__interactions: {HOSTILE[0]}"
    assert [line for line in lines if not line.startswith("  ")] == []
    assert {f"  {text}" for text in [*HOSTILE[1:4], chats]} <= set(visible_lines)
    assert link.startswith("Run: https://dagster.example.com/runs/")
    assert not CONTROLS.search(visible_text)


def test_a_message_that_is_not_delivered_fails_the_tick_and_is_not_repeated(
    instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    name, defs = ON_FAILURE, fails("first", "second")
    cursor = tick(defs, name, instance, None).cursor
    run(defs, instance)
    inbox.answers = [500]
    result = tick(defs, name, instance, cursor)
    (failed_run,) = result.dagster_run_reactions
    assert "AlertError" in str(failed_run.error)
    assert "not delivered to JSON (URL 1 of SHOP_ALERTS)" in str(failed_run.error)
    assert "planted" not in str(failed_run.error)
    run(defs, instance)
    tick(defs, name, instance, result.cursor)
    assert [text.splitlines()[1] for text in inbox.texts] == ["Step shop__interactions: second"]


def test_an_unexpected_error_is_alerted_with_whether_it_is_retried(
    instance: dg.DagsterInstance, inbox: Inbox
) -> None:
    @dg.asset(key_prefix="shop")
    def interactions() -> None:
        raise ZeroDivisionError("division by zero")

    defs = dg.Definitions(
        assets=[interactions],
        jobs=[dg.define_asset_job("shop_refresh", selection="*")],
        sensors=alert_sensors({"shop": make_pipeline()})[:1],
    )
    cursor = tick(defs, ON_FAILURE, instance, None).cursor
    result = defs.resolve_job_def("shop_refresh").execute_in_process(
        instance=instance, raise_on_error=False
    )
    instance.add_run_tags(result.run_id, {"dagster/will_retry": "true"})
    tick(defs, ON_FAILURE, instance, cursor)
    (text,) = inbox.texts
    assert text.splitlines()[1:3] == [
        "Step shop__interactions: ZeroDivisionError: division by zero",
        "Dagster will retry it.",
    ]


def test_two_sensors_alert_for_all_pipelines_and_one_url_holds_up_no_other(
    project: Project,
    instance: dg.DagsterInstance,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLUB_ALERTS", "json://127.0.0.1:9/planted-path")
    alerts: dict[str, dict[str, str]] = {
        "club": {"urls_env": "CLUB_ALERTS"},
        "shop": ALERTS,
        "toys": {},
    }
    for name, settings in alerts.items():
        project.declare(declaration(name, "missing.csv", alerts=settings))
    with definitions(project) as defs:
        names = {sensor.name for sensor in defs.get_repository_def().sensor_defs}
        assert names == {ON_FAILURE, ON_LISTS, *(f"{name}_new_files" for name in alerts)}
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        # A team's own job, with assets of two pipelines.
        theirs = dg.Definitions.merge(
            defs, dg.Definitions(jobs=[dg.define_asset_job("nightly", "*")])
        )
        for job in ("nightly", "toys_refresh", "shop_refresh"):
            run = theirs.resolve_job_def(job)
            assert not run.execute_in_process(instance=instance, raise_on_error=False).success
        for _ in range(3):
            cursor = tick(defs, ON_FAILURE, instance, cursor).cursor
    titles = [text.splitlines()[0] for text in inbox.texts]
    assert titles == ["batchrec: nightly failed", "batchrec: shop_refresh failed"]


def test_without_urls_there_are_no_alerts(project: Project) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    with definitions(project) as defs:
        names = {sensor.name for sensor in defs.get_repository_def().sensor_defs}
    assert names == {"shop_new_files"}


def test_each_of_several_urls_gets_the_message_though_one_fails(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_inbox() as other:
        urls = f"{inbox.url} json://127.0.0.1:9/planted-path {other.url}"
        monkeypatch.setenv("SHOP_ALERTS", urls)
        with pytest.raises(AlertError, match=r"to JSON \(URL 2 of SHOP_ALERTS\): check") as error:
            send_alert(Alerts(urls_env="SHOP_ALERTS"), Message("a", ["b", "c"]))
        assert inbox.texts == other.texts == ["a\nb\nc"]
    assert "planted" not in str(error.value)


@pytest.mark.parametrize(
    "urls",
    ["", "planted-secret", "nobody://planted-secret/x", "json://", "http://[planted-secret/x"],
)
def test_a_message_that_nobody_gets_is_an_error_without_the_url(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    urls: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SHOP_ALERTS", urls)
    with pytest.raises(AlertError, match="set the environment variable SHOP_ALERTS") as error:
        send_alert(Alerts(urls_env="SHOP_ALERTS"), Message("a", []))
    assert "planted" not in f"{error.value}{caplog.text}{capfd.readouterr()}"


def test_no_url_is_in_the_log_when_the_service_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SHOP_ALERTS", "json://user:planted-password@127.0.0.1:9/planted-path")
    with pytest.raises(AlertError) as error:
        send_alert(Alerts(urls_env="SHOP_ALERTS"), Message("a", ["planted-password"]))
    assert "planted" not in f"{error.value}{caplog.text}"


def test_without_the_extra_it_says_how_to_install_it(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extras.EXTRAS, "alerts", ("apprise_is_missing",))
    with pytest.raises(ExtraMissingError, match=r"pip install 'batchrec-dagster\[alerts\]'"):
        send_alert(Alerts(urls_env="SHOP_ALERTS"), Message("a", []))
