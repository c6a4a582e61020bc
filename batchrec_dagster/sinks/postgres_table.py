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

import polars as pl
import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extensions import make_dsn, parse_dsn

from batchrec_dagster.sinks.sink import (
    Counts,
    SinkError,
    SinkUnavailableError,
    Written,
    batches,
    compare,
    counts,
)
from batchrec_dagster.storage.secrets import safe_defaults

READ_SIZE = 2**20


def copy(cursor: Cursor, frame: pl.LazyFrame, table: sql.Identifier) -> None:
    """Copy the rows into columns of the same names of a table that this transaction has made."""
    columns = sql.SQL(", ").join(map(sql.Identifier, frame.collect_schema().names()))
    statement = sql.SQL("COPY {} ({}) FROM STDIN WITH (FREEZE)").format(table, columns)
    source = _Source(copy_lines(frame))
    try:
        cursor.copy_expert(statement, source, size=READ_SIZE)
    except psycopg2.Error:
        # psycopg2 makes an error of its own of the source's, an interrupt among them.
        if source.failed is not None:
            raise source.failed from None
        raise


def copy_lines(frame: pl.LazyFrame) -> Iterator[bytes]:
    """The rows in COPY's text format, in which nothing but the backslash is special."""
    text = pl.col(pl.String).str.replace_many(
        ["\\", "\t", "\n", "\r"], ["\\\\", "\\t", "\\n", "\\r"]
    )
    for batch in batches(frame.with_columns(text)):
        yield batch.write_csv(
            separator="\t", quote_style="never", null_value="\\N", include_header=False
        ).encode()


class _Source(io.RawIOBase):
    """Pieces of bytes, as a file that COPY reads; `failed` is what kept it from going on."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")
        self.failed: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
        except BaseException as error:
            self.failed = error
            raise
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)


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
class Target:
    """A table by its name; schema None is the connection's own. url: postgresql://… (secret);
    pipeline: whose lists they are, where no other pipeline's table is to be replaced by them."""

    url: str = field(repr=False)
    table: str
    schema: str | None = None
    pipeline: str = ""


def replace(frame: pl.LazyFrame, target: Target) -> Written:
    """Make the table hold these lists and nothing else. Raises SinkError.

    Facts: table, as SCHEMA.TABLE; database, as NAME at HOST.
    """
    wanted = counts(frame)
    with _connected(target) as connection:
        schema = _replace(frame, wanted, connection, target)
        database = f"{connection.info.dbname} at {connection.info.host}"
        return Written(wanted, {"table": f"{schema}.{target.table}", "database": database})


def look(target: Target) -> str:
    """Where lists can be written, as SCHEMA.TABLE in NAME at HOST: what it takes is done in a
    transaction that is taken back. Raises SinkError."""
    # What is not committed when the connection is closed, was not done.
    with _connected(target) as connection, connection.cursor() as cursor:
        schema = target.schema or _current_schema(cursor)
        table, name = sql.Identifier(schema, target.table), f"{schema}.{target.table}"
        _ensure_table(cursor, table, name, target.pipeline)
        new = sql.Identifier(schema, f"{target.table}{MARK}{secrets.token_hex(4)}")
        _run(cursor, "CREATE TABLE {} (LIKE {})", new, table)
        cursor.execute(
            "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%s)",
            [table.as_string(cursor)],
        )
        if cursor.fetchone() != (True,):
            raise SinkError(f"cannot write the table {name}: it is another user's{RIGHTS}")
        return f"{name} in {connection.info.dbname} at {connection.info.host}"


@contextmanager
def _connected(target: Target) -> Iterator[Connection]:
    """A connection, closed in the end. Makes a SinkError of PostgreSQL's errors."""
    parameters = _parameters(target.url)
    try:
        with closing(_connect(target.url)) as connection:
            yield connection
    except psycopg2.Error as error:
        raise _explanation(error, target, parameters.get("password")) from None


def _parameters(url: str) -> dict[str, str]:
    """The URL's parts. What is wrong with it is not repeated, as the password is in it."""
    try:
        parts: dict[str, str] = parse_dsn(url)
    except psycopg2.ProgrammingError:
        parts = {}
    misread = "@" in parts.get("host", "") + parts.get("dbname", "")
    if not parts or misread or not parts.get("port", "0").isdigit():
        raise SinkError(
            "no URL of a PostgreSQL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with"
            " percent codes for what is special in the password, such as %40 for @"
        )
    return parts


def _connect(url: str) -> Connection:
    own = {"application_name": "batchrec", "client_encoding": "UTF8", "connect_timeout": "30"}
    return psycopg2.connect(make_dsn(url, **own, **safe_defaults(parse_dsn(url))))


def _replace(frame: pl.LazyFrame, wanted: Counts, connection: Connection, target: Target) -> str:
    with connection, connection.cursor() as cursor:
        # What holds for people's queries does not for this.
        cursor.execute("SET LOCAL statement_timeout = 0")
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        schema = target.schema or _current_schema(cursor)
        table = sql.Identifier(schema, target.table)
        name = f"{schema}.{target.table}"
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtext(%s))", [f"batchrec {name}"])
        if cursor.fetchone() != (True,):
            raise SinkUnavailableError(f"another run is writing {name}")
        _ensure_table(cursor, table, name, target.pipeline)
        new = sql.Identifier(schema, f"{target.table}{MARK}{secrets.token_hex(4)}")
        _run(
            cursor, "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)", new, table
        )
        columns = _columns(frame)
        if ARM in columns:
            _run(cursor, ADD_ARM, new)
        copy(cursor, frame.select(columns), new)
        _run(cursor, "SELECT count(*), count(*) FILTER (WHERE rank = 1) FROM {}", new)
        rows, users = cursor.fetchone() or (0, 0)
        compare(wanted, rows=rows, users=users, where=name)
        _index(cursor, new, table, schema, arm=ARM in columns)
        _swap(cursor, new, table, schema, name, arm=ARM in columns)
    with connection, connection.cursor() as cursor:
        _run(cursor, "ANALYZE {}", table)
    return schema


def _columns(frame: pl.LazyFrame) -> list[str]:
    there = frame.collect_schema().names()
    return [name for name in (*COLUMNS, ARM) if name in there]


def _current_schema(cursor: Cursor) -> str:
    cursor.execute("SELECT current_schema()")
    (schema,) = cursor.fetchone() or (None,)
    if schema is None:
        raise SinkError("the connection has no schema: set sinks.postgres.schema")
    return str(schema)


def _ensure_table(cursor: Cursor, table: sql.Identifier, name: str, pipeline: str) -> None:
    """The table, made where there is none. Raises SinkError where it is another's."""
    cursor.execute(
        "SELECT pg_get_partkeydef(to_regclass(%s)), to_regclass(%s) IS NOT NULL,"
        " coalesce(obj_description(to_regclass(%s), 'pg_class'), ''),"
        " (SELECT string_agg(relname, ', ') FROM pg_inherits JOIN pg_class ON oid = inhrelid"
        " WHERE inhparent = to_regclass(%s) AND strpos(relname, %s) = 0)",
        [*[table.as_string(cursor)] * 4, MARK],
    )
    key, exists, comment, others = cursor.fetchone() or (None, False, "", None)
    if not exists:
        columns = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
        _run(
            cursor,
            f"CREATE TABLE {{}} ({columns}, PRIMARY KEY (user_id, rank)) PARTITION BY RANGE (rank)",
            table,
        )
        if pipeline:
            comment = sql.Literal(WRITTEN_FOR + pipeline)
            cursor.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(table, comment))
    elif pipeline and comment.startswith(WRITTEN_FOR) and comment != WRITTEN_FOR + pipeline:
        other = comment.removeprefix(WRITTEN_FOR)
        raise SinkError(
            f"{name} has the lists of the pipeline {other}: give sinks.postgres.table another name"
        )
    elif key != "RANGE (rank)" or others:
        found = f"has other partitions ({others})" if others else "was not made by this sink"
        raise SinkError(
            f"there is a {name} already, which {found}: give sinks.postgres.table another name, or"
            " rename that one"
        )


def _index(
    cursor: Cursor, new: sql.Identifier, table: sql.Identifier, schema: str, *, arm: bool
) -> None:
    """The indexes that the table has: by making it the partition of a passing copy of the table, as
    attaching it to the table itself would build them while readers are locked out."""
    passing = sql.Identifier(schema, f"batchrec_passing_{secrets.token_hex(4)}")
    _run(
        cursor,
        "CREATE TABLE {} (LIKE {} INCLUDING INDEXES INCLUDING CONSTRAINTS)"
        " PARTITION BY RANGE (rank)",
        passing,
        table,
    )
    if arm:
        _run(cursor, ADD_ARM, passing)
    _attach(cursor, passing, new)
    _run(cursor, "ALTER TABLE {} DETACH PARTITION {}", passing, new)
    _run(cursor, "DROP TABLE {}", passing)


def _swap(
    cursor: Cursor, new: sql.Identifier, table: sql.Identifier, schema: str, name: str, *, arm: bool
) -> None:
    for attempt in range(LOCK_ATTEMPTS):
        _run(cursor, "SAVEPOINT swap")
        cursor.execute("SET LOCAL lock_timeout = %s", [f"{LOCK_SECONDS}s"])
        try:
            _run(cursor, "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table)
            break
        except errors.LockNotAvailable:
            _run(cursor, "ROLLBACK TO SAVEPOINT swap")
            if attempt + 1 < LOCK_ATTEMPTS:
                time.sleep(LOCK_SECONDS)
    else:
        raise SinkUnavailableError(
            f"somebody's transaction has held {name} all the time: end it (pg_stat_activity tells"
            " whose it is)"
        )
    cursor.execute(
        "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid"
        " WHERE inhparent = to_regclass(%s) AND strpos(relname, %s) > 0",
        [table.as_string(cursor), MARK],
    )
    for (old,) in cursor.fetchall():
        _run(cursor, "DROP TABLE {}", sql.Identifier(schema, old))
    if arm:
        _run(cursor, ADD_ARM, table)
    _attach(cursor, table, new)


def _attach(cursor: Cursor, table: sql.Identifier, new: sql.Identifier) -> None:
    _run(
        cursor,
        "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM (MINVALUE) TO (MAXVALUE)",
        table,
        new,
    )


def _run(cursor: Cursor, statement: str, *names: sql.Identifier) -> None:
    cursor.execute(sql.SQL(statement).format(*names))


def _explanation(error: psycopg2.Error, target: Target, password: str | None) -> SinkError:
    """The error in one line, without the password."""
    text = str(error).strip().partition("\n")[0]
    if password:
        text = text.replace(password, "…")
    said = f"cannot write the table {target.table}: {text}"
    if isinstance(error, errors.InsufficientPrivilege):
        said += RIGHTS
    passing = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))
    if passing and not any(sign in text for sign in LASTING):
        return SinkUnavailableError(said)
    return SinkError(said)
