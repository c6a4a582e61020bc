"""Tests that the file of erased users has no ids, and that changes of the file are noticed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.seams.store import StorageError, Store
from batchrec_dagster_tests.guard.seams.store import drop_erased_users as drop

IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PERSON = "person-of-no-return"
KEY = "shop/records/erased_users.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path)


def test_users_are_added_without_their_ids(store: Store) -> None:
    assert not store.is_erased(PERSON)
    store.erase([PERSON])
    store.erase(["7", PERSON])
    assert PERSON not in store.get(KEY).decode()
    assert store.is_erased(PERSON)
    assert store.is_erased("7")
    assert not store.is_erased("8")


def test_adding_the_same_users_again_changes_nothing(store: Store) -> None:
    store.erase([PERSON])
    content = store.get(KEY)
    store.erase([PERSON])
    assert store.get(KEY) == content


def test_two_pipelines_hash_the_same_person_differently(tmp_path: Path) -> None:
    stores = [Store.open(tmp_path / name) for name in ("one", "two")]
    contents = []
    for store in stores:
        store.erase([PERSON])
        contents.append({*store.get(KEY).splitlines()})
    assert contents[0] & contents[1] <= {b"{", b"}", b'  "users": [', b"  ],"}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"salt": "00", "users": []}', b"[" * 9999]
)
def test_a_damaged_file_is_not_taken_for_an_empty_one(store: Store, content: bytes) -> None:
    store.put(KEY, content)
    with pytest.raises(StorageError, match=r"erased_users\.json .*run batchrec forget"):
        store.is_erased(PERSON)


def test_each_changed_digit_is_noticed(store: Store) -> None:
    """With another salt, no erased user would be recognised, and all would come back."""
    store.erase([PERSON, "7"])
    content = store.get(KEY).decode()
    digits = [place for place, letter in enumerate(content) if letter in "0123456789"]
    for place in digits[:: len(digits) // 40]:
        changed = str((int(content[place]) + 1) % 10)
        store.put(KEY, f"{content[:place]}{changed}{content[place + 1 :]}".encode())
        with pytest.raises(StorageError, match=r"erased_users\.json .*checksum"):
            store.is_erased(PERSON)


@given(st.lists(IDS), st.lists(st.none() | IDS))
def test_exactly_the_erased_are_dropped(erased: list[str], users: list[str | None]) -> None:
    rows = pl.DataFrame({"user": pl.Series(users, dtype=pl.String), "row": range(len(users))})
    expected = [row for row, user in enumerate(users) if user not in erased]
    assert drop(erased, rows, "user").get_column("row").to_list() == expected
