"""Half a catalogue, or half the ratings, is refused before anything is imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.steps.checks import ROWS_TITLED
from batchrec_dagster.steps.data_sizes import NOT_SHRUNK
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import (
    Project,
    definitions,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.pipeline.test_suppressed_users import log_in_to_bucket
from batchrec_dagster_tests.preparation.test_items import declare_with_items, write_items

pytestmark = pytest.mark.slow

ANYWAY = {"config": {"skip_quality_gate": True}}


def halve(file: Path) -> None:
    """Leave out every second line of the file, as a broken export would."""
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *rows[::2]]) + "\n")


def find_checks(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """What the checks of the data say, by asset."""
    return {
        check.asset_key.path[-1]: str(check.description).replace("\\", "")
        for check in result.get_asset_check_evaluations()
        if check.check_name == NOT_SHRUNK
    }


def read_all(storage: StorageResource) -> dict[str, bytes]:
    """What is published and prepared, by its place."""
    folders = [storage.uri(f"shop/{folder}/") for folder in ("curated", "transformed")]
    objects = [info.uri for folder in folders for info in storage.store.list(folder)]
    return {uri: bytes(storage.store.get(uri)) for uri in objects}


def find_published_check(storage: StorageResource, name: str) -> dict[str, Any]:
    """The check of the published edition."""
    edition = PipelineFiles(storage, StorageKeys("shop")).table.current()
    assert edition is not None
    (check,) = [check for check in edition.about["checks"] if check["name"] == name]
    return dict(check)


def publish(project: Project, instance: dg.DagsterInstance, *, skip_items: bool = False) -> str:
    """Run a refresh, and return what the check of the items says.

    skip_items: whether to publish although many are missing.
    """
    # How good the model is does not matter here.
    ops = {"shop__recommendations": ANYWAY, **({"shop__raw_items": ANYWAY} if skip_items else {})}
    result = refresh(project, "shop", instance, {"ops": ops})
    assert result.success, why(result)
    return find_checks(result)["raw_items"]


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_half_of_the_data_is_neither_imported_nor_published(
    place: str,
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    if place == "bucket":
        storage = log_in_to_bucket(request.getfixturevalue("s3"), project, monkeypatch)
    project.declare(declare_with_items(project))
    ratings = write_ratings(project.root / "ratings.csv", users=90)
    assert publish(project, instance) == "80 items; not compared: nothing is published yet"
    published = read_all(storage)

    halve(project.root / "items.csv")
    halve(ratings)
    refused_items = refresh(project, "shop", instance, assets=["raw_items", "items"])
    assert why(refused_items) == (
        "not_shrunk: much is missing that edition 1 was made from: items fell from 80 to 40 (50%"
        " fewer). gate.max_shrink allows 20%. Nothing was imported, and the published lists stay."
        " Check the source and run again, or publish anyway: `batchrec run shop --publish-anyway`"
        " (in Dagster's Launchpad: publish_anyway: true)"
    )
    refused_ratings = refresh(project, "shop", instance, assets=["raw_ratings", "interactions"])
    assert re.search("interactions fell from 2,[0-9]+ to 1,[0-9]+", why(refused_ratings))
    assert "publish_anyway: true" in why(refused_ratings)
    # Another run does not take them for the data of now either.
    assert not refresh(project, "shop", instance).success
    assert read_all(storage) == published


def test_data_are_compared_with_those_of_the_edition_that_is_live(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declare_with_items(project))
    items = project.root / "items.csv"
    publish(project, instance)
    all_items = items.read_text()

    header, *rows = all_items.splitlines()
    parts = [row.rsplit(",", 2) for row in rows]
    without_years = [f"{start},,{added}" for start, _, added in parts]
    items.write_text("\n".join([header, *without_years]) + "\n")
    emptied = refresh(project, "shop", instance, assets=["raw_items"])
    assert "rows with a value in items.columns.numbers.YEAR fell from 100% to 0%" in why(emptied)

    items.write_text(all_items)
    halve(items)
    assert publish(project, instance, skip_items=True).endswith("anyway (--publish-anyway)")
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    titled = find_published_check(storage, ROWS_TITLED)
    assert titled["severity"] == "warn"
    assert titled["numbers"]["rows"] == 1500
    assert titled["numbers"]["untitled"] > 75
    again = refresh(project, "shop", instance, assets=["raw_items"])
    assert find_checks(again) == {"raw_items": "40 items, compared with 40 in edition 2"}

    with definitions(project) as defs:
        rollback = defs.resolve_job_def("shop_rollback").execute_in_process(instance=instance)
    assert rollback.success
    # The file is the one that the last run has read and let through.
    refused = refresh(project, "shop", instance, assets=["raw_items"])
    assert "much is missing that edition 1 was made from: items fell from 80 to 40" in why(refused)
    write_items(items, items=79)
    kept = refresh(project, "shop", instance, assets=["raw_items"])
    assert find_checks(kept) == {"raw_items": "79 items, compared with 80 in edition 1"}


def test_data_are_not_compared_across_settings(
    project: Project, instance: dg.DagsterInstance
) -> None:
    attributes = declare_with_items(project)
    project.declare(attributes)
    publish(project, instance)

    attributes["interactions"] = {"min_rating": 5, "duplicates": "drop"}
    project.declare(attributes)
    halve(project.root / "ratings.csv")
    prepared = refresh(project, "shop", instance, assets=["raw_ratings", "interactions"])
    assert find_checks(prepared)["interactions"].endswith(
        "; not compared: interactions.duplicates, interactions.min_rating changed since edition 1"
    )

    attributes["gate"] = {"max_shrink": 1}
    project.declare(attributes)
    halve(project.root / "items.csv")
    read = refresh(project, "shop", instance, assets=["raw_items"])
    assert find_checks(read) == {"raw_items": "40 items, compared with 80 in edition 1"}
