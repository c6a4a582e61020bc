"""The text that `batchrec show` prints about a user, an item or a pipeline."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from batchrec_dagster.reporting.lookup import (
    ExplainedItem,
    Interaction,
    ItemDetails,
    ItemMatches,
    Neighbour,
    SimilarItem,
    UserDetails,
)
from batchrec_dagster.reporting.past_editions import join_periods
from batchrec_dagster.reporting.people import shorten_title
from batchrec_dagster.reporting.summary import format_summary
from batchrec_dagster.reporting.terminal import Column, TerminalTable, format_time, render


def format_text(
    results: UserDetails | ItemDetails | ItemMatches | Mapping[str, Any],
    width: int | None,
    *,
    with_runs: bool,
) -> str:
    """The text about a user, an item or a pipeline.

    `width` is the terminal's; None for a pipe. `with_runs` says whether the summary of a pipeline
    includes what Dagster knows of its runs.
    """
    match results:
        case UserDetails():
            return _format_user(results, width)
        case ItemDetails():
            return _format_item(results, width)
        case ItemMatches():
            return _format_matches(results, width)
    return format_summary(results, width, with_runs=with_runs)


def _format_user(user: UserDetails, width: int | None) -> str:
    tables = [_make_history_table(user), _make_list_table(user)]
    facts = []
    if user.periods is not None:
        facts.append(f"edition {user.edition}, {join_periods(user.periods)}")
    if user.arm is not None:
        facts.append(f"arm {user.arm} of the experiment")
    heading = [f"User {user.user} in {user.pipeline}", *facts, *user.notes]
    return render(heading, [tables], width=width)


def _make_history_table(user: UserDetails) -> TerminalTable:
    has_events = any(entry.event is not None for entry in user.history)
    return TerminalTable(
        title=f"History: latest {len(user.history):,} of {user.interactions:,} interactions"
        + _name_order(len(user.history), "newest"),
        columns=[
            Column("when (UTC)"),
            *([Column("event")] if has_events else []),
            *_make_item_columns(user.titles),
        ],
        rows=[
            [
                format_time(entry.time),
                *([entry.event] if has_events else []),
                *_make_item_cells(entry, user.titles),
            ]
            for entry in user.history
        ],
        note="" if user.history else _explain_no_history(user),
    )


def _explain_no_history(user: UserDetails) -> str:
    if user.periods is not None:
        return "none that is known today"
    return "none: the list shows what most people like"


def _make_list_table(user: UserDetails) -> TerminalTable:
    return TerminalTable(
        title=f"Recommended: {len(user.recommendations):,} items"
        + _name_order(len(user.recommendations), "best"),
        columns=[
            Column("#", right=True),
            *_make_item_columns(user.titles),
            Column("because of"),
            Column("both", right=True),
        ],
        rows=[
            [
                entry.rank,
                *_make_item_cells(entry, user.titles),
                entry.reason or shorten_title(entry.because_title) or entry.because,
                entry.users_with_both or None,
            ]
            for entry in user.recommendations
        ],
        note=_explain_list(user),
    )


def _explain_list(user: UserDetails) -> str:
    """What the columns of the list mean, or why there is no list."""
    if user.failure is not None:
        return f"none: Personalize returned an error for this user: {user.failure}"
    if not user.recommendations and user.arm is not None:
        return (
            f"none: this user is in the arm {user.arm}, and the edition has no list for this user"
        )
    if not user.recommendations:
        return (
            "none: this user is not among those who get lists, is in an experiment's control group,"
            " or has already seen every item"
        )
    if all(entry.reason for entry in user.recommendations):
        return _explain_popular_list(user)
    note = (
        "because of: the item in the history whose audience overlaps most with this one's; both:"
        " how many people liked both. This shows which items go together, not how the model"
        " decided."
    )
    padding = ", ".join(f"#{entry.rank}" for entry in user.recommendations if entry.padding)
    if padding:
        note += f" Popular items that Personalize added, without a score: {padding}."
    if any(entry.reason for entry in user.recommendations):
        note += (
            " pinned, popular: recommendations.rules put it there, popular ones in places that"
            " none of the model's results may take."
        )
    return note


def _explain_popular_list(user: UserDetails) -> str:
    """Why nothing on the list is of the model."""
    if user.arm == "control":
        return (
            "This user is in the control of the experiment, which gets popular items: the history"
            " does not explain them."
        )
    if not user.interactions:
        return "This user has no interactions: recommendations.newcomers says what newcomers get."
    return (
        "Nothing on this list is of the model: recommendations.rules left out all of its results."
    )


def _format_item(item: ItemDetails, width: int | None) -> str:
    share = f" ({item.in_lists / item.lists:.1%})" if item.lists else ""
    rank = "" if item.mean_rank is None else f", mean rank {item.mean_rank:.1f}"
    last = "" if item.last is None else f", latest {format_time(item.last)}"
    facts = [
        f"in {item.in_lists:,} of {item.lists:,} lists{share}{rank}",
        f"{item.interactions:,} interactions from {item.users:,} users{last}",
    ]
    users = TerminalTable(
        title="Users for whom it ranks highest",
        columns=[Column("#", right=True), Column("user")],
        rows=[[user["rank"], user["user_id"]] for user in item.first_users],
        note="" if item.first_users else "nobody",
    )
    neighbours = TerminalTable(
        title="Similar items" + _name_order(len(item.neighbours), "closest"),
        columns=[*_make_item_columns(item.titles), Column("both", right=True)],
        rows=[
            [*_make_item_cells(neighbour, item.titles), neighbour.users_with_both]
            for neighbour in item.neighbours
        ],
        note="both: how many people liked both"
        if item.neighbours
        else "none: its users have no other item",
    )
    tables = [users, neighbours]
    if item.similar_items is not None:
        tables.append(_make_similar_items_table(item.similar_items, item.titles))
    title = shorten_title(item.title)
    heading = f"Item {item.item} in {item.pipeline}" + (f": {title}" if title else "")
    return render([heading, *facts], [tables], width=width)


def _format_matches(matches: ItemMatches, width: int | None) -> str:
    table = TerminalTable(
        title=f"{matches.total:,} items with {matches.text!r} in the title, by title",
        columns=[Column("item"), Column("title")],
        rows=[[entry.item, shorten_title(entry.title)] for entry in matches.items],
        note=_explain_matches(matches),
    )
    return render([f"Items in {matches.pipeline}"], [[table]], width=width)


def _explain_matches(matches: ItemMatches) -> str:
    more = matches.total - len(matches.items)
    more_items = f"{more:,} more: add a word. " if more else ""
    return f"{more_items}One of them: batchrec show --item {shlex.quote(matches.items[0].item)}"


def _name_order(count: int, order: str) -> str:
    """The order of rows, behind a comma; empty for a single row, which has none."""
    return f", {order} first" if count > 1 else ""


def _make_similar_items_table(
    similar_items: Sequence[SimilarItem], with_titles: bool
) -> TerminalTable:
    """The published list of similar items."""
    return TerminalTable(
        title="Its published list (similar_items)" + _name_order(len(similar_items), "best"),
        columns=[Column("#", right=True), *_make_item_columns(with_titles)],
        rows=[[entry.rank, *_make_item_cells(entry, with_titles)] for entry in similar_items],
        note="" if similar_items else "it has none: too few people had it, or rules left out all",
    )


def _make_item_columns(with_titles: bool) -> list[Column]:
    return [Column("item"), Column("title")] if with_titles else [Column("item")]


def _make_item_cells(
    entry: Interaction | ExplainedItem | Neighbour | SimilarItem, with_titles: bool
) -> list[str | None]:
    return [entry.item, shorten_title(entry.title)] if with_titles else [entry.item]
