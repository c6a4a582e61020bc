"""Dagster's home, which commands open: the folder of Dagster's settings and history of runs."""

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

# The databases of Dagster's own SQLite storage, as paths relative to the home.
RUNS = "history/runs.db"
EVENTS_OF_ALL_RUNS = "history/runs/index.db"
SCHEDULES = "schedules/schedules.db"


def locate_events_of_run(run_id: str) -> str:
    """Return the path of the database with a run's events, relative to Dagster's home."""
    return f"history/runs/{run_id}.db"


class HistoryError(click.ClickException):
    """An error for databases of Dagster that cannot be opened.

    For example, the databases are read-only or damaged.
    """


def find_dagster_home() -> Path:
    """Return DAGSTER_HOME or, if it is not set, the folder `dagster` of BATCHREC_HOME."""
    home = Path(os.environ.get("BATCHREC_HOME", "").strip() or ".batchrec").expanduser().absolute()
    return Path(os.environ.get("DAGSTER_HOME") or home / "dagster")


def open_dagster_home() -> Path:
    """Set DAGSTER_HOME to the folder of `find_dagster_home`, and return the folder.

    If DAGSTER_HOME is not set, a missing folder is made, with access for this user only, and a
    folder without a dagster.yaml gets a copy of the project's, if the project has one.

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

    Waits while another process creates the databases.
    """
    if not home.is_dir():
        return False
    with exclusive_lock(home):
        return (home / SCHEDULES).is_file()


@contextmanager
def open_dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Yield Dagster's instance with the history of runs, in the home of `find_dagster_home`.

    Raises HistoryError if the databases cannot be opened, DagsterInvariantViolationError for a
    wrong dagster.yaml, click.ClickException if the home cannot be written.
    """
    from sqlalchemy.exc import DatabaseError

    home = open_dagster_home()
    try:
        with ExitStack() as stack:
            if home.is_dir():
                # If several processes create the databases at once, only one process succeeds.
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
    """Return Dagster's instance.

    Raises HistoryError if a URL of a database cannot be read.
    """
    import dagster as dg
    from sqlalchemy.exc import ArgumentError

    try:
        return dg.DagsterInstance.get()
    except (ValueError, ArgumentError):
        # SQLAlchemy's message repeats a part of the unreadable URL, so it is not shown.
        raise HistoryError(
            f"cannot open Dagster's history of {home}: its dagster.yaml names a URL or a port of a"
            " database that cannot be read; write % codes in passwords, such as %40 for @"
        ) from None


def _require_readable(database: Path) -> None:
    """Raise sqlite3.DatabaseError if the file exists and is no SQLite database.

    Dagster itself finds this out about some databases only when somebody asks for their contents.
    """
    if database.is_file():
        # If the database cannot be opened or is locked, Dagster itself says so.
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection,
        ):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()


def _explain_database_error(home: Path, error: Exception) -> HistoryError:
    """Return a readable error for an exception of SQLite or SQLAlchemy.

    Messages of SQLAlchemy contain SQL and addresses. The error repeats only the first line of the
    message of the database.
    """
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
    """Yield Dagster's instance as `open_dagster_instance` does; None if Dagster has no home yet."""
    if not os.environ.get("DAGSTER_HOME") and not find_dagster_home().is_dir():
        yield None
        return
    with open_dagster_instance() as instance:
        yield instance


def share_with_writers(home: Path) -> None:
    """Let only users who may write to Dagster's home read and write its databases.

    SQLite creates a database that everybody can read, and that only its owner can write. Databases
    of other users keep their mode.
    """
    for folder in (home / "history", home / "schedules"):
        for path in (folder, *folder.rglob("*")):
            with suppress(OSError):  # The file is another user's, or a temporary file that is gone.
                mode = stat.S_IMODE(path.stat().st_mode)
                shared = limit_mode(mode if path.is_dir() else 0o666, home, for_writers=True)
                if shared != mode:
                    path.chmod(shared)


@contextmanager
def hold_databases_open(*databases: Path) -> Iterator[None]:
    """Keep a connection open to each SQLite database that exists, during the block.

    Dagster opens and closes a database for each event of a run. Closing the last connection makes
    SQLite copy its log into the database and sync both files, which doubles the syncs of a run.
    """
    with ExitStack() as stack:
        for path in databases:
            with suppress(sqlite3.Error):  # Without the connection, the run is a little slower.
                if path.is_file():
                    connection = stack.enter_context(closing(sqlite3.connect(path)))
                    connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
        yield
