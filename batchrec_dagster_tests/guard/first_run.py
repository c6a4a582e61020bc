"""A pipeline that has run once. It is made once in a session, and each test copies it."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.engine import Connection

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    module_project,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.oracles.recorded_requests import (
    RecordedRequest,
    format_requests,
    parse_requests,
    record_requests,
)

RATINGS = "ratings.csv"
REQUESTS = "requests.json"
# The path is relative, so that a copied project reads its own copy of the file.
DECLARATION = declaration("shop", RATINGS)


@dataclass(frozen=True)
class FirstRun:
    """The results of a pipeline's first run, in a folder that no test writes to."""

    folder: Path
    """The project's folder, with the ratings, and .batchrec with the storage and Personalize."""

    @classmethod
    def make(cls, folder: Path) -> FirstRun:
        """Run the pipeline `shop` on the ratings of `write_ratings`, as a project in the folder."""
        project = module_project(folder)
        write_ratings(folder / RATINGS)
        project.declare(DECLARATION)
        with dg.DagsterInstance.ephemeral() as instance, record_requests() as requests:
            assert refresh(project, "shop", instance, report=True).success
            (folder / REQUESTS).write_text(format_requests(requests))
            for name, connect in _databases(instance).items():
                with connect as connection, _database_file(folder / name) as file:
                    _sqlite(connection).backup(file)
        return cls(folder)

    @property
    def storage(self) -> Path:
        return Project(self.folder).storage

    @property
    def lists(self) -> Path:
        """The file of the published lists."""
        return self.storage / "shop/curated/recommendations/recommendations.parquet"

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests that the run sent to the embedded Personalize."""
        return parse_requests((self.folder / REQUESTS).read_text())

    def copy_to(self, project: Project, instance: dg.DagsterInstance | None = None) -> None:
        """Bring a project that has not run anything to the state after the first run.

        instance: a new instance in memory, which then remembers the run.
        """
        # The copy keeps the file's time, so that the file counts as unchanged.
        shutil.copy2(self.folder / RATINGS, project.root)
        project.declare(DECLARATION)
        shutil.copytree(self.folder / ".batchrec", project.root / ".batchrec")
        if instance is not None:
            for name, connect in _databases(instance).items():
                with _database_file(self.folder / name) as file, connect as connection:
                    file.backup(_sqlite(connection))


def _databases(
    instance: dg.DagsterInstance,
) -> dict[str, AbstractContextManager[Connection]]:
    """Return connections to the databases of an instance in memory."""
    runs: Any = instance.run_storage
    events: Any = instance.event_log_storage
    return {"runs.db": runs.connect(), "events.db": events.index_connection()}


def _sqlite(connection: Connection) -> sqlite3.Connection:
    database = connection.connection.dbapi_connection
    assert isinstance(database, sqlite3.Connection)
    return database


@contextmanager
def _database_file(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database on disk, and close it, which SQLite's own context manager does not do."""
    connection = sqlite3.connect(file)
    try:
        yield connection
    finally:
        connection.close()


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that one pytest-xdist worker makes, and all workers of a session read."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, part_folder = root / name, root / f"{name}.part"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            # A worker that failed may have left this folder behind.
            shutil.rmtree(part_folder, ignore_errors=True)
            part_folder.mkdir()
            make(part_folder)
            part_folder.rename(folder)
    return folder
