"""Who was erased does not come back from a source that still has them."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.steps.checks import SOURCE_WITHOUT_ERASED
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.erased import add_erased_users
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    interactions,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.s3 import OWNER, REGION, S3Server

pytestmark = pytest.mark.slow

PERSON, OTHER = "person-of-no-return", "another-lost-soul"
PREPARED = ("raw_ratings", "interactions", "batch_users")
NOT_AGAIN = "unchanged: not prepared again"
WARNING = (
    "the source still has 8 rows of 2 erased people, which were left out: erase them there, too"
)


def write_source(project: Project) -> Path:
    """Ratings of two people who were erased, and of others. The first row is one of theirs, and a
    bad row."""
    file = write_ratings(project.root / "ratings.csv")
    header, *rows = file.read_text().splitlines()
    erased = [f"{PERSON},{item},5,1505000000" for item in range(1, 7)]
    rows = [f"{PERSON},7,bad,1505000000", *rows, *erased, f"{OTHER},1,5,1505000000"]
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def declare_shop(project: Project, **attributes: Any) -> None:
    source = project.root / "ratings.csv"
    ratings = {"on_bad_rows": "skip", **attributes.pop("ratings", {})}
    shop = declaration("shop", source, **attributes)
    project.declare({**shop, "ratings": {**shop["ratings"], **ratings}})


def erase(project: Project, *users: str) -> None:
    storage = Storage(root=str(project.storage), s3=S3Connection())
    add_erased_users(ListFiles(storage, ListKeys("shop")), users)


def prepare(
    project: Project, instance: dg.DagsterInstance, *assets: str
) -> dg.ExecuteInProcessResult:
    result = refresh(project, "shop", instance, assets=assets or PREPARED)
    assert result.success, why(result)
    return result


def find_warning(result: dg.ExecuteInProcessResult) -> str | None:
    """What the check of the source says, without the last run's number; None if it passes."""
    (check,) = [
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == SOURCE_WITHOUT_ERASED
    ]
    assert check.passed or check.severity == dg.AssetCheckSeverity.WARN
    finding = str(check.description).replace("\\", "")
    return None if check.passed else finding


def list_mentions(folder: Path) -> list[str]:
    """The files in the folder that have one of the erased ids in them."""
    return [
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and any(person.encode() in read_plain(file) for person in (PERSON, OTHER))
    ]


def read_plain(file: Path) -> bytes:
    """The file's bytes, with those of a Parquet file as they are before they are compressed."""
    if file.suffix == ".parquet":
        return file.read_bytes() + pl.read_parquet(file).write_json().encode()
    return file.read_bytes()


def test_a_changed_list_makes_the_interactions_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_source(project)
    declare_shop(project)
    before = prepare(project, instance)
    assert find_warning(before) is None
    assert "suppressed_users" not in metadata(before, "interactions")

    erase(project, PERSON, OTHER)
    after = prepare(project, instance)

    assert find_warning(after) == WARNING
    assert not {PERSON, OTHER} & {*interactions(project, "shop").get_column("USER_ID")}
    users = metadata(before, "batch_users")["users"], metadata(after, "batch_users")["users"]
    assert users == (62, 60)
    assert list_mentions(project.storage) == []


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_run_that_ends_before_the_copies_are_deleted_leaves_that_to_the_next(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    place: str,
) -> None:
    storage = Storage(root=str(project.storage), s3=S3Connection())
    if place == "bucket":
        storage = log_in_to_bucket(request.getfixturevalue("s3"), project, monkeypatch)
    files = ListFiles(storage, ListKeys("shop"))
    add_erased_users(files, [PERSON, OTHER])
    write_source(project)
    declare_shop(project)
    raw_copy = files.uri("shop/raw/ratings/ratings.csv")

    def end(*_: object) -> None:
        raise RuntimeError("ended")

    with monkeypatch.context() as patch:
        patch.setattr("batchrec_dagster.steps.interactions.delete_copies", end)
        assert not refresh(project, "shop", instance, assets=PREPARED).success
    assert PERSON in storage.store.get(raw_copy).decode()
    assert PERSON not in storage.store.get(files.interactions).decode()

    result = prepare(project, instance)

    assert metadata(result, "interactions")["outcome"] == NOT_AGAIN
    assert metadata(result, "raw_ratings")["outcome"] == "unchanged: not copied again"
    assert storage.store.head(raw_copy) is None
    record = json.loads(storage.store.get(files.uri(files.keys.record("raw_ratings"))))
    assert record["copies_deleted"] is True


def log_in_to_bucket(s3: S3Server, project: Project, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Storage in a new bucket, which the project uses too."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    for name, value in s3.environment(OWNER).items():
        monkeypatch.setenv(name, value)
    root = f"s3://{s3.create_bucket()}/lake"
    project.environment = {**s3.environment(OWNER), "BATCHREC_STORAGE": root}
    return Storage(root=root, s3=S3Connection(region_name=REGION, endpoint_url=s3.endpoint))


def test_interactions_alone_say_that_the_copies_are_gone(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_source(project)
    declare_shop(project)
    erase(project, PERSON)
    prepare(project, instance)
    assert metadata(prepare(project, instance, "interactions"), "interactions")["outcome"]

    declare_shop(project, interactions={"min_rating": 2})
    result = refresh(project, "shop", instance, assets=["interactions"])

    assert not result.success
    assert "materialize raw_ratings too, which copies them again" in why(result)
    prepare(project, instance)


def test_a_downloaded_archive_does_not_stay_in_the_cache(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    s3: S3Server,
) -> None:
    source = write_source(project)
    storage = log_in_to_bucket(s3, project, monkeypatch)
    archive = project.root / "ratings.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(source, "ratings.csv")
    address = f"{storage.root}/exports/ratings.zip"
    storage.store.put(address, archive)
    declare_shop(project, ratings={"source": f"{address}!/ratings.csv"})
    cache = project.root / ".batchrec/cache"
    prepare(project, instance)
    assert _list_archives(cache)

    add_erased_users(ListFiles(storage, ListKeys("shop")), [PERSON, OTHER])
    prepare(project, instance)

    assert not _list_archives(cache)
    assert not list_mentions(cache)


def _list_archives(cache: Path) -> list[Path]:
    """The archives in the folder of downloads. The files of their locks are empty."""
    return [path for path in cache.iterdir() if path.name != "objects" and path.suffix != ".lock"]
