"""The catalog of resources, their statuses and tags, in one SQLite file.

The catalog is also the job queue: an unfinished resource is a queued job, so no second list can
disagree with it. WAL mode lets readers answer while others write.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from batchrec_dagster.storage import durable
from batchrec_dagster.storage.durable import exclusive

from ..errors import CatalogError, JobFailedError

_BUSY_SECONDS = 60


class _Connection(sqlite3.Connection):
    def __del__(self) -> None:
        self.close()  # its thread has ended


@contextmanager
def _translate_sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into CatalogError, in one line."""
    try:
        yield
    except sqlite3.Error as error:
        # Only errors that SQLite itself reports have a name.
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise _make_damage_error(path, error) from error
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise CatalogError(
                f"the catalogue {path} cannot be read or written: {error}. Check the disk, its free"
                " space and the limit of open files, and run again"
            ) from error
        raise


def _make_damage_error(path: Path, reason: object) -> CatalogError:
    return CatalogError(
        f"the catalogue {path} is damaged ({reason}): restore it from a backup, or move"
        f" {path.parent} away, so that the next run imports and trains again"
    )


class Status(StrEnum):
    ACTIVE = "ACTIVE"
    CREATE_PENDING = "CREATE PENDING"
    CREATE_IN_PROGRESS = "CREATE IN_PROGRESS"
    CREATE_FAILED = "CREATE FAILED"
    CREATE_STOPPING = "CREATE STOPPING"
    CREATE_STOPPED = "CREATE STOPPED"
    UPDATE_PENDING = "UPDATE PENDING"
    UPDATE_IN_PROGRESS = "UPDATE IN_PROGRESS"
    DELETE_PENDING = "DELETE PENDING"
    DELETE_IN_PROGRESS = "DELETE IN_PROGRESS"


CREATING = (Status.CREATE_PENDING, Status.CREATE_IN_PROGRESS)
UPDATING = (Status.UPDATE_PENDING, Status.UPDATE_IN_PROGRESS)
DELETING = (Status.DELETE_PENDING, Status.DELETE_IN_PROGRESS)
BUSY = (*CREATING, Status.CREATE_STOPPING, *UPDATING, *DELETING)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS resources (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    arn TEXT NOT NULL UNIQUE,
    region TEXT NOT NULL,
    kind TEXT NOT NULL,
    parent TEXT,
    status TEXT,
    unfinished INTEGER NOT NULL,
    owner TEXT,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS of_parent ON resources (kind, parent, seq);
CREATE INDEX IF NOT EXISTS of_region ON resources (kind, region, seq);
CREATE INDEX IF NOT EXISTS unfinished ON resources (seq) WHERE unfinished = 1;
CREATE TABLE IF NOT EXISTS tags (
    arn TEXT NOT NULL REFERENCES resources (arn) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (arn, key)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Resource:
    """One resource. `body` holds the members of Describe, `state` the service's own data.

    `unfinished`: a job is queued or running, for the resource or an update of it. `owner` names
    the worker that runs it. Times are epoch seconds.
    """

    arn: str
    region: str
    kind: str
    parent: str | None
    status: str | None
    body: dict[str, Any]
    state: dict[str, Any] = field(default_factory=dict)
    owner: str | None = None
    unfinished: bool = False
    created: float = 0.0
    updated: float = 0.0
    seq: int = 0

    @property
    def files(self) -> list[str]:
        """Its model and its data, relative to the home."""
        model = [self.state["model"]] if "model" in self.state else []
        return [*model, *(file["path"] for file in self.state.get("files", []))]

    def copy_with_status(self, status: str | None, **body: Any) -> Resource:
        """A copy with a new status and these members of the body set."""
        return replace(
            self,
            status=status,
            unfinished=status in BUSY,
            body={**self.body, **body},
            updated=time.time(),
        )


class CatalogTransaction:
    """The catalog within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def find(self, arn: str) -> Resource | None:
        """The resource of this ARN, of any kind."""
        return next(
            iter(self._select("SELECT * FROM resources WHERE arn = :arn", {"arn": arn})), None
        )

    def require(self, arn: str) -> Resource:
        """The same, which must be there. Raises JobFailedError if it was deleted."""
        if (resource := self.find(arn)) is None:
            raise JobFailedError(f"{arn} no longer exists.")
        return resource

    def add(self, resource: Resource) -> None:
        """Insert; sets `seq` and both times. The ARN must be free.

        Clients sort by creation time, so it never decreases, even when the clock is set back.
        """
        newest = self._db.execute("SELECT created FROM resources ORDER BY seq DESC LIMIT 1")
        now = max([time.time(), *(created for (created,) in newest)])
        self.restore(replace(resource, created=now, updated=now))

    def restore(self, resource: Resource) -> None:
        """Insert a resource as it was, with its times; sets `seq`. The ARN must be free."""
        self._db.execute(
            "INSERT INTO resources (arn, region, kind, parent, status, unfinished, owner,"
            " created, updated, body, state) VALUES (:arn, :region, :kind, :parent, :status,"
            " :unfinished, :owner, :created, :updated, :body, :state)",
            _to_row(resource),
        )

    def save(self, resource: Resource) -> None:
        """Write back status, owner, body, state and the time of the last update."""
        self._db.execute(
            "UPDATE resources SET status = :status, unfinished = :unfinished, owner = :owner,"
            " updated = :updated, body = :body, state = :state WHERE arn = :arn",
            _to_row(resource),
        )

    def remove(self, arn: str) -> None:
        """Delete the resource and its tags."""
        self._db.execute("DELETE FROM resources WHERE arn = ?", (arn,))

    def list_resources(
        self,
        kind: str,
        *,
        region: str | None = None,
        parent: str | None = None,
        after: int = 0,
        limit: int = -1,
    ) -> list[Resource]:
        """The resources of a kind, oldest first: of a region and a parent, where given, and up to
        `limit` of those that come after the sequence number `after`."""
        values = {"kind": kind, "region": region, "parent": parent, "after": after, "limit": limit}
        conditions = ["kind = :kind", "seq > :after"]
        conditions += [f"{name} = :{name}" for name in ("region", "parent") if values[name]]
        where = " AND ".join(conditions)
        query = f"SELECT * FROM resources WHERE {where} ORDER BY seq LIMIT :limit"  # noqa: S608
        return self._select(query, values)

    def list_all(self) -> list[Resource]:
        """The resources of all kinds, oldest first."""
        return self._select("SELECT * FROM resources ORDER BY seq", {})

    def list_unfinished(self) -> list[Resource]:
        """The resources with a queued or running job, oldest first."""
        return self._select("SELECT * FROM resources WHERE unfinished = 1 ORDER BY seq", {})

    def read_tags(self, arn: str) -> dict[str, str]:
        rows = self._db.execute("SELECT key, value FROM tags WHERE arn = ? ORDER BY key", (arn,))
        return dict(rows.fetchall())

    def put_tags(self, arn: str, tags: Mapping[str, str]) -> None:
        """Add tags, or give those that exist a new value."""
        self._db.executemany(
            "INSERT INTO tags VALUES (?, ?, ?)"
            " ON CONFLICT (arn, key) DO UPDATE SET value = excluded.value",
            [(arn, key, value) for key, value in tags.items()],
        )

    def remove_tags(self, arn: str, keys: Iterable[str]) -> None:
        """Remove tags; unknown keys are ignored."""
        self._db.executemany(
            "DELETE FROM tags WHERE arn = ? AND key = ?", [(arn, key) for key in keys]
        )

    def _select(self, query: str, values: Mapping[str, Any]) -> list[Resource]:
        return [_from_row(row) for row in self._db.execute(query, values)]


class Catalog:
    """The SQLite file; safe to use from many threads and processes at once.

    Each thread has a connection. Nothing else in this process may open the file, as closing it
    would drop SQLite's locks, and no forked child may use it (sqlite.org, "How To Corrupt An SQLite
    Database File", 2.2 and 2.6). Dagster's multiprocess executor spawns its processes.
    """

    def __init__(self, path: Path, *, used: bool = False) -> None:
        """Raises CatalogError. `used`: there are files that the catalog must know."""
        self._path = path
        self._local = threading.local()
        # SQLite does not wait for another process that turns on WAL, hence the lock.
        with exclusive(path.with_suffix(".lock")), _translate_sqlite_errors(path):
            if not path.exists():
                path.touch(mode=0o600)  # SQLite gives its WAL files the mode of the database
                durable.sync(path.parent)
            elif used and not path.stat().st_size:
                raise _make_damage_error(path, "it is empty")
            connection = self._get_connection()
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)

    def open_for_reading(self) -> AbstractContextManager[CatalogTransaction]:
        """A read transaction; never waits for a writer. Raises CatalogError."""
        return self._transaction("BEGIN")

    def open_for_writing(self) -> AbstractContextManager[CatalogTransaction]:
        """The only write transaction at a time; an exception rolls it back. Raises CatalogError."""
        return self._transaction("BEGIN IMMEDIATE")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[CatalogTransaction]:
        with _translate_sqlite_errors(self._path):
            connection = self._get_connection()
            connection.execute(begin)
            try:
                yield CatalogTransaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk, say: the connection stays usable
                    connection.execute("ROLLBACK")
                raise

    def _get_connection(self) -> sqlite3.Connection:
        known: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if known is None:
            known = self._local.connection = _connect(self._path)
        return known


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # another thread may collect, and so close it
        factory=_Connection,
    )
    connection.row_factory = sqlite3.Row
    # With NORMAL, a power cut takes back the last transactions, but not the removal of the files
    # that those replaced.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _to_row(resource: Resource) -> dict[str, Any]:
    """The table's row: a column for each field, two of them as JSON."""
    as_json = {"body": json.dumps(resource.body), "state": json.dumps(resource.state)}
    return vars(resource) | as_json


def _from_row(row: sqlite3.Row) -> Resource:
    fields = dict(row)
    as_objects = {"body": json.loads(fields["body"]), "state": json.loads(fields["state"])}
    return Resource(**(fields | as_objects | {"unfinished": bool(fields["unfinished"])}))
