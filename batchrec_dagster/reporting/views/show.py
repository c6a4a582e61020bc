"""The output of `batchrec show`: a person, an item, a list or an experiment."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.personalize.measurements import name_ndcg
from batchrec_dagster.reporting.insight.changes import read_ndcg_number, read_popular_ndcg_number
from batchrec_dagster.reporting.insight.item import ItemDetails, ItemMatches
from batchrec_dagster.reporting.insight.measured import describe_engine
from batchrec_dagster.reporting.insight.numbers import format_count
from batchrec_dagster.reporting.insight.overview import ListOverview
from batchrec_dagster.reporting.insight.person import PersonDetails, describe_periods
from batchrec_dagster.reporting.insight.titles import shorten_title
from batchrec_dagster.reporting.views.list_pipelines import describe_night
from batchrec_dagster.reporting.views.plain import (
    format_show_arguments,
    format_time,
    shorten_location,
)
from batchrec_dagster.reporting.views.run import describe_lists, describe_rules
from batchrec_dagster.reporting.views.terminal import Cell, Terminal


def print_person(terminal: Terminal, person: PersonDetails) -> None:
    """Print the person's history and list."""
    terminal.print_heading(f"User {person.user} in {person.pipeline}")
    if person.periods is not None:
        terminal.print_sentence(f"edition {person.edition}, {describe_periods(person.periods)}")
    if person.arm is not None:
        terminal.print_sentence(f"arm {person.arm} of the experiment")
    for note in person.notes:
        terminal.print_sentence(note)
    titles = [
        *(entry.title for entry in person.history),
        *(entry.title for entry in person.recommendations),
    ]
    has_titles = any(titles)
    has_events = any(entry.event is not None for entry in person.history)
    terminal.print_line()
    terminal.print_table(
        f"History: latest {len(person.history):,} of {person.interactions:,} interactions",
        ["when (UTC)", *(["event"] if has_events else []), *_name_item_columns(has_titles)],
        [
            [
                format_time(entry.time),
                *([entry.event] if has_events else []),
                *_make_item_cells(entry.item, entry.title, has_titles),
            ]
            for entry in person.history
        ],
        "" if person.history else "none",
    )
    terminal.print_line()
    count, has_both = len(person.recommendations), person.counted > 0
    terminal.print_table(
        f"Recommended: {format_count(count, 'item')}",
        ["#", *_name_item_columns(has_titles), "because of", *(["both"] if has_both else [])],
        [
            [
                entry.rank,
                *_make_item_cells(entry.item, entry.title, has_titles),
                entry.reason or shorten_title(entry.because_title) or entry.because,
                *([entry.users_with_both or None] if has_both else []),
            ]
            for entry in person.recommendations
        ],
        " ".join(_explain_list(person)),
    )


def _explain_list(person: PersonDetails) -> Iterator[str]:
    """Yield sentences on what the columns of the list mean, or on why there is no list."""
    rows = person.recommendations
    if person.failure is not None:
        yield f"none: Personalize returned an error for this user: {person.failure}"
    elif not rows and person.arm is not None:
        yield f"none: the edition has no list for this user, who is in the arm {person.arm}"
    elif not rows:
        yield "none: this user is not among those who get lists, or has already seen every item"
    elif person.arm == "control":
        yield "This user is in the control of the experiment, which gets popular items."
    elif not person.interactions and person.periods is None:
        yield "This user has no interactions: recommendations.newcomers says what newcomers get."
    elif all(entry.reason for entry in rows):
        yield "Nothing here is of the model: recommendations.rules left out all of its results."
    else:
        note = f"; {_explain_both(person.counted)}" if person.counted else "."
        yield (
            f"because of: the item of the history that most people have with it{note}"
            " It is not how the model decided."
        )
        padding = ", ".join(f"#{entry.rank}" for entry in rows if entry.padding)
        if padding:
            yield f"Popular items that Personalize added, without a score: {padding}."
        if any(entry.reason for entry in rows):
            yield "pinned, popular: recommendations.rules put it there."


def _explain_both(counted: int) -> str:
    """Return what the column `both` means.

    counted: the number of people who were counted.
    """
    return f"both: how many of {counted:,} people have both."


def print_item(terminal: Terminal, item: ItemDetails) -> None:
    """Print the users who get the item, and the items that go with it."""
    title = shorten_title(item.title)
    terminal.print_heading(f"Item {item.item} in {item.pipeline}{f': {title}' if title else ''}")
    share = f" ({item.in_lists / item.lists:.1%})" if item.lists else ""
    rank = "" if item.mean_rank is None else f", mean rank {item.mean_rank:.1f}"
    last = "" if item.last is None else f", latest {format_time(item.last)} UTC"
    terminal.print_sentence(f"in {item.in_lists:,} of {item.lists:,} lists{share}{rank}")
    interactions = format_count(item.interactions, "interaction")
    terminal.print_sentence(f"{interactions} from {format_count(item.users, 'user')}{last}")
    terminal.print_line()
    terminal.print_table(
        "Users for whom it ranks highest",
        ["#", "user"],
        [[user.rank, user.user_id] for user in item.first_users],
        "" if item.first_users else "nobody",
    )
    has_titles = any(entry.title for entry in item.neighbours)
    reason = "its users have no other item" if item.users else "nobody had it yet"
    terminal.print_line()
    terminal.print_table(
        "Items that the same people have",
        [*_name_item_columns(has_titles), "both"],
        [
            [*_make_item_cells(entry.item, entry.title, has_titles), entry.users_with_both]
            for entry in item.neighbours
        ],
        _explain_both(item.counted) if item.neighbours else f"none: {reason}",
    )
    if item.similar_items is None:
        return
    has_titles = any(entry.title for entry in item.similar_items)
    terminal.print_line()
    terminal.print_table(
        "Its published list (similar_items)",
        ["#", *_name_item_columns(has_titles)],
        [
            [entry.rank, *_make_item_cells(entry.item, entry.title, has_titles)]
            for entry in item.similar_items
        ],
        "" if item.similar_items else "it has none: too few people had it, or rules left out all",
    )


def print_matches(terminal: Terminal, matches: ItemMatches) -> None:
    """Print the items with the searched text in their titles."""
    more = matches.total - len(matches.items)
    first = shlex.quote(matches.items[0].item)
    terminal.print_table(
        f"{format_count(matches.total, 'item')} in {matches.pipeline} with {matches.text!r} in the"
        " title",
        ["item", "title"],
        [[entry.item, shorten_title(entry.title)] for entry in matches.items],
        f"{f'{more:,} more: add a word. ' if more else ''}One: batchrec show --item {first}",
    )


def print_experiment(terminal: Terminal, address: str, sentences: Sequence[str]) -> None:
    """Print the results of an experiment, one sentence below the other."""
    terminal.print_heading(f"Experiment in {address}")
    for sentence in sentences:
        terminal.print_sentence(sentence)


def print_overview(terminal: Terminal, overview: ListOverview) -> None:
    """Print the current state of a list: the verdict, the facts, and where its files are."""
    edition = overview.edition
    assert edition is not None, "only lists that are published are shown"
    terminal.print_heading(f"{overview.address}, edition {edition.number}")
    if overview.verdict is not None:
        terminal.print_verdict(overview.verdict)
    if overview.last_failure is not None:
        terminal.print_finding("refuse", f"last night: {describe_night(overview.last_failure)}")
    terminal.print_facts(_list_facts(overview, edition, is_short=terminal.width is not None))


def _list_facts(
    overview: ListOverview, edition: Edition, *, is_short: bool
) -> Iterator[tuple[str, str]]:
    """Yield the known facts about a list, each with its label.

    is_short: whether paths are shown relative to the working folder.
    """
    yield "lists", f"{describe_lists(edition)}, made {format_time(edition.made_at.astimezone())}"
    if overview.is_restored and overview.live is not None:
        yield "live", overview.live.description
    if edition.data is not None:
        data = edition.data
        yield (
            "data",
            f"{data.interactions:,} interactions of {data.users:,} users with {data.items:,} items"
            + (f", until {data.last_day}" if data.last_day else ""),
        )
    if edition.recipe is not None:
        yield "model", f"{edition.recipe}, trained by {describe_engine(edition.engine)}"
    ndcg, popular = read_ndcg_number(edition), read_popular_ndcg_number(edition)
    if ndcg is not None:
        compared = "" if popular is None else f"; popular items {popular.text}"
        yield "metric", f"{name_ndcg(edition.success)} {ndcg.sentence}{compared}"
    yield from describe_rules(edition)
    for label, path in (("table", overview.table), ("report", overview.report)):
        if path is not None:
            yield label, shorten_location(path) if is_short else path
    if overview.example_user is not None:
        yield "try", f"batchrec {format_show_arguments(overview.example_user)}"


def _name_item_columns(has_titles: bool) -> list[str]:
    return ["item", "title"] if has_titles else ["item"]


def _make_item_cells(item: str, title: str | None, has_titles: bool) -> list[Cell]:
    return [item, shorten_title(title)] if has_titles else [item]
