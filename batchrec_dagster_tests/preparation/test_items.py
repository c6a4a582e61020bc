"""Items: their file becomes an Items data set, and titles for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.pipeline.io_managers import AttributesIOManager
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.pipeline.test_io_managers import load_input

# Whatever the model, items are the same.
QUICK = {"recipe": "aws-user-personalization"}


def test_an_asset_of_ones_own_gets_the_items_with_numbers_and_ids_as_text(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"ITEM_ID": ["007", "ü"], "GENRES": ["War|Crime", None], "YEAR": [1999.0, None]}
    )
    table.write_csv(tmp_path / "items.csv")
    items_received = load_input(tmp_path / "items.csv", AttributesIOManager, pl.DataFrame)
    assert isinstance(items_received, pl.DataFrame)
    assert items_received.equals(table)


@pytest.mark.slow  # a whole refresh
@pytest.mark.parametrize("by_position", [False, True])
def test_pictures_and_pages_reach_the_titles_of_a_run(
    project: Project, instance: dg.DagsterInstance, by_position: bool
) -> None:
    rows = [
        f"{item},Film {item},https://a.example/{item}.jpg,https://a.example/{item}"
        for item in range(1, 81)
    ]
    header = [] if by_position else ["movieId,title,picture,page"]
    source = project.root / "items.csv"
    source.write_text("\n".join([*header, *rows]) + "\n")
    columns: dict[str, Any] = {"item": "movieId", "title": "title"}
    columns |= {"image": "picture", "link": "page"}
    if by_position:
        columns = {"item": 1, "title": 2, "image": 3, "link": 4}
    ratings = write_ratings(project.root / "ratings.csv")
    items = {"source": str(source), "columns": columns}
    project.declare(declaration("shop", ratings, items=items, solution=QUICK))
    result = refresh(project, "shop", instance, report=True)
    assert result.success
    titles = pl.read_parquet(project.storage / "shop/transformed/item_titles/item_titles.parquet")
    assert titles.row(by_predicate=pl.col("item_id") == "7", named=True) == {
        "item_id": "7",
        "title": "Film 7",
        "image": "https://a.example/7.jpg",
        "link": "https://a.example/7",
    }
