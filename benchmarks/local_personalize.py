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
        while not self._answers():
            if self.process.poll() is not None:
                raise SystemExit((root / "log").read_text())
            time.sleep(0.01)
        self.start_seconds = time.monotonic() - began

    def _answers(self) -> bool:
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
def started(root: Path) -> Iterator[Server]:
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


def starts() -> dict[str, list[float]]:
    """From the command to the first answer, several times, on a home of its own each.

    `seconds` by the clock; `core_seconds` of a core's time, the stop included: on a machine that
    does other things too, the clock tells of those as well.
    """
    found: dict[str, list[float]] = {"seconds": [], "core_seconds": []}
    for _ in range(STARTS):
        before = _children_seconds()
        with tempfile.TemporaryDirectory() as folder, started(Path(folder)) as server:
            found["seconds"].append(server.start_seconds)
        found["core_seconds"].append(_children_seconds() - before)
    return found


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def prepared(client: Any, root: Path, millions: int) -> str:
    """A solution whose group has so many millions of interactions."""
    rows = write_csv(root / "interactions.csv", SIZES[millions])
    print(f"{rows:,} interactions", flush=True)
    group = client.create_dataset_group(name="g")["datasetGroupArn"]
    until_active(lambda: client.describe_dataset_group(datasetGroupArn=group)["datasetGroup"])
    schema = build_interactions_schema(event_type=False)
    dataset = client.create_dataset(
        name="d",
        datasetGroupArn=group,
        datasetType="Interactions",
        schemaArn=client.create_schema(name="s", schema=schema)["schemaArn"],
    )["datasetArn"]
    until_active(lambda: client.describe_dataset(datasetArn=dataset)["dataset"])
    job = client.create_dataset_import_job(
        jobName="j",
        datasetArn=dataset,
        roleArn=ROLE,
        dataSource={"dataLocation": "s3://data/interactions.csv"},
    )["datasetImportJobArn"]
    describe = client.describe_dataset_import_job
    until_active(lambda: describe(datasetImportJobArn=job)["datasetImportJob"])
    solution: str = client.create_solution(
        name="s", datasetGroupArn=group, recipeArn=RECIPE, performAutoTraining=False
    )["solutionArn"]
    until_active(lambda: client.describe_solution(solutionArn=solution)["solution"])
    return solution


def until_active(look: Callable[[], Any]) -> Any:
    """Waits for an ACTIVE resource."""
    give_up = time.monotonic() + WAITED_FOR
    while time.monotonic() < give_up:
        found = look()
        if found["status"] == "ACTIVE":
            return found
        if "FAILED" in found["status"]:
            raise SystemExit(found)
        time.sleep(0.02)
    raise SystemExit(f"still {found['status']}")


def bare(server: Server, version: str) -> Ask:
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


def by_boto3(client: Any, version: str) -> Ask:
    return lambda: client.describe_solution_version(solutionVersionArn=version)


def answered(asks: list[Ask], until: Callable[[], bool]) -> dict[str, float]:
    """Asks from a thread each until it is time: answers a second, milliseconds that they took."""
    taken: list[float] = []
    done = threading.Event()

    def go(ask: Ask) -> None:
        while not done.is_set():
            began = time.perf_counter()
            ask()
            taken.append(time.perf_counter() - began)

    threads = [threading.Thread(target=go, args=(ask,)) for ask in asks]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    while not until():
        time.sleep(0.05)
    seconds = time.monotonic() - began
    done.set()
    for thread in threads:
        thread.join()
    half, most = np.percentile(taken, [50, 99]) * 1000
    return {"answers_a_second": len(taken) / seconds, "median_ms": half, "percentile_99_ms": most}


def idle(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def trainings(client: Any, solution: str, seconds: float) -> tuple[Callable[[], bool], list[float]]:
    """Trains at least so long, one version after another; and how long each training took."""
    took: list[float] = []
    version = ""
    began = end = 0.0

    def until() -> bool:
        nonlocal version, began, end
        if not version:
            version = client.create_solution_version(solutionArn=solution)["solutionVersionArn"]
            began = time.monotonic()
            end = end or began + seconds
        found = client.describe_solution_version(solutionVersionArn=version)["solutionVersion"]
        if found["status"] != "ACTIVE":
            return False
        took.append(time.monotonic() - began)
        version = ""
        return time.monotonic() > end

    return until, took


def measured(root: Path, millions: int, seconds: float) -> dict[str, Any]:
    """Answers a second, by way of asking and by what the server does meanwhile."""
    found: dict[str, Any] = {}
    with started(root) as server:
        client = server.client()
        solution = prepared(client, root, millions)
        first = client.create_solution_version(solutionArn=solution)["solutionVersionArn"]
        describe = client.describe_solution_version
        began = time.monotonic()
        until_active(lambda: describe(solutionVersionArn=first)["solutionVersion"])
        found["training_alone_seconds"] = time.monotonic() - began
        for way, asks in (
            ("bare requests", [bare(server, first) for _ in range(CLIENTS)]),
            ("boto3", [by_boto3(client, first)] * CLIENTS),
        ):
            found[f"{way}, idle"] = answered(asks, idle(seconds))
            until, took = trainings(client, solution, seconds)
            found[f"{way}, training"] = answered(asks, until)
            found[f"{way}, training"]["training_seconds"] = float(np.mean(took))
    return found


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--millions", type=int, default=1, choices=SIZES, help="of interactions")
    parser.add_argument("--seconds", type=float, default=10.0, help="that each measurement takes")
    parser.add_argument("--out", type=Path, default=RESULTS / "local_personalize.json")
    asked = parser.parse_args()
    began = starts()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), asked.millions, asked.seconds)
    alone = found.pop("training_alone_seconds")
    rows = [
        {
            "DescribeSolutionVersion by": what,
            "answers/s": f"{row['answers_a_second']:.0f}",
            "median ms": f"{row['median_ms']:.1f}",
            "99 % ms": f"{row['percentile_99_ms']:.1f}",
            "training s": f"{row['training_seconds']:.1f}" if "training_seconds" in row else "",
        }
        for what, row in found.items()
    ]
    print(table(f"\n{CLIENTS} clients; a training alone takes {alone:.1f} s", rows))
    print(
        f"\nfrom the command to the first answer: {min(began['seconds']):.2f} to"
        f" {max(began['seconds']):.2f} s; {min(began['core_seconds']):.2f} s of a core"
    )
    write(
        asked.out,
        {
            "start": began,
            "clients": CLIENTS,
            "millions": asked.millions,
            "load_average": os.getloadavg()[0],
            "training_alone_seconds": alone,
            "describe": found,
        },
    )


if __name__ == "__main__":
    main()
