"""What a valid YAML becomes: assets, their code versions, the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster_webserver
import pytest

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.lists import RecommendationSettings
from batchrec_dagster_tests.guard.builders import (
    declaration,
    definitions,
    module_project,
)

# What Dagster's page names in words, as it has no picture of it.
KINDS_WITHOUT_ICON = {"dynamodb", "html", "personalize"}
# Dagster shows no more at an asset.
MOST_KINDS = 3

ITEMS = {"source": "items.csv", "columns": {"item": "id", "categories": {"GENRES": "genres"}}}


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


def test_only_another_share_of_failed_users_is_part_of_a_fingerprint() -> None:
    default = RecommendationSettings()
    assert fingerprint(RecommendationSettings(max_failed_share=0.001)) == fingerprint(default)
    assert fingerprint(RecommendationSettings(max_failed_share=0)) != fingerprint(default)


def test_a_file_is_the_same_by_its_relative_and_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def settings(source: str) -> dict[str, Any]:
        return Pipeline.model_validate(declaration("shop", source)).deciding_settings

    assert settings(f"{tmp_path}/data/ratings.csv") == settings("data/ratings.csv")
    assert settings("/data/ratings.csv") != settings("data/ratings.csv")
