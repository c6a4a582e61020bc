"""Delivery of alerts by Apprise, to the URLs that a pipeline's settings name."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from batchrec_dagster.config.running import Alerts
from batchrec_dagster.errors import UserError
from batchrec_dagster.reporting.views.plain import escape_invisible
from batchrec_dagster.storage.extras import require
from batchrec_dagster.storage.secrets import redact

# The characters that begin a mention, a command or a link in a chat. Followed by _NO_SPACE, which
# is a zero-width space, they begin nothing.
_MARKS_OF_CHATS = re.compile(r"@(?=[^\W\d])|[<\]]")
_NO_SPACE = "\u200b"


class AlertError(UserError):
    """An undelivered alert. The message names the variable and the service, but never a URL."""

    def __init__(self, message: str, receivers: Sequence[str] | None = None) -> None:
        super().__init__(message)
        self.receivers = receivers
        """The marks (hashes) of the URLs that still need the alert; None for all URLs."""


class Message(NamedTuple):
    """The text of an alert."""

    title: str
    """The event, in one line."""
    lines: Sequence[str]
    """The details of the event."""

    @property
    def body(self) -> str:
        """The details as plain text, so that chats find no mentions or links in the data.

        If a detail has several lines, its second and later lines are indented, so that nobody
        mistakes data in the detail for a line of batchrec.
        """
        text = "\n".join(
            "\n  ".join(map(escape_invisible, line.splitlines())) for line in self.lines
        )
        return _MARKS_OF_CHATS.sub(rf"\g<0>{_NO_SPACE}", text)


def send_alert(alerts: Alerts, message: Message, receivers: Sequence[str] | None = None) -> None:
    """Send the message, with secrets removed, to all declared URLs or to some of them.

    receivers: the marks of the URLs to send to, from an earlier AlertError; None for all URLs.

    Raises AlertError if delivery to any URL fails, and UserError if Apprise is not installed.
    """
    require("alerts", "alerts")
    # The import is here, because Apprise is an optional dependency.
    import apprise

    # Apprise's log messages may contain parts of the URLs.
    logging.getLogger("apprise").disabled = True
    variable = alerts.urls_env or ""
    urls = os.environ.get(variable, "")
    services = apprise.Apprise()
    if not urls or not services.add(urls):
        raise AlertError(
            f"set the environment variable {variable} to URLs of Apprise, separated by spaces",
            receivers,
        )
    # URLs are secrets, whatever the variable's name.
    secrets = {**os.environ, **{f"SECRET_{url}": url for url in urls.split()}}
    title = redact(escape_invisible(message.title), secrets)
    body = redact(message.body, secrets)
    problems, failed_receivers = [], []
    for number, service in enumerate(services, 1):
        mark = _mark_receiver(service.url())  # type: ignore[no-untyped-call]
        if receivers is not None and mark not in receivers:
            continue
        receiver = apprise.Apprise()
        receiver.add(service)
        if not receiver.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT):
            problems.append(f"{service.service_name} (URL {number} of {variable})")
            failed_receivers.append(mark)
    if problems:
        raise AlertError(
            f"not delivered to {', '.join(problems)}: check the URL, and that this machine reaches"
            f" the service: {title}",
            failed_receivers,
        )


def _mark_receiver(url: str) -> str:
    """Return the mark of a URL: a hash, which does not reveal the URL."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]
