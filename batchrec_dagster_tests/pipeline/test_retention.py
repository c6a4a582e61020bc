"""Nights in a row: what of the earlier ones stays, and runs that need what is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.personalize.expired_models import EXPIRED, MODEL_TAG
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.preparation.test_items import COLUMNS, QUICK, write_items

pytestmark = pytest.mark.slow

RETENTION = {"editions": 1, "models": 1}
SHOP = declaration("shop", "ratings.csv", retention=RETENTION, solution=QUICK, gate={"max_drop": 1})


def make_night(
    project: Project, instance: dg.DagsterInstance, seed: int, **options: Any
) -> dg.ExecuteInProcessResult:
    """Refresh the pipeline with the ratings of this night."""
    write_ratings(project.root / "ratings.csv", seed=seed)
    result = refresh(project, "shop", instance, **options)
    assert result.success, why(result)
    return result


def list_models(home: Path) -> list[Path]:
    return list((home / "models").iterdir())


def list_outputs(project: Project, kind: str = "batch_inference") -> list[Path]:
    return list((project.storage / "shop/curated" / kind).glob("*"))


def list_tags(project: Project) -> list[str]:
    """The value of the model's tag of each solution version, or an empty text, oldest first."""
    client = embedded_client(project.root / ".batchrec/personalize", ObjectStore())
    values = []
    for version in client.list_solution_versions()["solutionVersions"]:
        tags = client.list_tags_for_resource(resourceArn=version["solutionVersionArn"])["tags"]
        values.append({tag["tagKey"]: tag["tagValue"] for tag in tags}.get(MODEL_TAG, ""))
    return values


def test_sizes_level_off_and_what_is_in_use_stays(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(SHOP)
    home = project.root / ".batchrec/personalize"
    for seed in range(4):
        make_night(project, instance, seed)
        assert len(list_models(home)) == 1
        assert len(list_outputs(project)) == min(2, seed + 1)
    assert list_tags(project) == [EXPIRED] * 3 + [""]
    lists = table(project, "shop")
    # Nothing was deleted that a refresh without changes needs.
    again = refresh(project, "shop", instance)
    assert metadata(again, "recommendations")["outcome"] == "unchanged: not inferred again"
    # The model that is in use was given up by somebody: another is trained.
    client = embedded_client(home, ObjectStore())
    version = client.list_solution_versions()["solutionVersions"][-1]["solutionVersionArn"]
    client.tag_resource(resourceArn=version, tags=[{"tagKey": MODEL_TAG, "tagValue": EXPIRED}])
    assert not list_models(home)
    forced = refresh(project, "shop", instance)
    assert forced.success, why(forced)
    assert metadata(forced, "solution_version")["outcome"] == "trained"
    assert table(project, "shop").drop("score").equals(lists.drop("score"))
    assert len(list_models(home)) == 1


def test_settings_that_are_changed_back_are_inferred_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(SHOP)
    first = make_night(project, instance, 0)
    lists = table(project, "shop")
    for number in (5, 6):
        project.declare({**SHOP, "recommendations": {"num_results": number}})
        make_night(project, instance, 0)
    output = metadata(first, "recommendations")["batch_inference_output"].partition("/shop/")[2]
    assert not (project.storage / "shop" / output).exists()
    assert len(list_outputs(project)) == 2
    project.declare(SHOP)
    back = make_night(project, instance, 0)
    assert metadata(back, "recommendations")["outcome"] == "inferred"
    assert table(project, "shop").equals(lists)


def test_removed_blocks_leave_nothing_and_may_come_back(
    project: Project, instance: dg.DagsterInstance
) -> None:
    source = write_items(project.root / "items.csv")
    full = {
        **SHOP,
        "items": {"source": str(source), "columns": COLUMNS, "separator": ";"},
        "segments": {"items": ["1", "2"], "users_per_segment": 5},
        "experiment": {"name": "holdout", "control": "none"},
    }
    project.declare(full)
    make_night(project, instance, 0)
    assert len(list_outputs(project, "batch_segments")) == 1
    shop = project.storage / "shop"
    folders = {path.relative_to(shop) for path in shop.rglob("*") if path.is_dir()}
    project.declare(SHOP)
    make_night(project, instance, 0)
    left = {path.relative_to(shop) for path in shop.rglob("*") if path.is_dir()}
    assert {str(path) for path in folders - left if "leases" not in path.parts} >= {
        "raw/items",
        "transformed/items",
        "transformed/item_titles",
        "transformed/batch_segments_input",
        "transformed/batch_users_of_arms",
        "curated/user_segments",
        "curated/batch_segments",
    }
    for record in ("raw_items", "segment_solution_version"):
        assert not (shop / f"records/{record}.json").exists()
    project.declare(full)
    make_night(project, instance, 0)
    assert (shop / "transformed/item_titles/item_titles.parquet").is_file()
    assert len(list_outputs(project, "batch_segments")) == 1
