"""Tests of `source: sql+env://VARIABLE` with real databases, which are read but not changed."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from traceback import format_exception

import duckdb
import polars as pl
import pytest

from batchrec_dagster_tests.guard.seams import preparation
from batchrec_dagster_tests.guard.servers.postgres import PASSWORD, PostgresServer, postgres_server
from batchrec_dagster_tests.guard.servers.processes import free_ports

SOURCE = "sql+env://SHOP_DATABASE_URL"


def read(folder: Path, query: str, version_query: str | None = None) -> tuple[pl.DataFrame, str]:
    """Return the rows that a run copies, and their version."""
    ratings = {"source": SOURCE, "query": query, "version_query": version_query}
    (copy,) = preparation.copy_raw(folder, ratings)
    return pl.read_parquet(copy.path), copy.version


def read_refusal(folder: Path, query: str) -> str:
    with pytest.raises(preparation.UserError) as error:
        read(folder, query)
    traceback = "".join(format_exception(error.value))
    assert PASSWORD not in traceback
    assert "127.0.0.1" not in traceback
    return str(error.value)


class TestPostgres:
    pytestmark = pytest.mark.slow

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> Iterator[PostgresServer]:
        with postgres_server() as server:
            yield server

    @pytest.fixture
    def url(self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
        url = server.create_database(f"test_{uuid.uuid4().hex}")
        monkeypatch.setenv("SHOP_DATABASE_URL", url)
        return url

    def test_rows_keep_their_types(self, server: PostgresServer, url: str, tmp_path: Path) -> None:
        server.query(
            """CREATE TABLE orders AS SELECT lpad(n::text, 3, '0') AS customer, n AS item,
            CASE WHEN n > 5 THEN n * 1.5 END AS price, n::numeric(38, 0) AS big, n > 2 AS good,
            timestamptz '2024-01-01 00:00+02' + n * interval '1 second' AS at,
            gen_random_uuid() AS id, array[n, n] AS list, NULL::int AS nothing
            FROM generate_series(1, 10) AS n""",
            url=url,
        )
        rows, _ = read(tmp_path, "SELECT * FROM orders WHERE customer LIKE '0%' ORDER BY item")
        assert rows.height == 10
        assert rows.row(9, named=True) | {"id": None} == {
            "customer": "010",
            "item": 10,
            "price": 15.0,
            "big": 10,
            "good": True,
            "at": datetime(2023, 12, 31, 22, 0, 10, tzinfo=UTC),
            "id": None,
            "list": "[10, 10]",
            "nothing": None,
        }
        assert rows.get_column("price").null_count() == 5
        assert rows.get_column("big").dtype == pl.Int64

    @pytest.mark.parametrize(
        ("kind", "time"), [("timestamp", "2024-01-01 11:00"), ("timestamptz", "2024-01-01 12:00")]
    )
    def test_a_time_without_a_zone_has_that_of_the_declaration(
        self, server: PostgresServer, url: str, tmp_path: Path, kind: str, time: str
    ) -> None:
        server.query(f"CREATE TABLE t (a text, b text, c {kind})", url=url)
        server.query("INSERT INTO t VALUES ('u', 'i', '2024-01-01 12:00+00')", url=url)
        ratings = {
            "source": SOURCE,
            "query": "SELECT * FROM t",
            "columns": {"user": "a", "item": "b", "timestamp": "c"},
            "timezone": "Europe/Paris",
        }
        ((_, _, seconds),) = preparation.prepare(tmp_path, {"ratings": ratings}).rows
        assert datetime.fromtimestamp(seconds, UTC).isoformat(" ", "minutes")[:16] == time

    def test_the_session_is_read_only(
        self, server: PostgresServer, url: str, tmp_path: Path
    ) -> None:
        server.query("CREATE TABLE t AS SELECT 1 AS a", url=url)
        server.query(
            "CREATE FUNCTION wipe() RETURNS int LANGUAGE sql AS 'DELETE FROM t RETURNING a'",
            url=url,
        )
        for query in ("SELECT wipe()", "DELETE FROM t RETURNING a", "DROP TABLE t"):
            assert "ratings.query" in read_refusal(tmp_path, query)
        assert server.query("SELECT a FROM t", url=url) == [(1,)]

    @pytest.mark.usefixtures("url")
    def test_time_has_a_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BATCHREC_QUERY_MINUTES", "0.005")
        assert "statement timeout" in read_refusal(tmp_path, "SELECT pg_sleep(60)::text AS a")

    def test_a_version_saves_the_query(
        self, server: PostgresServer, url: str, tmp_path: Path
    ) -> None:
        server.query("CREATE TABLE t AS SELECT 1 AS a", url=url)

        def find_version() -> str:
            return read(tmp_path, "SELECT a FROM t", "SELECT max(a), count(*) FROM t")[1]

        first = find_version()
        assert find_version() == first
        server.query("INSERT INTO t VALUES (1)", url=url)
        assert find_version() != first
        # Without a version, every run reads the rows again.
        assert read(tmp_path, "SELECT a FROM t")[1] != read(tmp_path, "SELECT a FROM t")[1]

    def test_no_message_shows_the_url(
        self, server: PostgresServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "line" in (message := read_refusal(tmp_path, "SELECT *\n FROM missing").lower())
        assert '"missing" does not exist' in message
        for wrong in (
            server.url(user="nobody_there"),
            server.url(database="not_there"),
            f"postgresql://owner:{PASSWORD}@127.0.0.1:1/shop",
            f"postgresql://owner:{PASSWORD}@127.0.0.1:port/shop",
            f"postgresql+nonsense://owner:{PASSWORD}@127.0.0.1/shop",
            f"oracle://owner:{PASSWORD}@127.0.0.1/shop",
        ):
            monkeypatch.setenv("SHOP_DATABASE_URL", wrong)
            message = read_refusal(tmp_path, "SELECT 1 AS a")
            assert message.startswith(SOURCE)
            assert not {"nobody_there", "not_there"} & set(message.split('"'))


def test_sqlite_with_columns_of_several_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", f"sqlite:///{tmp_path}/shop.db")
    assert "no such file" in read_refusal(tmp_path, "SELECT 1 AS a")
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE t (a, b, c)")
        connection.execute("INSERT INTO t VALUES (1, 1, NULL), ('007', 2.5, NULL), (NULL, 3, 'x')")
    rows, _ = read(tmp_path, "SELECT * FROM t ORDER BY b")
    assert rows.rows() == [("1", 1.0, None), ("007", 2.5, None), (None, 3.0, "x")]
    assert read(tmp_path, "SELECT * FROM t WHERE b > 9")[0].columns == ["a", "b", "c"]
    assert "ratings.query: " in read_refusal(tmp_path, "DELETE FROM t")
    assert "columns have names" in read_refusal(tmp_path, "SELECT a, a FROM t")
    assert read(tmp_path, "SELECT count(*) AS n FROM t")[0].item() == 3


def test_duckdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "shop.duckdb"
    monkeypatch.setenv("SHOP_DATABASE_URL", f"duckdb:///{file}")
    assert "no such file" in read_refusal(tmp_path, "SELECT 1 AS a")
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE t AS SELECT 'x' AS a, 5::HUGEINT AS b")
    assert read(tmp_path, "SELECT * FROM t", "SELECT count(*) FROM t")[0].rows() == [
        ("x", Decimal(5))
    ]
    (tmp_path / "other.csv").write_text("hidden")
    for query in ("DELETE FROM t", f"SELECT * FROM read_text('{tmp_path}/other.csv')"):
        assert str(file) not in read_refusal(tmp_path, query)


@pytest.mark.attack
@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///{file}?timeout=owner-secret",
        "sqlite:///{file}?detect_types=owner-secret",
        "sqlite:///{file}?check_same_thread=owner-secret",
        "sqlite:///{file}?owner-secret=1",
        "sqlite:///{file}.owner-secret",
        "duckdb:///{file}.owner-secret",
        "duckdb:///{file}.owner-secret/x",
        "postgresql://u:owner-secret:x@127.0.0.1:1/d",
        "postgresql://u:x@127.0.0.1:owner-secret/d",
        "postgresql://u:x@[owner-secret/d",
        "postgresql://u:x@/d?host=127.0.0.1:owner-secret&host=127.0.0.1:2",
        "postgresql://u:x@/d?port=owner-secret",
        "postgresql://u:x@127.0.0.1:1/d?owner-secret=1",
        "postgresql://u:x@127.0.0.1:1/d?connect_timeout=owner-secret",
        "postgresql://u:x@127.0.0.1:1/d?sslmode=owner%2Dsecret",
        "postgresql://u:x@127.0.0.1:1/d?options=owner%2Dsecret&options=owner-secret",
        "postgresql+owner-secret://u:x@127.0.0.1/d",
    ],
)
def test_values_that_a_driver_refuses_are_not_repeated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    url: str,
) -> None:
    (tmp_path / "shop.db").touch()
    monkeypatch.setenv("SHOP_DATABASE_URL", url.format(file=tmp_path / "shop.db"))
    if "?owner" in url and url.startswith("sqlite"):
        read(tmp_path, "SELECT 1 AS a")  # SQLAlchemy ignores such an option with a warning.
    else:
        message = read_refusal(tmp_path, "SELECT 1 AS a")
        assert "secret" not in message
        assert str(tmp_path) not in message
        assert message.startswith(f"{SOURCE}: ")
    assert "secret" not in "".join(str(warning.message) for warning in recwarn)


def test_an_error_of_a_driver_says_where_it_was_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.db").touch()
    monkeypatch.setenv("SHOP_DATABASE_URL", f"sqlite:///{tmp_path}/shop.db?timeout=owner-secret")
    message = read_refusal(tmp_path, "SELECT 1 AS a")
    assert re.search(r"\(ValueError in \w+\.py, line \d+\)\. Check the URL's port", message)


@pytest.mark.parametrize(
    ("url", "is_temporary"),
    [
        ("postgresql://me:{}@127.0.0.1:{}/shop", True),
        ("postgresql://me:{}@host.invalid/shop", False),
    ],
    ids=["down", "unknown"],
)
def test_a_database_that_is_down_may_be_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, is_temporary: bool
) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", url.format(PASSWORD, *free_ports(1)))
    with pytest.raises(preparation.UserError) as error:
        read(tmp_path, "SELECT 1 AS one")
    assert isinstance(error.value, preparation.Retry) is is_temporary
    assert PASSWORD not in "".join(format_exception(error.value))


def test_a_database_that_another_connection_locks_may_be_free_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.db"
    monkeypatch.setenv("SHOP_DATABASE_URL", f"sqlite:///{path}?timeout=0")
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("CREATE TABLE orders (n)")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(preparation.Retry, match="locked"):
            read(tmp_path, "SELECT * FROM orders")
    connection.close()
    with pytest.raises(preparation.UserError, match="no such table") as error:
        read(tmp_path, "SELECT * FROM sales")
    assert not isinstance(error.value, preparation.Retry)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (None, "SHOP_DATABASE_URL is not set"),
        ("nonsense", "not a URL"),
        ("snowflake://u:owner-secret@127.0.0.1/d", "pip install 'snowflake-sqlalchemy'"),
        ("mysql://u:owner-secret@127.0.0.1/d", "pip install 'pymysql'"),
        ("bigquery://127.0.0.1", "pip install 'sqlalchemy-bigquery'"),
        ("trino://127.0.0.1", "a driver for trino"),
    ],
)
def test_a_missing_variable_or_database_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None, message: str
) -> None:
    if url is not None:
        monkeypatch.setenv("SHOP_DATABASE_URL", url)
    assert message in read_refusal(tmp_path, "SELECT 1 AS a")


@pytest.mark.parametrize(
    "settings",
    [
        {"source": SOURCE},
        {"source": "sql+env://postgresql://u:p@h/d", "query": "SELECT 1"},
        {"source": {"a": SOURCE, "b": "b.csv"}, "query": "SELECT 1"},
        {"source": "a.csv", "version_query": "SELECT 1"},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(preparation.UserError, match=r"sql\+env://|needs a query"):
        preparation.declare({"ratings": settings})
