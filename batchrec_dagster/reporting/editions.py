"""What changed between two editions: settings, data, metrics, and the lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from batchrec_dagster.personalize.measurements import COVERAGE, NDCG, join_events, name_ndcg
from batchrec_dagster.reporting.drift import DataFacts
from batchrec_dagster.storage.edition import Edition

# The lists of this many users are compared. If there are more, they are an even sample.
MOST_COMPARED = 50_000
# This many items that rose, and that fell, are shown.
MOST_SHIFTS = 10
# The settings that decide which interactions the metrics are measured on.
MEASURED_BY = ("ratings.", "interactions.")
# The fields of an edition that say which interactions were imported and trained on.
DATA_FIELDS = ("data_version", "trained_on")


@dataclass(frozen=True)
class SettingChange:
    """A setting or a number that differs between two editions."""

    name: str
    before: Any
    """The older value; None for the default, or if it is unknown."""
    after: Any
    """The newer value; None for the default, or if it is unknown."""

    @property
    def text(self) -> str:
        """The change in words, such as `interactions.min_rating changed from 3.5 to 4.0`."""
        before = "its default" if self.before is None else format_setting(self.before)
        after = "its default" if self.after is None else format_setting(self.after)
        return f"{self.name} changed from {before} to {after}"


def format_setting(value: Any) -> str:
    """The value for a cell of a table, which is narrow on a phone."""
    if value is None:
        return "default"
    return f"{value:g}" if isinstance(value, float) else str(value)


def find_changed_settings(before: Edition, after: Edition) -> list[SettingChange]:
    """The settings that differ."""
    old, new = before.settings, after.settings
    return [
        SettingChange(name, old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def explain_incomparability(before: Edition, after: Edition) -> list[str]:
    """Why the metrics of two editions cannot be compared, in words; empty if they can.

    They can be compared if they were measured on the same interactions, however the settings are
    written.
    """
    old_events, new_events = (read_success(edition) for edition in (before, after))
    if old_events != new_events:
        return [SettingChange("solution.success", old_events, new_events).text]
    old_data = [getattr(before, name) for name in DATA_FIELDS]
    new_data = [getattr(after, name) for name in DATA_FIELDS]
    if old_data == new_data:
        return []
    changes = find_changed_settings(before, after)
    return [change.text for change in changes if change.name.startswith(MEASURED_BY)]


def read_success(edition: Edition) -> str | None:
    """The types of events that the edition's metrics count alone; None if they count all.

    They are the same in any order and case.
    """
    events = edition.success
    return join_events(sorted(name.lower() for name in events)) or None


@dataclass(frozen=True)
class ItemShift:
    """An item whose place in the lists changed."""

    item: str
    title: str | None
    before: int
    """How many of the compared lists had it in the older edition."""
    after: int
    """How many of the compared lists have it in the newer edition."""


@dataclass(frozen=True)
class EditionDiff:
    """What changed from an older edition to a newer one."""

    before: int
    """The number of the older edition."""
    after: int
    """The number of the newer edition."""
    settings: list[SettingChange]
    """The settings that changed."""
    data: list[SettingChange]
    """The numbers of the interactions that changed."""
    metrics: list[SettingChange]
    """The metrics that changed."""
    comparable: bool
    """Whether the metrics can be compared."""
    overlap: float | None
    """The mean share of a user's list that is in both; None if no user has two lists."""
    compared: int
    """How many users' lists were compared."""
    same_lists: int
    """How many of the compared lists have the same items."""
    gained: int
    """Users who have a list only in the newer edition."""
    lost: int
    """Users who have a list only in the older edition."""
    risers: list[ItemShift]
    """The items whose number of lists rose most."""
    fallers: list[ItemShift]
    """The items whose number of lists fell most."""

    @property
    def summary(self) -> str:
        """What changed in the lists, in a sentence."""
        people = f"{self.gained:,} new people, {self.lost:,} without a list"
        if self.overlap is None:
            return people
        return f"{self.overlap:.0%} of a person's items were in their list before; {people}"


def compare_editions(
    before: tuple[Edition, pl.LazyFrame, DataFacts | None],
    after: tuple[Edition, pl.LazyFrame, DataFacts | None],
    most_users: int = MOST_COMPARED,
) -> EditionDiff:
    """What changed from the first edition to the second.

    Each comes with its table and, if they are known, the numbers of its data. The columns of the
    table are user_id, rank, item_id and, if there are titles, title. At most `most_users` users'
    lists are compared.
    """
    old, old_lists, old_data = before
    new, new_lists, new_data = after
    users = pl.col("user_id").unique()
    old_users, new_users = (
        frame.to_series()
        for frame in pl.collect_all(
            [old_lists.select(users), new_lists.select(users)], engine="streaming"
        )
    )
    users_in_both = new_users.filter(new_users.is_in(old_users.implode())).sort()
    step = max(1, -(-len(users_in_both) // most_users))
    users_compared = users_in_both.gather_every(step)
    old_rows, new_rows = pl.collect_all(
        [_select_lists(old_lists, users_compared), _select_lists(new_lists, users_compared)],
        engine="streaming",
    )
    overlaps = _measure_overlaps(old_rows, new_rows)
    shifts = _count_shifts(old_rows, new_rows)
    risers = [shift for shift in shifts if shift.after > shift.before]
    fallers = [shift for shift in reversed(shifts) if shift.after < shift.before]
    return EditionDiff(
        before=old.number,
        after=new.number,
        settings=find_changed_settings(old, new),
        data=_find_changed_data(old_data, new_data),
        metrics=[*_find_changed_metrics(old, new)],
        comparable=not explain_incomparability(old, new),
        overlap=float(overlaps.mean()) if len(overlaps) else None,  # type: ignore[arg-type]
        compared=len(users_compared),
        same_lists=int((overlaps == 1).sum()),
        gained=len(new_users) - len(users_in_both),
        lost=len(old_users) - len(users_in_both),
        risers=risers[:MOST_SHIFTS],
        fallers=fallers[:MOST_SHIFTS],
    )


def _select_lists(lists: pl.LazyFrame, users: pl.Series) -> pl.LazyFrame:
    """The users' lists: user_id, item_id and title, which is null if there are no titles."""
    has_titles = "title" in lists.collect_schema().names()
    title = pl.col("title") if has_titles else pl.lit(None, pl.String).alias("title")
    user_ids = users.alias("user_id").to_frame().lazy()
    return lists.select("user_id", "item_id", title).join(user_ids, on="user_id", how="semi")


def _measure_overlaps(old: pl.DataFrame, new: pl.DataFrame) -> pl.Series:
    """For each user, the share of the longer of the two lists that is in both."""
    entries = pl.concat([old.select("user_id", "item_id"), new.select("user_id", "item_id")])
    items_in_both = (
        entries.filter(entries.is_duplicated()).group_by("user_id").agg(both=pl.len() / 2)
    )
    lengths = [frame.group_by("user_id").agg(length=pl.len()) for frame in (old, new)]
    longer = pl.concat(lengths).group_by("user_id").agg(longer=pl.col("length").max())
    return longer.join(items_in_both, on="user_id", how="left").select(
        pl.col("both").fill_null(0) / pl.col("longer")
    )["both"]


def _count_shifts(old: pl.DataFrame, new: pl.DataFrame) -> list[ItemShift]:
    """All items of the lists, in order of how many lists they gained."""
    before = _count_lists(old, "before")
    after = _count_lists(new, "after")
    table = (
        after.join(before, on="item_id", how="full", coalesce=True)
        .with_columns(pl.col("after", "before").fill_null(0))
        .sort(pl.col("after") - pl.col("before"), "item_id", descending=[True, False])
        .select("item_id", pl.coalesce("title", "title_right"), "before", "after")
    )
    return [ItemShift(*row) for row in table.iter_rows()]


def _count_lists(lists: pl.DataFrame, name: str) -> pl.DataFrame:
    """How many lists have each item, in a column of this name, and the item's title."""
    number = pl.len().cast(pl.Int64).alias(name)
    return lists.group_by("item_id").agg(number, pl.col("title").first())


def _find_changed_data(before: DataFacts | None, after: DataFacts | None) -> list[SettingChange]:
    if before is None or after is None:
        return []
    old, new = asdict(before), asdict(after)
    return [SettingChange(name, old[name], new[name]) for name in old if old[name] != new[name]]


def _find_changed_metrics(before: Edition, after: Edition) -> Iterator[SettingChange]:
    old: Mapping[str, float] = before.metrics
    new: Mapping[str, float] = after.metrics
    ndcg_name = name_ndcg(after.success)
    for name, key in ((ndcg_name, NDCG), ("coverage", COVERAGE)):
        if key in old and key in new and old[key] != new[key]:
            yield SettingChange(name, old[key], new[key])
