"""Tests that editions are replaced, and lose rows, as a whole, in a folder and in a bucket."""

from __future__ import annotations

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.editions import list_file
from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.editions.nights import EditionsRecord, Night
from batchrec_dagster.editions.without_users import drop_users, write_without
from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.lock import Lock, hold_lock
from batchrec_dagster.storage.objects import ObjectReplacedError, ObjectStore
from batchrec_dagster.storage.records import load
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition, restore
from batchrec_dagster_tests.guard.servers.s3 import S3Server

KEEP = 3
SCHEMA = pa.schema(
    [("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()),
     ("score", pa.float64())]
)  # fmt: skip


@pytest.fixture(params=["folder", "bucket"])
def editions(request: pytest.FixtureRequest, tmp_path: Path) -> Editions:
    if request.param == "folder":
        return open_editions(ObjectStore({"lake": tmp_path / "lake"}), "lake")
    s3: S3Server = request.getfixturevalue("s3")
    return open_editions(s3.store(), s3.create_bucket())


def open_editions(store: ObjectStore, bucket: str) -> Editions:
    shop = f"s3://{bucket}/shop"
    return Editions(
        store,
        f"{shop}/curated/lists/lists.parquet",
        f"{shop}/records/editions.json",
        companions=f"{shop}/companions/",
    )


def make_rows(lists: dict[str, int]) -> pa.Table:
    """Return a table with lists of the given lengths, by user."""
    rows = [
        {"user_id": user, "rank": rank, "item_id": f"{rank}", "score": None}
        for user, length in lists.items()
        for rank in range(1, length + 1)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def publish(
    editions: Editions,
    version: str,
    lists: dict[str, int] | None = None,
    lock: Lock = ALONE,
) -> Edition:
    facts: dict[str, Any] = {"number": editions.next_number(), "version": version}
    with temporary_folder() as folder, ListWriter(folder / "lists.parquet") as writer:
        for user, length in (lists or {version: 2}).items():
            writer.write(make_rows({user: length}))
        writer.finish(make_edition(facts))
        return editions.publish(writer.path, KEEP, lock)


def read_lists(editions: Editions, edition: Edition | None = None) -> dict[str, int]:
    rows = editions.read()[1] if edition is None else editions.read_rows(edition)
    return dict(rows.group_by("user_id").agg(pl.len()).collect().rows())


def list_versions(editions: Editions) -> list[str]:
    return [edition.version for edition in editions.older()]


def test_the_newest_replaced_ones_are_kept_with_their_companions(editions: Editions) -> None:
    for version in "abcde":
        editions.store.put(f"{editions.companions}{version}.parquet", b"")
        publish(editions, version)
    assert read_lists(editions) == {"e": 2}
    assert list_versions(editions) == ["d", "c", "b"]
    companions = [info.uri[-9] for info in editions.store.list(str(editions.companions))]
    assert companions == ["b", "c", "d", "e"]
    assert publish(editions, "e").number == 5
    assert list_versions(editions) == ["d", "c", "b"]


def test_one_that_is_live_again_is_kept_when_the_next_replaces_it(editions: Editions) -> None:
    for version in "abc":
        publish(editions, version)
    restore(editions, editions.older()[-1], make_edition({}).made_at)
    assert (read_lists(editions), list_versions(editions)) == ({"a": 2}, ["c", "b"])
    assert publish(editions, "d").number == 4
    assert list_versions(editions) == ["c", "b", "a"]


def test_a_number_is_not_given_twice_if_the_live_file_is_deleted(editions: Editions) -> None:
    for version in "ab":
        publish(editions, version)
    editions.store.delete(editions.uri)
    assert publish(editions, "c").number == 3


def test_a_run_that_was_overtaken_publishes_nothing(s3: S3Server) -> None:
    """A run may be frozen until its lock has expired."""
    editions = open_editions(s3.store(), s3.create_bucket())
    uri, log = editions.uri.replace("lists.parquet", "lock"), logging.getLogger("lock")
    with (
        hold_lock(editions.store, uri, "frozen", log, 0, renew_seconds=1_000) as frozen,
        hold_lock(editions.store, uri, "next", log, 60, expires_seconds=0.2) as lock,
    ):
        publish(editions, "a", lock=lock)
        with pytest.raises(UserError, match="another run has taken over"):
            publish(editions, "b", lock=frozen)
    assert read_lists(editions) == {"a": 2}
    assert [night.edition for night in editions.record().nights] == [1]


def test_a_run_that_is_overtaken_at_the_put_replaces_nothing_newer(editions: Editions) -> None:
    @dataclass
    class LostAfterwards:
        """A lock that another run takes over right after this run checked it."""

        def require_held(self) -> None:
            publish(editions, "newer")

    publish(editions, "a")
    with pytest.raises(ObjectReplacedError):
        publish(editions, "late", lock=LostAfterwards())
    assert read_lists(editions) == {"newer": 2}


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_record_is_made_again_with_what_was_rolled_back(
    editions: Editions, damage: bytes
) -> None:
    for version in "ab":
        publish(editions, version)
    restore(editions, editions.older()[0], make_edition({}).made_at)
    nights = editions.record().nights
    editions.store.put(editions.record_uri, damage)
    record = editions.record()
    assert record.nights == nights
    assert [lists.number for lists in record.withdrawn] == [2]
    editions.settle()
    assert load(editions.store, editions.record_uri, EditionsRecord) == record


def test_nights_of_one_second_are_in_their_order(editions: Editions) -> None:
    time = make_edition({}).made_at
    for version in "abc":
        publish(editions, version)
        editions.add_night(Night(time=time, ended="failed", run=version, steps=("sink",)))
    nights = editions.record().nights
    assert [(night.edition, night.run) for night in nights[1::2]] == [
        (None, "a"), (None, "b"), (None, "c"),
    ]  # fmt: skip
    assert [night.edition for night in nights[::2]] == [1, 2, 3]


def test_steps_that_end_at_the_same_time_are_all_recorded(s3: S3Server) -> None:
    editions = open_editions(s3.store(), s3.create_bucket())
    publish(editions, "a")
    time = make_edition({}).made_at
    nights = [Night(time=time, ended="failed", run=f"{run}", steps=("step",)) for run in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(editions.add_night, nights))
    recorded = editions.record().nights
    assert {night.run for night in recorded if night.edition is None} == {*"01234567"}
    assert [night.edition for night in editions.record().publications] == [1]


def test_an_object_being_read_does_not_change(editions: Editions) -> None:
    publish(editions, "a")
    _, rows = editions.read()
    publish(editions, "b")
    assert rows.collect(engine="streaming").get_column("user_id").to_list() == ["a", "a"]


def test_a_long_footer_is_read_too(editions: Editions, tmp_path: Path) -> None:
    with ListWriter(tmp_path / "long.parquet") as writer:
        writer.write(make_rows({"a": 1}))
        writer.finish(make_edition({"settings": {"long": "x" * 100_000}}))
    editions.publish(writer.path, KEEP, ALONE)
    live = editions.live()
    assert live is not None
    assert len(live.settings["long"]) == 100_000


def test_the_live_edition_and_its_copies_lose_users_each_on_its_own(editions: Editions) -> None:
    for version in "ab":
        publish(editions, version, {"u1": 3, "u2": 2})
    live, (older,) = editions.live(), editions.older()
    assert live is not None
    before = editions.store.get(editions.uri)
    assert drop_users(editions, live, pl.Series(["u9"])) == 0
    assert drop_users(editions, older, pl.Series(["u1", "u9"])) == 1
    assert editions.store.get(editions.uri) == before
    assert drop_users(editions, live, pl.Series(["u2"])) == 1
    assert (read_lists(editions), read_lists(editions, older)) == ({"u1": 3}, {"u2": 2})
    assert editions.live() == live.model_copy(update={"users_dropped": 1})
    assert drop_users(editions, live, pl.Series(["u1"])) == 1
    file = pq.ParquetFile(io.BytesIO(editions.store.get(editions.uri)))
    assert file.read().equals(SCHEMA.empty_table())
    # The same lists are published whole again.
    assert publish(editions, "b", {"u1": 1, "u2": 1}).number == 3
    with pytest.raises(UserError, match="new lists were published meanwhile"):
        drop_users(editions, live, pl.Series(["u1"]))


USER_IDS = st.text("ab\0é\"'1,", min_size=1, max_size=3)


@given(
    lists=st.dictionaries(USER_IDS, st.integers(1, 5), max_size=12),
    users=st.lists(USER_IDS, max_size=8),
    items=st.lists(st.sampled_from("12345"), max_size=2),
    rows_at_once=st.integers(1, 7),
)
def test_lists_without_users_and_items_are_ranked_without_gaps(
    lists: dict[str, int], users: list[str], items: list[str], rows_at_once: int
) -> None:
    with temporary_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(list_file, "ROWS_AT_ONCE", rows_at_once)
        editions = open_editions(ObjectStore({"lake": folder / "lake"}), "lake")
        edition = publish(editions, "a", lists or {"only": 1})
        is_kept = ~pl.col("user_id").is_in(users) & ~pl.col("item_id").is_in(items)
        reduced = write_without(editions, edition, is_kept, folder / "reduced.parquet")
        rows = pq.ParquetFile(folder / "reduced.parquet").read()
    expected = []
    for user, length in (lists or {"only": 1}).items():
        kept = [item for item in "12345"[:length] if item not in items and user not in users]
        expected += [(user, rank, item) for rank, item in enumerate(kept, 1)]
    assert rows.schema.equals(SCHEMA)
    assert pl.DataFrame(rows).select("user_id", "rank", "item_id").rows() == expected
    left = {user for user, _, _ in expected}
    assert reduced.users_dropped == len(lists or {"only": 1}) - len(left)
