"""Several lists in one declaration: what each of them is, and what is wrong with one."""

from __future__ import annotations

from typing import Any

import yaml

from batchrec_dagster.config import Pipeline
from batchrec_dagster.samples import SHOP_PIPELINE
from batchrec_dagster.steps.shared_jobs import group_lists
from batchrec_dagster_tests.guard.builders import COLUMNS, REPOSITORY
from batchrec_dagster_tests.repository.typed_pages import list_code_blocks

USERS = {"source": "newsletter.csv", "column": "customer"}


def declare(lists: dict[str, Any], **settings: Any) -> Pipeline:
    ratings = {"source": "ratings.csv", "columns": COLUMNS}
    return Pipeline.model_validate({"name": "shop", "ratings": ratings, "lists": lists, **settings})


def test_without_lists_a_pipeline_is_its_own_list() -> None:
    pipeline = declare({}, recommendations={"num_results": 7})
    assert pipeline.list_pipelines == [pipeline]
    assert pipeline.address == "shop"


def test_a_list_has_its_own_settings_and_those_of_the_pipeline() -> None:
    pipeline = declare(
        {
            "newsletter": {"users": USERS, "num_results": 12, "retention": {"editions": 3}},
            "home": {"exclude_seen": False},
        },
        batch_users={"active_since": "2026-01-01"},
        gate={"max_drop": 0.1},
    )
    newsletter, home = pipeline.list_pipelines
    assert newsletter.recommendations.num_results == 12
    assert newsletter.batch_users.source == "newsletter.csv"
    assert newsletter.retention.editions == 3
    assert newsletter.gate.max_drop == home.gate.max_drop == 0.1
    assert home.batch_users.active_since == "2026-01-01"
    assert home.recommendations.seen_items is None
    assert (newsletter.has_own_users, home.has_own_users) == (True, False)


def test_only_what_is_published_is_the_lists_own() -> None:
    pipeline = declare({"newsletter": {"users": USERS}, "home": {}})
    _ = pipeline.storage_keys  # It must not be that of its lists, too.
    newsletter, home = pipeline.list_pipelines
    assert newsletter.address == "shop/newsletter"
    assert newsletter.asset_key("recommendations").path == ["shop", "newsletter", "recommendations"]
    assert newsletter.asset_key("batch_users").path == ["shop", "newsletter", "batch_users"]
    assert home.asset_key("batch_users").path == ["shop", "batch_users"]
    assert newsletter.asset_key("interactions") == pipeline.asset_key("interactions")
    keys, whole = newsletter.storage_keys, pipeline.storage_keys
    assert keys.recommendations.startswith("shop/lists/newsletter/curated/")
    assert keys.list_record("publications") == "shop/lists/newsletter/records/publications.json"
    assert keys.lease("recommendations").startswith("shop/lists/newsletter/")
    assert keys.batch_users.startswith("shop/lists/newsletter/")
    assert home.storage_keys.batch_users == whole.batch_users
    assert keys.interactions == whole.interactions
    assert keys.lease("solution_version") == whole.lease("solution_version")


def test_the_example_of_the_documentation_can_be_declared() -> None:
    section = "Several lists from one night"
    blocks = list_code_blocks(REPOSITORY / "docs/lists.md", section)
    (example,) = [text for language, text in blocks if language == "yaml"]
    shop = yaml.safe_load(SHOP_PIPELINE.read_text())["attributes"]
    settings = {name: shop[name] for name in ("name", "ratings", "items", "users", "solution")}
    pipeline = Pipeline.model_validate({**settings, **yaml.safe_load(example)})
    groups = [[view.list_name for view in group] for group in group_lists(pipeline)]
    assert groups == [["newsletter"], ["home", "app"]]


def test_a_narrowed_pipeline_knows_the_whole_one() -> None:
    pipeline = declare({"newsletter": {"users": USERS, "retention": {"editions": 3}}, "home": {}})
    newsletter, _ = pipeline.list_pipelines
    assert newsletter.whole is pipeline.whole is pipeline
    assert newsletter.list_pipelines == pipeline.list_pipelines
    assert newsletter.list_pipelines[1].batch_users == pipeline.batch_users
    assert newsletter.list_pipelines[1].retention == pipeline.retention
    assert newsletter.users_setting == "lists.newsletter.users"
