"""`source: sql+env://VARIABLE`: the rows of a query that a database answers.

DuckDB files are read by DuckDB, all other databases through SQLAlchemy, whose driver the team
installs. The session is read-only where the database has such sessions. The URL is a secret: it is
in an environment variable, and no message, record or log repeats any part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus

import polars as pl

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import (
    MAX_FILE_GB,
    QUERY_MINUTES,
    LimitError,
    Limits,
)
from batchrec_dagster.preparation.sources.query import FILENAME, read_database
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RatingsSource,
    ResultFile,
    SourceContext,
    name_errors,
)
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.secrets import HIDDEN, choose_safe_defaults

if TYPE_CHECKING:
    import sqlalchemy as sa

SCHEME, DUCKDB = "sql+env://", "duckdb:///"
BATCH = 50_000
VERSION_ROWS = 1_000
SHOWN = 400
# The driver that SQLAlchemy uses for the plain name, and what to install for it.
DRIVERS = {
    "postgres": ("postgresql+psycopg2", "batchrec-dagster[postgres]"),
    "postgresql": ("postgresql+psycopg2", "batchrec-dagster[postgres]"),
    "mysql": ("mysql+pymysql", "pymysql"),
    "mariadb": ("mariadb+pymysql", "pymysql"),
    "snowflake": ("snowflake", "snowflake-sqlalchemy"),
    "bigquery": ("bigquery", "sqlalchemy-bigquery"),
    "redshift": ("redshift+psycopg2", "sqlalchemy-redshift"),
}
# What makes a session read-only. Others have no such sessions: give their role SELECT only.
READ_ONLY = {
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = ON",
}
_COLUMN_TYPES = {
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    date: pl.Date(),
    datetime: pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True)
class Database(RatingsSource):
    """The source of one Parquet file: the rows of a query that a database answers."""

    text: str
    """The source as it is declared."""

    sql: str
    """The query."""

    version_sql: str | None = None
    """A query whose answer changes when the rows may have changed. Without it every run reads the
    rows."""

    setting: str = "ratings.query"
    """What messages call the query."""

    @property
    def display_name(self) -> str:
        return self.text

    @property
    def variable(self) -> str:
        return self.text.removeprefix(SCHEME)

    def files(self, context: SourceContext) -> list[ListedFile]:
        """The result, which changes with the query and the version. Raises SourceError."""
        version = datetime.now(UTC).isoformat()
        if self.version_sql is not None:
            with name_errors(self.display_name), temporary_folder() as folder:
                path = folder / "version.parquet"
                setting = self.setting.replace(".query", ".version_query", 1)
                _write(self.url, self.version_sql, setting, path)
                version = repr(pl.read_parquet(path).head(VERSION_ROWS).rows())
        digest = hashlib.sha256(f"{self.sql}\n{version}".encode()).hexdigest()
        return ResultFile(self.text, digest, FILENAME, self._write).files(context)

    def _write(self, path: Path, context: SourceContext) -> None:
        _write(self.url, self.sql, self.setting, path)

    @property
    def url(self) -> str:
        """The URL of the database from the environment, which is a secret. Raises FileError."""
        url = os.environ.get(self.variable, "").strip()
        if not url:
            raise FileError(
                f"the environment variable {self.variable} is not set: set it to the database's"
                " URL, such as postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
            )
        return url


def parse_database(text: str) -> str:
    """The source unchanged. Raises ValueError unless it names an environment variable."""
    if not re.fullmatch(r"[A-Za-z_]\w*", text.removeprefix(SCHEME), re.ASCII):
        raise ValueError(
            f"after {SCHEME} comes the name of an environment variable, such as SHOP_DATABASE_URL:"
            " the URL itself is a secret"
        )
    return text


def _write(url: str, sql: str, setting: str, path: Path) -> None:
    import sqlalchemy as sa

    if url.startswith(DUCKDB):
        with _explain_errors(url, setting):
            try:
                read_database(Path(url.removeprefix(DUCKDB)), sql, setting, path)
            except FileError as error:
                raise FileError(_remove_url(str(error), url)) from None
        return
    with _explain_errors(url, setting), temporary_folder() as folder, warnings.catch_warnings():
        # They repeat the names of options that a driver does not know.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        parsed = _parse_url(url)
        engine = sa.create_engine(parsed, connect_args=_connect_args(parsed))
        file = engine.url.database
        if engine.dialect.name == "sqlite" and not (file and Path(file).is_file()):
            raise FileError("there is no such file: SQLite would make an empty one")
        try:
            with engine.connect() as connection:
                if statement := READ_ONLY.get(engine.dialect.name):
                    connection.exec_driver_sql(statement)
                if engine.dialect.name == "postgresql":
                    # Elsewhere the time ends between two batches only.
                    most = int(Limits.from_environment().query_seconds * 1000)
                    connection.exec_driver_sql(f"SET statement_timeout = {most}")
                connection.commit()
                # What looks like a parameter in the query is not one.
                connection.execution_options(stream_results=True, no_parameters=True)
                answer = connection.exec_driver_sql(sql)
                columns = list(answer.keys())
                if not answer.returns_rows or len(set(columns)) < len(columns):
                    raise FileError(f"{setting}: write one SELECT whose columns have names")
                parts = _write_parts(answer.partitions(BATCH), columns, folder)
                _join_parts(parts, columns, path)
        finally:
            engine.dispose()


def _write_parts(
    batches: Iterator[Sequence[Sequence[Any]]], columns: Sequence[str], folder: Path
) -> list[Path]:
    """A Parquet file for each batch, each with the types that its values have."""
    limits, parts, written = Limits.from_environment(), [], 0
    end = time.monotonic() + limits.query_seconds
    for number, rows in enumerate(batches):
        parts.append(folder / f"{number:06}.parquet")
        values = zip(*rows, strict=True)
        frame = pl.DataFrame(
            [_build_series(name, column) for name, column in zip(columns, values, strict=True)]
        )
        frame.write_parquet(parts[-1])
        written += parts[-1].stat().st_size
        if written > limits.download_bytes:
            raise FileError(f"it has more than the {limits.download_bytes} bytes of {MAX_FILE_GB}")
        if time.monotonic() > end:
            raise FileError(
                f"it took longer than the {limits.query_seconds / 60:g} minutes of {QUERY_MINUTES}"
            )
    return parts


def _join_parts(parts: Sequence[Path], columns: Sequence[str], path: Path) -> None:
    """Write all parts to one file.

    A column of several types becomes text, and one of whole and other numbers floating-point.
    """
    schemas = [pl.read_parquet_schema(part) for part in parts]
    kinds = pl.Schema(
        {name: _find_common_type({schema[name] for schema in schemas}) for name in columns}
    )
    if parts:
        pl.concat(pl.scan_parquet(part).cast(kinds) for part in parts).sink_parquet(path)
    else:
        pl.DataFrame(schema=kinds).write_parquet(path)


def _build_series(name: str, values: Sequence[Any]) -> pl.Series:
    """The values as a column of the one type that all of them have, or else of text."""
    simple_values = [_simplify(value) for value in values]
    types = {type(value) for value in simple_values if value is not None}
    if types == {int} and not all(map(_is_64_bit, simple_values)):
        types = {int, str}
    column_type = _find_common_type({_COLUMN_TYPES[kind] for kind in types}) if types else pl.Null()
    if column_type == pl.String:
        simple_values = [None if value is None else _format_value(value) for value in simple_values]
    return pl.Series(name, simple_values, column_type, strict=False)


def _is_64_bit(value: int | None) -> bool:
    return value is None or -(2**63) <= value < 2**63


def _find_common_type(types: set[pl.DataType]) -> pl.DataType:
    """The type that can hold values of all these types."""
    not_null = types - {pl.Null()}
    if len(not_null) == 1:
        return not_null.pop()
    return pl.Float64() if not_null == {pl.Int64(), pl.Float64()} else pl.String()


def _simplify(value: Any) -> Any:
    """The value as one of the types in _COLUMN_TYPES."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Decimal():
            # Ids and counts of databases without integers have a scale of 0.
            whole = value.is_finite() and value.as_tuple().exponent >= 0  # type: ignore[operator]
            return int(value) if whole else float(value)
        case datetime():
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        case date():
            return value
        case dict() | list() | tuple():
            return json.dumps(value, default=str, ensure_ascii=False)
        case bytes() | memoryview():
            return bytes(value).hex()
    return str(value)


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else str(value)


def _parse_url(url: str) -> sa.URL:
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # Their messages repeat it.
        raise FileError(
            "its environment variable is not a URL: write postgresql://USER:PASSWORD@HOST/DATABASE,"
            " with % for what is special in a URL"
        ) from None
    name = parsed.drivername
    return parsed.set(drivername=DRIVERS[name][0] if name in DRIVERS else name)


def _connect_args(url: sa.URL) -> dict[str, str]:
    if not url.drivername.startswith("postgresql"):
        return {}
    parts = {name: str(value) for name, value in url.query.items()}
    return choose_safe_defaults({**({"host": url.host} if url.host else {}), **parts})


@contextmanager
def _explain_errors(url: str, setting: str) -> Iterator[None]:
    """Make a FileError of every error, without any part of the URL, and without its cause, whose
    message has some.

    A driver may raise anything over a part of the URL: int() of an option repeats its value. Such
    an error is named by its type and the line that raised it. What is not the URL's fault, a full
    disk or a limit, is raised as it is.
    """
    import sqlalchemy as sa

    name = url.partition(":")[0].partition("+")[0]
    try:
        yield
    except (ImportError, sa.exc.NoSuchModuleError):
        package = DRIVERS.get(name, ("", f"a driver for {name} that SQLAlchemy knows"))[1]
        reason = f"{name} needs a driver: pip install '{package}'"
    except sa.exc.SQLAlchemyError as error:
        reason = f"{setting}: {_remove_url(str(getattr(error, 'orig', None) or error), url)}"
    except (FileError, LimitError, MemoryError, pl.exceptions.PolarsError):
        raise
    except OSError as error:
        if error.filename is None:
            raise
        # A file that an option of the URL names, such as a certificate.
        reason = f"a file cannot be read: {error.strerror}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
        reason = (
            f"the database's driver does not accept a part of its URL, or of {setting} ({place})."
            " Check the URL's port and its options, after the ?"
        )
    else:
        return
    raise FileError(reason) from None


def _remove_url(message: str, url: str) -> str:
    address = url.partition("://")[2]
    # As they are written, and as they are meant: a % stands for what is special in a URL.
    written = [url, address, *re.split(r"[/?&]", address), *re.split(r"[:/@?&=,]", address)]
    # The part before the last @ has the password, in which somebody may have left a : or a /.
    written += [address.rpartition("@")[0], address.rpartition("@")[0].partition(":")[2]]
    parts = {part for text in written if text for part in (text, unquote(text), unquote_plus(text))}
    for secret in sorted(parts, key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, message)
    return " ".join(message.split())[:SHOWN]
