"""Tests of the deletions after a publication, in a folder and in S3.

guard/stories/test_retention.py runs whole nights.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.personalize.api import ACTIVE, IMPORT_JOB, ResourceKind
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.personalize.resources import Resources
from batchrec_dagster.steps.context import Run, StepContext
from batchrec_dagster.steps.lists.retention import delete_unneeded
from batchrec_dagster.steps.records import DatasetRecord, ImportedFile
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.records import save
from batchrec_dagster_tests.guard.builders import declaration
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition
from batchrec_dagster_tests.guard.servers.s3 import OWNER, READER, REGION, Keys, S3Server

IMPORTED = datetime(2026, 11, 20, tzinfo=UTC)
JOB = "arn:aws:personalize:us-east-1:000000000000:batch-inference-job/"
SEGMENTS = {"items": ["1"]}
UNTITLED = {"item": "id", "categories": {"GENRES": "genres"}}
ITEMS = {"source": "items.csv", "columns": {"item": "id", "title": "title"}}


@dataclass(frozen=True)
class FakeResources(Resources):
    """Resources on AWS with the given batch jobs, so that no models are given up."""

    statuses: dict[str, str] = field(default_factory=dict)
    """The jobs' statuses by name. A job with `new` in its name is newer than the import."""

    def list(self, kind: ResourceKind, **within: str) -> list[Any]:
        return [
            {
                kind.name: name,
                "status": status,
                "creationDateTime": IMPORTED + timedelta(hours=1 if "new" in name else -1),
            }
            for name, status in self.statuses.items()
        ]

    def describe(self, kind: ResourceKind, arn: str) -> dict[str, Any]:
        assert kind is IMPORT_JOB
        return {"creationDateTime": IMPORTED}


@dataclass
class Place:
    """A storage, with credentials if it is in S3."""

    root: str
    s3: S3Server | None = None

    def open(self, keys: Keys = OWNER) -> Storage:
        if self.s3 is None:
            return Storage(root=self.root, s3=S3Connection())
        connection = S3Connection(
            region_name=REGION,
            endpoint_url=self.s3.endpoint,
            aws_access_key_id=keys.access,
            aws_secret_access_key=keys.secret,
        )
        return Storage(root=self.root, s3=connection)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(str(tmp_path / "storage"))
    s3: S3Server = request.getfixturevalue("s3")
    return Place(f"s3://{s3.create_bucket()}/batchrec", s3)


def make_step(storage: Storage, statuses: Any = (), **settings: Any) -> StepContext:
    pipeline = Pipeline.model_validate(declaration("shop", "ratings.csv", **settings))
    resources = FakeResources(
        client=None,  # type: ignore[arg-type]
        log=logging.getLogger("retention"),
        tags={},
        poll_seconds=0,
        busy_seconds=0,
        heartbeat_seconds=60,
        deadline_seconds=60,
        on_aws=True,
        statuses=dict(statuses),
    )
    return StepContext(pipeline, storage, Run("run", "run"), resources, Prices())


def publish(step: StepContext, folder: Path, name: str = "", **facts: Any) -> None:
    """Publish the next edition of the list, made from the job with the same number."""
    (published,) = (candidate for candidate in step.pipeline.user_lists if candidate.name == name)
    table = step.files_of(published).editions
    number = table.next_number()
    facts = {"job_arn": f"{JOB}shop-{number}", **facts}
    with ListWriter(folder / "lists.parquet") as writer:
        writer.write(pa.table({"user_id": ["1"]}))
        writer.finish(make_edition({"number": number, "version": f"v{number}", **facts}))
    table.publish(writer.path, step.pipeline.retention.editions, ALONE)


def write_output(step: StepContext, job: str) -> None:
    for name in ("users_0001.json.out", "users_0002.json.out", "_CHECK"):
        key = f"shop/curated/batch_inference/{job}/{name}"
        step.storage.store.put(step.storage.uri(key), b"{}\n")


def list_keys(storage: Storage, prefix: str) -> list[str]:
    """Return the keys below the prefix, without the prefix."""
    root = storage.uri(prefix)
    return [info.uri.removeprefix(root) for info in storage.store.list(root)]


def list_jobs(storage: Storage) -> list[str]:
    """Return the names of the jobs that have an output or, in a folder, an output folder."""
    prefix = "shop/curated/batch_inference/"
    names = {key.partition("/")[0] for key in list_keys(storage, prefix)}
    if not storage.in_s3:
        assert set(storage.store.subfolders(storage.uri(prefix))) == names
    return sorted(names)


def delete_for_users(step: StepContext) -> None:
    """Delete unneeded files after the first list of users was published."""
    delete_unneeded(step, step.pipeline.user_lists[0])


def test_outputs_go_with_their_editions(place: Place, tmp_path: Path) -> None:
    storage = place.open()
    jobs = {"shop-9": "CREATE IN_PROGRESS", "shop-8": "CREATE FAILED", "shop-7": ACTIVE}
    step = make_step(storage, jobs, retention={"editions": 2})
    for number in range(1, 5):
        write_output(step, f"shop-{number}")
        publish(step, tmp_path)
    for name in (*jobs, "shop-6"):
        write_output(step, name)
    # The outputs of the current edition's job, of two older editions' jobs, of this run's job and
    # of a job under way stay. Edition 1 is gone, and the remaining jobs were never published.
    for _ in range(2):
        delete_unneeded(step, step.pipeline.user_lists[0], f"{JOB}shop-6")
        assert list_jobs(storage) == ["shop-2", "shop-3", "shop-4", "shop-6", "shop-9"]
    assert len(list_keys(storage, "shop/curated/batch_inference/")) == 15


def test_outputs_that_another_list_needs_or_will_adopt_stay(tmp_path: Path) -> None:
    storage = Place(str(tmp_path / "storage")).open()
    jobs = dict.fromkeys(("home", "app", "gone", "new"), ACTIVE)
    step = make_step(storage, jobs, lists={"home": {}, "app": {}})
    imported = {"interactions": ImportedFile(dataset_arn="d", import_job_arn="i")}
    record = DatasetRecord(
        made_of={},
        version="v",
        dataset_group_arn="a",
        dataset_group_name="shop-1",
        imports=imported,
    )
    save(storage.store, step.files.record_uri("personalize_dataset"), record)
    for name in jobs:
        write_output(step, name)
    for name in ("home", "app"):
        publish(step, tmp_path, name, job_arn=f"{JOB}{name}")
    # A list that is made later in the run, or at the same time, adopts jobs on the same data.
    delete_for_users(step)
    assert list_jobs(storage) == ["app", "home", "new"]


UNDECLARED = {
    "items": ["raw/items/items.csv", "records/raw_items.json", "transformed/items/items.csv"],
    "titles": ["transformed/item_titles/item_titles.parquet"],
    "segments": [
        "curated/batch_segments/shop-1/queries.json.out",
        "curated/user_segments/user_segments.parquet",
        "records/segment_solution_version.json",
        "transformed/batch_segments_input/queries.json",
    ],
    "experiment": ["transformed/batch_users_of_arms/model/users.json"],
}
# Files that a person put there, and files that the pipeline itself still needs.
OTHER_FILES = [
    "raw/ratings/ratings.csv",
    "curated/exports/lists.csv",
    "transformed/interactions/interactions.csv",
    "records/raw_ratings.json",
]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, []),
        ({"items": ITEMS}, ["items", "titles"]),
        ({"items": {**ITEMS, "columns": UNTITLED}}, ["items"]),
        ({"segments": SEGMENTS}, ["segments"]),
        ({"experiment": {"name": "x", "control": "popular"}}, ["experiment"]),
        ({"experiment": {"name": "x", "control": "none"}}, ["experiment"]),
        ({"recommendations": {"newcomers": "popular"}}, ["experiment"]),
    ],
)
def test_files_of_removed_settings_are_deleted(
    tmp_path: Path, settings: dict[str, Any], kept: list[str]
) -> None:
    storage = Place(str(tmp_path / "storage")).open()
    write_undeclared(storage)
    delete_for_users(make_step(storage, **settings))
    keys_kept = [*OTHER_FILES, *(key for name in kept for key in UNDECLARED[name])]
    assert list_keys(storage, "shop/") == sorted(keys_kept)
    folders = {path.name for path in (tmp_path / "storage/shop").rglob("*") if path.is_dir()}
    assert folders == {name for key in keys_kept for name in key.split("/")[:-1]}


def write_undeclared(storage: Storage) -> None:
    for key in (*OTHER_FILES, *(key for keys in UNDECLARED.values() for key in keys)):
        storage.store.put(storage.uri(f"shop/{key}"), b"x")


def test_undeletable_objects_are_named_and_fail_nothing(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(f"s3://{s3.create_bucket()}/batchrec", s3)
    step = make_step(place.open(), retention={"editions": 1})
    for number in range(1, 4):
        write_output(step, f"shop-{number}")
        publish(step, tmp_path)
    write_undeclared(place.open())
    keys = list_keys(place.open(), "shop/")
    delete_for_users(make_step(place.open(READER), retention={"editions": 1}))
    assert list_keys(place.open(), "shop/") == keys
    outputs, removed = (record.getMessage() for record in caplog.records)
    assert outputs.startswith("retention: outputs of batch jobs could not be deleted, and")
    assert "permission denied" in outputs
    assert removed.startswith("retention: what removed settings left could not be deleted, and")
    assert "s3:DeleteObject" in removed
