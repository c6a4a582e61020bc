"""Who measured a model, and on whom, in words."""

from __future__ import annotations

from collections.abc import Sequence

from batchrec_dagster.personalize.measurements import EMBEDDED_ENGINE, join_words
from batchrec_dagster.reporting.insight.numbers import format_count
from batchrec_dagster.steps.judge_quality import NOBODY_TESTED
from batchrec_dagster.steps.thresholds import FEW_TESTED


def describe_engine(engine: str | None) -> str:
    """What trained and measured a model. An engine that answers like Amazon's is not Amazon's."""
    if engine == EMBEDDED_ENGINE:
        return "batchrec's embedded engine, not by Amazon"
    return engine or "an unknown engine"


def describe_tested_users(tested: int | None) -> str:
    """The held-out users whom the metrics were measured on, in words.

    tested: their number; None if it is not known.
    """
    if tested is None:
        return "held-out users; how many is not known"
    if not tested:
        return f"no user: {NOBODY_TESTED}"
    small = ": a small sample" if tested < FEW_TESTED.value else ""
    return f"{format_count(tested, 'held-out user')}{small}"


def describe_counted_events(
    declared: Sequence[str], counted: Sequence[str], engine: str | None
) -> str:
    """Which events the metrics count, in a sentence; empty if that is usual.

    declared: solution.success.
    counted: the events that the metrics count alone; empty if they count all.
    engine: what measured them.
    """
    if counted:
        return f"The metrics count {join_words(counted)} alone."
    if not declared:
        return ""
    return (
        f"{engine}'s metrics count all events, not only {join_words(declared)}: outcomes and"
        " experiments count these."
    )
