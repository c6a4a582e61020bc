"""Background jobs: their status is visible, none is lost, none runs twice at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pytest

from batchrec_dagster.local_personalize import recipes
from batchrec_dagster.local_personalize.catalog.owners import OwnerLock, is_owner_alive
from batchrec_dagster.local_personalize.learning.training import TrainedModel
from batchrec_dagster.local_personalize.operations import (
    batch_jobs,
    dataset_import_jobs,
    solution_versions,
)
from batchrec_dagster_tests.guard.servers.personalize import (
    ROLE,
    Local,
    build_taste_rows,
    encode_user_lines,
    poll_until_deadline,
)

pytestmark = pytest.mark.slow

OPERATIONS = "batchrec_dagster.local_personalize.operations"

# A process that hangs forever in a function, and creates a file when it gets there.
HANGING = """
    import pathlib, pkgutil, sys, time
    from batchrec_dagster.local_personalize.api.client import embedded_client
    from batchrec_dagster.storage.objects import ObjectStore

    root = pathlib.Path(sys.argv[1])
    where = pkgutil.resolve_name({where!r})
    real, calls = where.{function}, []

    def hang(*args, **kwargs):
        calls.append(args)
        if len(calls) <= {after}:
            return real(*args, **kwargs)
        (root / "begun").touch()
        time.sleep(600)

    where.{function} = hang
    client = embedded_client(root / "home", ObjectStore(folders={{"data": root / "storage"}}))
    {request}
    time.sleep(600)
"""


class Start(Protocol):
    """Starts a process that hangs in this function, after `after` calls of it went through."""

    def __call__(
        self, function_path: str, request: str, after: int = 0
    ) -> subprocess.Popen[bytes]: ...


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Trainings wait at this gate until it is opened."""
    gate = Gate()
    monkeypatch.setattr(solution_versions, "train", gate.train)
    yield gate
    gate.gate_event.set()


class Gate:
    def __init__(self) -> None:
        self.gate_event = threading.Event()
        self.training_starts = threading.Semaphore(0)
        self.count = 0

    def train(self, *args: Any, log: Callable[[str], None], **options: Any) -> TrainedModel:
        self.count += 1
        self.training_starts.release()
        while not self.gate_event.wait(0.01):
            log("waiting")
        return recipes.train(*args, log=log, **options)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that has work in hand and never ends it."""
    processes = []

    def start(function_path: str, request: str, after: int = 0) -> subprocess.Popen[bytes]:
        function_path, _, function = function_path.rpartition(".")
        code = textwrap.dedent(
            HANGING.format(where=function_path, function=function, request=request, after=after)
        )
        marker = tmp_path / "begun"
        marker.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        processes.append(process)
        for _ in poll_until_deadline():
            if marker.exists():
                return process
            assert process.poll() is None
        raise AssertionError("the process does not begin its work")

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_training_is_pending_then_in_progress_then_active(local: Local, gate: Gate) -> None:
    group, dataset = local.import_rows(build_taste_rows())
    solution = local.create_solution(group)
    first, second = local.create_version(solution), local.create_version(solution)
    assert gate.training_starts.acquire(timeout=300)
    assert local.describe(first)["status"] == "CREATE IN_PROGRESS"
    assert local.describe(second)["status"] == "CREATE PENDING"
    assert local.describe(solution)["latestSolutionVersion"]["status"] == "CREATE PENDING"
    # Requests and other kinds of jobs do not wait for the training.
    local.create_group("another")
    with pytest.raises(local.client.exceptions.ResourceInUseException, match="IN_PROGRESS"):
        local.client.get_solution_metrics(solutionVersionArn=first)
    with pytest.raises(local.client.exceptions.ResourceInUseException, match=r"PROGRESS|PENDING"):
        local.client.delete_solution(solutionArn=solution)
    with pytest.raises(local.client.exceptions.ResourceInUseException, match="being trained"):
        local.client.delete_dataset(datasetArn=dataset)
    gate.gate_event.set()
    local.wait_until_active(first)
    local.wait_until_active(second)
    assert gate.count == 2


@pytest.mark.parametrize("kind", ["import", "inference", "segment"])
def test_imports_and_batch_jobs_wait_in_line(
    local: Local, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, dataset = local.import_rows(build_taste_rows())
    recipe = "aws-item-affinity" if kind == "segment" else "aws-user-personalization"
    version = local.wait_until_active(local.create_version(local.create_solution(group, recipe)))
    local.store.put("s3://data/users.json", encode_user_lines(["u1"]))
    local.store.put("s3://data/queries.json", b'{"itemId": "i1"}\n')
    list_gate = threading.Event()
    module = dataset_import_jobs if kind == "import" else batch_jobs
    list_objects = module.list_objects

    def list_objects_behind_gate(*args: Any) -> Any:
        assert list_gate.wait(300)
        return list_objects(*args)

    monkeypatch.setattr(module, "list_objects", list_objects_behind_gate)
    if kind == "import":
        jobs = [local.start_import(dataset, "s3://data/interactions.csv", n) for n in ("a", "b")]
        delete = partial(local.client.delete_dataset, datasetArn=dataset)
    else:
        create = local.create_segment_job if kind == "segment" else local.create_batch_job
        jobs = [create(version, jobName=n, target=f"s3://data/{n}/") for n in ("a", "b")]
        delete = partial(local.client.delete_solution, solutionArn=version.rpartition("/")[0])
    try:
        while local.describe(jobs[0])["status"] == "CREATE PENDING":
            time.sleep(0.005)
        statuses = [local.describe(job)["status"] for job in jobs]
        with pytest.raises(local.client.exceptions.ResourceInUseException, match="not finished"):
            delete()
    finally:
        list_gate.set()
    assert statuses == ["CREATE IN_PROGRESS", "CREATE PENDING"]
    for job in jobs:
        local.wait_until_active(job)


def test_stopping_a_pending_and_a_running_version(local: Local, gate: Gate) -> None:
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group)
    running, pending = local.create_version(solution), local.create_version(solution)
    assert gate.training_starts.acquire(timeout=300)
    local.client.stop_solution_version_creation(solutionVersionArn=pending)
    assert local.describe(pending)["status"] == "CREATE STOPPED"
    local.client.stop_solution_version_creation(solutionVersionArn=running)
    assert local.describe(running)["status"] in ("CREATE STOPPING", "CREATE STOPPED")
    assert local.wait(running)["status"] == "CREATE STOPPED"
    with pytest.raises(local.client.exceptions.ResourceInUseException, match="STOPPED"):
        local.client.stop_solution_version_creation(solutionVersionArn=running)
    with pytest.raises(local.client.exceptions.ResourceInUseException, match="STOPPED"):
        local.create_batch_job(running)
    assert not list((local.root / "home" / "models").iterdir())


def test_a_killed_batch_inference_leaves_no_half_of_an_output(local: Local, hanging: Start) -> None:
    group, _ = local.import_rows(build_taste_rows())
    version = local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-user-personalization"))
    )
    local.store.put("s3://data/users/1.json", encode_user_lines(["u1", "u2"]))
    local.store.put("s3://data/users/2.json", encode_user_lines(["u3"]))
    request = (
        f"client.create_batch_inference_job(jobName='killed', solutionVersionArn={version!r},"
        f" roleArn={ROLE!r}, jobInput={{'s3DataSource': {{'path': 's3://data/users/'}}}},"
        " jobOutput={'s3DataDestination': {'path': 's3://data/users/out/'}})"
    )
    process = hanging("batchrec_dagster.storage.objects.ObjectStore.put", request, after=1)
    output_uris = [info.uri for info in local.store.list("s3://data/users/out/")]
    assert output_uris == ["s3://data/users/out/1.json.out"]  # whole, and without the marker
    assert len(local.read_lines(output_uris[0])) == 2
    process.kill()
    process.wait()
    (job,) = local.client.list_batch_inference_jobs()["batchInferenceJobs"]
    local.wait_until_active(job["batchInferenceJobArn"])
    assert [info.uri for info in local.store.list("s3://data/users/out/")] == [
        "s3://data/users/out/1.json.out",
        "s3://data/users/out/2.json.out",
        "s3://data/users/out/_CHECK",
    ]
    assert not list((local.root / "home" / "batches").iterdir())


def test_the_interpreter_ends_during_a_running_job(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group)
    code = textwrap.dedent("""
        import pathlib, sys, threading
        from batchrec_dagster.local_personalize.api.client import embedded_client
        from batchrec_dagster.local_personalize.operations import solution_versions
        from batchrec_dagster.storage.objects import ObjectStore
        root, begun = pathlib.Path(sys.argv[1]), threading.Event()
        def endless(*args, log, **options):
            begun.set()
            while True:
                log("training")
        solution_versions.train = endless
        client = embedded_client(root / "home", ObjectStore(folders={"data": root / "storage"}))
        client.create_solution_version(solutionArn=sys.argv[2])
        assert begun.wait(300)
    """)
    result = subprocess.run([sys.executable, "-c", code, str(local.root), solution], timeout=300)
    assert result.returncode == 0
    (version,) = local.client.list_solution_versions(solutionArn=solution)["solutionVersions"]
    local.wait_until_active(version["solutionVersionArn"])


def test_a_training_on_all_cores_is_left_to_the_next_process(local: Local) -> None:
    """Python closes thread pools before it signals its end: that is no failure."""
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group)
    code = textwrap.dedent("""
        import pathlib, sys, threading, time
        from batchrec_dagster.local_personalize.api.client import embedded_client
        from batchrec_dagster.local_personalize.learning.threads import for_each
        from batchrec_dagster.local_personalize.operations import solution_versions
        from batchrec_dagster.storage.objects import ObjectStore
        root, begun = pathlib.Path(sys.argv[1]), threading.Event()
        def pieces():
            while True:
                begun.set()
                yield 0.01
        def endless(*args, **options):
            for_each(time.sleep, pieces())
        solution_versions.train = endless
        client = embedded_client(root / "home", ObjectStore(folders={"data": root / "storage"}))
        client.create_solution_version(solutionArn=sys.argv[2])
        assert begun.wait(300)
    """)
    result = subprocess.run([sys.executable, "-c", code, str(local.root), solution], timeout=300)
    assert result.returncode == 0
    (version,) = local.client.list_solution_versions(solutionArn=solution)["solutionVersions"]
    local.wait_until_active(version["solutionVersionArn"])


def test_an_owner_is_alive_until_it_is_closed(tmp_path: Path) -> None:
    owner = OwnerLock(tmp_path)
    assert is_owner_alive(tmp_path, owner.name)
    owner.close()
    assert not is_owner_alive(tmp_path, owner.name)
    assert not list(tmp_path.iterdir())


def test_a_fork_of_an_owner_does_not_keep_its_lock(tmp_path: Path) -> None:
    owner = OwnerLock(tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"!")
        time.sleep(600)
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"!"
        owner._file.close()  # as the kernel does when the owner is killed
        assert not is_owner_alive(tmp_path, owner.name)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ZeroDivisionError("secret detail"),
            "Create failed. An internal error occurred: see the service's log.",
        ),
        (
            OSError(28, "No space left on device"),
            "Create failed. [Errno 28] No space left on device",
        ),
        (MemoryError(), "Create failed. MemoryError"),
        (
            pl.exceptions.ComputeError("parquet: No space left on device (os error 28)"),
            "Create failed. parquet: No space left on device (os error 28)",
        ),
    ],
)
def test_an_error_fails_the_job_without_a_traceback_and_says_what_the_machine_lacks(
    local: Local, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    group, _ = local.import_rows(build_taste_rows())

    def raise_error(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(solution_versions, "train", raise_error)
    failed_version = local.wait(local.create_version(local.create_solution(group)))
    assert failed_version["status"] == "CREATE FAILED"
    assert failed_version["failureReason"] == reason


def test_everything_in_the_home_is_private(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-user-personalization"))
    )
    home = local.root / "home"
    assert home.stat().st_mode & 0o077 == 0
    for path in home.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
