"""How much data there is, compared with the data that the published lists were made from.

Half a file is well formed, and a model learns from it. So the number of rows, of users, of items
and of each type of event, and how many rows have a value in each column, are kept with each
edition. An asset that reads a source compares its own with them before anything is imported,
trained or published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel

from batchrec_dagster.config import Pipeline
from batchrec_dagster.personalize.measurements import join_words
from batchrec_dagster.steps.checks import PUBLISHED_ANYWAY, require_passed
from batchrec_dagster.steps.raw_files import (
    CopiedFile,
    CopyResult,
    Inspect,
    RawRecord,
    RawSource,
    copy_raw,
)
from batchrec_dagster.steps.run_facts import explain_publishing_anyway
from batchrec_dagster.steps.thresholds import FILLED_SHARE, LEAST_EVENTS, SPARSE_SHARE
from batchrec_dagster.steps.work import Result, Work
from batchrec_dagster.storage.edition import Edition, Finding, Numbers
from batchrec_dagster.storage.records import load

Part = Literal["interactions", "items", "users"]
"""A part of the data that has a source of its own."""

# The settings that decide how much there is of a part.
SETTINGS_OF_PART: Mapping[Part, tuple[str, ...]] = {
    "interactions": ("ratings.", "interactions."),
    "items": ("items.",),
    "users": ("users.",),
}
# The name of the check.
NOT_SHRUNK = "not_shrunk"
# A message names this many changed settings.
MOST_NAMED = 3


class DataSize(BaseModel, frozen=True):
    """How much there is of a part of the data."""

    rows: int
    distinct: Mapping[str, int] = {}
    """How many different values the rows have, by what they are, such as users."""
    events: Mapping[str, int] = {}
    """How many rows there are of each event type."""
    values: Mapping[str, int] = {}
    """How many rows have a value, by column. Columns that every row has a value in are left out."""


class _Measured(BaseModel):
    """What the record of the interactions says of their size."""

    size: DataSize


RawAttributes = RawRecord[DataSize]
"""The copied file of items or users, and how much is in it."""


def collect_sizes(work: Work) -> dict[str, Any]:
    """The sizes of all parts of the pipeline's data as they were last read, for an edition's
    metadata. Raises UserError."""
    store = work.storage.store
    sizes: dict[Part, DataSize | None] = {}
    for part in list_parts(work.pipeline):
        if part == "interactions":
            measured = load(store, work.files.record_uri(part), _Measured)
            sizes[part] = measured.size if measured is not None else None
        else:
            raw = load(store, work.files.record_uri(f"raw_{part}"), RawAttributes)
            sizes[part] = raw.seen if raw is not None else None
    return {part: size.model_dump() for part, size in sizes.items() if size is not None}


def list_parts(pipeline: Pipeline) -> list[Part]:
    """The parts of the data that the pipeline declares."""
    parts: list[Part] = ["interactions"]
    if pipeline.items is not None:
        parts.append("items")
    if pipeline.users is not None:
        parts.append("users")
    return parts


@dataclass(frozen=True)
class _PublishedEdition:
    """The published edition of a list."""

    edition: Edition
    list_name: str
    """The name of its list; empty if it is the only one."""

    @property
    def name(self) -> str:
        """What messages call it."""
        of_list = f" of {self.list_name}" if self.list_name else ""
        return f"edition {self.edition.number}{of_list}"


@dataclass(frozen=True)
class SizeComparison:
    """Compares a part of the data with that of the published edition."""

    work: Work
    part: Part
    publish_anyway: bool = False
    """Whether this run goes on although much is missing."""

    @cached_property
    def _published(self) -> _PublishedEdition | None:
        """The newest live edition of any list; None if there is none."""
        editions = []
        for published in self.work.pipeline.user_lists:
            files = self.work.files_of(published)
            edition = files.editions.live()
            if edition is not None:
                editions.append(_PublishedEdition(edition, published.name))
        return max(editions, key=lambda published: published.edition.made_at, default=None)

    @cached_property
    def obstacle(self) -> str | None:
        """Why the part cannot be compared, in words; None if it can be. Raises UserError."""
        published = self._published
        if published is None:
            return "nothing is published yet"
        edition, name = published.edition, published.name
        if self.part not in edition.sizes:
            return f"{name} does not have its numbers"
        changed = [*self._find_changed_settings(edition)]
        if not changed:
            return None
        named = ", ".join(changed[:MOST_NAMED])
        more = len(changed) - MOST_NAMED
        return f"{named}{f' and {more} more' if more > 0 else ''} changed since {name}"

    def _find_changed_settings(self, edition: Edition) -> Iterator[str]:
        """The settings that decide how much there is, and are not those of the edition."""
        old, new = edition.settings, self.work.pipeline.deciding_settings
        for name in sorted({*old, *new}):
            if name.startswith(SETTINGS_OF_PART[self.part]) and old.get(name) != new.get(name):
                yield name

    def check_stored(self) -> Finding:
        """The same as `check`, of the part as it was last read. Raises UserError."""
        size = collect_sizes(self.work)[self.part]
        return self.check(DataSize.model_validate(size))

    def check(self, size: DataSize) -> Finding:
        """Whether the part is nearly as large as that of the published edition.

        Raises UserError.
        """
        pipeline, published = self.work.pipeline, self._published
        if self.obstacle is not None or published is None:
            text = f"{_describe_size(self.part, size)}; not compared: {self.obstacle}"
            return Finding(NOT_SHRUNK, "good", text, numbers={"rows": size.rows})
        published_size = DataSize.model_validate(published.edition.sizes[self.part])
        return check_not_shrunk(
            self.part,
            size,
            published_size,
            published.name,
            pipeline.gate.max_shrink,
            how_to_publish_anyway=explain_publishing_anyway(pipeline),
            publish_anyway=self.publish_anyway,
        )


def copy_attributes(
    work: Work,
    raw: RawSource,
    inspected_with: Mapping[str, str],
    inspect: Inspect[DataSize],
    comparison: SizeComparison,
) -> tuple[Result[RawAttributes], CopyResult]:
    """As `copy_raw`, for a file of items or users, which is compared with the published lists'.

    If much is missing, the last run's record stays, so that nobody takes the file for that of now.
    """

    def inspect_and_compare(copies: Sequence[CopiedFile]) -> tuple[Finding, DataSize]:
        check, size = inspect(copies)
        require_passed([check, comparison.check(size)])
        return check, size

    result, copy_result = copy_raw(work, raw, RawAttributes, inspected_with, inspect_and_compare)
    return result.with_check(comparison.check(result.record.seen)), copy_result


def check_not_shrunk(
    part: Part,
    size: DataSize,
    published: DataSize,
    edition: str,
    max_shrink: float,
    *,
    how_to_publish_anyway: str,
    publish_anyway: bool = False,
) -> Finding:
    """Whether a part of the data is nearly as large as that of the published edition.

    edition: what messages call the edition.
    max_shrink: by which share it may be smaller.
    how_to_publish_anyway: how to start a run that publishes anyway.
    publish_anyway: whether this run publishes anyway.
    """
    losses = [
        *_list_smaller_counts(part, size, published, max_shrink),
        *_list_emptier_columns(size, published, max_shrink),
    ]
    numbers: Numbers = {"rows": size.rows, "published_rows": published.rows}
    if not losses:
        text = f"{_describe_size(part, size)}, compared with {published.rows:,} in {edition}"
        return Finding(NOT_SHRUNK, "good", text, numbers=numbers)
    text = f"much is missing that {edition} was made from: {join_words(losses)}"
    if publish_anyway:
        text += "; published anyway (--publish-anyway)"
        headline = "much of the data is missing, and was published anyway"
        return Finding(NOT_SHRUNK, "watch", text, headline, {**numbers, PUBLISHED_ANYWAY: 1})
    text += (
        f". gate.max_shrink allows {max_shrink:.0%}. Nothing was imported, and the published lists"
        f" stay. Check the source and run again, or publish anyway: {how_to_publish_anyway}"
    )
    return Finding(NOT_SHRUNK, "refuse", text, numbers=numbers)


def _describe_size(part: Part, size: DataSize) -> str:
    counts = [
        f"{size.rows:,} {part}",
        *(f"{size.distinct[name]:,} {name}" for name in size.distinct),
    ]
    return ", ".join(counts)


def _list_smaller_counts(
    part: Part, size: DataSize, published: DataSize, max_shrink: float
) -> Iterator[str]:
    """The numbers that are too much smaller, in words."""
    old = {part: published.rows, **published.distinct}
    new = {part: size.rows, **size.distinct}
    for event_type, count in published.events.items():
        if count >= LEAST_EVENTS.value:
            name = f"{part} of the type {event_type}"
            old[name], new[name] = count, size.events.get(event_type, 0)
    for name in old:
        if name in new and new[name] < (1 - max_shrink) * old[name]:
            share = 1 - new[name] / old[name]
            yield f"{name} fell from {old[name]:,} to {new[name]:,} ({share:.0%} fewer)"


def _list_emptier_columns(size: DataSize, published: DataSize, max_shrink: float) -> Iterator[str]:
    """The columns of which too many values are gone, in words."""
    for name, old_count in published.values.items():
        if name not in size.values:
            continue
        old, new = (
            _compute_share(old_count, published.rows),
            _compute_share(size.values[name], size.rows),
        )
        least = (1 - max_shrink) * old
        if old < FILLED_SHARE.value:
            # Only whether there are any values at all.
            least = 0.0 if old < SPARSE_SHARE.value or new or max_shrink >= 1 else old
        if new < least:
            yield f"rows with a value in {name} fell from {old:.0%} to {new:.0%}"


def _compute_share(count: int, rows: int) -> float:
    return count / rows if rows else 0.0
