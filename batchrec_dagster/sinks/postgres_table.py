"""A PostgreSQL table, replaced whole in one transaction; readers always see the old or the new.

The table is partitioned, with one partition, which holds the lists. New lists are copied into a
table of their own, counted, indexed, and only then take the old partition's place. So what a data
team adds to the table stays: grants, views, comments, policies and indexes belong to the table, not
to the partition. Renaming tables would lose the grants and leave views on the old one; DELETE or
TRUNCATE in place would leave millions of dead rows or keep readers out for minutes.

Readers wait for milliseconds, while partitions change places. COPY with FREEZE lets transactions
that began before see the new rows too, where they would see an empty table otherwise. A writer that
dies leaves nothing: PostgreSQL undoes the transaction. It needs PostgreSQL 11 or newer.
"""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extensions import make_dsn, parse_dsn

from batchrec_dagster.sinks import sink
from batchrec_dagster.storage.secrets import safe_defaults

READ_SIZE = 2**20


def copy_rows(cursor: Cursor, frame: pl.LazyFrame, table: sql.Identifier) -> None:
    """Copy the rows into columns of the same names of a table that this transaction has made."""
    columns = sql.SQL(", ").join(map(sql.Identifier, frame.collect_schema().names()))
    statement = sql.SQL("COPY {} ({}) FROM STDIN WITH (FREEZE)").format(table, columns)
    source = _CopyStream(encode_rows(frame))
    try:
        cursor.copy_expert(statement, source, size=READ_SIZE)
    except psycopg2.Error:
        # psycopg2 makes an error of its own of the source's, an interrupt among them.
        if source.error is not None:
            raise source.error from None
        raise


def encode_rows(frame: pl.LazyFrame) -> Iterator[bytes]:
    """The rows in COPY's text format, in which nothing but the backslash is special."""
    text = pl.col(pl.String).str.replace_many(
        ["\\", "\t", "\n", "\r"], ["\\\\", "\\t", "\\n", "\\r"]
    )
    for batch in sink.iterate_batches(frame.with_columns(text)):
        yield batch.write_csv(
            separator="\t", quote_style="never", null_value="\\N", include_header=False
        ).encode()


class _CopyStream(io.RawIOBase):
    """Pieces of bytes, as a file that COPY reads; `failed` is what kept it from going on."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._unread = pieces, memoryview(b"")
        self.error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            if not self._unread:
                self._unread = memoryview(next(self._pieces, b""))
        except BaseException as error:
            self.error = error
            raise
        part, self._unread = self._unread[:size], self._unread[size:]
        return bytes(part)


# In the names of partitions, by which this sink knows its own.
MARK = "_batchrec_"
# The comment of a table that it makes: all pipelines have the same default for the table's name.
WRITTEN_FOR = "Written by batchrec for the pipeline "

# Readers of long reports hold the table: new readers queue behind this one for so many seconds at
# most, and then it lets them pass.
LOCK_SECONDS = 2
LOCK_ATTEMPTS = 60

COLUMNS = {
    "user_id": "text NOT NULL",
    "rank": "integer NOT NULL",
    "item_id": "text NOT NULL",
    "title": "text",
    "score": "double precision",
}
# Only a table that once had an experiment's lists has this column.
ARM = "arm"
ADD_ARM = "ALTER TABLE {} ADD COLUMN IF NOT EXISTS arm text"
ATTACH = "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
RIGHTS = "; the user needs CREATE on the schema, and to own the table where there is one"
# What libpq says, before there are error codes, about what no retry can fix.
LASTING = (
    "authentication failed",
    "authentication method requirement",
    "server does not support SSL",
    "does not exist",
    "invalid",
    "no password",
    "no pg_hba.conf entry",
)


@dataclass(frozen=True)
class PostgresTarget:
    """A table by its name; schema None is the connection's own. url: postgresql://… (secret);
    pipeline: whose lists they are, where no other pipeline's table is to be replaced by them."""

    url: str = field(repr=False)
    table: str
    schema: str | None = None
    pipeline: str = ""


def replace_lists(frame: pl.LazyFrame, target: PostgresTarget) -> sink.SinkResult:
    """Make the table hold these lists and nothing else. Raises SinkError.

    Facts: table, as SCHEMA.TABLE; database, as NAME at HOST.
    """
    expected = sink.count_lists(frame)
    with _open_connection(target) as connection:
        with connection, connection.cursor() as cursor:
            # What holds for people's queries does not for this.
            cursor.execute("SET LOCAL statement_timeout = 0")
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            table = _ListTable(cursor, target)
            table.keep_other_runs_out()
            table.create_if_missing()
            table.replace_lists(frame, expected)
        with connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL("ANALYZE {}").format(table.identifier))
        database = f"{connection.info.dbname} at {connection.info.host}"
        return sink.SinkResult(expected, {"table": table.name, "database": database})


def check_writable(target: PostgresTarget) -> str:
    """Where lists can be written, as SCHEMA.TABLE in NAME at HOST: what it takes is done in a
    transaction that is taken back. Raises SinkError."""
    # What is not committed when the connection is closed, was not done.
    with _open_connection(target) as connection, connection.cursor() as cursor:
        table = _ListTable(cursor, target)
        table.create_if_missing()
        table.create_partition()
        table.check_owner()
        return f"{table.name} in {connection.info.dbname} at {connection.info.host}"


@contextmanager
def _open_connection(target: PostgresTarget) -> Iterator[Connection]:
    """A connection, closed in the end. Makes a SinkError of PostgreSQL's errors."""
    parameters = _parse_url(target.url)
    try:
        with closing(_connect(target.url)) as connection:
            yield connection
    except psycopg2.Error as error:
        raise _to_sink_error(error, target, parameters.get("password")) from None


def _parse_url(url: str) -> dict[str, str]:
    """The URL's parts. What is wrong with it is not repeated, as the password is in it."""
    try:
        parts: dict[str, str] = parse_dsn(url)
    except (psycopg2.ProgrammingError, ValueError):
        parts = {}
    is_misread = "@" in parts.get("host", "") + parts.get("dbname", "")
    if not parts or is_misread or not parts.get("port", "0").isdigit():
        raise sink.SinkError(
            "no URL of a PostgreSQL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with"
            " percent codes for what is special in the password, such as %40 for @"
        )
    return parts


def _connect(url: str) -> Connection:
    settings = {"application_name": "batchrec", "client_encoding": "UTF8", "connect_timeout": "30"}
    return psycopg2.connect(make_dsn(url, **settings, **safe_defaults(parse_dsn(url))))


class _ListTable:
    """The table of the lists within a transaction. name: SCHEMA.TABLE; methods raise SinkError."""

    def __init__(self, cursor: Cursor, target: PostgresTarget) -> None:
        self._cursor, self._target = cursor, target
        (own_schema,) = self._fetch_row("SELECT current_schema()")
        self._schema = target.schema or own_schema
        if self._schema is None:
            raise sink.SinkError("the connection has no schema: set sinks.postgres.schema")
        self.name = f"{self._schema}.{target.table}"
        self.identifier = sql.Identifier(self._schema, target.table)
        # For to_regclass().
        self._quoted = self.identifier.as_string(cursor)

    def _run(self, statement: str, *parts: sql.Composable) -> None:
        self._cursor.execute(sql.SQL(statement).format(*parts))

    def _fetch_row(self, statement: str, *values: str) -> tuple[Any, ...]:
        self._cursor.execute(statement, values)
        return self._cursor.fetchone() or ()

    def _make_name(self, start: str) -> sql.Identifier:
        return sql.Identifier(self._schema, f"{start}{secrets.token_hex(4)}")

    def keep_other_runs_out(self) -> None:
        """Until the end of the transaction."""
        lock = "SELECT pg_try_advisory_xact_lock(hashtext(%s))"
        if self._fetch_row(lock, f"batchrec {self.name}") != (True,):
            raise sink.SinkUnavailableError(f"another run is writing {self.name}")

    def check_owner(self) -> None:
        query = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%s)"
        if self._fetch_row(query, self._quoted) != (True,):
            raise sink.SinkError(
                f"cannot write the table {self.name}: it is another user's{RIGHTS}"
            )

    def create_if_missing(self) -> None:
        """Make it where there is none, and refuse one that is another's."""
        partition_key, exists, comment, other_partitions = self._fetch_row(
            "SELECT pg_get_partkeydef(to_regclass(%s)), to_regclass(%s) IS NOT NULL,"
            " coalesce(obj_description(to_regclass(%s), 'pg_class'), ''),"
            " (SELECT string_agg(relname, ', ') FROM pg_inherits JOIN pg_class ON oid = inhrelid"
            " WHERE inhparent = to_regclass(%s) AND strpos(relname, %s) = 0)",
            *[self._quoted] * 4,
            MARK,
        )
        our_comment = f"{WRITTEN_FOR}{self._target.pipeline}" if self._target.pipeline else ""
        if not exists:
            columns = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
            self._run(
                f"CREATE TABLE {{}} ({columns}, PRIMARY KEY (user_id, rank))"
                " PARTITION BY RANGE (rank)",
                self.identifier,
            )
            if our_comment:
                self._run("COMMENT ON TABLE {} IS {}", self.identifier, sql.Literal(our_comment))
        elif our_comment and comment.startswith(WRITTEN_FOR) and comment != our_comment:
            other_pipeline = comment.removeprefix(WRITTEN_FOR)
            raise sink.SinkError(
                f"{self.name} has the lists of the pipeline {other_pipeline}: give"
                " sinks.postgres.table another name; or, if these are to take their place, as of a"
                f" pipeline that was renamed: COMMENT ON TABLE {self._quoted} IS '{our_comment}'"
            )
        elif partition_key != "RANGE (rank)" or other_partitions:
            difference = (
                f"has other partitions ({other_partitions})"
                if other_partitions
                else "was not made by this sink"
            )
            raise sink.SinkError(
                f"there is a {self.name} already, which {difference}: give sinks.postgres.table"
                " another name, or rename that one"
            )

    def create_partition(self) -> sql.Identifier:
        """A table that can become its partition."""
        partition = self._make_name(f"{self._target.table}{MARK}")
        self._run(
            "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
            partition,
            self.identifier,
        )
        return partition

    def replace_lists(self, frame: pl.LazyFrame, expected: sink.SinkCounts) -> None:
        """Put the lists into a new partition, and that in place of the old one."""
        partition, table_columns = self.create_partition(), frame.collect_schema().names()
        columns = [name for name in (*COLUMNS, ARM) if name in table_columns]
        if ARM in columns:
            self._run(ADD_ARM, partition)
        copy_rows(self._cursor, frame.select(columns), partition)
        self._run("SELECT count(*), count(*) FILTER (WHERE rank = 1) FROM {}", partition)
        rows, users = self._cursor.fetchone() or (0, 0)
        sink.require_equal_counts(expected, rows=rows, users=users, where=self.name)
        self._build_indexes(partition, with_arm=ARM in columns)
        self._lock_readers_out()
        self._swap_partitions(partition, with_arm=ARM in columns)

    def _build_indexes(self, partition: sql.Identifier, *, with_arm: bool) -> None:
        """The indexes that the table has: by making it the partition of a passing copy of the
        table, as attaching it to the table itself would build them while readers are locked out."""
        staging_table = self._make_name("batchrec_passing_")
        self._run(
            "CREATE TABLE {} (LIKE {} INCLUDING INDEXES INCLUDING CONSTRAINTS)"
            " PARTITION BY RANGE (rank)",
            staging_table,
            self.identifier,
        )
        if with_arm:
            self._run(ADD_ARM, staging_table)
        self._run(ATTACH, staging_table, partition)
        self._run("ALTER TABLE {} DETACH PARTITION {}", staging_table, partition)
        self._run("DROP TABLE {}", staging_table)

    def _lock_readers_out(self) -> None:
        for attempt in range(LOCK_ATTEMPTS):
            self._run("SAVEPOINT swap")
            self._cursor.execute("SET LOCAL lock_timeout = %s", [f"{LOCK_SECONDS}s"])
            try:
                return self._run("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", self.identifier)
            except errors.LockNotAvailable:
                self._run("ROLLBACK TO SAVEPOINT swap")
                if attempt + 1 < LOCK_ATTEMPTS:
                    time.sleep(LOCK_SECONDS)
        raise sink.SinkUnavailableError(
            f"somebody's transaction has held {self.name} all the time: end it (pg_stat_activity"
            " tells whose it is)"
        )

    def _swap_partitions(self, partition: sql.Identifier, *, with_arm: bool) -> None:
        self._cursor.execute(
            "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid"
            " WHERE inhparent = to_regclass(%s) AND strpos(relname, %s) > 0",
            [self._quoted, MARK],
        )
        for (old,) in self._cursor.fetchall():
            self._run("DROP TABLE {}", sql.Identifier(self._schema, old))
        if with_arm:
            self._run(ADD_ARM, self.identifier)
        self._run(ATTACH, self.identifier, partition)


def _to_sink_error(
    error: psycopg2.Error, target: PostgresTarget, password: str | None
) -> sink.SinkError:
    """The error in one line, without the password."""
    text = str(error).strip().partition("\n")[0]
    if password:
        text = text.replace(password, "…")
    message = f"cannot write the table {target.table}: {text}"
    if isinstance(error, errors.InsufficientPrivilege):
        message += RIGHTS
    may_pass = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))
    if may_pass and not any(sign in text for sign in LASTING):
        return sink.SinkUnavailableError(message)
    return sink.SinkError(message)
