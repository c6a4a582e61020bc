"""An inbox for alerts, and a function that evaluates the sensors that send them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest

# The names of the sensors in a project that has pipelines with alerts.
ON_FAILURE, ON_LISTS = "batchrec_alert_on_failure", "batchrec_alert_on_lists"
STORAGE = "batchrec_storage"
# The path of the inbox's URL. The URL is a secret.
PATH = "/T000/planted-path"
ALERTS = {"urls_env": "SHOP_ALERTS", "dagster_url": "https://dagster.example.com/"}


class Inbox:
    """A receiver of messages.

    texts: the messages that arrived.
    answers: the status of each next answer; 200 once the list is empty.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.texts: list[str] = []
        self.answers: list[int] = []


@contextmanager
def open_inbox() -> Iterator[Inbox]:
    """Open an inbox at a URL that Apprise can send to."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == PATH
            status = opened.answers.pop(0) if opened.answers else 200
            if status == 200:
                opened.texts.append(f"{body['title']}\n{body['message']}")
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    opened = Inbox(f"json://127.0.0.1:{server.server_port}{PATH}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield opened
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Yield the inbox for the alerts of pipelines with the settings ALERTS."""
    with open_inbox() as opened:
        monkeypatch.setenv("SHOP_ALERTS", opened.url)
        yield opened


def tick(
    defs: dg.Definitions, sensor: str, instance: dg.DagsterInstance, cursor: str | None
) -> Any:
    """Evaluate a sensor once, as Dagster's daemon does, and return the tick's result."""
    repository = defs.get_repository_def()
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        repository_def=repository,
        sensor_name=sensor,
        resources={key: value for key, value in (defs.resources or {}).items() if key == STORAGE},
    )
    with context:
        return repository.get_sensor_def(sensor).evaluate_tick(context)
