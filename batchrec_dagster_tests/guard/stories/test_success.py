"""Tests of solution.success: purchases judge the same model, and outcomes count purchases."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    checks,
    count_created,
    declaration,
    module_project,
    refresh,
    table,
    why,
)

pytestmark = pytest.mark.slow

USERS, LATER = 300, 1_700_000_000
COLUMNS = {
    "user": "user",
    "item": "item",
    "timestamp": "at",
    "event_type": "event",
    "event_value": "paid",
}


def write_events(file: Path) -> None:
    """Write events of users who all click on the popular items.

    Users buy less popular items, and a part of the users buy the same items.
    """
    chance = random.Random(3)
    lines = ["user,item,at,event,paid"]
    for user in range(USERS):
        for step in range(chance.randint(10, 40)):
            clicked = int(50 * chance.random() ** 2)
            bought = 30 + int(40 * chance.random())
            is_purchase = chance.random() < 0.25
            item = bought if is_purchase else clicked
            event, paid = ("Purchase", f"{5 + item / 4:g}") if is_purchase else ("click", "")
            lines.append(f"u{user},i{item},{1_600_000_000 + 100 * user + step},{event},{paid}")
    file.write_text("\n".join(lines) + "\n")


@dataclass
class Shop:
    """A shop with clicks and purchases."""

    project: Project
    instance: dg.DagsterInstance

    def run(self, *success: str, assets: tuple[str, ...] = ()) -> dg.ExecuteInProcessResult:
        ratings = {"source": "events.csv", "columns": COLUMNS}
        # Few people buy, so popular items may be better or worse than the model by chance.
        self.project.declare(
            declaration(
                "shop",
                "events.csv",
                ratings=ratings,
                interactions={},
                solution={"success": [*success]} if success else {},
            )
        )
        options = {"publish_anyway": True}
        return refresh(self.project, "shop", self.instance, options, assets)

    def count(self) -> tuple[int, int]:
        """Return the numbers of models and of batch inference jobs."""
        created = count_created(self.project)
        return created["models"], created["jobs"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(module_project(tmp_path_factory.mktemp("shop")), instance)
        write_events(shop.project.root / "events.csv")
        yield shop


def test_event_types_that_no_row_has_are_refused_before_a_training(shop: Shop) -> None:
    result = shop.run("buy")
    assert not result.success
    assert "buy" in why(result)
    assert "click, Purchase" in why(result)
    assert shop.count() == (0, 0)


def test_a_change_of_success_trains_nothing_and_makes_no_lists(shop: Shop) -> None:
    all_events = shop.run()
    assert all_events.success, why(all_events)
    lists = table(shop.project, "shop")
    purchases = shop.run("buy", "purchase")
    assert purchases.success, why(purchases)
    assert shop.count() == (1, 1)
    assert table(shop.project, "shop").equals(lists)
    verdicts = [checks(run)["quality_gate"].description or "" for run in (all_events, purchases)]
    assert verdicts[0] != verdicts[1]
    assert "purchase" in verdicts[1]
    # No row has one of the two types.
    known = checks(purchases)["success_known"]
    assert (known.passed, known.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_outcomes_count_purchases_and_payments(shop: Shop) -> None:
    """Each of 40 people buys an item for 10, and clicks on two items."""
    file = shop.project.root / "events.csv"
    rows = [f"u{user},new,{LATER + user},purchase,10" for user in range(40)]
    rows += [
        f"u{user},i{user % 9},{LATER + 100 * n},click,99" for user in range(40) for n in (1, 2)
    ]
    file.write_text(file.read_text() + "\n".join(rows) + "\n")
    steps = ("raw_ratings", "interactions", "recommendation_outcomes")
    result = shop.run("purchase", assets=steps)
    assert result.success, why(result)
    folder = shop.project.storage / "shop/curated/recommendation_outcomes"
    outcomes = pl.read_parquet(folder / "recommendation_outcomes.parquet")
    (row,) = outcomes.iter_rows(named=True)
    days = (LATER + 200 - 1_600_000_000) / 86_400
    assert (row["success"], row["active_users"], row["hit_rate"]) == ("purchase", 40, 0)
    assert row["event_value"] == pytest.approx(40 * 10 / USERS / days, rel=0.01)
    assert row["list_event_value"] == 0
