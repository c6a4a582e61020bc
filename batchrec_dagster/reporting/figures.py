"""The figures of the sections that every report has: quality, users and catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from batchrec_dagster.personalize.measurements import ALL, COVERAGE, NDCG, MetricEstimate, name_ndcg
from batchrec_dagster.reporting.catalogue import Shares
from batchrec_dagster.reporting.charts import Chart, Interval
from batchrec_dagster.reporting.facts import Facts, ReportedRun
from batchrec_dagster.reporting.sections import (
    Figure,
    format_count,
    format_percent,
    format_score,
    format_with_interval,
)
from batchrec_dagster.storage.measured_popularity import name_window

# The series of the charts.
MODEL, POPULAR = "This model", "Most popular items"
LISTS, HISTORIES = "In the lists", "In the histories"


@dataclass(frozen=True)
class Metric:
    """A metric of the model."""

    name: str
    key: str
    """Personalize's name of it."""
    short: str
    """Its name in Dagster's metadata."""
    meaning: str
    """What it says, in a short sentence."""
    scale: str
    """Which values it has, in a sentence or two."""


METRICS = (
    Metric(
        "NDCG@25",
        NDCG,
        "ndcg_at_25",
        "How well the first 25 items match what people chose next.",
        "1 is a perfect list; a hit near the top counts for more.",
    ),
    Metric(
        "Precision@10",
        "precision_at_10",
        "precision_at_10",
        "Share of the first ten items that people chose next.",
        "0.2 is two of ten.",
    ),
    Metric(
        "MRR@25",
        "mean_reciprocal_rank_at_25",
        "mrr_at_25",
        "How early the first hit comes.",
        "1 in first place, 0.5 in second, 0.33 in third.",
    ),
    Metric(
        "Coverage",
        COVERAGE,
        "coverage",
        "Share of the items recommended to at least one test user.",
        "batchrec's engine counts the items with interactions, and the first 25 of a list. More is"
        " not always better, but very little means that everyone gets the same items.",
    ),
)


def name_metrics(success: Sequence[str]) -> list[Metric]:
    """The metrics, of which NDCG is named with the types of events that it counts alone."""
    return [
        replace(metric, name=name_ndcg(success)) if metric.key == NDCG else metric
        for metric in METRICS
    ]


@dataclass(frozen=True)
class _MeasuredLists:
    """Lists whose NDCG the figure of popular items compares."""

    name: str
    label: str
    """A shorter name for the chart, which cuts long ones off."""
    ndcg: float
    interval: Interval | None
    engine: str
    """What measured it."""


def draw_popularity(facts: Facts) -> Figure | None:
    """The NDCG compared with that of popular items; None if these were not measured."""
    measured_lists = [*_compare_with_popular_items(facts.run)]
    if len(measured_lists) < 2:
        return None
    ndcg_name = name_ndcg(facts.run.success)
    return Figure(
        "popularity",
        "Quality compared with popular items",
        "A shop would show what is popular now, which batchrec measures itself.",
        Chart(
            "horizontal bars",
            "",
            ndcg_name,
            [ndcg_name],
            [(lists.label, lists.ndcg) for lists in measured_lists],
            intervals=[[lists.interval] for lists in measured_lists],
        ),
        ["Lists", ndcg_name, "Measured by"],
        [
            [lists.name, format_with_interval(lists.ndcg, lists.interval), lists.engine]
            for lists in measured_lists
        ],
        note="It does so as Personalize measures a model: for a tenth of the users, whose newest"
        " tenth of interactions is held out, with popularity counted on all others. Users who were"
        " last here long ago chose what was popular then.",
    )


def _compare_with_popular_items(run: ReportedRun) -> Iterator[_MeasuredLists]:
    """The model's lists first, then those of popular items as far as they were measured."""
    tested, recent = run.tested, run.recent
    model_interval = tested.ndcg.interval if tested else None
    yield _MeasuredLists(MODEL, MODEL, run.metrics.get(NDCG, 0.0), model_interval, run.engine)
    if tested is not None and tested.users:
        yield _MeasuredLists(
            f"{POPULAR} of all time",
            "All time",
            tested.popular.value,
            tested.popular.interval,
            run.engine,
        )
    if recent is not None:
        window = name_window(recent.days)
        yield _MeasuredLists(
            f"{POPULAR} {window}",
            window.removeprefix("of the ").capitalize(),
            recent.ndcg,
            _make_interval(recent.ndcg, recent.margin),
            f"batchrec, on {recent.users:,} users",
        )


def _make_interval(value: float, margin: float | None) -> Interval | None:
    """The interval around a metric, which is not negative; None without a margin of error."""
    return None if margin is None else (max(0.0, value - margin), value + margin)


def draw_groups(facts: Facts) -> Figure | None:
    """The NDCG by how much is known about the tested users; None if it is not known."""
    groups = [evidence for evidence in facts.run.evidence if evidence.users]
    if not groups:
        return None
    bars = []
    intervals = []
    rows = []
    ndcg_name = name_ndcg(facts.run.success)
    for evidence in groups:
        name = "All" if evidence.group == ALL else evidence.group
        label = f"{name} ({evidence.users:,} users)"
        bars.append((label, evidence.ndcg.value, evidence.popular.value))
        intervals.append([evidence.ndcg.interval, evidence.popular.interval])
        rows.append(
            [
                name,
                format_count(evidence.users),
                format_score(evidence.ndcg.value),
                format_score(evidence.popular.value),
                format_estimate(evidence.difference),
            ]
        )
    return Figure(
        "groups",
        "Quality by length of history",
        "Tested users by how many of their interactions the model saw.",
        Chart(
            "horizontal bars",
            "Interactions",
            ndcg_name,
            [MODEL, POPULAR],
            bars,
            intervals=intervals,
            needs_intervals=True,
        ),
        ["Interactions", "Users", "Model", "Popular", "Lead"],
        rows,
        note="Cold users have nothing to hold out, so nothing is measured for them.",
    )


def format_estimate(estimate: MetricEstimate) -> Markup:
    """A metric, and below it its 95% interval or a note that there is none."""
    if estimate.interval is None:
        note = Markup("<small>too few users for an interval</small>")
        return format_score(estimate.value) + note
    return format_with_interval(estimate.value, estimate.interval)


def draw_bands(facts: Facts) -> Figure:
    """The shares of popular and unpopular items in lists and histories."""
    return _draw_shares(
        "bands",
        "Popularity of the recommended items",
        "Items from the most to the least popular: their share of the recommendations and of the"
        " interactions.",
        "Items by popularity",
        facts.catalogue.bands,
    )


def draw_categories(facts: Facts) -> Iterator[Figure]:
    """The shares of the values of each category in lists and histories."""
    for number, (category, shares) in enumerate(facts.catalogue.values.items(), 1):
        if shares:
            figure = _draw_shares(
                f"category{number}",
                f"{category} in lists and histories",
                f"For each value of {category}, its share of all recommendations compared with its"
                " share of all interactions. An item with several values counts for each.",
                category,
                shares,
            )
            first = shares[0]
            yield replace(
                figure, fold=f"{first.label}: {first.recommendations:.1%} of the recommendations"
            )


def _draw_shares(
    name: str, title: str, caption: str, axis_title: str, shares: Sequence[Shares]
) -> Figure:
    rows = [(share.label, share.recommendations, share.interactions) for share in shares]
    chart = Chart("horizontal bars", "", "Share", [LISTS, HISTORIES], rows, percent=True)
    cells = [
        [label, format_percent(lists), format_percent(histories)]
        for label, lists, histories in rows
    ]
    return Figure(name, title, caption, chart, [axis_title, LISTS, HISTORIES], cells)
