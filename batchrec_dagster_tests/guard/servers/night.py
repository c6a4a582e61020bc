"""A pipeline on real servers, each a process of its own that a test can kill and start again."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import boto3
import dagster as dg
import polars as pl
from botocore.exceptions import BotoCoreError
from botocore.retries.adaptive import ClientRateLimiter
from botocore.retries.standard import ExponentialBackoff

from batchrec_dagster_tests.guard.builders import (
    REPOSITORY,
    Project,
    declaration,
    module_project,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.forks import FORKS
from batchrec_dagster_tests.guard.servers.processes import Started, free_ports, started
from batchrec_dagster_tests.guard.servers.s3 import OWNER, Keys, S3Server

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

# Undisturbed lists by the ratings they came from, so that each is made once.
EXPECTED: dict[bytes, pl.DataFrame] = {}
# The local Personalize's command, to which whatever it creates stays pending.
IDLE = """
from batchrec_dagster.local_personalize.api import command, service
from batchrec_dagster_tests.guard.servers.personalize import SlowPersonalize
service.LocalPersonalize = SlowPersonalize
command.local_personalize()
"""
TABLE = "shop/curated/recommendations/recommendations.parquet"


@dataclass
class Run:
    """A run of the refresh job, in a process of its own."""

    process: BaseProcess
    failure: Path
    """The file in which the run writes why it failed."""

    def kill(self) -> bool:
        """SIGKILL; whether it was still at work."""
        alive = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return alive

    def end(self, timeout: float = 900) -> str:
        """Waits for it: why it failed, or nothing."""
        self.process.join(timeout)
        assert not self.process.is_alive(), "the run does not end"
        return self.failure.read_text() if self.failure.exists() else "killed"


@dataclass
class Night:
    """The project `shop`, whose storage is a bucket and whose Personalize is a server."""

    project: Project
    s3: S3Server
    bucket: str
    environment: dict[str, str]
    port: int
    without_pauses: bool = False
    """Whether botocore repeats requests at once: after throttling it would pause for minutes."""
    runs: int = 0
    server: Started | None = None
    _server: ExitStack = field(default_factory=ExitStack)

    # The local Personalize

    def start_personalize(
        self, *, keys: Keys = OWNER, s3_endpoint: str | None = None, is_idle: bool = False
    ) -> None:
        """Start it on its home, where whatever was there goes on.

        is_idle: whether nothing that it creates is ever ready; to the next one it is.
        """
        program = ["-c", IDLE] if is_idle else ["-m", "batchrec_dagster.local_personalize"]
        command = [
            *(sys.executable, *program, f"--port={self.port}"),
            *(f"--home={self.project.root / 'personalize'}",),
            f"--s3-endpoint={s3_endpoint or self.s3.endpoint}",
        ]
        environment = _without_aws() | self.s3.environment(keys) | {"PYTHONPATH": str(REPOSITORY)}
        log = self.project.root / "personalize.log"
        self.server = self._server.enter_context(
            started(command, self.project.root, environment, log, grace=1)
        )
        self.server.wait_for(self._answers, "answer of the local Personalize", timeout=300)

    def kill_personalize(self) -> None:
        """SIGKILL."""
        assert self.server is not None
        self.server.kill()

    def _answers(self) -> bool | None:
        try:
            self.personalize.list_dataset_groups()
        except BotoCoreError:
            return None
        return True

    @cached_property
    def personalize(self) -> PersonalizeClient:
        """Straight to it, past every proxy."""
        session = boto3.Session("any", "any", region_name="us-east-1")
        client: PersonalizeClient = session.client(
            "personalize", endpoint_url=f"http://127.0.0.1:{self.port}"
        )
        return client

    # Runs

    def new_data(self, seed: int) -> None:
        """Other ratings by the same people, as the next night brings."""
        write_ratings(self.project.root / "ratings.csv", seed=seed)

    def start_run(self, **environment: str) -> Run:
        """Start the refresh job."""
        self.runs += 1
        failure = self.project.root / f"run-{self.runs}.txt"
        arguments = (self.project.root, {**self.environment, **environment}, failure)
        process = FORKS.Process(
            target=_refresh_without_pauses if self.without_pauses else _refresh, args=arguments
        )
        process.start()
        return Run(process, failure)

    # What came of it

    def lists(self) -> pl.DataFrame:
        """The published table: user, rank, item."""
        table = self.s3.store().get(f"s3://{self.bucket}/{TABLE}")
        return pl.read_parquet(io.BytesIO(table)).select("user_id", "rank", "item_id")

    def count_jobs(self) -> Counter[str]:
        """As count_personalize_jobs."""
        return count_personalize_jobs(self.personalize)

    def make_expected_lists(self, root: Path) -> pl.DataFrame:
        """The lists that an undisturbed run makes of the same ratings, on an embedded one."""
        ratings = self.project.root / "ratings.csv"
        content = ratings.read_bytes()
        if content not in EXPECTED:
            EXPECTED[content] = self._make_undisturbed_lists(root, ratings)
        return EXPECTED[content]

    def _make_undisturbed_lists(self, root: Path, ratings: Path) -> pl.DataFrame:
        root.mkdir()
        undisturbed_project = module_project(root)
        undisturbed_project.declare(declaration("shop", ratings))
        with dg.DagsterInstance.ephemeral() as instance:
            assert refresh(undisturbed_project, "shop", instance).success
        return pl.read_parquet(undisturbed_project.storage / TABLE).select(
            "user_id", "rank", "item_id"
        )


def count_personalize_jobs(client: PersonalizeClient) -> Counter[str]:
    """How many import jobs, solution versions and batch inference jobs Personalize has, and how
    many of them failed."""
    jobs = [
        *(("import", job) for job in client.list_dataset_import_jobs()["datasetImportJobs"]),
        *(("training", job) for job in client.list_solution_versions()["solutionVersions"]),
        *(("lists", job) for job in client.list_batch_inference_jobs()["batchInferenceJobs"]),
    ]
    return Counter(
        f"failed {kind}" if job["status"] == "CREATE FAILED" else kind for kind, job in jobs
    )


def made_once(nights: int) -> dict[str, int]:
    """What Personalize has to hold after this many nights, each with other data: an import, a
    model and a batch of lists each."""
    return {"import": nights, "training": nights, "lists": nights}


@contextmanager
def night(
    root: Path,
    s3: S3Server,
    *,
    s3_endpoint: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Night]:
    """A night on that S3 server; the endpoint may be a proxy's before it. Personalize has to be
    started."""
    (port,) = free_ports(1)
    bucket = s3.create_bucket()
    project = module_project(root)
    project.declare(declaration("shop", "ratings.csv", **(settings or {})))
    environment = s3.environment() | {
        "AWS_ENDPOINT_URL_S3": s3_endpoint or s3.endpoint,
        "BATCHREC_STORAGE": f"s3://{bucket}",
        "BATCHREC_PERSONALIZE": f"http://127.0.0.1:{port}",
        "BATCHREC_BUSY_SECONDS": "0.2",
    }
    shop = Night(project, s3, bucket, environment, port)
    shop.new_data(0)
    with shop._server:
        yield shop


def _refresh(root: Path, environment: Mapping[str, str], failure: Path) -> None:
    """In a process of its own: run the job, and write down why it failed, if it did. What Dagster
    remembers dies with the process: the next run has only the storage and Personalize."""
    for name in [*os.environ]:
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ.update(environment)
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    project = Project(root, dict(environment))
    try:
        with dg.DagsterInstance.ephemeral() as instance:
            result = refresh(project, "shop", instance)
        reasons = [
            f"{event.step_failure_data.error}"
            for event in result.all_events
            if event.is_step_failure
        ]
    except Exception:
        reasons = [traceback.format_exc()]
    # Renamed, so that nobody reads a part of it.
    part = failure.with_suffix(".part")
    part.write_text("\n".join(reasons))
    part.rename(failure)


def _refresh_without_pauses(root: Path, environment: Mapping[str, str], failure: Path) -> None:
    """As `_refresh`, but botocore neither backs off nor lowers its rate of requests."""
    with (
        patch.object(ClientRateLimiter, "on_sending_request", lambda *_, **__: None),
        patch.object(ExponentialBackoff, "delay_amount", lambda *_: 0.01),
    ):
        _refresh(root, environment, failure)


def _without_aws() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
