"""What changed in the data, and between two editions: settings, data, metrics, and the lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import polars as pl

from batchrec_dagster.personalize.evidence import ALL, COVERAGE, NDCG, Evidence, MetricEstimate
from batchrec_dagster.storage.published_table import Edition

# Relative changes of a number, and shifts of an event type's share, that the verdict names.
MUCH, SHIFT = 0.3, 0.1


@dataclass(frozen=True)
class DataFacts:
    """The interactions: their numbers, and the days of the first and the last; `first` is empty if
    they have no times.

    events: the share of each event type; mean_value: of the event values; both where they have
    the column.
    """

    interactions: int
    users: int
    items: int
    first: str
    last: str
    events: Mapping[str, float] = field(default_factory=dict)
    mean_value: float | None = None

    @property
    def numbers(self) -> dict[str, float]:
        return {"interactions": self.interactions, "users": self.users, "items": self.items}


@dataclass(frozen=True)
class Drift:
    """The data before and now, and how many items are new and how many have vanished."""

    before: DataFacts
    now: DataFacts
    new_items: int
    vanished_items: int

    @property
    def large_changes(self) -> list[str]:
        """What has changed much, in words."""
        return [*self._find_large_changes()]

    def _find_large_changes(self) -> Iterator[str]:
        for name, now in self.now.numbers.items():
            change = now / max(1, self.before.numbers[name]) - 1
            if abs(change) > MUCH:
                yield f"{abs(change):.0%} {'more' if change > 0 else 'fewer'} {name}"
        if self.vanished_items > MUCH * self.before.items:
            yield f"{self.vanished_items:,} of {self.before.items:,} items vanished"
        # Where a setting, such as exclude_seen, adds or drops the column, one of them is empty.
        events = [self.before.events, self.now.events]
        for event in {**events[0], **events[1]} if all(events) else ():
            shares = [of.get(event, 0.0) for of in events]
            if abs(shares[1] - shares[0]) > SHIFT:
                yield f"{event} is {shares[1]:.0%} of the events, it was {shares[0]:.0%}"
        was, mean = self.before.mean_value, self.now.mean_value
        if was and mean is not None and abs(mean / was - 1) > MUCH:
            yield f"the mean value is {mean:.4g}, it was {was:.4g}"


@dataclass(frozen=True)
class RunInputs:
    """The data and items of the newest run, and their drift: what the next run compares with.

    items: the ids, sorted.
    """

    data: DataFacts
    items: pl.Series
    drift: Drift | None = None

    def add_drift(self, before: RunInputs | None) -> RunInputs:
        """With the drift since `before`; the same data keep the drift that they had."""
        if before is None:
            return self
        if before.data == self.data and before.items.equals(self.items):
            return replace(self, drift=before.drift)
        items_kept = int(self.items.is_in(before.items.implode()).sum())
        new, vanished = len(self.items) - items_kept, len(before.items) - items_kept
        return replace(self, drift=Drift(before.data, self.data, new, vanished))

    @property
    def about(self) -> dict[str, Any]:
        """Everything but the items, for the metadata of a file."""
        drift = self.drift
        before = None if drift is None else asdict(drift.before)
        changes = (
            {} if drift is None else {"new": drift.new_items, "vanished": drift.vanished_items}
        )
        return {"data": asdict(self.data), "before": before, **changes}

    @classmethod
    def read(cls, about: Mapping[str, Any], items: pl.Series) -> Self:
        """From `about` and the items of a file."""
        data, before = DataFacts(**about["data"]), about["before"]
        drift = before and Drift(DataFacts(**before), data, about["new"], about["vanished"])
        return cls(data, items, drift)


# Users whose lists are compared; of more, an even sample.
MOST_COMPARED = 50_000
MOST_SHIFTS = 10
# The settings that decide which interactions the metrics are measured on.
MEASURED_BY = ("ratings.", "interactions.")
# What says, in an edition's metadata, which interactions were imported and trained on.
DATA = ("data_version", "trained_on")


@dataclass(frozen=True)
class SettingChange:
    """A setting or number that differs; None: the default, or unknown."""

    name: str
    before: Any
    after: Any

    @property
    def text(self) -> str:
        """As `interactions.min_rating changed from 3.5 to 4.0`."""
        before, after = (
            "its default" if value is None else format_setting(value)
            for value in (self.before, self.after)
        )
        return f"{self.name} changed from {before} to {after}"


def format_setting(value: Any) -> str:
    """For a cell of a table, which is narrow on a phone."""
    if value is None:
        return "default"
    return f"{value:g}" if isinstance(value, float) else str(value)


def find_changed_settings(before: Edition, after: Edition) -> list[SettingChange] | None:
    """The settings that differ; None if an edition does not know its settings."""
    if "settings" not in before.about or "settings" not in after.about:
        return None
    old, new = before.about["settings"], after.about["settings"]
    return [
        SettingChange(name, old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def explain_incomparability(before: Edition, after: Edition) -> list[str]:
    """Why the metrics of two editions cannot be compared, in words; empty if they can, as on the
    same interactions, however the settings are written."""
    old, new = ([of.about.get(key) for key in DATA] for of in (before, after))
    if old == new != [None, None]:
        return []
    changes = find_changed_settings(before, after)
    if changes is None:
        are_same_settings = before.about.get("measured_on") == after.about.get("measured_on")
        return [] if are_same_settings else ["the settings of the interactions changed"]
    return [change.text for change in changes if change.name.startswith(MEASURED_BY)]


def read_ndcg(edition: Edition) -> MetricEstimate | None:
    """Its NDCG@25, with an interval where one is known; None if it does not say."""
    for evidence in Evidence.read(edition.about.get("evidence", {})):
        if evidence.group == ALL:
            return evidence.ndcg if evidence.users else None
    ndcg = edition.about.get("metrics", {}).get(NDCG)
    return None if ndcg is None else MetricEstimate(ndcg)


@dataclass(frozen=True)
class ItemShift:
    """An item, and how many of the compared lists had it before and have it now."""

    item: str
    title: str | None
    before: int
    after: int


@dataclass(frozen=True)
class EditionDiff:
    """From an older edition to a newer one.

    settings: None if unknown; data, metrics: by name; comparable: whether the metrics are;
    overlap: the mean share of a user's newer list that was in their older one, None without users
    in both; compared: how many users that is; same_lists: of them those whose list has the same
    items; gained, lost: users in one edition alone; risers, fallers: items by the change of their
    number of lists.
    """

    before: int
    after: int
    settings: list[SettingChange] | None
    data: list[SettingChange]
    metrics: list[SettingChange]
    comparable: bool
    overlap: float | None
    compared: int
    same_lists: int
    gained: int
    lost: int
    risers: list[ItemShift]
    fallers: list[ItemShift]


def compare_editions(
    before: tuple[Edition, pl.LazyFrame, DataFacts | None],
    after: tuple[Edition, pl.LazyFrame, DataFacts | None],
    most_users: int = MOST_COMPARED,
) -> EditionDiff:
    """Compare two editions: each with its table (user_id, rank, item_id, and title where there are
    titles) and, where known, its data."""
    (old, old_lists, old_data), (new, new_lists, new_data) = before, after
    users = pl.col("user_id").unique()
    old_users, new_users = (
        frame.to_series()
        for frame in pl.collect_all(
            [old_lists.select(users), new_lists.select(users)], engine="streaming"
        )
    )
    users_in_both = new_users.filter(new_users.is_in(old_users.implode())).sort()
    users_compared = users_in_both.gather_every(max(1, -(-len(users_in_both) // most_users)))
    older_lists, newer_lists = pl.collect_all(
        [_select_lists(old_lists, users_compared), _select_lists(new_lists, users_compared)],
        engine="streaming",
    )
    overlaps, shifts = (
        _measure_overlaps(older_lists, newer_lists),
        _count_shifts(older_lists, newer_lists),
    )
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
        risers=[shift for shift in shifts if shift.after > shift.before][:MOST_SHIFTS],
        fallers=[shift for shift in reversed(shifts) if shift.after < shift.before][:MOST_SHIFTS],
    )


def _select_lists(lists: pl.LazyFrame, users: pl.Series) -> pl.LazyFrame:
    """user_id, item_id, title: the users' lists; a title is null where there are none."""
    has_titles = "title" in lists.collect_schema().names()
    title = pl.col("title") if has_titles else pl.lit(None, pl.String).alias("title")
    user_ids = users.alias("user_id").to_frame().lazy()
    return lists.select("user_id", "item_id", title).join(user_ids, on="user_id", how="semi")


def _measure_overlaps(old: pl.DataFrame, new: pl.DataFrame) -> pl.Series:
    """For each user the share of the longer of their lists that is in both."""
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
    """The items of the lists, those that gained most lists first."""
    before, after = (
        frame.group_by("item_id").agg(pl.len().cast(pl.Int64).alias(name), pl.col("title").first())
        for frame, name in ((old, "before"), (new, "after"))
    )
    table = (
        after.join(before, on="item_id", how="full", coalesce=True)
        .with_columns(pl.col("after", "before").fill_null(0))
        .sort(pl.col("after") - pl.col("before"), "item_id", descending=[True, False])
        .select("item_id", pl.coalesce("title", "title_right"), "before", "after")
    )
    return [ItemShift(*row) for row in table.iter_rows()]


def _find_changed_data(before: DataFacts | None, after: DataFacts | None) -> list[SettingChange]:
    if before is None or after is None:
        return []
    old, new = asdict(before), asdict(after)
    return [SettingChange(name, old[name], new[name]) for name in old if old[name] != new[name]]


def _find_changed_metrics(before: Edition, after: Edition) -> Iterator[SettingChange]:
    old: Mapping[str, float] = before.about.get("metrics", {})
    new: Mapping[str, float] = after.about.get("metrics", {})
    for name, key in (("NDCG@25", NDCG), ("coverage", COVERAGE)):
        if key in old and key in new and old[key] != new[key]:
            yield SettingChange(name, old[key], new[key])
