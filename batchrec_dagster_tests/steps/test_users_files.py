"""The users of a batch inference job in one file, or in as many as Personalize takes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.local_personalize.operations import batch_jobs
from batchrec_dagster.personalize import file_formats
from batchrec_dagster.storage import users_files
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.users_files import UsersFiles, measure_users
from batchrec_dagster_tests.preparation.test_items import QUICK
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    metadata,
    refresh,
    table,
    why,
    write_ratings,
)

FOLDER = "s3://lake/input/"
URI = f"{FOLDER}users.json"
MAX_RECORDS = 10


class KilledError(Exception):
    """Stands for the end of the process."""


@dataclass(frozen=True)
class Store(ObjectStore):
    """Does so many writes and deletes, each whole as `put` is, and no more."""

    writes_left: list[int] = field(default_factory=lambda: [1_000_000])

    def put(self, uri: str, data: bytes | Path | Iterable[bytes]) -> str:
        self._count()
        return super().put(uri, data)

    def delete(self, uri: str) -> None:
        self._count()
        super().delete(uri)

    def _count(self) -> None:
        if not self.writes_left[0]:
            raise KilledError
        self.writes_left[0] -= 1


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store({"lake": tmp_path})


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_formats, "MAX_INPUT_RECORDS", MAX_RECORDS)
    monkeypatch.setattr(users_files, "PIECE_ROWS", 4)


def build_users(count: int, first: int = 0) -> pl.DataFrame:
    return pl.DataFrame({"userId": [f"u{number:03}" for number in range(first, first + count)]})


def read_job_input(store: ObjectStore) -> bytes:
    """What a job reads, as Personalize lists it."""
    path = UsersFiles(store, URI).input()
    return b"".join(store.get(info.uri) for info in store.list(path))


def test_a_list_that_fits_is_one_file(store: Store) -> None:
    files = UsersFiles(store, URI)
    files.publish(build_users(10), MAX_RECORDS)
    assert [info.uri for info in store.list(FOLDER)] == [files.input()] == files.files() == [URI]
    assert read_job_input(store) == build_users(10).write_ndjson().encode()
    assert (files.version(), len(read_job_input(store))) == measure_users(build_users(10))


def test_a_longer_one_is_several_in_a_folder(store: Store) -> None:
    files = UsersFiles(store, URI)
    files.publish(build_users(25), MAX_RECORDS)
    folder = f"{FOLDER}{files.version()}/"
    assert files.input() == folder
    assert files.files() == [f"{folder}users_000{number}.json" for number in (1, 2, 3)]
    assert [store.get(uri).count(b"\n") for uri in files.files()] == [10, 10, 5]
    assert read_job_input(store) == build_users(25).write_ndjson().encode()
    assert (files.version(), len(read_job_input(store))) == measure_users(build_users(25))
    before = store.list(FOLDER)
    files.publish(build_users(25), MAX_RECORDS)
    assert [(info.uri, info.size) for info in store.list(FOLDER)] == [
        (info.uri, info.size) for info in before
    ]


SIZES = [(5, 8), (25, 5), (5, 25), (45, 25), (25, 26)]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_killed_at_any_moment_it_is_the_one_list_or_the_other(
    tmp_path: Path, before: int, after: int
) -> None:
    old, new = build_users(before, first=3), build_users(after)
    for moment in itertools.count():
        store = Store({"lake": tmp_path / str(moment)})
        files = UsersFiles(store, URI)
        files.publish(old, MAX_RECORDS)
        store.writes_left[0] = moment
        try:
            files.publish(new, MAX_RECORDS)
        except KilledError:
            whole = {frame.write_ndjson().encode() for frame in (old, new)}
            assert read_job_input(store) in whole
            assert b"".join(map(store.get, files.files())) in whole
            store.writes_left[0] = 1_000_000
            files.publish(new, MAX_RECORDS)
            is_finished = False
        else:
            is_finished = True
        assert read_job_input(store) == new.write_ndjson().encode()
        # No older or unfinished files are left.
        manifest = [files.manifest] if after > 10 else []
        assert {info.uri for info in store.list(FOLDER)} == {*files.files(), *manifest}
        if is_finished:
            break
    assert moment >= 2


@pytest.mark.slow
def test_the_whole_job_goes_by_the_folder(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Personalize's own limit is as small, so that it would refuse a file that is too long.
    monkeypatch.setattr(batch_jobs, "MAX_INPUT_RECORDS", 10)
    ratings = write_ratings(project.root / "ratings.csv", users=45)
    project.declare(declaration("shop", ratings, solution=QUICK))
    result = refresh(project, "shop", instance)
    assert result.success
    folder = project.storage / "shop/transformed/batch_users_input"
    assert len(list(folder.glob("*/users_*.json"))) == 5
    outputs = sorted((project.storage / "shop/curated/batch_inference").glob("*/*.out"))
    assert [file.name for file in outputs] == [f"users_000{n}.json.out" for n in range(1, 6)]
    assert table(project, "shop").get_column("user_id").n_unique() == 45
    assert metadata(result, "recommendations")["users"] == 45
    assert metadata(refresh(project, "shop", instance), "recommendations")["outcome"].startswith(
        "unchanged"
    )

    # A list in a file of the project, which fits into one file, takes their place.
    users_file = project.root / "asked.csv"
    users_file.write_text("userId\n1\n2\n")
    project.declare(
        declaration("shop", ratings, solution=QUICK, batch_users={"source": str(users_file)})
    )
    fewer = refresh(project, "shop", instance)
    assert fewer.success
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["users.json"]
    assert set(table(project, "shop").get_column("user_id")) == {"1", "2"}


@pytest.mark.slow
def test_a_job_that_would_be_too_large_is_refused(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster.preparation.users.MAX_INPUT_BYTES", 100)
    ratings = write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", ratings, solution=QUICK))
    result = refresh(project, "shop", instance)
    assert "60 users are 0.00 GB of input" in why(result)
    assert "batch_users.active_since" in why(result)
