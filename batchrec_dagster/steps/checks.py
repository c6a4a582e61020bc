"""Verdicts on data and models: what must hold before a step spends money or a table is published.

A check gets plain values and returns its verdict. pipeline/run_step.py reports it to Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchrec_dagster.config.gate import Gate
from batchrec_dagster.errors import Refused
from batchrec_dagster.personalize.evidence import (
    ALL,
    COVERAGE,
    NDCG,
    join_events,
    name_ndcg,
)
from batchrec_dagster.personalize.schemas import (
    MAX_EVENT_TYPES,
    MIN_INTERACTIONS,
    MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS,
    MIN_USERS_WITH_TWO_INTERACTIONS,
)
from batchrec_dagster.preparation.layout import (
    CLOCK_SLACK,
    EXCEL_DAYS,
    NO_TIMES,
    PreparationError,
)
from batchrec_dagster.preparation.rules import BadRows
from batchrec_dagster.storage.edition import Edition, Finding, Level, refuse_unless, watch_unless
from batchrec_dagster.storage.measured_popularity import MeasuredPopularity

if TYPE_CHECKING:
    from batchrec_dagster.steps.records import ModelRecord

# Times before this mean that they were read in the wrong unit.
EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)
# Excel's days up to the year 2173 are smaller numbers than this. Read as seconds, they are times on
# 1 or 2 January 1970.
MAX_EXCEL_DAYS = 100_000

# The name of the check of `check_quality_gate`.
QUALITY_GATE = "quality_gate"


def require_passed(checks: Sequence[Finding]) -> None:
    """Raises Refused if one of the checks blocks."""
    if any(check.blocks for check in checks):
        raise Refused(checks)


# The name of the check of `check_source_without_erased`.
SOURCE_WITHOUT_ERASED = "source_without_erased"


def check_source_without_erased(rows: int, users: int) -> Finding:
    """Whether the source no longer has rows of users who were erased. A failure only warns.

    rows, users: how many rows of how many such users it has.
    """
    finding = "the source has 0 rows of people who were erased"
    if rows:
        people = f"{users:,} erased people" if users > 1 else "one erased person"
        left_out = f"{rows:,} rows of {people}, which were"
        if rows == 1:
            left_out = f"one row of {people}, which was"
        finding = f"the source still has {left_out} left out: erase them there, too"
    numbers: dict[str, int | float] = {"rows": rows, "users": users}
    headline = "the source still has rows of erased people" if rows else ""
    return Finding(SOURCE_WITHOUT_ERASED, watch_unless(not rows), finding, headline, numbers)


def check_enough_interactions(
    rows: int, users: int, users_with_two: int, low_ratings: int = 0
) -> Finding:
    """Whether there are as many interactions and users as Personalize requires for training.

    rows: the number of interactions.
    users_with_two: how many users have two or more interactions.
    low_ratings: how many ratings interactions.min_rating leaves out.
    """
    required_users = max(
        MIN_USERS_WITH_TWO_INTERACTIONS, MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS * users
    )
    passed = rows >= MIN_INTERACTIONS and users_with_two >= required_users
    finding = (
        f"{rows:,} interactions of {users:,} users, {users_with_two:,} of them with two or more"
    )
    if not passed:
        finding += (
            f"; Personalize needs {MIN_INTERACTIONS:,} interactions, and"
            f" {MIN_USERS_WITH_TWO_INTERACTIONS} users (and 1 % of them) with two or more."
            " Provide more data"
        )
        if low_ratings:
            finding += f", or lower interactions.min_rating: {low_ratings:,} ratings are below it"
    return Finding(
        "enough_interactions",
        refuse_unless(passed),
        finding,
        numbers={"interactions": rows, "users": users, "users_with_two_or_more": users_with_two},
    )


def check_few_event_types(count: int, *, has_event_values: bool = False) -> Finding:
    """Whether there are as few distinct event types as Personalize allows.

    count: the number of event types, 0 if there is no such column.
    has_event_values: whether there is the column EVENT_VALUE. Personalize counts it, and
    EVENT_TYPE, as one type each.
    """
    max_types = MAX_EVENT_TYPES - 1 - has_event_values
    passed = count <= max_types
    finding = f"{count:,} event types"
    if not passed:
        finding += (
            f"; Personalize takes at most {max_types} with these columns. Keep fewer with"
            " interactions.filter, or leave out ratings.columns.event_type"
        )
    return Finding(
        "few_event_types", refuse_unless(passed), finding, numbers={"event_types": count}
    )


def check_timestamps_plausible(
    first: int | None, last: int | None, unit: str, now: datetime
) -> Finding:
    """Whether the times of the interactions lie between 1980 and now.

    first, last: the first and the last timestamp in epoch seconds, None if there are none.
    unit: how they were read, a value of ratings.timestamp_unit.
    """
    if first is None or last is None:
        return Finding("timestamps_plausible", "refuse", "there are no interactions")
    if unit == NO_TIMES:
        finding = f"no times (ratings.columns.timestamp: none): every row has {_format_day(first)}"
        return Finding("timestamps_plausible", "good", finding, numbers={"days": 0})
    passed = EARLIEST.timestamp() <= first and last <= now.timestamp() + CLOCK_SLACK
    finding = f"from {_format_day(first)} to {_format_day(last)}, with times in {unit}"
    if not passed:
        likely_unit = "s" if unit == "ms" else "ms"
        if unit == "s" and last < MAX_EXCEL_DAYS:
            likely_unit = EXCEL_DAYS
        finding += (
            f"; expected times between {EARLIEST:%Y} and now. Try ratings.timestamp_unit:"
            f" {likely_unit}, or another column as ratings.columns.timestamp"
        )
    numbers = {"days": (last - first) / 86_400}
    return Finding("timestamps_plausible", refuse_unless(passed), finding, numbers=numbers)


@contextmanager
def refuse_unreadable(name: str) -> Iterator[None]:
    """A block that reads files of which nothing may be readable. Raises Refused for that.

    name: the name of the check of their rows.
    """
    try:
        yield
    except PreparationError as error:
        raise Refused([Finding(name, "refuse", str(error))]) from error


def check_rows_readable(
    name: str, block: str, rows: int, bad: BadRows, on_bad_rows: str
) -> Finding:
    """Whether all rows can be read, or the unreadable ones may be dropped.

    name: the name of the check.
    block: the block of the declaration with the setting on_bad_rows, such as ratings.
    rows: the number of all rows.
    """
    finding = f"{bad.total:,} of {rows:,} rows cannot be read"
    if bad.total:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in bad.counts.items())
        finding += f" ({reasons}); the first: {bad.examples[0]}"
        finding += (
            f"; they are dropped ({block}.on_bad_rows: skip)"
            if on_bad_rows == "skip"
            else f"; fix the file, or drop these rows with {block}.on_bad_rows: skip"
        )
    passed = bad.total < rows and (not bad.total or on_bad_rows == "skip")
    numbers: dict[str, int | float] = {"rows": rows, "bad_rows": bad.total}
    return Finding(name, refuse_unless(passed), finding, numbers=numbers)


def _format_day(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return f"the year {1970 + seconds // 31_556_952:,}"


@dataclass(frozen=True)
class ModelToPublish:
    """A model whose lists would be published, next to the lists that are published now."""

    model: ModelRecord
    measured_on: str
    """A fingerprint of the settings that select the interactions. Only metrics that were measured
    on the same interactions are compared."""
    published: Edition | None
    """The published lists; None if nothing is published."""
    declared_events: Sequence[str] = ()
    """The events that the metrics should count alone, by solution.success."""
    rolled_back: str | None = None
    """Why its lists count as rolled back, in words; None if they do not."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The model's metrics by name; empty if no user was tested."""
        return _select_tested(self.model.metrics, self.model.evidence)

    @property
    def is_published(self) -> bool:
        """Whether the published lists are of this model."""
        arn = self.model.solution_version_arn
        return self.published is not None and self.published.solution_version_arn == arn

    @property
    def is_comparable(self) -> bool:
        """Whether the published lists' model was measured on the same interactions."""
        return self.published is not None and self.published.measured_on == self.measured_on

    def measure(self) -> _Measurements:
        """The numbers that the gate compares."""
        metrics, published, published_ndcg = self.metrics, self.published, None
        is_compared = self.is_comparable and not self.is_published
        if metrics and published and is_compared:
            published_metrics = _select_tested(published.metrics, published.evidence)
            published_ndcg = published_metrics.get(NDCG)
        return _Measurements(
            metrics.get(NDCG, 0.0),
            metrics.get(COVERAGE, 0.0),
            self.model.evidence.get(f"{ALL}/popular") if metrics else None,
            published_ndcg,
            self.model.recent_popularity if metrics else None,
            name_ndcg(self.model.success),
        )


@dataclass(frozen=True)
class _Measurements:
    """The numbers that the gate compares."""

    ndcg: float
    """NDCG@25 of the model."""
    coverage: float
    popularity_ndcg: float | None
    """NDCG@25 of the most popular items of all time, as the engine measured it; None if it did
    not."""
    published_ndcg: float | None
    """NDCG@25 of the published lists; None if it is not compared."""
    recent: MeasuredPopularity | None = None
    """What popular items of the last days reach; None if it is not known."""
    ndcg_name: str = "NDCG@25"
    """What NDCG@25 is called, with the events that it counts."""


def check_quality_gate(
    gate: Gate,
    candidate: ModelToPublish,
    *,
    how_to_skip: str,
    skip_quality_gate: bool = False,
) -> Finding:
    """Whether a model is good enough for its lists to be published.

    how_to_skip: how to start a run that publishes anyway.
    skip_quality_gate: whether this run publishes anyway.
    """
    measurements = candidate.measure()
    reasons = [candidate.rolled_back] if candidate.rolled_back else []
    if not candidate.is_published:
        reasons += _list_failures(gate, measurements)
    numbers: dict[str, int | float] = {}
    if candidate.metrics:
        finding, numbers = _describe_measurements(measurements)
    else:
        finding = "no user was tested, so NDCG@25 and coverage are not known"
    finding += _describe_circumstances(candidate)
    level: Level = "good"
    headline = ""
    if reasons and skip_quality_gate:
        level = "watch"
        headline = f"published anyway, although {' and '.join(reasons)}"
        finding += f"; published anyway (--publish-anyway), although {', and '.join(reasons)}"
    elif reasons:
        level = "refuse"
        nothing_published = candidate.published is None
        remains = "nothing was published" if nothing_published else "the published lists stay"
        finding += (
            f". Refused: {', and '.join(reasons)}. Nothing was inferred and {remains}."
            f" Check the data and run again, or publish anyway: {how_to_skip}"
        )
    return Finding(QUALITY_GATE, level, finding, headline, numbers)


def _describe_circumstances(candidate: ModelToPublish) -> str:
    """What a reader of the verdict should know besides the metrics; may be empty."""
    model = candidate.model
    text = ""
    if candidate.declared_events and not model.success:
        events = join_events(candidate.declared_events)
        text += f"; the metrics of {model.engine} count all events, not only {events}"
    if model.on_earlier_data:
        text += f"; the model was trained on {f'{model.trained_at}'[:10]}, on earlier data"
    if candidate.is_published:
        text += "; its lists are already published"
    elif candidate.published and not candidate.is_comparable:
        changed = "the interactions settings"
        if list(candidate.published.success) != list(model.success):
            changed = "the events that the metrics count"
        text += f"; not comparable with the published lists: {changed} changed"
    return text


def _describe_measurements(measurements: _Measurements) -> tuple[str, dict[str, int | float]]:
    """What was measured, in words and by name."""
    ndcg, coverage = measurements.ndcg, measurements.coverage
    numbers: dict[str, int | float] = {"ndcg_at_25": ndcg, "coverage": coverage}
    compared = []
    if measurements.popularity_ndcg is not None:
        numbers["popularity_ndcg_at_25"] = measurements.popularity_ndcg
        compared.append(f"{measurements.popularity_ndcg:.4f} for the most popular items")
    if measurements.recent is not None:
        numbers["recent_popularity_ndcg_at_25"] = measurements.recent.ndcg
        if measurements.recent.is_better_than(measurements.popularity_ndcg):
            compared.append(f"{measurements.recent.ndcg:.4f} for {measurements.recent.name}")
    if measurements.published_ndcg is not None:
        numbers["published_ndcg_at_25"] = measurements.published_ndcg
        compared.append(f"{measurements.published_ndcg:.4f} for the published lists")
    finding = f"{measurements.ndcg_name} {ndcg:.4f}"
    if compared:
        finding += f", compared with {_join(compared)}"
    return f"{finding}; coverage {coverage:.4f}", numbers


def _join(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _select_tested(
    metrics: Mapping[str, float], evidence: Mapping[str, float]
) -> Mapping[str, float]:
    """The metrics, or none if no user was tested: they are 0 then, and mean nothing."""
    return metrics if evidence.get(f"{ALL}/users", 1) else {}


def _list_failures(gate: Gate, measurements: _Measurements) -> list[str]:
    """Why the model's lists should not be published, in words."""
    ndcg, coverage = measurements.ndcg, measurements.coverage
    popularity_ndcg, published_ndcg = measurements.popularity_ndcg, measurements.published_ndcg
    recent = measurements.recent
    failures = []
    if popularity_ndcg is not None and ndcg < popularity_ndcg:
        failures.append("it is worse than recommending the most popular items to everyone")
    elif recent is not None and recent.is_better_than(popularity_ndcg) and recent.beats(ndcg):
        failures.append(f"it is clearly worse than recommending {recent.name} to everyone")
    if published_ndcg is not None and ndcg < (1 - gate.max_drop) * published_ndcg:
        failures.append(
            f"its {measurements.ndcg_name} is {1 - ndcg / published_ndcg:.0%} below the published"
            f" lists'; gate.max_drop allows {gate.max_drop:.0%}"
        )
    if ndcg < gate.min_ndcg_at_25:
        failures.append(f"gate.min_ndcg_at_25 is {gate.min_ndcg_at_25:g}")
    if coverage < gate.min_coverage:
        failures.append(f"gate.min_coverage is {gate.min_coverage:g}")
    return failures
