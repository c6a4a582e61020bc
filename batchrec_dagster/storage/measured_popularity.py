"""How well recommending popular items does, as batchrec measures it, and how windows are called."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class MeasuredPopularity(BaseModel):
    """NDCG@25 of recommending popular items, measured as Personalize measures a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int
    """The items are those that were popular in this many days."""
    users: int
    """How many users were tested."""
    ndcg: float
    margin: float | None
    """Half of its 95% interval; None with too few users."""

    def is_better_than(self, ndcg: float | None) -> bool:
        """Whether they are better than those of all time.

        ndcg: NDCG@25 of the items of all time on the model's users; None if it is not known.
        """
        return ndcg is None or self.ndcg > ndcg

    @property
    def name(self) -> str:
        """What the items are called."""
        return f"the most popular items {name_window(self.days)}"


def name_window(days: int) -> str:
    """Of which time interactions count for popularity, such as `of the last 30 days`."""
    return "of the last day" if days == 1 else f"of the last {days} days"
