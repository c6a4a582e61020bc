"""A pipeline on real servers, which are processes that a test can kill and start again."""

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

# The lists of undisturbed runs by the content of their ratings file, so that they are made once.
EXPECTED: dict[bytes, pl.DataFrame] = {}
# The local Personalize's command, with a service that shows all resources it creates as pending.
IDLE = """
from batchrec_dagster.local_personalize.api import command, service
from batchrec_dagster_tests.guard.servers.personalize import SlowPersonalize
service.LocalPersonalize = SlowPersonalize
command.local_personalize()
"""
TABLE = "shop/curated/recommendations/recommendations.parquet"


@dataclass
class Run:
    """A run of the refresh job in a separate process."""

    process: BaseProcess
    failure: Path
    """The file with the reasons why the run failed."""

    def kill(self) -> bool:
        """Kill the process with SIGKILL, and return whether it was still running."""
        alive = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return alive

    def end(self, timeout: float = 900) -> str:
        """Wait for the end of the run, and return the failure's text, which is empty on success.

        The text is `killed` if the process ended without writing one.
        """
        self.process.join(timeout)
        assert not self.process.is_alive(), "the run does not end"
        return self.failure.read_text() if self.failure.exists() else "killed"


@dataclass
class Night:
    """The project `shop` with a bucket as its storage and a server as its Personalize."""

    project: Project
    s3: S3Server
    bucket: str
    environment: dict[str, str]
    port: int
    without_pauses: bool = False
    """Whether botocore repeats requests at once. After throttling it would pause for minutes."""
    runs: int = 0
    server: Started | None = None
    _server: ExitStack = field(default_factory=ExitStack)

    # The local Personalize

    def start_personalize(
        self, *, keys: Keys = OWNER, s3_endpoint: str | None = None, is_idle: bool = False
    ) -> None:
        """Start the local Personalize on its home, where unfinished jobs go on.

        is_idle: whether the server shows all resources that it creates as pending. A server that is
            started later shows them as they are.
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
        """Kill the local Personalize with SIGKILL."""
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
        """A client that calls the local Personalize directly, past every proxy."""
        session = boto3.Session("any", "any", region_name="us-east-1")
        client: PersonalizeClient = session.client(
            "personalize", endpoint_url=f"http://127.0.0.1:{self.port}"
        )
        return client

    # Runs

    def new_data(self, seed: int) -> None:
        """Write other ratings by the same users, as the next night brings them."""
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

    # Results

    def lists(self) -> pl.DataFrame:
        """Return the published lists: user_id, rank, item_id."""
        table = self.s3.store().get(f"s3://{self.bucket}/{TABLE}")
        return pl.read_parquet(io.BytesIO(table)).select("user_id", "rank", "item_id")

    def count_jobs(self) -> Counter[str]:
        """Count Personalize's jobs, as `count_personalize_jobs` does."""
        return count_personalize_jobs(self.personalize)

    def make_expected_lists(self, root: Path) -> pl.DataFrame:
        """Return the lists that an undisturbed run makes from the same ratings.

        That run uses an embedded Personalize.

        root: a new folder for the project of that run.
        """
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
    """Count Personalize's import jobs, solution versions and batch inference jobs.

    Failed jobs are counted apart, such as `failed import`.
    """
    jobs = [
        *(("import", job) for job in client.list_dataset_import_jobs()["datasetImportJobs"]),
        *(("training", job) for job in client.list_solution_versions()["solutionVersions"]),
        *(("lists", job) for job in client.list_batch_inference_jobs()["batchInferenceJobs"]),
    ]
    return Counter(
        f"failed {kind}" if job["status"] == "CREATE FAILED" else kind for kind, job in jobs
    )


def made_once(nights: int) -> dict[str, int]:
    """Return the job counts that Personalize must have after this many nights with new data.

    Each night needs one import, one training and one batch of lists.
    """
    return {"import": nights, "training": nights, "lists": nights}


@contextmanager
def night(
    root: Path,
    s3: S3Server,
    *,
    s3_endpoint: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Night]:
    """Yield a night on this S3 server. Its local Personalize still has to be started.

    s3_endpoint: the endpoint of a proxy in front of the S3 server; None for no proxy.
    settings: further blocks of the pipeline's declaration.
    """
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
    """Run the job in this separate process, and write the reasons of a failure into a file.

    The file is empty if the run succeeds. Dagster's history dies with the process, so the next run
    has only the storage and Personalize.
    """
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
    # The file is renamed when it is complete, so that nobody reads an unfinished file.
    part = failure.with_suffix(".part")
    part.write_text("\n".join(reasons))
    part.rename(failure)


def _refresh_without_pauses(root: Path, environment: Mapping[str, str], failure: Path) -> None:
    """Do as `_refresh`, but without botocore's backoff and its lower rate of requests."""
    with (
        patch.object(ClientRateLimiter, "on_sending_request", lambda *_, **__: None),
        patch.object(ExponentialBackoff, "delay_amount", lambda *_: 0.01),
    ):
        _refresh(root, environment, failure)


def _without_aws() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
