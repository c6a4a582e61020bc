"""What a run costs in Amazon Personalize: estimated before it, and counted after it.

The local Personalize costs nothing. Then the metadata say what AWS would charge.
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
from batchrec_dagster.config.project import Budget
from batchrec_dagster.personalize.ensure import ReadyResource
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.schemas import USER_ID, scan_interactions
from batchrec_dagster.steps.checks import CheckResult
from batchrec_dagster.steps.work import Work

PRICES = Path(personalize.__file__).with_name("prices.yaml")


class Price(BaseModel):
    """A price in USD, or a range, and where it is from."""

    model_config = ConfigDict(extra="forbid")

    usd: NonNegativeFloat | tuple[NonNegativeFloat, NonNegativeFloat]
    source: str

    @property
    def least(self) -> float:
        return self.usd[0] if isinstance(self.usd, tuple) else self.usd

    @property
    def most(self) -> float:
        return self.usd[1] if isinstance(self.usd, tuple) else self.usd


class Prices(BaseModel):
    """Prices by unit of work, and the date they are from (ISO 8601)."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    as_of: str
    import_per_gb: Price
    training_per_hour: Price
    training_v2_per_1000_interactions: Price
    training_hours: NonNegativeFloat
    training_hours_per_million_interactions: tuple[NonNegativeFloat, NonNegativeFloat]
    recommendations_per_1000_users: Price
    recommendations_v2_per_1000_users: Price
    segments_per_1000_users: Price

    @property
    def not_verified(self) -> set[str]:
        """The names of the prices without a source."""
        return {
            name
            for name, price in self
            if isinstance(price, Price) and price.source.startswith("not verified")
        }


@cache
def read_prices() -> Prices:
    """The prices, read once. Raises pydantic's ValidationError for an invalid file."""
    text = PRICES.read_text(encoding="utf-8")
    # Dates stay as they are written.
    return Prices.model_validate(yaml.load(text, Loader=yaml.BaseLoader))  # noqa: S506


@dataclass(frozen=True)
class Cost:
    """What a piece of work costs on AWS, in USD."""

    usd: float
    """The cost, or the upper end of a range."""
    what: str
    """The work, in words."""
    least: float
    """The lower end of the range."""
    doubts: frozenset[str] = frozenset()
    """Why it may cost more than `usd`."""


def _make_cost(name: str, least: float, most: float, what: str, *doubts: str) -> Cost:
    """The cost of `least` to `most` units at the price of that name."""
    price: Price = getattr(read_prices(), name)
    all_doubts = {*doubts}
    if name in read_prices().not_verified:
        all_doubts.add(f"{name} is not verified")
    return Cost(most * price.most, what, least * price.least, frozenset(all_doubts))


def price_import(dataset: str, size: int) -> Cost:
    """The cost of importing `size` bytes into a dataset."""
    amount = f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
    units = size / 1e9
    return _make_cost("import_per_gb", units, units, f"importing {amount} of {dataset}")


def price_training(recipe: str, hours: float | tuple[float, float], interactions: int) -> Cost:
    """The cost of a training: by the interactions or, for recipes before v2, by the hour.

    hours: how many it took, or the range of an estimate.
    """
    if recipe.endswith("-v2"):
        units = interactions / 1000
        what = f"training {recipe} on {interactions:,} interactions"
        return _make_cost("training_v2_per_1000_interactions", units, units, what)
    if isinstance(hours, tuple):
        what = f"training {recipe} for {hours[0]:.2f} to {hours[1]:.2f} hours"
        return _make_cost("training_per_hour", *hours, what, "hours are extrapolated")
    return _make_cost("training_per_hour", hours, hours, f"training {recipe} for {hours:.2f} hours")


def estimate_training_hours(
    recipe: str, interactions: int, last_hours: float = 0.0
) -> tuple[float, float]:
    """The least and the most hours that a training before v2 is billed for.

    They follow from what AWS published for aws-user-personalization.

    last_hours: those of the last training, if it was on AWS; else 0.
    """
    least, most = (
        read_prices().training_hours + hours_per_million * interactions / 1e6
        for hours_per_million in read_prices().training_hours_per_million_interactions
    )
    if recipe != USER_PERSONALIZATION:
        least = 0.0
    return min(least, last_hours or least), max(most, last_hours)


def price_recommendations(recipe: str, users: int) -> Cost:
    """The cost of batch recommendations for this many users."""
    v2 = "_v2" if recipe.endswith("-v2") else ""
    name, units = f"recommendations{v2}_per_1000_users", users / 1000
    return _make_cost(name, units, units, f"recommending to {users:,} users")


def price_segments(segments: int, users: int) -> Cost:
    """The cost of a segment job.

    It is not verified whether each user is billed once or for each segment, so this is a range.

    users: how many users are in the data.
    """
    units = users / 1000
    what = f"{segments:,} segments of {users:,} users"
    return _make_cost("segments_per_1000_users", units, segments * units, what)


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


def build_cost_metadata(key: str, costs: Sequence[Cost], *, on_aws: bool) -> dict[str, float]:
    """The metadata of a cost, in USD.

    `KEY` is what is paid; `KEY_on_aws` is what is or would be paid on AWS. Where that is a range,
    it is the upper end, and `KEY_on_aws_from` the lower one.
    """
    usd = sum(cost.usd for cost in costs)
    least = sum(cost.least for cost in costs)
    return {key: usd if on_aws else 0.0, f"{key}_on_aws": usd, f"{key}_on_aws_from": least}


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


def summarize_costs(costs: Sequence[Cost]) -> str:
    """The sum and its parts in words, with "at most" only if it cannot be more."""
    doubts = sorted(set[str]().union(*(cost.doubts for cost in costs)))
    least, usd = sum(cost.least for cost in costs), sum(cost.usd for cost in costs)
    return (
        f"{'' if doubts else 'at most '}{_format_range(least, usd)} USD, at the prices of"
        f" {read_prices().as_of} in us-east-1: "
        + ", ".join(f"{cost.what} {_format_range(cost.least, cost.usd)}" for cost in costs)
        + (f"; an estimate, as {' and '.join(doubts)}" if doubts else "")
    )


def _format_range(least: float, most: float) -> str:
    low, high = f"{least:,.2f}", f"{most:,.2f}"
    return high if low == high else f"{low} to {high}"


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
