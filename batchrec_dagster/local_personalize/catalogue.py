"""The catalogue: all resources of a local Personalize, in a single table of a SQLite file.

The file is in SQLite's WAL mode, in which readers do not wait for writers.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from batchrec_dagster.storage import durable
from batchrec_dagster.storage.durable import exclusive_lock

from .errors import CatalogueError, JobFailedError

BUSY_SECONDS = 60.0
"""The longest wait of a writer for another writer, and of `empty_log` for other connections."""

_RETRY_SECONDS = 0.1
"""The time between two attempts to empty the log."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS resources (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    arn TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL,
    kind TEXT NOT NULL,
    parent TEXT,
    status TEXT,
    job TEXT,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    tags TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS of_parent ON resources (parent, kind, seq);
CREATE INDEX IF NOT EXISTS of_scope ON resources (kind, scope, seq);
CREATE INDEX IF NOT EXISTS with_job ON resources (seq) WHERE job IS NOT NULL;
"""
_JSON_COLUMNS = ("body", "state", "tags")


class Status(StrEnum):
    """The statuses that Amazon Personalize shows in Describe and List."""

    ACTIVE = "ACTIVE"
    CREATE_PENDING = "CREATE PENDING"
    CREATE_IN_PROGRESS = "CREATE IN_PROGRESS"
    CREATE_FAILED = "CREATE FAILED"


@dataclass(frozen=True)
class Resource:
    """A resource, such as a dataset or a solution, as the catalogue stores it."""

    arn: str
    scope: str
    """The region and the account that the resource belongs to."""
    kind: str
    """The name of the resource's `Kind`, such as `DatasetGroup`."""
    parent: str | None
    """The ARN of the parent resource, such as the dataset group of a dataset."""
    status: str | None
    """A value of `Status`; None for a schema, which has no status."""
    body: dict[str, Any]
    """The members that Describe shows, by their names on the wire."""
    state: dict[str, Any] = field(default_factory=dict)
    """Internal values of this service, such as the paths of files and the metrics of a model."""
    tags: dict[str, str] = field(default_factory=dict)
    job: str | None = None
    """The name of the lock that the resource's job holds; None if no job is under way."""
    created: float = 0.0
    """The time of creation, in epoch seconds."""
    updated: float = 0.0
    """The time of the last change of the status, in epoch seconds."""
    seq: int = 0
    """The resource's number in the order of creation."""

    @property
    def files(self) -> list[str]:
        """The paths of the resource's model and data, relative to the home."""
        paths = [self.state["model"]] if "model" in self.state else []
        return paths + [file["path"] for file in self.state.get("files", [])]

    def end_job(self, status: Status, **body: Any) -> Resource:
        """Return a copy without a job, with a new status.

        body: members to add to the body.
        """
        body = {**self.body, **body}
        return replace(self, status=status, job=None, body=body, updated=time.time())


class CatalogueTransaction:
    """A transaction that reads and changes resources.

    `Catalogue` opens the transaction, and commits it or rolls it back.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def find(self, arn: str) -> Resource | None:
        """Return the resource of any kind with this ARN, or None."""
        resources = self._select("arn = :arn", {"arn": arn})
        return resources[0] if resources else None

    def require(self, arn: str) -> Resource:
        """Return the resource with this ARN. Raises JobFailedError if it was deleted."""
        resource = self.find(arn)
        if resource is None:
            raise JobFailedError(f"{arn} no longer exists.")
        return resource

    def add(self, resource: Resource) -> None:
        """Insert a new resource, and set its `seq` and times.

        Clients sort by creation time. So the creation time never decreases, even if the clock is
        set back.

        resource: its ARN must be unused.
        """
        newest = self._connection.execute("SELECT created FROM resources ORDER BY seq DESC LIMIT 1")
        now = max([time.time(), *(created for (created,) in newest)])
        self._connection.execute(
            "INSERT INTO resources (arn, scope, kind, parent, status, job, created, updated, body,"
            " state, tags) VALUES (:arn, :scope, :kind, :parent, :status, :job, :created, :updated,"
            " :body, :state, :tags)",
            _to_row(replace(resource, created=now, updated=now)),
        )

    def save(self, resource: Resource) -> None:
        """Update an existing resource: its status, job, time of update, body, state and tags."""
        self._connection.execute(
            "UPDATE resources SET status = :status, job = :job, updated = :updated, body = :body,"
            " state = :state, tags = :tags WHERE arn = :arn",
            _to_row(resource),
        )

    def remove(self, resource: Resource) -> list[str]:
        """Delete the resource and all its descendants, and return the paths of their files."""
        paths = resource.files + self.remove_children(resource)
        self._connection.execute("DELETE FROM resources WHERE arn = ?", (resource.arn,))
        return paths

    def remove_children(self, resource: Resource) -> list[str]:
        """Delete all descendants of the resource, and return the paths of their files."""
        children = self._select("parent = :arn", {"arn": resource.arn})
        return [path for child in children for path in self.remove(child)]

    def list_resources(
        self,
        kind: str,
        *,
        scope: str | None = None,
        parent: str | None = None,
        after: int = 0,
        limit: int = -1,
        newest_first: bool = False,
    ) -> list[Resource]:
        """Return the resources of a kind, oldest first by default.

        scope: only resources with this `Resource.scope`.
        parent: only resources that belong to the resource with this ARN.
        after: only resources that come after the resource with this `seq`; 0 for all.
        limit: the largest number of resources to return; -1 for all.
        newest_first: whether to reverse the order.
        """
        values = {"kind": kind, "scope": scope, "parent": parent, "after": after, "limit": limit}
        conditions = ["kind = :kind"]
        if after:
            conditions.append("seq < :after" if newest_first else "seq > :after")
        conditions += [f"{name} = :{name}" for name in ("scope", "parent") if values[name]]
        order = "seq DESC" if newest_first else "seq"
        return self._select(" AND ".join(conditions), values, f"{order} LIMIT :limit")

    def find_dataset(self, group_arn: str, dataset_type: str) -> Resource | None:
        """Return the group's dataset of this type, such as INTERACTIONS, or None."""
        for dataset in self.list_resources("Dataset", parent=group_arn):
            if dataset.body["datasetType"] == dataset_type:
                return dataset
        return None

    def list_with_job(self) -> list[Resource]:
        """Return the resources on which a job is under way, oldest first."""
        return self._select("job IS NOT NULL", {})

    def list_jobs_of(self, arn: str) -> list[Resource]:
        """Return those of this resource and its descendants that have a job under way."""
        return [resource for resource in self.list_with_job() if self._belongs_to(resource, arn)]

    def _belongs_to(self, resource: Resource | None, arn: str) -> bool:
        while resource is not None and resource.arn != arn:
            resource = self.find(resource.parent) if resource.parent else None
        return resource is not None

    def list_files(self) -> set[str]:
        """Return the paths of all models and data, relative to the home."""
        owners = self._select("kind IN ('Dataset', 'SolutionVersion')", {})
        return {path for resource in owners for path in resource.files}

    def _select(self, where: str, values: dict[str, Any], order: str = "seq") -> list[Resource]:
        # The text of the query contains no value of a request.
        query = f"SELECT * FROM resources WHERE {where} ORDER BY {order}"  # noqa: S608
        return [_from_row(row) for row in self._connection.execute(query, values)]


class Catalogue:
    """The SQLite file, which many threads and processes may use at once.

    Each thread has its own connection. Nothing else in this process may open the file, because
    closing it would drop SQLite's locks. No forked child process may use it either (sqlite.org,
    "How To Corrupt An SQLite Database File", 2.2 and 2.6). Dagster's multiprocess executor does not
    fork: it spawns its processes.
    """

    def __init__(self, path: Path, *, has_data: bool = False) -> None:
        """Open the catalogue, or create it if there is none.

        has_data: whether the home has files of models or data. If so, an empty catalogue file is
            a damaged file.

        Raises CatalogueError if the file cannot be read or written, or is damaged.
        """
        self._path = path
        self._thread_values = threading.local()
        # The lock is needed because SQLite does not wait for another process that turns on WAL.
        with exclusive_lock(path.with_suffix(".lock")), _translate_sqlite_errors(path):
            if not path.exists():
                # SQLite gives its WAL files the same mode as the database file.
                path.touch(mode=0o600)
                durable.sync(path.parent)
            elif has_data and not path.stat().st_size:
                raise _make_damage_error(path, "it is empty")
            connection = self._get_connection()
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)

    def open_for_reading(self) -> AbstractContextManager[CatalogueTransaction]:
        """Open a transaction that only reads, and never waits for a writer.

        Raises CatalogueError.
        """
        return self._open_transaction("BEGIN")

    def open_for_writing(self) -> AbstractContextManager[CatalogueTransaction]:
        """Open a transaction that may write. Only one such transaction is open at a time.

        The transaction is committed at the end of the block, or rolled back if the block raises.
        Raises CatalogueError.
        """
        return self._open_transaction("BEGIN IMMEDIATE")

    def rewrite(self) -> None:
        """Write the whole file again, without any deleted or replaced content.

        The log keeps older pages until `empty_log` removes them. Raises CatalogueError.
        """
        with _translate_sqlite_errors(self._path):
            self._get_connection().execute("VACUUM")

    def copy_log(self) -> None:
        """Copy the log of writes (the WAL) into the file, so that a copy of the file is a backup.

        Pages that other transactions write or read meanwhile stay in the log.
        Raises CatalogueError.
        """
        with _translate_sqlite_errors(self._path):
            self._get_connection().execute("PRAGMA wal_checkpoint(PASSIVE)")

    def empty_log(self) -> bool:
        """Move the log into the file, truncate the log, and return whether that succeeded.

        Returns False if another connection kept the catalogue busy for BUSY_SECONDS.
        Raises CatalogueError.
        """
        give_up = time.monotonic() + BUSY_SECONDS
        with _translate_sqlite_errors(self._path):
            while True:
                answer = self._get_connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
                is_busy, _, _ = answer.fetchone()
                if not is_busy or time.monotonic() > give_up:
                    return not is_busy
                # SQLite waits for readers and writers, but not while another connection copies
                # the log.
                time.sleep(_RETRY_SECONDS)

    @contextmanager
    def _open_transaction(self, begin: str) -> Iterator[CatalogueTransaction]:
        with _translate_sqlite_errors(self._path):
            connection = self._get_connection()
            connection.execute(begin)
            try:
                yield CatalogueTransaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                # This thread will use the same connection again, for example after a full disk.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _get_connection(self) -> sqlite3.Connection:
        """Return this thread's connection, and open it on first use."""
        connection: sqlite3.Connection | None = getattr(self._thread_values, "connection", None)
        if connection is None:
            connection = _connect(self._path)
            self._thread_values.connection = connection
        return connection


class _Connection(sqlite3.Connection):
    """A connection that closes when its thread has ended."""

    def __del__(self) -> None:
        self.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        # The garbage collector may close the connection in another thread.
        check_same_thread=False,
        factory=_Connection,
    )
    connection.row_factory = sqlite3.Row
    # With NORMAL, a power cut could undo the last transactions, but not the removal of the files
    # that these transactions replaced.
    connection.execute("PRAGMA synchronous = FULL")
    # Deleted content is overwritten with zeros, so that its bytes do not stay in the file.
    connection.execute("PRAGMA secure_delete = ON")
    return connection


@contextmanager
def _translate_sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors in the block into CatalogueError with a single-line message."""
    try:
        yield
    except sqlite3.Error as error:
        # Only errors that SQLite itself reports have a name; errors of the Python module have none.
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise _make_damage_error(path, error) from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise CatalogueError(
                f"the catalogue {path} is locked by another process: end what has it open, such as"
                " a shell of sqlite3 or a copy that is being made, and run again"
            ) from error
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise CatalogueError(
                f"the catalogue {path} cannot be read or written: {error}. Check the disk, its free"
                " space and the limit of open files, and run again"
            ) from error
        raise


def _make_damage_error(path: Path, reason: object) -> CatalogueError:
    return CatalogueError(
        f"the catalogue {path} is damaged ({reason}): restore it from a backup, or move"
        f" {path.parent} away, so that the next run imports and trains again"
    )


def _to_row(resource: Resource) -> dict[str, Any]:
    """Return the resource's row in the table, with dictionaries as JSON."""
    values = vars(resource)
    return {**values, **{name: json.dumps(values[name]) for name in _JSON_COLUMNS}}


def _from_row(row: sqlite3.Row) -> Resource:
    values = dict(row)
    return Resource(**values | {name: json.loads(values[name]) for name in _JSON_COLUMNS})
