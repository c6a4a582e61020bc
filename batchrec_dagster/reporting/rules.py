"""What the rules did to the lists: a section of the report, and rows for tables."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from batchrec_dagster.reporting.badges import judge_short_lists
from batchrec_dagster.reporting.sections import Figure, ReportSection, Tile, format_count
from batchrec_dagster.storage.edition import FilledLists, RuleCounts

RULE_COLUMNS = ("rule", "results left out", "rows added", "lists that lack it", "lists emptied")
_TEXT = (
    "recommendations.rules were applied in this order to the results of the model, of which more"
    " were asked for than a list has. What they left short was filled with popular items."
)


def list_rule_rows(rules: Sequence[RuleCounts]) -> list[list[str]]:
    """The cells under RULE_COLUMNS, a row for each rule."""
    return [
        [
            counts.rule,
            f"{counts.removed:,}",
            f"{counts.added:,}",
            f"{counts.unmet:,}",
            f"{counts.emptied:,}",
        ]
        for counts in rules
    ]


def summarize_rules(rules: Sequence[RuleCounts], filled: FilledLists | None) -> str:
    """What the rules did, in a line."""
    parts = []
    for counts in rules:
        if counts.added:
            parts.append(f"{counts.rule} added {counts.added:,}")
        elif counts.removed:
            parts.append(f"{counts.rule} left out {counts.removed:,}")
    if filled is not None and filled.popular_rows:
        parts.append(f"{filled.popular_rows:,} popular items filled lists")
    return ", ".join(parts) or "they changed nothing"


def _align_numbers(rows: Sequence[Sequence[str]]) -> list[list[str | Markup]]:
    """The rows, whose cells but the first are numbers, as the page aligns them."""
    return [[name, *map(Markup("{}").format, numbers)] for name, *numbers in rows]


def build_rules_section(
    rules: Sequence[RuleCounts], filled: FilledLists | None
) -> ReportSection | None:
    """The section; None if no rules made the lists."""
    if not rules:
        return None
    tiles = []
    if filled is not None:
        tiles.append(
            Tile(
                "rules_short_lists",
                "Lists that rules left short",
                format_count(filled.short_of_model),
                f"of the {filled.of_model:,} lists of the model had too few of its results left."
                f" {filled.popular_rows:,} popular items fill these.",
                judge_short_lists(filled.short_of_model, filled.of_model),
            )
        )
    table = Figure(
        "rules-counts",
        "What each rule did",
        "How many results it left out, how many rows it put at a rank, how many lists lack what"
        " it asks for, and how many it left empty.",
        None,
        [column.capitalize() for column in RULE_COLUMNS],
        _align_numbers(list_rule_rows(rules)),
        fold=f"{sum(counts.removed for counts in rules):,} results left out,"
        f" {sum(counts.added for counts in rules):,} rows added",
    )
    return ReportSection("rules", "Rules", [_TEXT], tiles, [table])
