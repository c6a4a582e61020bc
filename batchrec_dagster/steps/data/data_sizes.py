"""Comparison of the data's size with the size of the data behind the published lists.

If half of a file is missing, the other half can still be read, and a model would learn from it.
So each edition keeps these numbers: the rows, users, items and events of each type, and the rows
with a value in each column. An asset that reads a source compares its own numbers with the
edition's before anything is imported, trained or published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel

from batchrec_dagster.config import Pipeline
from batchrec_dagster.editions.edition import Edition, Finding, Numbers
from batchrec_dagster.personalize.measurements import join_words
from batchrec_dagster.steps.context import StepContext, explain_publishing_anyway
from batchrec_dagster.steps.data.raw_files import (
    CopiedFile,
    CopyResult,
    Inspect,
    RawRecord,
    RawSource,
    copy_raw,
)
from batchrec_dagster.steps.findings import PUBLISHED_ANYWAY, require_passed
from batchrec_dagster.steps.records import Result
from batchrec_dagster.steps.thresholds import FILLED_SHARE, LEAST_EVENTS, SPARSE_SHARE
from batchrec_dagster.storage.records import load

Part = Literal["interactions", "items", "users"]
"""A part of the data with its own source."""

# The prefixes of the names of the settings that decide how many rows and values a part has.
SETTINGS_OF_PART: Mapping[Part, tuple[str, ...]] = {
    "interactions": ("ratings.", "interactions."),
    "items": ("items.",),
    "users": ("users.",),
}
# The name of the check that `check_not_shrunk` makes.
NOT_SHRUNK = "not_shrunk"
# A message names at most this many changed settings.
MOST_NAMED = 3


class DataSize(BaseModel, frozen=True):
    """The size of a part of the data."""

    rows: int
    distinct: Mapping[str, int] = {}
    """The numbers of distinct ids, by kind, such as users."""
    events: Mapping[str, int] = {}
    """The number of rows of each event type."""
    values: Mapping[str, int] = {}
    """The number of rows with a value, by column. Columns that are always filled are left out."""


class _Measured(BaseModel):
    """The part of the record of the interactions that holds their size."""

    size: DataSize


RawAttributes = RawRecord[DataSize]
"""The record of the copied file of items or users, with the size of its data."""


def collect_sizes(step: StepContext) -> dict[str, Any]:
    """Return the recorded sizes of the data, by part, for an edition's metadata.

    A part without a record is missing. Raises UserError.
    """
    store = step.storage.store
    sizes: dict[Part, DataSize | None] = {}
    for part in list_parts(step.pipeline):
        if part == "interactions":
            measured = load(store, step.files.record_uri(part), _Measured)
            sizes[part] = measured.size if measured is not None else None
        else:
            raw = load(store, step.files.record_uri(f"raw_{part}"), RawAttributes)
            sizes[part] = raw.seen if raw is not None else None
    return {part: size.model_dump() for part, size in sizes.items() if size is not None}


def list_parts(pipeline: Pipeline) -> list[Part]:
    """Return the parts of the data that the pipeline declares."""
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
    """The name of the list; empty if the pipeline has only one list."""

    @property
    def name(self) -> str:
        """The edition's name in messages."""
        of_list = f" of {self.list_name}" if self.list_name else ""
        return f"edition {self.edition.number}{of_list}"


@dataclass(frozen=True)
class SizeComparison:
    """A comparison of a part of the data with the published edition."""

    step: StepContext
    part: Part
    publish_anyway: bool = False
    """Whether this run goes on even if much of the data is missing."""

    @cached_property
    def _published(self) -> _PublishedEdition | None:
        """The newest live edition among all lists of users; None if nothing is published."""
        editions = []
        for published in self.step.pipeline.user_lists:
            files = self.step.files_of(published)
            edition = files.editions.live()
            if edition is not None:
                editions.append(_PublishedEdition(edition, published.name))
        return max(editions, key=lambda published: published.edition.made_at, default=None)

    @cached_property
    def obstacle(self) -> str | None:
        """The reason, in words, why the part cannot be compared; None if it can be compared.

        Raises UserError.
        """
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
        """Yield the names of settings that decide the part's size and changed since the edition."""
        old, new = edition.settings, self.step.pipeline.deciding_settings
        for name in sorted({*old, *new}):
            if name.startswith(SETTINGS_OF_PART[self.part]) and old.get(name) != new.get(name):
                yield name

    def check_stored(self) -> Finding:
        """Read the recorded size of the part, and check it with `check`.

        Raises UserError.
        """
        size = collect_sizes(self.step)[self.part]
        return self.check(DataSize.model_validate(size))

    def check(self, size: DataSize) -> Finding:
        """Check that the part is nearly as large as in the published edition.

        If the part cannot be compared, the check passes and says why. Raises UserError.
        """
        pipeline, published = self.step.pipeline, self._published
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
    step: StepContext,
    raw: RawSource,
    inspected_with: Mapping[str, str],
    inspect: Inspect[DataSize],
    comparison: SizeComparison,
) -> tuple[Result[RawAttributes], CopyResult]:
    """Copy a file of items or users as `copy_raw` does, and check that it has not shrunk.

    If much of the data is missing, the record of the last run stays, so that no step uses the
    shrunken file. Raises UserError, and Refused if a check blocks.
    """

    def inspect_and_compare(copies: Sequence[CopiedFile]) -> tuple[Finding, DataSize]:
        check, size = inspect(copies)
        require_passed([check, comparison.check(size)])
        return check, size

    result, copy_result = copy_raw(step, raw, RawAttributes, inspected_with, inspect_and_compare)
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
    """Check that a part of the data is nearly as large as in the published edition.

    size: the part's size now.
    published: the part's size in the published edition.
    edition: the name of the edition in messages.
    max_shrink: the share that a number may have lost since the edition.
    how_to_publish_anyway: instructions for a run that publishes anyway, for the message.
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
    """Yield a text for each number that fell by more than `max_shrink`.

    Event types with fewer than LEAST_EVENTS rows in the published edition are not compared.
    """
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
    """Yield a text for each column that lost too many of its values."""
    for name, old_count in published.values.items():
        if name not in size.values:
            continue
        old, new = (
            _compute_share(old_count, published.rows),
            _compute_share(size.values[name], size.rows),
        )
        least = (1 - max_shrink) * old
        if old < FILLED_SHARE.value:
            # If few rows have a value, the share of these rows varies from day to day. So the
            # column counts as emptier only if all its values are gone. A column with values in a
            # smaller share of rows than SPARSE_SHARE never counts as emptier.
            least = 0.0 if old < SPARSE_SHARE.value or new or max_shrink >= 1 else old
        if new < least:
            yield f"rows with a value in {name} fell from {old:.0%} to {new:.0%}"


def _compute_share(count: int, rows: int) -> float:
    return count / rows if rows else 0.0
