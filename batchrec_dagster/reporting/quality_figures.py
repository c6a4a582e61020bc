"""The figures of quality in parts: by length of list, by columns of users, by categories of items.

The embedded engine measures its tested users one by one, and so has these parts. Amazon Personalize
gives only means over all tested users, so that the first items of the lists are the only part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from batchrec_dagster.personalize.breakdown import (
    ColumnQuality,
    ComparedEstimate,
    DepthQuality,
)
from batchrec_dagster.personalize.evidence import EMBEDDED, name_ndcg
from batchrec_dagster.reporting.charts import Chart
from batchrec_dagster.reporting.facts import Facts
from batchrec_dagster.reporting.figures import MODEL, POPULAR, format_estimate
from batchrec_dagster.reporting.sections import (
    Figure,
    FigureGroup,
    format_count,
    format_percent,
    format_score,
    name_value,
)

# How many columns have a figure: those whose values differ most. The others are only named.
MOST_FIGURES = 3
# The headings of the tables of groups, after the one of their values.
GROUP_HEADINGS = ("Users", "Model", "Popular", "Lead")
# What all figures of list lengths are called.
LENGTHS_NAME, LENGTHS_TITLE = "list-lengths", "Quality by list length"
LENGTHS_NOTE = (
    "Precision is the share of these items that people chose next; NDCG also counts how near the"
    " top they are. Measured on the model's own lists, before rules."
)
# The lengths that Personalize measures.
DEPTHS = (5, 10, 25)
DEPTH_METRICS = ("normalized_discounted_cumulative_gain_at_{}", "precision_at_{}")


def draw_list_lengths(facts: Facts) -> Figure | None:
    """The quality of the first 5, 10 and 25 items of the lists; None if it is not known.

    Only lengths that the published lists have are shown.
    """
    longest = max(facts.catalogue.longest, DEPTHS[0])
    breakdown = facts.run.breakdown
    if breakdown is not None:
        depths = [part for part in breakdown.depths if part.depth <= longest]
        return _draw_measured_lengths(depths) if len(depths) > 1 else None
    return _draw_mean_lengths(
        facts.run.metrics,
        facts.run.popularity,
        [depth for depth in DEPTHS if depth <= longest],
    )


def _draw_measured_lengths(depths: Sequence[DepthQuality]) -> Figure:
    first, last = depths[0], depths[-1]
    return Figure(
        LENGTHS_NAME,
        LENGTHS_TITLE,
        "The share of tested users who chose at least one of the first items of their list (hit"
        " rate).",
        Chart(
            "lines",
            "First items of the list",
            "Users",
            [MODEL, POPULAR],
            [
                (f"{part.depth}", part.hit_rate.model.value, part.hit_rate.popular.value)
                for part in depths
            ],
            percent=True,
            intervals=[_list_intervals(part.hit_rate) for part in depths],
        ),
        ["First items", "Hit rate", "of popular items", "NDCG", "Precision"],
        [
            [
                f"{part.depth}",
                format_estimate(part.hit_rate.model, format_percent),
                format_estimate(part.hit_rate.popular, format_percent),
                format_estimate(part.ndcg.model),
                format_estimate(part.precision.model),
            ]
            for part in depths
        ],
        note=LENGTHS_NOTE,
        fold=f"{first.depth} items reach {first.hit_rate.model.value:.1%} of the tested users,"
        f" {last.depth} reach {last.hit_rate.model.value:.1%}",
    )


def _draw_mean_lengths(
    metrics: Mapping[str, float], popularity: Mapping[str, float], depths: Sequence[int]
) -> Figure | None:
    """The means of all tested users; None if they are not known for two lengths."""
    depths = [
        depth for depth in depths if all(name.format(depth) in metrics for name in DEPTH_METRICS)
    ]
    if len(depths) < 2:
        return None
    ndcg, precision = DEPTH_METRICS
    has_popularity = all(ndcg.format(depth) in popularity for depth in depths)
    series = [MODEL, POPULAR] if has_popularity else [MODEL]
    sources = [metrics, popularity] if has_popularity else [metrics]
    values = {depth: [source[ndcg.format(depth)] for source in sources] for depth in depths}
    return Figure(
        LENGTHS_NAME,
        LENGTHS_TITLE,
        "NDCG of the first items of the lists.",
        Chart(
            "lines",
            "First items of the list",
            "NDCG",
            series,
            [(f"{depth}", *numbers) for depth, numbers in values.items()],
        ),
        ["First items", "NDCG", *(["of popular items"] if has_popularity else []), "Precision"],
        [
            [
                f"{depth}",
                *map(format_score, numbers),
                format_score(metrics[precision.format(depth)]),
            ]
            for depth, numbers in values.items()
        ],
        note=f"{LENGTHS_NOTE} These are means, whose intervals are not known.",
        fold=f"NDCG {values[depths[0]][0]:.4f} for {depths[0]} items,"
        f" {values[depths[-1]][0]:.4f} for {depths[-1]}",
    )


def draw_user_columns(facts: Facts) -> list[Figure]:
    """NDCG@25 by the columns of users whose values differ most."""
    columns = _list_user_columns(facts)
    name = name_ndcg(facts.run.target_events)
    figures = [
        Figure(
            f"users-column{number}",
            f"Quality by {column.column}",
            f"{name} of the tested users with each value of {column.column} in the file of users.",
            _draw_groups(column, name, percent=False),
            [column.column, *GROUP_HEADINGS],
            _list_group_rows(column, format_score),
            note="A difference between values is no fault of the model: some people's choices are"
            " harder to foresee.",
        )
        for number, column in enumerate(columns[:MOST_FIGURES], 1)
    ]
    return _name_columns_without_figure(figures, columns)


def group_user_columns(facts: Facts, figures: Sequence[Figure]) -> FigureGroup | None:
    """The figures of `draw_user_columns` after the first, which stands open; None without any."""
    columns = _list_user_columns(facts)[1:MOST_FIGURES]
    if not columns:
        return None
    return FigureGroup(
        "users-columns",
        f"Quality by {_join_names(columns)}",
        _summarize(name_ndcg(facts.run.target_events), columns, "{:.4f}"),
        figures[1:],
    )


def group_item_categories(facts: Facts) -> FigureGroup | None:
    """Recall by the categories of items whose values differ most; None if it is not known."""
    breakdown = facts.run.breakdown
    columns = _sort_by_difference(breakdown.items or () if breakdown else ())
    if not columns:
        return None
    figures = [
        Figure(
            f"items-column{number}",
            f"Recall by {column.column}",
            "Of the items that tested users chose next, the share that was on their list of 25.",
            _draw_groups(column, "Recall", percent=True),
            [column.column, *GROUP_HEADINGS],
            _list_group_rows(column, format_percent),
            note="Users are those who chose such an item. An item with several values counts for"
            " each.",
        )
        for number, column in enumerate(columns[:MOST_FIGURES], 1)
    ]
    return FigureGroup(
        "items-columns",
        f"Recall by {_join_names(columns[:MOST_FIGURES])}",
        _summarize("recall", columns[:MOST_FIGURES], "{:.1%}"),
        _name_columns_without_figure(figures, columns),
    )


def explain_missing_columns(facts: Facts) -> str:
    """Why the quality by columns of users is not known, in sentences; empty if it is known, or if
    no column is declared."""
    run = facts.run
    columns = run.user_columns
    if not columns or (run.breakdown is not None and run.breakdown.users):
        return ""
    names = ", ".join(columns)
    if run.engine != EMBEDDED:
        return (
            f"{run.engine} gives only means over all tested users, so the quality by {names} is not"
            " known. What people with each value did after they had the lists is measured"
            " by batchrec, in the section about what people did with the lists."
        )
    if run.breakdown is None or run.breakdown.users is None:
        return (
            f"An earlier version of batchrec trained this model and did not keep {names} of the"
            " tested users. The next training does."
        )
    return f"No tested user has a value of {names}."


def _list_user_columns(facts: Facts) -> list[ColumnQuality]:
    """The quality by columns of users, those first whose values differ most; empty if unknown."""
    breakdown = facts.run.breakdown
    return _sort_by_difference(breakdown.users or () if breakdown else ())


def _sort_by_difference(columns: Sequence[ColumnQuality]) -> list[ColumnQuality]:
    """The columns that have groups, those first whose groups with an interval differ most."""

    def measure_difference(column: ColumnQuality) -> float:
        values = _list_certain_values(column)
        return max(values) - min(values) if values else 0.0

    return sorted(
        (column for column in columns if column.groups), key=measure_difference, reverse=True
    )


def _list_certain_values(column: ColumnQuality) -> list[float]:
    """The model's metric of each group that has an interval."""
    return [
        group.metric.model.value
        for group in column.groups
        if group.metric.model.interval is not None
    ]


def _join_names(columns: Sequence[ColumnQuality]) -> str:
    return ", ".join(column.column for column in columns)


def _summarize(metric: str, columns: Sequence[ColumnQuality], pattern: str) -> str:
    """The range of the metric over the groups that have an interval, on the line of a fold."""
    values = [value for column in columns for value in _list_certain_values(column)]
    if not values:
        return "too few users for an interval"
    low, high = (pattern.format(end) for end in (min(values), max(values)))
    return f"{metric} {low}" if low == high else f"{metric} from {low} to {high}"


def _name_columns_without_figure(
    figures: list[Figure], columns: Sequence[ColumnQuality]
) -> list[Figure]:
    """The figures, of which the last names the columns that have none."""
    names = _join_names(columns[MOST_FIGURES:])
    if not names:
        return figures
    *first_figures, last = figures
    return [*first_figures, replace(last, note=f"{last.note} Values of {names} differ less.")]


def _list_group_rows(
    column: ColumnQuality, format_number: Callable[[float], Markup]
) -> list[list[str | Markup]]:
    """A row for each group of the column, with the cells of GROUP_HEADINGS."""
    return [
        [
            name_value(group.value),
            format_count(group.users),
            format_number(group.metric.model.value),
            format_number(group.metric.popular.value),
            format_estimate(group.metric.difference, format_number),
        ]
        for group in column.groups
    ]


def _draw_groups(column: ColumnQuality, metric: str, *, percent: bool) -> Chart:
    return Chart(
        "horizontal bars",
        f"{column.column} (users)",
        metric,
        [MODEL, POPULAR],
        [
            (
                f"{name_value(group.value)} ({group.users:,})",
                group.metric.model.value,
                group.metric.popular.value,
            )
            for group in column.groups
        ],
        percent=percent,
        intervals=[_list_intervals(group.metric) for group in column.groups],
        needs_intervals=True,
    )


def _list_intervals(metric: ComparedEstimate) -> list[tuple[float, float] | None]:
    return [metric.model.interval, metric.popular.interval]
