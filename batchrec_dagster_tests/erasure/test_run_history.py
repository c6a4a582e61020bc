"""Ids leave the texts of Dagster's events; numbers, versions and times stay. SQLite, PostgreSQL."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.dagster_internals import stored_texts
from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.run_history import ConsoleLogs, RunEvents
from batchrec_dagster_tests.postgres_server import PostgresServer, postgres_server

USER = "zqmark;é"
PEOPLE = People.of([USER])


@dataclass(frozen=True)
class History:
    """The history of a run whose texts name a person."""

    instance: dg.DagsterInstance
    home: Path

    def run(self) -> None:
        @dg.asset(check_specs=[dg.AssetCheckSpec("readable", asset="ratings")])
        def ratings(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
            context.log.warning(f"left out line 3: '{USER},5'")
            records = [dg.TableRecord({"user": USER, "rank": 1})]
            schema = dg.TableSchema(columns=[dg.TableColumn("user")])
            return dg.MaterializeResult(
                data_version=dg.DataVersion("v1"),
                metadata={
                    "sample": dg.MetadataValue.table(records=records, schema=schema),
                    "preview": dg.MetadataValue.md(f"User {USER} gets 7 items"),
                    "bad_row_examples": [f"line 3: {USER}"],
                    "users": 7,
                    "ndcg": 0.25,
                },
                check_results=[
                    dg.AssetCheckResult(
                        check_name="readable", passed=True, description=f"the first: {USER}"
                    )
                ],
            )

        assert dg.materialize([ratings], instance=self.instance).success

    def read(self) -> tuple[Any, dict[str, Any]]:
        """The data version and the metadata of the asset's last materialization."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey("ratings"))
        assert event is not None
        materialization = event.asset_materialization
        assert materialization is not None
        metadata = {key: value.value for key, value in materialization.metadata.items()}
        return (materialization.tags or {})["dagster/data_version"], metadata


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    overrides: dict[str, Any] = {}
    if request.param == "PostgreSQL":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database("dagster").replace("://", "+psycopg2://", 1)
        storage = {"postgres_url": url}
        overrides = {"storage": {"postgres": storage}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides) as instance:
        history = History(instance, tmp_path)
        history.run()
        yield history


@pytest.mark.slow
def test_only_texts_change(history: History) -> None:
    events = RunEvents(history.instance, history.home)
    version, before = history.read()
    entries = [
        entry
        for run in history.instance.get_runs()
        for entry in history.instance.all_logs(run.run_id)
    ]
    # The materialization and the check, their copies by asset, and the message.
    number = events.count(PEOPLE).number
    assert number >= 4
    assert events.erase(PEOPLE) == number
    assert events.count(PEOPLE).number == events.erase(PEOPLE) == 0
    assert history.read()[0] == version
    after = history.read()[1]
    assert after["preview"] == "User [erased] gets 7 items"
    assert after["bad_row_examples"] == ["line 3: [erased]"]
    assert after["sample"].records == [dg.TableRecord({"user": "[erased]", "rank": 1})]
    assert (after["users"], after["ndcg"]) == (before["users"], before["ndcg"])
    (run,) = history.instance.get_runs()
    after_entries = history.instance.all_logs(run.run_id)
    assert [entry.timestamp for entry in after_entries] == [entry.timestamp for entry in entries]
    assert "zqmark" not in repr(after_entries)
    assert "left out line 3: '[erased],5'" in [entry.user_message for entry in after_entries]


@pytest.mark.slow
def test_what_sqlite_deleted_earlier_goes_too(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        history = History(instance, tmp_path)
        for _ in range(2):
            history.run()
        for run in instance.get_runs()[1:]:
            instance.delete_run(run.run_id)
        # The web page has the database open.
        with closing(sqlite3.connect(tmp_path / "history/runs/index.db")) as connection:
            connection.execute("SELECT count(*) FROM event_logs").fetchall()
            RunEvents(instance, tmp_path).erase(PEOPLE)
    for path in (tmp_path / "history").rglob("*"):
        assert not path.is_file() or b"zqmark" not in path.read_bytes(), path


@pytest.mark.slow
def test_a_busy_database_is_waited_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        history = History(instance, tmp_path)
        history.run()
        file = tmp_path / "history/runs/index.db"
        with closing(sqlite3.connect(file, check_same_thread=False)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM event_logs").fetchall()
            with monkeypatch.context() as context:
                context.setattr(stored_texts, "BUSY_SECONDS", 0.3)
                with pytest.raises(Exception, match="database is locked"):
                    RunEvents(instance, tmp_path).erase(PEOPLE)
            ending = threading.Timer(0.3, reader.rollback)
            ending.start()
            RunEvents(instance, tmp_path).erase(PEOPLE)
            ending.join()
        assert b"zqmark" not in file.read_bytes()


def test_console_logs_lose_ids_but_not_times(tmp_path: Path) -> None:
    log = tmp_path / "storage/a-run/compute_logs/step.err"
    log.parent.mkdir(parents=True)
    start = "2026-11-29 11:28:29 +0000 - dagster - WARNING - shop_refresh - 29-a - "
    text = f"{start}left out: '{USER},29' at 11:29\n{start}kept 3 rows\n29\n"
    log.write_bytes(text.encode() + b"\xff\n")
    log.chmod(0o600)
    logs, people = ConsoleLogs(tmp_path), People.of([USER, "29"])
    assert logs.count(people).number == logs.erase(people) == 2
    assert logs.count(people).number == 0
    expected = f"{start}left out: '[erased],[erased]' at 11:29\n{start}kept 3 rows\n[erased]\n"
    assert log.read_bytes() == expected.encode() + b"\xff\n"
    assert log.stat().st_mode & 0o777 == 0o600
