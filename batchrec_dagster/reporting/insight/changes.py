"""The differences between two editions: settings, data, quality, and the lists themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.editions.edition import DataCounts, Edition
from batchrec_dagster.personalize.measurements import COVERAGE, join_words, name_ndcg
from batchrec_dagster.reporting.insight.numbers import Number
from batchrec_dagster.reporting.insight.published_tables import read_users_with_lists
from batchrec_dagster.steps.judge.quality import compare_models

# The maximum number of users in the comparison. If there are more, the lists of an even sample of
# users are compared.
MOST_COMPARED = 20_000
# The maximum number of items that are named as being in more lists than before. The same maximum
# holds for the items in fewer lists.
MOST_ITEMS = 10
# The prefixes of the settings that decide which interactions the metrics are measured on.
MEASURED_BY = ("ratings.", "interactions.")

Value = Number | str | None
"""A number, a text, or None for an unknown value or a default."""


class Change(BaseModel, frozen=True):
    """A value in two editions, which may differ."""

    name: str
    before: Value
    after: Value


class ItemChange(BaseModel, frozen=True):
    """An item that is in more lists or in fewer lists than before."""

    item: str
    title: str | None
    before: int
    """The number of compared lists that had the item in the older edition."""
    after: int
    """The number of compared lists that have the item in the newer edition."""


class Changes(BaseModel, frozen=True):
    """The differences between an older and a newer edition.

    The editions are of the same table of lists, or of two tables, such as two pipelines' tables.
    """

    before: int
    """The number of the older edition."""
    after: int
    """The number of the newer edition."""
    settings: tuple[Change, ...]
    """The settings that differ."""
    data: tuple[Change, ...]
    """The amounts of data, and other differences in the data.

    Empty if the data are the same, or not known.
    """
    quality: tuple[Change, ...]
    """The metrics that can be compared, and the cost of the lists."""
    caveat: str
    """A sentence to read before comparing the metrics."""
    kept: float | None
    """The mean share of a user's items that were in the older list.

    None if no user has two lists.
    """
    compared: int
    """The number of users with compared lists."""
    same_lists: int
    """The number of compared lists that have the same items."""
    gained: int
    """The number of users who have a list only in the newer edition."""
    lost: int
    """The number of users who have a list only in the older edition."""
    up: tuple[ItemChange, ...]
    """The items that are in more lists than before, the largest gain first."""
    down: tuple[ItemChange, ...]
    """The items that are in fewer lists than before, the largest loss first."""

    @property
    def summary(self) -> str:
        """The changes in the lists, in a sentence without a full stop."""
        people = f"{self.gained:,} new people, {self.lost:,} without a list"
        if self.kept is None:
            return people
        return f"{self.kept:.0%} of a person's items were in their list before; {people}"


def compare_editions(
    before: tuple[Edition, pl.LazyFrame],
    after: tuple[Edition, pl.LazyFrame],
) -> Changes:
    """Return how the second edition differs from the first.

    before, after: an edition, with the rows of its lists: user_id, rank, item_id and, if there are
        titles, title.
    """
    old, old_lists = before
    new, new_lists = after
    old_users, new_users = (read_users_with_lists(lists) for lists in (old_lists, new_lists))
    users_in_both = new_users.filter(new_users.is_in(old_users.implode())).sort()
    step = max(1, -(-len(users_in_both) // MOST_COMPARED))
    users_compared = users_in_both.gather_every(step)
    old_rows, new_rows = (_read_rows(lists, users_compared) for lists in (old_lists, new_lists))
    compared_lists = _compare_lists(old_rows, new_rows)
    shifts = _count_items(old_rows, new_rows)
    up = shifts.filter(pl.col("after") > pl.col("before")).head(MOST_ITEMS)
    down = shifts.reverse().filter(pl.col("after") < pl.col("before")).head(MOST_ITEMS)
    titles = _read_titles((old_lists, new_lists), pl.concat([up, down]).get_column("item_id"))
    return Changes(
        before=old.number,
        after=new.number,
        settings=tuple(find_changed_settings(old, new)),
        data=tuple(_compare_data(old.data, new.data)),
        quality=tuple(_compare_quality(old, new)),
        caveat=describe_comparability(old, new),
        kept=compared_lists.get_column("kept").mean(),
        compared=len(users_compared),
        same_lists=compared_lists.get_column("is_same").sum(),
        gained=len(new_users) - len(users_in_both),
        lost=len(old_users) - len(users_in_both),
        up=tuple(_name_items(up, titles)),
        down=tuple(_name_items(down, titles)),
    )


def find_changed_settings(before: Edition, after: Edition) -> Iterator[Change]:
    """Yield the settings that differ, by name.

    A value that is None is the default.
    """
    old, new = before.settings, after.settings
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield Change(
                name=name,
                before=_format_setting(old.get(name)),
                after=_format_setting(new.get(name)),
            )


def _format_setting(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value:g}" if isinstance(value, float) else str(value)


def explain_incomparability(before: Edition, after: Edition) -> list[str]:
    """Return why the metrics of two editions cannot be compared; empty if they can be compared.

    The metrics cannot be compared if they count different types of events. Otherwise they can be
    compared if the versions of the data are the same, whatever the settings are, or if no setting
    with a prefix in MEASURED_BY differs.
    """
    old_events, new_events = (_read_success(edition) for edition in (before, after))
    if old_events != new_events:
        return [_describe(Change(name="solution.success", before=old_events, after=new_events))]
    if _name_data(before) == _name_data(after):
        return []
    return [
        _describe(change)
        for change in find_changed_settings(before, after)
        if change.name.startswith(MEASURED_BY)
    ]


def _read_success(edition: Edition) -> str | None:
    """Return the types of events that the metrics count, sorted and in lower case.

    Returns None if the metrics count all events.
    """
    return join_words(sorted(name.lower() for name in edition.success)) or None


def _name_data(edition: Edition) -> tuple[str, str | None]:
    """Return the version of the imported data, and of the data that the model was trained on."""
    return edition.data_version, edition.trained_on


def _describe(change: Change) -> str:
    before = "its default" if change.before is None else change.before
    after = "its default" if change.after is None else change.after
    return f"{change.name} changed from {before} to {after}"


def describe_comparability(before: Edition, after: Edition) -> str:
    """Return a sentence to read before comparing the metrics of two editions."""
    model = after.solution_version_arn
    if model is not None and before.solution_version_arn == model:
        return "The model is the same, and so are its metrics."
    obstacles = explain_incomparability(before, after)
    if obstacles:
        return f"The metrics cannot be compared: {'; '.join(obstacles)}."
    if before.data_version != after.data_version:
        return "The metrics were measured on other data: a difference may come from the data."
    if compare_models(after, before) is None:
        return (
            "The metrics were measured on the same interactions, but not by groups of the same"
            " people: a difference may be chance."
        )
    return (
        "The metrics were measured on the same people: if the interval of the difference includes"
        " 0, it may be chance."
    )


def _compare_quality(before: Edition, after: Edition) -> Iterator[Change]:
    """Yield the metrics that can be compared, the users with a list, and the known costs."""
    if not explain_incomparability(before, after):
        name = name_ndcg(after.success)
        yield from _compare_numbers(name, before, after, read_ndcg_number)
        difference = compare_models(after, before)
        if difference is not None and before.solution_version_arn != after.solution_version_arn:
            number = Number.of_estimate(difference, "score")
            yield Change(name="difference, on the same people", before="", after=number)
        popular = "NDCG@25 of popular items"
        yield from _compare_numbers(popular, before, after, read_popular_ndcg_number)
        yield from _compare_numbers("coverage", before, after, _read_coverage)
    yield from _compare_numbers("users with a list", before, after, _count_subjects)
    yield from _compare_numbers("paid for the run", before, after, _read_cost)
    yield from _compare_numbers("inference on AWS", before, after, _read_inference_cost)


def _compare_numbers(
    name: str, before: Edition, after: Edition, read: Callable[[Edition], Number | None]
) -> Iterator[Change]:
    """Yield a number of two editions; nothing if the number is unknown for both."""
    change = Change(name=name, before=read(before), after=read(after))
    if change.before is not None or change.after is not None:
        yield change


def read_ndcg_number(edition: Edition) -> Number | None:
    """Return the NDCG@25 of the edition's model, with its interval; None if it is not known."""
    if edition.ndcg is None:
        return None
    tested = None if edition.groups is None else edition.groups.tested
    return Number.of_estimate(edition.ndcg, "score", tested)


def read_popular_ndcg_number(edition: Edition) -> Number | None:
    """Return the NDCG@25 of popular items, with its interval; None if it is not known."""
    popularity = edition.measured_popularity
    if popularity is None or popularity.groups.mean is None:
        return None
    return Number.of_estimate(popularity.groups.mean, "score", popularity.groups.tested)


def _read_coverage(edition: Edition) -> Number | None:
    value = edition.metrics.get(COVERAGE)
    return None if value is None else Number(value=value, unit="share")


def _count_subjects(edition: Edition) -> Number:
    return Number(value=edition.counts.subjects)


def _read_cost(edition: Edition) -> Number:
    return Number(value=edition.cost_usd, unit="usd")


def _read_inference_cost(edition: Edition) -> Number | None:
    cost = edition.inference_cost_usd
    return None if cost is None else Number(value=cost, unit="usd")


def _compare_data(before: DataCounts | None, after: DataCounts | None) -> Iterator[Change]:
    """Yield the amounts of data, and other differences in the data.

    Yields nothing if the data are the same, or not known for one edition.
    """
    if before is None or after is None or before == after:
        return
    for name in ("interactions", "users", "items"):
        old, new = (Number(value=getattr(counts, name)) for counts in (before, after))
        yield Change(name=name, before=old, after=new)
    other_changes = [
        Change(name="first day", before=before.first_day, after=after.first_day),
        Change(name="last day", before=before.last_day, after=after.last_day),
        *_compare_events(before, after),
        Change(
            name="mean event value",
            before=_read_amount(before.mean_value),
            after=_read_amount(after.mean_value),
        ),
        Change(
            name="share of the heaviest user",
            before=Number(value=before.heaviest_share, unit="share"),
            after=Number(value=after.heaviest_share, unit="share"),
        ),
    ]
    yield from (change for change in other_changes if change.before != change.after)
    for name, number in (("new items", after.new_items), ("vanished items", after.vanished_items)):
        if number:
            yield Change(name=name, before="", after=Number(value=number))


def _compare_events(before: DataCounts, after: DataCounts) -> Iterator[Change]:
    """Yield the share of each type of events, if there are several types."""
    events = sorted({*before.events, *after.events})
    if len(events) < 2:
        return
    for event in events:
        old, new = (
            Number(value=counts.events.get(event, 0.0), unit="share") for counts in (before, after)
        )
        yield Change(name=f"events of type {event}", before=old, after=new)


def _read_amount(value: float | None) -> Number | None:
    return None if value is None else Number(value=value, unit="amount")


def _read_rows(lists: pl.LazyFrame, users: pl.Series) -> pl.DataFrame:
    """Return the user_id and item_id of each row of the users' lists."""
    user_ids = users.alias("user_id").to_frame().lazy()
    rows = lists.select("user_id", "item_id").join(user_ids, on="user_id", how="semi")
    return rows.collect(engine="streaming")


def _read_titles(tables: Sequence[pl.LazyFrame], items: pl.Series) -> dict[str, str]:
    """Return the titles of the items, as far as the lists have titles.

    tables: the lists, the oldest first. The newest title of an item is returned.
    """
    titles: dict[str, str] = {}
    for lists in tables:
        if "title" in lists.collect_schema():
            rows = lists.filter(pl.col("item_id").is_in(items.implode()))
            named = rows.group_by("item_id").agg(pl.col("title").first())
            titles |= dict(named.drop_nulls().collect(engine="streaming").iter_rows())
    return titles


def _name_items(shifts: pl.DataFrame, titles: Mapping[str, str]) -> Iterator[ItemChange]:
    for item, before, after in shifts.select("item_id", "before", "after").iter_rows():
        yield ItemChange(item=item, title=titles.get(item), before=before, after=after)


def _compare_lists(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each user with two lists: kept and is_same.

    kept is the share of the newer list's items that are in the older list. is_same is whether both
    lists have the same items.
    """
    items_in_both = old.join(new, on=["user_id", "item_id"], how="semi")
    counts = [
        frame.group_by("user_id").agg(pl.len().cast(pl.Float64).alias(name))
        for name, frame in (("old", old), ("new", new), ("both", items_in_both))
    ]
    table = counts[0].join(counts[1], on="user_id").join(counts[2], on="user_id", how="left")
    both = pl.col("both").fill_null(0)
    is_same = (both == pl.col("old")) & (both == pl.col("new"))
    return table.select(kept=both / pl.col("new"), is_same=is_same)


def _count_items(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Return the number of lists with each item: item_id, before and after.

    The item that gained the most lists comes first.
    """
    before, after = (
        rows.group_by("item_id").agg(pl.len().cast(pl.Int64).alias(name))
        for rows, name in ((old, "before"), (new, "after"))
    )
    return (
        after.join(before, on="item_id", how="full", coalesce=True)
        .with_columns(pl.col("after", "before").fill_null(0))
        .sort(pl.col("after") - pl.col("before"), "item_id", descending=[True, False])
    )
