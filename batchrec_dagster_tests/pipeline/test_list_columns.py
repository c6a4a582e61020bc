"""recommendations.columns: what lists have of each item, in the table and in all sinks."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    metadata,
    outcomes,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.postgres import postgres_server

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
        "solution": {"recipe": "aws-user-personalization", "retrain": {"every_days": 7}},
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

        # New pictures are in the lists of the same job; nothing is inferred for that.
        again = run(["title", "image", "PRICE", "GENRES"], sinks=sinks, picture="b")
        assert read_edition(again) == read_edition(result) + 1
        new_picture = f"https://shop.example/b{item}.jpg"
        assert table(project, "shop").row(0)[3:5] == (values[0], new_picture)
        # Other columns and another order change the table, and PostgreSQL's.
        fewer = run(["PRICE", "link"], sinks=sinks, picture="b")
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
        other_picture = run(["PRICE", "link"], sinks=sinks, picture="c")
        assert read_edition(other_picture) == read_edition(fewer)
        # A rollback brings back the columns of its edition, in PostgreSQL too.
        with definitions(project) as defs:
            back = defs.resolve_job_def("shop_rollback").execute_in_process(instance=instance)
        assert back.success
        assert table(project, "shop").columns == names
        assert table(project, "shop").item(0, "image") == new_picture
        rows = server.query(
            f"SELECT {', '.join(names)}, link FROM recommendations ORDER BY user_id, rank", url=url
        )
        # A column that these lists do not have stays in PostgreSQL's table, and is null.
        assert rows == [
            (*row, None) for row in table(project, "shop").sort("user_id", "rank").iter_rows()
        ]
