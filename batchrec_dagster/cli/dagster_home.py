"""Dagster's home: the folder with its settings and the history of runs, as commands open it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchrec_dagster.storage.durable import (
    copy_permissions,
    exclusive_lock,
    limit_mode,
    make_folders,
    write,
)

if TYPE_CHECKING:
    import dagster as dg

# Where Dagster's own SQLite storage keeps its databases in a home.
RUNS = "history/runs.db"
EVENTS_OF_ALL_RUNS = "history/runs/index.db"
SCHEDULES = "schedules/schedules.db"


def locate_events_of_run(run_id: str) -> str:
    """The database with the events of one run, relative to Dagster's home."""
    return f"history/runs/{run_id}.db"


class HistoryError(click.ClickException):
    """Dagster's databases cannot be opened, for example because they are read-only or damaged."""


def find_dagster_home() -> Path:
    """DAGSTER_HOME or, if it is not set, the folder `dagster` of BATCHREC_HOME."""
    home = Path(os.environ.get("BATCHREC_HOME", "").strip() or ".batchrec").expanduser().absolute()
    return Path(os.environ.get("DAGSTER_HOME") or home / "dagster")


def open_dagster_home() -> Path:
    """Set DAGSTER_HOME to `find_dagster_home` and return it.

    Unless the user has set DAGSTER_HOME, a home that does not exist is made, for its user only, and
    gets the project's dagster.yaml.

    Raises click.ClickException if the home cannot be written.
    """
    home = find_dagster_home()
    settings = home / "dagster.yaml"
    try:
        if not os.environ.get("DAGSTER_HOME"):
            settings_of_project = Path(settings.name).absolute()
            make_folders(home, 0o700)
            with exclusive_lock(home):
                if settings_of_project.is_file() and not settings.exists():
                    write(settings, [settings_of_project.read_bytes()])
                    settings.chmod(0o600)
            os.environ["DAGSTER_HOME"] = str(home)
    except OSError as error:
        raise click.ClickException(f"cannot write {home}: {error.strerror}") from error
    return home


def has_history(home: Path) -> bool:
    """Return whether Dagster's home has its databases.

    While another process makes them, this function waits.
    """
    if not home.is_dir():
        return False
    with exclusive_lock(home):
        return (home / SCHEDULES).is_file()


@contextmanager
def open_dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's instance with the runs, in `find_dagster_home`.

    Raises HistoryError if its databases cannot be opened, DagsterInvariantViolationError for a
    wrong dagster.yaml, click.ClickException if the home cannot be written.
    """
    from sqlalchemy.exc import DatabaseError

    home = open_dagster_home()
    try:
        with ExitStack() as stack:
            if home.is_dir():
                # Of several processes that make its databases, Dagster lets all but one fail.
                stack.enter_context(exclusive_lock(home))
                stack.enter_context(copy_permissions(home))
            opened = _open_history(home)
            for database in (RUNS, EVENTS_OF_ALL_RUNS, SCHEDULES):
                _require_readable(home / database)
            share_with_writers(home)
        with opened as instance:
            yield instance
    except (DatabaseError, sqlite3.Error) as error:
        raise _explain_database_error(home, error) from error
    finally:
        share_with_writers(home)


def _open_history(home: Path) -> dg.DagsterInstance:
    """Dagster's instance. Raises HistoryError for a URL that cannot be read."""
    import dagster as dg
    from sqlalchemy.exc import ArgumentError

    try:
        return dg.DagsterInstance.get()
    except (ValueError, ArgumentError):
        # SQLAlchemy's message repeats a part of a URL that it cannot read.
        raise HistoryError(
            f"cannot open Dagster's history of {home}: its dagster.yaml names a URL or a port of a"
            " database that cannot be read; write % codes in passwords, such as %40 for @"
        ) from None


def _require_readable(database: Path) -> None:
    """Raise sqlite3.DatabaseError if there is such a file and it is not a database of SQLite.

    Dagster opens some of them only when something is asked for.
    """
    if database.is_file():
        # Where it cannot be opened or is locked, Dagster itself says so.
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection,
        ):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()


def _explain_database_error(home: Path, error: Exception) -> HistoryError:
    """The error for one of SQLite or SQLAlchemy, whose messages have SQL and addresses."""
    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    if "not a database" in reason or "malformed" in reason:
        return HistoryError(
            f"Dagster's history of {home} is damaged ({reason}): restore the folders history and"
            " schedules in it from a backup, or move them away; then Dagster knows no earlier runs,"
            " and the next one prepares the data again. The published lists stay"
        )
    if "disk" in reason:
        return HistoryError(
            f"cannot open Dagster's history of {home}: {reason}. Check the disk and its free"
            " space, and run again"
        )
    return HistoryError(f"cannot open Dagster's history of {home}: {reason}")


@contextmanager
def open_instance_if_any() -> Iterator[dg.DagsterInstance | None]:
    """As `open_dagster_instance`, but None if Dagster has no home yet."""
    if not os.environ.get("DAGSTER_HOME") and not find_dagster_home().is_dir():
        yield None
        return
    with open_dagster_instance() as instance:
        yield instance


def share_with_writers(home: Path) -> None:
    """Let those who may write to Dagster's home read and write its databases, and nobody else.

    SQLite makes a database that everybody can read and that only its user can write. Databases of
    other users keep their mode.
    """
    for folder in (home / "history", home / "schedules"):
        for path in (folder, *folder.rglob("*")):
            with suppress(OSError):  # The file is another user's, or a temporary one that is gone.
                mode = stat.S_IMODE(path.stat().st_mode)
                shared = limit_mode(mode if path.is_dir() else 0o666, home, for_writers=True)
                if shared != mode:
                    path.chmod(shared)


@contextmanager
def hold_databases_open(*databases: Path) -> Iterator[None]:
    """Keep a connection to each of the SQLite databases that exist.

    Dagster opens and closes a database for each event of a run. Whoever closes the last connection
    also copies SQLite's log into the database and syncs both, which doubles the syncs of a run.
    """
    with ExitStack() as stack:
        for path in databases:
            with suppress(sqlite3.Error):  # Then the run only is a little slower.
                if path.is_file():
                    connection = stack.enter_context(closing(sqlite3.connect(path)))
                    connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
        yield
