"""Words for the engine that measured a model, and for the tested users."""

from __future__ import annotations

from collections.abc import Sequence

from batchrec_dagster.personalize.measurements import EMBEDDED_ENGINE, join_words
from batchrec_dagster.reporting.insight.numbers import format_count
from batchrec_dagster.steps.judge.quality import NOBODY_TESTED
from batchrec_dagster.steps.thresholds import FEW_TESTED


def describe_engine(engine: str | None) -> str:
    """Return the name of the engine that trained and measured a model.

    The name of the embedded engine says that Amazon did not measure the model.
    """
    if engine == EMBEDDED_ENGINE:
        return "batchrec's embedded engine, not by Amazon"
    return engine or "an unknown engine"


def describe_tested_users(tested: int | None) -> str:
    """Return the held-out users on whom the metrics were measured, in words.

    tested: the number of tested users; None if it is not known.
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
    """Return a sentence on the events that the metrics count; empty in the usual case.

    In the usual case, no events are declared and the metrics count all events.

    declared: the setting solution.success.
    counted: the only events that the metrics count; empty if they count all events.
    engine: the engine that measured the metrics.
    """
    if counted:
        return f"The metrics count {join_words(counted)} alone."
    if not declared:
        return ""
    return (
        f"{engine}'s metrics count all events, not only {join_words(declared)}: outcomes and"
        " experiments count these."
    )
