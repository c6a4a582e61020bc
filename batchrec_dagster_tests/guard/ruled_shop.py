"""A shop with rules, newcomers and item columns on its lists, which a test can change."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    Project,
    count_created,
    interactions,
    refresh,
    table,
    write_ratings,
)

DAY = 86_400
PEOPLE = [f"{user}" for user in range(1, 61)]
UNTITLED = range(9, 81, 9)
SEEN = {"events": ["buy"], "days": 90, "except": 'ITEMS.KIND = "food"'}
RULES: dict[str, Any] = {
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
REASONS = ["reason", "reason_item", "reason_title", "reason_event"]
LISTS: dict[str, Any] = {
    "num_results": 6,
    "candidates": 80,
    "exclude_seen": SEEN,
    "rules": RULES,
    "newcomers": {"popular_by": "COUNTRY"},
    "columns": ["title", "PRICE", "link", *REASONS],
}
POPULAR_DAYS = 10_000


@dataclass
class Shop:
    """A shop of 60 people, three newcomers and 80 items.

    Item 3 is blocked, and a few items have no title.
    """

    project: Project
    instance: dg.DagsterInstance
    nights: list[dg.ExecuteInProcessResult] = field(default_factory=list)

    def write_data(self) -> None:
        chance, root = random.Random(7), self.project.root
        header, *rows = write_ratings(root / "ratings.csv").read_text().splitlines()
        rows = [f"{row},{chance.choice(['buy', 'view'])}" for row in rows]
        (root / "ratings.csv").write_text("\n".join([f"{header},event", *rows]) + "\n")
        items = [
            (
                f"{item}",
                f"Title {item}" if item not in UNTITLED else None,
                f"https://shop.example/{item}",
                ["food", "toys", "tools|toys", "books"][item % 4],
                item % 5,
                float(1 + item % 7),
                f"2017-{1 + item % 10:02}-01",
            )
            for item in range(1, 81)
        ]
        columns = ["sku", "name", "page", "kind", "stock", "price", "since"]
        pl.DataFrame(items, schema=columns, orient="row").write_csv(root / "items.csv")
        people = [f"{user},{'DE' if int(user) % 3 else 'AT'}" for user in PEOPLE]
        people += ["new in AT,AT", "new in XX,XX", "new,"]
        (root / "people.csv").write_text("\n".join(["id,country", *people]) + "\n")
        self.block("3")

    def block(self, *items: str) -> None:
        (self.project.root / "blocked.csv").write_text("\n".join(["sku", *items]) + "\n")

    def declare(self, **changes: Any) -> None:
        item_columns = {
            "item": "sku",
            "title": "name",
            "link": "page",
            "categories": {"KIND": "kind"},
            "numbers": {"STOCK": "stock", "PRICE": "price"},
            "created": "since",
        }
        user_columns = {"user": "id", "categories": {"COUNTRY": "country"}}
        self.project.declare(
            {
                "name": "shop",
                "ratings": {"source": "ratings.csv", "columns": {**COLUMNS, "event_type": "event"}},
                "items": {"source": "items.csv", "columns": item_columns},
                "users": {"source": "people.csv", "columns": user_columns},
                "batch_users": {"source": "people.csv", "column": "id"},
                "popularity": {"days": POPULAR_DAYS},
                "solution": {"recipe": "aws-user-personalization", "retrain": {"every_days": 7}},
                "recommendations": {**LISTS, **changes},
            }
        )

    def run(self) -> dg.ExecuteInProcessResult:
        result = refresh(self.project, "shop", self.instance)
        self.nights.append(result)
        return result

    @property
    def lists(self) -> pl.DataFrame:
        return table(self.project, "shop")

    @property
    def items(self) -> pl.DataFrame:
        return pl.read_csv(self.project.root / "items.csv", schema_overrides={"sku": pl.String})

    def count_jobs(self) -> int:
        return count_created(self.project)["jobs"]

    def count_imports(self) -> int:
        return count_created(self.project)["imports"]

    def change_items(self, text: str, other: str) -> None:
        file = self.project.root / "items.csv"
        file.write_text(file.read_text().replace(text, other))

    def rank_popular(self, people: list[str] | None = None) -> list[str]:
        """Return the items that people had, most popular first.

        people: the ids of the people in a group; None for everybody. In a group, an item counts
            only if at least three people had it.
        """
        rows = interactions(self.project, "shop")
        if people is not None:
            rows = rows.filter(pl.col("USER_ID").is_in(people))
        counts = rows.group_by("ITEM_ID").agg(people=pl.col("USER_ID").n_unique())
        counts = counts.filter(pl.col("people") >= (1 if people is None else 3))
        return counts.sort("people", "ITEM_ID", descending=[True, False])["ITEM_ID"].to_list()
