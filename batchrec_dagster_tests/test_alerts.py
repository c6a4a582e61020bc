"""Alerts: one when a run fails or the schedule is late, and no secrets in them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import dagster as dg
import pytest
from moto import mock_aws
from moto.sns.models import sns_backends

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.automation import Alerts
from batchrec_dagster.pipeline.automation.alerts import (
    AlertError,
    Message,
    alert_sensors,
    look,
    send,
)
from batchrec_dagster.storage.secrets import redacted
from batchrec_dagster_tests.hostile import CONTROLS, HOSTILE, OUTSIDE
from batchrec_dagster_tests.s3_server import OWNER, S3Server
from batchrec_dagster_tests.support import Project, declaration, definitions, write_ratings

pytestmark = pytest.mark.slow

ON_FAILURE, WHEN_LATE = "batchrec_alert_on_failure", "batchrec_alert_when_late"
REGION = "eu-west-1"
PATH = "/services/T000/B000/planted-webhook-path"


class Hook:
    """A Slack webhook: what was posted, and what it answers, 200 when nothing is said."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.posted: list[str] = []
        self.answers: list[int] = []


@contextmanager
def webhook() -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Content-Type"] == "application/json"
            assert self.path == PATH
            assert {body.pop(key) for key in ("mrkdwn", "unfurl_links", "unfurl_media")} == {False}
            assert not re.search("[<>]|&(?!amp;|lt;|gt;)", body["text"])
            status = hook.answers.pop(0) if hook.answers else 200
            if status == 200:
                hook.posted.append(unescape(body["text"]))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook = Hook(f"http://127.0.0.1:{server.server_port}{PATH}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr("batchrec_dagster.pipeline.automation.alerts.PAUSE_SECONDS", 0)
    with webhook() as hook:
        monkeypatch.setenv("SHOP_HOOK", hook.url)
        yield hook


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield boto3.client("sns", region_name=REGION).create_topic(Name="lists")["TopicArn"]


def published(topic: str) -> list[tuple[str | None, str]]:
    """Subject and message of what the topic got."""
    *_, region, account, _ = topic.split(":")
    sent = sns_backends[account][region].topics[topic].sent_notifications
    return [(subject, message) for _, message, subject, *_ in sent]


def tick(
    defs: dg.Definitions, sensor: str, instance: dg.DagsterInstance, cursor: str | None
) -> Any:
    """One look of a sensor, as the daemon has it done."""
    repository = defs.get_repository_def()
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, repository_def=repository, sensor_name=sensor
    )
    return repository.get_sensor_def(sensor).evaluate_tick(context)


ALERTS = {"slack_webhook_env": "SHOP_HOOK", "dagster_url": "https://dagster.example.com/"}


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
    assert published(topic) == [(title, text)]


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
    pipeline = declared()

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
        sensors=alert_sensors([pipeline]),
    )
    cursor = tick(defs, ON_FAILURE, instance, None).cursor
    defs.resolve_job_def("shop_refresh").execute_in_process(instance=instance, raise_on_error=False)
    tick(defs, ON_FAILURE, instance, cursor)
    (text,) = slack.posted
    assert "Check of shop/solution_version: gate: NDCG@25 .05 is below .10" in text


def fails(*reasons: str, **alerts: str) -> dg.Definitions:
    """A job whose runs fail for these reasons, and the sensors that tell of it."""
    left = iter(reasons)

    @dg.asset(key_prefix="shop")
    def interactions() -> None:
        raise dg.Failure(next(left))

    jobs = [dg.define_asset_job("shop_refresh", selection="*")]
    sensors = alert_sensors([declared(alerts={**ALERTS, **alerts})])
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
    assert published(topic) == [("batchrec: shop_refresh failed", text)]
    _, first, *rest, link = text.split("\n")
    assert first == f"Step shop__interactions: {HOSTILE[0]}"
    assert [line for line in rest if not line.startswith("  ")] == []
    assert {f"  {text}" for text in HOSTILE[1:4]} <= set(rest)
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
    told = [text.splitlines()[1].partition(": ")[2] for text in slack.posted]
    assert told == ["first", "second", "third"]


def test_a_message_that_nobody_took_for_a_day_is_given_up(
    instance: dg.DagsterInstance, slack: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster.pipeline.automation.alerts.GIVE_UP", hours(0))
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
    assert len(published(topic)) == 1


def test_an_unexpected_error_is_alerted_with_whether_it_is_retried(
    instance: dg.DagsterInstance, slack: Hook
) -> None:
    @dg.asset(key_prefix="shop")
    def interactions() -> None:
        raise ZeroDivisionError("division by zero")

    defs = dg.Definitions(
        assets=[interactions],
        jobs=[dg.define_asset_job("shop_refresh", selection="*")],
        sensors=alert_sensors([declared()]),
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


def declared(**attributes: Any) -> Pipeline:
    return Pipeline.model_validate(
        declaration("shop", "ratings.csv", **{"alerts": ALERTS, **attributes})
    )


DAILY = {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "enabled": True}
# 3:00 in Berlin.
DUE = datetime(2026, 1, 10, 2, tzinfo=UTC)


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def test_a_schedule_that_brings_nothing_is_late_once_a_time() -> None:
    pipeline = declared(schedule=DAILY)
    cursor: dict[str, str] = {}
    told = []
    # Every hour of three days, with new lists after the first time and the third only.
    for hour in range(-5, 72):
        now = DUE + hours(hour)
        made = max(
            (t for t in (DUE + hours(1), DUE + hours(49)) if t <= now), default=DUE - hours(20)
        )
        cursor, message, _ = look(pipeline, cursor, now, made, on=True)
        if message:
            told.append((hour, message))
    ((hour, message),) = told
    assert hour == 24 + 6
    assert message.title == "batchrec: shop is late"
    assert "due at 2026-01-11 03:00 CET" in message.text
    assert " were made: 2026-01-10 04:00." in message.text


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_schedule_switched_on_today_is_not_late_for_this_morning(zone: str) -> None:
    pipeline = declared(schedule={**DAILY, "timezone": zone})
    now = datetime(2026, 1, 10, 14, tzinfo=UTC)
    cursor, message, _ = look(pipeline, {}, now, None, on=True)
    assert message is None
    cursor, message, _ = look(pipeline, cursor, now + hours(24), None, on=True)
    assert message is not None
    assert "were made: never" in message.text
    assert look(pipeline, cursor, now + hours(25), None, on=False) == (
        {},
        None,
        "the schedule is off",
    )


@pytest.fixture
def instance_with_schedules() -> Iterator[dg.DagsterInstance]:
    """The one in memory cannot keep schedules."""
    with dg.instance_for_test() as instance:
        yield instance


def test_the_sensor_of_late_schedules_looks_at_the_last_lists(
    project: Project, instance_with_schedules: dg.DagsterInstance, slack: Hook
) -> None:
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            alerts={**ALERTS, "late_after_hours": 0.0001},
            schedule={"cron": "* * * * *", "enabled": True},
        )
    )
    state = {"shop": {"since": (datetime.now(UTC) - hours(1)).isoformat()}}
    since = json.dumps({"state": state, "waiting": []})
    slack.answers = [500, 500]
    with definitions(project) as defs:
        result = tick(defs, WHEN_LATE, instance_with_schedules, since)
        assert "HTTP Error 500" in result.skip_message
        # What nobody took is told at the next look.
        result = tick(defs, WHEN_LATE, instance_with_schedules, result.cursor)
        (text,) = slack.posted
        assert text.startswith("batchrec: shop is late\n")
        key = dg.AssetKey(["shop", "recommendations"])
        instance_with_schedules.report_runless_asset_event(dg.AssetMaterialization(key))
        result = tick(defs, WHEN_LATE, instance_with_schedules, result.cursor)
        assert "are there" in result.skip_message
        # Lists that are published once more are as old as they were.
        old = {"made_at": (datetime.now(UTC) - hours(2)).isoformat(timespec="seconds")}
        instance_with_schedules.report_runless_asset_event(
            dg.AssetMaterialization(key, metadata=old)
        )
        result = tick(defs, WHEN_LATE, instance_with_schedules, since)
        assert "is late: alert sent" in result.skip_message
    assert f"were made: {old['made_at'][:16].replace('T', ' ')}." in slack.posted[-1]
    assert len(slack.posted) == 2


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
        titles = [subject for subject, _ in published(topic)]
        assert titles == ["batchrec: nightly failed", "batchrec: shop_refresh failed"]
        assert slack.posted == []
        tick(defs, ON_FAILURE, instance, result.cursor)
    assert [text.splitlines()[0] for text in slack.posted] == ["batchrec: nightly failed"]
    assert len(published(topic)) == 2


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
    both = Alerts(slack_webhook_env="SHOP_HOOK", sns_topic=topic)
    slack.answers = [404]
    assert send(both, Message("é", [])) == ["Slack (SHOP_HOOK): the webhook answers 404 Not Found"]
    assert published(topic) == [("?", "é")]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "set the environment variable SHOP_HOOK to the webhook's URL"),
        ("planted-secret", "set the environment variable SHOP_HOOK to the webhook's URL"),
        ("http://127.0.0.1:9/planted-secret", "refused"),
        ("http://planted secret/", "SHOP_HOOK"),
    ],
)
def test_a_message_that_nobody_gets_is_an_error_without_the_url(
    monkeypatch: pytest.MonkeyPatch, slack: Hook, url: str, told: str
) -> None:
    monkeypatch.setenv("SHOP_HOOK", url)
    with pytest.raises(AlertError, match=told) as error:
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


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to postgresql://shop:planted@db:5432/shop",
        "key AKIAIOSFODNN7EXAMPLE was refused",
        "GET https://b.s3.amazonaws.com/k?X-Amz-Signature=planted&x=1",
        "password=planted",
        'the "token": planted',
        "posted to https://hooks.slack.com/services/T0/B0/planted",
        "the value planted-value-of-a-variable was wrong",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    hidden = redacted(text, {"SHOP_API_TOKEN": "planted-value-of-a-variable", "HOME": "/root"})
    assert "***" in hidden
    assert "planted" not in hidden
    assert "AKIA" not in hidden


def test_ordinary_words_are_left() -> None:
    text = "cannot read s3://shop/ratings.csv: the secret does not match the access key"
    assert redacted(text, {"SECRET_MODE": "on", "HOME": "/root"}) == text


def test_no_planted_secret_is_in_logs_metadata_run_config_or_storage(
    project: Project,
    s3: S3Server,
    slack: Hook,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bucket = s3.new_bucket()
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://shop:planted-password@@127.0.0.1/shop")
    project.environment |= {
        "BATCHREC_STORAGE": f"s3://{bucket}/batchrec",
        "AWS_ENDPOINT_URL_S3": s3.endpoint,
    }
    source = write_ratings(project.root / "ratings.csv")
    project.declare(
        declaration(
            "shop",
            source,
            alerts=ALERTS,
            # The URL is wrong, which is told.
            sinks={"postgres": {"url_env": "SHOP_DATABASE_URL"}},
        )
    )
    home = project.root / "dagster-home"
    home.mkdir()
    with dg.instance_for_test(temp_dir=str(home)) as instance, definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        result = defs.resolve_job_def("shop_refresh").execute_in_process(
            instance=instance, raise_on_error=False
        )
        assert not result.success
        assert [e.step_key for e in result.all_events if e.is_step_failure] == [
            "shop__recommendations_in_postgres"
        ]
        tick(defs, ON_FAILURE, instance, cursor)
        stored = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    store = s3.store()
    objects = store.list(f"s3://{bucket}/")
    assert objects
    planted = [OWNER.secret, "planted-password", "planted-webhook-path"]
    places = {
        "Dagster's storage": stored,
        "the log": "".join(capfd.readouterr()).encode(),
        "the message": "".join(slack.posted).encode(),
        **{found.uri: store.get(found.uri) for found in objects},
    }
    assert places["the message"]
    assert b"shop__recommendations_in_postgres" in stored
    found = [
        (place, one) for one in planted for place, text in places.items() if one.encode() in text
    ]
    assert found == []
