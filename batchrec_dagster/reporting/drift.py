"""How the interactions changed since the last run that had others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import polars as pl

# Relative changes of a number, and shifts of an event type's share, that the verdict names.
MUCH, SHIFT = 0.3, 0.1


@dataclass(frozen=True)
class Data:
    """The interactions: their numbers, and the days of the first and the last; `first` is empty if
    they have no times.

    events: the share of each event type; mean_value: of the event values; both where they have
    the column.
    """

    interactions: int
    users: int
    items: int
    first: str
    last: str
    events: Mapping[str, float] = field(default_factory=dict)
    mean_value: float | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """The counts by name."""
        return {"interactions": self.interactions, "users": self.users, "items": self.items}


@dataclass(frozen=True)
class Drift:
    """The data before and now, and how many items are new and how many have vanished."""

    before: Data
    now: Data
    new_items: int
    vanished_items: int

    @property
    def much(self) -> list[str]:
        """What has changed much, in words."""
        return [*self._much()]

    def _much(self) -> Iterator[str]:
        for name, now in self.now.numbers.items():
            change = now / max(1, self.before.numbers[name]) - 1
            if abs(change) > MUCH:
                yield f"{abs(change):.0%} {'more' if change > 0 else 'fewer'} {name}"
        if self.vanished_items > MUCH * self.before.items:
            yield f"{self.vanished_items:,} of {self.before.items:,} items vanished"
        for event in {**self.before.events, **self.now.events}:
            shares = [data.events.get(event, 0.0) for data in (self.before, self.now)]
            if abs(shares[1] - shares[0]) > SHIFT:
                yield f"{event} is {shares[1]:.0%} of the events, it was {shares[0]:.0%}"
        was, mean = self.before.mean_value, self.now.mean_value
        if was and mean is not None and abs(mean / was - 1) > MUCH:
            yield f"the mean value is {mean:.4g}, it was {was:.4g}"


@dataclass(frozen=True)
class Inputs:
    """The data and items of the newest run, and their drift: what the next run compares with.

    items: the ids, sorted.
    """

    data: Data
    items: pl.Series
    drift: Drift | None = None

    def after(self, before: Inputs | None) -> Inputs:
        """With the drift since `before`; the same data keep the drift that they had."""
        if before is None:
            return self
        if before.data == self.data and before.items.equals(self.items):
            return replace(self, drift=before.drift)
        stayed = int(self.items.is_in(before.items.implode()).sum())
        new, vanished = len(self.items) - stayed, len(before.items) - stayed
        return replace(self, drift=Drift(before.data, self.data, new, vanished))

    @property
    def about(self) -> dict[str, Any]:
        """Everything but the items, for the metadata of a file."""
        drift = self.drift
        before = None if drift is None else asdict(drift.before)
        changes = (
            {} if drift is None else {"new": drift.new_items, "vanished": drift.vanished_items}
        )
        return {"data": asdict(self.data), "before": before, **changes}

    @classmethod
    def read(cls, about: Mapping[str, Any], items: pl.Series) -> Self:
        """From `about` and the items of a file."""
        data, before = Data(**about["data"]), about["before"]
        drift = before and Drift(Data(**before), data, about["new"], about["vanished"])
        return cls(data, items, drift)
