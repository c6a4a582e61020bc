"""The prices of work in Amazon Personalize, and estimates of its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batchrec_dagster.personalize.api import PersonalizeError

# The minimum of billed hours of a training, and the additional hours for each million interactions.
# They are derived from AWS's measurements with User-Personalization: 2.135 hours for 100 thousand
# interactions, 53.9 hours for 25 million (aws-samples/amazon-personalize-samples,
# PersonalizeCheatSheet2.0.md). AWS published no measurements for other recipes.
TRAINING_HOURS = 2.0
TRAINING_HOURS_PER_MILLION = 2.1

Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PricesError(PersonalizeError):
    """A file of prices that cannot be used. The message names the file and the problem."""


@dataclass(frozen=True)
class Cost:
    """The cost of a piece of work on AWS."""

    usd: float
    what: str
    """A description of the work."""


class Prices(BaseModel):
    """The prices of each unit of work, in USD.

    The defaults are the prices of us-east-1 in the first tier. They were neither read on AWS's own
    page nor checked against a bill.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    import_per_gb: Usd = 0.05
    training_per_hour: Usd = 0.24
    """The price of an hour with 4 vCPU and 8 GiB, for recipes before v2.

    Personalize may use several such machines at once.
    """
    training_v2_per_1000_interactions: Usd = 0.002
    recommendations_per_1000_users: Usd = 0.067
    """The price for recipes before v2."""
    recommendations_v2_per_1000_users: Usd = 0.15
    segments_per_1000_users: Usd = 0.016
    """The price for each segment, by the number of all users in the data."""

    @classmethod
    def read(cls, file: Path) -> Prices:
        """Read prices from a YAML file; prices that the file leaves out keep their defaults.

        Raises PricesError.
        """
        try:
            return cls.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        except OSError as error:
            raise PricesError(f"{file} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            name = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
            raise PricesError(
                f"{file}: {name}: write USD, a number of 0 or more, for any of"
                f" {', '.join(cls.model_fields)}"
            ) from error
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            message = str(error).replace("\n", " ")
            raise PricesError(f"{file} is not YAML in UTF-8: {message}") from error

    def price_import(self, dataset: str, size: int) -> Cost:
        """Return the cost of importing `size` bytes into a dataset."""
        amount = f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
        return Cost(size / 1e9 * self.import_per_gb, f"importing {amount} of {dataset}")

    def price_training(self, recipe: str, hours: float, interactions: int) -> Cost:
        """Return the cost of a training.

        Recipes before v2 are billed by the hour, other recipes by the number of interactions.
        """
        if recipe.endswith("-v2"):
            usd = interactions / 1000 * self.training_v2_per_1000_interactions
            return Cost(usd, f"training {recipe} on {interactions:,} interactions")
        return Cost(hours * self.training_per_hour, f"training {recipe} for {hours:.2f} hours")

    def price_recommendations(self, recipe: str, users: int) -> Cost:
        """Return the cost of batch recommendations for this many users."""
        price = self.recommendations_per_1000_users
        if recipe.endswith("-v2"):
            price = self.recommendations_v2_per_1000_users
        return Cost(users / 1000 * price, f"recommending to {users:,} users")

    def price_segments(self, segments: int, users: int) -> Cost:
        """Return the cost of a segment job.

        The estimate bills each user for each segment. It is not verified that AWS does so, rather
        than billing each user only once.

        users: the number of users in the data.
        """
        usd = segments * users / 1000 * self.segments_per_1000_users
        return Cost(usd, f"{segments:,} segments of {users:,} users")


def estimate_training_hours(interactions: int, last_hours: float = 0.0) -> float:
    """Estimate the billed hours of a training with a recipe before v2.

    last_hours: the hours of the last training, if it was on AWS; else 0.
    """
    return max(TRAINING_HOURS + TRAINING_HOURS_PER_MILLION * interactions / 1e6, last_hours)


def add_up(costs: Sequence[Cost]) -> float:
    """Return the total cost in USD."""
    return sum(cost.usd for cost in costs)


def summarize_costs(costs: Sequence[Cost]) -> str:
    """Return the total cost and its parts, in words."""
    parts = ", ".join(f"{cost.what} {cost.usd:,.2f}" for cost in costs)
    return f"about {add_up(costs):,.2f} USD: {parts}"
