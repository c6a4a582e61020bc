"""The gate: whether a solution version may serve, looked at before batch inference is paid for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrec_dagster.config.recommendations import Gate
from batchrec_dagster.steps.checks import Checked

CHECK = "quality_gate"

NDCG = "normalized_discounted_cumulative_gain_at_25"
COVERAGE = "coverage"


def quality_gate(
    gate: Gate,
    trained: Mapping[str, Any],
    published: Mapping[str, Any] | None,
    measured_on: str,
    *,
    anyway: str,
    publish_anyway: bool = False,
    rolled_back: bool = False,
) -> Checked:
    """The verdict, with the numbers, and what to do if it is no.

    trained: the record of solution_version. published: what the published lists say of themselves,
    None where there are none. measured_on: a name of which interactions count; metrics are
    compared with those of the same only. rolled_back: whether somebody took back the lists of this
    version. anyway: how a run is told to publish anyway; publish_anyway: whether this one was.
    """
    metrics, popular = trained["metrics"], trained["popularity_metrics"].get(NDCG)
    ndcg, coverage = metrics.get(NDCG, 0.0), metrics.get(COVERAGE, 0.0)
    said = published or {}
    serves = said.get("solution_version_arn") == trained["solution_version_arn"]
    before = None
    if not serves and said.get("measured_on") == measured_on:
        before = said["metrics"].get(NDCG)

    reasons = []
    if rolled_back:
        reasons.append("its lists were rolled back")
    if not serves:
        if popular is not None and ndcg < popular:
            reasons.append("it is worse than showing everyone the most popular items")
        if before is not None and ndcg < (1 - gate.max_drop) * before:
            reasons.append(
                f"its NDCG@25 is {1 - ndcg / before:.0%} less than that of the published lists,"
                f" where gate.max_drop allows {gate.max_drop:.0%}"
            )
        if ndcg < gate.min_ndcg_at_25:
            reasons.append(f"gate.min_ndcg_at_25 is {gate.min_ndcg_at_25:g}")
        if coverage < gate.min_coverage:
            reasons.append(f"gate.min_coverage is {gate.min_coverage:g}")

    numbers = {"ndcg_at_25": ndcg, "coverage": coverage}
    beside = []
    if popular is not None:
        numbers["popularity_ndcg_at_25"] = popular
        beside.append(f"{popular:.4f} of the most popular items")
    if before is not None:
        numbers["published_ndcg_at_25"] = before
        beside.append(f"{before:.4f} of the published lists")
    found = f"NDCG@25 {ndcg:.4f}"
    found += f", beside {' and '.join(beside)}" if beside else ""
    found += f"; coverage {coverage:.4f}"
    if not trained.get("data_version", "").startswith(trained.get("trained_on", "")):
        found += f"; the model was trained on {trained['trained_at'][:10]}, on earlier data"
    if serves:
        found += "; its lists are published already"
    elif said and before is None:
        found += "; the published lists' metrics are of other interactions, so not compared"
    remains = (
        "nothing was published" if published is None else "the published lists stay as they are"
    )
    if reasons and publish_anyway:
        found += f"; published anyway, as this run was told to, although {', and '.join(reasons)}"
    elif reasons:
        found += (
            f": {', and '.join(reasons)}. Nothing was inferred and {remains}."
            " Look whether the data are what they should be, and start the run again, or publish"
            f" anyway: {anyway}"
        )
    return Checked(CHECK, not reasons or publish_anyway, found, numbers)
