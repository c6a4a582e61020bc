"""The quality gate: may a solution version's lists be published? Checked before batch inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrec_dagster.config.recommendations import Gate
from batchrec_dagster.steps.checks import Checked
from batchrec_dagster.steps.records import ModelRecord

CHECK = "quality_gate"

NDCG = "normalized_discounted_cumulative_gain_at_25"
COVERAGE = "coverage"


def quality_gate(
    gate: Gate,
    model: ModelRecord,
    published: Mapping[str, Any] | None,
    measured_on: str,
    *,
    how_to_skip: str,
    skip_quality_gate: bool = False,
    rolled_back: bool = False,
    unfinished_rollback: bool = False,
) -> Checked:
    """The verdict, with the numbers, and what to do if it fails.

    published: the metadata of the published lists, if any. measured_on: fingerprint of the
    interaction settings; only metrics measured on the same interactions are compared.
    rolled_back: whether this version's lists were rolled back. unfinished_rollback: whether the
    published lists were, and are still there; nothing is compared with them. how_to_skip: how to
    start a run that publishes anyway; skip_quality_gate: whether this run does.
    """
    metrics, popular = model.metrics, model.popularity_metrics.get(NDCG)
    ndcg, coverage = metrics.get(NDCG, 0.0), metrics.get(COVERAGE, 0.0)
    about = published or {}
    serves = about.get("solution_version_arn") == model.solution_version_arn
    before = None
    if not (serves or unfinished_rollback) and about.get("measured_on") == measured_on:
        before = about["metrics"].get(NDCG)

    reasons = ["its lists were rolled back"] if rolled_back else []
    if not serves:
        reasons += _failures(gate, ndcg, coverage, popular, before)
    numbers = {"ndcg_at_25": ndcg, "coverage": coverage}
    compared = []
    if popular is not None:
        numbers["popularity_ndcg_at_25"] = popular
        compared.append(f"{popular:.4f} for the most popular items")
    if before is not None:
        numbers["published_ndcg_at_25"] = before
        compared.append(f"{before:.4f} for the published lists")
    found = f"NDCG@25 {ndcg:.4f}"
    found += f", compared with {' and '.join(compared)}" if compared else ""
    found += f"; coverage {coverage:.4f}"
    if model.on_earlier_data:
        found += f"; the model was trained on {f'{model.trained_at}'[:10]}, on earlier data"
    if unfinished_rollback:
        rollback = "which were rolled back: `batchrec rollback` finishes that"
        found += f"; not compared with the published lists, {rollback}"
    elif serves:
        found += "; its lists are already published"
    elif about and before is None:
        found += "; not comparable with the published lists: the interactions settings changed"
    remains = "nothing was published" if published is None else "the published lists stay"
    if reasons and skip_quality_gate:
        found += f"; published anyway (skip_quality_gate), although {', and '.join(reasons)}"
    elif reasons:
        found += (
            f": {', and '.join(reasons)}. Nothing was inferred and {remains}."
            f" Check the data and run again, or publish anyway: {how_to_skip}"
        )
    return Checked(CHECK, not reasons or skip_quality_gate, found, numbers)


def _failures(
    gate: Gate, ndcg: float, coverage: float, popular: float | None, before: float | None
) -> list[str]:
    """What the model fails. popular, before: NDCG@25 of popularity and of the published lists."""
    failures = []
    if popular is not None and ndcg < popular:
        failures.append("it is worse than recommending the most popular items to everyone")
    if before is not None and ndcg < (1 - gate.max_drop) * before:
        failures.append(
            f"its NDCG@25 is {1 - ndcg / before:.0%} below the published lists'; gate.max_drop"
            f" allows {gate.max_drop:.0%}"
        )
    if ndcg < gate.min_ndcg_at_25:
        failures.append(f"gate.min_ndcg_at_25 is {gate.min_ndcg_at_25:g}")
    if coverage < gate.min_coverage:
        failures.append(f"gate.min_coverage is {gate.min_coverage:g}")
    return failures
