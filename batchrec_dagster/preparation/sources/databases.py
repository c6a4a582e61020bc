"""The source for `sql+env://VARIABLE`: the result of a query of a database.

DuckDB itself reads DuckDB files. SQLAlchemy reads all other databases, with a driver that the team
installs. The session is read-only if the database has such sessions. The URL is a secret: it stays
in an environment variable, and no message, record or log repeats any part of the URL.
"""

from __future__ import annotations

import os
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

import polars as pl

from batchrec_dagster.errors import Retry
from batchrec_dagster.preparation.sources.computed import ComputedRows
from batchrec_dagster.preparation.sources.database_rows import write_rows
from batchrec_dagster.preparation.sources.errors import FileError, hide_values
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.preparation.sources.query import FILENAME, MAX_MESSAGE_LENGTH, read_database
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RowSource,
    SourceContext,
    name_errors,
)
from batchrec_dagster.storage.durable import compute_sha256, temporary_folder
from batchrec_dagster.storage.secrets import HIDDEN, choose_safe_defaults

if TYPE_CHECKING:
    import sqlalchemy as sa

SCHEME, DUCKDB = "sql+env://", "duckdb:///"
BATCH = 50_000
VERSION_ROWS = 1_000
# The driver that SQLAlchemy uses and the package to install, for each plain name of a database.
DRIVERS = {
    "postgres": ("postgresql+psycopg2", "batchrec-dagster[postgres]"),
    "postgresql": ("postgresql+psycopg2", "batchrec-dagster[postgres]"),
    "mysql": ("mysql+pymysql", "pymysql"),
    "mariadb": ("mariadb+pymysql", "pymysql"),
    "snowflake": ("snowflake", "snowflake-sqlalchemy"),
    "bigquery": ("bigquery", "sqlalchemy-bigquery"),
    "redshift": ("redshift+psycopg2", "sqlalchemy-redshift"),
}
# The statements that make a session read-only. Other databases have no such sessions, so a role
# there should only have the right to SELECT.
READ_ONLY = {
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = ON",
}

# Parts of drivers' messages about a database that is down, busy or cut off.
TEMPORARY = re.compile(
    r"refused|reset by peer|unreachable|timed out|timeout expired|closed the connection"
    r"|connection to the server|lost connection|server has gone away|can't connect"
    r"|starting up|shutting down|administrator command|too many (clients|connections)"
    r"|remaining connection slots|database (table )?is locked",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Database(RowSource):
    """The source of a Parquet file with the result of a query of a database."""

    sql: str
    """The query."""

    version_sql: str | None
    """A query with a result that changes when the rows may have changed.

    Without such a query, every run reads the rows.
    """

    setting: str
    """The name of the query in messages."""

    @property
    def variable(self) -> str:
        """The name of the environment variable with the URL."""
        return self.text.removeprefix(SCHEME)

    def files(self, context: SourceContext) -> list[ListedFile]:
        """Return the file of the query's result.

        Its version changes with the query and with the result of `version_sql`. Raises UserError.
        """
        version = datetime.now(UTC).isoformat()
        if self.version_sql is not None:
            with name_errors(self.display_name), temporary_folder() as folder:
                path = folder / "version.parquet"
                setting = self.setting.replace(".query", ".version_query", 1)
                _write_result(self.url, self.version_sql, setting, path)
                version = repr(pl.read_parquet(path).head(VERSION_ROWS).rows())
        digest = compute_sha256([f"{self.sql}\n{version}".encode()])
        return ComputedRows(self.text, digest, self._write, FILENAME).files(context)

    def _write(self, path: Path) -> None:
        _write_result(self.url, self.sql, self.setting, path)

    @property
    def url(self) -> str:
        """The URL of the database from the environment, which is a secret.

        Raises FileError if the environment variable is not set.
        """
        url = os.environ.get(self.variable, "").strip()
        if not url:
            raise FileError(
                f"the environment variable {self.variable} is not set: set it to the database's"
                " URL, such as postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
            )
        return url


def require_variable(text: str) -> None:
    """Raise ValueError unless the source names an environment variable."""
    if not re.fullmatch(r"[A-Za-z_]\w*", text.removeprefix(SCHEME), re.ASCII):
        raise ValueError(
            f"after {SCHEME} comes the name of an environment variable, such as SHOP_DATABASE_URL:"
            " the URL itself is a secret"
        )


def _write_result(url: str, sql: str, setting: str, path: Path) -> None:
    """Write the result of the query to a Parquet file.

    setting: the name of the query in messages.

    Raises FileError, and Retry if the database is down or busy.
    """
    import sqlalchemy as sa

    if url.startswith(DUCKDB):
        with _explain_errors(url, setting):
            try:
                read_database(Path(url.removeprefix(DUCKDB)), sql, setting, path)
            except FileError as error:
                raise FileError(_remove_url(str(error), url)) from None
        return
    with _explain_errors(url, setting), temporary_folder() as folder, warnings.catch_warnings():
        # These warnings repeat options of the URL that a driver does not know.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        database_url = _parse_url(url)
        engine = sa.create_engine(database_url, connect_args=_choose_connect_args(database_url))
        file = engine.url.database
        if engine.dialect.name == "sqlite" and not (file and Path(file).is_file()):
            raise FileError("there is no such file: SQLite would make an empty one")
        try:
            with engine.connect() as connection:
                statement = READ_ONLY.get(engine.dialect.name)
                if statement is not None:
                    connection.exec_driver_sql(statement)
                if engine.dialect.name == "postgresql":
                    # Other databases have no such setting: their time is checked between batches.
                    milliseconds = int(Limits.from_environment().query_seconds * 1000)
                    connection.exec_driver_sql(f"SET statement_timeout = {milliseconds}")
                connection.commit()
                # Text in the query that looks like a parameter must stay as it is.
                connection.execution_options(stream_results=True, no_parameters=True)
                rows = connection.exec_driver_sql(sql)
                columns = list(rows.keys())
                if not rows.returns_rows or len(set(columns)) < len(columns):
                    raise FileError(f"{setting}: write one SELECT whose columns have names")
                write_rows(rows.partitions(BATCH), columns, folder, path)
        finally:
            engine.dispose()


def _parse_url(url: str) -> sa.URL:
    """Return the URL with the driver that batchrec uses for the database.

    Raises FileError if the text is not a URL.
    """
    import sqlalchemy as sa

    try:
        database_url = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # The messages of these errors repeat the URL.
        raise FileError(
            "its environment variable is not a URL: write postgresql://USER:PASSWORD@HOST/DATABASE,"
            " with % for what is special in a URL"
        ) from None
    name = database_url.drivername
    return database_url.set(drivername=DRIVERS[name][0] if name in DRIVERS else name)


def _choose_connect_args(url: sa.URL) -> dict[str, str]:
    """Return safe defaults for the options of a PostgreSQL connection that the URL does not set."""
    if not url.drivername.startswith("postgresql"):
        return {}
    parts = {name: str(value) for name, value in url.query.items()}
    return choose_safe_defaults({**({"host": url.host} if url.host else {}), **parts})


@contextmanager
def _explain_errors(url: str, setting: str) -> Iterator[None]:
    """Turn every error that may repeat a part of the URL into a FileError without that part.

    The FileError has no cause, because the message of the cause may repeat the URL. A driver may
    raise any error over a part of the URL: for example, int() repeats the value of an option. For
    such an error, the message has the error's type and the line that raised the error. Errors that
    have nothing to do with the URL, such as a full disk or a limit, are raised as they are. If the
    database is down or busy, a Retry is raised in place of the FileError.
    """
    import sqlalchemy as sa

    name = url.partition(":")[0].partition("+")[0]
    kind: type[FileError | Retry] = FileError
    try:
        yield
    except (ImportError, sa.exc.NoSuchModuleError):
        package = DRIVERS.get(name, ("", f"a driver for {name} that SQLAlchemy knows"))[1]
        reason = f"{name} needs a driver: pip install '{package}'"
    except sa.exc.SQLAlchemyError as error:
        message = hide_values(str(getattr(error, "orig", None) or error))
        reason = f"{setting}: {_remove_url(message, url)}"
        if isinstance(error, sa.exc.OperationalError) and TEMPORARY.search(message):
            kind = Retry
    except (FileError, MemoryError, pl.exceptions.PolarsError):
        raise
    except OSError as error:
        if error.filename is None:
            raise
        # An option of the URL, such as the path of a certificate, names the file.
        reason = f"a file cannot be read: {error.strerror}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        origin = f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
        reason = (
            f"the database's driver does not accept a part of its URL, or of {setting} ({origin})."
            " Check the URL's port and its options, after the ?"
        )
    else:
        return
    raise kind(reason) from None


def _remove_url(message: str, url: str) -> str:
    """Return the message in one short line, without any part of the URL."""
    address = url.partition("://")[2]
    raw_parts = [url, address, *re.split(r"[/?&]", address), *re.split(r"[:/@?&=,]", address)]
    # The part before the last @ has the password, which may have a : or a / in it that should have
    # been percent-encoded.
    raw_parts += [address.rpartition("@")[0], address.rpartition("@")[0].partition(":")[2]]
    secrets = set()
    for part in filter(None, raw_parts):
        # The message may have the part as it is in the URL, or with its % sequences decoded.
        secrets.update([part, unquote(part), unquote_plus(part)])
    for secret in sorted(secrets, key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, message)
    return " ".join(message.split())[:MAX_MESSAGE_LENGTH]
