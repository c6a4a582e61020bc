"""What the rules did to the lists: a section of the report, and rows for tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from batchrec_dagster.reporting.badges import FEW_SHORT_LISTS, judge_short_lists
from batchrec_dagster.reporting.sections import Figure, ReportSection, Tile, format_count
from batchrec_dagster.reporting.verdict import MANY_SHORT_SHARE

RULE_COLUMNS = ("rule", "results left out", "rows added", "lists that lack it", "lists emptied")
_TEXT = (
    "recommendations.rules were applied in this order to the results of the model, of which more"
    " were asked for than a list has. What they left short was filled with popular items."
)
_TEXT_WITHOUT_MODEL = (
    "The rules were applied in this order to what goes with the last orders. What they left short"
    " was filled with popular items."
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


COST_COLUMNS = ("rule", "NDCG", "change", "95% interval of the change")


def list_cost_rows(costs: Mapping[str, Any]) -> list[list[str]]:
    """The cells under COST_COLUMNS: without rules, with each rule alone, and with all.

    costs: as an edition's metadata have them.
    """
    return [
        ["none", f"{costs['ndcg_without']:.4f}", "", ""],
        *(
            [
                rule["rule"],
                f"{rule['ndcg']:.4f}",
                f"{rule['change']:+.4f}",
                f"{rule['low']:+.4f} to {rule['high']:+.4f}",
            ]
            for rule in costs["rules"]
        ),
    ]


def describe_costs(costs: Mapping[str, Any]) -> str:
    """What the costs were measured on."""
    return (
        f"Lists of the results that edition {costs['edition']} was made from, before rules: without"
        f" any, with each rule alone and with all, by what {costs['users']:,} users chose since."
        " People may have seen the edition's lists, which favours its rules."
    )


def _align_numbers(rows: Sequence[Sequence[str]]) -> list[list[str | Markup]]:
    """The rows, whose cells but the first are numbers, as the page aligns them."""
    return [[name, *map(Markup("{}").format, numbers)] for name, *numbers in rows]


def build_rules_section(
    rules: Sequence[Mapping[str, Any]] | None,
    filled: Mapping[str, int] | None,
    costs: Mapping[str, Any] | None = None,
    *,
    has_model: bool = True,
) -> ReportSection | None:
    """The section; None if no rules made the lists.

    rules, filled, costs: as an edition's metadata have them; None where they do not.
    has_model: whether a model made the lists, and not similar items of last orders.
    """
    if not rules:
        return None
    tiles = []
    if filled is not None:
        results = "of the model's results" if has_model else "items that go with the last order"
        tiles.append(
            Tile(
                "rules_short_lists",
                "Lists that rules left short",
                format_count(filled["short_of_model"]),
                f"of {filled['lists']:,} had too few {results} left."
                f" {filled['popular_rows']:,} popular items fill these, and the places that"
                " at_least keeps.",
                judge_short_lists(
                    filled["short_of_model"],
                    filled["lists"],
                    FEW_SHORT_LISTS if has_model else MANY_SHORT_SHARE,
                ),
            )
        )
    table = Figure(
        "rules-counts",
        "What each rule did",
        "How many results it left out, how many rows it added or moved up, how many lists lack what"
        " it asks for, and how many it left empty.",
        None,
        [column.capitalize() for column in RULE_COLUMNS],
        _align_numbers(list_rule_rows(rules)),
        fold=f"{sum(rule['removed'] for rule in rules):,} results left out,"
        f" {sum(rule['added'] for rule in rules):,} rows added",
    )
    tables = [table]
    if costs is not None:
        title = "What rules cost"
        rows = _align_numbers(list_cost_rows(costs))
        tables.append(Figure("rules-costs", title, describe_costs(costs), None, COST_COLUMNS, rows))
    text = _TEXT if has_model else _TEXT_WITHOUT_MODEL
    return ReportSection("rules", "Rules", [text], tiles, tables)
