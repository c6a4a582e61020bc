"""Fixtures for tests that run pipelines in this process, or open pages in a browser."""

import gc
import os
import re
import sys
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import hypothesis
import pytest
from alembic.util import pyfiles

from batchrec_dagster.local_personalize.jobs import Jobs
from batchrec_dagster_tests.guard.builders import Project, module_project
from batchrec_dagster_tests.guard.first_run import FirstRun, make_once
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.s3 import S3Server, s3_server

# Python compiles batchrec once, rather than in each of the hundreds of processes of the tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Java's second compiler pays for itself only after minutes.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

# Each of Dagster's instances loads its migrations: most of the CPU that one in memory takes.
pyfiles.load_module_py = cache(pyfiles.load_module_py)  # type: ignore[assignment]

# A busy machine is no bug, so tests assert nothing about time. Hypothesis draws the same examples
# every time, so that only the change can cause a failure. `make test-long` draws more and different
# examples, also in CI, where Hypothesis would repeat the same ones.
hypothesis.settings.register_profile(
    "batchrec", deadline=None, derandomize=True, max_examples=repeats(50, 15)
)
# For deliberate faults, it only matters whether an example fails, not how small it can be.
hypothesis.settings.register_profile(
    "unshrunk",
    deadline=None,
    derandomize=True,
    max_examples=repeats(50, 15),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.register_profile("wild", deadline=None, derandomize=False, print_blob=True)
hypothesis.settings.load_profile("batchrec")

# Fixtures that start a server, a browser or Spark.
SLOW_FIXTURES = frozenset({"browser", "postgres", "s3", "server", "site", "spark", "web"})
LONGEST = (
    # for the night
    "test_year.py",
    "test_two_nights.py",
    "test_team_on_pythons.py",
    "test_team_project.py",
    "test_tutorial.py",
    "test_example_shop.py",
    # for each commit
    "test_erasure.py",
    "test_forget.py",
    "test_first_night.py",
    "test_report.py",
    "test_retraining.py",
    "test_requests.py",
    "test_lists.py",
    "test_unchanged.py",
    "test_upstream.py",
    "test_adoption.py",
    "test_own_data.py",
    "test_late_lists.py",
    "test_gate.py",
    "test_web_servers.py",
    "test_items_and_users.py",
    "test_permissions.py",
    "test_reuse.py",
    "test_people_in_dagster.py",
    "test_postgres.py",
    "test_lock.py",
    "test_delta.py",
    "test_bombs.py",
)
# A job stops at its next checkpoint, which may take a while on a busy machine.
STOP_SECONDS = 120.0
# All tests of this file are slow.
SLOW_FILE = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)
# A fixture with parameters may start S3 for some of them only.
S3_PARAMETER = re.compile(r"\b(S3|bucket)\b", re.IGNORECASE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Keep `make test-fast` from importing slow files, which takes seconds in each worker."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return bool(SLOW_FILE.search(collection_path.read_text())) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests `slow` that start a server, a browser or Spark, and sort files by duration."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        callspec = getattr(item, "callspec", None)
        if not SLOW_FIXTURES.isdisjoint(fixtures) or (
            callspec and S3_PARAMETER.search(callspec.id)
        ):
            item.add_marker(pytest.mark.slow)
    # The longest files start first, so that no worker is left alone with one at the end.
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else 99)


def pytest_collection_finish() -> None:
    """Exclude imported modules and collected tests, which live as long as the process, from gc."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Keep pytest from searching all objects for garbage, five times, at the end of the process."""
    gc.freeze()


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """Restore the environment after a command has read .env into it."""
    variables = dict(os.environ)
    yield
    if os.environ != variables:
        os.environ.clear()
        os.environ.update(variables)


# The jobs of the embedded Personalizes in this process.
JOBS: weakref.WeakSet[Jobs] = weakref.WeakSet()
_make_jobs = Jobs.__init__


def _make_and_list_jobs(jobs: Jobs, *args: Any) -> None:
    _make_jobs(jobs, *args)
    JOBS.add(jobs)


Jobs.__init__ = _make_and_list_jobs  # type: ignore[assignment, method-assign]


def workers_closed() -> Iterator[None]:
    """End the jobs of an embedded Personalize with the test or module that started them.

    Later tests patch functions that jobs call, watch threads and count CPU.
    """
    jobs_before = set(JOBS)
    yield
    for jobs in set(JOBS) - jobs_before:
        jobs.close()
        for thread in [*jobs._threads]:
            thread.join(STOP_SECONDS)
            assert not thread.is_alive(), f"a job does not stop: {thread}"


jobs_end_with_their_test = pytest.fixture(autouse=True)(workers_closed)
jobs_end_with_their_module = pytest.fixture(autouse=True, scope="module")(workers_closed)


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run the test in an empty folder, without this machine's settings."""
    for name in os.environ:
        if name.startswith(("AWS_", "BATCHREC_", "DAGSTER_")):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Yield an instance in memory: a run on a file-based instance takes twice the CPU."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return module_project(tmp_path)


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    """Return the files of the first run of the pipeline `shop`, which is run once a session."""
    return FirstRun(make_once(tmp_path_factory, "first-run", FirstRun.make))


@pytest.fixture
def first_run_of_shop(first_run: FirstRun, project: Project, instance: dg.DagsterInstance) -> None:
    """Copy the first run of the pipeline `shop` into `project`, and its history into `instance`."""
    first_run.copy_to(project, instance)


BROWSER = Path("/usr/bin/chromium")
QUIET_BROWSER = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


# Milliseconds that a page may take on a busy machine. Elements that exist are found at once.
PATIENCE = 300_000


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Yield this worker's S3 server, in which each test makes its own buckets.

    A test that kills or limits the server starts another.
    """
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Yield Chromium, driven by playwright."""
    if not BROWSER.exists():
        pytest.skip(f"there is no {BROWSER}: install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(BROWSER), args=[*QUIET_BROWSER])
        open_page = chromium.new_page

        def patient_page(**options: Any) -> Any:
            page = open_page(**options)
            page.set_default_timeout(PATIENCE)
            return page

        chromium.new_page = patient_page
        sync_api.expect.set_options(timeout=PATIENCE)
        yield chromium
        chromium.close()
