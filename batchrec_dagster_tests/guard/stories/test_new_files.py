"""Tests that new files in a folder, or in a real S3, lead to a single refresh that reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
)
from batchrec_dagster_tests.guard.seams.declaration import list_files_taken_in
from batchrec_dagster_tests.guard.servers.s3 import S3Server

pytestmark = pytest.mark.slow

ON = {"enabled": True, "every_seconds": 5}
HEADER = "userId,movieId,rating,timestamp\n"


@dataclass
class Evenings:
    """The sensor shop_new_files, run like by Dagster's daemon.

    The cursor is kept, and a request with a known run key is not launched. A refresh runs only
    raw_ratings.
    """

    defs: dg.Definitions
    instance: dg.DagsterInstance
    cursor: str | None = None
    known_run_keys: set[str] = field(default_factory=set)
    skip_message: str = ""

    def tick(self, *, dies: bool = False) -> list[list[str]]:
        """Run a tick, and return the names of the files that each started refresh reads.

        dies: whether the daemon dies before it has stored the cursor.
        """
        return [self.refresh() for _ in self.ask(dies=dies)]

    def ask(self, *, dies: bool = False) -> set[str]:
        """Run a tick, and return the new run keys of the requested refreshes."""
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"batchrec_storage": (self.defs.resources or {})["batchrec_storage"]},
        ) as context:
            result = self.defs.resolve_sensor_def("shop_new_files").evaluate_tick(context)
        self.skip_message = result.skip_message or ""
        if not dies:
            self.cursor = result.cursor
        run_keys = {request.run_key or "" for request in result.run_requests or []}
        new = run_keys - self.known_run_keys
        self.known_run_keys |= new
        return new

    def looks(self, times: int = 4) -> list[list[str]]:
        return [refresh for _ in range(times) for refresh in self.tick()]

    def refresh(self) -> list[str]:
        self.job.execute_in_process(
            instance=self.instance, asset_selection=[dg.AssetKey(["shop", "raw_ratings"])]
        )
        return list_files_taken_in(self.defs, "shop")

    @property
    def job(self) -> dg.JobDefinition:
        return self.defs.resolve_job_def("shop_refresh")


def ratings(user: int) -> str:
    return HEADER + "".join(f"{user},{item},5,1500000000\n" for item in range(3))


Put = Callable[[str, str], None]


@pytest.fixture(params=["folder", "S3"])
def place(
    request: pytest.FixtureRequest, project: Project, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Put]:
    """Return a source of many files, and a function that puts a file there."""
    if request.param == "folder":
        folder = project.root / "orders"
        folder.mkdir()

        def write(name: str, text: str) -> None:
            (folder / name).write_text(text)

        return f"{folder}/*.csv", write
    server: S3Server = request.getfixturevalue("s3")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    project.environment = server.environment()
    bucket, store = server.create_bucket(), server.store()

    def put(name: str, text: str) -> None:
        store.put(f"s3://{bucket}/orders/{name}", text.encode())

    return f"s3://{bucket}/orders/*.csv", put


@pytest.fixture
def evenings(
    project: Project, place: tuple[str, Put], instance: dg.DagsterInstance
) -> Iterator[Evenings]:
    project.declare(declaration("shop", place[0], on_new_files=ON))
    with definitions(project) as defs:
        yield Evenings(defs, instance)


def test_a_new_file_and_a_changed_one_are_refreshed_on_once(
    evenings: Evenings, place: tuple[str, Put]
) -> None:
    _, put = place
    assert evenings.looks() == []
    assert "no file matches" in evenings.skip_message
    put("1.csv", ratings(1))
    assert evenings.looks() == [["1.csv"]]
    assert evenings.skip_message.startswith("nothing is new")
    put("2.csv", ratings(2))
    assert evenings.looks() == [["1.csv", "2.csv"]]
    put("1.csv", ratings(17))
    assert evenings.looks() == [["1.csv", "2.csv"]]
    put("notes.txt", "not of the pattern")
    assert evenings.looks() == []
    # Files that existed before are new again.
    put("1.csv", ratings(1))
    assert len(evenings.looks()) == 1


def test_hundreds_of_files_are_one_refresh_and_a_small_cursor(
    evenings: Evenings, place: tuple[str, Put]
) -> None:
    _, put = place
    refreshes = []
    for number in range(120):
        put(f"{number:04}.csv", ratings(number))
        if number in (30, 60, 90):
            refreshes += evenings.tick()
    refreshes += evenings.looks()
    assert [len(files) for files in refreshes] == [120]
    assert len(evenings.cursor or "") < 250


def test_a_file_that_a_run_has_taken_in_already_asks_for_no_other(
    evenings: Evenings, place: tuple[str, Put]
) -> None:
    _, put = place
    put("1.csv", ratings(1))
    assert evenings.looks() == [["1.csv"]]
    put("2.csv", ratings(2))
    evenings.refresh()
    assert evenings.looks() == []
    assert evenings.skip_message.startswith("nothing is new")


def test_a_daemon_that_dies_before_it_has_kept_its_cursor_does_not_ask_twice(
    evenings: Evenings, place: tuple[str, Put]
) -> None:
    _, put = place
    put("1.csv", ratings(1))
    assert evenings.tick() == []
    assert evenings.tick(dies=True) == [["1.csv"]]
    assert evenings.looks() == []
    put("2.csv", ratings(2))
    assert evenings.tick(dies=True) == []
    assert evenings.looks() == [["1.csv", "2.csv"]]


@pytest.fixture
def in_folder(project: Project, instance: dg.DagsterInstance) -> Iterator[Evenings]:
    """Yield the sensor over the files of the project's folder `orders`."""
    (project.root / "orders").mkdir()
    source = f"{project.root}/orders/*.csv"
    project.declare(declaration("shop", source, on_new_files=ON))
    with definitions(project) as defs:
        yield Evenings(defs, instance)


def test_a_refresh_that_fails_is_not_asked_for_again(project: Project, in_folder: Evenings) -> None:
    (project.root / "orders/1.csv").write_text(ratings(1))
    # The requests of these ticks start no run.
    requests = [in_folder.ask() for _ in range(6)]
    assert sum(map(len, requests)) == 1


def test_a_folder_that_grows_all_the_time_is_refreshed_now_and_then(
    project: Project, in_folder: Evenings
) -> None:
    refreshes = []
    for number in range(70):
        (project.root / f"orders/{number}.csv").write_text(ratings(number))
        refreshes += in_folder.tick()
    assert 2 <= len(refreshes) <= 10


@pytest.mark.parametrize("cursor", ["", "{", "[]", '{"other": 1}', "5"])
def test_a_cursor_that_somebody_else_wrote_is_an_empty_one(
    project: Project, in_folder: Evenings, cursor: str
) -> None:
    (project.root / "orders/1.csv").write_text(ratings(1))
    in_folder.cursor = cursor
    assert in_folder.looks() == [["1.csv"]]


def test_the_sensor_is_off_by_default_and_absent_for_sources_it_cannot_list(
    project: Project,
) -> None:
    def list_sensors(source: str, **attributes: object) -> list[dg.SensorDefinition]:
        project.declare(declaration("shop", source, **attributes))
        with definitions(project) as defs:
            return [*(defs.sensors or [])]

    (off,) = list_sensors("ratings.csv")
    (on,) = list_sensors("s3://shop/orders/", on_new_files=ON)
    assert off.default_status is dg.DefaultSensorStatus.STOPPED
    assert on.default_status is dg.DefaultSensorStatus.RUNNING
    assert on.minimum_interval_seconds == 5
    assert list_sensors("https://example.com/ratings.csv") == []
