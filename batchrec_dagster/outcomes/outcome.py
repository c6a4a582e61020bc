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

    start, end: UTC, only what happened after `start` and until `end` counts; since: `publication`
    if the period starts with the edition's publication, `data` if with the end of its data;
    experiment: its name, or empty; list_length: items in the longest list; users: who were on the
    lists, or in a control without any; active_users: those of them with a new interaction;
    interactions: all of theirs; new_interactions: those with an item that they did not have;
    on_list: those of them on the user's list.

    hit_rate: share of active users who chose something from their list; recall: mean over them of
    the share of their new interactions that was on it; list_share: share of all new interactions
    that was. popular_…: the same if everyone had got the most popular items of that day. gain:
    hit_rate - popular_hit_rate. None: nobody was active, or the arm had no lists.
    """

    edition: int
    since: str
    start: datetime
    end: datetime
    experiment: str
    arm: str
    list_length: int
    users: int
    active_users: int
    interactions: int
    new_interactions: int
    on_list: int
    hit_rate: Rate | None
    recall: Rate | None
    list_share: Rate | None
    gain: Rate | None
    popular_hit_rate: float | None
    popular_recall: float | None
    popular_list_share: float | None

    def row(self) -> dict[str, object]:
        """The table's row: a rate takes three columns, NAME, NAME_low and NAME_high."""
        row: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in RATES:
                row[field.name] = value
                continue
            for column, part in _list_columns(field.name):
                row[column] = None if value is None else getattr(value, part)
        return row


RATES = ("hit_rate", "recall", "list_share", "gain")


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
