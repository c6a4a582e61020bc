"""`preparation.engine`: the asset is the same, whichever engine makes it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_pipes import PipesContext
from moto.glue.models import FakeJobRun

from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.rules import ERASED_USER
from batchrec_dagster.preparation.spark.task import SparkTask, SparkTaskResult
from batchrec_dagster.storage.hashed_users import SuppressedUsers
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster.storage.suppressed_users import SuppressionList
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    last_times,
    metadata,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.preparation.aws_jobs import ROLE, glue, say
from batchrec_dagster_tests.preparation.spark_support import QUICK_ARGUMENTS

pytestmark = pytest.mark.slow


ALL = ("raw_ratings", "interactions", "batch_users")
# It is shortly before the last time of write_ratings, so not all users were active since then.
SINCE = {"active_since": "2017-11-03"}
ERASED = "person-of-no-return"


def prepare(
    project: Project,
    name: str,
    instance: dg.DagsterInstance,
    assets: Sequence[str] = ALL,
    **attributes: Any,
) -> dg.ExecuteInProcessResult:
    """Materialise these assets of a pipeline declared so."""
    project.declare(declaration(name, project.root / "ratings.csv", **attributes))
    with definitions(project) as defs:
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey([name, asset]) for asset in assets],
            raise_on_error=False,
        )


def find_data_version(instance: dg.DagsterInstance, name: str) -> str | None:
    event = instance.get_latest_materialization_event(dg.AssetKey([name, "interactions"]))
    assert event is not None
    assert event.asset_materialization is not None
    return (event.asset_materialization.tags or {}).get("dagster/data_version")


def drop_keys(metadata: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in names}


def read_users_files(project: Project) -> dict[str, str]:
    folder = project.storage / "shop/transformed/batch_users_input"
    return {path.name: path.read_text() for path in sorted(folder.rglob("users*.json"))}


@contextmanager
def removals(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The names of what was in the temporary folders that were removed."""
    names: set[str] = set()
    remove = shutil.rmtree

    def remove_and_note(folder: Path | str, *positional: Any, **options: Any) -> None:
        names.update(path.name for path in Path(folder).iterdir())
        remove(folder, *positional, **options)

    with monkeypatch.context() as patch:
        patch.setattr("batchrec_dagster.storage.durable.shutil.rmtree", remove_and_note)
        yield names


def test_spark_here_gives_what_the_local_engine_gives(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", QUICK_ARGUMENTS)
    ratings = write_ratings(project.root / "ratings.csv")
    ratings.write_text(ratings.read_text() + "1,2,x,4\n" + f"{ERASED},2,5,1505000000\n")
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    SuppressionList(PipelineFiles(storage, StorageKeys("shop"))).add([ERASED])
    attributes: dict[str, Any] = {"ratings": {"source": str(ratings), "on_bad_rows": "skip"}}
    local = prepare(project, "shop", instance, **attributes)
    version = find_data_version(instance, "shop")
    users = read_users_files(project)
    assert list(users) == ["users.json"]
    assert prepare(
        project, "shop", instance, ["batch_users"], **attributes, batch_users=SINCE
    ).success
    active = read_users_files(project)
    assert 0 < len("".join(active.values()).split()) < 60
    shutil.rmtree(project.storage / "shop/transformed")
    attributes["preparation"] = {"engine": "spark", "memory": "1g"}
    with removals(monkeypatch) as removed_names:
        spark = prepare(project, "shop", instance, **attributes)
    assert {"interactions.csv", "spark"} <= removed_names
    assert local.success
    assert spark.success
    assert find_data_version(instance, "shop") == version
    assert read_users_files(project) == users
    # The step does not read the interactions to know their users.
    interactions_file = project.storage / "shop/transformed/interactions/interactions.csv"
    file_stat = interactions_file.stat()
    interactions_file.write_bytes(b"?" * file_stat.st_size)
    os.utime(interactions_file, ns=(file_stat.st_atime_ns, file_stat.st_mtime_ns))
    assert prepare(
        project, "shop", instance, ["batch_users"], **attributes, batch_users=SINCE
    ).success
    assert read_users_files(project) == active
    local_metadata, spark_metadata = (metadata(result, "interactions") for result in (local, spark))
    assert spark_metadata["engine"] == "spark"
    assert spark_metadata["left_out_by_reason"]["the rating is not a number"] == 1
    assert spark_metadata["left_out_by_reason"][ERASED_USER] == 1
    assert spark_metadata["erased_users_in_source"] == 1
    assert not (project.storage / "shop/raw/ratings.csv").exists()
    engine_keys = ("engine", "seconds")
    assert drop_keys(spark_metadata, *engine_keys) == drop_keys(local_metadata, *engine_keys)


def test_glue_leaves_the_data_in_s3(
    project: Project,
    instance: dg.DagsterInstance,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The job is played by the local engine, which does as told: from S3 to S3."""
    ratings = write_ratings(project.root / "ratings.csv")
    prepare(project, "shop", instance)
    ratings.write_text(ratings.read_text() + f"{ERASED},2,5,1505000000\n")
    version = find_data_version(instance, "shop")
    users = read_users_files(project)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    project.environment.update(
        BATCHREC_STORAGE=f"s3://{s3.create_bucket()}/data", AWS_ENDPOINT_URL_S3=s3.endpoint
    )
    store = s3.store()
    connection = S3Connection(endpoint_url=s3.endpoint)
    storage = StorageResource(root=project.environment["BATCHREC_STORAGE"], s3=connection)
    SuppressionList(PipelineFiles(storage, StorageKeys("shop"))).add([ERASED])
    counts = {"users": 60, "users_with_two": 60, "items": 80}

    def succeed_once(run: FakeJobRun) -> None:
        if run.status != "SUCCEEDED":
            say(
                s3.client(),
                run.arguments or {},
                lambda pipes: play_job(pipes, store, tmp_path, counts),
            )
        run.status = "SUCCEEDED"

    monkeypatch.setattr(FakeJobRun, "advance", lambda self: succeed_once(self))
    downloaded_uris: list[str] = []
    download = ObjectStore.download

    def download_and_note(self: ObjectStore, uri: str, path: Path) -> None:
        downloaded_uris.append(uri)
        download(self, uri, path)

    monkeypatch.setattr(ObjectStore, "download", download_and_note)
    with glue(monkeypatch):
        engine = {"engine": "glue", "job_name": "prepare", "role": ROLE}
        result = prepare(project, "shop", instance, preparation=engine)
        counts["users_with_two"] = 0
        write_ratings(project.root / "ratings.csv", seed=1)  # Others: they are prepared again.
        refused_result = prepare(project, "shop", instance, preparation=engine)
    assert result.success
    assert find_data_version(instance, "shop") == version
    spark_metadata = metadata(result, "interactions")
    assert spark_metadata["engine"] == "glue"
    assert spark_metadata["users"] == 60
    assert spark_metadata["AWS Glue Job Name"] == "prepare"
    root = project.environment["BATCHREC_STORAGE"]
    interactions_csv = store.get(f"{root}/shop/transformed/interactions/interactions.csv")
    assert interactions_csv.startswith(b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\n")
    # Nothing is left of a result that the checks block.
    assert "0 of them with two or more" in why(refused_result)
    assert not store.list(f"{root}/shop/work/")
    assert store.get(f"{root}/shop/transformed/batch_users_input/users.json").decode() == "".join(
        users.values()
    )
    assert not [uri for uri in downloaded_uris if uri.endswith("/interactions.csv")]


def play_job(
    pipes: PipesContext, store: ObjectStore, folder: Path, counts: Mapping[str, int]
) -> None:
    """Do the task, as the job would."""
    task = SparkTask.from_json(pipes.get_extra("task"))
    (file,) = task.files
    assert task.suppressed is not None
    suppressed = SuppressedUsers.from_json(json.loads(store.get(task.suppressed)))
    for info in store.list(f"{task.work}/"):
        store.delete(info.uri)
    store.download(file.uri, folder / "raw.csv")
    files = [RawFile(folder / "raw.csv", file.name)]
    with open_ratings(files, task.layout, task.rules, suppressed) as read:
        result = read.write_interactions(folder / "interactions.csv")
    store.put(task.destination, folder / "interactions.csv")
    last_times(folder / "interactions.csv").write_parquet(folder / "users.parquet")
    store.put(task.users, folder / "users.parquet")
    sha256 = hashlib.sha256((folder / "interactions.csv").read_bytes()).hexdigest()
    time_bounds = {"earliest": 1_500_000_000, "latest": 1_510_000_000}
    task_result = SparkTaskResult(**{**vars(result), **counts, **time_bounds, "sha256": sha256})
    pipes.report_custom_message({"done": asdict(task_result)})


def test_glue_needs_the_storage_in_s3(project: Project, instance: dg.DagsterInstance) -> None:
    write_ratings(project.root / "ratings.csv")
    result = prepare(
        project, "shop", instance, preparation={"engine": "glue", "job_name": "prepare"}
    )
    assert "BATCHREC_STORAGE=s3://bucket/prefix" in why(result)


@pytest.mark.parametrize(
    ("preparation", "message"),
    [
        ({"engine": "glue"}, "engine glue needs job_name"),
        ({"engine": "spark", "workers": 3}, "workers is a setting of engine glue, not of spark"),
        ({"engine": "glue", "job_name": "j", "role": "me"}, "write an ARN such as"),
        ({"engine": "spark", "memory": "much"}, "write a size such as 4g"),
        ({"engine": "flink"}, "local, spark or glue"),
    ],
)
def test_invalid_engine_settings_fail_at_load_time(
    project: Project, preparation: dict[str, Any], message: str
) -> None:
    project.declare(declaration("shop", "sample://hetrec", preparation=preparation))
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    assert message in str(error.value)
    assert "preparation" in str(error.value)


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ({"query": "SELECT 1"}, "ratings.query: preparation.engine spark runs no query"),
        ({"format": "delta"}, "ratings.format: preparation.engine spark reads no Delta table"),
    ],
)
def test_rows_that_only_the_local_engine_makes_are_refused_by_name(
    project: Project, ratings: dict[str, Any], message: str
) -> None:
    ratings = {"source": "orders/", **ratings}
    preparation = {"engine": "spark"}
    project.declare({"name": "shop", "ratings": ratings, "preparation": preparation})
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    assert message in str(error.value)
