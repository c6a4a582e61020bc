"""A PostgreSQL table that gets new rows in a single transaction.

Readers see either the old rows or the new rows. The old rows are deleted, the new rows are copied
and counted, and only then is the transaction committed. So everything that a data team adds to the
table stays: grants, views, comments, policies, indexes and columns. A writer that dies leaves
nothing behind, because PostgreSQL undoes the transaction. After the commit, the table is vacuumed,
so that the next lists take the space of the deleted rows. The table is also analyzed, so that no
user who is gone stays in the table's statistics.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import polars as pl
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extensions import make_dsn, parse_dsn

from batchrec_dagster.editions.subjects import find_subject
from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.sinks import sink
from batchrec_dagster.sinks.postgres_errors import LOCK_SECONDS, RIGHTS_HINT, explain
from batchrec_dagster.storage.secrets import choose_safe_defaults

# The end of the primary key's name in every table that the sink makes. The sink recognises its own
# tables by this ending.
KEY_ENDING = "_batchrec_key"
# The start of the comment on a table that the sink makes; the address of the lists follows. All
# pipelines have the same default for the table's name, so the comment keeps the pipelines apart.
WRITTEN_FOR = "Written by batchrec for the pipeline "

# The settings that replace the database's own time limits, which are meant for people's queries.
TRANSACTION_SETTINGS = {
    "statement_timeout": 0,
    "idle_in_transaction_session_timeout": 0,
    "lock_timeout": f"{LOCK_SECONDS}s",
}

TYPES: Mapping[type[pl.DataType], str] = {
    pl.String: "text",
    pl.Float64: "double precision",
    pl.Int32: "integer",
    pl.Int64: "bigint",
}
# The columns that are never null, in lists of users and in lists of items.
KEYS = ("user_id", "rank", "item_id", "similar_item_id")
# The columns of lists with titles.
COLUMNS = {
    "user_id": "text",
    "rank": "integer",
    "item_id": "text",
    "title": "text",
    "score": "double precision",
}


@dataclass(frozen=True)
class PostgresTarget:
    """The table to write, and the connection to its database."""

    url: str = field(repr=False)
    """The connection's URL, postgresql://…, which contains the password."""
    variable: str
    """The environment variable that has the URL."""
    table: str
    schema: str | None
    """The table's schema; None for the connection's schema."""
    address: str
    """The address of the lists. The lists of another address are not replaced."""

    @property
    def comment(self) -> str:
        """The comment on a table with these lists."""
        return f"{WRITTEN_FOR}{self.address}"

    def replace_lists(self, lists: pl.LazyFrame) -> sink.SinkResult:
        """Make the table hold these lists and nothing else.

        The result's facts are `table`, as SCHEMA.TABLE, and `database`, as NAME at HOST.
        Raises UserError, or Retry if a retry may work.
        """
        expected = sink.count_lists(lists)
        columns = {name: TYPES[type(dtype)] for name, dtype in lists.collect_schema().items()}
        with _open_connection(self) as connection:
            with connection, connection.cursor() as cursor:
                for setting, value in TRANSACTION_SETTINGS.items():
                    cursor.execute(f"SET LOCAL {setting} = '{value}'")
                table = _find_table(cursor, self)
                _keep_other_runs_out(cursor, table)
                _create_if_missing(cursor, table, self, columns)
                _add_missing_columns(cursor, table, columns)
                _execute(cursor, "DELETE FROM {}", table.identifier)
                _copy_rows(cursor, table, lists)
                _execute(cursor, "SELECT count(*) FROM {}", table.identifier)
                (rows_written,) = cursor.fetchone() or (0,)
                sink.require_written(expected.rows, rows_written, "rows", table.name)
            remains = _vacuum(connection, table, expected.rows)
            database = f"{connection.info.dbname} at {connection.info.host}"
        return sink.SinkResult(
            expected, {"table": table.name, "database": database}, remains=remains
        )

    def check_writable(self) -> str:
        """Return the place that lists can be written to, as SCHEMA.TABLE in NAME at HOST.

        Raises UserError if lists cannot be written.
        """
        # The table is made in a transaction that is never committed, so nothing stays.
        with _open_connection(self) as connection, connection.cursor() as cursor:
            table = _find_table(cursor, self)
            _create_if_missing(cursor, table, self, COLUMNS)
            if table.exists and not table.is_own:
                raise UserError(
                    f"cannot write the table {table.name}: it is another user's{RIGHTS_HINT}"
                )
            return f"{table.name} in {connection.info.dbname} at {connection.info.host}"

    def has_lists(self) -> bool:
        """Return whether the table exists and has lists of this address.

        Raises the same errors as `replace_lists`.
        """
        with _open_connection(self) as connection, connection.cursor() as cursor:
            table = _find_table(cursor, self)
            return table.is_made_by_sink and not _is_of_others(table, self)


@dataclass(frozen=True)
class FoundTable:
    """A table as it is in the database."""

    schema: str
    table: str
    exists: bool
    is_made_by_sink: bool
    comment: str
    is_own: bool
    """Whether the connection's user has the rights of the table's owner."""

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)


@contextmanager
def _open_connection(target: PostgresTarget) -> Iterator[Connection]:
    """Yield a connection, and close it in the end.

    PostgreSQL's errors become UserError, or Retry if a retry may work.
    """
    parameters = _parse_url(target.url)
    settings = {"application_name": "batchrec", "client_encoding": "UTF8", "connect_timeout": "30"}
    dsn = make_dsn(target.url, **settings, **choose_safe_defaults(parameters))
    try:
        with closing(psycopg2.connect(dsn)) as connection:
            yield connection
    except psycopg2.Error as error:
        raise explain(error, target.table, target.variable, parameters.get("password")) from None


def _parse_url(url: str) -> dict[str, str]:
    """Return the URL's parts.

    Raises UserError if the text is not the URL of a database. The message does not repeat the URL,
    which contains the password.
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


def _execute(cursor: Cursor, statement: str, *parts: sql.Composable) -> None:
    cursor.execute(sql.SQL(statement).format(*parts))


def _find_table(cursor: Cursor, target: PostgresTarget) -> FoundTable:
    """Return the target's table as it is in the database.

    Raises UserError if the connection has no schema.
    """
    cursor.execute("SELECT coalesce(%s, current_schema())", [target.schema])
    (schema,) = cursor.fetchone() or (None,)
    if schema is None:
        raise UserError("the connection has no schema: set sinks.postgres.schema")
    cursor.execute(
        "SELECT EXISTS (SELECT FROM pg_constraint"
        " WHERE conrelid = pg_class.oid AND contype = 'p' AND right(conname, length(%s)) = %s),"
        " coalesce(obj_description(oid, 'pg_class'), ''), pg_has_role(relowner, 'USAGE')"
        " FROM pg_class WHERE relname = %s AND relnamespace = to_regnamespace(quote_ident(%s))",
        [KEY_ENDING, KEY_ENDING, target.table, schema],
    )
    row = cursor.fetchone()
    if row is None:
        return FoundTable(
            schema, target.table, exists=False, is_made_by_sink=False, comment="", is_own=False
        )
    return FoundTable(schema, target.table, True, *row)


def _is_of_others(table: FoundTable, target: PostgresTarget) -> bool:
    """Return whether the comment on the table names another pipeline or list."""
    return table.comment.startswith(WRITTEN_FOR) and table.comment != target.comment


def _keep_other_runs_out(cursor: Cursor, table: FoundTable) -> None:
    """Lock the table for this run until the transaction ends.

    Raises Retry if another run has the lock.
    """
    lock = "SELECT pg_try_advisory_xact_lock(hashtext(%s))"
    cursor.execute(lock, [f"batchrec {table.name}"])
    if cursor.fetchone() != (True,):
        raise Retry(f"another run is writing {table.name}")


def _create_if_missing(
    cursor: Cursor, table: FoundTable, target: PostgresTarget, columns: Mapping[str, str]
) -> None:
    """Create the table if it does not exist.

    columns: the columns of the lists, with their types.

    Raises UserError if this sink did not make the existing table, or if the table has other lists.
    """
    if not table.exists:
        definitions = [_define_column(name, kind) for name, kind in columns.items()]
        _execute(
            cursor,
            "CREATE TABLE {} ({}, CONSTRAINT {} PRIMARY KEY ({}, rank))",
            table.identifier,
            sql.SQL(", ").join(definitions),
            sql.Identifier(f"{table.table}{KEY_ENDING}"),
            sql.Identifier(find_subject(columns).column),
        )
        comment = sql.Literal(target.comment)
        _execute(cursor, "COMMENT ON TABLE {} IS {}", table.identifier, comment)
    elif not table.is_made_by_sink:
        raise UserError(
            f"there is a {table.name} already, which was not made by this sink: give"
            " sinks.postgres.table another name, or rename that one"
        )
    elif _is_of_others(table, target):
        raise UserError(
            f"{table.name} has the lists of the pipeline {table.comment.removeprefix(WRITTEN_FOR)}:"
            " give sinks.postgres.table another name; or, if these are to take their place, as of"
            f" a pipeline that was renamed: COMMENT ON TABLE {table.identifier.as_string(cursor)}"
            f" IS '{target.comment}'"
        )


def _add_missing_columns(cursor: Cursor, table: FoundTable, columns: Mapping[str, str]) -> None:
    """Add the columns of the lists that the table does not have.

    columns: the columns of the lists, with their types.

    Raises UserError if the table has lists of another subject, or a column of another type.
    """
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [table.identifier.as_string(cursor)],
    )
    table_columns = dict(cursor.fetchall())
    subject, other = find_subject(columns), find_subject(table_columns)
    if subject != other:
        raise UserError(
            f"{table.name} is a table of lists of {other.name}, and these are of {subject.name}:"
            " give sinks.postgres.table another name"
        )
    for name, kind in columns.items():
        table_kind = table_columns.get(name, kind)
        if table_kind != kind:
            column = sql.Identifier(name).as_string(cursor)
            raise UserError(
                f"the column {name} of {table.name} is {table_kind}, and that of the lists is"
                f" {kind}: ALTER TABLE {table.identifier.as_string(cursor)} DROP COLUMN {column},"
                " and the next run adds it again"
            )
    missing = [
        sql.SQL("ADD COLUMN {}").format(_define_column(name, kind))
        for name, kind in columns.items()
        if name not in table_columns
    ]
    if missing:
        _execute(cursor, "ALTER TABLE {} {}", table.identifier, sql.SQL(", ").join(missing))


def _define_column(name: str, kind: str) -> sql.Composed:
    """Return the definition of a column for CREATE TABLE and ADD COLUMN."""
    not_null = " NOT NULL" if name in KEYS else ""
    return sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(f"{kind}{not_null}"))


def _copy_rows(cursor: Cursor, table: FoundTable, lists: pl.LazyFrame) -> None:
    """Copy the rows into the table, by the names of their columns.

    Columns that only the table has get their default, which is null if nobody set a default.
    """
    columns = sql.SQL(", ").join(map(sql.Identifier, lists.collect_schema().names()))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(table.identifier, columns)
    # COPY's text format has no quotes. Backslashes, tabs and line breaks in values are escaped.
    escaped = pl.col(pl.String).str.replace_many(
        ["\\", "\t", "\n", "\r"], ["\\\\", "\\t", "\\n", "\\r"]
    )
    for batch in sink.iterate_batches(lists.with_columns(escaped)):
        text = batch.write_csv(
            separator="\t", quote_style="never", null_value="\\N", include_header=False
        )
        cursor.copy_expert(statement, io.BytesIO(text.encode()))


def _vacuum(connection: Connection, table: FoundTable, rows: int) -> str | None:
    """Remove deleted rows from the table's files, and their values from its statistics.

    rows: the number of rows in the table.

    Returns the data that stays, and the fix; None if no data stays.
    """
    if table.exists and not table.is_own:
        return (
            f"{table.name} keeps replaced rows in its files, and values of them in its statistics,"
            f" until its owner runs VACUUM (ANALYZE) {table.name}"
        )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        _execute(cursor, "VACUUM (ANALYZE) {}", table.identifier)
    # ANALYZE leaves the statistics of an empty table as they are.
    return None if rows else f"{table.name} keeps values of its last rows in its statistics"
