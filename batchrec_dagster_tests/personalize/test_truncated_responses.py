"""Tests of answers that break off before the length that the server declared."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.exceptions import ConnectionClosedError

from batchrec_dagster.personalize import retries
from batchrec_dagster.personalize.retries import correct_retries

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

WHOLE = b'{"schemas": [{"name": "s"}]}'


@contextmanager
def server(*answers: bytes) -> Iterator[PersonalizeClient]:
    """Yield a client of a server that sends these answers, and repeats the last answer forever.

    The server declares each answer to be as long as WHOLE.
    """
    answers_left = [*answers]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(WHOLE)))
            self.end_headers()
            self.wfile.write(answers_left.pop(0) if answers_left[1:] else answers_left[0])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        client: PersonalizeClient = boto3.Session("any", "any", region_name="us-east-1").client(
            "personalize", endpoint_url=f"http://127.0.0.1:{listening.server_port}"
        )
        correct_retries(client)
        try:
            yield client
        finally:
            listening.shutdown()
            thread.join()


def test_half_an_answer_is_asked_for_again() -> None:
    with server(b"", WHOLE[:9], WHOLE[:-1], WHOLE) as client:
        assert client.list_schemas()["schemas"] == [{"name": "s"}]


@pytest.mark.slow
def test_one_that_never_comes_whole_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MAX_ATTEMPTS", 3)
    with server(WHOLE[:9]) as client, pytest.raises(ConnectionClosedError):
        client.list_schemas()
