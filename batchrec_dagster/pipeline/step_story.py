"""What a step did, in one line of its run's log: together the lines tell what happened that night.

Dagster's page shows them alone if only its levels from Info on are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

# The assets that log a line of their own, because their metadata do not have what it says.
ASSETS_WITH_OWN_LINE = {"recommendation_outcomes", "recommendation_report"}
# What has an outcome of its own in the metadata of an import, apart from the interactions.
IMPORTED_PARTS = ("items", "users")


def log_story(context: dg.AssetExecutionContext, metadata: Mapping[str, Any]) -> None:
    """Log what the asset's step did, unless the asset logs a line of its own.

    metadata: those of the asset's result.
    """
    if context.asset_key.path[-1] not in ASSETS_WITH_OWN_LINE:
        values = {name: getattr(value, "value", value) for name, value in metadata.items()}
        context.log.info(describe_step(values))


def describe_step(metadata: Mapping[str, Any]) -> str:
    """What a step did, by the plain values of its result's metadata, in a sentence."""
    if "recipe" in metadata:
        return _describe_training(metadata)
    if "dataset_group_name" in metadata:
        return _describe_import(metadata)
    counts = _describe_counts(metadata)
    outcome = str(metadata.get("outcome") or "")
    if "edition" in metadata:
        return _describe_edition(metadata["edition"], outcome, counts)
    if "source" in metadata:
        return f"{metadata['source']}: {_join(outcome, counts)}"
    if outcome:
        return _join(outcome, counts)
    return f"{'kept' if 'rows_read' in metadata else 'stored'} {counts or 'its result'}"


def _describe_training(metadata: Mapping[str, Any]) -> str:
    recipe, outcome = metadata["recipe"], metadata["outcome"]
    seconds = metadata.get("training_seconds")
    if outcome == "trained" and seconds is not None:
        outcome = f"trained in {seconds:,.1f} s"
    ndcg, popular = metadata.get("ndcg_at_25"), metadata.get("popularity_ndcg_at_25")
    metrics = "" if ndcg is None else f"NDCG@25 {ndcg:.4f}"
    if metrics and popular is not None:
        metrics += f", of the most popular items {popular:.4f}"
    return f"{recipe}: {_join(outcome, metrics)}"


def _describe_import(metadata: Mapping[str, Any]) -> str:
    outcomes = {"interactions": metadata["outcome"]}
    for part in IMPORTED_PARTS:
        if f"{part}_outcome" in metadata:
            outcomes[part] = metadata[f"{part}_outcome"]
    parts_by_outcome: dict[str, list[str]] = {}
    for part, outcome in outcomes.items():
        parts_by_outcome.setdefault(outcome, []).append(part)
    return "; ".join(
        f"{', '.join(parts)}: {outcome}" for outcome, parts in parts_by_outcome.items()
    )


def _describe_edition(edition: int, outcome: str, counts: str) -> str:
    if outcome.startswith("rolled back"):
        return f"{outcome}, published as edition {edition}: {counts}"
    if outcome.startswith("unchanged"):
        return f"{outcome}, edition {edition} stays: {counts}"
    return f"published edition {edition}: {counts}"


def _describe_counts(metadata: Mapping[str, Any]) -> str:
    rows, users = metadata.get("dagster/row_count"), metadata.get("users")
    if "rows_read" in metadata:
        reasons = metadata.get("left_out_by_reason") or {}
        left_out = "".join(f", {count:,} left out: {reason}" for reason, count in reasons.items())
        return f"{rows:,} of {metadata['rows_read']:,} rows{left_out}"
    if rows is not None and users is not None and rows != users:
        return f"{rows:,} rows for {users:,} users"
    if users is not None:
        return f"{users:,} users"
    return "" if rows is None else f"{rows:,} rows"


def _join(outcome: str, details: str) -> str:
    return ", ".join(filter(None, (outcome, details)))
