"""Looks up one user or one item in the published results."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import polars as pl

from batchrec_dagster.config.list_columns import REASON, REASON_ITEM
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.preparation.rules import EVENT_TYPE_VALUE
from batchrec_dagster.reporting.past_editions import LivePeriod, PastEdition
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.steps.item_pairs import number_histories, pair_histories
from batchrec_dagster.steps.numbered_ids import NumberedIds
from batchrec_dagster.steps.reasons import BECAUSE, SpeakingItems
from batchrec_dagster.steps.success import is_success
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.list_subjects import ITEMS
from batchrec_dagster.storage.measured_popularity import name_window

# The reason of a popular item.
POPULAR = "popular"
HISTORY = 25
FIRST_USERS = 10
NEIGHBOURS = 10
MOST_MATCHES = 20
# Counting this many bytes of interactions takes a second or two. Of larger files, only a sample of
# the users is counted.
MOST_COUNTED = 256 * 1024 * 1024
# Only this many of a user's latest items can explain a recommendation.
MOST_EXPLAINING = 1_000


@dataclass(frozen=True)
class Interaction:
    """A user's interaction with an item."""

    time: datetime
    """In UTC."""
    item: str
    title: str | None
    event: str | None
    """The type of the event; None if there is only one type."""


@dataclass(frozen=True)
class ExplainedItem:
    """An item of a user's list, and what explains it."""

    rank: int
    item: str
    title: str | None
    score: float | None
    """None if the recipe gives no scores."""
    because: str | None
    """The item of the user's history that explains this one best; None if no item does."""
    because_title: str | None
    users_with_both: int
    """How many of the counted users have both items."""
    padding: bool = False
    """Whether it is a popular item without a score, which Personalize added to a short list."""
    reason: str | None = None
    """Why it is on the list, if not because of an item: pinned, popular or new, for example."""


@dataclass(frozen=True)
class UserDetails:
    """What a pipeline knows of a user."""

    pipeline: str
    user: str
    interactions: int
    """How many interactions the user has in all."""
    history: list[Interaction]
    """The latest interactions, newest first."""
    recommendations: list[ExplainedItem]
    """The user's list, best first."""
    titles: bool
    """Whether any of the items has a title."""
    failure: str | None = None
    """The error that Personalize returned instead of the list; None if it did not."""
    edition: int = 0
    """The number of the edition that the list is from; 0 if it does not say."""
    arm: str | None = None
    """The user's arm of the edition's experiment; None without an experiment."""
    periods: list[LivePeriod] | None = None
    """When the edition was live that was asked for; None if the published one is shown."""
    notes: list[str] = field(default_factory=list)
    """What to know about a past list and its explanations, in sentences."""


@dataclass(frozen=True)
class Neighbour:
    """An item that shares users with another."""

    item: str
    title: str | None
    users_with_both: int
    """How many of the counted users have both items."""


@dataclass(frozen=True)
class SimilarItem:
    """An item of the published list of another."""

    rank: int
    item: str
    title: str | None
    score: float | None
    """None if the recipe gives no scores, or a rule put it there."""


@dataclass(frozen=True)
class ItemDetails:
    """What a pipeline knows of an item."""

    pipeline: str
    item: str
    title: str | None
    interactions: int
    users: int
    """How many users have the item."""
    last: datetime | None
    """The time of the last interaction, in UTC; None if there is none."""
    in_lists: int
    """How many lists contain the item."""
    lists: int
    """How many lists there are."""
    mean_rank: float | None
    """The item's mean rank in the lists that contain it; None if none does."""
    first_users: list[dict[str, Any]]
    """The users for whom it ranks highest, by `user_id` and `rank`."""
    neighbours: list[Neighbour]
    """The items whose audiences overlap most with the item's, best first."""
    titles: bool
    """Whether any of the items has a title."""
    similar_items: list[SimilarItem] | None = None
    """The published list of similar items, best first; None if the pipeline publishes none."""


@dataclass(frozen=True)
class TitledItem:
    """An item whose title has what somebody looks for."""

    item: str
    title: str


@dataclass(frozen=True)
class ItemMatches:
    """Several items of a pipeline whose titles have the text that somebody looks for."""

    pipeline: str
    text: str
    total: int
    """How many there are."""
    items: list[TitledItem]
    """The first of them, by title."""


def find_user(published: PublishedResults, user: str) -> UserDetails | None:
    """The user; None if nothing is known of this id: no interaction, no list, no failed one.

    Raises UserError.
    """
    with published.open_interactions() as (interactions, size):
        return _find_user(published, user, interactions, size)


def find_past_user(published: PublishedResults, user: str, past: PastEdition) -> UserDetails | None:
    """The user with the list of this edition; None if nothing is known of this id, then or now.

    The list is explained by the interactions until the time at which the edition's data end.
    Raises UserError.
    """
    published = replace(published, chosen_edition=past.edition)
    until = past.edition.data_until
    notes: list[str] = []
    if until is None:
        notes.append(
            f"Why is not known: edition {past.edition.number} does not say until when its data"
            " reach."
        )
    elif not published.has_interactions():
        notes.append("Why is not known: the interactions are no longer there.")
    else:
        notes.append(
            "History and explanations are those of today's data until"
            f" {_to_datetime(until):%Y-%m-%d %H:%M} UTC, where the data of this edition ended. What"
            " was deleted or changed since is not in them."
        )
        with published.open_interactions() as (interactions, size):
            details = _find_user(published, user, interactions, size, until)
            return None if details is None else replace(details, periods=past.periods, notes=notes)
    details = _find_user(published, user, NO_INTERACTIONS, 0)
    return None if details is None else replace(details, periods=past.periods, notes=notes)


NO_INTERACTIONS = pl.LazyFrame(schema={USER_ID: pl.String, ITEM_ID: pl.String, TIMESTAMP: pl.Int64})


def _find_user(
    published: PublishedResults,
    user: str,
    interactions: pl.LazyFrame,
    size: int,
    until: int | None = None,
) -> UserDetails | None:
    """The user, with the list of the edition of `published`.

    size: that of the file of the interactions, in bytes.
    until: only interactions until this time count, in epoch seconds; None for all.
    """
    table = published.read_rows("user_id", user).sort("rank")
    failure = None if table.height else published.read_failure(user)
    listed_items = table.get_column("item_id").to_list()
    interactions_of_user = (
        interactions.filter(pl.col(USER_ID) == user)
        .collect(engine="streaming")
        .sort(TIMESTAMP, descending=True, maintain_order=True)
    )
    if not (interactions_of_user.height or listed_items or failure):
        return None
    if until is not None:
        interactions = interactions.filter(pl.col(TIMESTAMP) <= until)
        interactions_of_user = interactions_of_user.filter(pl.col(TIMESTAMP) <= until)
    edition = published.edition
    latest = _find_speaking_items(interactions_of_user, edition)
    reasons = _read_reasons(table, edition)
    explanations = _explain_rows(_sample_users(interactions, size), table, reasons, latest)
    latest_interactions = interactions_of_user.head(HISTORY)
    explaining_items = [because for because, _ in explanations]
    titles = published.read_titles(
        [*latest_interactions.get_column(ITEM_ID), *listed_items, *explaining_items]
    )
    if published.chosen_edition is not None and "title" in table.columns:
        # As the person saw it then.
        titles |= dict(table.select("item_id", "title").drop_nulls().iter_rows())
    return UserDetails(
        pipeline=published.address,
        user=user,
        interactions=interactions_of_user.height,
        history=_make_history(latest_interactions, titles),
        recommendations=_list_explained_items(
            table,
            reasons,
            explanations,
            titles,
            has_padding=edition is not None and edition.counts.items_without_score > 0,
        ),
        titles=bool(titles),
        failure=failure,
        edition=edition.number if edition is not None else 0,
        arm=_find_arm(published, user, table),
    )


def _find_speaking_items(interactions: pl.DataFrame, edition: Edition | None) -> list[str]:
    """The latest items of the user that can speak for others: those of success, if there are any.

    interactions: those of the user, the newest first.
    """
    succeeded = interactions
    if edition is not None:
        succeeded = interactions.filter(is_success(interactions.lazy(), edition.success))
    speaking = succeeded if succeeded.height else interactions
    items = speaking.get_column(ITEM_ID).unique(maintain_order=True)
    return items.head(MOST_EXPLAINING).to_list()


def _explain_rows(
    pairs: pl.LazyFrame, table: pl.DataFrame, reasons: list[str | None], latest: list[str]
) -> list[tuple[str, int]]:
    """What explains each row of a user's list, as `_explain_list` returns it.

    pairs: the users who are counted, with their items.
    reasons: those of `_read_reasons`. Rows with one are not explained by the history.
    latest: the latest items of the user.
    """
    # What the lists themselves say holds, also if other users are counted now.
    histories = [
        [item] if item is not None else latest for item in _read_column(table, REASON_ITEM)
    ]
    explanations = _explain_list(pairs, histories, table.get_column("item_id").to_list())
    return [
        explanation if reason is None else ("", 0)
        for explanation, reason in zip(explanations, reasons, strict=True)
    ]


def _list_explained_items(
    table: pl.DataFrame,
    reasons: list[str | None],
    explanations: list[tuple[str, int]],
    titles: Mapping[str, str | None],
    *,
    has_padding: bool,
) -> list[ExplainedItem]:
    """The rows of a user's list, each with what explains it.

    has_padding: whether Personalize added popular items without a score to short lists.
    """
    rows = table.select("rank", "item_id", "score").iter_rows()
    return [
        ExplainedItem(
            rank=rank,
            item=item,
            title=titles.get(item),
            score=score,
            because=because or None,
            because_title=titles.get(because),
            users_with_both=users_with_both,
            padding=has_padding and score is None and reason is None,
            reason=reason,
        )
        for (rank, item, score), reason, (because, users_with_both) in zip(
            rows, reasons, explanations, strict=True
        )
    ]


def _find_arm(published: PublishedResults, user: str, table: pl.DataFrame) -> str | None:
    """The user's arm of the edition's experiment; None without one, and for who is in none.

    table: the user's rows.
    """
    experiment = published.require_edition().experiment
    if experiment is None:
        return None
    if "arm" in table.columns and table.height:
        return str(table.item(0, "arm"))
    if not published.is_without_list(user):
        return None
    from batchrec_dagster.config.experiment import Experiment
    from batchrec_dagster.steps.arms import assign_arm

    return assign_arm(user, Experiment.model_validate(experiment))


def _read_reasons(rows: pl.DataFrame, edition: Edition | None) -> list[str | None]:
    """Why each row is on the list, if not because of an item; None also where that is not known.

    Only lists with rules, with something for newcomers, or that ask for it have the column. The
    lists of an experiment's control have popular items.

    rows: those of a user.
    edition: theirs.
    """
    reasons = [None if reason == BECAUSE else reason for reason in _read_column(rows, REASON)]
    if "arm" in rows.columns:
        arms = rows.get_column("arm")
        reasons = [
            reason or (POPULAR if arm == "control" else None)
            for reason, arm in zip(reasons, arms, strict=True)
        ]
    if edition is None or edition.popularity is None:
        return reasons
    name = f"{POPULAR} {name_window(edition.popularity.days).replace('of', 'in', 1)}"
    return [name if reason == POPULAR else reason for reason in reasons]


def _read_column(rows: pl.DataFrame, name: str) -> list[str | None]:
    """The values of a column that not all lists have."""
    if name not in rows.columns:
        return [None] * rows.height
    values: list[str | None] = rows.get_column(name).to_list()
    return values


def _make_history(
    interactions: pl.DataFrame, titles: Mapping[str, str | None]
) -> list[Interaction]:
    """The interactions with their titles, and with their types if there are several."""
    events: list[str | None] = [None] * interactions.height
    if EVENT_TYPE in interactions.columns:
        event_types = interactions.get_column(EVENT_TYPE).to_list()
        if {*event_types} - {EVENT_TYPE_VALUE, ""}:
            events = event_types
    return [
        Interaction(_to_datetime(seconds), item, titles.get(item), event)
        for seconds, item, event in zip(
            interactions[TIMESTAMP], interactions[ITEM_ID], events, strict=True
        )
    ]


def find_item(published: PublishedResults, item: str) -> ItemDetails | None:
    """The item, or None if neither the table nor the interactions have one of this id.

    Raises UserError.
    """
    rows = published.read_rows("item_id", item).sort("rank", "user_id")
    _, lists = published.count_rows_and_users()
    with published.open_interactions() as (interactions, size):
        totals = (
            interactions.filter(pl.col(ITEM_ID) == item)
            .select(pl.len(), users=pl.col(USER_ID).n_unique(), last=pl.col(TIMESTAMP).max())
            .collect(engine="streaming")
            .row(0, named=True)
        )
        if not (totals["len"] or rows.height):
            return None
        similar = _find_similar_items(_sample_users(interactions, size), item)
    listed = _read_similar_items(published, item)
    listed_ids = [row[ITEMS.item_column] for row in listed or ()]
    titles = published.read_titles([item, *(other for other, _ in similar), *listed_ids])
    return ItemDetails(
        pipeline=published.address,
        item=item,
        title=titles.get(item),
        interactions=totals["len"],
        users=totals["users"],
        last=None if totals["last"] is None else _to_datetime(totals["last"]),
        in_lists=rows.height,
        lists=lists,
        mean_rank=rows.select(pl.col("rank").mean()).item(),
        first_users=rows.select("user_id", "rank").head(FIRST_USERS).to_dicts(),
        neighbours=[
            Neighbour(other, titles.get(other), users_with_both)
            for other, users_with_both in similar
        ],
        titles=bool(titles),
        similar_items=None
        if listed is None
        else [
            SimilarItem(
                row["rank"],
                row[ITEMS.item_column],
                titles.get(row[ITEMS.item_column]),
                row["score"],
            )
            for row in listed
        ],
    )


def find_items_by_title(published: PublishedResults, text: str) -> ItemMatches | None:
    """The items of the pipeline whose title has this text; None if there is none.

    published: those of the pipeline, or of any of its lists.
    Raises UserError.
    """
    rows = published.find_titles(text)
    if not rows:
        return None
    items = [TitledItem(item, title) for item, title in rows[:MOST_MATCHES]]
    return ItemMatches(published.files.keys.pipeline, text, len(rows), items)


def _read_similar_items(published: PublishedResults, item: str) -> list[dict[str, Any]] | None:
    """The rows of the published list of similar items; None if the pipeline publishes none."""
    if published.similar_items is None:
        return None
    rows = published.similar_items.read_rows(ITEMS.column, item)
    return rows.sort("rank").to_dicts()


def find_similar_ids(published: PublishedResults, kind: str, name: str) -> list[str]:
    """Up to three ids in the interactions that are spelled like this one.

    `kind` is `user` or `item`. Only ids with the same two first letters are compared.
    Raises UserError.
    """
    column = USER_ID if kind == "user" else ITEM_ID
    text = pl.col(column)
    same_start = text.str.to_lowercase().str.starts_with(name[:2].lower())
    length = text.str.len_chars().cast(pl.Int64)
    similar_length = (length - len(name)).abs() <= 2
    with published.open_interactions() as (interactions, _):
        matches = interactions.filter(same_start & similar_length).select(text.unique())
        ids = matches.collect(engine="streaming").to_series()
    ids_by_lowercase = {match.lower(): match for match in ids}
    closest = difflib.get_close_matches(name.lower(), ids_by_lowercase, n=3)
    return [ids_by_lowercase[lowercase] for lowercase in closest]


def _sample_users(interactions: pl.LazyFrame, size: int) -> pl.LazyFrame:
    """The columns user_id and item of all users, or of every n-th of them if there are many.

    `size` is the size of the interactions' file in bytes.
    """
    step = -(-size // MOST_COUNTED)
    if step > 1:
        interactions = interactions.filter(pl.col(USER_ID).hash() % step == 0)
    return interactions.select(user_id=USER_ID, item=ITEM_ID)


def _explain_list(
    histories: pl.LazyFrame, own_items: list[list[str]], listed_items: list[str]
) -> list[tuple[str, int]]:
    """For each item of the list the one of the person's own that speaks best for it.

    With it stands the number of users who have both. They are an empty text and 0 if none does.

    histories: as of `_sample_users`.
    own_items: the items that can speak for each item of the list.
    """
    items = (
        pl.Series([*chain.from_iterable(own_items), *listed_items], dtype=pl.String).unique().sort()
    )
    users = histories.select(pl.col("user_id").unique()).collect(engine="streaming").to_series()
    numbered = NumberedIds(items)
    rows = pl.DataFrame({"item": numbered.find(pl.Series(listed_items, dtype=pl.String))})
    rows = rows.with_row_index("user")
    pairs = pair_histories(
        number_histories(histories, users, items), len(users), rows.get_column("item").unique()
    )
    own = pl.DataFrame(
        {"user": range(len(own_items)), "item": own_items},
        schema={"user": pl.UInt32, "item": pl.List(pl.String)},
    ).explode("item", empty_as_null=False)
    own = own.with_columns(item=numbered.find(own.get_column("item"))).sort("user", "item")
    overlaps = SpeakingItems(own, len(own_items), pairs).find(rows)
    because = items.gather(overlaps.get_column("own_item"))
    both = overlaps.get_column("both")
    return [*zip(because.fill_null("").to_list(), both.fill_null(0).to_list(), strict=True)]


def _find_similar_items(histories: pl.LazyFrame, item: str) -> list[tuple[str, int]]:
    """The items that share most people with the item, best first, and how many have both.

    histories: as of `_sample_users`.
    """
    users, items = pl.collect_all(
        [histories.select(pl.col(name).unique().sort()) for name in ("user_id", "item")],
        engine="streaming",
    )
    ids = items.get_column("item")
    number = ids.search_sorted(item)
    had = number_histories(histories, users.get_column("user_id"), ids)
    pairs = pair_histories(had, users.height, pl.Series([number], dtype=pl.UInt32))
    nearest = pairs.filter(item=number).sort("score", "other", descending=[True, False])
    nearest = nearest.head(NEIGHBOURS)
    others = ids.gather(nearest.get_column("other"))
    return [*zip(others.to_list(), nearest.get_column("both").to_list(), strict=True)]


def _to_datetime(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
