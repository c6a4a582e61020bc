"""The checks of the page, as blocks."""

from __future__ import annotations

from collections.abc import Sequence

from batchrec_dagster.reporting.insight.page import CheckResult, Page
from batchrec_dagster.reporting.views.blocks import Cell, Judged, Section, Table, Title

WORDS = {"good": "Passed", "watch": "Warns", "refuse": "Failed"}


def build_checks(page: Page) -> Section:
    """Return the section of checks: the checks that did not pass, then the checks that passed."""
    failed = [check for check in page.checks if check.level != "good"]
    passed = [check for check in page.checks if check.level == "good"]
    tables = []
    if failed:
        tables.append(_tabulate_checks("failed-checks", "Checks that did not pass", failed))
    if passed:
        tables.append(_tabulate_checks("checks", "Checks that passed", passed))
    text = []
    if page.missing_checks:
        text.append(f"Not run yet: {', '.join(page.missing_checks)}.")
    return Section("checks", "Checks", text, tables)


def _tabulate_checks(name: str, title: str, checks: Sequence[CheckResult]) -> Table:
    rows: list[Sequence[Cell]] = [
        [
            Title(check.check, f"{check.asset}: {check.expectation}".removesuffix(": ")),
            Judged(check.level, WORDS[check.level]),
            check.text,
        ]
        for check in checks
    ]
    return Table(name, title, ["Check, and what it expects", "Result", "What it found"], rows)
