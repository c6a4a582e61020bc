"""Messages to people, by Amazon SNS and Slack."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.permissions import explain_refusals
from batchrec_dagster.pipeline.redaction import redacted
from batchrec_dagster.pipeline.settings.alerts import TOPIC, Alerts

# All ways and tries together have to end within the minute that Dagster gives a sensor: of what it
# cuts off, the ways that worked would have it again.
TRIES = 2
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0


class AlertError(Exception):
    """A message did not get through; the text names the way and what to do, and no URL."""


@dataclass(frozen=True)
class Message:
    """What happened, in a line, and more of it in lines below."""

    title: str
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join([self.title, *self.lines])


def send(alerts: Alerts, message: Message) -> list[str]:
    """Sends the message by every way that is declared, without secrets.

    Returns what failed while another way worked; raises AlertError when none did.
    """
    # The webhook's URL is a secret, whatever the variable is called.
    secrets = {**os.environ, "WEBHOOK": os.environ.get(alerts.slack_webhook_env or "", "")}
    text = redacted(message.text, secrets)
    failed: list[str] = []
    ways: list[tuple[str, Callable[[], None]]] = []
    if alerts.sns_topic is not None:
        topic = alerts.sns_topic
        ways.append(("Amazon SNS", lambda: _publish(topic, message.title, text)))
    if alerts.slack_webhook_env is not None:
        variable = alerts.slack_webhook_env
        ways.append((f"Slack ({variable})", lambda: _post(variable, text)))
    for way, deliver in ways:
        try:
            _tried(deliver)
        except AlertError as error:
            failed.append(f"{way}: {error}")
    failed = [redacted(problem, secrets) for problem in failed]
    if len(failed) == len(ways):
        raise AlertError("; ".join(failed))
    return failed


def _tried(deliver: Callable[[], None]) -> None:
    for tries_left in reversed(range(TRIES)):
        try:
            return deliver()
        except (OSError, HTTPException, ClientError, BotoCoreError) as error:
            if not tries_left:
                raise AlertError(str(error)) from None
            time.sleep(PAUSE_SECONDS)
    return None


def _publish(topic: str, title: str, text: str) -> None:
    found = TOPIC.fullmatch(topic)
    if found is None:
        raise AlertError("alerts.sns_topic is no ARN of a topic")
    once = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"total_max_attempts": 1},
    )
    sns = boto3.client("sns", region_name=found[1], config=once)
    explain_refusals(sns)
    # SNS takes 100 characters of ASCII.
    subject = title.encode("ascii", "replace").decode()[:100]
    sns.publish(TopicArn=topic, Subject=subject, Message=text)


def _post(variable: str, text: str) -> None:
    url = os.environ.get(variable, "")
    if not url.startswith(("https://", "http://")):
        raise AlertError(f"set the environment variable {variable} to the webhook's URL")
    request = urllib.request.Request(  # noqa: S310 (the scheme was looked at)
        url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 429:
            raise AlertError(f"the webhook answers {error.code} {error.reason}") from None
        raise
    except InvalidURL:
        # It says which part of the URL is wrong.
        raise AlertError(f"the environment variable {variable} has no URL of a webhook") from None
