"""Tests that data deletion jobs leave no byte of erased users, and change no other lists."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.personalize import impatient_catalogue
from batchrec_dagster_tests.guard.servers.forks import FORKS
from batchrec_dagster_tests.guard.servers.personalize import ROLE, Local
from batchrec_dagster_tests.guard.servers.personalize_data import Row, build_taste_rows, encode_csv

pytestmark = pytest.mark.slow

USERS = [f"person-{number:03}" for number in range(60)]
TO_ERASE = USERS[:4]
LIST = "s3://data/erase/users.csv"
BY_ITEM = "aws-item-affinity"
FOR_USERS = "aws-user-personalization"


def build_rows(seed: int) -> list[Row]:
    rows = build_taste_rows(seed=seed)
    return [(f"person-{int(user[1:]):03}", item, time) for user, item, time in rows]


def find_with_text(folder: Path, text: str) -> list[Path]:
    """Return the files under the folder with the text in their name or bytes."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if text in path.name or (path.is_file() and text.encode() in _read_plain(path))
    ]


def _read_plain(path: Path) -> bytes:
    """Return the bytes of a file and, for Parquet, its unpacked content too."""
    data = path.read_bytes()
    if path.suffix != ".parquet":
        return data
    return data + pl.read_parquet(data).write_ndjson().encode()


def find_erased(local: Local) -> dict[str, list[Path]]:
    """Return the home's files that still contain an erased user, by user."""
    files = {user: find_with_text(local.root / "home", user) for user in TO_ERASE}
    return {user: paths for user, paths in files.items() if paths}


def start_deletion(
    local: Local, users: Iterable[str] = TO_ERASE, name: str = "erase", location: str = LIST
) -> str:
    """Create a data deletion job, which may still run, and return its ARN."""
    local.store.put(LIST, "".join(f"{line}\n" for line in ("USER_ID", *users)).encode())
    (group,) = local.client.list_dataset_groups()["datasetGroups"]
    return local.client.create_data_deletion_job(
        jobName=name,
        datasetGroupArn=group["datasetGroupArn"],
        roleArn=ROLE,
        dataSource={"dataLocation": location},
    )["dataDeletionJobArn"]


@dataclass
class Trained:
    """A home with two imports of interactions, an import of users, two models, a rejected file."""

    root: Path
    versions: dict[str, str]
    """The ARNs of the solution versions by recipe."""

    def copy(self, folder: Path) -> Local:
        """Open a copy in the folder."""
        shutil.copytree(self.root, folder, dirs_exist_ok=True)
        return Local(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    local = Local(tmp_path_factory.mktemp("trained"))
    group = local.create_group()
    dataset = local.create_dataset(group)
    for seed, mode in enumerate(("FULL", "INCREMENTAL")):
        uri = f"s3://data/{mode}.csv"
        local.store.put(uri, encode_csv(build_rows(seed)))
        local.wait_until_active(local.start_import(dataset, uri, mode.lower(), importMode=mode))
    ages = [f"{user},{number + 18}" for number, user in enumerate(USERS)]
    fields = ({"name": "USER_ID"}, {"name": "AGE", "type": ["int", "null"]})
    local.import_metadata(group, "Users", fields, ages)
    versions = {
        recipe: local.train_version(group, recipe, name=recipe) for recipe in (FOR_USERS, BY_ITEM)
    }
    # The file's columns are mixed up, so the reason of the failure quotes a user.
    wrong = f"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\n1,i1,{TO_ERASE[0]},watch\n"
    local.store.put("s3://data/wrong.csv", wrong.encode())
    job = local.wait(local.start_import(dataset, "s3://data/wrong.csv", "wrong"))
    assert TO_ERASE[0] in job["failureReason"]
    return Trained(local.root, versions)


RECORDS = sum(user in TO_ERASE for seed in (0, 1) for user, *_ in build_rows(seed)) + len(TO_ERASE)


def make_lists(local: Local, trained: Trained, job: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return the recommended items of the remaining users, and the users in a segment."""
    lists = local.recommend(trained.versions[FOR_USERS], USERS[4:], job)
    query = {"itemId": "i2"}
    (answer,) = local.answer_lines(trained.versions[BY_ITEM], [query], f"{job}-2", numResults=60)
    return lists, answer["output"]["usersList"]


def test_no_byte_of_the_erased_stays_and_the_others_get_the_same_lists(
    trained: Trained, tmp_path: Path
) -> None:
    local = trained.copy(tmp_path)
    lists, segment = make_lists(local, trained, "before")
    assert find_erased(local).keys() == set(TO_ERASE)
    job = local.wait(start_deletion(local, [*TO_ERASE, "person-unknown"]))
    assert (job["status"], job["numDeleted"]) == ("COMPLETED", RECORDS)
    assert find_erased(local) == {}
    lists_after, segment_after = make_lists(local, trained, "after")
    assert lists_after == lists
    assert segment_after == [user for user in segment if user not in TO_ERASE]
    # To the model, the erased users are strangers now, who get popular items.
    erased = local.recommend(trained.versions[FOR_USERS], [TO_ERASE[0], "stranger"], "erased")
    assert erased[TO_ERASE[0]] == erased["stranger"]


def test_everybody_can_be_erased(trained: Trained, tmp_path: Path) -> None:
    local = trained.copy(tmp_path)
    assert local.wait(start_deletion(local, USERS))["status"] == "COMPLETED"
    assert find_with_text(local.root / "home", "person-") == []
    assert local.recommend(trained.versions[FOR_USERS], ["stranger"])["stranger"]
    second_deletion = local.wait(start_deletion(local, USERS, "again"))
    assert (second_deletion["status"], second_deletion["numDeleted"]) == ("COMPLETED", 0)


def _erase(root: Path) -> None:
    local = Local(root)
    local.wait(start_deletion(local))


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.1, 0.45, 0.75][: repeats(6, 2)])
def test_after_a_kill_during_the_job_another_one_erases_all(
    trained: Trained, tmp_path: Path, part: float
) -> None:
    seconds: list[float] = []
    for is_killed in (False, True):
        root = tmp_path / str(is_killed)
        shutil.copytree(trained.root, root)
        process = FORKS.Process(target=_erase, args=(root,), daemon=True)
        start = time.monotonic()
        process.start()
        process.join(part * seconds[0] if is_killed else 120)
        seconds.append(time.monotonic() - start)
        process.kill()
        process.join()
    local = Local(tmp_path / "True")
    (group,) = local.client.list_dataset_groups()["datasetGroups"]
    for summary in local.client.list_data_deletion_jobs()["dataDeletionJobs"]:
        assert local.wait(summary["dataDeletionJobArn"])["status"] in ("COMPLETED", "FAILED")
    local.wait_until_active(group["datasetGroupArn"])
    assert local.wait(start_deletion(local, name="again"))["status"] == "COMPLETED"
    assert find_erased(local) == {}
    lists, segment = make_lists(local, trained, "after")
    assert all(lists.values())
    assert set(segment) == set(USERS[4:])


def test_a_catalogue_that_is_kept_open_fails_the_job_and_another_one_erases_all(
    trained: Trained, tmp_path: Path
) -> None:
    with impatient_catalogue():
        local = trained.copy(tmp_path)
        with closing(sqlite3.connect(local.root / "home" / "catalog.sqlite")) as shell:
            shell.execute("BEGIN")
            shell.execute("SELECT * FROM resources").fetchall()
            job = local.wait(start_deletion(local))
        assert job["status"] == "FAILED"
        assert "end what has it open" in job["failureReason"]
        assert local.wait(start_deletion(local, name="again"))["status"] == "COMPLETED"
    assert find_erased(local) == {}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Local:
    local = Local(tmp_path_factory.mktemp("films"))
    local.import_rows(build_rows(0))
    return local


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1"),
        (b"USER_ID\n", "s3://data/list.csv"),
        (b"user_id\nperson-001\n", "line 1"),
        (b"USER_ID,AGE\nperson-001,3\n", "line 1"),
        (b"USER_ID\nperson-001\nperson-002,3\n", "line 3"),
        (b'USER_ID\nperson-001\n""\n', "line 3"),
        (b"USER_ID\n" + 257 * b"x", "line 2"),
        (b"USER_ID\n\xff\n", "UTF-8"),
        (b'USER_ID\n"person-001\n', "CSV"),
    ],
)
def test_a_list_in_another_form_fails_the_job_and_no_id_is_quoted(
    untrained: Local, content: bytes, reason: str, request: pytest.FixtureRequest
) -> None:
    untrained.store.put("s3://data/list.csv", content)
    name = f"list-{request.node.callspec.indices['content']}"
    job = untrained.wait(start_deletion(untrained, ["x"], name, "s3://data/list.csv"))
    assert job["status"] == "FAILED"
    assert reason in job["failureReason"]
    assert "person" not in job["failureReason"]


def test_all_files_of_a_folder_are_read_and_ids_may_be_quoted(local: Local) -> None:
    strange = 'person "x", a\nb'
    rows = [
        (strange if user == "person-002" else user, item, time)
        for user, item, time in build_rows(0)
    ]
    lines = [
        f'"{user.replace(chr(34), 2 * chr(34))}",{item},{time},watch' for user, item, time in rows
    ]
    header = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE"
    local.store.put("s3://data/rows.csv", "\n".join([header, *lines, ""]).encode())
    dataset = local.create_dataset(local.create_group())
    local.wait_until_active(local.start_import(dataset, "s3://data/rows.csv"))
    local.store.put("s3://data/lists/1.csv", b"\xef\xbb\xbfUSER_ID\r\nperson-001\r\n")
    local.store.put("s3://data/lists/deeper/2.csv", b'USER_ID\n"person ""x"", a\nb"\n')
    job = local.wait(start_deletion(local, ["x"], location="s3://data/lists/"))
    erased = ("person-001", strange)
    assert job["numDeleted"] == sum(user in erased for user, *_ in rows)
    assert find_with_text(local.root / "home", "person-001") == []


def test_requests_are_checked_and_the_newest_job_is_listed_first(untrained: Local) -> None:
    client, exceptions = untrained.client, untrained.client.exceptions
    with pytest.raises(exceptions.InvalidInputException, match="location"):
        start_deletion(untrained, ["x"], location="https://data/x.csv")
    arns = [untrained.wait(start_deletion(untrained, ["x"], name)) for name in ("first", "second")]
    assert [job["status"] for job in arns] == ["COMPLETED"] * 2
    with pytest.raises(exceptions.ResourceAlreadyExistsException):
        start_deletion(untrained, ["x"], "first")
    (group,) = client.list_dataset_groups()["datasetGroups"]
    options: dict[str, Any] = {"datasetGroupArn": group["datasetGroupArn"], "maxResults": 1}
    page = client.list_data_deletion_jobs(**options)
    following = client.list_data_deletion_jobs(**options, nextToken=page["nextToken"])
    names = [job["jobName"] for job in (*page["dataDeletionJobs"], *following["dataDeletionJobs"])]
    assert names == ["second", "first"]
