"""The block similar_items: what it may say, and what is said of what it may not."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.config import Pipeline
from batchrec_dagster_tests.guard.builders import COLUMNS

ITEMS = {
    "source": "items.csv",
    "columns": {
        "item": "sku",
        "title": "name",
        "categories": {"STATUS": "status"},
        "numbers": {"PRICE": "price"},
    },
}
TOGETHER = {"within_days": 7}


def declare(similar_items: dict[str, Any], **settings: Any) -> Pipeline:
    columns = {**COLUMNS, "event_type": "event"}
    return Pipeline.model_validate(
        {
            "name": "shop",
            "ratings": {"source": "ratings.csv", "columns": columns},
            "similar_items": similar_items,
            **settings,
        }
    )


def test_the_recipe_is_the_one_for_the_data_of_items() -> None:
    assert declare({}).similar_items_recipe == "aws-sims"
    assert declare({}, items=ITEMS).similar_items_recipe == "aws-similar-items"
    titles = {"source": "items.csv", "columns": {"item": "sku", "title": "name"}}
    assert declare({}, items=titles).similar_items_recipe == "aws-sims"
    assert declare({"recipe": "aws-sims"}, items=ITEMS).similar_items_recipe == "aws-sims"
    together = declare(TOGETHER, items=ITEMS)
    assert together.similar_items_recipe is None
    assert "similar_items_solution_version" not in together.trainings
    assert declare({}).trainings["similar_items_solution_version"] == ("aws-sims", {})


def test_its_lists_have_settings_and_a_place_of_their_own() -> None:
    pipeline = declare(
        {**TOGETHER, "num_results": 5, "columns": ["PRICE"]},
        items=ITEMS,
        gate={"min_ndcg_at_25": 0.5},
        lists={"home": {}},
    )
    similar_items = pipeline.similar_items_list
    assert similar_items is not None
    assert similar_items.address == "shop/similar_items"
    assert (similar_items.columns, similar_items.settings.num_results) == (["PRICE"], 5)
    assert similar_items.gate.min_ndcg_at_25 == 0
    assert similar_items.asset_key("similar_items") == ["shop", "similar_items"]
    folder = "shop/lists/similar_items/curated/similar_items"
    assert similar_items.keys.table == f"{folder}/similar_items.parquet"
    assert [published.address for published in pipeline.published_lists()] == [
        "shop/home",
        similar_items.address,
    ]
    assert similar_items.deciding_settings["similar_items.within_days"] == 7
    assert not any(name.startswith("recommendations") for name in similar_items.deciding_settings)
