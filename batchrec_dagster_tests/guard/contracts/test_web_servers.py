"""Tests that each HTTP server answers only this machine and the server's own pages.

`batchrec ui` and `batchrec local-personalize` have no login: anybody who reaches them may use them.
So both refuse requests that a page of another site could send, and neither large nor slow requests
block other clients.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from html import escape
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.repeats import IS_LONG, nightly, repeats
from batchrec_dagster_tests.guard.servers.guarded import (
    ALLOWED,
    LAUNCH,
    STRANGERS,
    GuardedServer,
    serve_dagster,
    serve_personalize,
)
from batchrec_dagster_tests.guard.servers.web import Page, serving

pytestmark = [pytest.mark.attack, pytest.mark.slow]

REQUESTS = repeats(10_000, 200)  # the requests to each server
MOST_CONNECTIONS = 256
MAX_BODY_BYTES = 1 << 20
PAGE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.fixture(scope="module", params=["ui", "local-personalize"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedServer]:
    serve = serve_dagster if request.param == "ui" else serve_personalize
    with serve(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def slow_clients(server: GuardedServer) -> Iterator[dict[str, socket.socket]]:
    """Yield clients that begin a request and send no more."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(server.connect(first_bytes))
            for name, first_bytes in {
                "nothing": b"",
                "half the headers": b"GET / HTTP/1.1\r\nHost: loc",
                "half a body": server.begin_change(b"Content-Length: 900"),
            }.items()
        }


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:{port}"},
        {"Host": "LOCALHOST"},
        {"Host": "[::1]:{port}"},
        {"Host": "127.9.9.9:1"},
        {"Host": f"{ALLOWED}:8443"},
        {"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:{port}"},
        {"Host": ALLOWED, "Origin": f"https://{ALLOWED}"},
        {"Host": f"{ALLOWED}:443", "Origin": f"https://{ALLOWED}"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("slow_clients")
def test_this_machine_and_the_own_pages_are_answered(
    server: GuardedServer, headers: dict[str, str]
) -> None:
    filled = {name: value.format(port=server.port) for name, value in headers.items()}
    assert server.ask("GET", server.health, headers=filled)[0] == 200


def test_a_link_of_another_site_opens_a_page_and_does_no_more(server: GuardedServer) -> None:
    link = {"Sec-Fetch-Site": "cross-site", **PAGE}
    assert server.ask("GET", server.health, headers=link)[0] == 200
    for headers in ({**link, "Sec-Fetch-Dest": "iframe"}, {"Sec-Fetch-Site": "cross-site"}):
        assert server.ask("GET", server.health, headers=headers)[0] == 403
    with server.unchanged():
        assert server.change(link) == 403


@pytest.mark.parametrize("headers", STRANGERS, ids=lambda headers: str(headers)[:60])
def test_a_stranger_changes_nothing(server: GuardedServer, headers: list[tuple[str, str]]) -> None:
    filled = [(name, value.format(port=server.port)) for name, value in headers]
    with server.unchanged():
        assert server.change(filled) in {400, 403}


def test_a_refused_name_says_how_to_allow_it(server: GuardedServer) -> None:
    _, body = server.ask("GET", server.health, headers={"Host": "dagster.example.org:3000"})
    assert b"BATCHREC_ALLOWED_HOSTS=dagster.example.org" in body


@pytest.mark.parametrize("name", ["http://dagster.example", "dagster.example:3000", "*", "a b"])
@pytest.mark.parametrize("command", ["ui", "local-personalize"])
def test_an_invalid_host_name_is_no_allowed_host(command: str, name: str) -> None:
    result = CliRunner().invoke(main, [command, "--allowed-hosts", name])
    assert result.exit_code == 2
    assert "is not a host name" in result.output


def test_no_answer_can_be_shown_in_a_frame(server: GuardedServer) -> None:
    head = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    requests = [
        b"GET " + server.health.encode() + head,
        b"GET /x/y" + head,
        b"GET /" + head,
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        server.begin_change(b"Content-Length: 0"),
    ]
    for request in requests:
        _, headers = server.read_headers(request)
        assert ("x-frame-options", "DENY") in headers, request
        assert ("content-security-policy", "frame-ancestors 'none'") in headers, request


def test_a_body_has_a_largest_size(server: GuardedServer) -> None:
    harmless = b"{}".ljust(MAX_BODY_BYTES)
    assert server.post(harmless)[0] != 413
    assert server.post(harmless + b" ")[0] == 413


def test_requests_of_this_machine_are_served(server: GuardedServer) -> None:
    changes_before = server.count_changes()
    assert server.change({}) == 200
    assert server.count_changes() == changes_before + 1


def test_no_hostile_request_changes_anything(server: GuardedServer) -> None:
    with server.unchanged():
        answers = sum(status > 0 for status in send_hostile_requests(server))
    assert answers > 0.9 * REQUESTS
    assert server.ask("GET", server.health)[0] == 200


def send_hostile_requests(server: GuardedServer) -> Iterator[int]:
    """Send hostile requests, and yield the status of each answer, or 0 without an answer."""
    chance = random.Random(None if IS_LONG else 18)
    for _ in range(REQUESTS):
        kind = chance.randrange(3)
        if kind == 0:  # a stranger's request that is otherwise right
            status = server.change(
                [(name, value.format(port=server.port)) for name, value in chance.choice(STRANGERS)]
            )
        elif kind == 1:  # a method that changes nothing
            method = chance.choice(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
            status, _ = server.ask(method, server.change_path, server.change_body)
        else:  # a request that is cut off, and random bytes
            cut = chance.randrange(len(server.change_body))
            noise = server.change_body[:cut] + chance.randbytes(chance.randrange(1, 40))
            path = chance.choice([server.change_path, "/" + quote(noise[:20])])
            status, _ = server.post(noise, path)
        assert status not in range(200, 400), (kind, status)
        yield status


@nightly("it waits for half a minute")
def test_a_client_that_sends_half_a_body_is_given_up(
    slow_clients: dict[str, socket.socket],
) -> None:
    assert slow_clients["half a body"].recv(99).startswith(b"HTTP/1.1 408 ")


def test_more_connections_than_it_keeps_get_503_until_the_others_end(
    server: GuardedServer,
) -> None:
    with ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            stack.enter_context(server.connect(b"GET / HTTP/1.1\r\nHost: loc"))
        assert server.ask("GET", server.health)[0] == 503
    while server.ask("GET", server.health)[0] == 503:
        time.sleep(0.1)
    assert server.ask("GET", server.health)[0] == 200


# Only Dagster's page ----------------------------------------------------------------------------

UI = pytest.mark.parametrize("server", ["ui"], indirect=True)
# These bodies are no GraphQL requests. Dagster without the guard would answer with 500.
MALFORMED = (
    *(b"", b"\xff", b"{", b"[" * 100_000, b"null", b"1", b'"x"'),
    *(b"[]", b"[1]", b"[[]]", b'[{"query": "{version}"}]'),
    *(b'{"query": 1}', b'{"query": ["{version}"]}', b'{"query": "{version}", "operationName": {}}'),
    *(b'{"query": "{version}", "variables": ' + value + b"}" for value in (b"1", b"[1]", b'"[1]"')),
    b'{"query": "{version}", "variables": {"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
)


@UI
@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:40]))
def test_a_malformed_request_is_a_mistake_of_the_client(server: GuardedServer, body: bytes) -> None:
    for path in ("/graphql", "/report_asset_check/x"):
        assert server.post(body, path)[0] == 400, path


@UI
@pytest.mark.parametrize(
    "content_type",
    [
        "Application/JSON",
        "text/plain",
        "text/plain; application/json",
        "text/plain;x=application/json",
        "application/graphql",
        "application/x-www-form-urlencoded",
        "",
    ],
)
def test_only_json_is_executed(server: GuardedServer, content_type: str) -> None:
    path = f"/graphql?query={quote(LAUNCH)}"
    headers = {"Content-Type": content_type}
    with server.unchanged():
        assert server.ask("POST", path, server.change_body, headers)[0] == 415
        several = [("Content-Type", "application/json"), *headers.items()]
        assert server.ask("POST", path, server.change_body, several)[0] == 415


@UI
@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "/graphql%0A", "/graphql%20"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_get_executes_nothing(server: GuardedServer, method: str, path: str) -> None:
    with server.unchanged():
        for accept in ("*/*", "text/html"):
            url = f"{path}?query={quote(LAUNCH)}"
            assert server.ask(method, url, headers={"Accept": accept})[0] == 405


@UI
@pytest.mark.parametrize(
    ("path", "expected_status"),
    [
        ("/notebook", 403),
        ("/notebook?path=x.ipynb&repoLocName=shop", 403),
        ("/notebook%0A", 403),
        ("/dagit/notebook", 403),
        ("/download_debug/x", 404),
        ("/download_debug/%00", 404),
        ("/logs/x", 404),
        ("/logs/..%2fx/y.out", 404),
        ("/locations/notebook", 200),
        ("/assets/notebook", 200),
        ("/assets/shop/graphql?view=checks", 200),
    ],
)
def test_files_that_would_run_or_do_not_exist_are_refused(
    server: GuardedServer, path: str, expected_status: int
) -> None:
    assert server.ask("GET", path)[0] == expected_status


@UI
def test_the_own_page_opens_a_websocket_and_a_stranger_does_not(server: GuardedServer) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect
    from websockets.typing import Origin, Subprotocol

    address = server.address.replace("http", "ws") + "/graphql"
    protocols = [Subprotocol("graphql-ws")]
    own_origin = Origin(server.address)
    with connect(address, subprotocols=protocols, origin=own_origin) as websocket:
        websocket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(websocket.recv(timeout=300)) == {"type": "connection_ack"}
    with pytest.raises(InvalidStatus) as refusal:
        connect(address, subprotocols=protocols, origin=Origin("http://evil.example"))
    assert refusal.value.response.status_code == 403


def build_hostile_page(server: GuardedServer) -> Page:
    """Return a page that tries to start a run in every way that browsers allow across sites."""
    url = f"{server.address}/graphql?query={quote(LAUNCH)}"
    query = server.change_body.decode()
    start = json.dumps({"id": "1", "type": "start", "payload": {"query": LAUNCH}})
    # A form sends NAME=VALUE as text/plain, which is JSON if the = is in a string.
    name, value = escape(f'{query[:-1]}, "x": "'), escape('"}')
    return Page(
        f"""<img src='{url}'><iframe src='{url}'></iframe><script src='{url}'></script>
        <iframe name=f></iframe><iframe name=g></iframe>
        <form class=form target=f method=post enctype=text/plain action='{url}'>
        <input name='{name}' value='{value}'></form>
        <form class=form target=g method=post action='{server.address}/graphql'>
        <input name=query value='{escape(LAUNCH)}'></form>
        <script>
        for (const form of document.querySelectorAll('.form')) form.submit();
        const sent = [{{}}, {{mode: 'no-cors'}}].flatMap(way =>
          ['application/json', 'text/plain', 'text/plain;application/json'].map(type =>
            fetch('{server.address}/graphql', {{...way, method: 'POST', body: {query!r},
              headers: {{'Content-Type': type}}}}).catch(() => 0)));
        const socket = new WebSocket('ws://127.0.0.1:{server.port}/graphql', 'graphql-ws');
        socket.onopen = () => {{ window.opened = 1; socket.send({start!r}); }};
        sent.push(new Promise(done => socket.onclose = done));
        Promise.all(sent).then(() => window.done = 1);
        </script>""".encode(),
        headers={"Content-Type": "text/html"},
    )


@UI
def test_a_hostile_page_in_a_browser_starts_no_run(server: GuardedServer, browser: Any) -> None:
    with serving() as web, server.unchanged():
        web.pages["/"] = build_hostile_page(server)
        for host in ("127.0.0.1", "localhost"):
            tab = browser.new_page()
            tab.goto(f"http://{host}:{urlsplit(web.address).port}/")
            tab.wait_for_function("window.done")
            assert tab.evaluate("window.opened") is None
            tab.close()


@UI
def test_the_own_page_starts_a_run(server: GuardedServer, browser: Any) -> None:
    runs_before = server.count_changes()
    tab = browser.new_page()
    tab.goto(server.address)
    tab.evaluate(
        "query => fetch('/graphql', {method: 'POST', body: query,"
        " headers: {'Content-Type': 'application/json'}}).then(answer => answer.text())",
        server.change_body.decode(),
    )
    tab.close()
    assert server.count_changes() == runs_before + 1
