"""The report's section about the data."""

from __future__ import annotations

import re

from batchrec_dagster.reporting.data_section import build_data_section
from batchrec_dagster_tests.reporting.test_report_page import build_preparation


def test_the_rows_left_out_are_named_by_their_reasons() -> None:
    [figure] = build_data_section(build_preparation(), "ratings.csv").figures
    rows = [[re.sub("<[^>]*>", "", str(cell)) for cell in row] for row in figure.rows]
    assert [row[1:] for row in rows] == [
        *(["100", "100.0%"], ["19", "19.0%"], ["1", "1.0%"], ["80", "80.0%"])
    ]
    assert rows[2][0] == "Left out: b"


def test_dagster_may_know_nothing_of_the_preparation() -> None:
    assert build_data_section({}, "ratings.csv").is_quiet
