"""The file of a run's events in Dagster's own SQLite storage, which Dagster does not delete.

`DagsterInstance.delete_run` empties the file and leaves it there, as large as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What SQLite may leave next to a database.
_ENDINGS = ("", "-wal", "-shm", "-journal")


def locate_events_of_run(run_id: str) -> str:
    """The database with the events of one run, relative to Dagster's home."""
    return f"history/runs/{run_id}.db"


def delete_events_file(home: Path, run_id: str) -> None:
    """Delete the database with the events of a run that is deleted, if there is one.

    home: Dagster's home.
    """
    # An id that somebody else chose could lead to another folder.
    if _RUN_ID.fullmatch(run_id):
        database = home / locate_events_of_run(run_id)
        for ending in _ENDINGS:
            database.with_name(f"{database.name}{ending}").unlink(missing_ok=True)


def delete_orphaned_events(home: Path, has_run: Callable[[str], bool], before: datetime) -> None:
    """Delete the databases of runs that were deleted, by a process that was killed, for example.

    has_run: tells whether Dagster still knows the run of this id.
    before: databases that were written since stay.
    """
    for database in (home / locate_events_of_run("any")).parent.glob("*.db"):
        with suppress(FileNotFoundError):  # Another run deleted it.
            is_old = database.stat().st_mtime < before.timestamp()
            if is_old and _RUN_ID.fullmatch(database.stem) and not has_run(database.stem):
                delete_events_file(home, database.stem)
