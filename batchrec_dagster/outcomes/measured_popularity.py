"""How well recommending popular items does, as batchrec measures it, and how windows are called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class MeasuredPopularity:
    """NDCG@25 of recommending popular items, measured as Personalize measures a model."""

    days: int | None
    """The window of the recent ones; None for all time."""
    users: int
    """How many users were tested."""
    ndcg: float
    """That of the items that are popular by the setting `popularity`."""
    margin: float | None
    """Half of its 95% interval; None with too few users."""
    all_time_ndcg: float
    """That of the items with the most interactions of all time."""
    all_time_margin: float | None = None
    """Half of its 95% interval. None with too few users, or if an older batchrec measured it."""
    newcomers: int = 0
    """How many of the newest users were tested as if nothing were known of them; 0 if none were, or
    if an older batchrec measured it."""
    newcomer_hit_rate: float | None = None
    """The share of them who chose one of the 25 items that were popular before they came, among the
    first that they chose."""
    newcomer_margin: float | None = None
    """Half of its 95% interval; None with too few users."""

    def to_json(self) -> dict[str, Any]:
        """What a record and an edition's metadata have of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Self | None:
        """What `to_json` returned; None for nothing."""
        return cls(**values) if values else None

    def is_better_than(self, ndcg: float | None) -> bool:
        """Whether recent items are better than those of all time.

        They have to be on the same users, and better than what was measured elsewhere.

        ndcg: NDCG@25 of the items of all time on the model's users; None if it is not known.
        """
        return self.ndcg > max(self.all_time_ndcg, ndcg or 0.0)

    def beats(self, model_ndcg: float) -> bool:
        """Whether recent items are better than a model by more than chance.

        The model was tested on about as many other users, so that its NDCG@25 varies as much.
        """
        return self.margin is not None and self.ndcg - model_ndcg > math.sqrt(2) * self.margin

    @property
    def name(self) -> str:
        """What the recent items are called."""
        return f"the most popular items {name_window(self.days)}"


def name_window(days: int | None) -> str:
    """Of which time interactions count for popularity, such as `of the last 30 days`.

    days: None for all time.
    """
    if days is None:
        return "of all time"
    return "of the last day" if days == 1 else f"of the last {days} days"


def describe_window(days: int | None) -> str:
    """When people had popular items, such as `in the last 30 days`.

    days: None for all time.
    """
    return "of all time" if days is None else name_window(days).replace("of", "in", 1)
