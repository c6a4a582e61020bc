"""What people did with the lists, in sentences and as a section of the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from batchrec_dagster.reporting.badges import judge_outcome
from batchrec_dagster.reporting.charts import Chart
from batchrec_dagster.reporting.provenance import SMALL_SAMPLE
from batchrec_dagster.reporting.sections import (
    Figure,
    ReportSection,
    Tile,
    describe_amount,
    format_amount,
    format_count,
    format_percent,
    format_with_interval,
)
from batchrec_dagster.steps.intervals import Rate
from batchrec_dagster.steps.outcomes import Outcome

NOTHING_YET = (
    "There are no later interactions yet, so nobody knows what users did after they got a list."
)


def describe_outcome(outcome: Outcome) -> Iterator[str]:
    """What happened after an edition, in sentences."""
    period = f"{outcome.start:%Y-%m-%d %H:%M} to {outcome.end:%Y-%m-%d %H:%M} UTC"
    yield (
        f"After edition {outcome.edition} ({period}), {outcome.active_users:,} of"
        f" {outcome.users:,} users chose items that they did not have"
        f"{', by ' + outcome.success + ' alone' if outcome.success else ''}."
    )
    if outcome.event_value is not None:
        yield _describe_value(outcome.event_value, outcome)
    rate = outcome.hit_rate
    gain = outcome.gain
    popular = outcome.popular_hit_rate
    if rate is None or gain is None or popular is None:
        return
    yield (
        f"{rate.value:.1%} of these users chose something from their list (95% interval"
        f" {rate.low:.1%} to {rate.high:.1%}). The most popular items of that day would have"
        f" reached {popular.value:.1%}."
    )
    interval = f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f} points)"
    if gain.low > 0:
        small = ", but in a small sample" if outcome.active_users < SMALL_SAMPLE else ""
        yield f"The lists reached more people than popular items {interval}{small}."
    elif gain.high < 0:
        yield f"The lists reached fewer people than popular items {interval}."
    else:
        yield f"Whether the lists or popular items reach more people is not certain {interval}."


def _describe_value(value: Rate, outcome: Outcome) -> str:
    text = f"Event value per user and day: {describe_amount(value.value)}{_format_interval(value)}"
    if outcome.list_event_value is None or outcome.popular_event_value is None:
        return f"{text}."
    on_list = outcome.list_event_value
    text += f"; of items on the lists {describe_amount(on_list.value)}{_format_interval(on_list)}"
    return (
        f"{text}, of that day's most popular items {describe_amount(outcome.popular_event_value)}."
    )


def _format_interval(value: Rate) -> str:
    """The 95% interval in brackets; empty if there are too few groups of users for one."""
    if not math.isfinite(value.low):
        return ""
    return f" (95% interval {describe_amount(value.low)} to {describe_amount(value.high)})"


REPLAYED = (
    "These data end before the lists were published: the numbers say how well the lists foresee"
    " what comes, not what they caused."
)


NAME, TITLE = "outcomes", "What people did with the lists"
# The two lines of the chart.
LISTS, POPULAR = "These lists", "Most popular items"
# The chart shows this many editions.
MOST_EDITIONS = 30


def build_outcomes_section(
    outcomes: Sequence[Outcome], experiment: Sequence[str] = ()
) -> ReportSection:
    """The section of the report.

    outcomes: those of all arms and editions, the newest last.
    experiment: sentences about what an experiment shows.
    """
    model_outcomes = [outcome for outcome in outcomes if outcome.arm == "model"]
    if not model_outcomes:
        return ReportSection(NAME, TITLE, [NOTHING_YET])
    newest = model_outcomes[-1]
    sentences = [*describe_outcome(newest)]
    if newest.since == "data":
        sentences.append(REPLAYED)
    paragraphs = [" ".join(sentences)]
    if experiment:
        paragraphs.append(" ".join(experiment))
    measured_outcomes = [outcome for outcome in model_outcomes if outcome.hit_rate is not None]
    figures = []
    if measured_outcomes:
        figures.append(_draw_outcomes_over_time(measured_outcomes[-MOST_EDITIONS:]))
    return ReportSection(NAME, TITLE, paragraphs, [*_make_tiles(newest)], figures)


def _make_tiles(outcome: Outcome) -> Iterator[Tile]:
    if outcome.hit_rate is None or outcome.recall is None or outcome.list_share is None:
        return
    popular = outcome.popular_hit_rate
    yield Tile(
        "hit_rate",
        "Chose from their list",
        format_percent(outcome.hit_rate.value),
        f"Of those who did something new (95% interval {outcome.hit_rate.low:.1%} to"
        f" {outcome.hit_rate.high:.1%}). Popular items would have reached"
        f" {popular.value if popular else 0.0:.1%}.",
        judge_outcome(outcome),
    )
    yield Tile(
        "list_share",
        "Choices on the list",
        format_percent(outcome.list_share.value),
        f"Share of all new interactions. Popular items: {outcome.popular_list_share:.1%}.",
    )
    yield Tile(
        "outcome_recall",
        "Average per person",
        format_percent(outcome.recall.value),
        "Share of a person's new interactions that was on their list. Popular items:"
        f" {outcome.popular_recall:.1%}.",
    )
    if outcome.event_value is not None and outcome.list_event_value is not None:
        yield Tile(
            "event_value",
            "Event value",
            format_amount(outcome.event_value.value),
            "Per user and day, by " + outcome.success + ". Of items on the list:"
            f" {describe_amount(outcome.list_event_value.value)}.",
        )
    yield Tile(
        "active_users",
        "Did something new",
        format_count(outcome.active_users),
        f"Of {outcome.users:,} users with a list.",
    )


def _draw_outcomes_over_time(outcomes: Sequence[Outcome]) -> Figure:
    labels = [f"{outcome.edition}. {outcome.end:%Y-%m-%d}" for outcome in outcomes]
    points = [
        (
            label,
            outcome.hit_rate.value if outcome.hit_rate else None,
            outcome.popular_hit_rate.value if outcome.popular_hit_rate else None,
        )
        for label, outcome in zip(labels, outcomes, strict=True)
    ]
    lines = Chart(
        "lines",
        "Edition",
        "Users",
        [LISTS, POPULAR],
        points,
        percent=True,
        intervals=[
            [
                None if rate is None else (rate.low, rate.high)
                for rate in (outcome.hit_rate, outcome.popular_hit_rate)
            ]
            for outcome in outcomes
        ],
    )
    return Figure(
        "outcomes-over-time",
        "Who chose something from their list",
        "Share of active users who chose something from their list, after each edition, with its"
        " 95% interval.",
        lines if len(outcomes) > 1 else None,
        ["Edition", LISTS, POPULAR, "Active users"],
        [
            [
                label,
                _format_rate(outcome.hit_rate),
                _format_rate(outcome.popular_hit_rate),
                format_count(outcome.active_users),
            ]
            for label, outcome in reversed([*zip(labels, outcomes, strict=True)])
            if outcome.hit_rate is not None
        ],
    )


def _format_rate(rate: Rate | None) -> Markup:
    """The rate, and below it its 95% interval. Empty without a rate."""
    if rate is None:
        return Markup()
    return format_with_interval(rate.value, (rate.low, rate.high), format_percent)
