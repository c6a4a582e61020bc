"""What a valid YAML becomes: assets, their code versions, the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import dagster_webserver
import pytest
import yaml

from batchrec_dagster import BatchRecommendations
from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.recommendations import RecommendationSettings
from batchrec_dagster_tests.guard.builders import (
    ASSETS,
    REPOSITORY,
    declaration,
    definitions,
    module_project,
)

# What Dagster's page names in words, as it has no picture of it.
KINDS_WITHOUT_ICON = {"dynamodb", "html", "personalize"}
# Dagster shows no more at an asset.
MOST_KINDS = 3

ITEMS = {"source": "items.csv", "columns": {"item": "id", "categories": {"GENRES": "genres"}}}


def test_every_setting_has_a_description_for_the_editor() -> None:
    model = BatchRecommendations.get_model_cls()
    assert model is not None
    schema = model.model_json_schema()
    parts = [schema, *schema["$defs"].values()]
    assets_without_description = [
        f"{part['title']}.{name}"
        for part in parts
        for name, member in part["properties"].items()
        if not member.get("description")
    ]
    assert len(parts) >= 17
    assert assets_without_description == []


def test_the_schedule_runs_the_refresh_job_as_declared(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    settings = {"cron": "30 4 * * 1", "timezone": "Europe/Berlin", "enabled": True}
    project.declare(declaration("shop", "ratings.csv", schedule=settings))
    with definitions(project) as defs:
        schedule = defs.resolve_schedule_def("shop_schedule")
    assert schedule.job_name == "shop_refresh"
    assert schedule.cron_schedule == "30 4 * * 1"
    assert schedule.execution_timezone == "Europe/Berlin"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_assets_say_what_they_are(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", "ratings.csv"))
    with definitions(project) as defs:
        specs = defs.resolve_all_asset_specs()
    names = {spec.key.to_user_string() for spec in specs}
    assert names == {f"shop/{name}" for name in ASSETS}
    for spec in specs:
        assert spec.description
        assert 20 < len(spec.description.partition(". ")[0]) <= 160, spec.description
        assert spec.kinds
        assert spec.group_name == "shop"
        assert spec.code_version


def test_kinds_tell_the_stage_by_icons_that_dagster_has(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    lists = {"home": {"num_results": 5}, "mail": {"sinks": {"export": {"format": "csv"}}}}
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            items=ITEMS,
            users={"source": "users.csv", "columns": {"user": "id", "categories": {"SEX": "sex"}}},
            lists=lists,
            similar_items={"num_results": 5},
            segments={"items": [1]},
        )
    )
    with definitions(project) as defs:
        kinds = {spec.key.path[-1]: spec.kinds for spec in defs.resolve_all_asset_specs()}
    chunks = Path(dagster_webserver.__file__).parent / "webapp/build/_next/static/chunks"
    scripts = [file.read_text() for file in chunks.glob("*.js")]
    for kind in set().union(*kinds.values()) - KINDS_WITHOUT_ICON:
        assert any(f"{kind}:{{icon:" in script for script in scripts), kind
    assert max(map(len, kinds.values())) <= MOST_KINDS
    assert "source" in kinds["raw_users"]
    assert "polars" in kinds["users"]
    assert "personalize" in kinds["solution_version"]
    assert "report" in kinds["recommendation_report"]


def test_the_pipeline_that_the_readme_shows_loads(tmp_path: Path) -> None:
    text = (
        (REPOSITORY / "README.md").read_text().partition("```yaml\ntype: ")[2].partition("```")[0]
    )
    project = module_project(tmp_path)
    project.declare(yaml.safe_load(f"type: {text}")["attributes"])
    with definitions(project) as defs:
        assert "recommendations_in_postgres" in {
            key.path[-1] for key in defs.resolve_all_asset_keys()
        }


def test_assets_are_there_for_what_is_declared(tmp_path: Path) -> None:
    def assets(**attributes: Any) -> dict[str, set[str]]:
        project.declare(declaration("shop", "ratings.csv", **attributes))
        with definitions(project) as defs:
            specs = defs.resolve_all_asset_specs()
        return {spec.key.path[-1]: {dep.asset_key.path[-1] for dep in spec.deps} for spec in specs}

    project = module_project(tmp_path)
    plain = assets()
    segments = assets(segments={"items": [1]})
    assert set(segments) - set(plain) == {"segment_solution_version", "user_segments"}
    assert segments["user_segments"] == {"segment_solution_version"}
    films = {"source": "sample://hetrec/movies.dat"}
    columns = {"item": "movieID", "title": "title", "categories": {"GENRES": "genres"}}
    names = assets(items={**films, "columns": columns}, segments={"items": [1]})
    assert set(names) - set(segments) == {"raw_items", "items", "item_titles"}
    assert names["personalize_dataset"] == {"interactions", "items"}
    assert names["recommendations"] - plain["recommendations"] == {"item_titles"}
    assert names["user_segments"] == {"segment_solution_version", "item_titles"}
    titles = assets(items={**films, "columns": {"item": "movieID", "title": "title"}})
    assert set(titles) - set(plain) == {"raw_items", "item_titles"}
    metadata_only = assets(items=ITEMS)
    assert set(metadata_only) - set(plain) == {"raw_items", "items"}


def test_only_another_share_of_failed_users_is_part_of_a_fingerprint() -> None:
    default = RecommendationSettings()
    assert fingerprint(RecommendationSettings(max_failed_share=0.001)) == fingerprint(default)
    assert fingerprint(RecommendationSettings(max_failed_share=0)) != fingerprint(default)


def test_the_code_version_changes_with_the_settings_an_asset_reads() -> None:
    def versions(**attributes: Any) -> dict[str, str | None]:
        from batchrec_dagster.pipeline.assets.prepared import batch_users, interactions
        from batchrec_dagster.pipeline.assets.training import solution_version

        pipeline = Pipeline.model_validate({**declaration("shop", "ratings.csv"), **attributes})
        assets = [batch_users(pipeline), interactions(pipeline), solution_version(pipeline)]
        return {
            asset.key.path[-1]: next(iter(asset.code_versions_by_key.values())) for asset in assets
        }

    original_versions = versions()
    stricter = versions(interactions={"min_rating": 4})
    assert stricter["interactions"] != original_versions["interactions"]
    assert stricter["solution_version"] == original_versions["solution_version"]
    items = versions(items=ITEMS)
    genre = {"filter": 'EXCLUDE ItemID WHERE Items.GENRES = "War"'}
    filtered_versions = versions(items=ITEMS, recommendations=genre)
    assert filtered_versions["batch_users"] == items["batch_users"]
    assert filtered_versions["interactions"] == items["interactions"]
    other_versions = versions(solution={"recipe": "aws-user-personalization"})
    assert other_versions["interactions"] == original_versions["interactions"]
    assert other_versions["solution_version"] != original_versions["solution_version"]
    assert versions(schedule={"cron": "@daily"}) == original_versions


def test_a_file_is_the_same_by_its_relative_and_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def settings(source: str) -> dict[str, Any]:
        return Pipeline.model_validate(declaration("shop", source)).deciding_settings

    assert settings(f"{tmp_path}/data/ratings.csv") == settings("data/ratings.csv")
    assert settings("/data/ratings.csv") != settings("data/ratings.csv")
