"""The requests that a run sends to Personalize, as lines that a reviewer can read.

    with record_requests() as requests:
        ...  # A run in this process.
    validate(requests)
    lines = RequestRenderer({"s3://my-bucket": "<storage>"}).render(requests)

A line has the operation and all its parameters. The parts that differ between accounts and between
runs are replaced by placeholders: the beginning of ARNs, the storage, and hashes at the end of
names. A hash has the same placeholder on all lines of a recording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest.mock import patch

import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.client import BaseClient
from botocore.httpsession import URLLib3Session
from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.validate import ParamValidator

DATA_VERSION_TAG = "batchrec:data-version"
# The developer guide's limits for a batch inference job's results and a resource's tags. The
# service model does not have these limits.
MAX_RESULTS = 500
MAX_TAGS = 50

ARN = re.compile(r"arn:aws:personalize:[a-z\d-]+:\d{12}:")
HASH = re.compile(r"(?<![0-9a-z])[0-9a-f]{8,}(?![0-9a-z])")
# A longer hash begins with the shorter hash of the same content, so these characters identify both.
HASH_LENGTH = 8
# The part of an Authorization header with the key's id, the day, the region and the service.
CREDENTIAL = re.compile(r"Credential=[^/]+/\d{8}/([\w-]+)/([\w-]+)/aws4_request")


@dataclass(frozen=True)
class RecordedRequest:
    """A request as a client sends it."""

    operation: str
    """The name of the operation, such as CreateSolution."""
    params: dict[str, Any]


@contextmanager
def record_requests() -> Iterator[list[RecordedRequest]]:
    """Record all requests that this process sends to Personalize during the block, in order.

    A request that repeats the request before it is left out. So it does not matter how often a run
    asks whether a job is ready.
    """
    requests: list[RecordedRequest] = []
    call: Any = vars(BaseClient)["_make_api_call"]

    def record_and_call(
        client: BaseClient, operation: str, params: dict[str, Any]
    ) -> dict[str, Any]:
        model = client.meta.service_model
        if model.service_name == "personalize":
            # Parameters that botocore does not know are for a separate header, and are not sent as
            # a part of the request.
            shape = model.operation_model(operation).input_shape
            members = shape.members if shape else {}
            known = {name: value for name, value in params.items() if name in members}
            request = RecordedRequest(operation, known)
            if requests[-1:] != [request]:
                requests.append(request)
        answer: dict[str, Any] = call(client, operation, params)
        return answer

    with patch.object(BaseClient, "_make_api_call", record_and_call):
        yield requests


def format_requests(requests: Sequence[RecordedRequest]) -> str:
    """Return the requests as JSON, for `parse_requests`."""
    return json.dumps([asdict(request) for request in requests])


def parse_requests(text: str) -> list[RecordedRequest]:
    """Return the requests that `format_requests` wrote."""
    return [RecordedRequest(**request) for request in json.loads(text)]


@contextmanager
def record_signed_services() -> Iterator[set[tuple[str, str]]]:
    """Record the AWS services and regions that this process's requests are signed for.

    The signature counts, not the server that gets the request.
    """
    services: set[tuple[str, str]] = set()
    send = URLLib3Session.send

    def record_and_send(session: URLLib3Session, request: AWSPreparedRequest) -> AWSResponse:
        header = request.headers["Authorization"]
        text = header.decode() if isinstance(header, bytes) else header
        match = CREDENTIAL.search(text)
        assert match, text
        services.add((match[2], match[1]))
        return send(session, request)

    with patch.object(URLLib3Session, "send", record_and_send):
        yield services


def validate(requests: Sequence[RecordedRequest]) -> None:
    """Fail if Amazon Personalize would refuse one of the requests.

    Botocore checks names, types, required members and minimum sizes before it sends a request;
    Personalize also checks patterns, maximum sizes and enumerations of the service model, and
    limits that only the developer guide has.
    """
    model = botocore.session.get_session().get_service_model("personalize")
    for request in requests:
        shape = model.operation_model(request.operation).input_shape
        assert shape is not None
        report = ParamValidator().validate(request.params, shape)
        assert not report.has_errors(), f"{request.operation}: {report.generate_report()}"
        breaches = list(_find_breaches(request.params, shape, request.operation))
        assert not breaches, breaches
        assert request.params.get("numResults", 1) <= MAX_RESULTS
        assert len(request.params.get("tags", ())) <= MAX_TAGS


def _find_breaches(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """Yield the breaches of those rules of the service model that botocore does not check."""
    if isinstance(shape, StructureShape):
        for name, member in value.items():
            yield from _find_breaches(member, shape.members[name], f"{path}.{name}")
    elif isinstance(shape, ListShape):
        for entry in value:
            yield from _find_breaches(entry, shape.member, path)
    elif isinstance(shape, MapShape):
        for key, entry in value.items():
            yield from _find_breaches(entry, shape.value, f"{path}.{key}")
    most, pattern = shape.metadata.get("max"), shape.metadata.get("pattern", "")
    size = value if isinstance(value, int | float) else len(value)
    if most is not None and size > most:
        yield f"{path}: {value!r} is more than {most}"
    if shape.metadata.get("enum") and value not in shape.metadata["enum"]:
        yield f"{path}: {value!r} is not one of {shape.metadata['enum']}"
    # Python has no classes of characters such as \p{L}.
    if pattern and r"\p" not in pattern and not re.fullmatch(pattern, value):
        yield f"{path}: {value!r} does not match {pattern}"


@dataclass(frozen=True)
class RequestRenderer:
    """A writer of requests as lines."""

    names: Mapping[str, str]
    """The placeholders of texts that depend on the deployment, by text."""
    hashes: dict[str, str] = field(default_factory=dict)
    """The placeholders of the hashes so far, by the hashes' first characters."""

    def render(self, requests: Sequence[RecordedRequest]) -> list[str]:
        """Return a line for each request."""
        return [self._render_request(request) for request in requests]

    def _render_request(self, request: RecordedRequest) -> str:
        for tag in request.params.get("tags", ()):
            if tag["tagKey"] == DATA_VERSION_TAG:
                self.hashes.setdefault(tag["tagValue"][:HASH_LENGTH], "<data>")
        words = [request.operation]
        words += [f"{name}={_render_value(value)}" for name, value in request.params.items()]
        line = " ".join(words)
        for text, name in self.names.items():
            line = line.replace(text, name)
        line = ARN.sub("<arn>:", line)
        nouns = re.findall("[A-Z][a-z]+", request.operation)[1:]
        kind = "-".join(nouns).lower().removesuffix("s")
        return HASH.sub(lambda match: self._name_hash(match[0], kind), line)

    def _name_hash(self, text: str, kind: str) -> str:
        """Return the hash's placeholder.

        The placeholder is the kind of resource that the first request with the hash asked for.
        """
        key = text[:HASH_LENGTH]
        if key not in self.hashes:
            number = 1 + sum(
                re.fullmatch(rf"<{kind}( \d+)?>", name) is not None for name in self.hashes.values()
            )
            self.hashes[key] = f"<{kind}>" if number == 1 else f"<{kind} {number}>"
        return self.hashes[key]


def _render_value(value: Any) -> str:
    """Return a value as JSON, but tags as key=value, and texts without quotes."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all("tagKey" in entry for entry in value):
        return "[" + ", ".join(f"{tag['tagKey']}={tag['tagValue']}" for tag in value) + "]"
    return json.dumps(value, separators=(", ", ": "))
