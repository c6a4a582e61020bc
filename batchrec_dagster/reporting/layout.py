"""How `batchrec show` lays out what it found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from batchrec_dagster.reporting.lookup import Item, Person
from batchrec_dagster.reporting.people import shortened
from batchrec_dagster.reporting.summary import lines
from batchrec_dagster.reporting.terminal import Column, Section, plain, render


def text(found: Person | Item | Mapping[str, Any], width: int | None, *, remembered: bool) -> str:
    """For a terminal of that width, or for a pipe (None). `remembered`: whether a Dagster instance
    was asked about the runs."""
    match found:
        case Person():
            return _person(found, width)
        case Item():
            return _item(found, width)
    return _summary(found, remembered=remembered)


def _person(found: Person, width: int | None) -> str:
    events = any(had.event is not None for had in found.history)
    history = Section(
        title=f"History: the latest {len(found.history):,} of {found.interactions:,} interactions",
        columns=[
            Column("when"),
            *([Column("event")] if events else []),
            *_item_columns(found.titles),
        ],
        rows=[
            [_time(had.time), *([had.event] if events else []), *_named(had, found.titles)]
            for had in found.history
        ],
        note="" if found.history else "none: this user gets what suits everyone",
    )
    recommended = Section(
        title=f"Recommended: {len(found.recommendations):,} items",
        columns=[
            Column("#", right=True),
            *_item_columns(found.titles),
            Column("because of"),
            Column("both", right=True),
        ],
        rows=[
            [
                got.rank,
                *_named(got, found.titles),
                shortened(got.because_title) or got.because,
                got.users_with_both or None,
            ]
            for got in found.recommendations
        ],
        note="both: users who have both, this item and the one that speaks most for it"
        if found.recommendations
        else "nothing: this user was not asked for, or has seen all there is",
    )
    return render([f"User {found.user} of {found.pipeline}"], [[history, recommended]], width=width)


def _item(found: Item, width: int | None) -> str:
    share = f" ({found.in_lists / found.lists:.1%})" if found.lists else ""
    rank = "" if found.mean_rank is None else f", at place {found.mean_rank:.1f} on average"
    last = "" if found.last is None else f", the last at {_time(found.last)}"
    facts = [
        f"in {found.in_lists:,} of {found.lists:,} lists{share}{rank}",
        f"{found.interactions:,} interactions of {found.users:,} users{last}",
    ]
    users = Section(
        title="Who gets it first",
        columns=[Column("#", right=True), Column("user")],
        rows=[[user["rank"], user["user_id"]] for user in found.first_users],
        note="" if found.first_users else "nobody",
    )
    neighbours = Section(
        title="What goes with it",
        columns=[*_item_columns(found.titles), Column("users with both", right=True)],
        rows=[[*_named(other, found.titles), other.users_with_both] for other in found.neighbours],
        note="" if found.neighbours else "nothing: nobody who had it had anything else",
    )
    title = shortened(found.title)
    heading = f"Item {found.item} of {found.pipeline}" + (f": {title}" if title else "")
    return render([heading, *facts], [[users, neighbours]], width=width)


def _summary(facts: Mapping[str, Any], *, remembered: bool) -> str:
    told = [facts["pipeline"], *(f"  {name:<13} {value}" for name, value in lines(facts))]
    if "example_user" in facts:
        user = facts["example_user"]
        dash = "-- " if user.startswith("-") else ""
        told.append(f"  {'a user':<13} batchrec show {dash}{shlex.quote(user)}")
    if not remembered:
        told.append("  Set DAGSTER_HOME to Dagster's folder to see the runs too.")
    return "\n".join(map(plain, told)) + "\n"


def _item_columns(titles: bool) -> list[Column]:
    return [Column("item"), *([Column("title")] if titles else [])]


def _named(found: Any, titles: bool) -> list[str | None]:
    return [found.item, shortened(found.title)] if titles else [found.item]


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
