"""Data deletion jobs: nothing of the erased users stays in the home, and nothing else changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.local_personalize.catalog.catalog import Catalog
from batchrec_dagster.local_personalize.catalog.home import Home
from batchrec_dagster.local_personalize.operations import data_deletion_jobs
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.forks import FORKS
from batchrec_dagster_tests.guard.servers.personalize import (
    ROLE,
    Local,
    Row,
    build_taste_rows,
    encode_csv,
)

USERS = [f"person-{number:03}" for number in range(60)]
LIST = "s3://data/erase/users.csv"
# The number of a call, and the function that is called. The process dies there.
MOMENTS = ["remove 1", "publish 3", "rewrite 1", "publish 1", "remove 3", "empty 1"]
USERS_SCHEMA = {
    "type": "record",
    "name": "Users",
    "namespace": "com.amazonaws.personalize.schema",
    "fields": [
        {"name": "USER_ID", "type": "string"},
        {"name": "AGE", "type": ["int", "null"]},
    ],
    "version": "1.0",
}


def build_rows(seed: int) -> list[Row]:
    rows = build_taste_rows(seed=seed)
    return [(f"person-{int(user[1:]):03}", item, time) for user, item, time in rows]


def find_with_text(folder: Path, text: str) -> list[Path]:
    """The files under the folder that have the text in their name or anywhere in their bytes."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if text in path.name or (path.is_file() and text.encode() in path.read_bytes())
    ]


def assert_erased(home: Path, users: Iterable[str]) -> None:
    """Fails with the files that still have one of the users."""
    files = {user: find_with_text(home, user) for user in users}
    assert {user: paths for user, paths in files.items() if paths} == {}


def start_deletion(local: Local, users: Iterable[str], name: str = "erase", **options: Any) -> str:
    """Creates a data deletion job, which may still run, and returns its ARN."""
    local.store.put(LIST, "".join(f"{line}\n" for line in ("USER_ID", *users)).encode())
    options = {"roleArn": ROLE, "dataSource": {"dataLocation": LIST}, **options}
    (group,) = local.client.list_dataset_groups()["datasetGroups"]
    return local.client.create_data_deletion_job(
        jobName=name, datasetGroupArn=group["datasetGroupArn"], **options
    )["dataDeletionJobArn"]


@dataclass
class Trained:
    """A home with two imports of interactions, one of users, two models and a rejected file."""

    root: Path
    """The folder of the home and of its storage."""
    versions: dict[str, str]
    """The ARNs of the solution versions, by their recipes."""
    to_erase: list[str]
    records: int
    """How many records these users have."""

    def copy(self, folder: Path) -> Local:
        """Opens a copy in the folder."""
        shutil.copytree(self.root, folder, dirs_exist_ok=True)
        return Local(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    local = Local(tmp_path_factory.mktemp("trained"))
    rows = {mode: build_rows(seed) for seed, mode in enumerate(("FULL", "INCREMENTAL"))}
    group = local.create_group()
    dataset = local.create_dataset(group)
    for mode, mode_rows in rows.items():
        uri = f"s3://data/{mode}.csv"
        local.store.put(uri, encode_csv(mode_rows))
        local.wait_until_active(local.start_import(dataset, uri, mode.lower(), importMode=mode))
    schema = local.client.create_schema(name="users", schema=json.dumps(USERS_SCHEMA))["schemaArn"]
    answer = local.client.create_dataset(
        name="users", schemaArn=schema, datasetGroupArn=group, datasetType="Users"
    )
    users = local.wait_until_active(answer["datasetArn"])
    ages = "".join(f"{user},{number + 18}\n" for number, user in enumerate(USERS))
    local.store.put("s3://data/users.csv", f"USER_ID,AGE\n{ages}".encode())
    local.wait_until_active(local.start_import(users, "s3://data/users.csv", "users"))
    versions = {}
    for recipe in ("aws-user-personalization", "aws-item-affinity"):
        solution = local.create_solution(group, recipe, name=recipe)
        versions[recipe] = local.wait_until_active(local.create_version(solution))
    to_erase = USERS[:4]
    # Models have no ids, so there is nothing in them to erase.
    assert find_with_text(local.root / "home" / "models", "person-") == []
    # A file whose columns are mixed up: the reason of the failure quotes a user.
    wrong = f"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\n1,i1,{to_erase[0]},watch\n"
    local.store.put("s3://data/wrong.csv", wrong.encode())
    failed = local.wait(local.start_import(dataset, "s3://data/wrong.csv", "wrong"))
    assert f"but it is '{to_erase[0]}'." in failed["failureReason"]
    events = [user for mode_rows in rows.values() for user, *_ in mode_rows]
    records = sum(user in to_erase for user in [*events, *USERS])
    return Trained(local.root, versions, to_erase, records)


def make_lists(local: Local, trained: Trained, job: str) -> tuple[dict[str, list[str]], list[str]]:
    """The items recommended to the users who stay, and the users in a segment."""
    others = [user for user in USERS if user not in trained.to_erase]
    lists = local.recommend(trained.versions["aws-user-personalization"], others, job)
    local.store.put("s3://data/queries.json", b'{"itemId":"i2"}\n')
    segment = local.create_segment_job(
        trained.versions["aws-item-affinity"],
        target=f"s3://data/{job}/segments/",
        jobName=f"{job}-segments",
        numResults=60,
    )
    local.wait_until_active(segment)
    (line,) = local.read_lines(f"s3://data/{job}/segments/queries.json.out")
    return lists, json.loads(line)["output"]["usersList"]


def test_no_byte_of_the_erased_stays_and_the_others_get_the_same_lists(
    trained: Trained, tmp_path: Path
) -> None:
    local = trained.copy(tmp_path)
    home = local.root / "home"
    lists, segment = make_lists(local, trained, "before")
    assert all(find_with_text(home, user) for user in trained.to_erase)
    rows_before = _read_all_rows(home)

    job = local.wait(start_deletion(local, [*trained.to_erase, "person-unknown"]))

    assert job["status"] == "COMPLETED", job
    assert job["numDeleted"] == trained.records
    assert_erased(home, trained.to_erase)
    is_other = ~pl.col("USER_ID").is_in(trained.to_erase)
    for before, after in zip(rows_before, _read_all_rows(home), strict=True):
        assert after.equals(before.filter(is_other))
    lists_after, segment_after = make_lists(local, trained, "after")
    assert lists_after == lists
    assert segment_after == [user for user in segment if user not in trained.to_erase]
    # To the model they are strangers now, who get what is popular.
    erased = local.recommend(
        trained.versions["aws-user-personalization"], [trained.to_erase[0], "stranger"], "erased"
    )
    assert erased[trained.to_erase[0]] == erased["stranger"]


def _read_all_rows(home: Path) -> list[pl.DataFrame]:
    """The rows of each import that the catalog names, in its order."""
    with Catalog(home / "catalog.sqlite").open_for_reading() as transaction:
        datasets = transaction.list_resources("Dataset")
    files = [file for dataset in datasets for file in dataset.state["files"]]
    frames = [pl.read_parquet(home / file["path"] / "rows.parquet") for file in files]
    assert [frame.height for frame in frames] == [file["rows"] for file in files]
    return frames


def test_everybody_can_be_erased(trained: Trained, tmp_path: Path) -> None:
    local = trained.copy(tmp_path)
    assert local.wait(start_deletion(local, USERS))["status"] == "COMPLETED"
    assert find_with_text(local.root / "home", "person-") == []
    lists = local.recommend(trained.versions["aws-user-personalization"], ["stranger"], "after")
    assert lists["stranger"]
    again = local.wait(start_deletion(local, USERS, "again"))
    assert (again["status"], again["numDeleted"]) == ("COMPLETED", 0)


def _kill_at(moment: str) -> None:
    """Have this process die at the moment: before the call of a function, or after it."""
    place, _, number = moment.partition(" ")
    owner, name = {
        "publish": (Home, "publish"),
        "remove": (data_deletion_jobs, "remove_path"),
        "rewrite": (Catalog, "rewrite"),
        "empty": (Catalog, "empty_log"),
    }[place]
    function = getattr(owner, name)
    calls = []

    def die(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == int(number):
            if name == "publish":  # The copy is there, and the catalog does not name it yet.
                function(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    setattr(owner, name, die)


def _run_until_killed(root: Path, users: list[str], moment: str) -> None:
    _kill_at(moment)
    local = Local(root)
    local.wait(start_deletion(local, users))


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS[: repeats(6, 2)])
def test_a_killed_job_is_finished_by_the_next_process(
    trained: Trained, tmp_path: Path, moment: str
) -> None:
    shutil.copytree(trained.root, tmp_path, dirs_exist_ok=True)
    process = FORKS.Process(
        target=_run_until_killed, args=(tmp_path, trained.to_erase, moment), daemon=True
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    local = Local(tmp_path)
    (summary,) = local.client.list_data_deletion_jobs()["dataDeletionJobs"]
    job = local.wait(summary["dataDeletionJobArn"])
    assert (job["status"], job["numDeleted"]) == ("COMPLETED", trained.records)
    home = local.root / "home"
    assert_erased(home, trained.to_erase)
    # No file is left that no resource owns.
    assert len(list((home / "datasets").iterdir())) == 3
    assert len(list((home / "models").iterdir())) == 2


def test_damaged_data_fail_the_job_and_are_named(trained: Trained, tmp_path: Path) -> None:
    local = trained.copy(tmp_path)
    path = min((local.root / "home").glob("datasets/*/rows.parquet"))
    path.write_bytes(path.read_bytes()[:-3])
    job = local.wait(start_deletion(local, trained.to_erase))
    assert job["status"] == "FAILED"
    assert "dataset/films/" in job["failureReason"]
    fix = "Import it again, without the users, and create another job."
    assert job["failureReason"].endswith(fix)


def test_it_runs_alone_in_its_group(local: Local) -> None:
    """An import before it is erased too, and one after it is not."""
    _, dataset = local.import_rows(build_rows(0))
    uri = "s3://data/interactions.csv"
    first = local.start_import(dataset, uri, "before", importMode="INCREMENTAL")
    deletion = start_deletion(local, ["person-001"])
    last = local.start_import(dataset, uri, "after", importMode="INCREMENTAL")
    local.wait_until_active(last)
    assert local.describe(first)["status"] == "ACTIVE"
    count = sum(user == "person-001" for user, *_ in build_rows(0))
    assert local.describe(deletion)["numDeleted"] == 2 * count
    heights = [
        frame.filter(USER_ID="person-001").height for frame in _read_all_rows(local.root / "home")
    ]
    assert heights == [0, 0, count]


def test_a_group_is_not_taken_apart_during_the_job(local: Local) -> None:
    group, dataset = local.import_rows(build_rows(0))
    solution = local.create_solution(group, "aws-user-personalization")
    local.wait_until_active(local.create_version(solution))
    local.client = local.open_idle_client()
    start_deletion(local, ["person-001"])
    in_use = local.client.exceptions.ResourceInUseException
    with pytest.raises(in_use, match="data deletion job"):
        local.client.delete_dataset(datasetArn=dataset)
    with pytest.raises(in_use, match="data deletion job"):
        local.client.delete_solution(solutionArn=solution)
    with pytest.raises(in_use, match="data deletion job"):
        local.client.delete_dataset_group(datasetGroupArn=group)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1: the file must have the one column USER_ID"),
        (b"USER_ID\n", "There are no users at s3://data/list.csv"),
        (b"user_id\nperson-001\n", "line 1: the file must have the one column USER_ID"),
        (b"USER_ID,AGE\nperson-001,3\n", "line 1: the file must have the one column USER_ID"),
        (b"USER_ID\nperson-001\nperson-002,3\n", "line 3: 2 fields, but the header has 1"),
        (b'USER_ID\nperson-001\n""\n', "line 3: an id must have 1 to 256 characters"),
        (b"USER_ID\n" + 257 * b"x", "line 2: an id must have 1 to 256 characters"),
        (b"USER_ID\n\xff\n", "is not encoded in UTF-8"),
        (b'USER_ID\n"person-001\n', "cannot be read as CSV"),
    ],
)
def test_a_list_in_another_form_fails_the_job_and_no_id_is_quoted(
    films_without_models: Local, content: bytes, reason: str, request: pytest.FixtureRequest
) -> None:
    local = films_without_models
    name = f"list-{request.node.callspec.indices['content']}"
    arn = start_deletion(
        local, ["x"], name, dataSource={"dataLocation": _put(local, "list.csv", content)}
    )
    job = local.wait(arn)
    assert job["status"] == "FAILED"
    assert reason in job["failureReason"]
    assert "person" not in job["failureReason"]
    assert "numDeleted" not in job


@pytest.fixture(scope="module")
def films_without_models(tmp_path_factory: pytest.TempPathFactory) -> Local:
    local = Local(tmp_path_factory.mktemp("films"))
    local.import_rows(build_rows(0))
    return local


def _put(local: Local, key: str, content: bytes) -> str:
    local.store.put(f"s3://data/{key}", content)
    return f"s3://data/{key}"


def test_all_files_of_a_folder_are_read_and_ids_may_be_quoted(local: Local) -> None:
    strange = 'person "x", a\nb'
    rows = [
        (strange if user == "person-002" else user, item, time)
        for user, item, time in build_rows(0)
    ]
    group = local.create_group()
    dataset = local.create_dataset(group)
    lines = [
        f'"{user.replace(chr(34), 2 * chr(34))}",{item},{time},watch' for user, item, time in rows
    ]
    csv = "\n".join(["USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE", *lines, ""]).encode()
    local.wait_until_active(local.start_import(dataset, _put(local, "rows.csv", csv)))
    _put(local, "lists/1.csv", b"\xef\xbb\xbfUSER_ID\r\nperson-001\r\n")
    _put(local, "lists/deeper/2.csv", b'USER_ID\n"person ""x"", a\nb"\n')
    arn = start_deletion(local, ["x"], dataSource={"dataLocation": "s3://data/lists/"})
    job = local.wait(arn)
    erased = ("person-001", strange)
    assert job["numDeleted"] == sum(user in erased for user, *_ in rows)
    (frame,) = _read_all_rows(local.root / "home")
    assert not frame["USER_ID"].is_in(erased).any()


def test_requests_are_checked(local: Local) -> None:
    local.client = local.open_idle_client()
    group = local.client.create_dataset_group(name="films")["datasetGroupArn"]
    exceptions = local.client.exceptions
    with pytest.raises(exceptions.ResourceInUseException):
        start_deletion(local, ["x"])
    local.client = local.open_client()
    local.wait_until_active(group)
    local.client = local.open_idle_client()
    exceptions = local.client.exceptions
    with pytest.raises(exceptions.InvalidInputException, match="dataLocation is required"):
        start_deletion(local, ["x"], dataSource={})
    with pytest.raises(exceptions.InvalidInputException, match="Invalid Data location"):
        start_deletion(local, ["x"], dataSource={"dataLocation": "https://data/x.csv"})
    with pytest.raises(exceptions.ResourceNotFoundException):
        local.client.create_data_deletion_job(
            jobName="x",
            datasetGroupArn=group + "-other",
            roleArn=ROLE,
            dataSource={"dataLocation": LIST},
        )
    arns = [start_deletion(local, ["x"], name) for name in ("first", "second")]
    with pytest.raises(exceptions.ResourceAlreadyExistsException):
        start_deletion(local, ["x"], "first")
    assert local.describe(arns[0])["status"] == "PENDING"
    # The newest first, unlike other lists.
    page = local.client.list_data_deletion_jobs(datasetGroupArn=group, maxResults=1)
    rest = local.client.list_data_deletion_jobs(
        datasetGroupArn=group, maxResults=1, nextToken=page["nextToken"]
    )
    assert [job["jobName"] for job in (*page["dataDeletionJobs"], *rest["dataDeletionJobs"])] == [
        "second",
        "first",
    ]
    assert "nextToken" not in rest
