"""Tests of what a `query` may not do or read, and of the messages about it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from batchrec_dagster_tests.guard.contracts.querying import base, put, read_refusal
from batchrec_dagster_tests.guard.seams import preparation

__all__ = ["base"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT\n  user,\n  itm\nFROM source", 'ratings.query: line 3: Binder Error: .*"itm"'),
        ("SELECT user\n FROM sauce", "line 2: .*sauce"),
        ("SELECT user,\n user + [1] FROM source", "line 2: "),
        ("SELECT error('no ' || user) FROM source", "no a"),
        ("SELECT json_object('a', user) AS j FROM source", "j is JSON: take its text"),
    ],
)
def test_errors_name_the_line(base: Path, query: str, reason: str) -> None:
    put(base, "a.csv", "user,item\na,b\n")
    message = read_refusal(base, query, "a.csv")
    assert message.startswith("a.csv: ratings.query: ")
    assert re.search(reason, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user,item\na,b\nc\n", "a.csv.*Line: 3.*Expected Number of Columns: 2"),
        (b'user,item\na,"b\nc,d\n', "unterminated quote"),
        (b"user,item\r\na,b\nc,d\r\n", "a.csv.*write all line ends alike"),
        (b'{"user": 1}\n{"user": \n', "Malformed JSON"),
        (b"PAR1 is not Parquet", "a.csv: it is damaged or not Parquet"),
        (b"PK\x03\x04....", "the archive is not a zip file"),
        (b"", "empty"),
    ],
)
def test_a_damaged_file_is_refused_by_name(base: Path, content: bytes, message: str) -> None:
    put(base, "a.csv", content)
    assert re.search(message, read_refusal(base, "SELECT * FROM source", "a.csv"))


def test_a_folder_of_several_formats_is_refused(base: Path) -> None:
    put(base, "b/1.csv", "user\na\n")
    put(base, "b/2.json", '{"user": 1}')
    message = read_refusal(base, "SELECT * FROM source", "b/")
    assert "b/1.csv is csv" in message
    assert "b/2.json is json" in message


OUTSIDE = (
    "SELECT * FROM '{secret}'",
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_text('{secret}')",
    "SELECT content FROM read_blob('{secret}')",
    "SELECT * FROM read_csv('{folder}/project/../secret.csv')",
    "SELECT * FROM read_csv('{folder}/*.csv')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM read_parquet('{secret}')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM source, LATERAL (SELECT * FROM read_csv('{secret}'))",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_text('https://localhost/')",
    "SELECT * FROM read_text('s3://lake/raw/x')",
    "SELECT * FROM sqlite_scan('{secret}', 't')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT getenv('HOME')",
    # The program that runs the query has a variable with this name.
    "SELECT * FROM files",
)


@pytest.mark.attack
@pytest.mark.parametrize("query", OUTSIDE)
def test_a_query_reaches_nothing_but_its_sources(base: Path, query: str) -> None:
    put(base, "a.csv", "user\na\n")
    folder = base.parent
    (folder / "secret.csv").write_text("secret\nhidden\n")
    message = read_refusal(base, query.format(folder=folder, secret=folder / "secret.csv"), "a.csv")
    assert "hidden" not in message


@pytest.mark.attack
@pytest.mark.parametrize(
    "query",
    [
        "COPY source TO '{folder}/out.csv'",
        "SELECT 1) TO '{folder}/out.csv'; --",
        "ATTACH '{folder}/out.db'",
        "EXPORT DATABASE '{folder}/out'",
        "SET enable_external_access = true",
        "SELECT 1; SET lock_configuration = false",
        "PRAGMA database_list",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "CREATE TABLE t AS SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT 1; SELECT 2",
        "",
        "-- nothing",
    ],
)
def test_a_query_is_one_select(base: Path, query: str) -> None:
    folder = base.parent
    with pytest.raises(preparation.UserError, match=r"query\n.*(one SELECT|Parser Error)"):
        preparation.declare({"ratings": {"source": "a.csv", "query": query.format(folder=folder)}})
    assert not list(folder.glob("out*"))


def test_without_duckdb_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(preparation.UserError, match=r"pip install 'batchrec-dagster\[sql\]'"):
        preparation.declare({"ratings": {"source": "a.csv", "query": "SELECT 1"}})


@pytest.mark.parametrize(
    ("name", "value", "query"),
    [
        ("QUERY_MINUTES", "0.01", "SELECT count(*) FROM range(10000000) a, range(10000000) b"),
        ("QUERY_MEMORY_GB", "0.02", "SELECT list(range || user) FROM source, range(10000000)"),
        ("MAX_FILE_GB", "0.00002", "SELECT uuid() FROM range(10000000)"),
    ],
)
def test_time_memory_and_the_result_have_limits(
    base: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, query: str
) -> None:
    put(base, "a.csv", "user\na\n")
    monkeypatch.setenv(f"BATCHREC_{name}", value)
    assert f"BATCHREC_{name}" in read_refusal(base, query, "a.csv")
