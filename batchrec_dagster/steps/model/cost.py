"""The cost of a run in Amazon Personalize, estimated before the run and counted after it.

The local Personalize costs nothing. The metadata of local runs show what AWS would charge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import BaseModel

from batchrec_dagster.config import ListTable
from batchrec_dagster.config.shared_jobs import group_lists
from batchrec_dagster.editions.edition import Finding, refuse_unless
from batchrec_dagster.personalize.prices import (
    Cost,
    add_up,
    estimate_training_hours,
    summarize_costs,
)
from batchrec_dagster.personalize.resources import ReadyResource
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.interactions_record import read_interactions_record
from batchrec_dagster.steps.records import PaidRecord, read_dataset, read_model
from batchrec_dagster.storage.layout import PipelineFiles
from batchrec_dagster.storage.records import load

# The name of the check that `check_budget` makes.
WITHIN_BUDGET = "within_budget"
# The assets that record how much their last run has paid.
PAYING_ASSETS = (
    "personalize_dataset",
    "solution_version",
    "segment_solution_version",
    "similar_items_solution_version",
)
# An upper bound for the error of a sum of floating point numbers.
ROUNDING_ERROR = 1e-9


def price_training(step: StepContext, recipe: str, version: ReadyResource) -> Cost:
    """Return the cost of a solution version that a run trained."""
    interactions = count_interactions(step)
    hours = (
        version.description.get("trainingHours", 0.0)
        if step.resources.on_aws
        else estimate_training_hours(interactions)
    )
    return step.prices.price_training(recipe, hours, interactions)


def estimate_trainings(step: StepContext, recipes: Sequence[str]) -> list[Cost]:
    """Estimate the cost of training each recipe."""
    if not recipes:
        return []
    interactions = count_interactions(step)
    model = read_model(step.files, "solution_version")
    # The record has no hours if the model was not trained on AWS.
    last_hours = (model.training_hours if model else None) or 0.0
    hours = estimate_training_hours(interactions, last_hours)
    return [step.prices.price_training(recipe, hours, interactions) for recipe in recipes]


def estimate_results(step: StepContext) -> list[Cost]:
    """Estimate the costs of recommendations, segments and similar items.

    The estimate includes results that exist already.
    """
    costs = [_estimate_inference(step, group) for group in group_lists(step.pipeline)]
    segments = step.pipeline.segments
    if segments:
        users = read_interactions_record(step).counts.users
        costs.append(step.prices.price_segments(len(segments.queries), users))
    recipe = step.pipeline.similar_items_recipe
    if recipe is not None:
        items = read_interactions_record(step).counts.items
        costs.append(price_item_lists(step, recipe, items))
    return costs


def price_item_lists(step: StepContext, recipe: str, items: int) -> Cost:
    """Return the cost of lists for this many items. Lists for as many users cost the same."""
    cost = step.prices.price_recommendations(recipe, items)
    return replace(cost, what=f"what is similar to {items:,} items")


def _estimate_inference(step: StepContext, group: Sequence[ListTable]) -> Cost:
    """Estimate the cost of the batch inference job that these lists share."""
    published = group[0]
    users = _count_batch_users(step, published)
    if published.experiment is not None:
        # The control group's lists cost nothing.
        users = round(users * (1 - published.experiment.control_share))
    cost = step.prices.price_recommendations(step.pipeline.solution.recipe, users)
    names = [member.name for member in group if member.name]
    return replace(cost, what=f"{cost.what} ({', '.join(names)})") if names else cost


def check_budget(step: StepContext, costs: Sequence[Cost]) -> list[Finding]:
    """Check that the budget allows these costs.

    Returns one finding, or none if the pipeline declares no budget. Without costs the check passes.
    """
    max_usd, on_aws = step.pipeline.budget.max_usd_per_run, step.resources.on_aws
    if max_usd is None:
        return []
    if not costs:
        message = "nothing to pay: all that is needed exists already"
        return [Finding(WITHIN_BUDGET, "good", message)]
    usd, passed = add_up(costs), _is_allowed(step, costs)
    message = f"{summarize_costs(costs)}; budget.max_usd_per_run allows {max_usd:,.2f}"
    if not on_aws:
        message = f"nothing locally; on AWS {message}"
    if not passed:
        message += (
            ". Nothing was started: raise budget.max_usd_per_run, or reduce the work"
            " (interactions.window, batch_users)"
        )
    numbers = {"estimated_usd": usd if on_aws else 0.0}
    return [Finding(WITHIN_BUDGET, refuse_unless(passed), message, numbers=numbers)]


def _is_allowed(step: StepContext, costs: Sequence[Cost]) -> bool:
    """Return whether the budget allows these costs. Locally and without a budget it always does."""
    max_usd = step.pipeline.budget.max_usd_per_run
    if max_usd is None or not step.resources.on_aws:
        return True
    return add_up(costs) <= max_usd + ROUNDING_ERROR


def find_restart_obstacle(
    step: StepContext, estimate: Sequence[Cost], again: Sequence[Cost]
) -> str | None:
    """Return the reason why the budget forbids a restart of failed jobs; None if it does not.

    estimate: the run's costs without the restart.
    again: the costs of the restart.
    """
    costs = [*estimate, *again]
    if _is_allowed(step, costs):
        return None
    max_usd = step.pipeline.budget.max_usd_per_run
    return (
        f"{summarize_costs(costs)}; budget.max_usd_per_run allows {max_usd:,.2f} for a run. Run"
        " again, or raise it"
    )


def read_estimate(step: StepContext, started: Sequence[Cost]) -> list[Cost]:
    """Return the run's costs as estimated before its import, or `started` if it imported nothing.

    started: the costs of the jobs that the run started in this step.
    Raises UserError.
    """
    record = read_dataset(step.files)
    if record is None or record.root_run != step.run.root_id:
        return [replace(cost, what=f"{cost.what} (failed)") for cost in started]
    return [Cost(record.estimated_usd, "this run as estimated")]


def add_payment(step: StepContext, asset: str, costs: Sequence[Cost]) -> float:
    """Return the sum in USD that all attempts of the run have paid in the asset's step.

    costs: the costs of the current attempt, which the asset's record does not have yet.
    Raises UserError.
    """
    before = _read_payment(step.files, asset, step.run.root_id)
    return before + (add_up(costs) if step.resources.on_aws else 0.0)


def read_run_cost(files: PipelineFiles, root_run: str) -> float:
    """Return the sum in USD that the run has paid for its import and its trainings.

    Raises UserError.
    """
    return sum(_read_payment(files, asset, root_run) for asset in PAYING_ASSETS)


def measure_run_cost(step: StepContext, costs: Sequence[Cost]) -> float:
    """Return the sum in USD that the run has paid: for its import, its trainings and its job.

    costs: the costs of the job that made the run's lists.
    Raises UserError.
    """
    paid = add_up(costs) if step.resources.on_aws else 0.0
    return read_run_cost(step.files, step.run.root_id) + paid


def _read_payment(files: PipelineFiles, asset: str, root_run: str) -> float:
    record = load(files.storage.store, files.record_uri(asset), PaidRecord)
    return record.cost_usd if record is not None and record.root_run == root_run else 0.0


def count_interactions(step: StepContext) -> int:
    """Return the number of interactions. Raises UserError."""
    return read_interactions_record(step).rows.rows_kept


class _ListedUsers(BaseModel):
    """The part of the record of batch_users that holds the number of users."""

    users: int


def _count_batch_users(step: StepContext, published: ListTable) -> int:
    """Return the number of users that batch_users recorded.

    If batch_users has no record yet, return the number of users in the interactions.
    """
    uri = step.files.uri(published.users_record)
    listed = load(step.storage.store, uri, _ListedUsers)
    return read_interactions_record(step).counts.users if listed is None else listed.users
