"""What work in Amazon Personalize costs, at a region's prices."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchrec_dagster.personalize.price_file import (
    DEFAULT_REGION,
    PRICES_VARIABLE,
    SHIPPED_PRICES,
    Price,
    read_price_file,
)
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION


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


@dataclass(frozen=True)
class PriceList:
    """The prices in a region."""

    region: str
    prices: Mapping[str, Price]
    """By the names that they have in the file."""
    place: str
    """The date of the prices and the region that they are of, in words."""
    doubts: Mapping[str, Collection[str]]
    """Why a price may be another, by its name."""
    hours: float
    """The hours that a training is billed for at least."""
    hours_per_million: tuple[float, float]
    """The range of how many more for each million interactions."""

    @classmethod
    def read(cls, region: str = DEFAULT_REGION, file: Path = SHIPPED_PRICES) -> PriceList:
        """The region's prices in the file. Where it has none, they are those of DEFAULT_REGION.

        Raises PricesError.
        """
        content = read_price_file(file)
        default = content.regions[DEFAULT_REGION]
        own = content.regions.get(region)
        prices = {**default.by_name, **(own.by_name if own else {})}
        doubts: dict[str, list[str]] = {name: [] for name in prices}
        for name, price in prices.items():
            if not price.is_verified:
                doubts[name].append(f"{name} is not verified")
            if own is None:
                # The same for all, so that it is said once.
                doubts[name].append(f"those of {region} are not known: set {PRICES_VARIABLE}")
            elif name not in own.by_name:
                doubts[name].append(f"{name} is that of {DEFAULT_REGION}")
        if own is None:
            place = f"{default.as_of or content.as_of} in {DEFAULT_REGION}"
        else:
            place = f"{own.as_of or content.as_of} in {region}"
        return cls(
            region,
            prices,
            place,
            doubts,
            content.training_hours,
            content.training_hours_per_million_interactions,
        )

    def price_import(self, dataset: str, size: int) -> Cost:
        """The cost of importing `size` bytes into a dataset."""
        amount = f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
        units = size / 1e9
        return self._make_cost("import_per_gb", units, units, f"importing {amount} of {dataset}")

    def price_training(
        self, recipe: str, hours: float | tuple[float, float], interactions: int
    ) -> Cost:
        """The cost of a training: by the interactions or, for recipes before v2, by the hour.

        hours: how many it took, or the range of an estimate.
        """
        if recipe.endswith("-v2"):
            units = interactions / 1000
            what = f"training {recipe} on {interactions:,} interactions"
            return self._make_cost("training_v2_per_1000_interactions", units, units, what)
        if isinstance(hours, tuple):
            what = f"training {recipe} for {hours[0]:.2f} to {hours[1]:.2f} hours"
            return self._make_cost("training_per_hour", *hours, what, ["hours are extrapolated"])
        what = f"training {recipe} for {hours:.2f} hours"
        return self._make_cost("training_per_hour", hours, hours, what)

    def estimate_training_hours(
        self, recipe: str, interactions: int, last_hours: float = 0.0
    ) -> tuple[float, float]:
        """The least and the most hours that a training before v2 is billed for.

        They follow from what AWS published for aws-user-personalization.

        last_hours: those of the last training, if it was on AWS; else 0.
        """
        least, most = (
            self.hours + hours_per_million * interactions / 1e6
            for hours_per_million in self.hours_per_million
        )
        if recipe != USER_PERSONALIZATION:
            least = 0.0
        return min(least, last_hours or least), max(most, last_hours)

    def price_recommendations(self, recipe: str, users: int) -> Cost:
        """The cost of batch recommendations for this many users."""
        v2 = "_v2" if recipe.endswith("-v2") else ""
        name, units = f"recommendations{v2}_per_1000_users", users / 1000
        return self._make_cost(name, units, units, f"recommending to {users:,} users")

    def price_segments(self, segments: int, users: int) -> Cost:
        """The cost of a segment job.

        It is not verified whether each user is billed once or for each segment, so this is a range.

        users: how many users are in the data.
        """
        units = users / 1000
        what = f"{segments:,} segments of {users:,} users"
        return self._make_cost("segments_per_1000_users", units, segments * units, what)

    def summarize(self, costs: Sequence[Cost]) -> str:
        """The sum and its parts in words, with "at most" only if it cannot be more."""
        doubts = sorted(set[str]().union(*(cost.doubts for cost in costs)))
        return (
            f"{'' if doubts else 'at most '}{format_usd(costs)} USD, at the prices of"
            f" {self.place}: "
            + ", ".join(f"{cost.what} {format_usd([cost])}" for cost in costs)
            + (f"; an estimate, as {' and '.join(doubts)}" if doubts else "")
        )

    def _make_cost(
        self, name: str, least: float, most: float, what: str, doubts: Iterable[str] = ()
    ) -> Cost:
        """The cost of `least` to `most` units at the price of that name."""
        price = self.prices[name]
        all_doubts = frozenset([*doubts, *self.doubts[name]])
        return Cost(most * price.most, what, least * price.least, all_doubts)


def format_usd(costs: Sequence[Cost]) -> str:
    """The sum, or its range, such as `0.01 to 0.49`."""
    low, high = (
        f"{usd:,.2f}"
        for usd in (sum(cost.least for cost in costs), sum(cost.usd for cost in costs))
    )
    return high if low == high else f"{low} to {high}"
