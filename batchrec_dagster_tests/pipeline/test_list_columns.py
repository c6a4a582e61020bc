"""recommendations.columns: what lists have of each item, in the table and in all sinks."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.pipeline.loading import DeclarationError
from batchrec_dagster_tests.postgres_server import postgres_server
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    metadata,
    outcomes,
    refresh,
    table,
    write_ratings,
)

ITEM_COLUMNS = {
    "item": "movieId",
    "title": "title",
    "image": "picture",
    "link": "page",
    "categories": {"GENRES": "genres"},
    "numbers": {"PRICE": "price"},
}
BASE = ["user_id", "rank", "item_id"]


def declare(project: Project, *, price: float = 10, picture: str = "a", **attributes: Any) -> None:
    """Declares a pipeline whose items cost their number and this price, with columns of lists."""
    lines = ["movieId,title,picture,page,genres,price"]
    for item in range(1, 81):
        shop = "https://shop.example"
        lines.append(f"{item},Film {item},{shop}/{picture}{item}.jpg,{shop}/{item},Drama|War,"
                     f"{item + price}")  # fmt: skip
    source = project.root / "items.csv"
    source.write_text("\n".join(lines) + "\n")
    attributes = {
        "items": {"source": str(source), "columns": ITEM_COLUMNS},
        "solution": {"recipe": "aws-popularity-count", "retrain": {"every_days": 7}},
        **attributes,
    }
    project.declare(declaration("shop", project.root / "ratings.csv", **attributes))


@pytest.mark.slow  # several refreshes, and a PostgreSQL
def test_columns_reach_the_table_and_the_sinks_and_change_them_without_inference(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ratings(project.root / "ratings.csv")

    def run(columns: list[str] | None, **settings: Any) -> dg.ExecuteInProcessResult:
        lists = {"num_results": 2} | ({} if columns is None else {"columns": columns})
        declare(project, recommendations=lists, **settings)
        result = refresh(project, "shop", instance, report=True)
        assert result.success
        return result

    def read_edition(result: dg.ExecuteInProcessResult) -> int:
        return int(metadata(result, "recommendations")["edition"])

    with postgres_server() as server:
        url = server.create_database("shop")
        monkeypatch.setenv("SHOP_URL", url)
        sinks = {"postgres": {"url_env": "SHOP_URL"}, "export": {"format": "jsonl"}}
        result = run(["title", "image", "PRICE", "GENRES"], sinks=sinks)
        names = [*BASE, "title", "image", "price", "genres", "score"]
        lists = table(project, "shop")
        assert lists.columns == names
        assert lists.schema["price"] == pl.Float64
        item = lists.item(0, "item_id")
        picture = f"https://shop.example/a{item}.jpg"
        values = (f"Film {item}", picture, int(item) + 10.0, "Drama|War")
        assert lists.row(0)[3:-1] == values
        rows = server.query("SELECT * FROM recommendations ORDER BY user_id, rank", url=url)
        assert rows == lists.sort("user_id", "rank").rows()
        export = project.storage / "shop/curated/exports/recommendations.jsonl"
        assert [*json.loads(export.read_text().splitlines()[0])["items"][0]] == names[1:]
        about = metadata(result, "recommendations")
        assert [column.name for column in about["dagster/column_schema"].columns] == names
        lineage = about["dagster/column_lineage"].deps_by_column
        sources = {name: (deps[-1].asset_key.path[-1], deps[-1].column_name)
                   for name, deps in lineage.items()}  # fmt: skip
        assert sources["image"] == ("item_titles", "image")
        assert sources["price"] == ("items", "PRICE")

        # A new price is in the lists of the same model; nothing is inferred for that.
        again = run(["title", "image", "PRICE", "GENRES"], sinks=sinks, price=20)
        assert read_edition(again) == read_edition(result) + 1
        assert table(project, "shop").row(0)[3:6] == (*values[:2], int(item) + 20.0)
        # Other columns and another order change the table, and PostgreSQL's.
        fewer = run(["PRICE", "link"], sinks=sinks, price=20)
        for unchanged in (again, fewer):
            assert outcomes(unchanged)[-1] == "unchanged: not inferred again"
        assert table(project, "shop").columns == [*BASE, "price", "link", "score"]
        rows = server.query(
            "SELECT user_id, rank, item_id, price, link, score FROM recommendations"
            " ORDER BY user_id, rank",
            url=url,
        )
        assert rows == table(project, "shop").sort("user_id", "rank").rows()
    # A new picture, which lists do not have, publishes nothing.
    other_picture = run(["PRICE", "link"], sinks=sinks_without_postgres(), price=20, picture="b")
    assert read_edition(other_picture) == read_edition(fewer)


def sinks_without_postgres() -> dict[str, Any]:
    return {"export": {"format": "jsonl"}}


@pytest.mark.slow  # two refreshes
def test_a_picture_changes_no_lists_that_have_titles_alone(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "ratings.csv")
    editions = []
    for picture in ("a", "b"):
        declare(project, picture=picture)
        result = refresh(project, "shop", instance)
        assert result.success
        editions.append(metadata(result, "recommendations")["edition"])
        assert table(project, "shop").columns == [*BASE, "title", "score"]
    assert editions[0] == editions[1]


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        (
            ["title", "PRIZE"],
            {},
            "there is no PRIZE: items.columns has title, image, link, GENRES, PRICE; reason and"
            " reason_item are there too",
        ),
        (["title", "title"], {}, "title is there twice"),
        (["TITLE", "title"], {"TITLE": "price"}, "title is there twice"),
        (["SCORE"], {"SCORE": "price"}, "lists have a score of their own: give SCORE another"),
        (["REASON"], {"REASON": "price"}, "lists have a reason of their own"),
    ],
)
def test_a_column_that_cannot_be_is_reported_when_loaded(
    project: Project, columns: list[str], names: dict[str, str], message: str
) -> None:
    numbers = names or {"PRICE": "price"}
    items = {"source": "items.csv", "columns": {**ITEM_COLUMNS, "numbers": numbers}}
    declare(project, items=items, recommendations={"columns": columns})
    with pytest.raises(DeclarationError) as refusal, definitions(project):
        pass
    assert f"recommendations.columns: {message}" in str(refusal.value)
    assert "\n" not in str(refusal.value).strip()


def test_without_items_there_is_nothing_to_show_of_them(project: Project) -> None:
    project.declare(declaration("shop", "ratings.csv", recommendations={"columns": ["title"]}))
    with (
        pytest.raises(DeclarationError, match="there is no title: items is missing; reason"),
        definitions(project),
    ):
        pass
