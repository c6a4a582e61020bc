"""Automatic training: when a solution is trained next, and the versions that are added then.

Source: developer guide, "Configuring automatic training".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from batchrec_dagster.personalize.schemas import INTERACTIONS

from ..catalog.catalog import CatalogTransaction
from ..catalog.resource import Resource, Status
from .datasets import find_dataset
from .solution_versions import FULL, SOLUTION_VERSION, make_version

SOON_SECONDS = 5.0
"""How soon a solution is trained that is new or has a new schedule. AWS: within an hour."""

NEXT_TRAINING = "next_training"
"""The key, in a solution's state, of when it is trained next, in epoch seconds."""

NEW_SCHEDULE = "first_training"
"""The key, in a solution's state, of when it got its schedule. None once it was trained by it."""

_DAY_SECONDS = 86_400.0
_DEFAULT_DAYS = 7


def make_schedule_state() -> dict[str, Any]:
    """Return the state of a solution whose automatic training is new, or has another schedule."""
    now = time.time()
    return {NEXT_TRAINING: now + SOON_SECONDS, NEW_SCHEDULE: now}


def read_schedule(body: Mapping[str, Any]) -> tuple[bool, int | None]:
    """Return whether a solution is trained automatically, and every how many days it says.

    body: the solution's members of Describe.
    """
    return body["performAutoTraining"], read_schedule_days(body.get("solutionConfig", {}))


def read_schedule_days(config: Mapping[str, Any]) -> int | None:
    """Return the number of days in a configuration's schedulingExpression, or None without one.

    The service model allows `rate(N days)` only.
    """
    text: str | None = config.get("autoTrainingConfig", {}).get("schedulingExpression")
    if not text:
        return None
    digits = [character for character in text if character.isdigit()]
    return int("".join(digits))


def find_due_solutions(transaction: CatalogTransaction) -> list[tuple[Resource, Resource]]:
    """Return the solutions whose automatic training is due and can start.

    Each comes with its Interactions dataset, which has data.
    """
    now = time.time()
    due = []
    for solution in transaction.list_resources("Solution"):
        next_training = solution.state.get(NEXT_TRAINING)
        is_due = next_training is not None and next_training <= now
        is_automatic = solution.body["performAutoTraining"]
        if not is_due or not is_automatic or solution.status != Status.ACTIVE:
            continue
        dataset = find_dataset(transaction, solution.body["datasetGroupArn"], INTERACTIONS)
        if dataset and dataset.status == Status.ACTIVE and dataset.state["files"]:
            due.append((solution, dataset))
    return due


def train_due_solutions(transaction: CatalogTransaction) -> None:
    """Add a version to each due solution that has new data, and set when each is due again."""
    for solution, dataset in find_due_solutions(transaction):
        if _needs_training(transaction, solution, dataset):
            version = make_version(solution, dataset, FULL, "AUTOMATIC")
            arn = f"{solution.arn}/{version.arn_suffix.rpartition('/')[2]}"
            transaction.add(
                SOLUTION_VERSION.make_pending(arn, solution.region, version.body, version.state)
            )
        days = read_schedule_days(solution.body.get("solutionConfig", {})) or _DEFAULT_DAYS
        schedule = {NEXT_TRAINING: time.time() + days * _DAY_SECONDS, NEW_SCHEDULE: None}
        transaction.save(replace(solution, state=solution.state | schedule))


def _needs_training(transaction: CatalogTransaction, solution: Resource, dataset: Resource) -> bool:
    """Tell whether data was imported since the latest version, or there is no version.

    The first training by a schedule is left out if a client has added a version since then.
    """
    versions = transaction.list_resources("SolutionVersion", parent=solution.arn)
    if not versions:
        return True
    last_training = versions[-1].created
    scheduled_since = solution.state.get(NEW_SCHEDULE)
    if scheduled_since and last_training >= scheduled_since:
        return False
    imports = transaction.list_resources("DatasetImportJob", parent=dataset.arn)
    return any(job.status == Status.ACTIVE and job.updated > last_training for job in imports)
