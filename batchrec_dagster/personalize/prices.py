"""The prices in `prices.yaml`, for estimates of costs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat

FILE = Path(__file__).with_name("prices.yaml")


class Prices(BaseModel):
    """Prices in USD, by unit of work, and the date they are from (ISO 8601)."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    as_of: str
    import_per_gb: NonNegativeFloat
    training_per_hour: NonNegativeFloat
    training_v2_per_1000_interactions: NonNegativeFloat
    assumed_training_hours: NonNegativeFloat
    recommendations_per_1000_users: NonNegativeFloat
    recommendations_v2_per_1000_users: NonNegativeFloat
    segments_per_1000_users: NonNegativeFloat


@cache
def prices() -> Prices:
    """The prices, read once. Raises pydantic's ValidationError for an invalid file."""
    text = FILE.read_text(encoding="utf-8")
    # Dates stay as they are written.
    return Prices.model_validate(yaml.load(text, Loader=yaml.BaseLoader))  # noqa: S506
