"""The report's table of checks."""

from __future__ import annotations

import re
from dataclasses import replace

from batchrec_dagster.reporting.checks import build_checks_section
from batchrec_dagster.reporting.facts import combine_facts, count_tallies
from batchrec_dagster.reporting.page import render_page
from batchrec_dagster_tests.reporting.test_report_page import build_checks, build_tables, run


def test_the_page_names_each_check_with_what_it_measured_and_when() -> None:
    checks = build_checks()
    section = build_checks_section(checks, ["users_readable of users"])
    facts = combine_facts(run(), count_tallies(build_tables()))
    page = render_page(replace(facts, sections=[section]))
    shot = checks[1].message.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;")
    headings = ["Check", "Result", "When (UTC)", "What it measured"]
    # What did not pass stands open, in the order of the pipeline; what passed is folded.
    assert _read_table(page, "failed-checks-table") == [
        headings,
        [f"success_known interactions: {shot}", "Warns", "2026-01-02 03:04", shot],
        ["no_seen_items recommendations: None.", "Failed", "", "l" * 500],
    ]
    assert _read_table(page, "checks-table") == [
        headings,
        ["every_segment_answered recommendations", "Passed", "2026-01-02 03:04", "0 of 9"],
    ]
    assert [bool(figure.fold) for figure in section.figures] == [False, True]
    assert "1 of 3 checks passed" in section.text[0]
    assert section.text[1].endswith("have not run: users_readable of users.")


def _read_table(page: str, name: str) -> list[list[str]]:
    """The texts of the table's cells, row by row."""
    table = re.search(rf'<table id="{name}">.*?</table>', page, re.DOTALL)
    assert table is not None
    return [
        [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in re.split("</t[hd]>", row)[:-1]]
        for row in table.group().split("<tr>")[1:]
    ]


def test_without_results_there_is_no_table() -> None:
    section = build_checks_section([], ["lists_full of recommendations"])
    assert section.figures == []
    assert "lists_full of recommendations" in section.text[1]
