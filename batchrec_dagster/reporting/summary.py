"""A pipeline's latest results in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import dagster as dg

NDCG = "ndcg_at_25"


def pipelines(instance: dg.DagsterInstance) -> list[str]:
    """The names of the pipelines that have made recommendations on this Dagster instance."""
    return sorted(
        key.path[0]
        for key in instance.get_asset_keys()
        if len(key.path) == 2 and key.path[1] == "recommendations" and _latest(instance, *key.path)
    )


def summary(instance: dg.DagsterInstance, pipeline: str) -> Iterator[str]:
    """Lines that tell what the newest results are and where they lie."""
    ratings = _latest(instance, pipeline, "raw_ratings")
    kept = _latest(instance, pipeline, "interactions")
    dataset = _latest(instance, pipeline, "personalize_dataset")
    version = _latest(instance, pipeline, "solution_version")
    table = _latest(instance, pipeline, "recommendations")
    segments = _latest(instance, pipeline, "user_segments")
    rows: list[tuple[str, str]] = [
        ("ratings", f"{kept['rows_read']:,} rows of {ratings['source']}"),
        ("interactions", f"{kept['dagster/row_count']:,} kept, {kept['rows_left_out']:,} left out"),
        ("users, items", f"{kept['users']:,} and {kept['items']:,}"),
        ("import", dataset["outcome"]),
        ("training", f"{version['recipe']}: {version['outcome']}"),
        ("NDCG@25", _compared(version)),
        (
            "lists",
            f"{table['dagster/row_count']:,} items for {table['users']:,} users, made"
            f" {datetime.fromtimestamp(table['made']):%Y-%m-%d %H:%M}",
        ),
        ("table", table["table"]),
    ]
    if segments:
        rows += [
            ("segments", f"{segments['segments']:,}, with {segments['users']:,} users in all"),
            ("table", segments["table"]),
        ]
    rows += _example(table["sample"])
    yield pipeline
    for name, value in rows:
        yield f"  {name:<13} {value}"


def _example(sample: dg.TableMetadataValue) -> list[tuple[str, str]]:
    """The first titles of a list, so that a person sees what it is like; none without titles."""
    rows = [dict(record.data) for record in sample.records]
    if not rows or "title" not in rows[0]:
        return []
    user = rows[0]["user_id"]
    titles = [str(row["title"] or row["item_id"]) for row in rows if row["user_id"] == user]
    return [(f"user {user}", titles[0]), *(("", title) for title in titles[1:])]


def _compared(version: Mapping[str, Any]) -> str:
    if f"popularity_{NDCG}" not in version:
        return f"{version[NDCG]:.4f}"
    popularity = version[f"popularity_{NDCG}"]
    return (
        f"{version[NDCG]:.4f}, beside {popularity:.4f} for the most popular items"
        f" ({version[NDCG] / popularity:.2f} times)"
        if popularity
        else f"{version[NDCG]:.4f}, beside 0 for the most popular items"
    )


def _latest(instance: dg.DagsterInstance, pipeline: str, asset: str) -> dict[str, Any]:
    """The metadata of the asset's newest materialization, `made` among them (epoch seconds);
    empty where there is none."""
    event = instance.get_latest_materialization_event(dg.AssetKey([pipeline, asset]))
    if event is None or event.asset_materialization is None:
        return {}
    metadata = event.asset_materialization.metadata
    return {key: value.value for key, value in metadata.items()} | {"made": event.timestamp}
