"""What a run costs in Amazon Personalize: estimated before it, and counted after it.

The local Personalize costs nothing. Then the metadata say what AWS would charge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from batchrec_dagster.config.project import Budget
from batchrec_dagster.personalize.ensure import ReadyResource
from batchrec_dagster.personalize.file_formats import scan_interactions
from batchrec_dagster.personalize.prices import (
    Cost,
    estimate_training_hours,
    price_import,
    price_recommendations,
    price_segments,
    price_training,
    summarize_costs,
)
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.steps.checks import CheckResult
from batchrec_dagster.steps.work import Work


def price_trainings(
    work: Work, trained: Mapping[str, ReadyResource], *, on_aws: bool
) -> list[Cost]:
    """The costs of the solution versions that a run trained.

    trained: each by its recipe.
    """
    if not trained:
        return []
    interactions = count_interactions(work)
    return [
        price_training(
            recipe,
            version.description.get("trainingHours", 0.0)
            if on_aws
            else estimate_training_hours(recipe, interactions),
            interactions,
        )
        for recipe, version in trained.items()
    ]


def estimate_run(work: Work, *, imports: Mapping[str, int], trainings: Sequence[str]) -> list[Cost]:
    """What a run costs, with recommendations and segments, which may exist already.

    imports: how many bytes are imported into each dataset.
    trainings: the recipes that are trained.
    """
    costs = [price_import(dataset, size) for dataset, size in imports.items()]
    if trainings:
        interactions = count_interactions(work)
        # 0 if none was trained on AWS.
        last_hours = float(work.files.record("solution_version").get("training_hours", 0.0))
        costs += [
            price_training(
                recipe, estimate_training_hours(recipe, interactions, last_hours), interactions
            )
            for recipe in trainings
        ]
    users = _count_batch_users(work)
    costs.append(price_recommendations(work.pipeline.solution.recipe, users))
    segments = work.pipeline.segments
    if segments:
        costs.append(price_segments(len(segments.queries), count_users(work)))
    return costs


def check_budget(budget: Budget, costs: Sequence[Cost], *, on_aws: bool) -> list[CheckResult]:
    """Whether the estimate is within the budget; no check where none is declared."""
    most = budget.max_usd_per_run
    if most is None:
        return []
    usd = sum(cost.usd for cost in costs)
    passed = usd <= most or not on_aws
    message = f"{summarize_costs(costs)}; budget.max_usd_per_run allows {most:,.2f}"
    if not on_aws:
        message = f"nothing locally; on AWS {message}"
    if not passed:
        message += (
            ". Nothing was imported or trained: raise budget.max_usd_per_run, or reduce the work"
            " (interactions.window, batch_users, solution.compare_with_popularity)"
        )
    numbers = {"estimated_usd": usd if on_aws else 0.0}
    return [CheckResult("within_budget", passed, message, numbers)]


def count_interactions(work: Work) -> int:
    """How many rows the file of interactions has."""
    users = work.files.users_of_interactions.table()
    if users is not None:
        return int(users.get_column("INTERACTIONS").sum())
    return _count_lines(work, work.files.interactions) - 1


def count_users(work: Work) -> int:
    """How many users are in the file of interactions."""
    users = work.files.users_of_interactions.table()
    if users is not None:
        return users.height
    with work.storage.local_file(work.files.interactions) as path:
        interactions = scan_interactions(path)
        return int(
            interactions.select(pl.col(USER_ID).n_unique()).collect(engine="streaming").item()
        )


def _count_batch_users(work: Work) -> int:
    """How many users batch_users has or, before it exists, the interactions."""
    files = work.files.batch_users.files()
    if all(work.storage.store.head(uri) for uri in files):
        return sum(_count_lines(work, uri) for uri in files)
    return count_users(work)


def _count_lines(work: Work, uri: str) -> int:
    return sum(chunk.count(b"\n") for chunk in work.storage.store.chunks(uri))
