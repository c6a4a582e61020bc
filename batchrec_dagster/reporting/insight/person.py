"""A pipeline's data about one person: the history, and the list with its explanations."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.config.list_columns import REASON_ITEM
from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.measured_ndcg import name_window
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.preparation.row_rules import EVENT_TYPE_VALUE
from batchrec_dagster.reporting.insight.explanations import (
    PastInteractions,
    explain_lists,
    name_reason,
)
from batchrec_dagster.reporting.insight.nights import list_nights
from batchrec_dagster.reporting.insight.published_tables import (
    open_interactions,
    read_rows,
    read_titles,
)
from batchrec_dagster.steps.data.popular_items import POPULAR
from batchrec_dagster.steps.outcomes.arms import assign_arm

# The maximum number of interactions to show, the latest ones.
HISTORY = 25
NO_INTERACTIONS = pl.LazyFrame(schema={USER_ID: pl.String, ITEM_ID: pl.String, TIMESTAMP: pl.Int64})


class UnknownEditionError(UserError):
    """An error for an edition that does not exist, or is no longer kept.

    The message is one line.
    """


@dataclass(frozen=True)
class PastItem:
    """An item that a person had."""

    time: datetime
    """The time in UTC."""
    item: str
    title: str | None
    event: str | None
    """The type of the event; None if there is only one type."""


@dataclass(frozen=True)
class Recommendation:
    """An item of a person's list, and why it is there."""

    rank: int
    item: str
    title: str | None
    score: float | None
    """The score; None if the recipe gives no scores."""
    because: str | None
    """The item of the history that explains this item best; None if there is none."""
    because_title: str | None
    users_with_both: int
    """The number of counted people who have this item and the item `because`; 0 if not counted."""
    padding: bool
    """Whether this is a popular item without a score that Personalize added to a short list."""
    reason: str | None
    """The reason for the item, such as pinned, popular or new; None without such a reason."""


@dataclass(frozen=True)
class LivePeriod:
    """A period when an edition was live."""

    since: datetime
    until: datetime | None
    """The end of the period; None if the edition is live now."""


@dataclass(frozen=True)
class PersonDetails:
    """A pipeline's data about a person."""

    pipeline: str
    user: str
    edition: int
    """The number of the edition that the list is from."""
    interactions: int
    """The number of all interactions of the person."""
    history: tuple[PastItem, ...]
    """The latest interactions, newest first."""
    recommendations: tuple[Recommendation, ...]
    """The person's list, best first."""
    counted: int
    """The number of people whose histories explain the list."""
    failure: str | None
    """The error that Personalize returned instead of the list; None without an error."""
    arm: str | None
    """The person's arm of the edition's experiment; None without an experiment."""
    periods: tuple[LivePeriod, ...] | None
    """The periods when the edition was live; None unless an edition was asked for."""
    notes: tuple[str, ...]
    """Sentences on the limits of the history and the explanations."""


def find_edition(files: ListFiles, number: int) -> tuple[Edition, tuple[LivePeriod, ...]]:
    """Return the edition with this number, and the periods when it was live.

    Raises UnknownEditionError, and UserError.
    """
    nights = [night for night in list_nights(files) if night.is_publication]
    of_number = [night for night in nights if night.edition == number]
    address = files.keys.address
    if not of_number:
        numbers = sorted({night.edition or 0 for night in nights})
        raise UnknownEditionError(
            f"there is no edition {number} of {address}: the editions are"
            f" {numbers[0]} to {numbers[-1]}"
        )
    newest = of_number[-1]
    periods = tuple(
        LivePeriod(night.time, night.until)
        for night in of_number
        if night.version == newest.version
    )
    editions = files.editions.live_and_older()
    for edition in editions:
        if newest.is_of(edition):
            return edition, periods
    numbers_kept = ", ".join(str(edition.number) for edition in reversed(editions))
    raise UnknownEditionError(
        f"edition {number} of {address} was {describe_periods(periods)}, and is no longer kept."
        f" Kept by the setting retention.editions: {numbers_kept}"
    )


def describe_periods(periods: tuple[LivePeriod, ...]) -> str:
    """Return the periods in words, such as `live since 2026-11-20 03:10 UTC`."""
    texts = [
        f"since {period.since:%Y-%m-%d %H:%M} UTC"
        if period.until is None
        else f"from {period.since:%Y-%m-%d %H:%M} to {period.until:%Y-%m-%d %H:%M} UTC"
        for period in periods
    ]
    return f"live {', and '.join(texts)}"


def find_person(files: ListFiles, user: str, number: int | None = None) -> PersonDetails | None:
    """Return the person with their list; None if no interaction, list or error has this id.

    number: the number of the edition that the list is from; None for the live edition. The list of
        a numbered edition is explained by the interactions until the time at which the edition's
        data end.

    Raises UnknownEditionError, and UserError.
    """
    periods: tuple[LivePeriod, ...] | None = None
    if number is None:
        edition = files.editions.live()
        assert edition is not None, "only lists that are published are looked up"
    else:
        edition, periods = find_edition(files, number)
    rows = read_rows(files, edition, "user_id", user)
    failure, arm = _read_outcome(files, edition, user, rows)
    with open_interactions(files) as interactions:
        notes: tuple[str, ...] = ()
        if number is not None or interactions is None:
            notes = (_describe_history(edition, interactions),)
        if interactions is None or (number is not None and edition.data_until is None):
            interactions = NO_INTERACTIONS
        had = interactions.filter(pl.col(USER_ID) == user).collect(engine="streaming")
        if not (had.height or rows.height or failure):
            return None
        if number is not None:
            is_known_then = pl.col(TIMESTAMP) <= (edition.data_until or 0)
            interactions, had = interactions.filter(is_known_then), had.filter(is_known_then)
        had = had.sort(TIMESTAMP, descending=True, maintain_order=True)
        explained, counted = _explain(rows, had, interactions, edition)
    latest = had.head(HISTORY)
    items = pl.concat(
        [latest.get_column(ITEM_ID), *explained.select("item_id", "because").get_columns()]
    )
    titles = read_titles(files, items)
    if "title" in rows.columns:
        # The titles in the list are used first, because the person saw these.
        titles |= dict(rows.select("item_id", "title").drop_nulls().iter_rows())
    return PersonDetails(
        pipeline=files.keys.address,
        user=user,
        edition=edition.number,
        interactions=had.height,
        history=tuple(_list_history(latest, titles)),
        recommendations=tuple(_list_items(explained, edition, titles)),
        counted=counted,
        failure=failure,
        arm=arm,
        periods=periods,
        notes=notes,
    )


def _describe_history(edition: Edition, interactions: pl.LazyFrame | None) -> str:
    """Return a sentence on the history and the explanations of a past edition."""
    if interactions is None:
        return "Why is not known: the interactions are no longer there."
    if edition.data_until is None:
        return f"Why is not known: edition {edition.number} does not say until when its data reach."
    until = datetime.fromtimestamp(edition.data_until, UTC)
    return (
        f"The history is that of today's data until {until:%Y-%m-%d %H:%M} UTC, where the data of"
        " this edition ended."
    )


def _read_outcome(
    files: ListFiles, edition: Edition, user: str, rows: pl.DataFrame
) -> tuple[str | None, str | None]:
    """Return the error that Personalize gave instead of a list, and the arm; None for either.

    rows: the rows of the person's list.
    """
    key = files.keys.users_without_lists(edition.version)
    absent = files.read_parquet(key, "delete it: it only says why some users have no list")
    errors = [] if absent is None else absent.filter(user_id=user).get_column("error").to_list()
    failure = errors[0] if errors else None
    if edition.experiment is None:
        return failure, None
    if "arm" in rows.columns and rows.height:
        return failure, str(rows.item(0, "arm"))
    if not errors:
        # A person who was not meant to get a list is in no arm.
        return failure, None
    return failure, assign_arm(user, Experiment.model_validate(edition.experiment))


def _explain(
    rows: pl.DataFrame, had: pl.DataFrame, interactions: pl.LazyFrame, edition: Edition
) -> tuple[pl.DataFrame, int]:
    """Return the rows with the columns reason, because and both, and the number of counted people.

    rows: the rows of the person's list.
    had: the person's interactions.
    """
    rows = rows.with_columns(reason=name_reason(rows.columns))
    if REASON_ITEM in rows.columns:
        # The lists themselves say why an item is there.
        return rows.with_columns(because=REASON_ITEM, both=pl.lit(None, pl.UInt32)), 0
    users = edition.data.users if edition.data is not None else 0
    histories = PastInteractions(interactions, users, _weigh_events(edition))
    return explain_lists(rows, had, rows.get_column("user_id").unique(), histories)


def _weigh_events(edition: Edition) -> dict[str, float]:
    """Return the weight of each type of event for a person's taste, from the edition's settings."""
    prefix = "solution.event_weights."
    weights = {
        name.removeprefix(prefix).lower(): float(weight)
        for name, weight in edition.settings.items()
        if name.startswith(prefix)
    }
    return weights or {name.lower(): 1.0 for name in edition.success}


def _list_history(had: pl.DataFrame, titles: Mapping[str, str | None]) -> Iterator[PastItem]:
    """Yield the interactions with their titles, and with their types if there are several types."""
    events: list[str | None] = [None] * had.height
    if EVENT_TYPE in had.columns:
        event_types = had.get_column(EVENT_TYPE).to_list()
        if {*event_types} - {EVENT_TYPE_VALUE, ""}:
            events = event_types
    for (seconds, item), event in zip(
        had.select(TIMESTAMP, ITEM_ID).iter_rows(), events, strict=True
    ):
        yield PastItem(datetime.fromtimestamp(seconds, UTC), item, titles.get(item), event)


def _list_items(
    rows: pl.DataFrame, edition: Edition, titles: Mapping[str, str | None]
) -> Iterator[Recommendation]:
    """Yield the items of the person's list.

    rows: the rows that `_explain` returned.
    """
    popular = POPULAR
    if edition.popularity is not None:
        popular += f" {name_window(edition.popularity.days).replace('of', 'in', 1)}"
    has_padding = edition.counts.items_without_score > 0
    columns = ("rank", "item_id", "score", "because", "both", "reason")
    for rank, item, score, because, users_with_both, reason in rows.select(columns).iter_rows():
        yield Recommendation(
            rank=rank,
            item=item,
            title=titles.get(item),
            score=score,
            because=because,
            because_title=titles.get(because),
            users_with_both=users_with_both or 0,
            padding=has_padding and score is None and not reason,
            reason=popular if reason == POPULAR else reason or None,
        )


def find_similar_ids(files: ListFiles, column: str, name: str) -> list[str]:
    """Return up to three ids in the interactions that are spelled like this name.

    Only ids that start with the same two letters, and are at most two letters longer or shorter,
    are compared. Raises UserError.

    column: USER_ID or ITEM_ID.
    """
    text = pl.col(column)
    same_start = text.str.to_lowercase().str.starts_with(name[:2].lower())
    length = text.str.len_chars().cast(pl.Int64)
    similar_length = (length - len(name)).abs() <= 2
    with open_interactions(files) as interactions:
        if interactions is None:
            return []
        matches = interactions.filter(same_start & similar_length).select(text.unique())
        ids = matches.collect(engine="streaming").to_series()
    ids_by_lowercase = {match.lower(): match for match in ids}
    closest = difflib.get_close_matches(name.lower(), ids_by_lowercase, n=3)
    return [ids_by_lowercase[lowercase] for lowercase in closest]
