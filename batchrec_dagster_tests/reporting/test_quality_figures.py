"""The figures of quality in parts, and what the page says where there are none."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from batchrec_dagster.personalize.breakdown import (
    Breakdown,
    ColumnQuality,
    ComparedEstimate,
    DepthQuality,
    GroupQuality,
)
from batchrec_dagster.personalize.evidence import AMAZON, EMBEDDED, MetricEstimate
from batchrec_dagster.reporting.facts import Facts
from batchrec_dagster.reporting.figures import draw_quality
from batchrec_dagster.reporting.page import render_page
from batchrec_dagster.reporting.quality_figures import (
    draw_list_lengths,
    draw_user_columns,
    explain_missing_columns,
    group_item_categories,
    group_user_columns,
)
from batchrec_dagster.reporting.sections import Figure
from batchrec_dagster_tests.reporting.test_report_page import SHOT, build_facts


def compare(model: float, popular: float, *, is_sure: bool = True) -> ComparedEstimate:
    def estimate(value: float) -> MetricEstimate:
        return (
            MetricEstimate(value, value - 0.02, value + 0.02) if is_sure else MetricEstimate(value)
        )

    return ComparedEstimate(estimate(model), estimate(popular), estimate(model - popular))


def make_column(name: str, *values: float, unsure: float | None = None) -> ColumnQuality:
    groups = [
        GroupQuality(f"{name} {number}", 100 - number, compare(value, 0.1))
        for number, value in enumerate(values)
    ]
    if unsure is not None:
        groups.append(GroupQuality(None, 3, compare(unsure, 0.1, is_sure=False)))
    return ColumnQuality(name, groups)


DEPTHS = [
    DepthQuality(depth, compare(0.2, 0.1), compare(1 / depth, 0.1), compare(0.4 + depth / 100, 0.3))
    for depth in (5, 10, 25)
]


def make_facts(breakdown: Breakdown | None, longest: int = 25, **run: Any) -> Facts:
    facts = build_facts()
    return replace(
        facts,
        run=replace(facts.run, **{"engine": EMBEDDED, "breakdown": breakdown, **run}),
        catalogue=replace(facts.catalogue, longest=longest),
    )


def read_rows(figure: Figure) -> list[list[str]]:
    """The cells without what stands in small print."""
    return [[re.sub("<small>.*|<[^>]*>", "", str(cell)) for cell in row] for row in figure.rows]


def test_lists_have_the_lengths_that_they_reach() -> None:
    breakdown = Breakdown(DEPTHS, [], [])
    figure = draw_list_lengths(make_facts(breakdown))
    assert figure is not None
    assert read_rows(figure) == [
        ["5", "45.0%", "30.0%", "0.2000", "0.2000"],
        ["10", "50.0%", "30.0%", "0.2000", "0.1000"],
        ["25", "65.0%", "30.0%", "0.2000", "0.0400"],
    ]
    assert figure.chart is not None
    assert figure.chart.has_intervals
    assert figure.fold == "5 items reach 45.0% of the tested users, 25 reach 65.0%"
    shorter = draw_list_lengths(make_facts(breakdown, longest=12))
    assert shorter is not None
    assert [row[0] for row in read_rows(shorter)] == ["5", "10"]
    assert draw_list_lengths(make_facts(breakdown, longest=5)) is None
    assert draw_list_lengths(make_facts(Breakdown([], [], []))) is None


def test_amazon_has_the_means_of_list_lengths() -> None:
    metrics = {
        f"{name}_at_{depth}": value / depth
        for name, value in (("normalized_discounted_cumulative_gain", 2), ("precision", 1))
        for depth in (5, 10, 25)
    }
    facts = make_facts(None, engine=AMAZON, metrics=metrics, popularity={})
    figure = draw_list_lengths(facts)
    assert figure is not None
    assert read_rows(figure) == [
        ["5", "0.4000", "0.2000"],
        ["10", "0.2000", "0.1000"],
        ["25", "0.0800", "0.0400"],
    ]
    assert figure.chart is not None
    assert not figure.chart.has_intervals
    assert "intervals are not known" in figure.note
    compared = draw_list_lengths(
        make_facts(None, engine=AMAZON, metrics=metrics, popularity=metrics)
    )
    assert compared is not None
    assert read_rows(compared)[0] == ["5", "0.4000", "0.4000", "0.2000"]
    assert draw_list_lengths(make_facts(None, engine=AMAZON, metrics={})) is None


def test_columns_whose_values_differ_most_come_first() -> None:
    columns = [
        make_column("EVEN", 0.2, 0.2),
        # What nobody can be sure of does not count.
        make_column("UNSURE", 0.2, unsure=0.9),
        make_column("COUNTRY", 0.1, 0.3, unsure=0.7),
        make_column("PLAN", 0.2, 0.25),
        ColumnQuality("EMPTY", []),
    ]
    facts = make_facts(Breakdown(DEPTHS, columns, columns))
    figures = draw_user_columns(facts)
    assert [figure.title for figure in figures] == [
        f"Quality by {name}" for name in ("COUNTRY", "PLAN", "EVEN")
    ]
    assert figures[-1].note.endswith("Values of UNSURE differ less.")
    assert read_rows(figures[0]) == [
        ["COUNTRY 0", "100", "0.1000", "0.1000", "0.0000"],
        ["COUNTRY 1", "99", "0.3000", "0.1000", "0.2000"],
        ["All others", "3", "0.7000", "0.1000", "0.6000"],
    ]
    assert figures[0].chart is not None
    greys = [figures[0].chart.is_grey(point) for point in figures[0].chart.list_points()]
    assert greys == [False] * 4 + [True] * 2
    group = group_user_columns(facts, figures)
    assert group is not None
    assert (group.title, group.key) == ("Quality by PLAN, EVEN", "NDCG@25 from 0.2000 to 0.2500")
    recalls = group_item_categories(facts)
    assert recalls is not None
    assert recalls.title == "Recall by COUNTRY, PLAN, EVEN"
    assert recalls.key == "recall from 10.0% to 30.0%"
    alone = make_facts(Breakdown(DEPTHS, columns[:1], []))
    assert group_user_columns(alone, draw_user_columns(alone)) is None
    assert group_item_categories(alone) is None


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ({"user_columns": []}, ""),
        ({"engine": AMAZON}, "Amazon Personalize gives only means over all tested users"),
        ({}, "An earlier version of batchrec trained this model"),
        ({"breakdown": Breakdown(DEPTHS, None, None)}, "An earlier version of batchrec trained"),
        ({"breakdown": Breakdown(DEPTHS, [], [])}, "No tested user has a value of COUNTRY."),
        ({"breakdown": Breakdown(DEPTHS, [make_column("COUNTRY", 0.1)], [])}, ""),
    ],
)
def test_the_page_says_why_columns_are_missing(run: dict[str, Any], reason: str) -> None:
    facts = make_facts(**{"breakdown": None, "user_columns": ["COUNTRY"], **run})
    assert explain_missing_columns(facts).startswith(reason)
    html = render_page(facts)
    assert bool(reason) == ("not measured</span>" in html)
    assert bool(reason) == (explain_missing_columns(facts) != "")


def test_precision_has_its_interval_where_it_is_known() -> None:
    figure = draw_quality(make_facts(Breakdown(DEPTHS, [], [])))
    assert figure is not None
    assert "<small>" in str(figure.rows[1][1])
    unknown = draw_quality(make_facts(None))
    assert unknown is not None
    assert "<small>" not in str(unknown.rows[1][1])


def test_hostile_values_stay_text() -> None:
    column = ColumnQuality(SHOT, [GroupQuality(SHOT, 20, compare(0.2, 0.1))])
    html = render_page(make_facts(Breakdown(DEPTHS, [column], [column]), user_columns=[SHOT]))
    assert SHOT not in html
    assert "&lt;script&gt;window.shot = 1" in html
