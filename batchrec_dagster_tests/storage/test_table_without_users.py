"""Users are removed from an edition, which otherwise stays what it is: in a folder and a bucket."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage import table_without_users
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.editions import Edition, PublishedTable, TableWriter
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster.storage.table_without_users import (
    drop_users,
    list_users,
    open_reduced_table,
)
from batchrec_dagster_tests.guard.editions import make_edition
from batchrec_dagster_tests.guard.servers.s3 import S3Server

KEY = "shop/curated/lists/lists.parquet"
KEEP = 3
SCHEMA = pa.schema(
    {
        "user_id": pa.large_string(),
        "rank": pa.int32(),
        "item_id": pa.string(),
        "score": pa.float64(),
        "arm": pa.string(),
    }
)


@pytest.fixture(params=["folder", "bucket"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> PublishedTable:
    if request.param == "folder":
        return open_table(tmp_path)
    s3: S3Server = request.getfixturevalue("s3")
    return PublishedTable(s3.store(), f"s3://{s3.create_bucket()}/{KEY}")


def open_table(folder: Path) -> PublishedTable:
    return PublishedTable(ObjectStore({"lake": folder / "lake"}), f"s3://lake/{KEY}")


def make_rows(lists: dict[str, int]) -> pa.Table:
    """A list of this many items for each user."""
    rows = [
        {"user_id": user, "rank": rank, "item_id": f"{user} {rank}", "score": None, "arm": "model"}
        for user, length in lists.items()
        for rank in range(1, length + 1)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def write(path: Path, rows: list[pa.Table], edition: Edition) -> Path:
    with TableWriter(path) as writer:
        for piece in rows:
            writer.write(piece)
        writer.finish(edition)
    return path


def publish(table: PublishedTable, folder: Path, version: str, lists: dict[str, int]) -> Edition:
    edition = make_edition(
        {
            "number": table.next_number(),
            "version": version,
            "counts": {"subjects": len(lists)},
        }
    )
    path = write(folder / f"{version}.parquet", [make_rows(lists)], edition)
    return table.publish(path, KEEP)


def read_users(table: PublishedTable, edition: Edition) -> list[str]:
    return list_users(table.read_edition(edition)).sort().to_list()


def test_the_published_edition_stays_itself_without_the_users(
    table: PublishedTable, tmp_path: Path
) -> None:
    published = publish(table, tmp_path, "a", {"u1": 3, "u2": 2, "u3": 1})
    assert drop_users(table, published, pl.Series(["u2", "u9"])) == 1
    current, rows = table.read()
    assert current == published.model_copy(update={"users_dropped": 1})
    assert current.users == 2
    expected = make_rows({"u1": 3, "u3": 1})
    assert rows.collect().equals(pl.DataFrame(expected))
    file = pq.ParquetFile(io.BytesIO(table.store.get(table.uri)))
    assert file.read().equals(expected)
    assert drop_users(table, current, pl.Series(["u1"])) == 1
    edition = table.current()
    assert edition is not None
    assert edition.users_dropped == 2
    assert read_users(table, edition) == ["u3"]


def test_an_edition_of_the_history_does_not_change_the_published_one(
    table: PublishedTable, tmp_path: Path
) -> None:
    for version in "ab":
        publish(table, tmp_path, version, {"u1": 1, "u2": 1})
    before = table.store.get(table.uri)
    (older,) = table.older()
    assert drop_users(table, older, pl.Series(["u1"])) == 1
    assert read_users(table, older) == ["u2"]
    assert table.store.get(table.uri) == before
    assert [edition.name for edition in table.older()] == ["000001-a"]


def test_the_file_stays_if_no_user_has_rows(table: PublishedTable, tmp_path: Path) -> None:
    edition = publish(table, tmp_path, "a", {"u1": 1})
    before = table.store.get(table.uri)
    assert drop_users(table, edition, pl.Series(["u2"])) == 0
    assert drop_users(table, edition, pl.Series([], dtype=pl.String)) == 0
    assert table.store.get(table.uri) == before


def test_all_users_can_be_dropped(table: PublishedTable, tmp_path: Path) -> None:
    edition = publish(table, tmp_path, "a", {"u1": 2, "u2": 1})
    assert drop_users(table, edition, pl.Series(["u1", "u2"])) == 2
    assert read_users(table, edition) == []
    assert pq.read_schema(io.BytesIO(table.store.get(table.uri))).equals(SCHEMA)


def test_the_same_lists_are_published_whole_again(table: PublishedTable, tmp_path: Path) -> None:
    edition = publish(table, tmp_path, "a", {"u1": 1, "u2": 1})
    drop_users(table, edition, pl.Series(["u1"]))
    again = publish(table, tmp_path, "a", {"u1": 1, "u2": 1})
    assert (again.number, again.users_dropped) == (2, 0)
    assert read_users(table, again) == ["u1", "u2"]
    assert publish(table, tmp_path, "a", {"u1": 1, "u2": 1}) == again


def test_a_whole_copy_in_the_history_counts_as_the_published_edition(
    table: PublishedTable, tmp_path: Path
) -> None:
    publish(table, tmp_path, "a", {"u1": 1, "u2": 1})
    publish(table, tmp_path, "b", {"u1": 1, "u2": 1})
    table.put_back(table.older()[0], KEEP)
    current = table.current()
    assert current is not None
    drop_users(table, current, pl.Series(["u1"]))
    assert [edition.name for edition in table.older()] == ["000002-b"]
    publish(table, tmp_path, "c", {"u2": 1})
    # The history has the whole edition.
    (whole,) = [edition for edition in table.older() if edition.version == "a"]
    assert read_users(table, whole) == ["u1", "u2"]


def test_another_edition_is_not_rewritten(tmp_path: Path) -> None:
    table = open_table(tmp_path)
    edition = publish(table, tmp_path, "a", {"u1": 1})
    publish(table, tmp_path, "b", {"u1": 1})
    with pytest.raises(UserError, match="new lists were published meanwhile"):
        drop_users(table, edition, pl.Series(["u1"]))


USER_IDS = st.text("ab\0é\"'1,", min_size=1, max_size=3)


@given(
    lists=st.dictionaries(USER_IDS, st.integers(1, 5), max_size=12),
    dropped=st.lists(USER_IDS, max_size=8),
    pieces=st.integers(1, 4),
    rows_at_once=st.integers(1, 7),
)
def test_the_rows_are_those_of_a_table_that_never_had_the_users(
    lists: dict[str, int], dropped: list[str], pieces: int, rows_at_once: int
) -> None:
    rows = make_rows(lists)
    step = -(-rows.num_rows // pieces) or 1
    cut_rows = [rows.slice(start, step) for start in range(0, max(1, rows.num_rows), step)]
    expected = make_rows({user: length for user, length in lists.items() if user not in dropped})
    with temporary_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_without_users, "ROWS_AT_ONCE", rows_at_once)
        table = open_table(folder)
        path = write(folder / "lists.parquet", cut_rows, make_edition({"version": "a"}))
        edition = table.publish(path, KEEP)
        users_with_rows = {*lists} & {*dropped}
        with open_reduced_table(table, edition, pl.Series(dropped, dtype=pl.String)) as reduced:
            assert (reduced is None) == (not users_with_rows)
            if reduced is not None:
                assert reduced.users_dropped == len(users_with_rows)
                assert reduced.rows_dropped == rows.num_rows - expected.num_rows
        assert drop_users(table, edition, pl.Series(dropped, dtype=pl.String)) == len(
            users_with_rows
        )
        assert pq.ParquetFile(folder / "lake" / KEY).read().equals(expected)
