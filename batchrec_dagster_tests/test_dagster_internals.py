"""What is used of Dagster without a promise is in one place, and is still there."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sqlite3
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.cli.project import STORAGE
from batchrec_dagster.dagster_internals.sqlite_storage import OPEN_LOGS, SqliteStorage
from batchrec_dagster_tests.support import REPOSITORY

PACKAGE = REPOSITORY / "batchrec_dagster"
ROOM = PACKAGE / "dagster_internals"
PRIVATE = re.compile(r"(dagster(_\w+)?(\.\w+)*\._.*|dagster\.components\..*|dagster_webserver\b.*)")


@cache
def imports() -> tuple[tuple[str, str, str], ...]:
    """The file, the module and the name of each import from a private module of Dagster."""
    found: list[tuple[str, str, str]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        if not PRIVATE.search(text):
            continue
        file = str(path.relative_to(REPOSITORY))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and PRIVATE.fullmatch(node.module or ""):
                found += ((file, str(node.module), name.name) for name in node.names)
            elif isinstance(node, ast.Import):
                found += ((file, n.name, "") for n in node.names if PRIVATE.fullmatch(n.name))
    return tuple(found)


USED = sorted({(module, name) for _, module, name in imports()})


def test_private_parts_of_dagster_are_imported_in_one_place() -> None:
    elsewhere = [
        found for found in imports() if not found[0].startswith(f"{PACKAGE.name}/{ROOM.name}/")
    ]
    assert elsewhere == []


@pytest.mark.slow  # imports the web server, which takes as long as all the rest of Dagster
@pytest.mark.parametrize(("module", "name"), [pytest.param(*used, id=used[1]) for used in USED])
def test_dagster_still_has_it(module: str, name: str) -> None:
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        pytest.fail(
            f"Dagster {version('dagster')} has no {module}.{name}: find what replaces it, and"
            f" change {ROOM.name}/ and who uses it"
        )


def test_dagster_still_has_the_module_that_is_its_daemon() -> None:
    assert find_spec("dagster._daemon.__main__")


@pytest.mark.slow
def test_events_are_in_the_files_where_dagster_itself_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.asset
    def lists() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={"users": 60})

    (tmp_path / "dagster.yaml").write_text(STORAGE)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as ours, dg.DagsterInstance.local_temp(str(tmp_path)) as dagsters:
        result = dg.materialize([lists], instance=ours)
        run = result.dagster_run
        logged = [entry.user_message for entry in ours.all_logs(run.run_id)]
        assert logged == [entry.user_message for entry in dagsters.all_logs(run.run_id)]
        for instance in (ours, dagsters):
            assert instance.get_runs()[0].is_success
            found = instance.get_latest_materialization_event(dg.AssetKey("lists"))
            assert found is not None
            assert found.asset_materialization is not None
            assert found.asset_materialization.metadata["users"].value == 60

        # The web page, another process, watches the run's file.
        seen = Event()
        last = dagsters.get_records_for_run(run.run_id).cursor
        dagsters.watch_event_logs(run.run_id, last, lambda entry, cursor: seen.set())
        ours.report_engine_event("one more", run)
        assert seen.wait(300)

        for _ in range(OPEN_LOGS + 1):
            dg.materialize([lists], instance=ours)
        assert "one more" in str(ours.all_logs(run.run_id)[-1].dagster_event)
        ours.wipe()
        assert ours.get_runs() == [] == ours.all_logs(run.run_id)


def test_the_databases_stay_open_between_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text(STORAGE)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    opened: list[Any] = []
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(dg.GraphDefinition(name="idle").to_job())
        instance.report_engine_event("first", run)
        real = sqlite3.dbapi2.connect

        def counted(*arguments: Any, **options: Any) -> Any:
            opened.append(arguments)
            return real(*arguments, **options)

        monkeypatch.setattr(sqlite3.dbapi2, "connect", counted)
        for number in range(5):
            instance.report_engine_event(f"{number}", run)
            instance.get_run_by_id(run.run_id)
    assert opened == []


@pytest.mark.attack
@pytest.mark.parametrize(
    ("home", "umask", "folder", "file"),
    [
        (None, 0o022, 0o700, 0o600),
        (0o700, 0o022, 0o700, 0o600),
        # As `mkdir` makes it: others could read the runs, and nobody shares it on purpose.
        (0o755, 0o022, 0o700, 0o600),
        (0o775, 0o002, 0o770, 0o660),
        (0o770, 0o007, 0o770, 0o660),
    ],
)
def test_only_who_may_write_to_the_home_can_read_the_runs(
    tmp_path: Path, home: int | None, umask: int, folder: int, file: int
) -> None:
    path = tmp_path / "dagster"
    before = os.umask(umask)
    try:
        if home is not None:
            path.mkdir()
            path.chmod(home)
        storage = SqliteStorage.from_config_value(None, {"base_dir": str(path)})
        with dg.DagsterInstance.ephemeral() as instance:
            run = instance.create_run_for_job(dg.GraphDefinition(name="idle").to_job())
        storage.event_log_storage.store_event(an_event(run.run_id))
        made = [*path.rglob("*.db*")]
        assert path / "history/runs" / f"{run.run_id}.db-wal" in made
        assert len([each for each in made if each.suffix == ".db"]) == 4
        assert {each.stat().st_mode & 0o777 for each in made} == {file}
        assert {(path / each).stat().st_mode & 0o777 for each in ("history", "history/runs")} == {
            folder
        }
        assert path.stat().st_mode & 0o777 == (home or 0o700)
        storage.event_log_storage.dispose()
    finally:
        os.umask(before)


def an_event(run_id: str) -> dg.EventLogEntry:
    return dg.EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None, level=20, user_message="ana bought a test", run_id=run_id, timestamp=1.0
    )


@pytest.mark.slow
def test_processes_that_open_a_new_home_at_once_make_its_databases_once(tmp_path: Path) -> None:
    home, go = tmp_path / "dagster", tmp_path / "go"
    home.mkdir(0o700)
    (home / "dagster.yaml").write_text(STORAGE)
    script = (
        "import sys, time, dagster as dg; from pathlib import Path\n"
        "import batchrec_dagster.dagster_internals.sqlite_storage; print('ready', flush=True)\n"
        "while not Path(sys.argv[1]).exists(): time.sleep(0.001)\n"
        "with dg.DagsterInstance.get() as instance: print(instance.get_runs())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(go)],
            env=os.environ | {"DAGSTER_HOME": str(home)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    assert [process.communicate()[0] for process in processes] == ["[]\n"] * 4
    databases = [*home.rglob("*.db")]
    assert len(databases) == 3
    assert {path.stat().st_mode & 0o077 for path in databases} == {0}
