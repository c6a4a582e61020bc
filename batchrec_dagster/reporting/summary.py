"""A pipeline's latest results in a few lines: of the storage, and what Dagster remembers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from batchrec_dagster.reporting.published import Published
from batchrec_dagster.storage.paths import read_record

NDCG = "ndcg_at_25"
_OF_PERSONALIZE = "normalized_discounted_cumulative_gain_at_25"
# What Dagster's metadata tell beside the storage: the asset, its metadata, and our name for it.
_TOLD = (
    ("raw_ratings", "source", "source"),
    ("interactions", "rows_read", "rows_read"),
    ("interactions", "dagster/row_count", "interactions"),
    ("interactions", "rows_left_out", "rows_left_out"),
    ("interactions", "users", "interactions_users"),
    ("interactions", "items", "interactions_items"),
    ("personalize_dataset", "outcome", "import"),
    ("solution_version", "recipe", "recipe"),
    ("solution_version", "outcome", "training"),
    ("user_segments", "segments", "segments"),
    ("user_segments", "users", "segments_users"),
    ("user_segments", "table", "segments_table"),
)


def summary(published: Published, instance: dg.DagsterInstance | None) -> dict[str, Any]:
    """What is known of the newest results, by name; what only Dagster knows is left out without an
    instance. Raises StorageError."""
    storage, places = published.storage, published.places
    facts: dict[str, Any] = {"pipeline": published.pipeline}
    if instance is not None:
        assets = {asset for asset, _, _ in _TOLD}
        found = {asset: _latest(instance, published.pipeline, asset) for asset in assets}
        facts |= {
            name: found[asset][key]
            for asset, key, name in _TOLD
            if found[asset].get(key) is not None
        }
    edition = published.edition
    assert edition is not None
    # What the table says of itself; one of an older version says nothing, and is counted.
    newest = read_record(storage, places.record("solution_version"))
    about = edition.about or newest
    facts["earlier_data"] = about.get("data_version") != newest.get("data_version")
    for prefix, metrics in (("", "metrics"), ("popularity_", "popularity_metrics")):
        if _OF_PERSONALIZE in (about.get(metrics) or {}):
            facts[prefix + NDCG] = about[metrics][_OF_PERSONALIZE]
    rows, users = published.size()
    facts |= {
        "rows": rows,
        "users": users,
        "made": published.made,
        **({"edition": edition.number} if edition.number else {}),
        "table": storage.where(edition.uri),
    }
    report = storage.uri(places.report)
    if storage.store.head(report) is not None:
        facts["report"] = storage.where(report)
    if (example := published.example_user()) is not None:
        facts["example_user"] = example
    return facts


def lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A label and a text for each thing that a person wants to know."""
    if facts.keys() >= {name for asset, _, name in _TOLD if asset == "interactions"}:
        yield "ratings", f"{facts['rows_read']:,} rows of {facts.get('source', 'the ratings')}"
        kept = f"{facts['interactions']:,} kept"
        newer = "; the lists are of earlier data" if facts.get("earlier_data") else ""
        yield "interactions", f"{kept}, {facts['rows_left_out']:,} left out{newer}"
        learned = (facts["interactions_users"], facts["interactions_items"])
        yield "users, items", "{:,} and {:,}".format(*learned)
    if "import" in facts:
        yield "import", facts["import"]
    if "training" in facts:
        yield "training", f"{facts['recipe']}: {facts['training']}"
    if NDCG in facts:
        yield "NDCG@25", _compared(facts[NDCG], facts.get(f"popularity_{NDCG}"))
    lists = f"{facts['rows']:,} items for {facts['users']:,} users"
    edition = f" (edition {facts['edition']})" if "edition" in facts else ""
    yield "lists", f"{lists}, made {facts['made'].astimezone():%Y-%m-%d %H:%M}{edition}"
    yield "table", facts["table"]
    if "report" in facts:
        yield "report", facts["report"]
    if "segments" in facts:
        users = f"{facts['segments_users']:,} users in all"
        yield "segments", f"{facts['segments']:,}, with {users}"
        yield "table", facts["segments_table"]


def _compared(ndcg: float, popularity: float | None) -> str:
    if popularity is None:
        return f"{ndcg:.4f}"
    if not popularity:
        return f"{ndcg:.4f}, beside 0 for the most popular items"
    return (
        f"{ndcg:.4f}, beside {popularity:.4f} for the most popular items"
        f" ({ndcg / popularity:.2f} times)"
    )


def _latest(instance: dg.DagsterInstance, pipeline: str, asset: str) -> dict[str, Any]:
    """The metadata of the asset's newest materialization; empty where there is none."""
    event = instance.get_latest_materialization_event(dg.AssetKey([pipeline, asset]))
    if event is None or event.asset_materialization is None:
        return {}
    return {key: value.value for key, value in event.asset_materialization.metadata.items()}
