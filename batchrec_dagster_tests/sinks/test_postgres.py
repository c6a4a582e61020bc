"""The PostgreSQL sink on a real PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import polars as pl
import psycopg2
import pytest

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.sinks import postgres_table as sink
from batchrec_dagster.sinks import sink as lists
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer
from batchrec_dagster_tests.guard.sink_tables import (
    build_large_table,
    build_lists_table,
    build_mail_table,
)

TABLE = "recommendations"


def replace(frame: pl.DataFrame, url: str, **target: Any) -> lists.SinkResult:
    return sink.replace_lists(frame.lazy(), sink.PostgresTarget(url, **{"table": TABLE, **target}))


def read_stored_rows(
    postgres: PostgresServer, url: str, table: str = TABLE
) -> list[tuple[Any, ...]]:
    return postgres.query(f"SELECT * FROM {table} ORDER BY user_id, rank", url=url)


def list_relations(postgres: PostgresServer, url: str) -> list[str]:
    names = postgres.query(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND relnamespace = 'public'::regnamespace ORDER BY 1",
        url=url,
    )
    return [name for (name,) in names]


def test_a_table_of_somebody_elses_is_left_alone(postgres: PostgresServer, url: str) -> None:
    postgres.query(f"CREATE TABLE {TABLE} (user_id text, rank int)", url=url)
    with pytest.raises(UserError, match=r"there is a public\.recommendations already, which was"):
        replace(build_large_table(1), url)
    postgres.query(f"INSERT INTO {TABLE} VALUES ('0', 1)", url=url)
    target = sink.PostgresTarget(url, TABLE, None, "shop")
    assert sink.count_users(["0"], target) == sink.erase_users(["0"], target) == 0
    assert read_stored_rows(postgres, url) == [("0", 1)]
    assert list_relations(postgres, url) == [TABLE]


def test_a_reader_who_does_not_let_go_keeps_only_new_columns_out(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "LOCK_SECONDS", 1)
    replace(build_large_table(1), url)
    with closing(psycopg2.connect(url)) as report, report.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {TABLE}")
        replace(build_large_table(2), url)
        assert len(read_stored_rows(postgres, url)) == 10
        with pytest.raises(Retry, match=r"has held public\.recommendations"):
            replace(build_mail_table(), url)
        assert len(read_stored_rows(postgres, url)) == 10
    replace(build_mail_table(), url)
    assert len(read_stored_rows(postgres, url)) == build_mail_table().height


def test_lists_that_change_while_they_are_written_are_not_published(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(build_large_table(1), url)
    monkeypatch.setattr(lists, "count_lists", lambda _: lists.SinkCounts(11, 3, 5))
    reason = (
        "2 users and 10 rows were written to public.recommendations, but there are 3 users and 11"
    )
    with pytest.raises(Retry, match=reason):
        replace(build_large_table(2), url)
    assert len(read_stored_rows(postgres, url)) == 5
    assert list_relations(postgres, url) == [TABLE]


def test_users_are_erased_and_the_others_stay(postgres: PostgresServer, url: str) -> None:
    frame = build_lists_table({"1": ["a", "b"], "o'k\\": ["c"], "3": ["d"]})
    replace(frame, url, pipeline="shop")
    target = sink.PostgresTarget(url, TABLE, None, "shop")
    users = ["o'k\\", "1", "unknown", "nul\0"]
    assert sink.count_users(users, target) == 2
    assert sink.erase_users(users, target) == 2
    assert [row[0] for row in read_stored_rows(postgres, url)] == ["3"]
    assert sink.count_users(users, target) == sink.erase_users(users, target) == 0


def test_nobody_is_in_a_table_that_is_missing_or_of_another_pipeline(url: str) -> None:
    target = sink.PostgresTarget(url, TABLE, None, "shop")
    assert sink.count_users(["1"], target) == sink.erase_users(["1"], target) == 0
    replace(build_lists_table({"1": ["a"]}), url, pipeline="films")
    assert sink.count_users(["1"], target) == sink.erase_users(["1"], target) == 0
