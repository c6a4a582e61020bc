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
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchrec_dagster.storage import durable
from batchrec_dagster.storage.durable import exclusive_lock

from ..errors import CatalogError, JobFailedError
from .resource import Resource

_BUSY_SECONDS = 60
"""How long a writer waits for the writer before it."""

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


class CatalogTransaction:
    """Reads and changes the resources and tags of the catalog within one transaction.

    `Catalog` opens it, and commits it or rolls it back.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def find(self, arn: str) -> Resource | None:
        """Return the resource with this ARN, of whatever kind, or None."""
        resources = self._select("SELECT * FROM resources WHERE arn = :arn", {"arn": arn})
        return resources[0] if resources else None

    def require(self, arn: str) -> Resource:
        """Return the resource with this ARN. Raises JobFailedError if it was deleted."""
        resource = self.find(arn)
        if resource is None:
            raise JobFailedError(f"{arn} no longer exists.")
        return resource

    def add(self, resource: Resource) -> None:
        """Insert a new resource, whose ARN must be free. Its `seq` and times are set here.

        Clients sort by creation time, so it never decreases, even when the clock is set back.
        """
        newest = self._connection.execute("SELECT created FROM resources ORDER BY seq DESC LIMIT 1")
        now = max([time.time(), *(created for (created,) in newest)])
        self._connection.execute(
            "INSERT INTO resources (arn, region, kind, parent, status, unfinished, owner,"
            " created, updated, body, state) VALUES (:arn, :region, :kind, :parent, :status,"
            " :unfinished, :owner, :created, :updated, :body, :state)",
            _to_row(replace(resource, created=now, updated=now)),
        )

    def save(self, resource: Resource) -> None:
        """Write the status, owner, body, state and time of update of an existing resource."""
        self._connection.execute(
            "UPDATE resources SET status = :status, unfinished = :unfinished, owner = :owner,"
            " updated = :updated, body = :body, state = :state WHERE arn = :arn",
            _to_row(resource),
        )

    def remove(self, arn: str) -> None:
        """Delete the resource with this ARN, and its tags."""
        self._connection.execute("DELETE FROM resources WHERE arn = ?", (arn,))

    def list_resources(
        self,
        kind: str,
        *,
        region: str | None = None,
        parent: str | None = None,
        after: int = 0,
        limit: int = -1,
        newest_first: bool = False,
    ) -> list[Resource]:
        """Return the resources of a kind, oldest first unless they are to be newest first.

        region: only those whose `Resource.region` is this.
        parent: only those that belong to the resource with this ARN.
        after: only those that come after the one with this sequence number, `Resource.seq`; 0 for
            all.
        limit: how many at most, or -1 for all.
        """
        values = {"kind": kind, "region": region, "parent": parent, "after": after, "limit": limit}
        conditions = ["kind = :kind"]
        if after:
            conditions.append("seq < :after" if newest_first else "seq > :after")
        conditions += [f"{name} = :{name}" for name in ("region", "parent") if values[name]]
        where = " AND ".join(conditions)
        order = "seq DESC" if newest_first else "seq"
        query = f"SELECT * FROM resources WHERE {where} ORDER BY {order} LIMIT :limit"  # noqa: S608
        return self._select(query, values)

    def list_all(self) -> list[Resource]:
        """Return the resources of all kinds, oldest first."""
        return self._select("SELECT * FROM resources ORDER BY seq", {})

    def list_unfinished(self) -> list[Resource]:
        """Return the resources with a queued or running job, oldest first."""
        return self._select("SELECT * FROM resources WHERE unfinished = 1 ORDER BY seq", {})

    def read_tags(self, arn: str) -> dict[str, str]:
        """Return the tags of a resource, sorted by key."""
        rows = self._connection.execute(
            "SELECT key, value FROM tags WHERE arn = ? ORDER BY key", (arn,)
        )
        return dict(rows.fetchall())

    def put_tags(self, arn: str, tags: Mapping[str, str]) -> None:
        """Add tags to a resource, and give a new value to those that it already has."""
        self._connection.executemany(
            "INSERT INTO tags VALUES (?, ?, ?)"
            " ON CONFLICT (arn, key) DO UPDATE SET value = excluded.value",
            [(arn, key, value) for key, value in tags.items()],
        )

    def remove_tags(self, arn: str, keys: Iterable[str]) -> None:
        """Remove tags from a resource. Keys that it does not have are ignored."""
        self._connection.executemany(
            "DELETE FROM tags WHERE arn = ? AND key = ?", [(arn, key) for key in keys]
        )

    def _select(self, query: str, values: Mapping[str, Any]) -> list[Resource]:
        return [_from_row(row) for row in self._connection.execute(query, values)]


class Catalog:
    """The SQLite file, which many threads and processes may use at once.

    Each thread has a connection of its own. Nothing else in this process may open the file, as
    closing it would drop SQLite's locks, and no forked child may use it (sqlite.org, "How To
    Corrupt An SQLite Database File", 2.2 and 2.6). Dagster's multiprocess executor spawns its
    processes.
    """

    def __init__(self, path: Path, *, has_data: bool = False) -> None:
        """Open the catalog, or create it if there is none.

        has_data: whether there are files of models or data, so that an empty catalog is damaged.

        Raises CatalogError if the file cannot be read or written, or is damaged.
        """
        self._path = path
        self._thread_values = threading.local()
        # SQLite does not wait for another process that turns on WAL, hence the lock.
        with exclusive_lock(path.with_suffix(".lock")), _translate_sqlite_errors(path):
            if not path.exists():
                # SQLite gives its WAL files the mode of the database.
                path.touch(mode=0o600)
                durable.sync(path.parent)
            elif has_data and not path.stat().st_size:
                raise _make_damage_error(path, "it is empty")
            connection = self._get_connection()
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)

    def open_for_reading(self) -> AbstractContextManager[CatalogTransaction]:
        """Open a transaction that only reads, and never waits for a writer.

        Raises CatalogError.
        """
        return self._open_transaction("BEGIN")

    def open_for_writing(self) -> AbstractContextManager[CatalogTransaction]:
        """Open a transaction that may write. There is only one at a time.

        It is committed at the end of the block, or rolled back if the block raises.
        Raises CatalogError.
        """
        return self._open_transaction("BEGIN IMMEDIATE")

    def rewrite(self) -> None:
        """Write the whole file again, without what was deleted or replaced in it.

        `empty_log` then removes the older pages. Raises CatalogError.
        """
        with _translate_sqlite_errors(self._path):
            self._get_connection().execute("VACUUM")

    def empty_log(self) -> bool:
        """Move the log of writes (the WAL) into the file, and cut it to no length.

        Returns False if a reader was in the way for too long. Raises CatalogError.
        """
        with _translate_sqlite_errors(self._path):
            answer = self._get_connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            is_busy, _, _ = answer.fetchone()
        return not is_busy

    @contextmanager
    def _open_transaction(self, begin: str) -> Iterator[CatalogTransaction]:
        with _translate_sqlite_errors(self._path):
            connection = self._get_connection()
            connection.execute(begin)
            try:
                yield CatalogTransaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                # After a full disk, for example, this thread goes on with the same connection.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _get_connection(self) -> sqlite3.Connection:
        """Return this thread's connection, which is opened when it is first needed."""
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
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        # Another thread may collect the garbage, and so close the connection.
        check_same_thread=False,
        factory=_Connection,
    )
    connection.row_factory = sqlite3.Row
    # With NORMAL, a power cut takes back the last transactions, but not the removal of the files
    # that those replaced.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # Zeros replace what is deleted, so that its bytes do not stay in the file.
    connection.execute("PRAGMA secure_delete = ON")
    return connection


@contextmanager
def _translate_sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors in the block into CatalogError, with a message of one line."""
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


def _to_row(resource: Resource) -> dict[str, Any]:
    """Return the table's row: a column for each field, `body` and `state` as JSON."""
    return {
        **vars(resource),
        "body": json.dumps(resource.body),
        "state": json.dumps(resource.state),
    }


def _from_row(row: sqlite3.Row) -> Resource:
    values = dict(row)
    values["body"] = json.loads(values["body"])
    values["state"] = json.loads(values["state"])
    values["unfinished"] = bool(values["unfinished"])
    return Resource(**values)
