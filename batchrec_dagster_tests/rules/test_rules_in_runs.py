"""Rules in whole runs, with the embedded Personalize: lists, checks, metadata, report, `show`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    Project,
    interactions,
    metadata,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.preparation.test_items import QUICK

pytestmark = pytest.mark.slow

SEEN = {"events": ["buy"], "days": 90, "except": 'ITEMS.KIND = "food"'}
RULES = {
    "block": {"source": "blocked.csv", "column": "sku"},
    "only": "ITEMS.STOCK > 0",
    "price": {"of": "PRICE", "within": [0.2, 5], "events": ["buy"]},
    "max_per": {"KIND": 2},
    "pin": [
        {"item": "77", "rank": 2, "for": 'USERS.COUNTRY = "AT"'},
        {"item": "3", "rank": 3},
        {"only": "ITEMS.AGE_DAYS < 40", "rank": 4},
    ],
}


def declare_shop(project: Project, **recommendations: Any) -> None:
    """A shop of 60 people and 80 items. Even items have stock, item 3 is blocked."""
    chance = random.Random(7)
    ratings = write_ratings(project.root / "ratings.csv").read_text().splitlines()
    lines = [f"{line},{chance.choice(['buy', 'view'])}" for line in ratings[1:]]
    (project.root / "ratings.csv").write_text("\n".join([f"{ratings[0]},event", *lines]) + "\n")
    rows = [
        (
            str(item),
            f"Title {item}",
            ["food", "toys", "tools|toys", "books"][item % 4],
            item % 5,
            float(1 + item % 7),
            f"2017-{1 + item % 10:02}-01",
        )
        for item in range(1, 81)
    ]
    columns = ["sku", "name", "kind", "stock", "price", "since"]
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(project.root / "items.csv")
    block(project, "3")
    # Every third person is from Austria.
    people = [f"{user},{'DE' if user % 3 else 'AT'}" for user in range(1, 61)]
    (project.root / "people.csv").write_text("\n".join(["id,country", *people]) + "\n")
    project.declare(
        {
            "name": "shop",
            "ratings": {"source": "ratings.csv", "columns": {**COLUMNS, "event_type": "event"}},
            "items": {
                "source": "items.csv",
                "columns": {
                    "item": "sku",
                    "title": "name",
                    "categories": {"KIND": "kind"},
                    "numbers": {"STOCK": "stock", "PRICE": "price"},
                    "created": "since",
                },
            },
            "users": {
                "source": "people.csv",
                "columns": {"user": "id", "categories": {"COUNTRY": "country"}},
            },
            "recommendations": {"num_results": 6, **recommendations},
            "solution": QUICK,
        }
    )


def block(project: Project, *items: str) -> None:
    Path(project.root / "blocked.csv").write_text("\n".join(["sku", *items]) + "\n")


def find_checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def test_what_counts_as_seen_needs_no_rules(project: Project, instance: dg.DagsterInstance) -> None:
    declare_shop(project, exclude_seen=SEEN)
    result = refresh(project, "shop", instance)
    assert result.success
    assert "| exclude_seen | " in metadata(result, "recommendations")["rules"]
    assert table(project, "shop").height == 60 * 6


def test_a_shops_rules_make_its_lists(project: Project, instance: dg.DagsterInstance) -> None:
    declare_shop(project, exclude_seen=SEEN, rules=RULES)
    result = refresh(project, "shop", instance, report=True)
    assert result.success
    lists = table(project, "shop")
    assert lists.columns == ["user_id", "rank", "item_id", "title", "score", "reason"]
    items = pl.read_csv(project.root / "items.csv", schema_overrides={"sku": pl.String})
    rows = lists.join(items, left_on="item_id", right_on="sku")
    assert rows.height == lists.height == 60 * 6
    assert rows.filter(pl.col("stock") == 0).is_empty()
    assert rows.filter(item_id="3").is_empty()
    kinds = rows.with_columns(pl.col("kind").str.split("|")).explode("kind")
    assert kinds.group_by("user_id", "kind").len()["len"].max() == 2
    events = interactions(project, "shop")
    newest = events["TIMESTAMP"].max()
    assert isinstance(newest, int)
    bought = events.filter(
        (pl.col("EVENT_TYPE") == "buy") & (pl.col("TIMESTAMP") > newest - 90 * 86_400)
    )
    again = rows.with_columns(USER_ID=pl.col("user_id").cast(pl.Int64)).join(
        bought.with_columns(USER_ID=pl.col("USER_ID").cast(pl.Int64)),
        left_on=["USER_ID", "item_id"],
        right_on=["USER_ID", "ITEM_ID"],
        how="semi",
    )
    assert set(again["kind"]) == {"food"}
    all_pinned = rows.filter(reason="pinned")
    new = all_pinned.filter(rank=4)
    assert new.height == 60
    since = new["since"].str.to_date().cast(pl.Datetime).dt.epoch("s")
    assert (since > newest - 40 * 86_400).all()
    pinned = all_pinned.filter(pl.col("rank") != 4)
    assert set(pinned["item_id"]) == {"77"}
    assert set(pinned["rank"]) == {2}
    assert all(int(user) % 3 == 0 for user in pinned["user_id"])
    assert pinned.height > 10

    checks = find_checks(result)
    assert checks["lists_not_emptied"].passed
    assert checks["no_seen_items"].passed
    suit = checks["rules_suit_data"]
    assert not suit.passed
    assert suit.severity is dg.AssetCheckSeverity.WARN
    assert suit.description == "pin: 3 is on no list: block or only leaves it out"
    facts = metadata(result, "recommendations")
    assert "| exclude_seen | " in facts["rules"]
    assert facts["rule_pin_added"] == all_pinned.height
    assert facts["rule_only_removed"] > 0
    assert facts["results_asked_for"] > 6
    report = (project.storage / "shop/curated/report/index.html").read_text()
    assert "What each rule did" in report

    shown = show(project, str(pinned["user_id"][0]))
    assert "pinned" in shown
    assert "recommendations.rules put it there" in shown
    summary = show(project)
    assert f"only left out {facts['rule_only_removed']:,}" in summary
    assert f"pin added {all_pinned.height}" in summary

    second = refresh(project, "shop", instance)
    assert metadata(second, "recommendations")["edition"] == 1
    assert metadata(second, "recommendations")["rules"] == facts["rules"]
    # Another item is blocked: the lists are made again, from the job that is there.
    block(project, "3", "77")
    third = refresh(project, "shop", instance)
    assert metadata(third, "recommendations")["outcome"] == "unchanged: not inferred again"
    assert metadata(third, "recommendations")["edition"] == 2
    assert table(project, "shop").filter(item_id="77").is_empty()


def show(project: Project, *arguments: str) -> str:
    result = CliRunner().invoke(
        main, ["show", *arguments], env={"BATCHREC_STORAGE": str(project.storage)}
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_a_rule_that_empties_the_lists_publishes_nothing(
    project: Project, instance: dg.DagsterInstance
) -> None:
    declare_shop(project, rules={"only": "ITEMS.STOCK > 100"})
    result = refresh(project, "shop", instance)
    assert not result.success
    reason = why(result)
    assert "lists_not_emptied: 60 of 60 lists are empty because of recommendations.rules" in reason
    assert "only left out the last item of 60" in reason
    assert not (project.storage / "shop/curated/recommendations").exists()
    # Another job would leave them as empty.
    assert not [*project.storage.rglob("damaged.txt")]
    declare_shop(project, rules={"only": "ITEMS.STOCK > 3", "max_per": {"KIND": 1}})
    result = refresh(project, "shop", instance)
    assert result.success
    assert not find_checks(result)["results_enough_for_rules"].passed
    warning = find_checks(result)["results_enough_for_rules"].description or ""
    assert warning.startswith("for 60 of 60 users (100.0%) the rules left too few")
