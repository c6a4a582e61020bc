"""The events that count as success: whether the data have them, and the metrics that count them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.personalize.ensure import Ensure
from batchrec_dagster.personalize.evidence import (
    ALL,
    NDCG,
    get_solution_metrics,
    name_engine,
    read_counted_events,
    read_evidence,
)
from batchrec_dagster.personalize.file_formats import scan_interactions
from batchrec_dagster.personalize.schemas import EVENT_TYPE
from batchrec_dagster.steps.checks import CheckResult
from batchrec_dagster.steps.work import Work

TARGET_EVENTS_KNOWN = "target_events_known"
# How many types of events of the data the check names. Personalize takes no more.
MOST_NAMED = 10


def check_target_events_known(work: Work) -> list[CheckResult]:
    """Whether the interactions have the target events; nothing if none are declared.

    If they have some of them, a missing one only warns: nobody may have had it yet.
    Raises StorageError.
    """
    declared = work.pipeline.solution.target_events
    if not declared:
        return []
    with work.storage.local_file(work.files.interactions) as path:
        rows = scan_interactions(path)
        types: list[str] = []
        if EVENT_TYPE in rows.collect_schema():
            counts = rows.group_by(EVENT_TYPE).len().collect(engine="streaming").drop_nulls()
            counts = counts.sort("len", EVENT_TYPE, descending=[True, False])
            types = counts.get_column(EVENT_TYPE).to_list()
    return [compare_target_events(declared, types)]


def compare_target_events(declared: Sequence[str], types: Sequence[str]) -> CheckResult:
    """Whether the data have the declared events.

    types: those of the data, the most frequent first.
    """
    lower_types = {name.lower() for name in types}
    missing = [name for name in declared if name.lower() not in lower_types]
    finding = f"{len(declared) - len(missing):,} of {len(declared):,} target events are in the data"
    if missing:
        named = ", ".join(types[:MOST_NAMED]) or "none"
        finding += (
            f". No interaction is of the type {' or '.join(missing)}; the types are: {named}. Write"
            " one of these into solution.target_events, or check ratings.columns.event_type and"
            " interactions.filter"
        )
    has_some = len(missing) < len(declared)
    return CheckResult(
        TARGET_EVENTS_KNOWN,
        not missing,
        finding,
        {"target_events": len(declared), "missing": len(missing)},
        severity="warn" if has_some else "error",
    )


@dataclass(frozen=True)
class ModelMetrics:
    """What an engine measured of a model."""

    engine: str
    """What trained and measured it, as people read it."""
    metrics: Mapping[str, float]
    """By Personalize's names."""
    popularity_metrics: Mapping[str, float]
    """Those of recommending the most popular items; empty if they were not measured."""
    evidence: Mapping[str, float]
    """How certain the metrics are; empty if that is not known."""
    target_events: Sequence[str]
    """The types of events that all of these count alone; empty if they count all events."""
    all_events_metrics: Mapping[str, float] | None
    """The metrics of all events; None if `metrics` are these."""


def read_model_metrics(
    ensure: Ensure,
    version: str,
    popularity_version: str | None,
    target_events: Sequence[str],
) -> ModelMetrics:
    """The metrics of a model, which count the target events alone if the engine can.

    Amazon Personalize cannot, and the embedded engine can of models that it trained since 0.2.

    version, popularity_version: the ARNs of the solution versions; None without popularity.
    """
    client, on_aws = ensure.client, ensure.on_aws
    requested_events = () if on_aws else target_events
    answer = get_solution_metrics(client, version, requested_events)
    counted, evidence = read_counted_events(answer), read_evidence(answer)
    popularity: Mapping[str, float] = {}
    if popularity_version is not None:
        popularity_answer = get_solution_metrics(client, popularity_version, counted)
        popularity = _read_metrics(popularity_answer)
        if read_counted_events(popularity_answer) != counted:
            # An older batchrec trained it. The model was compared with popular items, too.
            popularity = {NDCG: evidence[f"{ALL}/popular"]}
    return ModelMetrics(
        engine=name_engine(answer, client.meta.endpoint_url, on_aws=on_aws),
        metrics=_read_metrics(answer),
        popularity_metrics=popularity,
        evidence=evidence,
        target_events=counted,
        all_events_metrics=_read_metrics(get_solution_metrics(client, version))
        if counted
        else None,
    )


def _read_metrics(answer: Mapping[str, Any]) -> dict[str, float]:
    """The metrics without those that are not a number, which every limit of the gate would let
    pass.

    answer: that of GetSolutionMetrics.
    """
    return {
        name: value for name, value in sorted(answer["metrics"].items()) if not math.isnan(value)
    }
