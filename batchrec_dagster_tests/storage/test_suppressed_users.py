"""The list of erased users holds no id, and finds exactly those who were put on it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.storage.connection import S3Connection, StorageResource
from batchrec_dagster.storage.hashed_users import NOBODY, SuppressedUsers
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.objects import DamagedObjectError
from batchrec_dagster.storage.suppressed_users import SuppressionList
from batchrec_dagster_tests.guard.servers.s3 import OWNER, REGION, S3Server

IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PERSON = "person-of-no-return"


@pytest.fixture(params=["folder", "bucket"])
def suppression_list(request: pytest.FixtureRequest, tmp_path: Path) -> SuppressionList:
    storage = StorageResource(root=str(tmp_path), s3=S3Connection())
    if request.param == "bucket":
        s3: S3Server = request.getfixturevalue("s3")
        connection = S3Connection(
            region_name=REGION,
            endpoint_url=s3.endpoint,
            aws_access_key_id=OWNER.access,
            aws_secret_access_key=OWNER.secret,
        )
        storage = StorageResource(root=f"s3://{s3.create_bucket()}/lake", s3=connection)
    return SuppressionList(ListFiles(storage, ListKeys("shop")))


def test_nobody_is_erased_before_the_first(suppression_list: SuppressionList) -> None:
    suppressed = suppression_list.read()

    assert not suppressed
    assert suppressed.version is None
    assert suppression_list.add([]).version is None


def test_users_are_added_without_their_ids(suppression_list: SuppressionList) -> None:
    first = suppression_list.add([PERSON])
    second = suppression_list.add(["7", PERSON])

    store, root = suppression_list.files.storage.store, suppression_list.files.uri("shop/")
    (record,) = store.list(root)
    assert PERSON not in store.get(record.uri).decode()
    assert suppression_list.read() == second
    assert len(second) == 2
    assert second.is_suppressed(PERSON)
    assert not second.is_suppressed("8")
    assert first.version is not None
    assert first.version != second.version


def test_adding_the_same_users_again_changes_nothing(suppression_list: SuppressionList) -> None:
    assert suppression_list.add([PERSON]) == suppression_list.add([PERSON])


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"salt": "00", "users": []}'])
def test_a_damaged_list_is_not_taken_for_an_empty_one(tmp_path: Path, content: bytes) -> None:
    storage = StorageResource(root=str(tmp_path), s3=S3Connection())
    damaged = SuppressionList(ListFiles(storage, ListKeys("shop")))
    file = tmp_path / "shop/records/suppressed_users.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)

    with pytest.raises(DamagedObjectError, match=r"suppressed_users\.json .*run batchrec forget"):
        damaged.read()


def test_two_pipelines_hash_the_same_person_differently() -> None:
    assert not NOBODY.add([PERSON]).hashes & NOBODY.add([PERSON]).hashes


@given(st.lists(IDS), st.lists(st.none() | IDS))
def test_exactly_the_erased_are_dropped(erased: list[str], users: list[str | None]) -> None:
    suppressed = SuppressedUsers.from_json(NOBODY.add([*erased, "!"]).to_json())
    rows = pl.DataFrame({"user": pl.Series(users, dtype=pl.String), "row": range(len(users))})

    rows_kept = suppressed.drop_from(rows, "user")

    gone = {*erased, "!"}
    expected = [row for row, user in enumerate(users) if user not in gone]
    assert rows_kept.get_column("row").to_list() == expected
    assert set(suppressed.find(rows.get_column("user"))) == gone.intersection(users)
