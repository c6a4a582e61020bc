"""The two HTTP servers of batchrec as processes, with a request that changes something in each."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrec_dagster_tests.guard.builders import declaration, module_project, write_ratings
from batchrec_dagster_tests.guard.servers.dagster_ui import answers, web_ui
from batchrec_dagster_tests.guard.servers.processes import free_ports, started

# The host name that the servers accept besides this machine's names.
ALLOWED = "dagster.example"
ENVIRONMENT = {"BATCHREC_ALLOWED_HOSTS": "Dagster.example"}
# Headers that are sent only by a page of another site, or by a browser that uses another name for
# this machine.
STRANGERS: list[list[tuple[str, str]]] = [
    [("Host", "")],
    [("Host", "evil.example")],
    [("Host", "localhost.evil.example:80")],
    [("Host", "127.0.0.1.evil.example")],
    [("Host", "evil@localhost")],
    [("Host", "localhost:3000/@evil")],
    [("Host", "0.0.0.0:{port}")],
    [("Host", "10.0.0.5")],
    [("Host", "locälhost")],
    [("Host", "127.0.0.1:{port}"), ("Host", "evil.example")],
    [("Origin", "http://evil.example")],
    [("Origin", "http://127.0.0.1:1")],
    [("Origin", "http://localhost:{port}")],
    [("Origin", "null")],
    [("Origin", "")],
    [("Origin", "file://127.0.0.1:{port}")],
    [("Origin", "http://127.0.0.1:{port}.evil.example")],
    [("Origin", "http://127.0.0.1:{port}"), ("Origin", "http://evil.example")],
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Sec-Fetch-Site", "something-new")],
    [
        ("Sec-Fetch-Site", "same-site"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
    ],
]
Headers = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class GuardedServer:
    """A server that listens on this machine."""

    port: int
    health: str
    """The path of a request that is answered with 200 and changes nothing."""
    change_path: str
    """The path of the POST request that changes something."""
    change_body: bytes
    change_headers: Mapping[str, str]
    count: Callable[[GuardedServer], int]
    """A function that returns how many times the change was made."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Headers = ()
    ) -> tuple[int, bytes]:
        """Send a request, and return the answer's status and body.

        The status is 0 if the connection was closed without an answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        pairs = [*headers.items()] if isinstance(headers, Mapping) else [*headers]
        has_host = any(name == "Host" for name, _ in pairs)
        try:
            connection.putrequest(method, path, skip_host=has_host, skip_accept_encoding=True)
            for name, value in pairs:
                connection.putheader(name, value.encode("latin-1"))
            if body or method == "POST":
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def post(self, body: bytes, path: str = "", headers: Headers = ()) -> tuple[int, bytes]:
        """Post a body, and return the answer's status and body.

        path: the path of the request; empty for the path of the change.
        """
        pairs = [*headers.items()] if isinstance(headers, Mapping) else [*headers]
        return self.ask(
            "POST", path or self.change_path, body, [*self.change_headers.items(), *pairs]
        )

    def change(self, headers: Headers) -> int:
        """Ask for the change with these additional headers, and return the answer's status."""
        return self.post(self.change_body, headers=headers)[0]

    def count_changes(self) -> int:
        """Return how many times the change was made."""
        return self.count(self)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Raise AssertionError if the change is made during the block."""
        before = self.count_changes()
        yield
        assert self.count_changes() == before

    def begin_change(self, header: bytes) -> bytes:
        """Return the head of the request that asks for the change, with an additional header."""
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.change_headers.items())
        head = f"POST {self.change_path} HTTP/1.1\r\nHost: localhost\r\n{headers}"
        return head.encode() + header + b"\r\n\r\n"

    def connect(self, first_bytes: bytes) -> socket.socket:
        """Return an open connection over which only these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(first_bytes)
        return connection

    def read_headers(self, request: bytes) -> tuple[int, list[tuple[str, str]]]:
        """Send these bytes, and return the status and the headers of the answer."""
        with self.connect(request) as connection:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, [(name.lower(), value) for name, value in answer.getheaders()]


LAUNCH = (
    'mutation{launchRun(executionParams:{selector:{repositoryName:"__repository__",'
    'repositoryLocationName:"batchrec_dagster",jobName:"shop_refresh"},runConfigData:'
    "{}}){__typename}}"
)
RUNS = "{runsOrError{... on Runs{results{runId}}}}"
JSON = {"Content-Type": "application/json"}


def query(server: GuardedServer, text: str) -> Any:
    """Return the data of Dagster's answer to a GraphQL query."""
    status, body = server.post(json.dumps({"query": text}).encode())
    assert status == 200, body
    return json.loads(body)["data"]


@contextmanager
def serve_dagster(folder: Path) -> Iterator[GuardedServer]:
    """Start `batchrec ui` on a project with a pipeline `shop` that a request can start."""
    project = module_project(folder)
    project.environment |= ENVIRONMENT
    project.declare(declaration("shop", write_ratings(folder / "ratings.csv")))
    with web_ui(project) as address:
        yield GuardedServer(
            int(address.rpartition(":")[2]),
            "/server_info",
            "/graphql",
            json.dumps({"query": LAUNCH}).encode(),
            JSON,
            lambda server: len(query(server, RUNS)["runsOrError"]["results"]),
        )


@contextmanager
def serve_personalize(folder: Path) -> Iterator[GuardedServer]:
    """Start `batchrec local-personalize`, where a request can create a dataset group."""
    (port,) = free_ports(1)
    target = "AmazonPersonalize.{}DatasetGroup{}".format
    headers = {"Content-Type": "application/x-amz-json-1.1"}

    def count(server: GuardedServer) -> int:
        asked = {**headers, "X-Amz-Target": target("List", "s")}
        status, body = server.ask("POST", "/", b"{}", asked)
        assert status == 200, body
        return len(json.loads(body)["datasetGroups"])

    server = GuardedServer(
        port,
        "/health",
        "/",
        json.dumps({"name": "of-a-stranger"}).encode(),
        {**headers, "X-Amz-Target": target("Create", "")},
        count,
    )
    program = Path(sys.executable).with_name("batchrec")
    command = [str(program), "local-personalize", "--port", str(port)]
    environment = {**os.environ, **ENVIRONMENT, "BATCHREC_HOME": str(folder / "home")}
    with started(command, folder, environment, folder / "log") as process:
        process.wait_for(lambda: answers(f"{server.address}{server.health}"), "answer", timeout=300)
        yield server
