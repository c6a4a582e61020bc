"""Changes texts in Dagster's database of events: samples and previews of assets, messages of runs.

Events cannot be changed by any public API. They can be deleted with their run or asset, but then
Dagster would forget the numbers of a year of nights because a sample of five rows names a person.
An event stays what it is: only its texts for people change, and no key, number, version or time.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    import dagster as dg

# The columns with JSON in which texts are.
COLUMNS = {
    "event_logs": ["event"],
    "asset_keys": ["last_materialization", "cached_status_data"],
    "asset_check_executions": ["evaluation_event"],
    "job_ticks": ["tick_body"],
}
# How long to wait for another process that writes to a database of SQLite.
BUSY_SECONDS = 60
# The metadata of assets that have rows of data.
METADATA = {"sample", "preview", "bad_row_examples"}
# The fields of other texts for people: messages, descriptions, errors with their stack.
TEXTS = {"user_message", "message", "description", "stack", "skip_reason"}


def count_texts(instance: dg.DagsterInstance, home: Path, change: Callable[[str], str]) -> int:
    """How many records have a text that `change` would change.

    home: Dagster's home, where SQLite's databases are.
    """
    number = 0
    for connection in _open_databases(instance, home):
        for table, column in _list_columns(connection):
            number += sum(1 for _ in _find_changes(connection, table, column, change))
    return number


def change_texts(instance: dg.DagsterInstance, home: Path, change: Callable[[str], str]) -> int:
    """Apply `change` to each text for people, and return how many records it changed.

    The bytes of what SQLite deleted earlier, or changed now, are gone from its files afterwards.
    Another database removes them in its own time. Raises sqlite3.OperationalError if another
    process keeps one of SQLite's databases busy for BUSY_SECONDS.
    """
    number = 0
    for connection in _open_databases(instance, home):
        for table, column in _list_columns(connection):
            changes = list(_find_changes(connection, table, column, change))
            number += len(changes)
            _write_changes(connection, table, column, changes)
        connection.commit()
        if connection.dialect.name == "sqlite":
            autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
            autocommit.exec_driver_sql("VACUUM")
            _empty_log(autocommit)
    return number


def _empty_log(connection: sa.Connection) -> None:
    """Bring SQLite's log into its database, and empty the log, which has what was there before."""
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")
        time.sleep(0.1)


def _open_databases(instance: dg.DagsterInstance, home: Path) -> Iterator[sa.Connection]:
    files = sorted(path for path in home.glob("**/*.db") if path.is_file())
    for path in files:
        engine = sa.create_engine(
            f"sqlite:///{path}", poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS}
        )
        with engine.connect() as connection:
            yield connection
    # A home whose settings name another database has no such files.
    if not files:
        storage: Any = instance.event_log_storage
        with storage.index_connection() as connection:
            yield connection


def _list_columns(connection: sa.Connection) -> Iterator[tuple[str, str]]:
    """The tables and the columns that the database has texts in."""
    existing = set(sa.inspect(connection).get_table_names())
    for table, columns in COLUMNS.items():
        for column in columns if table in existing else ():
            yield table, column


def _write_changes(
    connection: sa.Connection, name: str, column: str, changes: list[tuple[int, str]]
) -> None:
    table = sa.table(name, sa.column("id"), sa.column(column))
    for key, value in changes:
        connection.execute(table.update().where(table.c.id == key).values({column: value}))


def _find_changes(
    connection: sa.Connection, name: str, column: str, change: Callable[[str], str]
) -> Iterator[tuple[int, str]]:
    """The id and the new value of each row of the table whose value changes."""
    table = sa.table(name, sa.column("id"), sa.column(column))
    for key, value in connection.execute(sa.select(table.c.id, table.c[column])):
        if not value:
            continue
        try:
            record = json.loads(value)
        except ValueError:
            continue
        new = _change_record(record, change)
        if new != record:
            yield key, json.dumps(new)


def _change_record(record: Any, change: Callable[[str], str], *, is_text: bool = False) -> Any:
    """The record with changed texts.

    is_text: whether all strings in it are texts for people.
    """
    if isinstance(record, str):
        return change(record) if is_text else record
    if isinstance(record, list):
        return [_change_record(part, change, is_text=is_text) for part in record]
    if not isinstance(record, dict):
        return record
    is_metadata = record.get("label") in METADATA
    return {
        key: _change_record(
            part, change, is_text=(is_text or is_metadata or key in TEXTS) and key != "__class__"
        )
        for key, part in record.items()
    }
