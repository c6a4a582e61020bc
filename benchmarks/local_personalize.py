"""Latency of the local Personalize over HTTP, idle and while it trains, and its start time.

    python benchmarks/local_personalize.py [--millions 1] [--seconds 10] [--out FILE]

The server runs in its own process, as `batchrec local-personalize` starts it. Clients in this
process send DescribeSolutionVersion over kept connections, first to an idle server, then to one
that trains aws-user-personalization-v2 on generated interactions again and again. boto3 is compared
with bare requests, because a Python client spends more time than the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import numpy as np
from botocore.config import Config
from generated import SIZES, write_csv
from report import RESULTS, table, write

from batchrec_dagster.personalize.schemas import build_interactions_schema

RECIPE = "arn:aws:personalize:::recipe/aws-user-personalization-v2"
ROLE = "arn:aws:iam::000000000000:role/personalize"
STARTS = 5
CLIENTS = 4
WAITED_FOR = 600.0

Ask = Callable[[], None]


class Server:
    """A started server, and how long it took to answer."""

    def __init__(self, root: Path, port: int) -> None:
        self.port = port
        command = [sys.executable, "-m", "batchrec_dagster.local_personalize"]
        command += ["--port", str(port), "--home", str(root / "home"), "--bucket", f"data={root}"]
        began = time.monotonic()
        with (root / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while not self._is_answering():
            if self.process.poll() is not None:
                raise SystemExit((root / "log").read_text())
            time.sleep(0.01)
        self.start_seconds = time.monotonic() - began

    def _is_answering(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def client(self) -> Any:
        session = boto3.Session("any", "any", region_name="us-east-1")
        config = Config(max_pool_connections=CLIENTS)
        url = f"http://127.0.0.1:{self.port}"
        return session.client("personalize", endpoint_url=url, config=config)


@contextmanager
def start_server(root: Path) -> Iterator[Server]:
    """A server on a free port; it is stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(root, port)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait()


def time_starts() -> dict[str, list[float]]:
    """From the command to the first answer, several times, on a home of its own each.

    `seconds` by the clock; `core_seconds` of a core's time, the stop included: on a machine that
    does other things too, the clock tells of those as well.
    """
    times: dict[str, list[float]] = {"seconds": [], "core_seconds": []}
    for _ in range(STARTS):
        before = _measure_children()
        with tempfile.TemporaryDirectory() as folder, start_server(Path(folder)) as server:
            times["seconds"].append(server.start_seconds)
        times["core_seconds"].append(_measure_children() - before)
    return times


def _measure_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def prepare_solution(client: Any, root: Path, millions: int) -> str:
    """A solution whose group has so many millions of interactions."""
    rows = write_csv(root / "interactions.csv", SIZES[millions])
    print(f"{rows:,} interactions", flush=True)
    group = client.create_dataset_group(name="g")["datasetGroupArn"]
    wait_until_active(lambda: client.describe_dataset_group(datasetGroupArn=group)["datasetGroup"])
    schema = build_interactions_schema(event_type=False)
    dataset = client.create_dataset(
        name="d",
        datasetGroupArn=group,
        datasetType="Interactions",
        schemaArn=client.create_schema(name="s", schema=schema)["schemaArn"],
    )["datasetArn"]
    wait_until_active(lambda: client.describe_dataset(datasetArn=dataset)["dataset"])
    job = client.create_dataset_import_job(
        jobName="j",
        datasetArn=dataset,
        roleArn=ROLE,
        dataSource={"dataLocation": "s3://data/interactions.csv"},
    )["datasetImportJobArn"]
    describe = client.describe_dataset_import_job
    wait_until_active(lambda: describe(datasetImportJobArn=job)["datasetImportJob"])
    solution: str = client.create_solution(
        name="s", datasetGroupArn=group, recipeArn=RECIPE, performAutoTraining=False
    )["solutionArn"]
    wait_until_active(lambda: client.describe_solution(solutionArn=solution)["solution"])
    return solution


def wait_until_active(describe: Callable[[], Any]) -> Any:
    """Waits for an ACTIVE resource."""
    give_up = time.monotonic() + WAITED_FOR
    while time.monotonic() < give_up:
        description = describe()
        if description["status"] == "ACTIVE":
            return description
        if "FAILED" in description["status"]:
            raise SystemExit(description)
        time.sleep(0.02)
    raise SystemExit(f"still {description['status']}")


def ask_by_bytes(server: Server, version: str) -> Ask:
    """Asks by nothing but a connection and the bytes of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = json.dumps({"solutionVersionArn": version}).encode()
    headers = {
        "X-Amz-Target": "AmazonPersonalize.DescribeSolutionVersion",
        "Content-Type": "application/x-amz-json-1.1",
    }

    def ask() -> None:
        connection.request("POST", "/", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}")

    return ask


def ask_by_boto3(client: Any, version: str) -> Ask:
    return lambda: client.describe_solution_version(solutionVersionArn=version)


def measure_answers(asks: list[Ask], until: Callable[[], bool]) -> dict[str, float]:
    """Asks from a thread each until it is time: answers a second, milliseconds that they took."""
    answer_seconds: list[float] = []
    stop_event = threading.Event()

    def go(ask: Ask) -> None:
        while not stop_event.is_set():
            began = time.perf_counter()
            ask()
            answer_seconds.append(time.perf_counter() - began)

    threads = [threading.Thread(target=go, args=(ask,)) for ask in asks]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    while not until():
        time.sleep(0.05)
    seconds = time.monotonic() - began
    stop_event.set()
    for thread in threads:
        thread.join()
    half, slowest = np.percentile(answer_seconds, [50, 99]) * 1000
    return {
        "answers_a_second": len(answer_seconds) / seconds,
        "median_ms": half,
        "percentile_99_ms": slowest,
    }


def wait_idle(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def train_repeatedly(
    client: Any, solution: str, seconds: float
) -> tuple[Callable[[], bool], list[float]]:
    """Trains at least so long, one version after another; and how long each training took."""
    took: list[float] = []
    version = ""
    began = end = 0.0

    def trains_on() -> bool:
        nonlocal version, began, end
        if not version:
            version = client.create_solution_version(solutionArn=solution)["solutionVersionArn"]
            began = time.monotonic()
            end = end or began + seconds
        description = client.describe_solution_version(solutionVersionArn=version)[
            "solutionVersion"
        ]
        if description["status"] != "ACTIVE":
            return False
        took.append(time.monotonic() - began)
        version = ""
        return time.monotonic() > end

    return trains_on, took


def measure(root: Path, millions: int, seconds: float) -> dict[str, Any]:
    """Answers a second, by way of asking and by what the server does meanwhile."""
    results: dict[str, Any] = {}
    with start_server(root) as server:
        client = server.client()
        solution = prepare_solution(client, root, millions)
        first = client.create_solution_version(solutionArn=solution)["solutionVersionArn"]
        describe = client.describe_solution_version
        began = time.monotonic()
        wait_until_active(lambda: describe(solutionVersionArn=first)["solutionVersion"])
        results["training_alone_seconds"] = time.monotonic() - began
        for way, asks in (
            ("bare requests", [ask_by_bytes(server, first) for _ in range(CLIENTS)]),
            ("boto3", [ask_by_boto3(client, first)] * CLIENTS),
        ):
            results[f"{way}, idle"] = measure_answers(asks, wait_idle(seconds))
            until, took = train_repeatedly(client, solution, seconds)
            results[f"{way}, training"] = measure_answers(asks, until)
            results[f"{way}, training"]["training_seconds"] = float(np.mean(took))
    return results


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--millions", type=int, default=1, choices=SIZES, help="of interactions")
    parser.add_argument("--seconds", type=float, default=10.0, help="that each measurement takes")
    parser.add_argument("--out", type=Path, default=RESULTS / "local_personalize.json")
    arguments = parser.parse_args()
    began = time_starts()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), arguments.millions, arguments.seconds)
    idle_training_seconds = results.pop("training_alone_seconds")
    rows = [
        {
            "DescribeSolutionVersion by": way,
            "answers/s": f"{row['answers_a_second']:.0f}",
            "median ms": f"{row['median_ms']:.1f}",
            "99 % ms": f"{row['percentile_99_ms']:.1f}",
            "training s": f"{row['training_seconds']:.1f}" if "training_seconds" in row else "",
        }
        for way, row in results.items()
    ]
    print(table(f"\n{CLIENTS} clients; a training alone takes {idle_training_seconds:.1f} s", rows))
    print(
        f"\nfrom the command to the first answer: {min(began['seconds']):.2f} to"
        f" {max(began['seconds']):.2f} s; {min(began['core_seconds']):.2f} s of a core"
    )
    write(
        arguments.out,
        {
            "start": began,
            "clients": CLIENTS,
            "millions": arguments.millions,
            "load_average": os.getloadavg()[0],
            "training_alone_seconds": idle_training_seconds,
            "describe": results,
        },
    )


if __name__ == "__main__":
    main()
