"""The report's figures: a chart, what it says in words, and the table behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from batchrec_dagster.reporting.catalogue import Shares
from batchrec_dagster.reporting.charts import bars, lines, lying_bars
from batchrec_dagster.reporting.facts import Facts

MODEL, POPULAR = "This model", "Most popular items"
SO_FAR = "Model"
SHOWN, HAD = "In the lists", "In the histories"


@dataclass(frozen=True)
class Metric:
    """A metric: its name, Personalize's key, its key in Dagster's UI, and what it means."""

    name: str
    key: str
    short: str
    meaning: str


METRICS = (
    Metric(
        "NDCG@25",
        "normalized_discounted_cumulative_gain_at_25",
        "ndcg_at_25",
        "Are the right items there, and near the top? 1 would be a perfect list; a hit in first"
        " place counts for more than one in twentieth.",
    ),
    Metric(
        "Precision@10",
        "precision_at_10",
        "precision_at_10",
        "Of the first ten items, how many did people really choose later? 0.2 means two of ten.",
    ),
    Metric(
        "MRR@25",
        "mean_reciprocal_rank_at_25",
        "mrr_at_25",
        "How soon does the first hit come? 1 is in first place, 0.5 in second, 0.33 in third.",
    ),
    Metric(
        "Coverage",
        "coverage",
        "coverage",
        "How much of the catalogue do the lists of the test show, all together? More is not always"
        " better, but very little means that everyone gets the same.",
    ),
)


@dataclass(frozen=True)
class Figure:
    """title: of chart and table; told: the chart in a sentence; series: in the order of their
    colours; rows: cells as they are shown."""

    name: str
    title: str
    told: str
    svg: Markup
    series: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Markup]]


def count(value: float) -> Markup:
    """A number of things, as text for people and as a value for programs."""
    return _number(value, f"{value:,.0f}" if value == int(value) else f"{value:,.1f}")


def percent(value: float) -> Markup:
    """A share."""
    return _number(value, f"{value:.1%}")


def score(value: float) -> Markup:
    """A metric."""
    return _number(value, f"{value:.4f}")


def _number(value: float, text: str) -> Markup:
    return Markup('<data value="{}">{}</data>').format(value, text)


def quality(facts: Facts) -> Figure | None:
    """The metrics beside popularity's; None without the latter."""
    run = facts.run
    if not run.popularity:
        return None
    pairs = [
        (metric.name, run.metrics.get(metric.key, 0.0), run.popularity.get(metric.key, 0.0))
        for metric in METRICS
    ]
    points = [
        point
        for name, model, popular in pairs
        for point in ((name, MODEL, model), (name, POPULAR, popular))
    ]
    return Figure(
        "quality",
        "Quality beside popularity",
        "Each metric of this model beside that of showing everyone the most popular items.",
        lying_bars(points, up="Metric", across="Value, 0 to 1", series=[MODEL, POPULAR]),
        [MODEL, POPULAR],
        ["Metric", MODEL, POPULAR],
        [[name, score(model), score(popular)] for name, model, popular in pairs],
    )


def runs(facts: Facts) -> Figure | None:
    """The NDCG of the models so far; None before there are two."""
    trainings = facts.run.trainings
    if len(trainings) < 2:
        return None
    points = []
    for number, training in enumerate(trainings, 1):
        label = f"{number}. {training.made:%Y-%m-%d}"
        points.append((label, SO_FAR, training.metrics.get("ndcg_at_25", 0.0)))
        if (popular := training.metrics.get("popularity_ndcg_at_25")) is not None:
            points.append((label, POPULAR, popular))
    return Figure(
        "runs",
        "Quality of the models so far",
        f"NDCG@25 of the {len(trainings)} newest models, oldest first.",
        lines(points, across="Model", up="NDCG@25", series=[SO_FAR, POPULAR]),
        [SO_FAR, POPULAR],
        ["Trained", *(metric.name for metric in METRICS)],
        [
            [
                f"{training.made:%Y-%m-%d %H:%M} UTC, {training.recipe}",
                *(score(training.metrics.get(metric.short, 0.0)) for metric in METRICS),
            ]
            for training in reversed(trainings)
        ],
    )


def lengths(facts: Facts) -> Figure:
    """How much is known of the users."""
    groups = facts.audience.lengths
    return Figure(
        "lengths",
        "How much is known of each user",
        "Users who were asked for, by how many interactions they have.",
        bars(
            [(label, "Users", users) for label, users in groups],
            across="Interactions",
            up="Users",
            series=["Users"],
        ),
        ["Users"],
        ["Interactions", "Users"],
        [[label, count(users)] for label, users in groups],
    )


def bands(facts: Facts) -> Figure:
    """Popular or rare."""
    return _shares(
        "bands",
        "How popular the items are",
        "Items from the most to the least popular: their share of all places in the lists, beside"
        " their share of all interactions.",
        "Items by popularity",
        facts.offer.bands,
    )


def kinds(facts: Facts) -> Iterator[Figure]:
    """Genres in against genres out, for each category with a value."""
    for number, (category, shares) in enumerate(facts.offer.kinds.items(), 1):
        if shares:
            yield _shares(
                f"kinds{number}",
                f"{category} in and out",
                f"For each value of {category}, its share of all places in the lists beside its"
                " share of all interactions. An item that has several values counts for each.",
                category,
                shares,
            )


def _shares(name: str, title: str, told: str, of: str, shares: Sequence[Shares]) -> Figure:
    points = [
        point
        for share in shares
        for point in ((share.label, SHOWN, share.shown), (share.label, HAD, share.had))
    ]
    return Figure(
        name,
        title,
        told,
        lying_bars(points, up=of, across="Share", series=[SHOWN, HAD], percent=True),
        [SHOWN, HAD],
        [of, SHOWN, HAD],
        [[share.label, percent(share.shown), percent(share.had)] for share in shares],
    )
