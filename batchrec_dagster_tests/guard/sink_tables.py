"""Tables of recommendations for the tests of sinks."""

from __future__ import annotations

from typing import Any

import polars as pl

SCHEMA = {
    "user_id": pl.String,
    "rank": pl.Int32,
    "item_id": pl.String,
    "title": pl.String,
    "score": pl.Float64,
}


def build_lists_table(
    lists: dict[str, list[Any]], *, titles: bool = True, score: float | None = 0.5
) -> pl.DataFrame:
    """Return a table of recommendations.

    lists: the items of each user; an item is an id, or a pair of an id and a title.
    titles: whether the table has the column title.
    score: the score of the first item of a list; None for no scores. The item at rank n has this
        score divided by n.
    """
    rows = []
    for user, items in lists.items():
        for rank, item in enumerate(items, 1):
            item_id, title = item if isinstance(item, tuple) else (item, None)
            rows.append((user, rank, item_id, title, score and score / rank))
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return frame if titles else frame.drop("title")


def build_mail_table() -> pl.DataFrame:
    """Return a table with item columns, as the setting `recommendations.columns` makes it."""
    frame = build_lists_table({"1": [("a", "A"), "b"], "2": [("c", "C")]})
    return frame.select(
        "user_id",
        "rank",
        "item_id",
        "title",
        image=pl.Series(["https://a.example/a.png", None, None], dtype=pl.String),
        price=pl.Series([19.9, None, 5.0]),
        reason=pl.Series(["because", "popular", None]),
        reason_item=pl.Series(["z", None, None], dtype=pl.String),
        score="score",
    )


def build_large_table(users: int, results: int = 5) -> pl.DataFrame:
    """Return a table with lists for this many users, with `results` items each."""
    return build_lists_table(
        {
            str(user): [f"i{(user + offset) % 97}" for offset in range(results)]
            for user in range(users)
        }
    )


def build_similar_items_table() -> pl.DataFrame:
    """Return a table of similar items with lists for two items."""
    return pl.DataFrame(
        {
            "item_id": ["a", "a", "b"],
            "rank": [1, 2, 1],
            "similar_item_id": ["b", "c", "a"],
            "title": ["B", None, "A"],
            "score": [0.5, 0.25, 0.5],
        },
        schema_overrides={"rank": pl.Int32},
    )
