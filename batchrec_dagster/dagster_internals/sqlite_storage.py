"""Dagster's SQLite storage, with connections that stay open.

Dagster's own opens and closes a database for each event of a run. To close the last connection
copies SQLite's write-ahead log into the database and syncs both: ten syncs an event. Here an event
is in the log when the call returns, so none is lost when a process is killed; when the power fails,
the last ones may be, and the databases stay whole.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from batchrec_dagster.storage.durable import (
    copy_permissions,
    exclusive_lock,
    limit_mode,
    make_folders,
)

# Databases of event logs that stay open: that of all runs, and those of the last runs asked for.
OPEN_LOGS = 4
# The databases of a home, without those of the runs.
DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")


class SqliteStorage(DagsterSqliteStorage):
    """For `storage: custom` of dagster.yaml; its files are those of Dagster's `sqlite`."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        home = Path(base_dir)
        make_folders(home, 0o700)
        with copy_permissions(home):
            (home / "history").mkdir(exist_ok=True)
            # Of several processes that make its databases, Dagster lets all but one fail.
            with exclusive_lock(home / "history"):
                new_databases = [home / name for name in DATABASES if not (home / name).exists()]
                super().__init__(base_dir, inst_data)
                self._event_log_storage = _EventLog(self._event_log_storage._base_dir)
                self._run_storage = _Runs(self._run_storage._conn_string)
                for path in new_databases:
                    # SQLite itself lets no team write to them.
                    for file in path.parent.glob(f"{path.name}*"):
                        file.chmod(_mode(path.parent))

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> SqliteStorage:
        return cls(inst_data=inst_data, **config_value)


class _Runs(SqliteRunStorage):
    def __init__(self, conn_string: str) -> None:
        super().__init__(conn_string)
        self._engine = _engine(conn_string)

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        self._engine.dispose()


class _EventLog(SqliteEventLogStorage):
    def __init__(self, base_dir: str) -> None:
        self._engines: OrderedDict[str, db.Engine] = OrderedDict()
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[db.Connection]:
        with self._db_lock:
            engine = self._engines.pop(shard, None) or self._new_engine(shard)
            self._engines[shard] = engine
            if len(self._engines) > OPEN_LOGS:
                self._engines.popitem(last=False)[1].dispose()
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    def _new_engine(self, shard: str) -> db.Engine:
        path = Path(self.path_for_shard(shard))
        # SQLite gives the files of its log the mode of the database. What fails here also fails
        # there, with SQLite's own message.
        with suppress(OSError):
            path.touch(_mode(path.parent), exist_ok=False)
        return _engine(self.conn_string_for_shard(shard))

    def store_event(self, event: EventLogEntry) -> None:
        super().store_event(event)
        # Dagster's web page watches this file, and reads the new events when it changes.
        with suppress(OSError):
            os.utime(self.path_for_shard(event.run_id))

    def wipe(self) -> None:
        self._close()
        super().wipe()

    def dispose(self) -> None:
        self._close()
        super().dispose()

    def _close(self) -> None:
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


def _mode(folder: Path) -> int:
    """The mode of a database in the folder: those read and write it who may write to the folder."""
    return limit_mode(0o666, folder, for_writers=True)


def _engine(url: str) -> db.Engine:
    engine = db.create_engine(
        url, pool_size=1, max_overflow=-1, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
    )

    @db.event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine
