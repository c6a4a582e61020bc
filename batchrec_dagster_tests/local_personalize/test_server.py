"""The local Personalize over HTTP, as an AWS SDK uses it: a real server, real sockets."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

from batchrec_dagster.web.hosts import is_loopback
from batchrec_dagster_tests.guard.servers.personalize import describe, poll_until_deadline
from batchrec_dagster_tests.guard.servers.processes import free_ports

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

KEY_ID, SECRET = "AKIDEXAMPLE", "a secret of the tests"


class Server:
    """A server in a process of its own."""

    def __init__(self, root: Path, process: subprocess.Popen[str], port: int) -> None:
        self.root, self.process, self.port = root, process, port

    def open_client(self, key_id: str = "any", secret: str = "any") -> PersonalizeClient:
        return boto3.Session(key_id, secret).client(
            "personalize",
            region_name="us-east-1",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()


@contextmanager
def _running_server(root: Path, **environment: str) -> Iterator[Server]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "batchrec_dagster.local_personalize", "--port", str(port)]
    command += ["--home", str(root / "home"), "--bucket", f"data={root / 'storage'}"]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            command, stderr=log, stdout=log, text=True, env=os.environ | environment
        )
    server = Server(root, process, port)
    try:
        for _ in poll_until_deadline():
            try:
                server.request("GET", "/health")
                break
            except ConnectionError:
                assert process.poll() is None, (root / "log").read_text()
        yield server
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that change nothing of each other."""
    with _running_server(tmp_path_factory.mktemp("server")) as running_server:
        yield running_server


def _wait_until_active(client: PersonalizeClient, arn: str) -> str:
    while (description := describe(client, arn))["status"] != "ACTIVE":
        assert "FAILED" not in description["status"], description
        time.sleep(0.01)
    return arn


def test_health_and_invalid_requests(server: Server) -> None:
    assert server.request("GET", "/health") == (200, b'{"status":"ok"}')
    assert server.request("GET", "/")[0] == 405
    assert server.request("POST", "/other")[0] == 404
    for target in ({}, {"X-Amz-Target": "AmazonPersonalize.Nothing"}):
        status, body = server.request("POST", "/", b"{}", target)
        assert status == 400
        assert json.loads(body)["__type"] == "UnknownOperationException"
    status, body = server.request(
        "POST", "/", b"{not json", {"X-Amz-Target": "AmazonPersonalize.ListSchemas"}
    )
    assert (status, json.loads(body)["__type"]) == (400, "SerializationException")


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
        ("example.com", False),
    ],
)
def test_loopback_addresses(host: str, only_here: bool) -> None:
    assert is_loopback(host) is only_here


def test_a_public_address_is_logged_as_a_warning(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "batchrec_dagster.local_personalize", "--host", "0.0.0.0"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--home", str(tmp_path / "home")],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        log_text = ""
        while "Uvicorn running" not in log_text:
            line = process.stderr.readline()
            assert line, log_text
            log_text += line
    finally:
        process.kill()
        process.wait()
    assert re.search(r"WARNING listening on 0\.0\.0\.0: .* no access key is set", log_text)
