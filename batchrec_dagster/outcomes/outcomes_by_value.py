"""What people did with the lists, by the values of columns of users: shares, and their record.

Unlike the sums of all people, those of the groups of a value may be of one person. So only the
estimates are stored, of the newest period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class ValueOutcome:
    """What the people with a value did in the period of an edition."""

    value: str | None
    """None for all values that do not stand alone."""
    users: int
    """How many people had a list of the model."""
    active_users: int
    """How many of them had a new interaction, at least one."""
    hit_rate: float
    """The share of them who chose something from their list."""
    popular_hit_rate: float
    """What it would be if everyone had got the most popular items of that day."""
    interval: tuple[float, float] | None = None
    """The 95% interval of the hit rate; None with too few active people."""
    popular_interval: tuple[float, float] | None = None
    """That of the popular items' hit rate."""


@dataclass(frozen=True)
class ColumnOutcomes:
    """The outcomes by the values of a column; the value of most people comes first."""

    column: str
    values: Sequence[ValueOutcome]


@dataclass(frozen=True)
class OutcomesByValue:
    """The outcomes of a period by columns of users."""

    edition: int
    """The number of the edition."""
    start: int
    """The period's start, in epoch seconds."""
    columns: Sequence[ColumnOutcomes] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """The record of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self | None:
        """What `to_json` returned; None for nothing."""
        if not record:
            return None
        columns = [
            ColumnOutcomes(
                column["column"], [_read_value_outcome(value) for value in column["values"]]
            )
            for column in record["columns"]
        ]
        return cls(record["edition"], record["start"], columns)


def _read_value_outcome(values: Mapping[str, Any]) -> ValueOutcome:
    intervals = {
        name: tuple(values[name]) if values[name] is not None else None
        for name in ("interval", "popular_interval")
    }
    return ValueOutcome(**{**values, **intervals})
