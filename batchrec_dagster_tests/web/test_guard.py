"""What a server does with more connections than it keeps, and with a body that does not come.

guard/contracts/test_web_servers.py asks the servers themselves, where half a minute passes.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from batchrec_dagster.web import server as web_server
from batchrec_dagster.web.server import LimitedProtocol, LimitedServer


async def _echo_length(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the length of the body. /busy answers when the client has gone."""
    if scope["type"] == "http":
        body = (await receive())["body"]
        while scope["path"] == "/busy" and (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})


class _Small(LimitedProtocol):
    max_connections = 3


@contextmanager
def serve(app: Any, protocol: type[LimitedProtocol] = _Small) -> Iterator[tuple[str, int]]:
    """The address of a server with small limits, in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = LimitedServer(app, "127.0.0.1", 0, protocol, log_level="error", lifespan="off")
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def connect(address: tuple[str, int], first_bytes: bytes) -> socket.socket:
    connection = socket.create_connection(address, timeout=120)
    connection.sendall(first_bytes)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes the connection without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.slow
def test_a_new_connection_closes_the_one_that_has_waited_longest_but_none_that_is_busy() -> None:
    busy = b"GET /busy HTTP/1.1\r\nHost: localhost\r\n\r\n"
    arrivals = threading.Semaphore(0)

    async def count_and_echo(scope: Any, receive: Any, send: Any) -> None:
        arrivals.release()
        await _echo_length(scope, receive, send)

    with serve(count_and_echo) as address:
        connections = [connect(address, busy), connect(address, busy)]
        for _ in connections:
            assert arrivals.acquire(timeout=120)
        connections += [connect(address, b""), connect(address, busy)]
        assert is_closed(connections.pop(2))  # long before its time
        assert arrivals.acquire(timeout=120)
        with connect(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") as new:
            assert is_closed(new)  # all are busy
        for connection in connections:
            connection.close()


@pytest.mark.slow
def test_a_body_has_a_longest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchrec_dagster.web.dagster_ui import JsonPosts

    monkeypatch.setattr(web_server, "BODY_SECONDS", 0.5)
    with serve(JsonPosts(_echo_length)) as address:
        head = "POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with connect(address, f"{head}Content-Length: 9\r\n\r\n1234".encode()) as slow:
            assert slow.recv(99).startswith(b"HTTP/1.1 408 ")
