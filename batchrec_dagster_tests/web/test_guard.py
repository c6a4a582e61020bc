"""Which requests the guard lets through, and what connections and bodies a server takes."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.web import server as web_server
from batchrec_dagster.web.guard import Guard
from batchrec_dagster.web.server import MAX_BODY_BYTES, LimitedProtocol, LimitedServer

HERE = "127.0.0.1:3000"
# These bodies are no GraphQL requests. Dagster alone would answer them with 500.
MALFORMED = (
    *(b"", b"\xff", b"{", b"[" * 100_000, b"null", b"1", b'"x"'),
    *(b"[]", b"[1]", b"[[]]", b'[{"query": "{version}"}]'),
    *(b'{"query": 1}', b'{"query": ["{version}"]}', b'{"query": "{version}", "operationName": {}}'),
    *(b'{"query": "{version}", "variables": ' + value + b"}" for value in (b"1", b"[1]", b'"[1]"')),
    b'{"query": "{version}", "variables": {"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
)
PAGE = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
JSON = {"content-type": "application/json"}


def build_scope(
    headers: dict[str, str] | list[tuple[str, str]],
    *,
    method: str = "GET",
    path: str = "/",
    query: str = "",
    kind: str = "http",
) -> dict[str, Any]:
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
    }


async def _answer_ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def read_status(app: Any, request_scope: dict[str, Any], request: bytes = b"{}") -> int:
    """What the application answers, which itself lies behind everything with 200."""
    messages: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request}

    with ThreadPoolExecutor(1) as thread:  # an open browser keeps a loop running in the main one
        thread.submit(lambda: asyncio.run(app(request_scope, receive, send))).result()
    answer_status: int = messages[0]["status"]
    return answer_status


@pytest.mark.parametrize(
    "headers",
    [
        {"host": HERE},
        {"host": "LOCALHOST"},
        {"host": "[::1]:3000"},
        {"host": "127.9.9.9:1"},
        {"host": "dagster.example:8443"},
        {"host": HERE, "origin": f"http://{HERE}"},
        {"host": "dagster.example", "origin": "https://dagster.example"},
        {"host": "dagster.example:443", "origin": "https://dagster.example"},
        {"host": HERE, "sec-fetch-site": "same-origin"},
        {"host": HERE, "sec-fetch-site": "none"},
        {"host": HERE, "sec-fetch-site": "cross-site", **PAGE},
    ],
)
def test_let_through(headers: dict[str, str]) -> None:
    assert Guard(_answer_ok, ["Dagster.example"]).find_refusal_reason(build_scope(headers)) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": ""},
        {"host": "evil.example"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "evil@localhost"},
        {"host": "localhost:3000/@evil"},
        {"host": "localhost\x00"},
        {"host": "localhost\n"},
        {"host": "0.0.0.0:3000"},
        {"host": "10.0.0.5"},
        {"host": "locälhost"},
        [("host", HERE), ("host", "evil.example")],
        {"host": HERE, "origin": "http://evil.example"},
        {"host": HERE, "origin": "http://127.0.0.1:8000"},
        {"host": HERE, "origin": "http://localhost:3000"},
        {"host": HERE, "origin": "null"},
        {"host": HERE, "origin": ""},
        {"host": HERE, "origin": f"file://{HERE}"},
        {"host": HERE, "origin": f"http://{HERE}.evil.example"},
        {"host": "localhost", "origin": "http://localhost:3000"},
        [("host", HERE), ("origin", f"http://{HERE}"), ("origin", "http://evil.example")],
        {"host": HERE, "sec-fetch-site": "cross-site"},
        {"host": HERE, "sec-fetch-site": "same-site"},
        {"host": HERE, "sec-fetch-site": "something-new"},
        {"host": HERE, "sec-fetch-site": "cross-site", **PAGE, "sec-fetch-dest": "iframe"},
    ],
)
def test_refused(headers: Any) -> None:
    app = Guard(_answer_ok, ["dagster.example"])
    assert app.find_refusal_reason(build_scope(headers)) is not None
    assert read_status(app, build_scope(headers)) == 403
    assert app.find_refusal_reason(build_scope(headers, kind="websocket")) is not None


def test_only_a_get_opens_a_page_from_another_site() -> None:
    guard = Guard(_answer_ok)
    headers = {"host": HERE, "sec-fetch-site": "cross-site", **PAGE}
    assert guard.find_refusal_reason(build_scope(headers, method="POST")) is not None
    assert guard.find_refusal_reason(build_scope(headers, kind="websocket")) is not None


def test_a_refused_name_says_how_to_allow_it() -> None:
    reason = Guard(_answer_ok).find_refusal_reason(build_scope({"host": "dagster.example:3000"}))
    assert reason is not None
    assert "BATCHREC_ALLOWED_HOSTS=dagster.example" in reason


@pytest.mark.parametrize(
    ("request_changes", "expected_status"),
    [
        (build_scope(JSON, method="POST", path="/graphql"), 200),
        (build_scope({"content-type": "application/json; charset=utf-8"}, method="POST"), 200),
        # Dagster would look for its query in the URL.
        (build_scope({"content-type": "Application/JSON"}, method="POST", path="/graphql"), 415),
        (build_scope({"content-type": "text/plain; application/json"}, method="POST"), 415),
        (build_scope({"content-type": "text/plain;x=application/json"}, method="POST"), 415),
        (build_scope({"content-type": "application/graphql"}, method="POST", path="/graphql"), 415),
        (build_scope({}, method="POST", path="/graphql", query="query={version}"), 415),
        (build_scope({}, method="POST", path="/report_asset_materialization/shop"), 415),
        (build_scope([*JSON.items(), ("content-type", "text/plain")], method="POST"), 415),
        (build_scope({"accept": "text/html"}, path="/graphql"), 200),
        (build_scope({"accept": "text/html"}, path="/graphql", query="query={version}"), 405),
        (build_scope({}, path="/graphql"), 405),
        (build_scope({}, path="/graphql", query="query=mutation{x}"), 405),
        (build_scope({}, path="/graphql\n", query="query=mutation{x}"), 405),
        (build_scope({}, path="/graphql/", query="query=mutation{x}"), 405),
        (build_scope({}, method="HEAD", path="/graphql", query="query=mutation{x}"), 405),
        (build_scope({}, path="/assets/shop/graphql", query="view=checks"), 200),
    ],
)
def test_graphql_by_json_post_only(request_changes: dict[str, Any], expected_status: int) -> None:
    from batchrec_dagster.web.dagster_ui import JsonPosts

    assert read_status(JsonPosts(_answer_ok), request_changes) == expected_status


@pytest.mark.attack
@pytest.mark.parametrize(
    ("request_body", "expected_status"),
    [
        (b'{"query": "{version}", "variables": null, "operationName": null}', 200),
        (b'{"query": "{version}", "variables": {"a": [1]}, "operationName": "a"}', 200),
        (b'{"query": "{version}", "variables": "{}"}', 200),
        *((body, 400) for body in MALFORMED),
    ],
)
def test_a_malformed_request_is_the_client_s_mistake(
    request_body: bytes, expected_status: int
) -> None:
    from batchrec_dagster.web.dagster_ui import JsonPosts

    request_scope = build_scope(JSON, method="POST", path="/graphql")
    assert read_status(JsonPosts(_answer_ok), request_scope, request_body) == expected_status


@pytest.mark.attack
@pytest.mark.parametrize(
    ("path", "expected_status"),
    [
        ("/notebook", 403),
        ("/notebook\n", 403),
        ("/dagit/notebook", 403),
        ("/download_debug/a-run", 200),
        ("/download_debug/x", 404),
        ("/download_debug/a-run\n", 404),
        ("/download_debug/\0", 404),
        ("/logs/a-run/compute_logs/step.out", 200),
        ("/logs/x", 404),
        ("/logs/../../etc/passwd", 404),
        ("/logs/a/\0.out", 404),
        ("/locations/notebook", 200),
        ("/assets/notebook", 200),
    ],
)
def test_files_that_dagster_would_run_or_fail_over(path: str, expected_status: int) -> None:
    from batchrec_dagster.web.dagster_ui import PathFilter

    app = PathFilter(_answer_ok, {"a-run"}.__contains__)
    for method in ("GET", "HEAD"):
        assert read_status(app, build_scope({}, method=method, path=path)) == expected_status


@pytest.mark.parametrize("name", ["http://dagster.example", "dagster.example:3000", "*", "a b"])
def test_what_is_no_host_name_is_no_allowed_host(name: str) -> None:
    for command in ("ui", "local-personalize"):
        result = CliRunner().invoke(main, [command, "--allowed-hosts", name])
        assert result.exit_code == 2
        assert "is not a host name" in result.output


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


class _Impatient(_Small):
    header_seconds = 0.5


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
def test_headers_that_do_not_come_close_the_connection() -> None:
    with serve(_echo_length, _Impatient) as address:
        for first_bytes in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
            with connect(address, first_bytes) as half:
                assert is_closed(half)
        # A request that arrives slowly gets no more time.
        with connect(address, b"GET / HTTP/1.1\r\n") as slow, pytest.raises(ConnectionError):
            send_slowly(slow)


def send_slowly(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(b"X: y\r\n")
        time.sleep(0.1)


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


def ask(address: tuple[str, int], body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=120)
    try:
        connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.slow
def test_a_body_has_a_largest_size_and_a_longest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchrec_dagster.web.dagster_ui import JsonPosts

    with serve(JsonPosts(_echo_length)) as address:
        largest = b"{}".ljust(MAX_BODY_BYTES)
        assert ask(address, largest) == (200, str(MAX_BODY_BYTES).encode())
        status, message = ask(address, largest + b" ")
        assert (status, message) == (413, b"A request may have at most 1048576 bytes.\n")
    monkeypatch.setattr(web_server, "BODY_SECONDS", 0.5)
    with serve(JsonPosts(_echo_length)) as address:
        head = "POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with connect(address, f"{head}Content-Length: 9\r\n\r\n1234".encode()) as slow:
            assert slow.recv(99).startswith(b"HTTP/1.1 408 ")
