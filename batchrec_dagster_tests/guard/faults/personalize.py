"""Amazon Personalize at its worst: a local Personalize that misbehaves.

Each misbehaviour is a class of its own, which can be switched on alone and counts what it did.
In this process, before the client of an embedded Personalize:

    throttling = Throttling(random.Random(0))
    client, aws = misbehave(embedded_client, throttling)
    ...  # Requests of `client`.
    assert throttling.count

And for other processes, as a proxy before a server:

    with worst_aws("http://127.0.0.1:8080", throttling) as proxy:
        ...  # Requests to proxy.address.
"""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache, cached_property, partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.client import BaseClient
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError
from urllib3 import HTTPResponse

from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.faults.crashes import CrashError

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

VERBS = ("Create", "Describe", "List")
READY = ("ACTIVE", "COMPLETED")
DELETION = "DataDeletionJob"
# The marker that the local Personalize writes when an output is complete.
CHECK_MARKER = "_CHECK"
SOFT_QUOTA = "More than 5 resources with PENDING or IN_PROGRESS status."
HARD_QUOTA = "The account has reached the maximum number of these resources."
NO_ACCESS = "Insufficient privileges for accessing data in Amazon S3."
LINE_ERROR = "Internal server error: the request could not be answered."


@dataclass(frozen=True)
class Kind:
    """How the API spells a kind of resource."""

    noun: str
    """As in its operations, such as SolutionVersion."""
    arn: str
    """The member with its ARN, such as solutionVersionArn."""
    members: str
    """The member of List's answer, such as solutionVersions."""


@cache
def find_kind(operation: str) -> Kind | None:
    """The kind of resource that Create, Describe or List is of; None for other operations."""
    verb = next((verb for verb in VERBS if operation.startswith(verb)), None)
    if verb is None:
        return None
    noun = operation.removeprefix(verb).removesuffix("s" if verb == "List" else "")
    model = botocore.session.get_session().get_service_model("personalize")
    if f"List{noun}s" not in model.operation_names:
        return None
    shape = model.operation_model(f"List{noun}s").output_shape
    answer = shape.members if shape else {}
    members = next(name for name in answer if name != "nextToken")
    return Kind(noun, f"{noun[:1].lower()}{noun[1:]}Arn", members)


@dataclass(frozen=True)
class Request:
    """A request to Personalize."""

    operation: str
    """Its name, such as CreateSolution."""
    params: dict[str, Any]

    @property
    def verb(self) -> str:
        """Create, Describe or List; empty for other operations."""
        return next((verb for verb in VERBS if self.operation.startswith(verb)), "")

    @cached_property
    def kind(self) -> Kind | None:
        """The kind of resource; None for operations of another verb."""
        return find_kind(self.operation)

    @property
    def name(self) -> str:
        """The name of the resource that it creates; empty if it has none."""
        return str(self.params.get("jobName") or self.params.get("name") or "")


@dataclass(frozen=True)
class Answer:
    """Personalize's answer to a request."""

    status: int
    content: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        return self.status == 200

    def created_arn(self, request: Request) -> str | None:
        """The ARN of what the request created; None if it created nothing."""
        if request.verb != "Create" or not self.succeeded or request.kind is None:
            return None
        return str(self.content[request.kind.arn])

    def summaries(self, request: Request) -> list[dict[str, Any]]:
        """The resources that it shows: those of a list, the one described, or none.

        They can be changed.
        """
        if not self.succeeded or request.kind is None:
            return []
        if request.verb == "List":
            return list(self.content[request.kind.members])
        if request.verb == "Describe":
            return [next(iter(self.content.values()))]
        return []


def _name_status(kind: Kind, status: str) -> str:
    """The status as resources of the kind have it."""
    return status.removeprefix("CREATE ") if kind.noun == DELETION else status


def make_error(code: str, message: str) -> Answer:
    """An error as Personalize sends it."""
    return Answer(400, {"__type": code, "message": message})


@dataclass
class Misbehaviour:
    """One way in which AWS differs from a calm local Personalize.

    Its methods are called for one request at a time.
    """

    count: int = field(default=0, init=False)
    """How often it did so."""

    def refuse(self, request: Request) -> Answer | None:
        """The error in place of carrying the request out; None to carry it out."""
        return None

    def change(self, request: Request, answer: Answer) -> Answer | None:
        """What the client gets in place of the answer; None cuts the connection."""
        return answer


@dataclass
class ExpiringCredentials(Misbehaviour):
    """Credentials that expire before the next request of an operation, until they are renewed."""

    expire_before: str | None = None
    """The operation; None for credentials that do not expire."""
    expired: bool = field(default=False, init=False)

    def renew(self) -> None:
        self.expire_before, self.expired = None, False

    def refuse(self, request: Request) -> Answer | None:
        self.expired = self.expired or request.operation == self.expire_before
        if not self.expired:
            return None
        self.count += 1
        return make_error(
            "ExpiredTokenException", "The security token included in the request is expired"
        )


@dataclass
class Throttling(Misbehaviour):
    """Throttles a share of the requests at random."""

    chance: random.Random
    share: float = 0.2

    def refuse(self, request: Request) -> Answer | None:
        if self.chance.random() >= self.share:
            return None
        self.count += 1
        return make_error("ThrottlingException", "Rate exceeded")


@dataclass
class ReachedQuotas(Misbehaviour):
    """Refuses the next Create of an operation, once, as a quota is reached.

    A quota of jobs in progress passes by itself. Of another, resources have to be deleted.
    """

    messages: dict[str, str] = field(default_factory=dict)
    """The message for each operation to refuse."""

    def refuse(self, request: Request) -> Answer | None:
        message = self.messages.pop(request.operation, None)
        if message is None:
            return None
        self.count += 1
        return make_error("LimitExceededException", message)


@dataclass
class FailingResources(Misbehaviour):
    """Lets the next resources that an operation creates fail, in place of becoming ACTIVE."""

    reasons: dict[str, list[str]] = field(default_factory=dict)
    """The failures' reasons for each operation whose next resources fail."""
    failed: dict[str, str] = field(default_factory=dict, init=False)
    """The reason of each resource that fails, by its ARN."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        arn = answer.created_arn(request)
        if arn is not None and self.reasons.get(request.operation):
            self.failed[arn] = self.reasons[request.operation].pop(0)
            self.count += 1
        for summary in answer.summaries(request):
            assert request.kind is not None
            reason = self.failed.get(summary[request.kind.arn])
            if reason is not None and summary.get("status") in READY:
                status = _name_status(request.kind, "CREATE FAILED")
                summary.update(status=status, failureReason=reason)
        return answer


@dataclass
class ChangedOutputs(Misbehaviour):
    """Changes the files that batch jobs wrote, before they are shown as ACTIVE."""

    store: ObjectStore
    seen: set[str] = field(default_factory=set, init=False)
    """The ARNs of jobs whose outputs are as they shall be."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        if request.kind and request.kind.noun in ("BatchInferenceJob", "BatchSegmentJob"):
            for summary in answer.summaries(request):
                arn = summary[request.kind.arn]
                # Only Describe says where the output is.
                if summary.get("status") == "ACTIVE" and arn not in self.seen:
                    if request.verb == "Describe":
                        self.seen.add(arn)
                        self.rewrite(summary["jobOutput"]["s3DataDestination"]["path"])
                    else:
                        summary["status"] = "CREATE IN_PROGRESS"
        return answer

    def rewrite(self, folder: str) -> None:
        """Change the files of the folder, whose URI ends with a slash."""
        raise NotImplementedError

    def outputs(self, folder: str) -> list[str]:
        """The URIs of the files with lines, in order."""
        files = [file.uri for file in self.store.list(folder)]
        return sorted(uri for uri in files if uri.endswith(".out"))


@dataclass
class SplitOutputs(ChangedOutputs):
    """Writes an output's lines in another order, into several parts, and without its marker."""

    chance: random.Random
    parts: int = 3

    def rewrite(self, folder: str) -> None:
        self.count += 1
        lines = []
        for uri in self.outputs(folder):
            lines += self.store.get(uri).splitlines(keepends=True)
        for file in self.store.list(folder):
            self.store.delete(file.uri)
        self.chance.shuffle(lines)
        for part in range(self.parts):
            uri = f"{folder}part-{part}.json.out"
            self.store.put(uri, b"".join(lines[part :: self.parts]))


@dataclass
class ErrorLines(ChangedOutputs):
    """Writes an error in place of the output into a share of the lines of the next outputs."""

    chance: random.Random
    share: float = 0.02
    outputs_left: int = 0
    """How many outputs it still damages."""
    users: list[list[str]] = field(default_factory=list, init=False)
    """The users without a list, for each output that it damaged."""

    def rewrite(self, folder: str) -> None:
        if not self.outputs_left:
            return
        self.outputs_left -= 1
        self.count += 1
        contents = {uri: self.store.get(uri).splitlines() for uri in self.outputs(folder)}
        places = [(uri, index) for uri, lines in contents.items() for index in range(len(lines))]
        chosen = self.chance.sample(places, max(1, round(self.share * len(places))))
        self.users.append([])
        for uri, index in chosen:
            line = json.loads(contents[uri][index])
            self.users[-1].append(line["input"].get("userId", ""))
            failed = {"input": line["input"], "error": LINE_ERROR}
            contents[uri][index] = json.dumps(failed, separators=(",", ":")).encode()
        for uri in {uri for uri, _ in chosen}:
            self.store.put(uri, b"".join(line + b"\n" for line in contents[uri]))


@dataclass
class PendingStatuses(Misbehaviour):
    """Shows what was created as pending, then as in progress, however quickly it is ready.

    Each Describe takes it one status further.
    """

    statuses: tuple[str, ...] = ("CREATE PENDING", "CREATE IN_PROGRESS")
    described: Counter[str] = field(default_factory=Counter, init=False)
    """How often each resource that was created has been described, by its ARN."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        arn = answer.created_arn(request)
        if arn is not None:
            self.described[arn] = 0
        for summary in answer.summaries(request):
            assert request.kind is not None
            arn = summary[request.kind.arn]
            step = self.described.get(arn, len(self.statuses))
            if step < len(self.statuses) and "status" in summary:
                self.count += 1
                summary["status"] = _name_status(request.kind, self.statuses[step])
                summary.pop("failureReason", None)
                if request.verb == "Describe":
                    self.described[arn] += 1
        return answer


@dataclass
class LaggingLists(Misbehaviour):
    """Leaves what was just created out of its kind's next lists: of at most `calls` of them."""

    chance: random.Random
    calls: int = 3
    lists_without: dict[str, int] = field(default_factory=dict, init=False)
    """How many lists each resource is still missing from, by its ARN."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        arn = answer.created_arn(request)
        if arn is not None:
            self.lists_without[arn] = self.chance.randint(1, self.calls)
        if request.verb == "List" and request.kind is not None and answer.succeeded:
            shown = [
                summary
                for summary in answer.summaries(request)
                if not self._is_missing(summary[request.kind.arn])
            ]
            return Answer(answer.status, {**answer.content, request.kind.members: shown})
        return answer

    def _is_missing(self, arn: str) -> bool:
        if not self.lists_without.get(arn):
            return False
        self.lists_without[arn] -= 1
        self.count += 1
        return True


@dataclass
class LateDescribes(Misbehaviour):
    """Does not find what was just created when it is first described."""

    calls: int = 1
    describes_without: dict[str, int] = field(default_factory=dict, init=False)
    """How many times each resource is still not found, by its ARN."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        arn = answer.created_arn(request)
        if arn is not None:
            self.describes_without[arn] = self.calls
        if request.verb == "Describe":
            for summary in answer.summaries(request):
                assert request.kind is not None
                arn = summary[request.kind.arn]
                if self.describes_without.get(arn):
                    self.describes_without[arn] -= 1
                    self.count += 1
                    return make_error(
                        "ResourceNotFoundException", f"The given resource does not exist: {arn}"
                    )
        return answer


@dataclass
class BusyParents(Misbehaviour):
    """Refuses the next requests of an operation, as what they need is not ready yet."""

    operation: str
    times: int = 2

    def refuse(self, request: Request) -> Answer | None:
        if request.operation != self.operation or self.count == self.times:
            return None
        self.count += 1
        return make_error("ResourceInUseException", "The resource is in use.")


@dataclass
class LostAnswers(Misbehaviour):
    """Cuts the connection before the answer of a request that was carried out."""

    operation: str | None = None
    """The operation whose next success is lost; None for none."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        if request.operation != self.operation or not answer.succeeded:
            return answer
        self.operation = None
        self.count += 1
        return None


@dataclass
class WorstAws:
    """What misbehaves: what it did, and what it let through."""

    carry_out: Callable[[Mapping[str, str], bytes], Answer]
    """Has the Personalize behind it answer a request with these headers and this body."""
    misbehaviours: Sequence[Misbehaviour]
    """In the order in which each request, and then its answer, passes them."""
    address: str = ""
    creates: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each Create was carried out, by its operation and the resource's name."""
    requests: Counter[str] = field(default_factory=Counter)
    """How often each operation was asked for."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def creates_by_operation(self) -> Counter[str]:
        """How many Creates were carried out, by their operation."""
        counts: Counter[str] = Counter()
        for (operation, _), count in self.creates.items():
            counts[operation] += count
        return counts

    def answer(self, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """What the client gets; None if its connection is to be cut."""
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
    """What an embedded Personalize answers, which stands behind an event of its client."""
    request = AWSPreparedRequest(
        "POST", "http://personalize", HTTPHeaders.from_dict(headers), body, False
    )
    responses = client.meta.events.emit("before-send.personalize.Any", request=request)
    (response,) = [response for _, response in responses if response is not None]
    return Answer(response.status_code, json.loads(response.content))


def misbehave(
    client: PersonalizeClient, *misbehaviours: Misbehaviour, attempts: int = 1
) -> tuple[PersonalizeClient, WorstAws]:
    """A client of the same embedded Personalize, which misbehaves.

    attempts: how often botocore sends a request at most.
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
        """Nothing: the proxy counts instead."""


@contextmanager
def worst_aws(upstream: str, *misbehaviours: Misbehaviour) -> Iterator[WorstAws]:
    """The proxy, open, before the local Personalize at that URL."""
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
    """The process ends, as it were, after the first request of each operation of this verb.

    Yields the operations after which it has ended so far. Holds for all clients of this process.
    """
    operations: list[str] = []

    def crash(operation: str, answer: dict[str, Any]) -> dict[str, Any]:
        if operation.startswith(verb) and operation not in operations:
            operations.append(operation)
            raise CrashError(operation)
        return answer

    with _changed_answers(crash):
        yield operations


@contextmanager
def replace_answers(answers: Mapping[str, dict[str, Any]]) -> Iterator[None]:
    """The answers of these operations are others, for all clients of this process."""
    with _changed_answers(lambda operation, answer: answers.get(operation, answer)):
        yield


@contextmanager
def _changed_answers(change: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    call: Any = vars(BaseClient)["_make_api_call"]

    def call_and_change(
        client: BaseClient, operation: str, params: dict[str, Any]
    ) -> dict[str, Any]:
        return change(operation, call(client, operation, params))

    with patch.object(BaseClient, "_make_api_call", call_and_change):
        yield
