"""The PostgreSQL sink on a real PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec_dagster.sinks import SinkError, SinkUnavailableError
from batchrec_dagster.sinks import postgres_table as sink
from batchrec_dagster.sinks import sink as lists
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer, postgres_folder, serving
from batchrec_dagster_tests.guard.servers.processes import free_ports
from batchrec_dagster_tests.sinks.support import (
    build_hostile_table,
    build_large_table,
    build_lists_table,
    build_mail_table,
    build_similar_items_table,
)

TABLE = "recommendations"
# What PostgreSQL and UTF-8 can hold.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)


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


def test_the_table_holds_the_lists_and_nothing_else(postgres: PostgresServer, url: str) -> None:
    first = build_lists_table({"1": [("a", "A"), "b"], "2": ["c"]})
    result = replace(first, url)
    assert read_stored_rows(postgres, url) == first.rows()
    assert result.counts[:2] == (3, 2)
    assert result.facts["table"] == f"public.{TABLE}"
    assert str(result.facts["database"]).endswith(" at 127.0.0.1")
    # One user is gone, one is new, and one is unchanged.
    second = build_lists_table({"2": ["c"], "3": ["d", "e"]}, titles=False, score=None)
    assert replace(second, url).counts[:2] == (3, 2)
    assert read_stored_rows(postgres, url) == [
        ("2", 1, "c", None, None),
        ("3", 1, "d", None, None),
        ("3", 2, "e", None, None),
    ]
    assert list_relations(postgres, url) == [TABLE]
    assert replace(second.clear(), url).counts == (0, 0, 0)
    assert read_stored_rows(postgres, url) == []
    # With an experiment each row has its user's arm. The column stays when the experiment is over.
    third = second.with_columns(arm=pl.lit("model"))
    replace(third, url)
    assert [row[-1] for row in read_stored_rows(postgres, url)] == ["model"] * 3
    replace(second, url)
    assert [row[-1] for row in read_stored_rows(postgres, url)] == [None] * 3
    key = postgres.query(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        f" WHERE conrelid = '{TABLE}'::regclass AND contype = 'p'",
        url=url,
    )
    assert key == [("PRIMARY KEY (user_id, rank)",)]


@settings(
    max_examples=repeats(25, 6),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.dictionaries(
        TEXT, st.lists(st.tuples(TEXT, st.none() | TEXT | st.just("")), max_size=3), max_size=5
    )
)
def test_any_text_comes_back(
    postgres: PostgresServer, url: str, wild: dict[str, list[tuple[str, str | None]]]
) -> None:
    frame = build_lists_table(wild)
    replace(frame, url)
    assert sorted(read_stored_rows(postgres, url)) == sorted(frame.rows())


@pytest.mark.attack
def test_hostile_text_is_text(postgres: PostgresServer, url: str) -> None:
    replace(build_hostile_table(), url)
    assert sorted(read_stored_rows(postgres, url)) == sorted(build_hostile_table().rows())


def test_what_a_team_added_to_the_table_stays(postgres: PostgresServer, url: str) -> None:
    replace(build_lists_table({"1": ["a"]}), url)
    reader = f"reader_{url[-12:]}"
    for statement in (
        f"CREATE ROLE {reader} LOGIN PASSWORD 'reads'",
        f"GRANT SELECT ON {TABLE} TO {reader}",
        f"CREATE INDEX by_item ON {TABLE} (item_id)",
        f"CREATE VIEW best AS SELECT user_id, item_id FROM {TABLE} WHERE rank = 1",
        f"COMMENT ON TABLE {TABLE} IS 'ask the shop team'",
    ):
        postgres.query(statement, url=url)
    replace(build_lists_table({"1": ["b", "c"]}), url)
    database = url.rpartition("/")[2]
    reader_url = postgres.url(database, reader, "reads")
    assert postgres.query(f"SELECT item_id FROM {TABLE} ORDER BY rank", url=reader_url) == [
        ("b",),
        ("c",),
    ]
    assert postgres.query("SELECT * FROM best", url=url) == [("1", "b")]
    comment = f"SELECT obj_description('{TABLE}'::regclass)"
    assert postgres.query(comment, url=url) == [("ask the shop team",)]
    indexes = postgres.query(
        "SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%(item_id)'"
        f" AND tablename = '{TABLE}'",
        url=url,
    )
    assert indexes == [(1,)]


def test_similar_items_have_a_table_with_the_item_as_its_key(
    postgres: PostgresServer, url: str
) -> None:
    similar = build_similar_items_table()
    for _ in range(2):
        assert replace(similar, url, table="similar_items").counts[:2] == (3, 2)
    query = "SELECT * FROM similar_items ORDER BY item_id, rank"
    assert postgres.query(query, url=url) == similar.rows()
    replace(build_lists_table({"1": ["a"]}), url)
    with pytest.raises(SinkError, match="is a table of lists of users, and these are of items"):
        replace(similar, url)
    assert read_stored_rows(postgres, url)


def list_column_types(postgres: PostgresServer, url: str) -> list[tuple[str, str]]:
    """The columns of the table with their types, in their order."""
    rows = postgres.query(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        f" WHERE attrelid = '{TABLE}'::regclass AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum",
        url=url,
    )
    return [(str(name), str(kind)) for name, kind in rows]


def test_missing_columns_are_added_and_those_that_lists_lost_are_null(
    postgres: PostgresServer, url: str
) -> None:
    mail = build_mail_table()
    replace(mail.drop("image", "price"), url)
    replace(mail, url)
    assert list_column_types(postgres, url) == [
        ("user_id", "text"),
        ("rank", "integer"),
        ("item_id", "text"),
        ("title", "text"),
        ("reason", "text"),
        ("reason_item", "text"),
        ("score", "double precision"),
        ("image", "text"),
        ("price", "double precision"),
    ]
    assert read_columns(postgres, url, mail.columns) == mail.rows()
    plain = build_lists_table({"1": ["a"]}, titles=False)
    replace(plain, url)
    assert read_columns(postgres, url, plain.columns) == [("1", 1, "a", 0.5)]
    assert read_columns(postgres, url, ["title", "reason", "price"]) == [(None, None, None)]
    replace(mail, url)
    assert read_columns(postgres, url, mail.columns) == mail.rows()
    assert list_relations(postgres, url) == [TABLE]


def read_columns(postgres: PostgresServer, url: str, columns: list[str]) -> list[tuple[Any, ...]]:
    query = f"SELECT {', '.join(columns)} FROM {TABLE} ORDER BY user_id, rank"
    return postgres.query(query, url=url)


def test_a_column_of_the_team_stays_and_gets_its_default(
    postgres: PostgresServer, url: str
) -> None:
    replace(build_lists_table({"1": [("a", "A")]}), url)
    for statement in (
        f"CREATE VIEW scores AS SELECT user_id, score FROM {TABLE}",
        f"ALTER TABLE {TABLE} ADD COLUMN note text DEFAULT 'ours'",
    ):
        postgres.query(statement, url=url)
    mail = build_mail_table()
    replace(mail, url)
    assert read_columns(postgres, url, mail.columns) == mail.rows()
    assert postgres.query(f"SELECT DISTINCT note FROM {TABLE}", url=url) == [("ours",)]
    assert len(postgres.query("SELECT * FROM scores", url=url)) == mail.height


def test_a_column_that_would_get_another_type_is_reported(
    postgres: PostgresServer, url: str
) -> None:
    mail = build_mail_table()
    replace(mail, url)
    before = read_stored_rows(postgres, url)
    texts = mail.with_columns(pl.col("price").cast(pl.String))
    with pytest.raises(
        SinkError, match=r"price of .* is double precision, and .* is text"
    ) as error:
        replace(texts, url)
    assert read_stored_rows(postgres, url) == before
    # The statement in the message lets the next run add the column as it has to be.
    statement = str(error.value).partition(": ")[2].partition(", and")[0]
    assert statement == f'ALTER TABLE "public"."{TABLE}" DROP COLUMN "price"'
    postgres.query(statement, url=url)
    replace(texts, url)
    assert read_columns(postgres, url, texts.columns) == texts.rows()


@settings(
    max_examples=repeats(25, 6),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(
            st.permutations(["title", "image", "price", "reason", "score"]), st.integers(0, 5)
        ),
        min_size=2,
        max_size=4,
    )
)
def test_any_columns_follow_any_others(
    postgres: PostgresServer, url: str, editions: list[tuple[list[str], int]]
) -> None:
    for order, number in editions:
        lists_table = build_mail_table().select("user_id", "rank", "item_id", *order[:number])
        replace(lists_table, url)
        assert read_columns(postgres, url, lists_table.columns) == lists_table.rows()


def test_a_schema_is_used_and_must_be_there(postgres: PostgresServer, url: str) -> None:
    with pytest.raises(SinkError, match='schema "shop" does not exist'):
        replace(build_large_table(1), url, schema="shop")
    postgres.query("CREATE SCHEMA shop", url=url)
    assert (
        replace(build_large_table(2), url, schema="shop", table="Lists").facts["table"]
        == "shop.Lists"
    )
    assert len(read_stored_rows(postgres, url, 'shop."Lists"')) == 10
    assert list_relations(postgres, url) == []


def test_a_table_of_somebody_elses_is_left_alone(postgres: PostgresServer, url: str) -> None:
    postgres.query(f"CREATE TABLE {TABLE} (user_id text, rank int)", url=url)
    with pytest.raises(SinkError, match=r"there is a public\.recommendations already, which was"):
        replace(build_large_table(1), url)
    postgres.query(f"INSERT INTO {TABLE} VALUES ('0', 1)", url=url)
    target = sink.PostgresTarget(url, TABLE, None, "shop")
    assert sink.count_users(["0"], target) == sink.erase_users(["0"], target) == 0
    assert read_stored_rows(postgres, url) == [("0", 1)]
    assert list_relations(postgres, url) == [TABLE]


def test_a_table_of_another_pipeline_is_left_alone(postgres: PostgresServer, url: str) -> None:
    replace(build_large_table(2), url, pipeline="shop")
    before = read_stored_rows(postgres, url)
    with pytest.raises(
        SinkError, match=r"public\.recommendations has the lists of the pipeline shop"
    ) as error:
        replace(build_large_table(1), url, pipeline="shop_2")
    assert read_stored_rows(postgres, url) == before
    # The command in the message lets a renamed pipeline write the table, and keeps the other out.
    postgres.query(str(error.value).partition("renamed: ")[2], url=url)
    replace(build_large_table(2), url, pipeline="shop_2")
    with pytest.raises(SinkError, match="has the lists of the pipeline shop_2"):
        replace(build_large_table(1), url, pipeline="shop")
    postgres.query(
        f"COMMENT ON TABLE {TABLE} IS 'Written by batchrec for the pipeline shop'", url=url
    )
    replace(build_large_table(1), url, pipeline="shop")
    # A person who writes a comment of their own there decides who owns the table.
    postgres.query(f"COMMENT ON TABLE {TABLE} IS 'what people get'", url=url)
    replace(build_large_table(2), url, pipeline="shop_2")
    assert read_stored_rows(postgres, url) == before


def test_readers_see_all_the_old_or_all_the_new(postgres: PostgresServer, url: str) -> None:
    replace(build_lists_table({str(user): ["0"] * 3 for user in range(50)}), url)
    stop_event = threading.Event()
    lists_seen: set[Any] = set()

    def read() -> None:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not stop_event.is_set():
                cursor.execute(f"SELECT count(*), min(item_id), max(item_id) FROM {TABLE}")
                lists_seen.add(cursor.fetchone())

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        # This transaction has begun before the change, and has not read yet.
        with closing(psycopg2.connect(url)) as early, early.cursor() as cursor:
            early.set_session(isolation_level="REPEATABLE READ")
            cursor.execute("SELECT 1")
            for night in range(1, 11):
                item = str(night % 10)
                replace(build_lists_table({str(user): [item] * 3 for user in range(50)}), url)
            cursor.execute(f"SELECT count(*) FROM {TABLE}")
            assert cursor.fetchone() == (150,)
    finally:
        stop_event.set()
        for reader in readers:
            reader.join()
    assert len(lists_seen) > 1
    assert all(count == 150 and first == last for count, first, last in lists_seen)


def test_a_reader_who_does_not_let_go_keeps_only_new_columns_out(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "LOCK_SECONDS", 1)
    replace(build_large_table(1), url)
    with closing(psycopg2.connect(url)) as report, report.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {TABLE}")
        replace(build_large_table(2), url)
        assert len(read_stored_rows(postgres, url)) == 10
        with pytest.raises(SinkUnavailableError, match=r"has held public\.recommendations"):
            replace(build_mail_table(), url)
        assert len(read_stored_rows(postgres, url)) == 10
    replace(build_mail_table(), url)
    assert len(read_stored_rows(postgres, url)) == build_mail_table().height


def test_two_at_once_do_not_get_in_each_others_way(postgres: PostgresServer, url: str) -> None:
    key = f"SELECT pg_advisory_xact_lock(hashtext('batchrec public.{TABLE}'))"
    with closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        cursor.execute(key)
        with pytest.raises(SinkUnavailableError, match="another run is writing"):
            replace(build_large_table(1), url)


def test_lists_that_change_while_they_are_written_are_not_published(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(build_large_table(1), url)
    monkeypatch.setattr(lists, "count_lists", lambda _: lists.SinkCounts(11, 3, 5))
    reason = (
        "2 users and 10 rows were written to public.recommendations, but there are 3 users and 11"
    )
    with pytest.raises(SinkUnavailableError, match=reason):
        replace(build_large_table(2), url)
    assert len(read_stored_rows(postgres, url)) == 5
    assert list_relations(postgres, url) == [TABLE]


@pytest.mark.parametrize(
    ("wrong", "reason", "passing"),
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
def test_what_is_wrong_with_the_connection_is_reported_without_the_password(
    postgres: PostgresServer, wrong: str, reason: str, passing: bool
) -> None:
    with pytest.raises(SinkError, match=reason) as error:
        replace(build_large_table(1), wrong.format(port=postgres.port))
    assert isinstance(error.value, SinkUnavailableError) is passing
    traceback_text = "".join(traceback.format_exception(error.value))
    assert "secret" not in traceback_text
    assert "cret@" not in traceback_text


def test_off_this_machine_it_is_tls_unless_the_url_says_otherwise(
    postgres: PostgresServer, url: str
) -> None:
    # Another spelling of 127.0.0.1, on which this server has no TLS.
    other_url = url.replace("127.0.0.1", "127.1")
    for attempt in (sink.check_writable, lambda target: replace(build_large_table(1), target.url)):
        with pytest.raises(SinkError, match="does not support SSL"):
            attempt(sink.PostgresTarget(other_url, "recommendations"))
    sink.check_writable(sink.PostgresTarget(f"{other_url}?sslmode=disable", "recommendations"))


def test_a_password_is_not_sent_as_it_is(postgres: PostgresServer, url: str) -> None:
    ((name,),) = postgres.query("SHOW hba_file")
    hba = Path(name)
    before = hba.read_text()
    database = url.rpartition("/")[2]
    try:
        hba.write_text(f"host {database} all 127.0.0.1/32 password\n{before}")
        postgres.query("SELECT pg_reload_conf()")
        with pytest.raises(SinkError, match=r"requirement.*cleartext password"):
            _wait_until_reloaded(url)
        sink.check_writable(sink.PostgresTarget(f"{url}?require_auth=password", "recommendations"))
    finally:
        hba.write_text(before)
        postgres.query("SELECT pg_reload_conf()")


def _wait_until_reloaded(url: str) -> None:
    """The server reads its configuration a moment after it was asked to."""
    for _ in range(2000):
        sink.check_writable(sink.PostgresTarget(url, "recommendations"))
        time.sleep(0.05)


def test_what_the_table_refuses_is_reported(postgres: PostgresServer, url: str) -> None:
    with pytest.raises(SinkError, match="invalid byte sequence") as error:
        replace(build_lists_table({"a\0b": ["1"]}), url)
    assert not isinstance(error.value, SinkUnavailableError)
    writer = f"writer_{url[-12:]}"
    postgres.query(f"CREATE ROLE {writer} LOGIN PASSWORD 'x'", url=url)
    postgres.query("REVOKE CREATE ON SCHEMA public FROM public", url=url)
    writer_url = postgres.url(url.rpartition("/")[2], writer, "x")
    with pytest.raises(SinkError, match=r"permission denied .*needs CREATE on the schema"):
        replace(build_large_table(1), writer_url)


WRITER = """
import sys, time
from batchrec_dagster.sinks import postgres_table as postgres
from batchrec_dagster_tests.sinks.support import build_large_table

url, step = sys.argv[1:]
owner = postgres if step == "copy_rows" else postgres._ListTable
step_function = getattr(owner, step)

def run_and_hang(*arguments, **options):
    step_function(*arguments, **options)
    print("half", flush=True)
    time.sleep(600)

setattr(owner, step, run_and_hang)
lists = build_large_table(500).lazy()
postgres.replace_lists(lists, postgres.PostgresTarget(url, "recommendations"))
"""


def start_half_way(url: str, step: str = "copy_rows") -> subprocess.Popen[str]:
    """A process that has taken that step, and does not end its transaction."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url, step],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    return writer


@pytest.mark.parametrize("step", ["add_missing_columns", "copy_rows", "replace_rows"])
def test_killed_half_way_the_old_table_still_serves(
    postgres: PostgresServer, url: str, step: str
) -> None:
    replace(build_large_table(3), url)
    before = list_relations(postgres, url)
    with start_half_way(url, step) as writer:
        try:
            assert len(read_stored_rows(postgres, url)) == 15
        finally:
            writer.send_signal(signal.SIGKILL)
    assert len(read_stored_rows(postgres, url)) == 15
    assert list_relations(postgres, url) == before
    replace(build_large_table(4), url)
    assert len(read_stored_rows(postgres, url)) == 20


@pytest.mark.slow
def test_a_server_that_dies_half_way_comes_back_with_the_old_table() -> None:
    with postgres_folder() as folder:
        server = PostgresServer(free_ports(1)[0])
        with serving(server, folder):
            replace(build_large_table(3), server.url())
            with start_half_way(server.url()) as writer:
                server.kill()
                writer.kill()
            with pytest.raises(SinkUnavailableError):
                replace(build_large_table(4), server.url())
        with serving(server, folder):
            assert len(read_stored_rows(server, server.url())) == 15
            replace(build_large_table(4), server.url())
            assert len(read_stored_rows(server, server.url())) == 20


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
