"""What people did with the lists, as records that the table, the report and the UI show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

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
            for column, part in _parts(field.name):
                row[column] = None if value is None else getattr(value, part)
        return row


RATES = ("hit_rate", "recall", "list_share", "gain")


def _parts(name: str) -> list[tuple[str, str]]:
    return [(name, "value"), (f"{name}_low", "low"), (f"{name}_high", "high")]


_TYPES: dict[str, pl.DataType] = {
    "int": pl.Int64(),
    "str": pl.String(),
    "datetime": pl.Datetime("us", "UTC"),
}
SCHEMA = {
    column: _TYPES.get(str(field.type), pl.Float64())
    for field in fields(Outcome)
    for column, _ in (_parts(field.name) if field.name in RATES else [(field.name, "")])
}


def outcomes_of(table: pl.DataFrame) -> list[Outcome]:
    """The table's rows, oldest period first."""
    found = []
    for row in table.iter_rows(named=True):
        values: dict[str, Any] = dict(row)
        for name in RATES:
            parts = [values.pop(column) for column, _ in _parts(name)]
            values[name] = None if parts[0] is None else Rate(*parts)
        found.append(Outcome(**values))
    return found


NOTHING_YET = (
    "There are no later interactions yet: outcomes are measured when the next data come with what"
    " users did after an edition was published."
)


def sentences(outcome: Outcome) -> Iterator[str]:
    """What happened after an edition, in words."""
    period = f"{outcome.start:%Y-%m-%d %H:%M} to {outcome.end:%Y-%m-%d %H:%M} UTC"
    yield (
        f"After edition {outcome.edition} ({period}), {outcome.active_users:,} of"
        f" {outcome.users:,} users chose items that they did not have."
    )
    rate, gain = outcome.hit_rate, outcome.gain
    if rate is None or gain is None:
        return
    yield (
        f"{rate.value:.1%} of these users chose something from their list (95% interval"
        f" {rate.low:.1%} to {rate.high:.1%}). The most popular items of that day would have"
        f" reached {outcome.popular_hit_rate:.1%}."
    )
    interval = f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f} points)"
    if gain.low > 0:
        yield f"The lists reached more people than popular items {interval}."
    elif gain.high < 0:
        yield f"The lists reached fewer people than popular items {interval}."
    else:
        yield f"Whether the lists or popular items reach more people is not certain {interval}."


REPLAYED = (
    "These data end before the lists were published: the numbers say how well the lists foresee"
    " what comes, not what they caused."
)
