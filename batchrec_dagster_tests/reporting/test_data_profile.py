"""The report's profile of the data."""

from __future__ import annotations

import re
from dataclasses import replace

import polars as pl

from batchrec_dagster.preparation.layout import CONSTANT_TIME
from batchrec_dagster.reporting.data_profile import MOST_PERIODS, count_periods, count_profile
from batchrec_dagster.reporting.data_section import build_data_section
from batchrec_dagster.reporting.report_counts import count_tables
from batchrec_dagster.reporting.sections import Figure
from batchrec_dagster_tests.reporting.test_report_page import (
    build_preparation,
    build_tables_with_pictures,
)


def make_days(*days: int) -> pl.DataFrame:
    return pl.DataFrame({"day": days, "interactions": [2] * len(days)})


def test_periods_are_days_months_or_years_without_gaps() -> None:
    assert count_periods(make_days()) == []
    assert count_periods(make_days(2, 0)) == [
        *(("1970-01-01", 2), ("1970-01-02", 0), ("1970-01-03", 2))
    ]
    assert len(count_periods(make_days(0, MOST_PERIODS - 1))) == MOST_PERIODS
    assert count_periods(make_days(30, 59, 58, -1)) == [
        *(("1969-12", 2), ("1970-01", 2), ("1970-02", 2), ("1970-03", 2))
    ]
    assert count_periods(make_days(0, 5 * 366)) == [
        *(("1970", 2), *((str(year), 0) for year in range(1971, 1975)), ("1975", 2))
    ]


def test_the_profile_agrees_with_the_tables() -> None:
    tables = build_tables_with_pictures()
    assert tables.titles is not None
    profile = count_profile(tables, count_tables(tables))
    interactions = tables.interactions.collect()
    assert sum(number for _, number in profile.periods) == interactions.height
    assert sum(number for _, number in profile.items) == 10
    assert dict(profile.items)["5-9"] == 10  # Each item has eight of the twelve users.
    # One title is empty, and one link is missing.
    assert dict(profile.known) == {
        "title": sum(bool(title) for title in tables.titles["title"]),
        "image": 10,
        "link": 9,
        "GENRES": 10,
    }
    no_times = tables.interactions.with_columns(TIMESTAMP=pl.lit(CONSTANT_TIME))
    timeless = replace(tables, interactions=no_times, titles=None, items=None, categories=())
    timeless_profile = count_profile(timeless, count_tables(timeless))
    assert timeless_profile.periods == timeless_profile.known == []
    section = build_data_section(timeless_profile, 10, {}, "ratings.csv")
    assert [figure.name for figure in section.figures] == ["item-lengths"]


def test_a_single_day_is_a_row_of_a_table_and_no_chart() -> None:
    tables = build_tables_with_pictures()
    profile = count_profile(tables, count_tables(tables))

    def draw_periods(*periods: tuple[str, int]) -> Figure:
        section = build_data_section(replace(profile, periods=[*periods]), 10, {}, "ratings.csv")
        return section.figures[0]

    assert draw_periods(("2026-11-28", 3)).chart is None
    assert len(draw_periods(("2026-11-28", 3)).rows) == 1
    assert draw_periods(("2026-11-28", 3), ("2026-11-29", 4)).chart is not None


def test_the_rows_left_out_are_named_by_their_reasons() -> None:
    tables = build_tables_with_pictures()
    profile = count_profile(tables, count_tables(tables))
    section = build_data_section(profile, 10, build_preparation(), "ratings.csv")
    assert [figure.name for figure in section.figures] == [
        *("periods", "item-lengths", "rows", "attributes")
    ]
    rows = [[re.sub("<[^>]*>", "", str(cell)) for cell in row] for row in section.figures[2].rows]
    assert [row[1:] for row in rows] == [
        *(["100", "100.0%"], ["19", "19.0%"], ["1", "1.0%"], ["80", "80.0%"])
    ]
    assert rows[2][0] == "Left out: b"
    # Dagster may know nothing of the preparation.
    without = build_data_section(profile, 10, {}, "ratings.csv")
    assert [figure.name for figure in without.figures] == ["periods", "item-lengths", "attributes"]
