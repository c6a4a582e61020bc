"""The events that count as success, and the check that the data have such events."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl

from batchrec_dagster.editions.edition import Finding, Numbers, watch_unless
from batchrec_dagster.personalize.schemas import EVENT_TYPE
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.interactions_record import read_interactions_record

SUCCESS_KNOWN = "success_known"
# The check names at most this many event types of the data. Personalize allows no more types.
MOST_NAMED = 10


def is_of_types(interactions: pl.LazyFrame, events: Collection[str]) -> pl.Expr:
    """Return an expression for whether an interaction has one of these event types.

    Upper and lower case do not matter.

    events: the event types; every interaction counts if it is empty.
    """
    if not events:
        return pl.lit(value=True)
    if EVENT_TYPE not in interactions.collect_schema():
        return pl.lit(value=False)
    names = pl.Series([name.lower() for name in events])
    return pl.col(EVENT_TYPE).str.to_lowercase().is_in(names.implode()).fill_null(value=False)


def check_success_known(step: StepContext) -> list[Finding]:
    """Check that the interactions have the events of solution.success.

    Return a list with the finding, or an empty list if no events are declared. If the interactions
    have some of the events, a missing event only warns, because it may not have occurred yet.
    Raises UserError.
    """
    declared = step.pipeline.solution.success
    if not declared:
        return []
    types = [*read_interactions_record(step).counts.events]
    return [compare_success(declared, types)]


def compare_success(declared: Sequence[str], types: Sequence[str]) -> Finding:
    """Check that the data have the declared events. The finding refuses if all are missing.

    types: the event types of the data, the most frequent first.
    """
    lower_types = {name.lower() for name in types}
    missing = [name for name in declared if name.lower() not in lower_types]
    known_count = len(declared) - len(missing)
    text = f"{known_count:,} of {len(declared):,} events of success are in the data"
    if missing:
        named = ", ".join(types[:MOST_NAMED]) or "none"
        text += (
            f". No interaction is of the type {' or '.join(missing)}; the types are: {named}. Write"
            " one of these into solution.success, or check ratings.columns.event_type and"
            " interactions.filter"
        )
    level = watch_unless(not missing) if known_count else "refuse"
    numbers: Numbers = {"success": len(declared), "missing": len(missing)}
    headline = f"no interaction is of the type {' or '.join(missing)}" if missing else ""
    return Finding(SUCCESS_KNOWN, level, text, headline, numbers)
