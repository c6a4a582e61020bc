"""What the report shows of recommended items: how well known, how new and how diverse they are."""

from __future__ import annotations

from markupsafe import Markup

from batchrec_dagster.reporting.charts import Chart, ChartRow
from batchrec_dagster.reporting.facts import Facts
from batchrec_dagster.reporting.figures import HISTORIES, LISTS
from batchrec_dagster.reporting.item_ages import AGES, AgeGroups, ItemAges
from batchrec_dagster.reporting.report_counts import RECENT_DAYS
from batchrec_dagster.reporting.sections import (
    Figure,
    Tile,
    format_count,
    format_percent,
    format_score,
)

CATALOGUE = "In the catalogue"
RECENT = f"Chosen in the last {RECENT_DAYS} days"
DAYS_A_YEAR = 365.25
# Smaller shares are written as 0.0%, as if there were none.
LEAST_SHARE = 0.0005


def make_age_tile(facts: Facts) -> Tile | None:
    """How new the recommended items are; None if that is not known."""
    ages = facts.catalogue.ages
    if ages is None:
        return None
    compared = f"in the catalogue {describe_days(ages.catalogue.median)}"
    if ages.recent is not None:
        compared += f", of what people chose lately {describe_days(ages.recent.median)}"
    return Tile(
        "median_item_age",
        "Median item age",
        _format_age(ages.lists.median),
        f"in the lists, {_describe_beginning(ages)}; {compared}",
    )


def draw_novelty(facts: Facts) -> Figure:
    """How well known the recommended items are, compared with the histories."""
    novelty = facts.catalogue.novelty
    sides = (novelty.lists, novelty.histories)
    note = (
        "The percentile is 1 for the most popular item and 0 for items without interactions; its"
        " mean is LensKit's MeanPopRank. Self-information is the negative binary logarithm of an"
        " item's share of all interactions: one bit more is half as popular."
    )
    if novelty.share_without_interactions >= LEAST_SHARE:
        note += (
            f" {novelty.share_without_interactions:.1%} of all recommendations are items without"
            " interactions."
        )
    return Figure(
        "novelty",
        "How well known the recommended items are",
        "The lower the rank, the more people know the items. Lists of well-known items are safe,"
        " and tell people little that is new to them.",
        None,
        ["Measure", LISTS, HISTORIES],
        [
            ["Median popularity rank", *(format_count(side.median_rank) for side in sides)],
            ["Mean popularity percentile", *(format_score(side.percentile) for side in sides)],
            [
                "Mean self-information, bits",
                *(_format_bits(side.information) for side in sides),
            ],
        ],
        note=note,
        fold=f"median popularity rank {novelty.lists.median_rank:,} in the lists,"
        f" {novelty.histories.median_rank:,} in the histories",
    )


def draw_ages(facts: Facts) -> Figure | None:
    """How new the recommended items are; None if that is not known."""
    ages = facts.catalogue.ages
    if ages is None:
        return None
    sides: dict[str, AgeGroups] = {LISTS: ages.lists, CATALOGUE: ages.catalogue}
    if ages.recent is not None:
        sides[RECENT] = ages.recent
    compared = RECENT if RECENT in sides else CATALOGUE
    rows: list[ChartRow] = [
        (label, ages.lists.shares[number], sides[compared].shares[number])
        for number, label in enumerate(AGES)
    ]
    medians = [format_count(round(side.median)) for side in sides.values()]
    return Figure(
        "ages",
        "How new the recommended items are",
        f"Items by their age, {_describe_beginning(ages)}: the share of all recommendations"
        " compared with what people chose lately and with the catalogue.",
        Chart("horizontal bars", "Age", "Share", [LISTS, compared], rows, percent=True),
        ["Age", *sides],
        [
            *(
                [label, *(format_percent(side.shares[number]) for side in sides.values())]
                for number, label in enumerate(AGES)
            ),
            ["Median, days", *medians],
        ],
        note="Ages are those at the end of the data. Those of what people chose are of the time of"
        f" the choice. {ages.items_with_age:,} items have one.",
        fold=f"half of the recommendations are at most {describe_days(ages.lists.median)} old",
    )


def draw_values_per_list(facts: Facts) -> Figure | None:
    """How many values of a category the lists have, list by list; None without a category."""
    values = facts.values_per_list
    if values is None:
        return None
    low, high = values.find_quantile(0.25), values.find_quantile(0.75)
    range_text = f"{low}" if low == high else f"{low} to {high}"
    sample = (
        f"a sample of {values.lists:,} lists" if values.is_sample else f"{values.lists:,} lists"
    )
    return Figure(
        "values-per-list",
        f"{values.category} a list",
        f"How many different values of {values.category} a list has, over {sample}. An item with"
        " several values counts for each.",
        Chart(
            "bars",
            "Different values",
            "Lists",
            ["Lists"],
            [(f"{number}", lists) for number, lists in values.numbers],
        ),
        ["Different values", "Lists"],
        [[f"{number}", format_count(lists)] for number, lists in values.numbers],
        fold=f"half of the lists have {range_text}",
    )


def describe_days(days: float) -> str:
    """An age in words, such as `12 days` or `3.4 years`."""
    if days < DAYS_A_YEAR:
        whole_days = round(days)
        return "1 day" if whole_days == 1 else f"{whole_days} days"
    return f"{days / DAYS_A_YEAR:.1f} years"


def _format_bits(value: float) -> Markup:
    return Markup('<data value="{}">{:.1f}</data>').format(value, value)


def _format_age(days: float) -> Markup:
    """An age in words, and its days as a value for programs."""
    return Markup('<data value="{}">{}</data>').format(round(days), describe_days(days))


def _describe_beginning(ages: ItemAges) -> str:
    """What the ages count from, such as `since their first interaction`."""
    return "since their time of creation" if ages.is_declared else "since their first interaction"
