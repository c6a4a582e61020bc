"""What a solution version is trained on: the interactions that its solution asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.formats.interactions import (
    EVENT_TYPE,
    ITEM_ID,
    MIN_INTERACTIONS,
    MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS,
    MIN_USERS_WITH_TWO_INTERACTIONS,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.local_personalize.datasets import take_interactions, take_rows
from batchrec_dagster.local_personalize.errors import JobFailedError
from batchrec_dagster.local_personalize.job import Job
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.recipes import RECIPES

_EVENT_VALUE = "EVENT_VALUE"


def training_data(job: Job) -> Interactions:
    """The interactions of the events that count. Raises JobFailedError when they are too few."""
    version = job.resource
    wanted = _wanted(version.body)
    full_imports_only = RECIPES[version.body["recipeArn"]].makes_segments
    if {} in wanted:
        interactions = take_interactions(
            job.catalog, job.home, version.state["dataset"], full_imports_only=full_imports_only
        )
    else:
        interactions = _of_events(job, wanted, full_imports_only)
    job.progress(f"{len(interactions):,} interactions")
    _check_minimums(interactions)
    return interactions


def _of_events(job: Job, wanted: list[dict[str, Any]], full_imports_only: bool) -> Interactions:
    columns = [USER_ID, ITEM_ID, TIMESTAMP]
    needed = dict.fromkeys([*columns, *(name for event in wanted for name in event)])

    def take(rows: pl.LazyFrame) -> Interactions:
        events = rows.filter(pl.any_horizontal(_matches(event) for event in wanted))
        return Interactions.from_frame(events.select(columns))

    try:
        return take_rows(
            job.catalog,
            job.home,
            job.resource.state["dataset"],
            list(needed),
            take,
            full_imports_only=full_imports_only,
        )
    except pl.exceptions.ColumnNotFoundError as error:
        raise JobFailedError(f"Create failed. The interactions lack a column: {error}") from None


def _wanted(version: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events that count: of each its EVENT_TYPE and least EVENT_VALUE, where they matter."""
    config = version.get("solutionConfig", {})
    events = config.get("eventsConfig", {}).get("eventParametersList")
    if not events:
        threshold = config.get("eventValueThreshold")
        events = [{"eventType": version.get("eventType"), "eventValueThreshold": threshold}]
    asked = [
        {EVENT_TYPE: event.get("eventType"), _EVENT_VALUE: event.get("eventValueThreshold")}
        for event in events
        if event.get("weight") != 0
    ]
    return [{name: value for name, value in event.items() if value is not None} for event in asked]


def _matches(event: Mapping[str, Any]) -> pl.Expr:
    return pl.all_horizontal(
        pl.col(name) >= float(value) if name == _EVENT_VALUE else pl.col(name) == value
        for name, value in event.items()
    )


def _check_minimums(interactions: Interactions) -> None:
    if len(interactions) < MIN_INTERACTIONS:
        raise JobFailedError(
            f"Create failed. Dataset has {len(interactions)} interactions to train on, fewer than"
            f" {MIN_INTERACTIONS}."
        )
    enough = np.count_nonzero(np.diff(interactions.starts) >= 2)
    if enough < MIN_USERS_WITH_TWO_INTERACTIONS:
        raise JobFailedError(
            f"Create failed. Dataset has fewer than {MIN_USERS_WITH_TWO_INTERACTIONS} users with"
            " at least 2 interactions each."
        )
    if enough < MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS * len(interactions.user_ids):
        raise JobFailedError(
            "Create failed. Fewer than 1 % of the users have at least 2 interactions each."
        )
