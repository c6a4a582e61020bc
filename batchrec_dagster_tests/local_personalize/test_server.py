"""The local Personalize over HTTP, as an AWS SDK uses it: a real server, real sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from click.testing import CliRunner

from batchrec_dagster.local_personalize.api.command import local_personalize
from batchrec_dagster.local_personalize.api.server import make_application
from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.personalize.evidence import (
    get_solution_metrics,
    read_evidence,
)
from batchrec_dagster.personalize.expired_models import EXPIRED, MODEL_TAG
from batchrec_dagster.personalize.schemas import build_interactions_schema
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.web import is_loopback
from batchrec_dagster.web import server as web_server
from batchrec_dagster.web.server import MAX_BODY_BYTES
from batchrec_dagster_tests.guard.servers.personalize import (
    RECIPE,
    ROLE,
    build_taste_rows,
    describe,
    encode_csv,
    encode_user_lines,
    poll_until_deadline,
)
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


def test_the_walk_over_http(server: Server) -> None:
    client = server.open_client()
    store = ObjectStore(folders={"data": server.root / "storage"})
    store.put("s3://data/interactions.csv", encode_csv(build_taste_rows()))
    store.put("s3://data/users.json", encode_user_lines(["u1", "u2"]))
    group = _wait_until_active(client, client.create_dataset_group(name="g")["datasetGroupArn"])
    schema = client.create_schema(name="s", schema=build_interactions_schema(event_type=True))
    dataset = client.create_dataset(
        name="d",
        datasetGroupArn=group,
        datasetType="Interactions",
        schemaArn=schema["schemaArn"],
    )["datasetArn"]
    _wait_until_active(client, dataset)
    job = client.create_dataset_import_job(
        jobName="j",
        datasetArn=dataset,
        roleArn=ROLE,
        dataSource={"dataLocation": "s3://data/interactions.csv"},
    )
    _wait_until_active(client, job["datasetImportJobArn"])
    solution = client.create_solution(
        name="s", datasetGroupArn=group, recipeArn=RECIPE + "aws-user-personalization-v2"
    )
    _wait_until_active(client, solution["solutionArn"])
    version = client.create_solution_version(solutionArn=solution["solutionArn"])
    _wait_until_active(client, version["solutionVersionArn"])
    answer = client.get_solution_metrics(solutionVersionArn=version["solutionVersionArn"])
    assert read_evidence(answer)["all/users"] > 0
    watched = get_solution_metrics(client, version["solutionVersionArn"], ["Watch"])
    assert read_evidence(watched)["all/users"] > 0
    assert watched["metrics"] == answer["metrics"]
    batch = client.create_batch_inference_job(
        jobName="b",
        solutionVersionArn=version["solutionVersionArn"],
        roleArn=ROLE,
        jobInput={"s3DataSource": {"path": "s3://data/users.json"}},
        jobOutput={"s3DataDestination": {"path": "s3://data/out/"}},
    )
    _wait_until_active(client, batch["batchInferenceJobArn"])
    lines = store.get("s3://data/out/users.json.out").decode().splitlines()
    assert [json.loads(line)["input"]["userId"] for line in lines] == ["u1", "u2"]
    client.tag_resource(
        resourceArn=version["solutionVersionArn"],
        tags=[{"tagKey": MODEL_TAG, "tagValue": EXPIRED}],
    )
    assert not list((server.root / "home" / "models").iterdir())
    assert "POST / HTTP/1.1" in (server.root / "log").read_text()  # each request is logged


def test_refusals_are_personalizes_exceptions(server: Server) -> None:
    client = server.open_client()
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.describe_dataset_group(
            datasetGroupArn="arn:aws:personalize:us-east-1:000000000000:dataset-group/none"
        )
    with pytest.raises(client.exceptions.InvalidInputException, match="not supported"):
        client.create_event_tracker(name="x", datasetGroupArn=RECIPE + "x")


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


def test_too_large_a_request_is_refused(server: Server) -> None:
    target = {"X-Amz-Target": "AmazonPersonalize.ListSchemas"}
    largest_body = b"{" + b" " * (MAX_BODY_BYTES - 2) + b"}"
    assert server.request("POST", "/", largest_body, target)[0] == 200
    status, body = server.request("POST", "/", largest_body + b" ", target)
    assert (status, json.loads(body)["__type"]) == (413, "RequestEntityTooLargeException")


def test_it_stops_gracefully_and_keeps_its_resources(tmp_path: Path) -> None:
    with _running_server(tmp_path) as first:
        first.open_client().create_schema(
            name="kept", schema=build_interactions_schema(event_type=False)
        )
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(30) in (0, -signal.SIGTERM)
        assert "Application shutdown complete" in (tmp_path / "log").read_text()
    with _running_server(tmp_path) as second:
        assert [s["name"] for s in second.open_client().list_schemas()["schemas"]] == ["kept"]


def test_account_and_region_come_from_the_environment(tmp_path: Path) -> None:
    environment = {
        "BATCHREC_LOCAL_PERSONALIZE_ACCOUNT": "123456789012",
        "BATCHREC_LOCAL_PERSONALIZE_REGION": "eu-west-1",
    }
    with _running_server(tmp_path, **environment) as server:
        client = server.open_client()
        group = client.create_dataset_group(name="films")["datasetGroupArn"]
        assert group == "arn:aws:personalize:eu-west-1:123456789012:dataset-group/films"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--account", "12345", "'12345' is not an account: 12 digits"),
        ("--region", "mars", "'mars' is not a region"),
    ],
)
def test_wrong_options_are_named(option: str, value: str, message: str) -> None:
    result = CliRunner().invoke(local_personalize, [option, value])
    assert result.exit_code == 2
    assert message in result.output


def test_with_a_key_only_its_signatures_are_accepted(tmp_path: Path) -> None:
    environment = {
        "BATCHREC_LOCAL_PERSONALIZE_ACCESS_KEY_ID": KEY_ID,
        "BATCHREC_LOCAL_PERSONALIZE_SECRET_ACCESS_KEY": SECRET,
    }
    with _running_server(tmp_path, **environment) as server:
        client = server.open_client(KEY_ID, SECRET)
        assert client.list_schemas()["schemas"] == []
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            get_solution_metrics(client, f"{RECIPE}none", ["watch"])
        for key_id, secret, code in (
            (KEY_ID, "another secret", "InvalidSignatureException"),
            ("ANOTHER", SECRET, "UnrecognizedClientException"),
        ):
            with pytest.raises(ClientError) as error:
                server.open_client(key_id, secret).list_schemas()
            assert error.value.response["Error"]["Code"] == code
        status, body = server.request(
            "POST", "/", b"{}", {"X-Amz-Target": "AmazonPersonalize.ListSchemas"}
        )
        assert status == 403
        assert json.loads(body)["__type"] == "MissingAuthenticationTokenException"
        assert server.request("GET", "/health")[0] == 200
    assert SECRET not in (tmp_path / "log").read_text()


def test_a_slow_request_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "BODY_SECONDS", 0.05)
    service = LocalPersonalize(tmp_path, ObjectStore())
    app = make_application(service)
    messages: list[dict[str, Any]] = []

    async def receive_nothing() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError("waited for")

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"x-amz-target", b"AmazonPersonalize.ListSchemas"),
        ],
    }
    with ThreadPoolExecutor(1) as thread:  # an open browser keeps a loop running in the main one
        thread.submit(lambda: asyncio.run(app(scope, receive_nothing, send))).result()
    assert messages[0]["status"] == 408
    assert json.loads(messages[1]["body"])["__type"] == "RequestTimeoutException"


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
