"""The users of the interactions are of these very interactions, whatever happens in between."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment.io_managers import InteractionsIOManager
from batchrec_dagster.errors import UserError
from batchrec_dagster.steps.cost import count_interactions, count_users
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import S3Connection, StorageResource
from batchrec_dagster.storage.durable import compute_version, read_pieces
from batchrec_dagster.storage.io_managers import STORAGE_KEY
from batchrec_dagster.storage.layout import PreparedFiles, UsersOfInteractions
from batchrec_dagster.storage.objects import ObjectStore

KEY = "shop/transformed/interactions/interactions.csv"


@pytest.fixture
def storage(tmp_path: Path) -> StorageResource:
    return StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())


def write_prepared_files(folder: Path, *users: str) -> PreparedFiles:
    """What Spark would have written of these users, who did something at 7."""
    folder.mkdir(exist_ok=True)
    rows = "".join(f"{user},a,7\n" for user in users)
    (folder / "interactions.csv").write_text(f"USER_ID,ITEM_ID,TIMESTAMP\n{rows}")
    pl.DataFrame({"USER_ID": users, "TIMESTAMP": 7, "INTERACTIONS": 1}).write_parquet(
        folder / "users.parquet"
    )
    version = compute_version(read_pieces(folder / "interactions.csv"))
    return PreparedFiles(folder / "interactions.csv", folder / "users.parquet", version)


def publish(storage: StorageResource, value: Any) -> bool:
    @dg.asset(metadata={STORAGE_KEY: KEY})
    def interactions() -> Any:
        return value

    manager = InteractionsIOManager(storage=storage)
    result = dg.materialize([interactions], resources={"io_manager": manager}, raise_on_error=False)
    return result.success


def read_users(storage: StorageResource) -> list[str] | None:
    users = UsersOfInteractions(storage.store, storage.uri(KEY))
    table = users.table()
    if table is None:
        assert users.version() is None
        return None
    assert users.version() == storage.version(storage.uri(KEY))
    return table.get_column("USER_ID").to_list()


def test_they_come_with_the_interactions_and_go_with_them(
    storage: StorageResource, tmp_path: Path
) -> None:
    assert read_users(storage) is None
    assert publish(storage, write_prepared_files(tmp_path / "new", "b", "a"))
    assert read_users(storage) == ["b", "a"]
    # Spark on AWS leaves both in the storage like this.
    first = write_prepared_files(tmp_path / "new", "a", "b", "c")
    moved_table = replace(
        first,
        interactions=storage.uri("work/i.csv"),
        users=storage.uri("work/u.parquet"),
    )
    assert isinstance(first.interactions, Path)
    assert isinstance(first.users, Path)
    storage.store.put(storage.uri("work/i.csv"), first.interactions)
    storage.store.put(storage.uri("work/u.parquet"), first.users)
    assert publish(storage, moved_table)
    assert read_users(storage) == ["a", "b", "c"]
    assert len(storage.store.list(storage.uri(""))) == 2
    # The local engine's interactions come without a list of users.
    assert publish(storage, first.interactions)
    assert read_users(storage) is None


def test_they_are_counted_without_a_look_into_the_interactions(
    storage: StorageResource, tmp_path: Path
) -> None:
    pipeline = Pipeline.model_validate({"name": "shop", "ratings": {"source": "sample://hetrec"}})
    file = write_prepared_files(tmp_path / "new", "a", "b", "c")

    def read_counts() -> tuple[int, int]:
        work = Work(pipeline, storage)
        return count_interactions(work), count_users(work)

    assert publish(storage, file.interactions)
    assert read_counts() == (3, 3)
    assert publish(storage, file)
    path = storage.store.local_path(storage.uri(KEY))
    assert path is not None
    file_stat = path.stat()
    path.write_bytes(b"?" * file_stat.st_size)
    os.utime(path, ns=(file_stat.st_atime_ns, file_stat.st_mtime_ns))
    assert read_counts() == (3, 3)


def test_they_are_never_another_editions(
    storage: StorageResource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(storage, write_prepared_files(tmp_path / "new", "a"))
    put = ObjectStore.put

    def fail_to_put(self: ObjectStore, uri: str, data: Any) -> str:
        if uri.endswith(".parquet"):
            raise UserError("the machine went down")
        return put(self, uri, data)

    def put_after_another(self: ObjectStore, uri: str, data: Any) -> str:
        etag = put(self, uri, data)
        if uri.endswith(".csv"):
            put(self, uri, b"USER_ID,ITEM_ID,TIMESTAMP\nx,a,7\n")
        return etag

    for happens, is_published in ((fail_to_put, False), (put_after_another, True)):
        monkeypatch.setattr(ObjectStore, "put", happens)
        assert publish(storage, write_prepared_files(tmp_path / "new", "a", "b")) is is_published
        assert read_users(storage) is None
