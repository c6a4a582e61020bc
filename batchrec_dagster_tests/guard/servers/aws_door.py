"""A server in front of S3 or Personalize that lets only permitted requests through.

The server notes the permissions that each call needs. It refuses a call as AWS does: because of a
permission that the call needs, not because of the call's name.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.storage.objects import ObjectStore


class Permission(NamedTuple):
    action: str
    resource: str
    tags: tuple[tuple[str, str], ...] = ()
    """The tags of the resource if the request deletes it, else empty."""


class Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Door:
    """A server that lets a request through if `is_permitted` allows all permissions it needs.

    permissions_needed: the permissions that requests needed, in order, with repeats.
    """

    port: int = 0
    is_permitted: Callable[[Permission], bool] = lambda permission: True
    permissions_needed: list[Permission] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def find_denied(self, permissions: list[Permission]) -> Permission | None:
        """Note these permissions as needed, and return the first that is not granted, or None."""
        self.permissions_needed += permissions
        return next(
            (permission for permission in permissions if not self.is_permitted(permission)), None
        )


@contextmanager
def s3_door(endpoint: str) -> Iterator[Door]:
    """Open a door in front of the S3 server at this endpoint."""
    door, address = Door(), urlsplit(endpoint)

    def forward(request: Request) -> Answer:
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
        connection.request(
            request.method, request.path, request.body, dict(request.headers), encode_chunked=False
        )
        response = connection.getresponse()
        body = response.read()
        # In the answer to HEAD, the length is the object's and not the body's, so it is kept.
        of_a_hop = _OF_A_HOP[:-1] if request.method == "HEAD" else _OF_A_HOP
        headers = {k: v for k, v in response.getheaders() if k.lower() not in of_a_hop}
        connection.close()
        return Answer(response.status, headers, body)

    def respond(request: Request) -> Answer:
        lacking = door.find_denied(_list_s3_permissions(request))
        response = forward(request) if lacking is None else None
        bucket = urlsplit(request.path).path.split("/")[1]
        # A caller who may not list the bucket is not told that an object does not exist.
        if response and response.status == 404 and request.method in ("GET", "HEAD"):
            lacking = door.find_denied([Permission("s3:ListBucket", f"arn:aws:s3:::{bucket}")])
        if response is not None and lacking is None:
            return response
        denial = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        body = b"" if request.method == "HEAD" else denial
        return Answer(403, {"Content-Type": "application/xml"}, body)

    with _serving(door, respond):
        yield door


@contextmanager
def personalize_door(service: LocalPersonalize) -> Iterator[Door]:
    """Open a door in front of a local Personalize, with that Personalize's account and region."""
    door = Door()

    def respond(request: Request) -> Answer:
        target = request.headers.get("X-Amz-Target", "")
        operation = target.rpartition(".")[2]
        permissions = _list_personalize_permissions(operation, json.loads(request.body))
        if operation.startswith("Delete"):
            permissions = [
                permission._replace(tags=_read_tags(service, permission.resource))
                for permission in permissions
            ]
        lacking = door.find_denied(permissions)
        if lacking is None:
            status, body, _ = service.answer(target, request.body)
        else:
            message = f"User: someone is not authorized to perform: {lacking.action}"
            message += f" on resource: {lacking.resource}"
            refusal = {"__type": "AccessDeniedException", "Message": message}
            status, body = 400, json.dumps(refusal).encode()
        return Answer(status, {"Content-Type": "application/x-amz-json-1.1"}, body)

    with _serving(door, respond):
        yield door


def _read_tags(service: LocalPersonalize, arn: str) -> tuple[tuple[str, str], ...]:
    """Return the keys and values of the resource's tags.

    Return none for a kind of resource that takes no tags, such as a schema.
    """
    asked = json.dumps({"resourceArn": arn}).encode()
    status, body, _ = service.answer("AmazonPersonalize.ListTagsForResource", asked)
    if status != 200:
        return ()
    return tuple((tag["tagKey"], tag["tagValue"]) for tag in json.loads(body)["tags"])


@contextmanager
def open_personalize_door(
    home: Path, store: ObjectStore, *, region: str, account: str
) -> Iterator[Door]:
    """Open a door in front of a new local Personalize."""
    service = LocalPersonalize(home, store, region=region, account=account)
    try:
        with personalize_door(service) as door:
            yield door
    finally:
        service.close()


_OF_A_HOP = ("connection", "transfer-encoding", "keep-alive", "content-length")
_PREFIX = "arn:aws:personalize:us-east-1:000000000000:"


def _list_s3_permissions(request: Request) -> list[Permission]:
    """Return the permissions that a request to S3 needs.

    Source: the Amazon S3 user guide, "Required permissions for Amazon S3 API operations".
    """
    parts = urlsplit(request.path)
    query = parse_qs(parts.query, keep_blank_values=True)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    place = f"arn:aws:s3:::{bucket}/{key}"
    match request.method:
        case "GET" | "HEAD" if key:
            return [Permission("s3:GetObject", place)]
        case "GET" | "HEAD":
            return [Permission("s3:ListBucket", f"arn:aws:s3:::{bucket}")]
        case "DELETE" if "uploadId" in query:
            return [Permission("s3:AbortMultipartUpload", place)]
        case "DELETE":
            return [Permission("s3:DeleteObject", place)]
        case "POST" if "delete" in query:
            keys = re.findall(rb"<Key>(.*?)</Key>", request.body)
            arns = [f"arn:aws:s3:::{bucket}/{object_key.decode()}" for object_key in keys]
            return [Permission("s3:DeleteObject", arn) for arn in arns]
    copy_source = unquote(request.headers.get("x-amz-copy-source", "")).lstrip("/")
    read = [Permission("s3:GetObject", f"arn:aws:s3:::{copy_source}")] if copy_source else []
    return [*read, Permission("s3:PutObject", place)]


def _list_personalize_permissions(operation: str, params: dict[str, Any]) -> list[Permission]:
    """Return the permissions that an operation of Personalize needs.

    Source: the service authorization reference, "Actions, resources, and condition keys for Amazon
    Personalize". The operation also needs its permission on every other resource that the request
    names: AWS asks for CreateSolution on the recipe too, which the reference does not say.
    """
    verb, *words = re.findall("[A-Z][a-z]*", operation)
    kind = "-".join(words).lower()
    resource = "*"
    if verb == "Create" and operation != "CreateSolutionVersion":
        name = params.get("jobName") or params["name"]
        resource = f"{_PREFIX}{kind}/{name}"
        if operation == "CreateDataset":
            group = params["datasetGroupArn"].rpartition("/")[2]
            resource = f"{_PREFIX}dataset/{group}/{params['datasetType']}"
    elif verb != "List" or operation == "ListTagsForResource":
        resource = next(value for name, value in params.items() if name.lower().endswith("arn"))
    named_resources = [
        value for name, value in params.items() if name.endswith("Arn") and name != "roleArn"
    ]
    resources = dict.fromkeys([resource] if resource == "*" else [resource, *named_resources])
    permissions = [Permission(f"personalize:{operation}", name) for name in resources]
    if params.get("tags"):
        permissions.append(Permission("personalize:TagResource", resource))
    if "roleArn" in params:
        permissions.append(Permission("iam:PassRole", params["roleArn"]))
    return permissions


@contextmanager
def _serving(door: Door, respond: Callable[[Request], Answer]) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Otherwise each answer takes 40 ms, because its body waits for the acknowledgement of its
        # head.
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            response = respond(Request(self.command, self.path, dict(self.headers), body))
            self.send_response_only(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in response.headers:
                self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: tests look at the recorded permissions."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    door.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
