"""What work in Amazon Personalize costs, at the prices of `prices.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat

from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION

PRICES = Path(__file__).with_name("prices.yaml")


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

    @property
    def middle(self) -> float:
        """The middle of the range."""
        return (self.least + self.usd) / 2


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


def summarize_costs(costs: Sequence[Cost]) -> str:
    """The sum and its parts in words, with "at most" only if it cannot be more."""
    doubts = sorted(set[str]().union(*(cost.doubts for cost in costs)))
    return (
        f"{'' if doubts else 'at most '}{format_usd(costs)} USD, at the prices of"
        f" {read_prices().as_of} in us-east-1: "
        + ", ".join(f"{cost.what} {format_usd([cost])}" for cost in costs)
        + (f"; an estimate, as {' and '.join(doubts)}" if doubts else "")
    )


def format_usd(costs: Sequence[Cost]) -> str:
    """The sum, or its range, such as `0.01 to 0.49`."""
    low, high = (
        f"{usd:,.2f}"
        for usd in (sum(cost.least for cost in costs), sum(cost.usd for cost in costs))
    )
    return high if low == high else f"{low} to {high}"
