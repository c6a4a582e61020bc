"""One alert when a run fails, on each channel; one that fails is tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.config.project import Alerts
from batchrec_dagster.pipeline.automation.alert import Message
from batchrec_dagster.pipeline.automation.alert_channels import AlertError, send
from batchrec_dagster.pipeline.automation.alerts import alert_sensors
from batchrec_dagster_tests.hostile import CONTROLS, HOSTILE, OUTSIDE
from batchrec_dagster_tests.pipeline.alerts_support import (
    ALERTS,
    ON_FAILURE,
    WHEN_LATE,
    Hook,
    make_pipeline,
    read_published_messages,
    slack,
    tick,
    topic,
)
from batchrec_dagster_tests.support import Project, declaration, definitions, write_ratings

__all__ = ["slack", "topic"]
pytestmark = pytest.mark.slow


def test_a_failed_run_is_alerted_once_with_step_reason_and_link(
    project: Project, instance: dg.DagsterInstance, slack: Hook, topic: str
) -> None:
    source = write_ratings(project.root / "ratings.csv", users=20)
    alerts = {**ALERTS, "sns_topic": topic}
    project.declare(declaration("shop", source, alerts=alerts))
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
    (text,) = slack.posted
    title, reason, link = text.splitlines()
    assert title == "batchrec: shop_refresh failed"
    assert reason.startswith("Step shop__interactions: enough_interactions: ")
    assert "Personalize needs 1,000 interactions" in reason
    assert link == f"Run: https://dagster.example.com/runs/{result.run_id}"
    assert read_published_messages(topic) == [(title, text)]


def test_a_failed_run_of_some_assets_is_alerted_too(
    project: Project, instance: dg.DagsterInstance, slack: Hook
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
    (text,) = slack.posted
    assert text.startswith("batchrec: a run of some assets of shop failed\nStep shop__raw_ratings:")
    assert "missing.csv" in text


def test_a_check_of_its_own_that_closes_is_named_with_what_it_found(
    instance: dg.DagsterInstance, slack: Hook
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
        sensors=alert_sensors({"shop": pipeline}),
    )
    cursor = tick(defs, ON_FAILURE, instance, None).cursor
    defs.resolve_job_def("shop_refresh").execute_in_process(instance=instance, raise_on_error=False)
    tick(defs, ON_FAILURE, instance, cursor)
    (text,) = slack.posted
    assert "Check of shop/solution_version: gate: NDCG@25 .05 is below .10" in text


def fails(*reasons: str, **alerts: str) -> dg.Definitions:
    """A job whose runs fail for these reasons, and the sensors that tell of it."""
    reasons_left = iter(reasons)

    @dg.asset(key_prefix="shop")
    def interactions() -> None:
        raise dg.Failure(next(reasons_left))

    jobs = [dg.define_asset_job("shop_refresh", selection="*")]
    sensors = alert_sensors({"shop": make_pipeline(alerts={**ALERTS, **alerts})})
    return dg.Definitions(assets=[interactions], jobs=jobs, sensors=sensors)


def run(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    defs.resolve_job_def("shop_refresh").execute_in_process(instance=instance, raise_on_error=False)


@pytest.mark.attack
def test_data_in_an_alert_are_text(instance: dg.DagsterInstance, slack: Hook, topic: str) -> None:
    reason = "\n".join([*HOSTILE, f"Run: https://{OUTSIDE}/"])
    name, defs = ON_FAILURE, fails(reason, sns_topic=topic)
    cursor = tick(defs, name, instance, None).cursor
    run(defs, instance)
    tick(defs, name, instance, cursor)
    # The hook asserts that Slack reads no link, mention or formatting in it.
    (text,) = slack.posted
    assert read_published_messages(topic) == [("batchrec: shop_refresh failed", text)]
    _, first, *lines, link = text.split("\n")
    assert first == f"Step shop__interactions: {HOSTILE[0]}"
    assert [line for line in lines if not line.startswith("  ")] == []
    assert {f"  {text}" for text in HOSTILE[1:4]} <= set(lines)
    assert link.startswith("Run: https://dagster.example.com/runs/")
    assert not CONTROLS.search(text)


def test_a_message_that_nobody_took_is_tried_again_until_one_does(
    instance: dg.DagsterInstance, slack: Hook
) -> None:
    name, defs = ON_FAILURE, fails("first", "second", "third")
    cursor = tick(defs, name, instance, None).cursor
    for _ in range(3):
        run(defs, instance)
    slack.answers = [500] * 4
    result = tick(defs, name, instance, cursor)
    assert "HTTP Error 500" in result.skip_message
    # Dagster keeps the cursor of a tick that fails, as one does that has nothing new to remember.
    with pytest.raises(AlertError, match="500"):
        tick(defs, name, instance, result.cursor)
    cursor = result.cursor
    for _ in range(2):
        cursor = tick(defs, name, instance, cursor).cursor
    titles = [text.splitlines()[1].partition(": ")[2] for text in slack.posted]
    assert titles == ["first", "second", "third"]


def test_a_message_that_nobody_took_for_a_day_is_given_up(
    instance: dg.DagsterInstance, slack: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster.pipeline.automation.alerts.GIVE_UP", timedelta(0))
    name, defs = ON_FAILURE, fails("first", "second")
    cursor = tick(defs, name, instance, None).cursor
    run(defs, instance)
    slack.answers = [404]
    result = tick(defs, name, instance, cursor)
    assert (
        "given up: batchrec: shop_refresh failed: Slack (SHOP_HOOK): the webhook answers 404"
        in (result.skip_message)
    )
    run(defs, instance)
    tick(defs, name, instance, result.cursor)
    assert [text.splitlines()[1] for text in slack.posted] == ["Step shop__interactions: second"]


def test_a_message_that_one_way_took_is_not_sent_again(
    instance: dg.DagsterInstance, slack: Hook, topic: str
) -> None:
    name, defs = ON_FAILURE, fails("first", sns_topic=topic)
    cursor = tick(defs, name, instance, None).cursor
    run(defs, instance)
    slack.answers = [404]
    for _ in range(3):
        cursor = tick(defs, name, instance, cursor).cursor
    assert slack.posted == []
    assert len(read_published_messages(topic)) == 1


def test_an_unexpected_error_is_alerted_with_whether_it_is_retried(
    instance: dg.DagsterInstance, slack: Hook
) -> None:
    @dg.asset(key_prefix="shop")
    def interactions() -> None:
        raise ZeroDivisionError("division by zero")

    defs = dg.Definitions(
        assets=[interactions],
        jobs=[dg.define_asset_job("shop_refresh", selection="*")],
        sensors=alert_sensors({"shop": make_pipeline()}),
    )
    cursor = tick(defs, ON_FAILURE, instance, None).cursor
    result = defs.resolve_job_def("shop_refresh").execute_in_process(
        instance=instance, raise_on_error=False
    )
    instance.add_run_tags(result.run_id, {"dagster/will_retry": "true"})
    tick(defs, ON_FAILURE, instance, cursor)
    (text,) = slack.posted
    assert text.splitlines()[1:3] == [
        "Step shop__interactions: ZeroDivisionError: division by zero",
        "Dagster will retry it.",
    ]


def test_two_sensors_alert_for_all_pipelines_and_one_channel_holds_up_no_other(
    project: Project, instance: dg.DagsterInstance, slack: Hook, topic: str
) -> None:
    channels: dict[str, dict[str, str]] = {"club": ALERTS, "shop": {"sns_topic": topic}, "toys": {}}
    for name, alerts in channels.items():
        project.declare(declaration(name, "missing.csv", alerts=alerts))
    with definitions(project) as defs:
        names = {sensor.name for sensor in defs.get_repository_def().sensor_defs}
        assert names == {ON_FAILURE, WHEN_LATE, *(f"{name}_new_files" for name in channels)}
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        # A team's own job, with assets of two pipelines.
        theirs = dg.Definitions.merge(
            defs, dg.Definitions(jobs=[dg.define_asset_job("nightly", "*")])
        )
        for job in ("nightly", "toys_refresh", "shop_refresh"):
            run = theirs.resolve_job_def(job)
            assert not run.execute_in_process(instance=instance, raise_on_error=False).success
        slack.answers = [404]
        result = tick(defs, ON_FAILURE, instance, cursor)
        titles = [subject for subject, _ in read_published_messages(topic)]
        assert titles == ["batchrec: nightly failed", "batchrec: shop_refresh failed"]
        assert slack.posted == []
        tick(defs, ON_FAILURE, instance, result.cursor)
    assert [text.splitlines()[0] for text in slack.posted] == ["batchrec: nightly failed"]
    assert len(read_published_messages(topic)) == 2


def test_without_declared_channels_there_are_no_alerts(project: Project) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    with definitions(project) as defs:
        names = {sensor.name for sensor in defs.get_repository_def().sensor_defs}
    assert names == {"shop_new_files"}


def test_a_way_that_stumbles_is_tried_again_and_one_that_fails_keeps_back_no_other(
    slack: Hook, topic: str
) -> None:
    slack.answers = [500]
    assert send(Alerts(slack_webhook_env="SHOP_HOOK"), Message("a", ["b"])) == []
    assert slack.posted == ["a\nb"]
    alerts_with_both = Alerts(slack_webhook_env="SHOP_HOOK", sns_topic=topic)
    slack.answers = [404]
    assert send(alerts_with_both, Message("é", [])) == [
        "Slack (SHOP_HOOK): the webhook answers 404 Not Found"
    ]
    assert read_published_messages(topic) == [("?", "é")]


@pytest.mark.parametrize(
    ("url", "shown_text"),
    [
        ("", "set the environment variable SHOP_HOOK to the webhook's URL"),
        ("planted-secret", "set the environment variable SHOP_HOOK to the webhook's URL"),
        ("https://[planted-secret/x", "the environment variable SHOP_HOOK is not a webhook's URL"),
        ("https://h:planted-secret/x", "the environment variable SHOP_HOOK is not a webhook's URL"),
        ("http://127.0.0.1:9/planted-secret", "refused"),
        ("http://planted secret/", "SHOP_HOOK"),
    ],
)
def test_a_message_that_nobody_gets_is_an_error_without_the_url(
    monkeypatch: pytest.MonkeyPatch, slack: Hook, url: str, shown_text: str
) -> None:
    monkeypatch.setenv("SHOP_HOOK", url)
    with pytest.raises(AlertError, match=shown_text) as error:
        send(Alerts(slack_webhook_env="SHOP_HOOK"), Message("a", []))
    assert "planted" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slack_webhook_env": "https://hooks.slack.com/services/planted"},
        {"sns_topic": "recommendations"},
        {"late_after_hours": 0},
        {"dagster_url": "dagster:3000"},
    ],
)
def test_what_cannot_work_is_refused_when_it_is_declared(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="write") as error:
        Alerts(**wrong)
    assert "planted" not in error.value.errors()[0]["msg"]  # type: ignore[attr-defined]
