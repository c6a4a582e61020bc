"""How much data there is: what counts as missing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from batchrec_dagster.preparation.items import ItemsLayout
from batchrec_dagster.preparation.user_attributes import UsersLayout
from batchrec_dagster.steps.data_sizes import DataSize, check_not_shrunk
from batchrec_dagster.steps.items import inspect_items
from batchrec_dagster.steps.raw_files import FileRecord, RawRecord
from batchrec_dagster.steps.user_attributes import inspect_users
from batchrec_dagster.storage.connection import S3Connection, StorageResource
from batchrec_dagster.storage.editions import Finding
from batchrec_dagster.storage.hashed_users import NOBODY

TITLE, IMAGE = "items.columns.title", "items.columns.image"


def compare(
    size: DataSize, published: DataSize, max_shrink: float = 0.2, *, skip: bool = False
) -> Finding:
    return check_not_shrunk(
        "items", size, published, "edition 7", max_shrink, how_to_skip="do so", skip=skip
    )


def test_the_message_has_all_losses_and_what_to_do() -> None:
    check = compare(
        DataSize(500, {"users": 10}, {TITLE: 0, IMAGE: 500}),
        DataSize(1000, {"users": 100}, {TITLE: 1000, IMAGE: 900}),
    )
    assert not check.passed
    assert check.blocks
    assert check.text == (
        "much is missing that edition 7 was made from: items fell from 1,000 to 500 (50% fewer),"
        " users fell from 100 to 10 (90% fewer) and rows with a value in items.columns.title fell"
        " from 100% to 0%. gate.max_shrink allows 20%. Nothing was imported, and the published"
        " lists stay. Check the source and run again, or publish anyway: do so"
    )
    assert check.numbers == {"rows": 500, "published_rows": 1000}


def store_file(folder: Path, text: str) -> tuple[RawRecord, StorageResource]:
    """A file as an asset copied it, and the storage that has it."""
    storage = StorageResource(root=str(folder), s3=S3Connection())
    uri, content = storage.uri("file.csv"), text.encode()
    storage.store.put(uri, content)
    digest = hashlib.sha256(content).hexdigest()
    return RawRecord("file.csv", (FileRecord("file.csv", uri, "1", len(content), digest),)), storage


def test_items_are_counted_with_the_values_of_each_column(tmp_path: Path) -> None:
    rows = [
        "1,One,https://a.example/1,x|y,,2026-01-01",
        "2,,no address,,5,2026-01-02",
        "3,Three,,z,6,0",
    ]
    raw, storage = store_file(tmp_path, "\n".join(["id,t,p,c,n,at", *rows, "4"]) + "\n")
    layout = ItemsLayout(
        ",", "id", "t", "p", created="at", categories={"title": "c"}, numbers={"N": "n"}
    )
    inspection = inspect_items(raw, storage, layout, "skip")
    assert inspection.check.passed
    assert inspection.size == DataSize(
        3,
        values={
            "items.columns.title": 2,
            "items.columns.image": 1,
            "items.columns.created": 3,
            "items.columns.categories.title": 2,
            "items.columns.numbers.N": 2,
        },
    )
    missing = inspect_items(raw, storage, replace(layout, title="other"), "skip")
    assert not missing.check.passed
    assert missing.size == DataSize(0)


def test_users_are_counted_with_the_values_of_each_column(tmp_path: Path) -> None:
    raw, storage = store_file(tmp_path, "id,country,age\n1,AT,\n2,,7\n3,DE,8\n")
    layout = UsersLayout(",", "id", categories={"COUNTRY": "country"}, numbers={"AGE": "age"})
    inspection = inspect_users(raw, storage, layout, "fail", NOBODY)
    values = {"users.columns.categories.COUNTRY": 2, "users.columns.numbers.AGE": 2}
    assert inspection.size == DataSize(3, values=values)
    assert inspection.check.passed


def test_a_run_may_go_on_and_says_so() -> None:
    check = compare(DataSize(500), DataSize(1000), skip=True)
    assert check.passed
    assert check.text == (
        "much is missing that edition 7 was made from: items fell from 1,000 to 500 (50% fewer);"
        " published anyway (--publish-anyway)"
    )
    assert compare(DataSize(990), DataSize(1000)).text == (
        "990 items, compared with 1,000 in edition 7"
    )
