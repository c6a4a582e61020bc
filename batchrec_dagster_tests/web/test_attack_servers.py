"""Ten thousand hostile requests to each server, a hostile page in a browser, half-open ones."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from batchrec_dagster_tests.guard.builders import declaration, module_project, write_ratings
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.dagster_ui import LOCATION, answers, web_ui
from batchrec_dagster_tests.guard.servers.processes import free_ports, started
from batchrec_dagster_tests.guard.servers.web import Page, serving
from batchrec_dagster_tests.web.test_guard import MALFORMED

pytestmark = [pytest.mark.attack, pytest.mark.slow]

REQUESTS = repeats(10_000, 500)  # to each server
HALF_OPEN = 1_100
JSON = {"Content-Type": "application/json"}
MUTATION = "mutation{setAutoMaterializePaused(paused:false)}"
STATE = "{instance{autoMaterializePaused}}"
RUNS = "{runsOrError{... on Runs{results{runId}}}}"
LAUNCH = (
    'mutation{launchRun(executionParams:{selector:{repositoryName:"__repository__",'
    f'repositoryLocationName:"{LOCATION}",jobName:"shop_refresh"}},runConfigData:'
    "{}}){__typename}}"
)
CREATE = {
    "X-Amz-Target": "AmazonPersonalize.CreateDatasetGroup",
    "Content-Type": "application/x-amz-json-1.1",
}
LIST = {**CREATE, "X-Amz-Target": "AmazonPersonalize.ListDatasetGroups"}
GROUP = json.dumps({"name": "of-a-stranger"}).encode()
STRANGERS = (
    {"Host": "evil.example"},
    {"Host": "localhost.evil.example:80"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"X-Huge": "x" * 400_000},
)


def ask(
    address: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=300)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, b""  # closed without an answer
    finally:
        connection.close()


def query_graphql(address: str, query: str) -> Any:
    status, body = ask(address, "POST", "/graphql", json.dumps({"query": query}).encode(), JSON)
    assert status == 200, body
    return json.loads(body)["data"]


def is_paused(address: str) -> bool:
    paused_flag: bool = query_graphql(address, STATE)["instance"]["autoMaterializePaused"]
    return paused_flag


def count_runs(address: str) -> int:
    return len(query_graphql(address, RUNS)["runsOrError"]["results"])


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    project = module_project(tmp_path_factory.mktemp("shop"))
    project.declare(declaration("shop", write_ratings(project.root / "ratings.csv")))
    with web_ui(project) as address:
        yield address


@pytest.fixture(scope="module")
def personalize(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with local_personalize(tmp_path_factory.mktemp("personalize")) as address:
        yield address


@contextmanager
def local_personalize(folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "batchrec_dagster.local_personalize", "--port", str(port)]
    with started(command, folder, os.environ, folder / "log") as server:
        server.wait_for(lambda: answers(f"{address}/health"), "answer", timeout=300)
        yield address


def test_no_hostile_request_changes_dagster(ui: str) -> None:
    assert is_paused(ui)
    chance = random.Random(18)
    answer_count = 0
    for _ in range(REQUESTS):
        kind = chance.randrange(4)
        mutation = chance.choice([MUTATION, LAUNCH])
        body = json.dumps({"query": mutation}).encode()
        url = f"?query={quote(mutation)}"
        if kind == 0:  # a stranger's, otherwise right
            status, _ = ask(ui, "POST", "/graphql", body, {**JSON, **chance.choice(STRANGERS)})
        elif kind == 1:  # in the URL
            method = chance.choice(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST"])
            path = chance.choice(["/graphql", "/graphql/", "/graphql%0A", "/graphql%20"])
            accept = {"Accept": chance.choice(["*/*", "text/html"])}
            status, _ = ask(ui, method, path + url, headers=accept)
        elif kind == 2:  # not JSON
            types = ["text/plain", "text/plain;application/json", "application/graphql", ""]
            header = {"Content-Type": chance.choice(types)}
            status, _ = ask(ui, "POST", "/graphql" + url, body, header)
        else:  # bytes
            noise = chance.randbytes(chance.randrange(200))
            status, _ = ask(ui, "POST", "/" + quote(noise[:20]), noise, {"Content-Type": "x"})
        assert status not in range(200, 400), (kind, status)
        answer_count += status > 0
    assert answer_count > 0.9 * REQUESTS
    assert is_paused(ui)
    assert count_runs(ui) == 0
    assert answers(f"{ui}/server_info")


def test_no_hostile_request_changes_the_local_personalize(personalize: str) -> None:
    chance, answer_count = random.Random(18), 0
    for _ in range(REQUESTS):
        kind = chance.randrange(3)
        if kind == 0:
            headers = {**CREATE, **chance.choice(STRANGERS)}
            status, _ = ask(personalize, "POST", "/", GROUP, headers)
        elif kind == 1:
            method = chance.choice(["GET", "PUT", "DELETE", "OPTIONS", "TRACE"])
            status, _ = ask(personalize, method, "/", GROUP, CREATE)
        else:
            cut = chance.randrange(len(GROUP))
            noise = GROUP[:cut] + chance.randbytes(chance.randrange(1, 40))
            status, _ = ask(personalize, "POST", "/", noise, CREATE)
        assert status not in range(200, 400), (kind, status)
        answer_count += status > 0
    assert answer_count > 0.9 * REQUESTS
    assert json.loads(ask(personalize, "POST", "/", b"{}", LIST)[1])["datasetGroups"] == []
    assert answers(f"{personalize}/health")


def test_half_open_connections_shut_nobody_out(ui: str, personalize: str) -> None:
    for address, path in ((personalize, "/health"), (ui, "/server_info")):
        parts = urlsplit(address)
        with ExitStack() as exit_stack:
            for _ in range(HALF_OPEN):
                half = socket.create_connection((parts.hostname, parts.port), timeout=300)
                exit_stack.enter_context(half).send(b"GET / HTTP/1.1\r\nHost: loc")
            assert ask(address, "GET", path)[0] == 200


def read_headers(address: str, request: bytes) -> tuple[int, list[tuple[str, str]]]:
    """The status and the headers of what is answered to these bytes."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=300) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, [(name.lower(), value) for name, value in response.getheaders()]


def test_no_answer_can_be_shown_in_a_frame(ui: str, personalize: str) -> None:
    requests = {
        (ui, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"): 200,
        (ui, b"GET /server_info HTTP/1.1\r\nHost: localhost\r\n\r\n"): 200,
        (ui, b"GET /graphql HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n"): 200,
        (ui, b"GET /vendor/x HTTP/1.1\r\nHost: localhost\r\n\r\n"): 404,
        (ui, b"GET /notebook HTTP/1.1\r\nHost: localhost\r\n\r\n"): 403,
        (ui, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"): 403,
        (ui, b"GET /\x00 nonsense\r\n\r\n"): 400,
        (personalize, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"): 200,
        (personalize, b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"): 404,
        (personalize, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"): 400,
        (personalize, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"): 403,
        (personalize, b"GET /\x00 nonsense\r\n\r\n"): 400,
    }
    for (address, request), expected in requests.items():
        status, header_values = read_headers(address, request)
        assert status == expected, request
        assert ("x-frame-options", "DENY") in header_values, request
        assert ("content-security-policy", "frame-ancestors 'none'") in header_values, request
    # Dagster's own policy is there as well, and a browser obeys both.
    _, header_values = read_headers(ui, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    policies = [value for name, value in header_values if name == "content-security-policy"]
    assert len(policies) == 2
    assert any("script-src 'nonce-" in policy for policy in policies)


def test_a_websocket_still_opens(ui: str) -> None:
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    address = ui.replace("http", "ws") + "/graphql"
    with connect(address, subprotocols=[Subprotocol("graphql-ws")]) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(timeout=300)) == {"type": "connection_ack"}


def test_no_malformed_request_is_an_error_of_the_server(ui: str) -> None:
    for body in MALFORMED:
        assert ask(ui, "POST", "/graphql", body, JSON)[0] == 400, body[:80]
        assert ask(ui, "POST", "/report_asset_check/x", body, JSON)[0] == 400, body[:80]
    for path in ("/download_debug/x", "/download_debug/%00", "/logs/x", "/logs/..%2fx/y.out"):
        assert ask(ui, "GET", path)[0] == 404, path
    for path in ("/notebook", "/notebook?path=x.ipynb&repoLocName=shop", "/dagit/notebook%0A"):
        for method in ("GET", "HEAD"):
            assert ask(ui, method, path)[0] == 403, path


def build_hostile_page(ui: str, mutation: str) -> Page:
    """Sends the mutation in every way that a browser lets a page send to another site."""
    url = f"{ui}/graphql?query={quote(mutation)}"
    query = json.dumps({"query": mutation})
    start = json.dumps({"id": "1", "type": "start", "payload": {"query": mutation}})
    # What a form sends as text/plain is NAME=VALUE: JSON, with the = in a string.
    name, value = escape(f'{query[:-1]}, "x": "'), escape('"}')
    return Page(
        f"""<img src='{url}'><iframe src='{url}'></iframe><script src='{url}'></script>
        <iframe name=f></iframe><iframe name=g></iframe>
        <form class=form target=f method=post enctype=text/plain action='{url}'>
        <input name='{name}' value='{value}'></form>
        <form class=form target=g method=post action='{ui}/graphql'>
        <input name=query value='{escape(mutation)}'></form>
        <script>
        for (const form of document.querySelectorAll('.form')) form.submit();
        const sent = [{{}}, {{mode: 'no-cors'}}].flatMap(way =>
          ['application/json', 'text/plain', 'text/plain;application/json'].map(type =>
            fetch('{ui}/graphql', {{...way, method: 'POST', body: {query!r},
              headers: {{'Content-Type': type}}}}).catch(() => 0)));
        const socket = new WebSocket('{ui.replace("http", "ws")}/graphql', 'graphql-ws');
        socket.onopen = () => {{ window.opened = 1; socket.send({start!r}); }};
        sent.push(new Promise(done => socket.onclose = done));
        Promise.all(sent).then(() => window.done = 1);
        </script>""".encode(),
        headers={"Content-Type": "text/html"},
    )


def send_from_own_page(ui: str, browser: Any, mutation: str) -> None:
    tab = browser.new_page()
    tab.goto(ui)
    tab.evaluate(
        "query => fetch('/graphql', {method: 'POST', body: query,"
        " headers: {'Content-Type': 'application/json'}}).then(answer => answer.text())",
        json.dumps({"query": mutation}),
    )
    tab.close()


def test_a_hostile_page_in_a_browser_changes_nothing(ui: str, browser: Any) -> None:
    with serving() as web:
        for mutation in (MUTATION, LAUNCH):
            web.pages["/"] = build_hostile_page(ui, mutation)
            for host in ("127.0.0.1", "localhost"):
                tab = browser.new_page()
                tab.goto(f"http://{host}:{urlsplit(web.address).port}/")
                tab.wait_for_function("window.done")
                assert tab.evaluate("window.opened") is None
                tab.close()
    assert is_paused(ui)
    assert count_runs(ui) == 0
    # The same mutation from the UI's own page works, and starts the run.
    send_from_own_page(ui, browser, MUTATION)
    assert not is_paused(ui)
    send_from_own_page(ui, browser, LAUNCH)
    assert count_runs(ui) == 1
