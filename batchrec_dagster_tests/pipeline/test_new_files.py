"""New ratings lead to one refresh with them: in a folder, in a real S3, with a real daemon."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.pipeline.automation.new_files import MAX_TICKS_WAITED, Cursor, decide_refresh
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    module_project,
)
from batchrec_dagster_tests.guard.servers.s3 import S3Server

pytestmark = pytest.mark.slow

ON = {"enabled": True, "every_seconds": 5}
HEADER = "userId,movieId,rating,timestamp\n"


@dataclass
class Evenings:
    """The sensor shop_new_files, as Dagster's daemon runs it.

    The cursor is kept, and a request with a known run key is not launched. Of each refresh only
    raw_ratings is run.
    """

    defs: dg.Definitions
    instance: dg.DagsterInstance
    cursor: str | None = None
    known_run_keys: set[str] = field(default_factory=set)
    skip_message: str = ""

    def tick(self, *, dies: bool = False) -> list[list[str]]:
        """The refreshes that this tick starts, each as the names of the files that it takes in.

        dies: whether the daemon dies before it has kept the cursor.
        """
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
        return [self.refresh() for _ in new]

    def looks(self, times: int = 4) -> list[list[str]]:
        return [refresh for _ in range(times) for refresh in self.tick()]

    def refresh(self) -> list[str]:
        result = self.job.execute_in_process(
            instance=self.instance, asset_selection=[dg.AssetKey(["shop", "raw_ratings"])]
        )
        record = result.output_for_node("shop__raw_ratings")
        return [file.source.rpartition("/")[2] for file in record.files]

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
    """A source of many files, and what puts a file there."""
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
    # What was there before is new again.
    put("1.csv", ratings(1))
    assert len(evenings.looks()) == 1


def test_hundreds_of_files_are_one_refresh_and_a_small_cursor(
    evenings: Evenings, place: tuple[str, Put]
) -> None:
    _, put = place
    refreshes = []
    for number in range(400):
        put(f"{number:04}.csv", ratings(number))
        if number in (100, 200, 300):
            refreshes += evenings.tick()
    refreshes += evenings.looks()
    assert [len(files) for files in refreshes] == [400]
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


def test_a_refresh_that_fails_is_not_asked_for_again() -> None:
    result = decide_refresh(Cursor(seen="new"), "new", "old")
    assert len(result.run_requests or []) == 1
    assert not decide_refresh(Cursor.read(result.cursor), "new", "old").run_requests


@given(states=st.lists(st.sampled_from("abc"), max_size=40))
def test_the_last_state_is_taken_in_and_never_twice_in_a_row(states: list[str]) -> None:
    cursor, state_taken_in, keys, requested_states = Cursor(), "", [], []
    for state in [*states, *states[-1:] * 3]:
        result = decide_refresh(cursor, state, state_taken_in)
        assert result.cursor is not None
        cursor = Cursor.read(result.cursor)
        for request in result.run_requests or []:
            keys.append(request.run_key)
            requested_states.append(state)
            state_taken_in = state
    assert len(keys) == len({*keys})
    assert all(state != other for state, other in itertools.pairwise(requested_states))
    assert requested_states[-1:] == states[-1:]


def test_what_never_rests_is_taken_in_now_and_then() -> None:
    cursor, requests = Cursor(), 0
    for number in range(3 * (MAX_TICKS_WAITED + 1)):
        result = decide_refresh(cursor, str(number), "")
        cursor = Cursor.read(result.cursor)
        requests += len(result.run_requests or [])
    assert requests == 3


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"other": 1}', "5"])
def test_a_cursor_that_is_none_of_ours_is_an_empty_one(text: str | None) -> None:
    assert Cursor.read(text) == Cursor()


def test_it_is_off_unless_declared_and_not_there_where_nothing_can_be_seen(
    tmp_path: Path,
) -> None:
    def sensors(source: str, **settings: object) -> list[dg.SensorDefinition]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        root.mkdir()
        project = module_project(root)
        project.declare(declaration("shop", source, **settings))
        with definitions(project) as defs:
            return [*(defs.sensors or [])]

    (off,) = sensors("ratings.csv")
    (on,) = sensors("s3://shop/orders/", on_new_files=ON)
    assert off.default_status is dg.DefaultSensorStatus.STOPPED
    assert on.default_status is dg.DefaultSensorStatus.RUNNING
    assert on.minimum_interval_seconds == 5
    assert sensors("https://example.com/ratings.csv") == []
    with pytest.raises(DeclarationError, match="on_new_files sees new files at a path or in s3"):
        sensors("https://example.com/ratings.csv", on_new_files=ON)
