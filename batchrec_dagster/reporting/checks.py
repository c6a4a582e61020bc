"""The section of the report about all checks: what each expects, what it measured, and when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from markupsafe import Markup

from batchrec_dagster.reporting.run_records import CheckRecord
from batchrec_dagster.reporting.sections import Badge, Figure, ReportSection, mark_days
from batchrec_dagster.reporting.views.plain import format_time

NAME, TITLE = "checks", "Checks"
COLUMNS = ("Check", "Result", "When (UTC)", "What it measured")

PASSED = Badge("good", "what was measured is as the check expects")
WARNS = Badge("watch", "something is not as the check expects, which stops nothing")
FAILED = Badge("bad", "the check stopped the run before it stored or published anything")
# What the badges are called in the table.
WORDS = {PASSED: "Passed", WARNS: "Warns", FAILED: "Failed"}


def build_checks_section(
    records: Sequence[CheckRecord], missing: Sequence[str] = ()
) -> ReportSection:
    """The section: a table of the checks that did not pass, and a folded one of those that did.

    records: the newest result of each check, in the order of the pipeline.
    missing: the names of the checks that have no result.
    """
    passed = sum(record.passed for record in records)
    text = [
        f"{passed} of {len(records)} checks passed when they ran last. A check that fails stops the"
        " run before its data are used or its lists are published; one that warns stops nothing."
    ]
    if missing:
        text.append(f"Without a result, because they have not run: {', '.join(missing)}.")
    failed_records = [record for record in records if not record.passed]
    passed_records = [record for record in records if record.passed]
    figures = []
    if failed_records:
        figures.append(
            _tabulate_checks("failed-checks", "Checks that did not pass", failed_records)
        )
    if passed_records:
        title = f"All {passed} checks" if passed == len(records) else f"The {passed} that passed"
        figures.append(
            _tabulate_checks("checks", title, passed_records, fold="with what each measured")
        )
    return ReportSection(NAME, TITLE, text, figures=figures)


def _tabulate_checks(
    name: str, title: str, records: Sequence[CheckRecord], fold: str = ""
) -> Figure:
    return Figure(
        name,
        title,
        "Below each check's name: what it is about, and what has to hold.",
        None,
        COLUMNS,
        [_make_cells(record) for record in records],
        is_wide=True,
        fold=fold,
    )


def judge_check(record: CheckRecord) -> Badge:
    """Whether the check passed, warns or failed."""
    if record.passed:
        return PASSED
    return FAILED if record.is_blocking else WARNS


def _make_cells(record: CheckRecord) -> list[str | Markup]:
    badge = judge_check(record)
    about = f"{record.asset}: {record.expectation}" if record.expectation else record.asset
    name = Markup("{}<small>{}</small>").format(record.check, about)
    result = Markup('<span class="judgement {}" title="{}">{}</span>').format(
        badge.judgement, badge.rule, WORDS[badge]
    )
    time = "" if record.time is None else format_time(record.time.astimezone(UTC))
    return [name, result, mark_days(time), record.message]
