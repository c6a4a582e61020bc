"""The prices in `prices.yaml`, by which costs are estimated."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat

FILE = Path(__file__).with_name("prices.yaml")


class Prices(BaseModel):
    """USD for each of what the name says, and the day from which they are (ISO 8601)."""

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
    """Those of the file, read once. Raises pydantic's ValidationError for what is no price."""
    text = FILE.read_text(encoding="utf-8")
    # Dates stay as they are written.
    return Prices.model_validate(yaml.load(text, Loader=yaml.BaseLoader))  # noqa: S506
