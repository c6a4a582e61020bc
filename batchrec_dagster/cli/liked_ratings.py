"""Which ratings say that someone liked an item: on scales of 5 and 10, and on others."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from batchrec_dagster.cli.column_candidates import UnknownColumnsError
from batchrec_dagster.cli.recognised_source import ALL_RATINGS
from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.polars.prepare import OpenedRatings
from batchrec_dagster.preparation.polars.rows import parse_as
from batchrec_dagster.preparation.rules import PreparationResult

# From the top of a rating scale to the lowest rating that says someone liked the item.
LIKED = {5: 3.5, 10: 7.0}
# On other scales the upper part, if at least this share of the ratings are in it. With fewer it is
# more likely a count.
UPPER_PART, LEAST_SHARE_LIKED = 0.7, 0.05
# Up to this many different ratings are taken for the steps of a scale.
MOST_STEPS = 30
# Up to this many different ratings are listed.
MOST_RATINGS_LISTED = 11


@dataclass(frozen=True)
class LikedRatings:
    """Which ratings count as a sign that someone liked the item."""

    lowest: float | None
    """The lowest rating that counts; None if all rows count."""

    distribution: str | None = None
    """How often which ratings occur, in words; None if the ratings were not read."""

    highest: float | None = None
    """The highest rating; None if the ratings were not read."""

    warning: str | None = None
    """Why the choice may be wrong."""


def _parse_lowest(min_rating: str) -> float | None:
    return None if min_rating == ALL_RATINGS else float(min_rating)


def choose_liked_ratings(opened: OpenedRatings, min_rating: str | None) -> LikedRatings:
    """Which ratings count: those that are given, or the upper ones of the scale.

    min_rating: as in `ReadingOptions`.
    Raises UnknownColumnsError if the scale does not show which ones are meant.
    """
    column = opened.layout.rating
    if column is None:
        if min_rating not in (None, ALL_RATINGS):
            raise UnknownColumnsError(f"--min-rating {min_rating} needs the column: --rating COL")
        return LikedRatings(None)
    ratings = _read_numbers(opened, column)
    name = f"the rating in column {column}"
    if ratings.is_empty():
        warning = f"{name} has no numbers such as 4.5 or 4,5. All rows count, whatever their rating"
        return LikedRatings(None, warning=warning)
    distribution = _describe_distribution(ratings)
    bottom, top = ratings.item(0), ratings.item(-1)
    if min_rating is not None:
        return LikedRatings(_parse_lowest(min_rating), distribution, top)
    if bottom == top:
        return LikedRatings(
            None, distribution, top, f"{name} is {top:g} in every row. All rows count"
        )
    scale = _find_scale(bottom, top)
    if scale is not None:
        return LikedRatings(LIKED[scale], distribution, top)
    lowest = _choose_lowest(ratings, bottom + UPPER_PART * (top - bottom))
    share = int((ratings >= lowest).sum()) / len(ratings)
    if share < LEAST_SHARE_LIKED:
        raise UnknownColumnsError(
            f"{name} is on no usual scale. {distribution}. Which ones say that someone liked the"
            f" item? Set --min-rating NUMBER, or --min-rating {ALL_RATINGS} if every row counts"
        )
    warning = (
        f"{name} is on no usual scale. {distribution}. {share:.0%} of them, those of {lowest:g} or"
        f" more, count: check it, or set --min-rating NUMBER (or {ALL_RATINGS})"
    )
    return LikedRatings(lowest, distribution, top, warning)


def is_usual_scale(cells: pl.Series) -> bool:
    """Whether the cells are numbers of one of the scales in LIKED, and not all the same."""
    numbers = pl.select(parse_as(pl.lit(cells), "double").alias("number")).to_series()
    if not len(numbers) or numbers.has_nulls() or numbers.n_unique() == 1:
        return False
    ordered = numbers.sort()
    return _find_scale(ordered.item(0), ordered.item(-1)) is not None


def _find_scale(bottom: float, top: float) -> int | None:
    """The top of the scale in LIKED that ratings from `bottom` to `top` are on."""
    return next((end for end in LIKED if bottom >= 0 and end - 1 <= top <= end), None)


def _read_numbers(opened: OpenedRatings, column: Column) -> pl.Series:
    """The numbers in the column of ratings, in order of size."""
    cells = pl.concat(
        table.read_cells({"rating": column}).select("rating") for table in opened.tables
    )
    numbers = cells.select(parse_as(pl.col("rating"), "double")).drop_nulls()
    return numbers.collect(engine="streaming").to_series().sort()


def _choose_lowest(ratings: pl.Series, at_least: float) -> float:
    """The lowest rating of a few different ones, else a round number."""
    distinct = ratings.unique().sort()
    if len(distinct) <= MOST_STEPS:
        return float(distinct.filter(distinct >= at_least).item(0))
    return float(f"{at_least:.2g}")


def _describe_distribution(ratings: pl.Series) -> str:
    """How often each of a few different ratings occurs, else their quartiles."""
    counts = ratings.value_counts().sort(ratings.name).rows()
    if len(counts) <= MOST_RATINGS_LISTED:
        return "Ratings: " + ", ".join(f"{rating:g} ({count:,})" for rating, count in counts)
    quarters = [ratings.quantile(share, "nearest") for share in (0.25, 0.5, 0.75)]
    quarter, half, three = (f"{number:g}" for number in quarters)
    return (
        f"Ratings go from {ratings.item(0):g} to {ratings.item(-1):g}: a quarter are up to"
        f" {quarter}, half up to {half}, three quarters up to {three}"
    )


def build_rating_rules(liked: LikedRatings, result: PreparationResult) -> list[str]:
    """The lines of the YAML that say which ratings count."""
    lines = [f"# {liked.distribution}."] if liked.distribution else []
    if liked.lowest is not None:
        counts = f"{result.rows_kept:,} of {result.rows_read:,}"
        lines.append(f"# {counts} rows are {liked.lowest:g} or more.")
        lines.append(f"min_rating: {liked.lowest:g}")
    elif liked.highest is not None:
        lines.append("# All ratings count. To drop low ones, set ratings.columns.rating, and:")
        lines.append(f"# min_rating: {liked.highest:g}")
    return lines
