"""Fixtures for tests that run pipelines in this process, or look at pages in a browser."""

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

# Compiled once, and not in each of the hundreds of processes that tests start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Java's second compiler pays for itself only after minutes.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

# Each of Dagster's instances loads its migrations: most of the CPU that one in memory takes.
pyfiles.load_module_py = cache(pyfiles.load_module_py)  # type: ignore[assignment]

# A busy machine is no bug: tests assert nothing about time. The same examples every time, so that a
# failure is the change's own. `make test-long` draws others, and more, also where Hypothesis finds
# itself in CI and would repeat the same.
hypothesis.settings.register_profile(
    "batchrec", deadline=None, derandomize=True, max_examples=repeats(50, 15)
)
# For faults made on purpose: whether an example fails is all that matters, not how small it can be.
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
    # At night.
    "test_year.py",
    "test_two_nights.py",
    "test_team_on_pythons.py",
    "test_team_project.py",
    "test_tutorial.py",
    "test_example_shop.py",
    # For each commit.
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
# A job stops at its next checkpoint, which is soon but on a busy machine.
STOP_SECONDS = 120.0
# A file whose tests are all slow.
SLOW_FILE = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)
# A fixture with parameters may start S3 for some of them only.
S3_PARAMETER = re.compile(r"\b(S3|bucket)\b", re.IGNORECASE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make test-fast` does not even import what it leaves out: seconds of CPU in each worker."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return bool(SLOW_FILE.search(collection_path.read_text())) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests `slow` by what they start, so that `make test-fast` leaves them out."""
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
    """What is imported and collected lives as long as this process: it is never garbage."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """The process ends. pytest would search all that tests have left for garbage, five times."""
    gc.freeze()


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """A command takes what .env says into its environment, which here is that of all tests."""
    variables = dict(os.environ)
    yield
    if os.environ != variables:
        os.environ.clear()
        os.environ.update(variables)


# Of the embedded Personalizes of this process.
JOBS: weakref.WeakSet[Jobs] = weakref.WeakSet()
_make_jobs = Jobs.__init__


def _make_and_list_jobs(jobs: Jobs, *args: Any) -> None:
    _make_jobs(jobs, *args)
    JOBS.add(jobs)


Jobs.__init__ = _make_and_list_jobs  # type: ignore[assignment, method-assign]


def workers_closed() -> Iterator[None]:
    """Jobs of an embedded Personalize end with the test, or the module, that started it: later
    tests patch what they call, watch threads and count CPU."""
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
    """In an empty folder, and of this machine's settings none."""
    for name in os.environ:
        if name.startswith(("AWS_", "BATCHREC_", "DAGSTER_")):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """In memory: a run on a file-based one takes twice the CPU."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return module_project(tmp_path)


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    """What the first run of the pipeline `shop` left: made once a session."""
    return FirstRun(make_once(tmp_path_factory, "first-run", FirstRun.make))


@pytest.fixture
def first_run_of_shop(first_run: FirstRun, project: Project, instance: dg.DagsterInstance) -> None:
    """The pipeline `shop` of `project` has run once, on ratings.csv; `instance` remembers it."""
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


# Milliseconds that a page may take on a busy machine: what is there is found at once.
PATIENCE = 300_000


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for each worker; each test makes buckets of its own. A test that kills the
    server, or limits it, starts another."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright."""
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
