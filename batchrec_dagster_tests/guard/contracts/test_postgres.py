"""Tests of the sink to PostgreSQL.

Readers see either the old or the new lists, whatever happens to the writer. A team's additions to
the table stay.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import psycopg2
import pytest

from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.guard.seams.publishing import Sink, SinkFailedError, SinkRetryError
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer, postgres_folder, serving
from batchrec_dagster_tests.guard.servers.processes import free_ports
from batchrec_dagster_tests.guard.sink_tables import (
    build_large_table,
    build_lists_table,
    build_mail_table,
    build_similar_items_table,
)

pytestmark = pytest.mark.slow

URL_ENV = "SHOP_DATABASE_URL"
TABLE = "recommendations"
PATIENCE_SECONDS = 300


def open_sink(url: str, **settings: str) -> Sink:
    return Sink("postgres", {"url_env": URL_ENV, **settings}, Store.open("unused"), {URL_ENV: url})


@pytest.fixture
def sink(postgres_url: str) -> Sink:
    return open_sink(postgres_url)


def read_rows(postgres: PostgresServer, url: str, columns: str = "*") -> list[tuple[Any, ...]]:
    return postgres.query(f"SELECT {columns} FROM {TABLE} ORDER BY user_id, rank", url=url)


def list_tables(postgres: PostgresServer, url: str) -> list[str]:
    names = postgres.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", url=url)
    return [name for (name,) in names]


def test_a_teams_additions_to_the_table_stay(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    sink.write(build_lists_table({"1": ["a"]}))
    reader = f"reader_{postgres_url[-12:]}"
    for statement in (
        f"CREATE ROLE {reader} LOGIN PASSWORD 'reads'",
        f"GRANT SELECT ON {TABLE} TO {reader}",
        f"CREATE INDEX by_item ON {TABLE} (item_id)",
        f"CREATE VIEW best AS SELECT user_id, item_id FROM {TABLE} WHERE rank = 1",
        f"ALTER TABLE {TABLE} ADD COLUMN note text DEFAULT 'ours'",
    ):
        postgres.query(statement, url=postgres_url)
    mail = build_mail_table()
    for lists in (build_lists_table({"1": ["b", "c"]}), mail):
        sink.write(lists)
    reader_url = postgres.url(postgres_url.rpartition("/")[2], reader, "reads")
    assert read_rows(postgres, reader_url, ", ".join(mail.columns)) == mail.rows()
    assert postgres.query("SELECT * FROM best ORDER BY 1", url=postgres_url) == [
        ("1", "a"),
        ("2", "c"),
    ]
    assert {*read_rows(postgres, postgres_url, "note")} == {("ours",)}
    indexes = f"SELECT indexname FROM pg_indexes WHERE tablename = '{TABLE}'"
    assert ("by_item",) in postgres.query(indexes, url=postgres_url)


def test_a_reader_who_does_not_let_go_keeps_only_new_columns_out(
    postgres_url: str, sink: Sink
) -> None:
    sink.write(build_large_table(1))
    with closing(psycopg2.connect(postgres_url)) as report, report.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {TABLE}")
        assert sink.write(build_large_table(2)) == (10, 2)
        with pytest.raises(SinkRetryError, match="another transaction has held it for 10 seconds"):
            sink.write(build_mail_table())
    sink.write(build_mail_table())


def test_absent_users_are_in_no_statistics(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    statistics = "SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE tablename = %s"
    people = {f"person {number}": ["a", "b"] for number in range(50)}
    sink.write(build_lists_table(people))
    assert "person 7" in str(postgres.query(statistics, [TABLE], url=postgres_url))
    del people["person 7"]
    sink.write(build_lists_table(people))
    shown = str(postgres.query(statistics, [TABLE], url=postgres_url))
    assert "person 8" in shown
    assert '"person 7"' not in shown


def test_a_writer_without_ownership_is_told_what_stays(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    sink.write(build_large_table(2))
    writer = f"writer_{postgres_url[-12:]}"
    for statement in (
        f"CREATE ROLE {writer} LOGIN PASSWORD 'writes'",
        f"GRANT SELECT, INSERT, DELETE ON {TABLE} TO {writer}",
    ):
        postgres.query(statement, url=postgres_url)
    theirs = open_sink(postgres.url(postgres_url.rpartition("/")[2], writer, "writes"))
    assert theirs.write(build_large_table(1)) == (5, 1)
    assert f"VACUUM (ANALYZE) public.{TABLE}" in (theirs.remains(build_large_table(1)) or "")
    assert sink.remains(build_large_table(1)) is None
    # ANALYZE leaves the statistics of an empty table.
    assert "statistics" in (sink.remains(build_large_table(0)) or "")


def test_each_user_and_rank_is_there_once(postgres: PostgresServer, sink: Sink) -> None:
    sink.write(build_lists_table({"1": ["a"]}))
    row = f"INSERT INTO {TABLE} (user_id, rank, item_id) VALUES ('1', 1, 'b')"
    with pytest.raises(psycopg2.errors.UniqueViolation):
        postgres.query(row, url=sink.environment[URL_ENV])


def test_a_column_that_would_get_another_type_is_reported(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    mail = build_mail_table()
    sink.write(mail)
    before = read_rows(postgres, postgres_url)
    texts = mail.with_columns(pl.col("price").cast(pl.String))
    with pytest.raises(SinkFailedError, match="price") as error:
        sink.write(texts)
    assert read_rows(postgres, postgres_url) == before
    # After the statement in the message, the next run adds the right column.
    statement = f'ALTER TABLE "public"."{TABLE}" DROP COLUMN "price"'
    assert statement in str(error.value)
    postgres.query(statement, url=postgres_url)
    sink.write(texts)
    assert read_rows(postgres, postgres_url, ", ".join(texts.columns)) == texts.rows()


def test_a_schema_is_used_and_must_be_there(postgres: PostgresServer, postgres_url: str) -> None:
    sink = open_sink(postgres_url, schema="shop", table="Lists")
    with pytest.raises(SinkFailedError, match='schema "shop" does not exist'):
        sink.write(build_large_table(1))
    postgres.query("CREATE SCHEMA shop", url=postgres_url)
    sink.write(build_large_table(2))
    assert postgres.query('SELECT count(*) FROM shop."Lists"', url=postgres_url) == [(10,)]
    assert list_tables(postgres, postgres_url) == []


def test_a_table_of_somebody_elses_is_left_alone(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    for statement in (
        f"CREATE TABLE {TABLE} (user_id text, rank int)",
        f"INSERT INTO {TABLE} VALUES ('0', 1)",
    ):
        postgres.query(statement, url=postgres_url)
    with pytest.raises(SinkFailedError, match=f"public.{TABLE}"):
        sink.write(build_large_table(1))
    assert read_rows(postgres, postgres_url) == [("0", 1)]


def test_lists_of_items_do_not_replace_lists_of_users(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    sink.write(build_lists_table({"1": ["a"]}))
    with pytest.raises(SinkFailedError):
        sink.write(build_similar_items_table())
    assert [row[0] for row in read_rows(postgres, postgres_url)] == ["1"]


def test_a_renamed_pipeline_takes_its_table_over_as_the_message_says(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    sink.write(build_large_table(2))
    renamed = replace(sink, address="shop_2")
    with pytest.raises(SinkFailedError, match="lists of the pipeline shop") as error:
        renamed.write(build_large_table(1))
    assert len(read_rows(postgres, postgres_url)) == 10
    postgres.query(str(error.value).partition("renamed: ")[2], url=postgres_url)
    renamed.write(build_large_table(1))
    assert len(read_rows(postgres, postgres_url)) == 5
    with pytest.raises(SinkFailedError, match="lists of the pipeline shop_2"):
        sink.write(build_large_table(2))


def test_readers_see_all_the_old_or_all_the_new(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    def write(item: str) -> None:
        sink.write(build_lists_table({str(user): [item] * 3 for user in range(50)}))

    write("0")
    stop_event = threading.Event()
    lists_seen: set[Any] = set()

    def read() -> None:
        with closing(psycopg2.connect(postgres_url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not stop_event.is_set():
                cursor.execute(f"SELECT count(*), min(item_id), max(item_id) FROM {TABLE}")
                lists_seen.add(cursor.fetchone())

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        # This transaction began before the change, and has not read yet.
        with closing(psycopg2.connect(postgres_url)) as early, early.cursor() as cursor:
            early.set_session(isolation_level="REPEATABLE READ")
            cursor.execute("SELECT 1")
            for night in range(1, 9):
                write(str(night))
            cursor.execute(f"SELECT count(*) FROM {TABLE}")
            assert cursor.fetchone() == (150,)
    finally:
        stop_event.set()
        for reader in readers:
            reader.join()
    assert len(lists_seen) > 1
    assert all(count == 150 and first == last for count, first, last in lists_seen)


WRITE = """
import sys
from batchrec_dagster_tests.guard.contracts.test_postgres import open_sink
from batchrec_dagster_tests.guard.sink_tables import build_large_table
print("begin", flush=True)
open_sink(sys.argv[1]).write(build_large_table(500))
"""


@contextmanager
def write_half(postgres: PostgresServer, url: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that has written some of 500 lists, and stays in its transaction."""
    for statement in (
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'",
        f"CREATE TRIGGER stop BEFORE INSERT ON {TABLE} FOR EACH ROW"
        " WHEN (NEW.user_id = '300') EXECUTE FUNCTION stop()",
    ):
        postgres.query(statement, url=url)
    command = [sys.executable, "-c", WRITE, url]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as writer:
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        give_up = time.monotonic() + PATIENCE_SECONDS
        while postgres.query(asleep, url=url) == [(0,)]:
            assert writer.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        try:
            yield writer
        finally:
            writer.send_signal(signal.SIGKILL)


def let_write(postgres: PostgresServer, url: str) -> None:
    """End the sleeping queries, and drop the trigger that makes them sleep."""
    sleeping = "FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    postgres.query(f"SELECT pg_terminate_backend(pid, 60000) {sleeping}", url=url)
    postgres.query(f"DROP TRIGGER stop ON {TABLE}", url=url)


def test_a_writer_that_is_killed_half_way_leaves_the_old_lists(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    sink.write(build_large_table(3))
    with write_half(postgres, postgres_url):
        assert len(read_rows(postgres, postgres_url)) == 15
        # Another writer gets the message to try later.
        with pytest.raises(SinkRetryError, match="another run"):
            sink.write(build_large_table(4))
    assert len(read_rows(postgres, postgres_url)) == 15
    let_write(postgres, postgres_url)
    sink.write(build_large_table(4))
    assert len(read_rows(postgres, postgres_url)) == 20
    assert list_tables(postgres, postgres_url) == [TABLE]


def test_a_server_that_dies_half_way_comes_back_with_the_old_lists() -> None:
    with postgres_folder() as folder:
        server = PostgresServer(free_ports(1)[0])
        sink = open_sink(server.url())
        with serving(server, folder):
            sink.write(build_large_table(3))
            with write_half(server, server.url()):
                server.kill()
            with pytest.raises(SinkRetryError):
                sink.write(build_large_table(4))
        with serving(server, folder):
            let_write(server, server.url())
            assert len(read_rows(server, server.url())) == 15
            sink.write(build_large_table(4))
            assert len(read_rows(server, server.url())) == 20


@pytest.mark.parametrize(
    ("url", "reason", "may_pass"),
    [
        ("postgresql://owner:owner-secret@127.0.0.1:{port}/nowhere", "does not exist", False),
        ("postgresql://owner:not-the-secret@127.0.0.1:{port}/postgres", "authentication", False),
        ("postgresql://owner:owner-secret@127.0.0.1:1/postgres", "refused", True),
        ("postgresql://owner:owner-s@cret@127.0.0.1:{port}/postgres", "not the URL of a", False),
        ("postgresql://owner:owner-s/cret@127.0.0.1:{port}/postgres", "not the URL of a", False),
        ("postgresql://owner:owner-s?cret@127.0.0.1:{port}/postgres", "authentication", False),
        ("mysql://owner:owner-secret@127.0.0.1/postgres", "not the URL of a", False),
    ],
)
def test_connection_errors_are_reported_without_the_password(
    postgres: PostgresServer, url: str, reason: str, may_pass: bool
) -> None:
    sink = open_sink(url.format(port=postgres.port))
    with pytest.raises(SinkFailedError, match=reason) as error:
        sink.write(build_large_table(1))
    assert isinstance(error.value, SinkRetryError) is may_pass
    text = "".join(traceback.format_exception(error.value))
    assert "secret" not in text
    assert "cret@" not in text


def test_off_this_machine_it_is_tls_unless_the_url_says_otherwise(postgres_url: str) -> None:
    # This is another spelling of 127.0.0.1, where the server has no TLS.
    url = postgres_url.replace("127.0.0.1", "127.1")
    sink = open_sink(url)
    for attempt in (sink.check, lambda: sink.write(build_large_table(1))):
        with pytest.raises(SinkFailedError, match="does not support SSL"):
            attempt()
    open_sink(f"{url}?sslmode=disable").check()


def check_until_refused(sink: Sink) -> None:
    """Check until the sink is refused: the server takes a moment to reload its configuration."""
    for _ in range(2000):
        sink.check()
        time.sleep(0.05)


def test_a_password_is_not_sent_as_it_is(postgres: PostgresServer, postgres_url: str) -> None:
    ((name,),) = postgres.query("SHOW hba_file")
    file = Path(name)
    before = file.read_text()
    database = postgres_url.rpartition("/")[2]
    sink = open_sink(postgres_url)
    try:
        file.write_text(f"host {database} all 127.0.0.1/32 password\n{before}")
        postgres.query("SELECT pg_reload_conf()")
        with pytest.raises(SinkFailedError, match="cleartext password"):
            check_until_refused(sink)
        open_sink(f"{postgres_url}?require_auth=password").check()
    finally:
        file.write_text(before)
        postgres.query("SELECT pg_reload_conf()")


def test_writes_that_the_table_or_role_forbids_are_reported(
    postgres: PostgresServer, postgres_url: str, sink: Sink
) -> None:
    with pytest.raises(SinkFailedError, match="invalid byte sequence"):
        sink.write(build_lists_table({"a\0b": ["1"]}))
    writer = f"writer_{postgres_url[-12:]}"
    postgres.query(f"CREATE ROLE {writer} LOGIN PASSWORD 'planted'", url=postgres_url)
    postgres.query("REVOKE CREATE ON SCHEMA public FROM public", url=postgres_url)
    theirs = open_sink(postgres.url(postgres_url.rpartition("/")[2], writer, "planted"))
    for attempt in (theirs.check, lambda: theirs.write(build_large_table(1))):
        with pytest.raises(SinkFailedError, match="permission denied") as error:
            attempt()
        assert not isinstance(error.value, SinkRetryError)
        assert "planted" not in str(error.value)
    assert list_tables(postgres, postgres_url) == []
