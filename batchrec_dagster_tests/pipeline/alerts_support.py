"""What the tests of alerts share: where messages arrive, and a sensor's look."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import dagster as dg
import pytest
from moto import mock_aws
from moto.sns.models import sns_backends

from batchrec_dagster.config import Pipeline
from batchrec_dagster_tests.support import declaration

ON_FAILURE, WHEN_LATE = "batchrec_alert_on_failure", "batchrec_alert_when_late"
REGION = "eu-west-1"
PATH = "/services/T000/B000/planted-webhook-path"
ALERTS = {"slack_webhook_env": "SHOP_HOOK", "dagster_url": "https://dagster.example.com/"}


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
    monkeypatch.setattr("batchrec_dagster.pipeline.automation.alert_channels.PAUSE_SECONDS", 0)
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


def read_published_messages(topic: str) -> list[tuple[str | None, str]]:
    """Subject and message of what the topic got."""
    *_, region, account, _ = topic.split(":")
    sent_messages = sns_backends[account][region].topics[topic].sent_notifications
    return [(subject, message) for _, message, subject, *_ in sent_messages]


def tick(
    defs: dg.Definitions, sensor: str, instance: dg.DagsterInstance, cursor: str | None
) -> Any:
    """One look of a sensor, as the daemon has it done."""
    repository = defs.get_repository_def()
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, repository_def=repository, sensor_name=sensor
    )
    return repository.get_sensor_def(sensor).evaluate_tick(context)


def make_pipeline(**attributes: Any) -> Pipeline:
    return Pipeline.model_validate(
        declaration("shop", "ratings.csv", **{"alerts": ALERTS, **attributes})
    )
