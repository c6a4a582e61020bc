"""The numbers of the table of outcomes, counted row by row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

DAY = 86_400
Lists = Mapping[str, Sequence[str]]


class Event(NamedTuple):
    """An interaction."""

    user: str
    item: str
    time: int
    kind: str = "view"
    value: float | None = None


class Period(NamedTuple):
    """The time an edition was live. Interactions after the start and until the end count."""

    known_until: int
    """The newest time in the data that the edition was made from."""
    start: int
    end: int


def count_outcomes(
    events: Sequence[Event],
    lists: Lists,
    period: Period,
    *,
    exclude_seen: bool,
    success: Sequence[str] = (),
    days: int = 30,
) -> dict[str, float]:
    """Count the outcomes of a period, by the columns of the table of outcomes.

    Without an active user, some columns are missing.

    exclude_seen: whether lists leave out items that the user had. Such items are then no outcomes
        either.
    success: the only event types that count; empty if all count.
    days: the number of days up to `known_until` over which popular items are counted.
    """
    kinds = [kind.lower() for kind in success]
    popular = Counter(
        item
        for _, item in {
            (event.user, event.item)
            for event in events
            if period.known_until - days * DAY < event.time <= period.known_until
            and (not kinds or event.kind.lower() in kinds)
        }
    )
    ranking = sorted(popular, key=lambda item: (-popular[item], item))
    had, known = defaultdict(set), defaultdict(set)
    later: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.time <= period.start:
            had[event.user].add(event.item)
        elif event.time <= period.end and (not kinds or event.kind.lower() in kinds):
            later[event.user].append(event)
        if event.time <= period.known_until:
            known[event.user].add(event.item)
    sums: dict[str, float] = defaultdict(float)
    for user, items in lists.items():
        sums["value"] += sum(event.value or 0 for event in later[user])
        new_items = {event.item for event in later[user]} - (had[user] if exclude_seen else set())
        if not new_items:
            continue
        sums["active"] += 1
        sums["new"] += len(new_items)
        best = [item for item in ranking if not exclude_seen or item not in known[user]]
        for prefix, listed in (("", items), ("popular_", best[: len(items)])):
            hits = new_items & {*listed}
            sums[f"{prefix}hits"] += len(hits)
            sums[f"{prefix}hit_users"] += bool(hits)
            sums[f"{prefix}recall"] += len(hits) / len(new_items)
            sums[f"{prefix}hit_value"] += sum(
                event.value or 0 for event in later[user] if event.item in hits
            )
    return _name_columns(
        sums, len(lists), (period.end - period.start) / DAY, with_values=bool(kinds)
    )


def _name_columns(
    sums: Mapping[str, float], users: int, days: float, *, with_values: bool
) -> dict[str, float]:
    columns = {"users": users, "active_users": sums["active"]}
    if sums["active"]:
        for prefix in ("", "popular_"):
            columns[f"{prefix}hit_rate"] = sums[f"{prefix}hit_users"] / sums["active"]
            columns[f"{prefix}recall"] = sums[f"{prefix}recall"] / sums["active"]
            columns[f"{prefix}list_share"] = sums[f"{prefix}hits"] / sums["new"]
        columns["gain"] = columns["hit_rate"] - columns["popular_hit_rate"]
    if with_values:
        columns["event_value"] = sums["value"] / users / days
        columns["list_event_value"] = sums["hit_value"] / users / days
        columns["popular_event_value"] = sums["popular_hit_value"] / users / days
    return columns
