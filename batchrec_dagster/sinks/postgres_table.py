"""A PostgreSQL table whose rows are replaced in one transaction: readers see the old or the new.

The old rows are deleted, the new ones copied and counted, and only then is all of it committed. So
what a data team adds to the table stays: grants, views, comments, policies, indexes and columns. A
writer that dies leaves nothing behind, because PostgreSQL undoes the transaction. Afterwards the
table is vacuumed, so that the next lists take the room of the deleted rows.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl
import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extensions import make_dsn, parse_dsn

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.sinks import sink
from batchrec_dagster.storage.list_subjects import find_subject
from batchrec_dagster.storage.secrets import choose_safe_defaults

# How many bytes COPY reads at once.
READ_SIZE = 2**20
# The name of the primary key of each table that the sink makes ends with this, so that it knows its
# own tables.
KEY_ENDING = "_batchrec_key"
# This and the pipeline's name are the comment of a table that the sink makes. All pipelines have
# the same default for the table's name, so the comment keeps them apart.
WRITTEN_FOR = "Written by batchrec for the pipeline "

# A reader of a long report keeps a column from being added. While this sink waits for it, new
# readers queue behind the sink, so it gives up after this many seconds.
LOCK_SECONDS = 10

TYPES: Mapping[type[pl.DataType], str] = {
    pl.String: "text",
    pl.Float64: "double precision",
    pl.Int32: "integer",
    pl.Int64: "bigint",
}
# These identify a row, of lists of users and of items.
KEYS = ("user_id", "rank", "item_id", "similar_item_id")
# The columns of lists with titles.
COLUMNS = {
    "user_id": "text",
    "rank": "integer",
    "item_id": "text",
    "title": "text",
    "score": "double precision",
}
RIGHTS_HINT = "; the user needs CREATE on the schema, and to own the table where there is one"
# Parts of libpq's messages about errors that a retry cannot fix. There are no error codes before
# there is a connection.
LASTING_ERRORS = (
    "authentication failed",
    "authentication method requirement",
    "server does not support SSL",
    "does not exist",
    "invalid",
    "is not permitted to log in",
    "Name or service not known",
    "no password",
    "no pg_hba.conf entry",
    "permission denied",
)
# How libpq begins its message if there is no connection.
NO_CONNECTION = re.compile(
    r'connection to server at "(?P<host>[^"]+)"(?: \([^)]+\))?, port (?P<port>\d+) failed:'
    r" (?:FATAL: +)?(?P<reason>.+)"
)
UNKNOWN_HOST = re.compile(r'could not translate host name "(?P<host>[^"]+)" to address: .+')
# What to do about errors before there is a connection, by a part of their text.
CONNECTION_FIXES = {
    "authentication failed": "correct the user or the password in {variable}",
    "no password": "add the password to {variable}",
    "does not exist": "create it, or correct its name in {variable}",
    "Connection refused": "check that PostgreSQL runs there, and that {variable} has its host and"
    " port",
    "timeout expired": "check that a firewall lets this machine through, and that {variable} has"
    " the right host and port",
}


@dataclass(frozen=True)
class PostgresTarget:
    """The table to write, and how to reach it."""

    url: str = field(repr=False)
    """The connection's URL, postgresql://…, which contains the password."""
    table: str
    schema: str | None = None
    """The table's schema; None for that of the connection."""
    pipeline: str = ""
    """Whose lists they are. If it is set, the lists of another pipeline are not replaced."""
    variable: str = "the URL"
    """What messages call the place of the URL: the environment variable."""


def replace_lists(frame: pl.LazyFrame, target: PostgresTarget) -> sink.SinkResult:
    """Make the table hold these lists and nothing else.

    The result's facts are `table`, as SCHEMA.TABLE, and `database`, as NAME at HOST.
    Raises UserError, or Retry if a retry may work.
    """
    expected = sink.count_lists(frame)
    columns = {name: TYPES[type(dtype)] for name, dtype in frame.collect_schema().items()}
    with _open_connection(target) as connection:
        with connection, connection.cursor() as cursor:
            # The database's time limits are meant for people's queries.
            cursor.execute("SET LOCAL statement_timeout = 0")
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            table = _ListTable(cursor, target)
            table.keep_other_runs_out()
            table.create_if_missing(columns)
            table.add_missing_columns(columns)
            table.replace_rows(frame, expected)
        _vacuum(connection, table)
        database = f"{connection.info.dbname} at {connection.info.host}"
        return sink.SinkResult(expected, {"table": table.name, "database": database})


def check_writable(target: PostgresTarget) -> str:
    """Where lists can be written, as SCHEMA.TABLE in NAME at HOST.

    Raises UserError if they cannot be written.
    """
    # The table is made in a transaction that is never committed, so nothing stays.
    with _open_connection(target) as connection, connection.cursor() as cursor:
        table = _ListTable(cursor, target)
        table.create_if_missing(COLUMNS)
        table.check_owner()
        return f"{table.name} in {connection.info.dbname} at {connection.info.host}"


def count_users(users: Collection[str], target: PostgresTarget) -> int:
    """How many of these users have lists in the table; 0 if it is not there, or another pipeline's.

    Raises as `replace_lists`.
    """
    with _open_connection(target) as connection, connection.cursor() as cursor:
        return _ListTable(cursor, target).count_users(users)


def erase_users(users: Collection[str], target: PostgresTarget) -> int:
    """Delete the lists of these users, and return how many had some. Raises as `replace_lists`."""
    with _open_connection(target) as connection:
        with connection, connection.cursor() as cursor:
            table = _ListTable(cursor, target)
            number = table.count_users(users)
            if number:
                table.keep_other_runs_out()
                table.delete_users(users)
        if number:
            _vacuum(connection, table)
        return number


@contextmanager
def _open_connection(target: PostgresTarget) -> Iterator[Connection]:
    """A connection that is closed in the end. PostgreSQL's errors become UserError."""
    parameters = _parse_url(target.url)
    try:
        with closing(_connect(target.url)) as connection:
            yield connection
    except psycopg2.Error as error:
        raise _make_sink_error(error, target, parameters.get("password")) from None


def _parse_url(url: str) -> dict[str, str]:
    """The URL's parts.

    Raises UserError if it is not the URL of a database. The message does not repeat the URL, which
    contains the password.
    """
    try:
        parts: dict[str, str] = parse_dsn(url)
    except (psycopg2.ProgrammingError, ValueError):
        parts = {}
    is_misread = "@" in parts.get("host", "") + parts.get("dbname", "")
    if not parts or is_misread or not parts.get("port", "0").isdigit():
        raise UserError(
            "this is not the URL of a PostgreSQL database: write"
            " postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with percent codes for special"
            " characters in the password, such as %40 for @"
        )
    return parts


def _connect(url: str) -> Connection:
    settings = {"application_name": "batchrec", "client_encoding": "UTF8", "connect_timeout": "30"}
    return psycopg2.connect(make_dsn(url, **settings, **choose_safe_defaults(parse_dsn(url))))


def _vacuum(connection: Connection, table: _ListTable) -> None:
    """Remove deleted rows from the table's files, and their values from its statistics."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        cursor.execute(sql.SQL("VACUUM (ANALYZE) {}").format(table.identifier))


class _TableState(NamedTuple):
    """What the database knows of the table."""

    exists: bool
    is_made_by_sink: bool
    comment: str


class _ListTable:
    """The table of the lists within a transaction. Its methods raise UserError.

    `name` is SCHEMA.TABLE.
    """

    def __init__(self, cursor: Cursor, target: PostgresTarget) -> None:
        self._cursor, self._target = cursor, target
        (own_schema,) = self._fetch_row("SELECT current_schema()")
        self._schema = target.schema or own_schema
        if self._schema is None:
            raise UserError("the connection has no schema: set sinks.postgres.schema")
        self.name = f"{self._schema}.{target.table}"
        self.identifier = sql.Identifier(self._schema, target.table)
        # to_regclass() takes the name as text.
        self._quoted = self.identifier.as_string(cursor)

    def _run(self, statement: str, *parts: sql.Composable) -> None:
        self._cursor.execute(sql.SQL(statement).format(*parts))

    def _fetch_row(self, statement: str, *values: str) -> tuple[Any, ...]:
        self._cursor.execute(statement, values)
        return self._cursor.fetchone() or ()

    @property
    def _our_comment(self) -> str:
        """The comment of a table with this pipeline's lists; empty if any pipeline's are meant."""
        return f"{WRITTEN_FOR}{self._target.pipeline}" if self._target.pipeline else ""

    def _read_state(self) -> _TableState:
        return _TableState(
            *self._fetch_row(
                "SELECT to_regclass(%s) IS NOT NULL,"
                " EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%s)"
                " AND contype = 'p' AND right(conname, length(%s)) = %s),"
                " coalesce(obj_description(to_regclass(%s), 'pg_class'), '')",
                *[self._quoted] * 2,
                *[KEY_ENDING] * 2,
                self._quoted,
            )
        )

    def _is_of_another_pipeline(self, comment: str) -> bool:
        """Whether the comment of the table names another pipeline."""
        is_ours = not self._our_comment or comment == self._our_comment
        return comment.startswith(WRITTEN_FOR) and not is_ours

    def keep_other_runs_out(self) -> None:
        """Lock the table for this run until the transaction ends.

        Raises Retry if another run holds the lock.
        """
        lock = "SELECT pg_try_advisory_xact_lock(hashtext(%s))"
        if self._fetch_row(lock, f"batchrec {self.name}") != (True,):
            raise Retry(f"another run is writing {self.name}")

    def check_owner(self) -> None:
        """Raise UserError unless the table is this user's."""
        query = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%s)"
        if self._fetch_row(query, self._quoted) != (True,):
            raise UserError(
                f"cannot write the table {self.name}: it is another user's{RIGHTS_HINT}"
            )

    def create_if_missing(self, columns: Mapping[str, str]) -> None:
        """Create the table if there is none.

        columns: those of the lists, with their types.
        Raises UserError if there is one that this sink did not make, or that has another
        pipeline's lists.
        """
        exists, is_made_by_sink, comment = self._read_state()
        if not exists:
            self._create(columns)
        elif not is_made_by_sink:
            raise UserError(
                f"there is a {self.name} already, which was not made by this sink: give"
                " sinks.postgres.table another name, or rename that one"
            )
        elif self._is_of_another_pipeline(comment):
            other_pipeline = comment.removeprefix(WRITTEN_FOR)
            raise UserError(
                f"{self.name} has the lists of the pipeline {other_pipeline}: give"
                " sinks.postgres.table another name; or, if these are to take their place, as of a"
                f" pipeline that was renamed: COMMENT ON TABLE {self._quoted} IS"
                f" '{self._our_comment}'"
            )

    def _create(self, columns: Mapping[str, str]) -> None:
        definitions = [_define_column(name, kind) for name, kind in columns.items()]
        self._run(
            "CREATE TABLE {} ({}, CONSTRAINT {} PRIMARY KEY ({}, rank))",
            self.identifier,
            sql.SQL(", ").join(definitions),
            sql.Identifier(f"{self._target.table}{KEY_ENDING}"),
            sql.Identifier(find_subject(columns).column),
        )
        if self._our_comment:
            self._run("COMMENT ON TABLE {} IS {}", self.identifier, sql.Literal(self._our_comment))

    def add_missing_columns(self, columns: Mapping[str, str]) -> None:
        """Add the columns of the lists that the table does not have.

        columns: those of the lists, with their types.
        Raises UserError if the table has lists of another subject, or a column of another type, and
        Retry if a reader holds the table all the time.
        """
        table_columns = self._read_columns()
        subject, other = find_subject(columns), find_subject(table_columns)
        if subject != other:
            raise UserError(
                f"{self.name} is a table of lists of {other.name}, and these are of {subject.name}:"
                " give sinks.postgres.table another name"
            )
        for name, kind in columns.items():
            table_kind = table_columns.get(name, kind)
            if table_kind != kind:
                column = sql.Identifier(name).as_string(self._cursor)
                raise UserError(
                    f"the column {name} of {self.name} is {table_kind}, and that of the lists is"
                    f" {kind}: ALTER TABLE {self._quoted} DROP COLUMN {column}, and the next run"
                    " adds it again"
                )
        missing = [
            sql.SQL("ADD COLUMN {}").format(_define_column(name, kind))
            for name, kind in columns.items()
            if name not in table_columns
        ]
        if missing:
            self._lock_readers_out()
            self._run("ALTER TABLE {} {}", self.identifier, sql.SQL(", ").join(missing))

    def _read_columns(self) -> dict[str, str]:
        """The columns of the table, with their types."""
        self._cursor.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            [self._quoted],
        )
        return dict(self._cursor.fetchall())

    def _lock_readers_out(self) -> None:
        """Lock the table until the transaction ends, as a new column needs it.

        Raises Retry if another transaction holds the table all the time.
        """
        self._cursor.execute("SET LOCAL lock_timeout = %s", [f"{LOCK_SECONDS}s"])
        try:
            self._run("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", self.identifier)
        except errors.LockNotAvailable:
            raise Retry(
                f"another transaction has held {self.name} for {LOCK_SECONDS} seconds: end it"
                " (pg_stat_activity shows whose it is)"
            ) from None
        self._cursor.execute("SET LOCAL lock_timeout = 0")

    def replace_rows(self, frame: pl.LazyFrame, expected: sink.SinkCounts) -> None:
        """Put these lists in the place of the table's rows.

        Columns that only the table has get their default, which is null where nobody set one.
        """
        self._run("DELETE FROM {}", self.identifier)
        copy_rows(self._cursor, frame, self.identifier)
        self._run("SELECT count(*), count(*) FILTER (WHERE rank = 1) FROM {}", self.identifier)
        rows, users = self._cursor.fetchone() or (0, 0)
        sink.require_equal_counts(expected, rows=rows, users=users, where=self.name)

    def count_users(self, users: Collection[str]) -> int:
        """How many of these users have lists here; 0 if the table is missing or another's."""
        _, is_made_by_sink, comment = self._read_state()
        if not is_made_by_sink or self._is_of_another_pipeline(comment):
            return 0
        query = "SELECT count(DISTINCT user_id) FROM {} WHERE user_id = ANY(%s)"
        self._cursor.execute(sql.SQL(query).format(self.identifier), [_list_ids(users)])
        (number,) = self._cursor.fetchone() or (0,)
        return int(number)

    def delete_users(self, users: Collection[str]) -> None:
        """Delete the rows of these users."""
        statement = sql.SQL("DELETE FROM {} WHERE user_id = ANY(%s)").format(self.identifier)
        self._cursor.execute(statement, [_list_ids(users)])


def _define_column(name: str, kind: str) -> sql.Composed:
    """A column's name and type, as CREATE TABLE and ADD COLUMN take it."""
    not_null = " NOT NULL" if name in KEYS else ""
    return sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(f"{kind}{not_null}"))


def _list_ids(users: Collection[str]) -> list[str]:
    """The ids that the table can have: PostgreSQL's text has no NUL."""
    return [user for user in users if "\0" not in user]


def copy_rows(cursor: Cursor, frame: pl.LazyFrame, table: sql.Identifier) -> None:
    """Copy the rows into the table, by the names of their columns."""
    columns = sql.SQL(", ").join(map(sql.Identifier, frame.collect_schema().names()))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(table, columns)
    source = _CopyStream(encode_rows(frame))
    try:
        cursor.copy_expert(statement, source, size=READ_SIZE)
    except psycopg2.Error:
        # psycopg2 wraps whatever the stream raises, even an interrupt, in an error of its own.
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
    """Pieces of bytes, as a file that COPY reads."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._unread = memoryview(b"")
        self.error: BaseException | None = None
        """What the pieces raised; None if they did not."""

    def read(self, size: int = -1, /) -> bytes:
        try:
            if not self._unread:
                self._unread = memoryview(next(self._pieces, b""))
        except BaseException as error:
            self.error = error
            raise
        part, self._unread = self._unread[:size], self._unread[size:]
        return bytes(part)


def _make_sink_error(
    error: psycopg2.Error, target: PostgresTarget, password: str | None
) -> UserError:
    """The error in one line, without the password. A semicolon separates what to do."""
    text = str(error).strip().partition("\n")[0]
    if password:
        text = text.replace(password, "…")
    message = _describe_failed_connection(text, target.variable)
    if message is None:
        message = f"cannot write the table {target.table}: {text}"
        if isinstance(error, errors.InsufficientPrivilege):
            message += RIGHTS_HINT
    may_be_temporary = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))
    if may_be_temporary and not any(part in text for part in LASTING_ERRORS):
        return Retry(message)
    return UserError(message)


def _describe_failed_connection(text: str, variable: str) -> str | None:
    """What libpq says of a connection that it could not open, where that was, and what to do.

    None if the text is about something else.
    """
    unknown_host = UNKNOWN_HOST.match(text)
    if unknown_host is not None:
        return f"there is no host {unknown_host['host']}; correct it in {variable}"
    match = NO_CONNECTION.match(text)
    if match is None:
        return None
    reason = match["reason"]
    message = f"{reason[0].lower()}{reason[1:]} at {match['host']}:{match['port']}"
    fixes = [fix for part, fix in CONNECTION_FIXES.items() if part in reason]
    return f"{message}; {fixes[0].format(variable=variable)}" if fixes else message
