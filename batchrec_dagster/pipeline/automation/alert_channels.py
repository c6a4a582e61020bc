"""The channels that deliver an alert: Amazon SNS and a Slack webhook."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from html import escape
from http.client import HTTPException, InvalidURL

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.config.project import TOPIC, Alerts
from batchrec_dagster.pipeline.automation.alert import Message
from batchrec_dagster.reporting.terminal import escape_invisible
from batchrec_dagster.storage.permissions import explain_refusals
from batchrec_dagster.storage.secrets import redact

# All channels and attempts must end within the minute that Dagster allows a sensor; otherwise the
# next tick would repeat an alert on channels where it already arrived.
TRIES = 2
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0


class AlertError(Exception):
    """An alert was not delivered; the message names the channel and the fix, never a URL."""


def send(alerts: Alerts, message: Message) -> list[str]:
    """Send the message to every declared channel, without secrets.

    Returns the errors if at least one channel worked. Raises AlertError if every channel fails.
    """
    # The webhook's URL is a secret, whatever the variable's name.
    secrets = {**os.environ, "WEBHOOK": os.environ.get(alerts.slack_webhook_env or "", "")}
    text = redact(message.text, secrets)
    errors: list[str] = []
    channels: list[tuple[str, Callable[[], None]]] = []
    if alerts.sns_topic is not None:
        topic = alerts.sns_topic
        channels.append(("Amazon SNS", lambda: _publish_to_sns(topic, message.title, text)))
    if alerts.slack_webhook_env is not None:
        variable = alerts.slack_webhook_env
        channels.append((f"Slack ({variable})", lambda: _post_to_slack(variable, text)))
    for channel, deliver in channels:
        try:
            _retry(deliver)
        except AlertError as error:
            errors.append(redact(f"{channel}: {error}", secrets))
    if len(errors) == len(channels):
        raise AlertError("; ".join(errors))
    return errors


def _retry(deliver: Callable[[], None]) -> None:
    """Deliver, and try once more after an error. Raises AlertError if that fails too."""
    for attempt in range(1, TRIES + 1):
        try:
            deliver()
            return
        except (OSError, HTTPException, ClientError, BotoCoreError) as error:
            if attempt == TRIES:
                raise AlertError(str(error)) from None
            time.sleep(PAUSE_SECONDS)


def _publish_to_sns(topic: str, title: str, text: str) -> None:
    topic_arn = TOPIC.fullmatch(topic)
    if topic_arn is None:
        raise AlertError("alerts.sns_topic is not the ARN of a topic")
    # `_retry` retries, so boto3 does not.
    config = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"total_max_attempts": 1},
    )
    sns = boto3.client("sns", region_name=topic_arn[1], config=config)
    explain_refusals(sns)
    # SNS accepts a subject of at most 100 ASCII characters.
    subject = escape_invisible(title).encode("ascii", "replace").decode()[:100]
    sns.publish(TopicArn=topic, Subject=subject, Message=text)


def _post_to_slack(variable: str, text: str) -> None:
    url = os.environ.get(variable, "")
    if not url.startswith(("https://", "http://")):
        raise AlertError(f"set the environment variable {variable} to the webhook's URL")
    # The text is escaped as Slack asks, so that <!channel> in it notifies nobody. Slack must not
    # format it, or fetch links in it, either.
    message = {
        "text": escape(text, quote=False),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }
    try:
        request = urllib.request.Request(  # noqa: S310 (the scheme was checked)
            url, json.dumps(message).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 429:
            raise AlertError(f"the webhook answers {error.code} {error.reason}") from None
        raise
    except (InvalidURL, ValueError):
        # Their messages may repeat part of the URL.
        raise AlertError(f"the environment variable {variable} is not a webhook's URL") from None
