"""Several lists in one declaration: what each of them is, and what is wrong with one."""

from __future__ import annotations

from datetime import date
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


def test_without_lists_a_pipeline_has_one_without_a_name() -> None:
    pipeline = declare({}, recommendations={"num_results": 7})
    (only_list,) = pipeline.published_lists()
    assert (only_list.name, only_list.address, only_list.subject) == ("", "shop", "user")
    assert only_list.settings.num_results == 7
    assert only_list.keys.table == "shop/curated/recommendations/recommendations.parquet"


def test_a_list_has_its_own_settings_and_those_of_the_pipeline() -> None:
    pipeline = declare(
        {
            "newsletter": {"users": USERS, "num_results": 12, "retention": {"editions": 3}},
            "home": {"exclude_seen": False},
        },
        batch_users={"active_since": "2026-01-01"},
        gate={"max_drop": 0.1},
    )
    newsletter, home = pipeline.user_lists
    assert newsletter.settings.num_results == 12
    assert newsletter.batch_users.source == "newsletter.csv"
    assert newsletter.retention.editions == 3
    assert newsletter.gate.max_drop == home.gate.max_drop == 0.1
    assert newsletter.users_setting == "lists.newsletter.users"
    assert home.batch_users.active_since == date(2026, 1, 1)
    assert home.settings.seen_items is None
    assert (newsletter.has_own_users, home.has_own_users) == (True, False)


def test_only_what_is_published_is_the_lists_own() -> None:
    pipeline = declare({"newsletter": {"users": USERS}, "home": {}})
    newsletter, home = pipeline.user_lists
    assert newsletter.address == "shop/newsletter"
    assert newsletter.asset_key("recommendations") == ["shop", "newsletter", "recommendations"]
    assert newsletter.asset_key("batch_users") == ["shop", "newsletter", "batch_users"]
    assert home.asset_key("batch_users") == ["shop", "batch_users"]
    assert newsletter.asset_key("interactions") == pipeline.asset_key("interactions")
    keys, whole = newsletter.keys, pipeline.keys
    assert keys.table.startswith("shop/lists/newsletter/curated/")
    assert keys.list_record("editions") == "shop/lists/newsletter/records/editions.json"
    assert keys.list_lock("recommendations").startswith("shop/lists/newsletter/")
    assert newsletter.users_key.startswith("shop/lists/newsletter/")
    assert home.users_key == whole.job_input("batch_inference")
    assert keys.interactions == whole.interactions
    assert keys.lock("solution_version") == whole.lock("solution_version")


def test_segments_are_a_published_list_with_a_table_of_their_own() -> None:
    pipeline = declare({}, segments={"items": ["1"], "users_per_segment": 5})
    lists, segments = pipeline.published_lists()
    assert (segments.subject, segments.address, segments.setting) == (
        "segment",
        "shop/segments",
        "segments",
    )
    assert segments.settings.num_results == 5
    assert segments.asset_key(segments.asset) == ["shop", "user_segments"]
    assert segments.keys.table == "shop/curated/user_segments/user_segments.parquet"
    assert segments.keys.list_record("editions") != lists.keys.list_record("editions")


def test_the_example_of_the_documentation_can_be_declared() -> None:
    section = "Several lists from one night"
    blocks = list_code_blocks(REPOSITORY / "docs/lists.md", section)
    (example,) = [text for language, text in blocks if language == "yaml"]
    shop = yaml.safe_load(SHOP_PIPELINE.read_text())["attributes"]
    settings = {name: shop[name] for name in ("name", "ratings", "items", "users", "solution")}
    pipeline = Pipeline.model_validate({**settings, **yaml.safe_load(example)})
    groups = [[published.name for published in group] for group in group_lists(pipeline)]
    assert groups == [["newsletter"], ["home", "app"]]
