"""What a run costs in Amazon Personalize: the maximum before it, and the cost after it.

The local Personalize costs nothing; metadata then also say what AWS would charge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat

from batchrec_dagster import personalize
from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.automation import Budget
from batchrec_dagster.personalize.batch_input import UsersFiles
from batchrec_dagster.personalize.datasets import scan_interactions
from batchrec_dagster.personalize.ensure import Ensured
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.steps.checks import Checked
from batchrec_dagster.storage.paths import read_record
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster.storage.user_stats import UsersOfInteractions

PRICES = Path(personalize.__file__).with_name("prices.yaml")


class Prices(BaseModel):
    """Prices in USD, by unit of work, and the date they are from (ISO 8601)."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    as_of: str
    import_per_gb: NonNegativeFloat
    training_per_hour: NonNegativeFloat
    training_v2_per_1000_interactions: NonNegativeFloat
    training_hours_at_least: NonNegativeFloat
    training_hours_per_million_interactions: NonNegativeFloat
    recommendations_per_1000_users: NonNegativeFloat
    recommendations_v2_per_1000_users: NonNegativeFloat
    segments_per_1000_users: NonNegativeFloat


@cache
def prices() -> Prices:
    """The prices, read once. Raises pydantic's ValidationError for an invalid file."""
    text = PRICES.read_text(encoding="utf-8")
    # Dates stay as they are written.
    return Prices.model_validate(yaml.load(text, Loader=yaml.BaseLoader))  # noqa: S506


@dataclass(frozen=True)
class Cost:
    """A cost on AWS in USD, and its reason."""

    usd: float
    what: str


def import_cost(dataset: str, size: int) -> Cost:
    """Of importing `size` bytes into a dataset."""
    amount = f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
    return Cost(prices().import_per_gb * size / 1e9, f"importing {amount} of {dataset}")


def training_cost(recipe: str, hours: float, interactions: int) -> Cost:
    """Of a training: by the interactions or, for recipes before v2, by the hour."""
    if recipe.endswith("-v2"):
        usd = prices().training_v2_per_1000_interactions * interactions / 1000
        return Cost(usd, f"training {recipe} on {interactions:,} interactions")
    return Cost(prices().training_per_hour * hours, f"training {recipe} for {hours:.2f} hours")


def most_training_hours(interactions: int) -> float:
    """The most hours that a training before v2 is billed for, by what AWS published."""
    price = prices()
    grows = price.training_hours_per_million_interactions * interactions / 1e6
    return price.training_hours_at_least + grows


def recommendations_cost(recipe: str, users: int) -> Cost:
    """Of batch recommendations for so many users."""
    price = (
        prices().recommendations_v2_per_1000_users
        if recipe.endswith("-v2")
        else prices().recommendations_per_1000_users
    )
    return Cost(price * users / 1000, f"recommending to {users:,} users")


def segments_cost(segments: int, users: int) -> Cost:
    """Of a segment job for so many segments, of data with so many users."""
    price = prices().segments_per_1000_users
    what = f"{segments:,} segments of {users:,} users"
    return Cost(price * segments * users / 1000, what)


def trainings_cost(
    pipeline: Pipeline, storage: StorageResource, trained: Mapping[str, Ensured], *, on_aws: bool
) -> list[Cost]:
    """Of the solution versions that a run trained, by recipe."""
    if not trained:
        return []
    interactions = count_interactions(pipeline, storage)
    assumed = None if on_aws else most_training_hours(interactions)
    return [
        training_cost(
            recipe, assumed or version.description.get("trainingHours", 0.0), interactions
        )
        for recipe, version in trained.items()
    ]


def cost_metadata(key: str, costs: Sequence[Cost], *, on_aws: bool) -> dict[str, float]:
    """`KEY` is what is paid, `KEY_on_aws` what is or would be paid on AWS, in USD."""
    usd = sum(cost.usd for cost in costs)
    return {key: usd if on_aws else 0.0, f"{key}_on_aws": usd}


def estimate(
    pipeline: Pipeline,
    storage: StorageResource,
    *,
    imports: Mapping[str, int],
    trainings: Sequence[str],
) -> list[Cost]:
    """The most that a run costs. imports: bytes by dataset; trainings: recipes. Recommendations and
    segments are included, though they may exist already."""
    costs = [import_cost(dataset, size) for dataset, size in imports.items()]
    if trainings:
        interactions = count_interactions(pipeline, storage)
        # The next training may take longer than the last one, but hardly longer than the most.
        hours = max(most_training_hours(interactions), _hours_before(pipeline, storage))
        costs += [training_cost(recipe, hours, interactions) for recipe in trainings]
    users = _count_batch_users(pipeline, storage)
    costs.append(recommendations_cost(pipeline.solution.recipe, users))
    if pipeline.segments:
        all_users = count_users(pipeline, storage)
        costs.append(segments_cost(len(pipeline.segments.queries), all_users))
    return costs


def summary(costs: Sequence[Cost]) -> str:
    """The sum and its parts, in words."""
    return (
        f"at most about {sum(cost.usd for cost in costs):,.2f} USD, at the prices of"
        f" {prices().as_of}: " + ", ".join(f"{cost.what} {cost.usd:,.2f}" for cost in costs)
    )


def within_budget(budget: Budget, costs: Sequence[Cost], *, on_aws: bool) -> list[Checked]:
    """Whether the estimate is within the budget; no check where none is declared."""
    most = budget.max_usd_per_run
    if most is None:
        return []
    usd = sum(cost.usd for cost in costs)
    passed = usd <= most or not on_aws
    found = f"{summary(costs)}; budget.max_usd_per_run allows {most:,.2f}"
    if not on_aws:
        found = f"nothing locally; on AWS {found}"
    if not passed:
        found += (
            ". Nothing was imported or trained: raise budget.max_usd_per_run, or reduce the work"
            " (interactions.window, batch_users, solution.compare_with_popularity)"
        )
    numbers = {"estimated_usd": usd if on_aws else 0.0}
    return [Checked("within_budget", passed, found, numbers)]


def count_interactions(pipeline: Pipeline, storage: StorageResource) -> int:
    """The rows of the interactions' file."""
    uri = storage.uri(pipeline.places.interactions)
    known = UsersOfInteractions(storage.store, uri).table()
    if known is not None:
        return int(known.get_column("INTERACTIONS").sum())
    return _lines(storage, uri) - 1


def count_users(pipeline: Pipeline, storage: StorageResource) -> int:
    """The users in the interactions' file."""
    uri = storage.uri(pipeline.places.interactions)
    known = UsersOfInteractions(storage.store, uri).table()
    if known is not None:
        return known.height
    with storage.local_file(uri) as path:
        users = scan_interactions(path)
        return int(users.select(pl.col(USER_ID).n_unique()).collect(engine="streaming").item())


def _hours_before(pipeline: Pipeline, storage: StorageResource) -> float:
    """The training hours of the last version; 0 if none was trained on AWS."""
    record = read_record(storage, pipeline.places.record("solution_version"))
    return float(record.get("training_hours", 0.0))


def _count_batch_users(pipeline: Pipeline, storage: StorageResource) -> int:
    """The users of batch_users; before it exists, those of the interactions."""
    files = UsersFiles(storage.store, storage.uri(pipeline.places.batch_users)).files()
    if all(storage.store.head(uri) for uri in files):
        return sum(_lines(storage, uri) for uri in files)
    return count_users(pipeline, storage)


def _lines(storage: StorageResource, uri: str) -> int:
    return sum(chunk.count(b"\n") for chunk in storage.store.chunks(uri))
