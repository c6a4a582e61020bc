"""A run whose process was killed does not keep the schedule or the sensor from starting another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus
from dagster._core.remote_origin import RemoteJobOrigin

from batchrec_dagster.cli.init import DEFINITIONS_MODULE
from batchrec_dagster.pipeline.automation import living_runs
from batchrec_dagster.pipeline.automation.failure_alerts import PROCESS_GONE, describe_failure
from batchrec_dagster.pipeline.automation.living_runs import (
    DIED,
    has_died,
    is_run_process_alive,
    list_living_runs,
)
from batchrec_dagster.pipeline.automation.new_files import (
    MAX_REQUESTS_AGAIN,
    REQUESTED_AGAIN,
    Cursor,
    decide_refresh,
)
from batchrec_dagster.storage.processes import (
    CLOCK_SECONDS,
    MACHINE_TAG,
    OLD_MACHINE_TAG,
    describe_machine,
    is_process_alive,
)
from batchrec_dagster_tests.pipeline.alerts_support import make_pipeline
from batchrec_dagster_tests.pipeline.web_ui import answers
from batchrec_dagster_tests.processes import free_ports, started
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    module_project,
    write_ratings,
)

SECONDS = 300
WORKSPACE = """\
load_from:
  - python_module: {{module_name: {module}.definitions, working_directory: ., location_name: here}}
"""
LAUNCH = """
mutation($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) { __typename }
}
"""


@dg.job
def idle() -> None:
    pass


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance whose runs are in SQLite, as in the home that batchrec makes."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def create_run(
    instance: dg.DagsterInstance,
    pid: int | None,
    *,
    machine: str | None = None,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    **options: Any,
) -> dg.DagsterRun:
    """A run on a machine, of a process that has recorded its id as Dagster's do."""
    tags = {MACHINE_TAG: describe_machine() if machine is None else machine}
    run = instance.create_run_for_job(idle, status=status, tags=tags, **options)
    if pid is not None:
        metadata = {"pid": dg.MetadataValue.text(str(pid))}
        data = EngineEventData(metadata=metadata)
        instance.report_engine_event("a process", run, data)
    return run


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_run_lives_as_long_as_one_of_its_processes(
    home: dg.DagsterInstance, dead_pid: int
) -> None:
    create_run(home, dead_pid)
    assert list_living_runs(home, "idle") == []
    alive = create_run(home, os.getpid())
    assert [run.run_id for run in list_living_runs(home, "idle")] == [alive.run_id]
    assert list_living_runs(home, "another") == []


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING])
def test_a_run_without_a_process_lives_until_it_should_have_one(
    home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus
) -> None:
    run = create_run(home, None, status=status)
    assert len(list_living_runs(home)) == 1
    monkeypatch.setattr(living_runs, "START_TIMEOUT", living_runs.START_TIMEOUT * 0)
    assert list_living_runs(home) == []
    assert has_died(home, run)


def test_a_queued_run_waits_for_the_daemon(home: dg.DagsterInstance) -> None:
    run = dg.DagsterRun(
        job_name="idle",
        status=dg.DagsterRunStatus.QUEUED,
        # As a version before this one tagged it.
        tags={OLD_MACHINE_TAG: json.dumps({"processes": "here", "boot": "an earlier one"})},
        remote_job_origin=Mock(spec=RemoteJobOrigin),
    )
    assert is_run_process_alive(home, run) is None


def test_a_run_of_before_the_machine_started_again_is_dead(home: dg.DagsterInstance) -> None:
    here = json.loads(describe_machine())
    create_run(home, os.getpid(), machine=json.dumps({**here, "boot": "an earlier one"}))
    assert list_living_runs(home) == []


@pytest.mark.parametrize(
    "change", [{"processes": "another pid:[1]"}, {"processes": "another pid:[1]", "boot": "x"}]
)
def test_nobody_can_tell_of_a_run_on_another_machine(
    home: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    dead_pid: int,
    change: dict[str, str],
) -> None:
    here = json.loads(describe_machine())
    create_run(home, dead_pid, machine=json.dumps({**here, **change}))
    assert len(list_living_runs(home)) == 1
    monkeypatch.setattr(living_runs, "DEAD_AFTER", living_runs.DEAD_AFTER * 0)
    assert list_living_runs(home) == []


def test_what_a_retry_inherits_of_its_run_says_nothing_about_it(
    home: dg.DagsterInstance, dead_pid: int
) -> None:
    first = create_run(home, dead_pid)
    home.report_run_failed(first)
    create_run(home, dead_pid, parent_run_id=first.run_id, root_run_id=first.run_id)
    create_run(home, dead_pid, machine=describe_machine(first.run_id))
    assert len(list_living_runs(home)) == 2


def test_the_id_of_a_process_that_ended_may_be_another_one_s_now() -> None:
    now = datetime.now(UTC).timestamp()
    assert is_process_alive(os.getpid(), recorded_at=now)
    # This process has started after the epoch.
    assert not is_process_alive(os.getpid(), recorded_at=0)
    assert is_process_alive(os.getpid(), recorded_at=now - CLOCK_SECONDS / 2)
    assert not is_process_alive(0)
    assert not is_process_alive(2**70)


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + SECONDS
    while is_process_alive(process.pid):  # Nobody has waited for it: its id is still taken.
        assert time.monotonic() < deadline
    os.kill(process.pid, 0)
    process.wait()


def test_the_sensor_requests_a_refresh_that_died_again_but_not_for_ever() -> None:
    cursor = Cursor(seen="new", asked="new", run_key="first")
    keys = []
    for deaths in range(1, MAX_REQUESTS_AGAIN + 1):
        result = decide_refresh(cursor, "new", "old", refreshing=False, deaths=deaths)
        (request,) = result.run_requests or []
        assert request.tags[REQUESTED_AGAIN] == str(deaths)
        keys.append(request.run_key)
        cursor = Cursor.read(result.cursor)
    assert len(set(keys)) == MAX_REQUESTS_AGAIN
    last = MAX_REQUESTS_AGAIN + 1
    assert not decide_refresh(cursor, "new", "old", refreshing=False, deaths=last).run_requests
    assert not decide_refresh(cursor, "new", "old", refreshing=True, deaths=1).run_requests


def test_a_run_has_died_unless_it_failed_by_itself_or_is_retried(
    home: dg.DagsterInstance, dead_pid: int
) -> None:
    def end_run(tags: dict[str, str], *, died: bool) -> bool:
        run = create_run(home, dead_pid)
        home.add_run_tags(run.run_id, {**tags, **({DIED: run.run_id} if died else {})})
        home.report_run_failed(run)
        ended = home.get_run_by_id(run.run_id)
        assert ended is not None
        return has_died(home, ended)

    assert end_run({}, died=True)
    assert not end_run({}, died=False)
    assert not end_run({DIED: "of the run that it retries"}, died=False)
    assert not end_run({living_runs.WILL_RETRY: "true"}, died=True)
    assert not end_run({living_runs.RETRY_NUMBER: "1"}, died=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a pipeline that a schedule refreshes, and new files."""
    project = module_project(tmp_path_factory.mktemp("shop"))
    name = project.package.name
    (project.package / "definitions.py").write_text(DEFINITIONS_MODULE)
    (project.root / "workspace.yaml").write_text(WORKSPACE.format(module=name))
    write_ratings(project.root / "orders" / "1.csv")
    project.declare(declaration("shop", f"{project.root}/orders/*.csv"))
    project.environment = {"PYTHONPATH": f"{project.root}:{os.environ.get('PYTHONPATH', '')}"}
    return project


@contextmanager
def open_home(project: Project) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(project.process_environment()["DAGSTER_HOME"]) as instance:
        yield instance


def evaluate_schedule(project: Project, instance: dg.DagsterInstance) -> str:
    """Why the schedule skips its tick; empty if it requests a run."""
    with definitions(project) as defs, dg.build_schedule_context(instance) as context:
        result = defs.resolve_schedule_def("shop_schedule").evaluate_tick(context)
    assert len(result.run_requests or []) == (0 if result.skip_message else 1)
    return result.skip_message or ""


def evaluate_sensor(
    project: Project, instance: dg.DagsterInstance, cursor: Cursor
) -> tuple[list[dg.RunRequest], Cursor]:
    """The refreshes that the sensor of new files requests, and its cursor afterwards."""
    with (
        definitions(project) as defs,
        dg.build_sensor_context(
            instance=instance,
            cursor=cursor.to_json(),
            resources={"batchrec_storage": (defs.resources or {})["batchrec_storage"]},
        ) as context,
    ):
        result = defs.resolve_sensor_def("shop_new_files").evaluate_tick(context)
    return list(result.run_requests or []), Cursor.read(result.cursor)


def wait_for_process(
    wait: Callable[..., Any], instance: dg.DagsterInstance
) -> tuple[dg.DagsterRun, int]:
    """The run that is under way, and the id of its first process, which is stopped."""

    def find() -> tuple[dg.DagsterRun, int] | None:
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            for pid, _ in living_runs._find_processes(instance, run):
                os.kill(pid, signal.SIGSTOP)
                return run, pid
        return None

    run_and_pid: tuple[dg.DagsterRun, int] = wait(find, "process of the run", timeout=SECONDS)
    return run_and_pid


@pytest.mark.slow
def test_a_killed_run_of_a_command_does_not_block_the_schedule(shop: Project) -> None:
    command = [str(Path(sys.executable).with_name("batchrec")), "run", "shop"]
    environment, log = shop.process_environment(), shop.root / "run.log"
    runs = Path(environment["DAGSTER_HOME"]) / "history" / "runs"
    with ExitStack() as stack:
        batchrec = stack.enter_context(started(command, shop.root, environment, log))
        # Only the command makes the home's databases: Dagster lets one of two processes that open
        # a new home at the same time fail, and this process does not take the command's lock.
        batchrec.wait_for(
            lambda: any(path.stem != "index" for path in runs.glob("?*.db")) or None,
            "database of the run",
            timeout=SECONDS,
        )
        instance = stack.enter_context(open_home(shop))
        run, pid = wait_for_process(batchrec.wait_for, instance)
        try:
            assert f"run {run.run_id} of shop_refresh" in evaluate_schedule(shop, instance)
            batchrec.kill()
            # The command is gone, but not the run, which is a process of its own.
            assert f"run {run.run_id} of shop_refresh" in evaluate_schedule(shop, instance)
        finally:
            os.killpg(pid, signal.SIGKILL)
        batchrec.process.wait()
        deadline = time.monotonic() + SECONDS
        while is_process_alive(pid):
            assert time.monotonic() < deadline
        assert evaluate_schedule(shop, instance) == ""
        # As Dagster's daemon asks, as soon as there is one.
        health = instance.run_launcher.check_run_worker_health(run)
        assert health.status == WorkerStatus.FAILED
        assert health.msg == "its process is gone"
        instance.report_run_failed(run)
        failed_run = instance.get_run_by_id(run.run_id)
        assert failed_run is not None
        assert describe_failure(make_pipeline(), instance, failed_run).lines[0] == PROCESS_GONE


@pytest.mark.slow
def test_a_killed_ui_does_not_block_the_schedule_or_the_sensor(shop: Project) -> None:
    (port,) = free_ports(1)
    command = [str(Path(sys.executable).with_name("batchrec")), "ui", "--port", str(port)]
    environment, log = shop.process_environment(), shop.root / "ui.log"
    address = f"http://127.0.0.1:{port}"
    with open_home(shop) as instance, started(command, shop.root, environment, log) as ui:
        ui.wait_for(lambda: answers(f"{address}/server_info"), "answer of the UI", timeout=SECONDS)
        launch(address, {"dagster/sensor_name": "shop_new_files"})
        run, pid = wait_for_process(ui.wait_for, instance)
        assert f"run {run.run_id} of shop_refresh" in evaluate_schedule(shop, instance)
        ui.kill()
        deadline = time.monotonic() + SECONDS
        while is_process_alive(pid):
            assert time.monotonic() < deadline
        assert evaluate_schedule(shop, instance) == ""
        # As the sensor would remember the files for which it requested that run.
        _, cursor = evaluate_sensor(shop, instance, Cursor())
        cursor = replace(cursor, asked=cursor.seen)
        (request,), cursor = evaluate_sensor(shop, instance, cursor)
        assert request.tags[REQUESTED_AGAIN] == "1"
        assert cursor.run_key == request.run_key
        health = instance.run_launcher.check_run_worker_health(run)
        assert health.status == WorkerStatus.FAILED


def launch(address: str, tags: dict[str, str]) -> None:
    """Start a run of the pipeline as the page's Launchpad does, with these tags."""
    parameters = {
        "selector": {
            "repositoryLocationName": "here",
            "repositoryName": "__repository__",
            "jobName": "shop_refresh",
        },
        "runConfigData": {},
        "executionMetadata": {
            "tags": [{"key": key, "value": value} for key, value in tags.items()]
        },
    }
    body = {"query": LAUNCH, "variables": {"parameters": parameters}}
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        content = json.load(response)
    assert content["data"]["launchRun"]["__typename"] == "LaunchRunSuccess", content
