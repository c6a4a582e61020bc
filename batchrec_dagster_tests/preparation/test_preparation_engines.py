"""`preparation.engine`: the asset is the same, whichever engine makes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.preparation.rules import ERASED_USER
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.erased import add_erased_users
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    metadata,
    write_ratings,
)
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.preparation.spark_support import QUICK_ARGUMENTS

pytestmark = [pytest.mark.slow, nightly("Spark takes seconds for each")]


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
    storage = Storage(root=str(project.storage), s3=S3Connection())
    add_erased_users(ListFiles(storage, ListKeys("shop")), [ERASED])
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
    assert {"interactions.csv", "work"} <= removed_names
    assert local.success
    assert spark.success
    assert find_data_version(instance, "shop") == version
    assert read_users_files(project) == users
    assert prepare(
        project, "shop", instance, ["batch_users"], **attributes, batch_users=SINCE
    ).success
    assert read_users_files(project) == active
    local_metadata, spark_metadata = (metadata(result, "interactions") for result in (local, spark))
    assert spark_metadata["engine"] == "spark"
    assert spark_metadata["left_out_by_reason"]["the rating is not a number"] == 1
    assert spark_metadata["left_out_by_reason"][ERASED_USER] == 1
    assert spark_metadata["erased_users_in_source"] == 1
    assert not (project.storage / "shop/raw/ratings/ratings.csv").exists()
    assert spark_metadata["bad_row_examples"] == [f"{ratings}: the rating is not a number"]
    engine_keys = ("engine", "seconds", "bad_row_examples")
    assert drop_keys(spark_metadata, *engine_keys) == drop_keys(local_metadata, *engine_keys)
