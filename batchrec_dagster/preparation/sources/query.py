"""The source for `ratings.query` on files: DuckDB runs SQL on the declared sources.

The query is a single SELECT, which sees only its sources, as tables. It cannot use other files, the
network, extensions or settings. Its memory, its time and the size of its result have limits.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.file_form import FileForm, Header, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile, open_file
from batchrec_dagster.preparation.sources.computed import ComputedRows
from batchrec_dagster.preparation.sources.errors import FileError, hide_values
from batchrec_dagster.preparation.sources.limits import QUERY_MEMORY_GB, LimitError, Limits
from batchrec_dagster.preparation.sources.query_tables import (
    TableFile,
    build_select,
    list_partitions,
    quote_identifier,
    quote_literal,
)
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RowSource,
    SourceContext,
    require_unchanged,
)
from batchrec_dagster.storage.durable import compute_sha256, temporary_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, Error

# The name of the table if the source has no other name.
SOURCE = "source"
FILENAME = "query.parquet"
MAX_MESSAGE_LENGTH = 400
WATCH_INTERVAL_SECONDS = 0.2
# The types that Parquet and its readers support. Other scalar types become text.
_SUPPORTED_TYPES = re.compile(
    r"BOOLEAN|U?(TINY|SMALL|BIG)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*|VARCHAR|DATE"
    r"|TIMESTAMP( WITH TIME ZONE|_S|_MS|_NS)?"
)


def parse_select(sql: str) -> str:
    """Return the query without the semicolon at its end.

    Raises ValueError if the query is not a single SELECT, or if DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ValueError(
            "a query of files needs DuckDB: pip install 'batchrec-dagster[sql]'"
        ) from error
    sql = sql.rstrip().rstrip(";")
    try:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ValueError("write one SELECT statement, without a semicolon behind it")
        # The query will be part of another statement, so it must be valid there too.
        duckdb.extract_statements(f"SELECT * FROM ({sql}\n)")  # noqa: S608
    except duckdb.Error as error:
        raise ValueError(_shorten_error(error)) from None
    return sql


@dataclass(frozen=True)
class FileQuery(RowSource):
    """The source of a Parquet file with the result of a query of other sources."""

    sql: str
    """The query: a single SELECT."""

    tables: Mapping[str, RowSource]
    """The sources, by the names of their tables in the query."""

    form: FileForm
    """The declared form of text files."""

    setting: str
    """The name of the query in messages."""

    headers: Mapping[str, Header]
    """The declared header lines of CSV tables, by the names of the tables.

    A table without a declared header is not in the mapping.
    """

    def files(self, context: SourceContext) -> list[ListedFile]:
        """Return the file of the query's result.

        Its version changes with the query and with any file. Raises UserError.
        """
        tables = {name: source.files(context) for name, source in self.tables.items()}
        parts = [self.sql, repr(self.form)]
        if self.headers:
            parts.append(repr(sorted(self.headers.items())))
        for name, files in tables.items():
            parts += [f"{name} {file.display_name} {file.fingerprint}" for file in files]
        version = compute_sha256(["\n".join(parts).encode()])
        write = partial(self._write, tables)
        return ComputedRows(self.display_name, version, write, FILENAME).files(context)

    def remove_downloads(self, context: SourceContext) -> None:
        for source in self.tables.values():
            source.remove_downloads(context)

    def _write(self, table_files: Mapping[str, Sequence[ListedFile]], path: Path) -> None:
        """Write the query's rows to the path.

        table_files: the files of each table.

        Raises FileError if the query fails, or if a file changes meanwhile.
        """
        with temporary_folder() as folder, ExitStack() as stack:
            reader = stack.enter_context(ConfinedReader())
            tables: dict[str, list[TableFile]] = {}
            for table, files in table_files.items():
                tables[table] = []
                for number, file in enumerate(files):
                    local_path = stack.enter_context(file.open_locally())
                    raw_file = RawFile(local_path, file.display_name)
                    file_folder = folder / table / str(number)
                    opened = _open_table_file(raw_file, self.form, file_folder, reader)
                    tables[table].append(opened)
            _write_rows(self, tables, path, folder)
        for files in table_files.values():
            require_unchanged(files, self.setting)


def _open_table_file(
    file: RawFile, form: FileForm, folder: Path, reader: ConfinedReader
) -> TableFile:
    """Return the unpacked file, with a link that DuckDB reads it through.

    folder: the folder for the unpacked file and the link. The link's path has the partitions of the
        file's path, such as `day=2026-01-31/`.

    Raises FileError.
    """
    unpacked = folder / "unpacked"
    unpacked.mkdir(parents=True)
    try:
        opened = open_file(file, form.encoding, unpacked, reader)
    except PreparationError as error:
        raise FileError(str(error)) from error
    links = folder.joinpath("link", *list_partitions(file.name))
    links.mkdir(parents=True)
    # The link has no extension: with some extensions DuckDB would decompress the file.
    link = links / "file"
    link.symlink_to(opened.path.resolve())
    return TableFile(opened, link)


def _write_rows(
    query: FileQuery, tables: Mapping[str, Sequence[TableFile]], result: Path, folder: Path
) -> None:
    """Write the rows of the query on these tables to the path `result`."""
    files = [file for table in tables.values() for file in table]
    with _connect(":memory:", query.setting, files, result, folder) as connection:
        for name, table in tables.items():
            _create_view(connection, name, table, query)
        _copy_result(connection, query.sql, query.setting, result)


def read_database(database: Path, sql: str, setting: str, result: Path) -> None:
    """Query a DuckDB file, which is opened read-only, and write the result to the path `result`.

    setting: the name of the query in messages.

    Raises FileError.
    """
    if not database.is_file():
        raise FileError(f"there is no such file: {database}")
    try:
        sql = parse_select(sql)
    except ValueError as error:
        raise FileError(f"{setting}: {error}") from error
    with (
        temporary_folder() as folder,
        _connect(str(database), setting, (), result, folder) as connection,
    ):
        _copy_result(connection, sql, setting, result)


@contextmanager
def _connect(
    database: str, setting: str, files: Sequence[TableFile], result: Path, folder: Path
) -> Iterator[DuckDBPyConnection]:
    """Yield a connection that can only read the database and these files, and write the result.

    The query's memory, its time and the size of the result are limited. DuckDB's errors become
    FileErrors.
    """
    import duckdb

    limits = Limits.from_environment()
    reasons_to_stop: list[str] = []
    try:
        unlocked_connection = duckdb.connect(database, read_only=database != ":memory:")
        with (
            closing(_lock_down(unlocked_connection, files, result, folder, limits)) as connection,
            _interrupt_at_limits(connection, result, limits, reasons_to_stop),
        ):
            yield connection
    except duckdb.Error as error:
        reason = reasons_to_stop[0] if reasons_to_stop else _shorten_error(error, files)
        if isinstance(error, duckdb.OutOfMemoryException):
            gigabytes = limits.query_memory / 1e9
            reason += f"; {QUERY_MEMORY_GB} allows {gigabytes:g} GB: select less, or set it higher"
        raise FileError(f"{setting}: {reason}") from error


def _create_view(
    connection: DuckDBPyConnection, name: str, files: Sequence[TableFile], query: FileQuery
) -> None:
    """Make a view of the files, so that the query can read them as the table `name`.

    Raises FileError.
    """
    import duckdb

    try:
        form = replace(query.form, header=query.headers.get(name))
        select = build_select(connection, files, form, query.sql)
        connection.execute(f"CREATE VIEW {quote_identifier(name)} AS {select}")
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        # The error has a line number of this statement. The number would mislead, because the
        # statement is not the user's query.
        text = str(error).partition("\n\nLINE")[0]
        raise FileError(f"{query.setting}: {_format_message(text, files)}") from error


def _copy_result(connection: DuckDBPyConnection, sql: str, setting: str, result: Path) -> None:
    """Write the rows of the query as Parquet, in types that readers of Parquet support.

    Raises FileError if a column is JSON.
    """
    casts = []
    for name, kind, *_ in connection.execute(f"DESCRIBE {sql}").fetchall():
        if kind == "JSON":
            raise FileError(f"{setting}: {name} is JSON: take its text, with ->> for ->")
        if not _SUPPORTED_TYPES.fullmatch(kind) and not re.search(r"[\](]", kind):
            # Sums have the type HUGEINT, which would become floating-point numbers in Parquet.
            new_type = "DECIMAL(38, 0)" if kind.endswith("HUGEINT") else "VARCHAR"
            casts.append(
                f"CAST({quote_identifier(name)} AS {new_type}) AS {quote_identifier(name)}"
            )
    replacements = f" REPLACE ({', '.join(casts)})" if casts else ""
    # The query begins in the first line, so that errors have the line numbers of the query.
    connection.execute(
        f"COPY (SELECT *{replacements} FROM ({sql}\n)) TO {quote_literal(result)}"  # noqa: S608
        " (FORMAT parquet, COMPRESSION zstd)"
    )


def _lock_down(
    connection: DuckDBPyConnection,
    files: Sequence[TableFile],
    result: Path,
    folder: Path,
    limits: Limits,
) -> DuckDBPyConnection:
    """Restrict the connection to reading these files and writing the result, and return it."""
    paths = [result, *(path for file in files for path in (file.link, file.opened.path.resolve()))]
    settings = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "memory_limit": f"'{limits.query_memory} B'",
        "temp_directory": quote_literal(folder / "spilled"),
        "max_temp_directory_size": f"'{limits.download_bytes} B'",
        # Times without a zone are UTC on every machine.
        "TimeZone": "'UTC'",
        "allowed_paths": f"[{', '.join(map(quote_literal, paths))}]",
        "enable_external_access": "false",
        "lock_configuration": "true",
    }
    for name, value in settings.items():
        connection.execute(f"SET {name} = {value}")
    return connection


@contextmanager
def _interrupt_at_limits(
    connection: DuckDBPyConnection, result: Path, limits: Limits, reasons_to_stop: list[str]
) -> Iterator[None]:
    """Interrupt a query that takes too long or writes too much, and add the reason to the list."""
    is_done = threading.Event()
    start = time.monotonic()

    def watch() -> None:
        while not is_done.wait(WATCH_INTERVAL_SECONDS):
            size = result.stat().st_size if result.exists() else 0
            try:
                limits.require_query(time.monotonic() - start, size)
            except LimitError as error:
                reasons_to_stop.append(str(error))
                connection.interrupt()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


def _shorten_error(error: Error, files: Sequence[TableFile] = ()) -> str:
    """Return DuckDB's error in one line, with the query's line number and the files' names."""
    line = re.search(r"^LINE (\d+): (.*)", str(error), re.MULTILINE)
    text = str(error).partition("\n\nLINE")[0]
    message = _format_message(text, files)
    return f"line {line[1]}: {message}" if line else message


def _format_message(text: str, files: Sequence[TableFile]) -> str:
    """Return DuckDB's message in one short line, with the sources' names in place of paths."""
    # The hints in the message name settings of DuckDB's reader, which users cannot set here.
    short = re.split(r"\n\s*Possible|\nColumn \S+ is being", text)[0]
    message = " ".join(hide_values(short).split())
    if "state machine" in message:
        message = (
            "lines end in CRLF and in LF, or a field has a carriage return in it, which DuckDB does"
            " not read: write all line ends alike"
        )
    for file in files:
        path = str(file.link)
        if path in text:
            name = file.opened.name
            message = message.replace(path, name) if path in message else f"{name}: {message}"
    return message[:MAX_MESSAGE_LENGTH]
