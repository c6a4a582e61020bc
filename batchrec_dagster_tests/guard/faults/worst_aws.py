"""Clients of a local Personalize that misbehaves, and a proxy that makes a server misbehave.

For a client of an embedded Personalize in this process:

    throttling = Throttling(random.Random(0))
    client, aws = misbehave(embedded_client, throttling)
    ...  # Requests of `client`.
    assert throttling.count

For all clients in this process, such as the clients that a run opens:

    with misbehaving_clients(FailingResources({"CreateFilter": ["a hiccup"]})):
        ...

For other processes, a proxy in front of a server:

    with worst_aws("http://127.0.0.1:8080", throttling) as proxy:
        ...  # Requests to proxy.address.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.client import BaseClient
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError
from urllib3 import HTTPResponse

from batchrec_dagster_tests.guard.faults.crashes import CrashError
from batchrec_dagster_tests.guard.faults.personalize_requests import (
    Answer,
    Misbehaviour,
    Request,
)

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient


@dataclass
class WorstAws:
    """A misbehaving Personalize, and counts of the requests that it got and carried out."""

    carry_out: Callable[[Mapping[str, str], bytes], Answer]
    """A function that sends a request's headers and body to the real Personalize."""
    misbehaviours: Sequence[Misbehaviour]
    """The misbehaviours, in the order that each request, and then its answer, passes them."""
    address: str = ""
    creates: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The number of times that each Create was carried out, by operation and resource name."""
    requests: Counter[str] = field(default_factory=Counter)
    """The number of requests for each operation."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def creates_by_operation(self) -> Counter[str]:
        """Return how many Creates were carried out, by operation."""
        counts: Counter[str] = Counter()
        for (operation, _), count in self.creates.items():
            counts[operation] += count
        return counts

    def answer(self, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """Return the answer that the client gets; None to cut the client's connection."""
        request = Request(headers["X-Amz-Target"].partition(".")[2], json.loads(body or b"{}"))
        with self._lock:
            self.requests[request.operation] += 1
            for misbehaviour in self.misbehaviours:
                refusal = misbehaviour.refuse(request)
                if refusal is not None:
                    return refusal
            answer: Answer | None = self.carry_out(headers, body)
            assert answer is not None
            if answer.created_arn(request) is not None:
                self.creates[request.operation, request.name] += 1
            for misbehaviour in self.misbehaviours:
                answer = misbehaviour.change(request, answer)
                if answer is None:
                    return None
            return answer


def _ask_server(upstream: str, headers: Mapping[str, str], body: bytes) -> Answer:
    address = urlsplit(upstream)
    assert address.hostname
    connection = HTTPConnection(address.hostname, address.port, timeout=300)
    try:
        connection.request("POST", "/", body, headers)
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read()))
    finally:
        connection.close()


def _ask_client(client: PersonalizeClient, headers: Mapping[str, str], body: bytes) -> Answer:
    """Return the answer of an embedded Personalize, which is an event handler of its client."""
    request = AWSPreparedRequest(
        "POST", "http://personalize", HTTPHeaders.from_dict(headers), body, False
    )
    responses = client.meta.events.emit("before-send.personalize.Any", request=request)
    (response,) = [response for _, response in responses if response is not None]
    return Answer(response.status_code, json.loads(response.content))


def misbehave(
    client: PersonalizeClient, *misbehaviours: Misbehaviour, attempts: int = 1
) -> tuple[PersonalizeClient, WorstAws]:
    """Return a misbehaving client of this client's embedded Personalize, and counts of requests.

    attempts: the maximum number of times that botocore sends a request.
    """
    aws = WorstAws(partial(_ask_client, client), misbehaviours)

    def respond(request: AWSPreparedRequest, **_: Any) -> Any:
        headers = {name: _to_text(value) for name, value in request.headers.items()}
        answer = aws.answer(headers, _to_text(request.body).encode())
        if answer is None:
            raise ConnectionClosedError(endpoint_url=request.url)
        answer_headers = {"Date": formatdate(usegmt=True)}
        if not answer.succeeded:
            answer_headers["x-amzn-ErrorType"] = answer.content.get("__type", "")
        body = HTTPResponse(BytesIO(json.dumps(answer.content).encode()), preload_content=False)
        return AWSResponse(request.url, answer.status, HTTPHeaders.from_dict(answer_headers), body)

    misbehaving: PersonalizeClient = boto3.Session("any", "any").client(
        "personalize",
        region_name=client.meta.region_name,
        endpoint_url="http://personalize.localhost",
        config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}),
    )
    misbehaving.meta.events.register("before-send.personalize", respond)
    return misbehaving, aws


def _to_text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value or "")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: WorstAws


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name: value for name, value in self.headers.items() if name != "Connection"}
        answer = self.server.proxy.answer(headers, body)
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        content = json.dumps(answer.content).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(content)))
        if not answer.succeeded:
            self.send_header("x-amzn-ErrorType", answer.content.get("__type", ""))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing: the proxy counts the requests."""


@contextmanager
def worst_aws(upstream: str, *misbehaviours: Misbehaviour) -> Iterator[WorstAws]:
    """Start a misbehaving proxy in front of the local Personalize at this URL, and yield it."""
    server = _Server(("127.0.0.1", 0), _Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    server.proxy = WorstAws(partial(_ask_server, upstream), misbehaviours, address)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def crash_after_first(verb: str) -> Iterator[list[str]]:
    """Raise CrashError, as if the process ended, after each operation's first request.

    This holds for all clients in this process. Yield the operations that have raised the error so
    far.

    verb: the beginning of the operations' names, such as Create.
    """
    operations: list[str] = []

    def crash(call: Call, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        answer = call(operation, params)
        if operation.startswith(verb) and operation not in operations:
            operations.append(operation)
            raise CrashError(operation)
        return answer

    with _replaced_calls(crash):
        yield operations


@contextmanager
def replace_answers(answers: Mapping[str, dict[str, Any]]) -> Iterator[None]:
    """Replace the answers to these operations, for all clients in this process."""

    def replace(call: Call, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        answer = call(operation, params)
        return answers.get(operation, answer)

    with _replaced_calls(replace):
        yield


@contextmanager
def misbehaving_clients(*misbehaviours: Misbehaviour) -> Iterator[None]:
    """Let the misbehaviours change the answers that all clients in this process get.

    No request is refused: `Misbehaviour.refuse` is not called.
    """

    def change(call: Call, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        answer = Answer(200, call(operation, params))
        for misbehaviour in misbehaviours:
            changed = misbehaviour.change(Request(operation, params), answer)
            assert changed is not None
            answer = changed
        return answer.content

    with _replaced_calls(change):
        yield


@contextmanager
def repeated_request(operation: str) -> Iterator[None]:
    """Send an operation's first request twice, as botocore does if an answer is lost.

    This holds for all clients in this process. Raises AssertionError if there is no such request.
    """
    lost: list[object] = []

    def repeat(call: Call, requested: str, params: dict[str, Any]) -> dict[str, Any]:
        if requested == operation and not lost:
            lost.append(call(requested, params))
        return call(requested, params)

    with _replaced_calls(repeat):
        yield
    assert lost, operation


Call = Callable[[str, dict[str, Any]], dict[str, Any]]
"""A function that sends the request of an operation with parameters, and returns the answer."""


@contextmanager
def _replaced_calls(
    replacement: Callable[[Call, str, dict[str, Any]], dict[str, Any]],
) -> Iterator[None]:
    call: Any = vars(BaseClient)["_make_api_call"]

    def call_instead(client: BaseClient, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        return replacement(partial(call, client), operation, params)

    with patch.object(BaseClient, "_make_api_call", call_instead):
        yield
