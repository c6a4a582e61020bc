"""Estimates, from the sums, what came of each period."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.outcomes.arms import CONTROL
from batchrec_dagster.outcomes.estimates import estimate_ratio, estimate_share, to_rate
from batchrec_dagster.outcomes.outcome import Outcome, Rate

DAY = 86_400


def estimate_outcomes(sums: pl.DataFrame) -> Iterator[Outcome]:
    """Yield the outcome of each period and arm.

    sums: with the columns of `outcomes.sums.SCHEMA`.
    """
    keys = ["start", "end", "edition", "since", "experiment", "length", "arm", "success"]
    for values, part in sums.group_by(keys, maintain_order=True):
        yield _estimate_outcome(dict(zip(keys, values, strict=True)), part)


def _estimate_outcome(key: Mapping[str, Any], part: pl.DataFrame) -> Outcome:
    experiment = Experiment.model_validate_json(key["experiment"]) if key["experiment"] else None
    active = float(part["active"].sum())
    without_lists = (
        experiment is not None and experiment.control == "none" and key["arm"] == CONTROL
    )

    def estimate(numerator: str, denominator: str) -> Rate | None:
        if without_lists:
            return None
        return estimate_share(part[numerator], part[denominator], active)

    def estimate_popular(numerator: str, denominator: str) -> Rate | None:
        return estimate_share(part[numerator], part[denominator], active)

    def estimate_value(column: str) -> Rate | None:
        if part[column].is_null().all():
            return None
        user_days = part["users"] * ((key["end"] - key["start"]) / DAY)
        value = estimate_ratio(part[column].fill_null(0), user_days)
        return None if value is None else to_rate(value)

    popular_value = estimate_value("popular_hit_value")
    popular_recall = estimate_popular("popular_recall", "active")
    popular_list_share = estimate_popular("popular_hits", "new")
    return Outcome(
        edition=key["edition"],
        since=key["since"],
        start=datetime.fromtimestamp(key["start"], UTC),
        end=datetime.fromtimestamp(key["end"], UTC),
        experiment=experiment.name if experiment else "",
        arm=key["arm"],
        list_length=key["length"],
        users=int(part["users"].sum()),
        active_users=int(active),
        interactions=int(part["interactions"].sum()),
        new_interactions=int(part["new"].sum()),
        on_list=int(part["hits"].sum()),
        hit_rate=estimate("hit_users", "active"),
        recall=estimate("recall", "active"),
        list_share=estimate("hits", "new"),
        gain=None if without_lists else _estimate_gain(part, active),
        popular_hit_rate=estimate_popular("popular_hit_users", "active"),
        popular_recall=None if popular_recall is None else popular_recall.value,
        popular_list_share=None if popular_list_share is None else popular_list_share.value,
        success=key["success"],
        event_value=estimate_value("value"),
        list_event_value=None if without_lists else estimate_value("hit_value"),
        popular_event_value=None if popular_value is None else popular_value.value,
    )


def _estimate_gain(part: pl.DataFrame, active: float) -> Rate | None:
    """hit_rate - popular_hit_rate.

    Each user counts as -1, 0 or 1. Scaled to 0 to 1 it is a share, whose interval is right for few
    users too.
    """
    gained = part["hit_users"] - part["popular_hit_users"]
    share = estimate_share((gained + part["active"]) / 2, part["active"], active)
    if share is None:
        return None
    return Rate(2 * share.value - 1, 2 * share.low - 1, 2 * share.high - 1)
