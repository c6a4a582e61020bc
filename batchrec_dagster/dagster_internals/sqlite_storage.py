"""Dagster's SQLite storage, under the name that homes made by batchrec 0.2 and earlier give it.

The `dagster.yaml` of such a home names this module and class as its storage. batchrec's commands
take that out, but `dagster dev` or a daemon may be the first to open the home after an update.
Dagster's public settings call the same storage `sqlite`, and `storage: custom` needs its class.
"""

from dagster._core.storage.sqlite_storage import DagsterSqliteStorage as SqliteStorage

__all__ = ["SqliteStorage"]
