"""What the users of an arm did in the period of an edition, as the table of outcomes has it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime

import polars as pl


@dataclass(frozen=True)
class Rate:
    """A share or a difference of shares with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """What the users of an arm did in the period of an edition.

    The rates are None if nobody was active, or if the arm had no lists. Those named popular_… are
    what they would be if everyone had got the most popular items of that day.
    """

    edition: int
    since: str
    """`publication` if the period starts with the edition's publication, `data` if it starts with
    the end of the edition's data."""
    start: datetime
    """UTC. Only what happened after it counts."""
    end: datetime
    """UTC. Only what happened until then counts."""
    experiment: str
    """The experiment's name; empty without one."""
    arm: str
    list_length: int
    """How many items the longest list has."""
    users: int
    """How many users were on the lists, or in a control without any."""
    active_users: int
    """How many of them had a new interaction."""
    interactions: int
    """How many interactions these users had."""
    new_interactions: int
    """How many of these were with an item that the user did not have before."""
    on_list: int
    """How many of the new interactions were with an item on the user's list."""
    hit_rate: Rate | None
    """The share of active users who chose something from their list."""
    recall: Rate | None
    """The mean over active users of the share of their new interactions that was on their list."""
    list_share: Rate | None
    """The share of all new interactions that was on the user's list."""
    gain: Rate | None
    """hit_rate - popular_hit_rate."""
    popular_hit_rate: Rate | None
    popular_recall: float | None
    popular_list_share: float | None
    success: str = ""
    """The types of events that count alone; empty if all count."""
    event_value: Rate | None = None
    """The sum of EVENT_VALUE for a user in a day. It and those below are None without
    events of success that have values."""
    list_event_value: Rate | None = None
    """The same of the hits: what was chosen from lists."""
    popular_event_value: float | None = None

    def row(self) -> dict[str, object]:
        """The row of the table. A rate takes three columns: NAME, NAME_low and NAME_high."""
        row: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in RATES:
                row[field.name] = value
                continue
            for column, part in _list_columns(field.name):
                row[column] = None if value is None else getattr(value, part)
        return row


RATES = (
    "hit_rate",
    "recall",
    "list_share",
    "gain",
    "popular_hit_rate",
    "event_value",
    "list_event_value",
)


def _list_columns(name: str) -> list[tuple[str, str]]:
    return [(name, "value"), (f"{name}_low", "low"), (f"{name}_high", "high")]


_TYPES: dict[str, pl.DataType] = {
    "int": pl.Int64(),
    "str": pl.String(),
    "datetime": pl.Datetime("us", "UTC"),
}
SCHEMA = {
    column: _TYPES.get(str(field.type), pl.Float64())
    for field in fields(Outcome)
    for column, _ in (_list_columns(field.name) if field.name in RATES else [(field.name, "")])
}
