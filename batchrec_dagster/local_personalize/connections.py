"""Connections to SQLite files: one a thread, and none that is carried over a fork.

A forked child that uses SQLite while it has inherited connections breaks the file's locks, and so
the file (sqlite.org, "How To Corrupt An SQLite Database File", 2.6). Therefore a fork waits for the
transactions of all threads to end, and closes every connection; they are opened anew when needed.
Nothing in this process may open the file by itself: closing it would drop SQLite's locks (2.2).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BUSY_SECONDS = 60


class _Connection(sqlite3.Connection):
    def __del__(self) -> None:
        self.close()  # its thread has ended


class Connections:
    """The connections of this process's threads to one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    @contextmanager
    def transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """A transaction on this thread's connection; an exception rolls it back.

        Raises sqlite3.Error when SQLite cannot begin or commit it.
        """
        with _forks.held_off():
            connection = self._connection()
            connection.execute(begin)
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            try:
                connection.execute("COMMIT")
            except sqlite3.Error:
                if connection.in_transaction:  # a full disk, say: the connection stays usable
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def outside_transactions(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, for what SQLite does not do in a transaction."""
        with _forks.held_off():
            yield self._connection()

    def _connection(self) -> sqlite3.Connection:
        known: tuple[int, sqlite3.Connection] | None = getattr(self._local, "connection", None)
        if known is None or known[0] != _forks.count:
            known = (_forks.count, self._open())
            self._local.connection = known
        return known[1]

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,  # a fork closes the connections of all threads
            factory=_Connection,
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        _forks.opened.add(connection)
        return connection


class _Forks:
    def __init__(self) -> None:
        self.count = 0
        self.opened: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._changed = threading.Condition()
        self._transactions = 0
        os.register_at_fork(
            before=self._before,
            after_in_parent=self._changed.release,
            after_in_child=self._changed.release,
        )

    @contextmanager
    def held_off(self) -> Iterator[None]:
        with self._changed:
            self._transactions += 1
        try:
            yield
        finally:
            with self._changed:
                self._transactions -= 1
                self._changed.notify_all()

    def _before(self) -> None:
        self._changed.acquire()  # let go of once the fork is done: nothing begins meanwhile
        self._changed.wait_for(lambda: not self._transactions)
        for connection in list(self.opened):
            connection.close()
        self.count += 1


_forks = _Forks()
