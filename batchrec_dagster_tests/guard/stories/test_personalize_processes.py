"""Tests of processes that share a local Personalize's home, are killed, or restart its server.

In the end, the same work is done as by a single undisturbed process, and only once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.personalize import Resources
from batchrec_dagster_tests.guard.servers.forks import FORKS
from batchrec_dagster_tests.guard.servers.personalize import (
    RECIPE,
    ROLE,
    SEEN,
    Local,
    poll_until_deadline,
)
from batchrec_dagster_tests.guard.servers.personalize_data import (
    build_taste_rows,
    encode_csv,
    encode_user_lines,
    write_interactions_schema,
)
from batchrec_dagster_tests.guard.servers.processes import free_ports

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

    from types_boto3_personalize import PersonalizeClient

pytestmark = pytest.mark.slow

USERS = [f"u{number}" for number in range(60)]
KEY_ID, SECRET = "AKIDEXAMPLE", "a secret of the tests"


def run_chain(root: Path, name: str) -> None:
    """Make a night's requests like a pipeline, from the data to a batch job of this name."""
    local = Local(root)
    resources = Resources(local.client)
    group = resources.ensure("dataset group", "films", {})
    in_group = {"datasetGroupArn": group}
    schema = resources.ensure("schema", "films", {"schema": write_interactions_schema()})
    dataset = resources.ensure(
        "dataset",
        "films",
        {**in_group, "datasetType": "INTERACTIONS", "schemaArn": schema},
        in_group,
    )
    source = {"dataSource": {"dataLocation": "s3://data/interactions.csv"}, "roleArn": ROLE}
    in_dataset = {"datasetArn": dataset}
    resources.ensure("dataset import job", "films", {**source, **in_dataset}, in_dataset)
    seen = resources.ensure("filter", "seen", {"filterExpression": SEEN, **in_group}, in_group)
    recipe = {"recipeArn": f"{RECIPE}aws-user-personalization-v2", "performAutoTraining": False}
    solution = {
        "solutionArn": resources.ensure("solution", "films", {**recipe, **in_group}, in_group)
    }
    version = {
        "solutionVersionArn": resources.ensure("solution version", "films", solution, solution)
    }
    job = {
        **version,
        "filterArn": seen,
        "roleArn": ROLE,
        "jobInput": {"s3DataSource": {"path": "s3://data/users.json"}},
        "jobOutput": {"s3DataDestination": {"path": f"s3://data/{name}/"}},
    }
    resources.ensure("batch inference job", name, job, version)


def make_root(folder: Path) -> Path:
    local = Local(folder)
    local.store.put("s3://data/interactions.csv", encode_csv(build_taste_rows()))
    local.store.put("s3://data/users.json", encode_user_lines(USERS))
    return folder


def start_chain(root: Path, name: str) -> ForkServerProcess:
    process = FORKS.Process(target=run_chain, args=(root, name), daemon=True)
    process.start()
    return process


def read_output(root: Path, name: str) -> dict[str, bytes]:
    store = Local(root).store
    folder = f"s3://data/{name}/"
    return {info.uri.removeprefix(folder): store.get(info.uri) for info in store.list(folder)}


def count_active(client: PersonalizeClient) -> dict[str, int]:
    """Return the numbers of ACTIVE imports, solution versions and jobs."""
    (solution,) = client.list_solutions()["solutions"]
    arn = solution["solutionArn"]
    summaries: dict[str, Sequence[Mapping[str, Any]]] = {
        "imports": client.list_dataset_import_jobs()["datasetImportJobs"],
        "versions": client.list_solution_versions(solutionArn=arn)["solutionVersions"],
        "jobs": client.list_batch_inference_jobs()["batchInferenceJobs"],
    }
    return {
        name: sum(entry["status"] == "ACTIVE" for entry in entries)
        for name, entries in summaries.items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """Return the output of an undisturbed process, and its duration in seconds."""
    root = make_root(tmp_path_factory.mktemp("undisturbed"))
    start = time.monotonic()
    process = start_chain(root, "one")
    process.join(300)
    assert process.exitcode == 0
    output = read_output(root, "one")
    assert list(output) == ["_CHECK", "users.json.out"]
    return output, time.monotonic() - start


@pytest.mark.parametrize("seed", range(repeats(10, 2)))
def test_killed_at_any_moment_the_next_process_ends_the_work(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], float], seed: int
) -> None:
    expected, seconds = undisturbed
    root = make_root(tmp_path)
    process = start_chain(root, "one")
    process.join(random.Random(seed).random() * seconds)
    process.kill()
    process.join()
    # Nothing is half written, whenever the process was killed.
    assert read_output(root, "one").items() <= expected.items()
    run_chain(root, "one")
    assert read_output(root, "one") == expected
    assert count_active(Local(root).client) == {"imports": 1, "versions": 1, "jobs": 1}


def test_processes_share_a_home_and_one_of_them_is_killed(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], float]
) -> None:
    expected, seconds = undisturbed
    root = make_root(tmp_path)
    names = ["one", "two", "three"]
    processes = [start_chain(root, name) for name in names]
    processes[0].join(0.5 * seconds)
    processes[0].kill()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes[1:]] == [0, 0]
    run_chain(root, names[0])
    for name in names:
        assert read_output(root, name) == expected
    counts = count_active(Local(root).client)
    assert (counts["imports"], counts["versions"]) == (1, 1)


def make_schemas(root: Path, name: str) -> None:
    client = Local(root).client
    schema = write_interactions_schema()
    for number in range(20):
        arn = client.create_schema(name=f"{name}-{number}", schema=schema)["schemaArn"]
        client.describe_schema(schemaArn=arn)
        if number % 2:
            client.delete_schema(schemaArn=arn)
    try:
        client.create_dataset_group(name="shared")
    except client.exceptions.ResourceAlreadyExistsException:
        return
    Local(root).store.put(f"s3://data/made/{name}", b"")


def test_nothing_fails_or_is_lost_when_processes_and_threads_ask_at_once(tmp_path: Path) -> None:
    names = ["one", "two", "three"]
    processes = [FORKS.Process(target=make_schemas, args=(tmp_path, name)) for name in names]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: make_schemas(tmp_path, name), ["a", "b", "c", "d"]))
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    local = Local(tmp_path)
    pages = local.client.get_paginator("list_schemas").paginate()
    schemas = [schema["name"] for page in pages for schema in page["schemas"]]
    assert len(schemas) == len(set(schemas)) == 7 * 10
    assert len(local.store.list("s3://data/made/")) == 1  # All other requests were refused.


def test_regions_and_accounts_of_one_home_are_apart(local: Local) -> None:
    for options in ({}, {"region": "eu-west-1"}, {"account": "123456789012"}):
        client = local.open_client(**options)
        assert client.list_dataset_groups()["datasetGroups"] == []
        arn = client.create_dataset_group(name="films")["datasetGroupArn"]
        assert options.get("region", "us-east-1") in arn
        assert options.get("account", "000000000000") in arn


# --- the server ---


@contextmanager
def running_server(root: Path, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the URL of `batchrec local-personalize` and its process."""
    (port,) = free_ports(1)
    command = [str(Path(sys.executable).parent / "batchrec"), "local-personalize"]
    command += ["--port", str(port), "--home", str(root / "home")]
    command += ["--bucket", f"data={root / 'storage'}"]
    url = f"http://127.0.0.1:{port}"
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            command, stderr=log, stdout=log, text=True, env=os.environ | environment
        )
    try:
        for _ in poll_until_deadline():
            assert process.poll() is None, (root / "log").read_text()
            try:
                open_client(url).list_schemas()
            except EndpointConnectionError:
                continue
            except ClientError:
                pass
            break
        yield url, process
    finally:
        process.kill()
        process.wait()


def open_client(url: str, key_id: str = "any", secret: str = "any") -> PersonalizeClient:
    client: PersonalizeClient = boto3.Session(key_id, secret).client(
        "personalize",
        region_name="us-east-1",
        endpoint_url=url,
        config=Config(retries={"total_max_attempts": 1}),
    )
    return client


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL][: repeats(2)])
def test_a_server_that_ends_keeps_what_there_is(tmp_path: Path, end: signal.Signals) -> None:
    with running_server(tmp_path) as (url, process):
        open_client(url).create_dataset_group(name="kept")
        process.send_signal(end)
        process.wait(60)
    with running_server(tmp_path) as (url, _):
        (group,) = open_client(url).list_dataset_groups()["datasetGroups"]
        assert group["name"] == "kept"
        Local(tmp_path).wait_until_active(group["datasetGroupArn"])


def test_a_server_with_a_key_takes_only_what_is_signed_with_it(tmp_path: Path) -> None:
    environment = {
        "BATCHREC_LOCAL_PERSONALIZE_ACCESS_KEY_ID": KEY_ID,
        "BATCHREC_LOCAL_PERSONALIZE_SECRET_ACCESS_KEY": SECRET,
        "BATCHREC_LOCAL_PERSONALIZE_ACCOUNT": "123456789012",
        "BATCHREC_LOCAL_PERSONALIZE_REGION": "eu-west-1",
    }
    with running_server(tmp_path, **environment) as (url, _):
        client = open_client(url, KEY_ID, SECRET)
        arn = client.create_dataset_group(name="films")["datasetGroupArn"]
        assert arn == "arn:aws:personalize:eu-west-1:123456789012:dataset-group/films"
        for key_id, secret, code in (
            (KEY_ID, "another secret", "InvalidSignatureException"),
            ("ANOTHER", SECRET, "UnrecognizedClientException"),
        ):
            with pytest.raises(ClientError) as error:
                open_client(url, key_id, secret).list_schemas()
            assert error.value.response["Error"]["Code"] == code
    assert SECRET not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("option", "value"), [("--account", "12345"), ("--region", "mars")])
def test_a_wrong_option_of_the_server_is_named(option: str, value: str) -> None:
    result = CliRunner().invoke(main, ["local-personalize", option, value])
    assert result.exit_code == 2
    assert value in result.output
