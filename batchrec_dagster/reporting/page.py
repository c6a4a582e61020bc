"""The report as one HTML page that loads nothing from elsewhere.

jinja2 escapes all data, or it is JSON in a script element that never runs; the page's policy
allows only its own script and styles.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from batchrec_dagster.personalize.evidence import ALL, COVERAGE, NDCG, MetricEstimate
from batchrec_dagster.reporting.charts import Chart
from batchrec_dagster.reporting.facts import Facts
from batchrec_dagster.reporting.people import HISTORY, LIST, shorten_title
from batchrec_dagster.reporting.sections import Figure, format_count, format_percent, format_score
from batchrec_dagster.reporting.statistics import Shares
from batchrec_dagster.reporting.verdict import is_concentrated, judge_quality

TEMPLATE = Path(__file__).parent / "template"
MOST_SEGMENTS = 50


def render_page(facts: Facts) -> str:
    """The HTML of the report, about 1 MB for 2,500 users."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": format_count,
        "percent": format_percent,
        "score": format_score,
        "shortened": shorten_title,
        "breakable": allow_breaks,
        "days": mark_days,
        "sentence": lambda text: text[:1].upper() + text[1:],
    }
    style = (TEMPLATE / "report.css").read_text(encoding="utf-8")
    script = (TEMPLATE / "report.js").read_text(encoding="utf-8")
    people = facts.people
    images = any(item[-2] for item in people.items)
    return environment.get_template("report.html").render(
        facts=facts,
        run=facts.run,
        metrics=METRICS,
        judged=_judge_tiles(facts),
        quality=[
            figure
            for figure in (_draw_quality(facts), _draw_groups(facts), _draw_trainings(facts))
            if figure
        ],
        lengths=_draw_lengths(facts),
        bands=_draw_bands(facts),
        exposure=_draw_exposure(facts),
        categories=_draw_categories(facts),
        segments=facts.segments[:MOST_SEGMENTS],
        history=HISTORY,
        images=images,
        length=min(LIST, facts.catalogue.longest),
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src '{_hash_source(script)}'",
                f"style-src '{_hash_source(style)}'",
                # Pictures are asked for only when the reader allows it.
                f"img-src data:{' https: http:' if images else ''}",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        data=encode_json_for_html({"items": people.items, "people": people.people}),
    )


DAY = re.compile(r"(\d{4}-\d\d-\d\d)")


def mark_days(text: str) -> Markup:
    """A text whose days do not wrap at their hyphens."""
    parts = enumerate(DAY.split(text))
    return Markup().join(
        Markup('<span class="day">{}</span>').format(part) if place % 2 else part
        for place, part in parts
    )


def allow_breaks(text: str) -> Markup:
    """A heading that may wrap before an @."""
    return Markup("<wbr>@").join(text.split("@"))


def encode_json_for_html(value: Any) -> Markup:
    """JSON for a script element: no character in it can end the element or start another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704


def _hash_source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


MODEL, POPULAR = "This model", "Most popular items"
LISTS, HISTORIES = "In the lists", "In the histories"


@dataclass(frozen=True)
class Metric:
    """A metric: name, Personalize's key, key in Dagster's UI, meaning."""

    name: str
    key: str
    short: str
    meaning: str


METRICS = (
    Metric(
        "NDCG@25",
        NDCG,
        "ndcg_at_25",
        "How well the first 25 items match what people chose next. 1 is a perfect list; a hit near"
        " the top counts for more.",
    ),
    Metric(
        "Precision@10",
        "precision_at_10",
        "precision_at_10",
        "Share of the first ten items that people chose next. 0.2 is two of ten.",
    ),
    Metric(
        "MRR@25",
        "mean_reciprocal_rank_at_25",
        "mrr_at_25",
        "How early the first hit comes: 1 in first place, 0.5 in second, 0.33 in third.",
    ),
    Metric(
        "Coverage",
        COVERAGE,
        "coverage",
        "Share of the items recommended to at least one test user; batchrec's engine counts those"
        " with interactions. More is not always better, but very little means that everyone gets"
        " the same items.",
    ),
)


def _draw_quality(facts: Facts) -> Figure | None:
    """The metrics compared with popularity's; None without those."""
    run = facts.run
    if not run.popularity:
        return None
    rows = [
        (metric.name, run.metrics.get(metric.key, 0.0), run.popularity.get(metric.key, 0.0))
        for metric in METRICS
    ]
    return Figure(
        "quality",
        "Quality compared with popularity",
        "This model compared with recommending the most popular items to everyone.",
        Chart("horizontal bars", "Metric", "Value, 0 to 1", [MODEL, POPULAR], rows),
        ["Metric", MODEL, POPULAR],
        [[name, format_score(model), format_score(popular)] for name, model, popular in rows],
    )


def _judge_tiles(facts: Facts) -> dict[str, str]:
    verdict_facts = facts.verdict_facts
    concentration_judgement = "watch" if is_concentrated(verdict_facts) else "good"
    served_judgement = "good" if facts.audience.served >= facts.requested else "watch"
    return {
        METRICS[0].key: judge_quality(verdict_facts)[0],
        "top_lists": concentration_judgement,
        "served": served_judgement,
    }


def _draw_groups(facts: Facts) -> Figure | None:
    """The NDCG by how much is known about the tested users; None if it is not known."""
    groups = [evidence for evidence in facts.run.evidence if evidence.users]
    if not groups:
        return None
    names = {
        evidence.group: "All" if evidence.group == ALL else evidence.group for evidence in groups
    }
    bars = [
        (
            f"{names[evidence.group]} ({evidence.users:,} users)",
            evidence.ndcg.value,
            evidence.popular.value,
        )
        for evidence in groups
    ]
    return Figure(
        "groups",
        "Quality by length of history",
        "Tested users by how many of their interactions the model saw. Cold users have nothing to"
        " hold out, so nothing is measured for them.",
        Chart("horizontal bars", "Interactions", "NDCG@25", [MODEL, POPULAR], bars),
        ["Interactions", "Users", "Model", "Popular", "Lead"],
        [
            [
                names[evidence.group],
                format_count(evidence.users),
                format_score(evidence.ndcg.value),
                format_score(evidence.popular.value),
                format_estimate(evidence.difference),
            ]
            for evidence in groups
        ],
    )


def format_estimate(estimate: MetricEstimate) -> Markup:
    """A metric, and below it its 95 % interval or that there is none."""
    if estimate.interval is None:
        return format_score(estimate.value) + Markup("<small>too few users for an interval</small>")
    ends = Markup("<small>{} to {}</small>").format(*map(format_score, estimate.interval))
    return format_score(estimate.value) + ends


def _draw_exposure(facts: Facts) -> Figure:
    exposure = facts.catalogue.exposure
    series = [LISTS, HISTORIES]
    curve = [(share.label, share.recommendations, share.interactions) for share in exposure.curve]
    rows = [
        [
            f"Top {share.label}",
            format_percent(share.recommendations),
            format_percent(share.interactions),
        ]
        for share in exposure.curve
    ]
    gini = [
        "Gini",
        format_score(exposure.gini.recommendations),
        format_score(exposure.gini.interactions),
    ]
    return Figure(
        "exposure",
        "How few items take the lists",
        "The share of all recommendations that the most recommended items take, compared with what"
        " the most popular ones take of all interactions. Gini: 0 if all items are shown equally"
        " often, 1 if one takes all.",
        Chart("lines", "Items that are shown most", "Share of all", series, curve, percent=True),
        ["Items", *series],
        [*rows, gini],
    )


def _draw_trainings(facts: Facts) -> Figure | None:
    """The NDCG of the latest models; None before there are two."""
    trainings = facts.run.trainings
    if len(trainings) < 2:
        return None
    points = [
        (
            f"{number}. {training.made:%Y-%m-%d}",
            training.metrics.get("ndcg_at_25", 0.0),
            training.metrics.get("popularity_ndcg_at_25"),
        )
        for number, training in enumerate(trainings, 1)
    ]
    settings = [training.interactions for training in trainings if training.interactions]
    settings_changed = any(interactions != settings[0] for interactions in settings)
    return Figure(
        "runs",
        "Quality over time",
        f"NDCG@25 of the latest {len(trainings)} models, oldest first."
        + (SETTINGS_CHANGED if settings_changed else ""),
        Chart("lines", "Model", "NDCG@25", ["Model", POPULAR], points),
        ["Trained", *(metric.name for metric in METRICS)],
        [
            [
                f"{training.made:%Y-%m-%d %H:%M} UTC, {training.recipe}",
                *(format_score(training.metrics.get(metric.short, 0.0)) for metric in METRICS),
            ]
            for training in reversed(trainings)
        ],
    )


SETTINGS_CHANGED = (
    " The settings of the interactions changed between some of them: these cannot be compared."
)


def _draw_lengths(facts: Facts) -> Figure:
    groups = facts.audience.lengths
    return Figure(
        "lengths",
        "How much is known about each user",
        "Requested users by their number of interactions.",
        Chart("bars", "Interactions", "Users", ["Users"], groups),
        ["Interactions", "Users"],
        [[label, format_count(users)] for label, users in groups],
    )


def _draw_bands(facts: Facts) -> Figure:
    return _draw_shares(
        "bands",
        "Popularity of the recommended items",
        "Items from the most to the least popular: their share of all recommendations compared with"
        " their share of all interactions.",
        "Items by popularity",
        facts.catalogue.bands,
    )


def _draw_categories(facts: Facts) -> Iterator[Figure]:
    for number, (category, shares) in enumerate(facts.catalogue.values.items(), 1):
        if shares:
            yield _draw_shares(
                f"category{number}",
                f"{category} in lists and histories",
                f"For each value of {category}, its share of all recommendations compared with its"
                " share of all interactions. An item with several values counts for each.",
                category,
                shares,
            )


def _draw_shares(
    name: str, title: str, caption: str, axis_title: str, shares: Sequence[Shares]
) -> Figure:
    rows = [(share.label, share.recommendations, share.interactions) for share in shares]
    chart = Chart("horizontal bars", axis_title, "Share", [LISTS, HISTORIES], rows, percent=True)
    cells = [
        [label, format_percent(lists), format_percent(histories)]
        for label, lists, histories in rows
    ]
    return Figure(name, title, caption, chart, [axis_title, LISTS, HISTORIES], cells)
