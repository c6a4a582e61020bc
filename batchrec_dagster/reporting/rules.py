"""What the rules did to the lists: a section of the report, and rows for tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchrec_dagster.reporting.sections import Figure, ReportSection, Tile, format_count

RULE_COLUMNS = ("rule", "results left out", "rows added", "lists that lack it", "lists emptied")
_TEXT = (
    "recommendations.rules were applied in this order to the results of the model, of which more"
    " were asked for than a list has. What they left short was filled with popular items."
)


def list_rule_rows(rules: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The cells under RULE_COLUMNS, a row for each rule.

    rules: as an edition's metadata have them.
    """
    counts = ("removed", "added", "unmet", "emptied")
    return [[rule["rule"], *(f"{rule[count]:,}" for count in counts)] for rule in rules]


def summarize_rules(rules: Sequence[Mapping[str, Any]], filled: Mapping[str, int]) -> str:
    """What the rules did, in a line.

    rules, filled: as an edition's metadata have them.
    """
    parts = []
    for rule in rules:
        if rule["added"]:
            parts.append(f"{rule['rule']} added {rule['added']:,}")
        elif rule["removed"]:
            parts.append(f"{rule['rule']} left out {rule['removed']:,}")
    if filled["popular_rows"]:
        parts.append(f"{filled['popular_rows']:,} popular items filled lists")
    return ", ".join(parts) or "they changed nothing"


def build_rules_section(
    rules: Sequence[Mapping[str, Any]] | None, filled: Mapping[str, int] | None
) -> ReportSection | None:
    """The section; None if no rules made the lists.

    rules, filled: as an edition's metadata have them.
    """
    if not rules:
        return None
    tiles = []
    if filled is not None:
        tiles.append(
            Tile(
                "rules_short_lists",
                "Lists filled with popular items",
                format_count(filled["short_of_model"]),
                f"of {filled['lists']:,} had too few of the model's results left;"
                f" {filled['popular_rows']:,} popular items fill them.",
                "good" if filled["short_of_model"] <= 0.01 * filled["lists"] else "watch",
            )
        )
    table = Figure(
        "rules-counts",
        "What each rule did",
        "How many results it left out, how many rows it added or moved up, how many lists lack what"
        " it asks for, and how many it left empty.",
        None,
        [column.capitalize() for column in RULE_COLUMNS],
        list_rule_rows(rules),
    )
    return ReportSection("rules", "Rules", [_TEXT], tiles, [table])
