"""The interactions of an edition in numbers, and how much they changed since the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import polars as pl

# A number that changes by more than this share has changed much.
LARGE_CHANGE = 0.3
# So has a type of events whose share of all events shifts by more than this.
LARGE_SHIFT = 0.1


@dataclass(frozen=True)
class DataFacts:
    """The interactions in numbers."""

    interactions: int
    users: int
    items: int
    first: str
    """The day of the first interaction; empty if the interactions have no times."""
    last: str
    """The day of the last interaction."""
    events: Mapping[str, float] = field(default_factory=dict)
    """The share of each type of events; empty if there is no such column."""
    mean_value: float | None = None
    """The mean event value; None if there is no such column."""

    @property
    def numbers(self) -> dict[str, float]:
        """How many interactions, users and items there are."""
        return {"interactions": self.interactions, "users": self.users, "items": self.items}


@dataclass(frozen=True)
class Drift:
    """How the data changed."""

    before: DataFacts
    now: DataFacts
    new_items: int
    vanished_items: int

    @property
    def large_changes(self) -> list[str]:
        """What has changed much, in words."""
        return [*self._find_large_changes()]

    def _find_large_changes(self) -> Iterator[str]:
        for name, now in self.now.numbers.items():
            change = now / max(1, self.before.numbers[name]) - 1
            if abs(change) > LARGE_CHANGE:
                yield f"{abs(change):.0%} {'more' if change > 0 else 'fewer'} {name}"
        if self.vanished_items > LARGE_CHANGE * self.before.items:
            yield f"{self.vanished_items:,} of {self.before.items:,} items vanished"
        # A setting, such as exclude_seen, can add or drop the column of types. Then one side is
        # empty, and there is nothing to compare.
        if self.before.events and self.now.events:
            for event in {**self.before.events, **self.now.events}:
                old_share = self.before.events.get(event, 0.0)
                new_share = self.now.events.get(event, 0.0)
                if abs(new_share - old_share) > LARGE_SHIFT:
                    yield f"{event} is {new_share:.0%} of the events, it was {old_share:.0%}"
        old_mean = self.before.mean_value
        new_mean = self.now.mean_value
        if old_mean and new_mean is not None and abs(new_mean / old_mean - 1) > LARGE_CHANGE:
            yield f"the mean value is {new_mean:.4g}, it was {old_mean:.4g}"


@dataclass(frozen=True)
class RunInputs:
    """The data of an edition, which the next one compares its own with."""

    data: DataFacts
    items: pl.Series
    """The ids of the items, sorted."""
    drift: Drift | None = None

    def add_drift(self, before: RunInputs | None) -> RunInputs:
        """These inputs with the drift since `before`.

        If the data are the same, they keep the drift that they had.
        """
        if before is None:
            return self
        if before.data == self.data and before.items.equals(self.items):
            return replace(self, drift=before.drift)
        items_kept = int(self.items.is_in(before.items.implode()).sum())
        drift = Drift(
            before=before.data,
            now=self.data,
            new_items=len(self.items) - items_kept,
            vanished_items=len(before.items) - items_kept,
        )
        return replace(self, drift=drift)

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but the items, for the metadata of a file."""
        if self.drift is None:
            return {"data": asdict(self.data), "before": None}
        return {
            "data": asdict(self.data),
            "before": asdict(self.drift.before),
            "new": self.drift.new_items,
            "vanished": self.drift.vanished_items,
        }

    @classmethod
    def read(cls, facts: Mapping[str, Any], items: pl.Series) -> Self:
        """The inputs from the metadata of a file, as `facts` returns them, and its items."""
        data = DataFacts(**facts["data"])
        if not facts["before"]:
            return cls(data, items)
        before = DataFacts(**facts["before"])
        return cls(data, items, Drift(before, data, facts["new"], facts["vanished"]))
