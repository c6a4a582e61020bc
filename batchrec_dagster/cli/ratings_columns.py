"""Which column of a file of ratings is what, and how it is written: by names, and by the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.cli.first_look import FirstLook
from batchrec_dagster.preparation.column_aliases import recognise
from batchrec_dagster.preparation.layout import EPOCH_UNITS, Column, Decimal, PreparationError
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import pointed
from batchrec_dagster.steps.checks import CLOCK_SLACK, EARLIEST

# From the option that says which column it is, to its role.
OPTIONS = {"--user": "user", "--item": "item", "--time": "timestamp"}
# A column of so many kinds is of no kinds.
MOST_KINDS = 30
# How people write times where no standard tells them: what reads all of the first rows is it,
# unless another does too.
FORMATS = (
    "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y", "%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S",
    "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S",
)  # fmt: skip
# Of a scale that goes so far, ratings from there on say that someone liked it.
LIKED = {5: 3.5, 10: 7.0}


class UnknownColumnsError(PreparationError):
    """Some columns are not known by their names; the message says which options tell them."""


def columns_of(look: FirstLook, asked: Mapping[str, Column]) -> dict[str, Column]:
    """The columns by role, as told, by their names, or by what is in them."""
    check_there(look, asked)
    names = recognise(look.columns) if look.has_header else {}
    columns: dict[str, Column] = {
        **{role: name for role, name in names.items() if name not in asked.values()},
        **asked,
    }
    if "timestamp" not in columns:
        candidates = [name for name in look.columns if _is_time(look, name)]
        if len(candidates) == 1 and look.has_header and candidates[0] not in columns.values():
            columns["timestamp"] = candidates[0]
    if missing := [option for option, role in OPTIONS.items() if role not in columns]:
        what = " and ".join(OPTIONS[option].replace("timestamp", "time") for option in missing)
        told = " ".join(f"{option} COL" for option in missing)
        if not look.has_header:
            raise UnknownColumnsError(
                f"{look.name} has no names in line 1 ({', '.join(look.cells.row(0))}): say by"
                f" position, from 1, which column is the {what}, and the rating if there is one:"
                f" {told} --rating COL"
            )
        raise UnknownColumnsError(
            f"{look.name}: which column is the {what} is not known; it has: {_listed(look)}; say"
            f" it: {told}"
        )
    if "event_type" in columns and "event_type" not in asked:
        kinds = look.column(columns["event_type"])
        if not len(kinds) or kinds.n_unique() > MOST_KINDS:
            del columns["event_type"]
    return columns


def check_there(look: FirstLook, asked: Mapping[str, Column]) -> None:
    """Raise UnknownColumnsError unless the file has the columns that were told, by role."""
    for role, column in asked.items():
        if isinstance(column, str) and column not in look.columns:
            raise UnknownColumnsError(
                f"{look.name} has no column {column!r} ({role}); it has: {_listed(look)}"
            )
        if isinstance(column, int) and not 1 <= column <= len(look.columns):
            raise UnknownColumnsError(
                f"{look.name} has {len(look.columns)} columns, and so no column {column} ({role})"
            )


def _listed(look: FirstLook) -> str:
    return ", ".join(look.columns)


def _is_time(look: FirstLook, name: str) -> bool:
    """Whether all of the first rows have a time there, of ISO 8601 or of an epoch since 1980."""
    if name in look.temporal:
        return True
    cells = look.column(name)
    forms = pl.select(times.form(pl.lit(cells)).alias("form")).to_series().unique().to_list()
    if len(forms) != 1 or forms[0] is None:
        return False
    if forms[0] not in EPOCH_UNITS:
        return True
    seconds = times.seconds(pl.lit(cells), forms[0])
    tomorrow = int((datetime.now(UTC) + CLOCK_SLACK).timestamp())
    plausible = seconds.is_between(int(EARLIEST.timestamp()), tomorrow).all()
    return bool(pl.select(plausible).item())


def time_format_of(look: FirstLook, column: Column) -> str | None:
    """How the times are written, where that is none of the ways that are found out on each run."""
    cells = look.column(column)
    if column in look.temporal or not len(cells):
        return None
    if not pl.select(times.form(pl.lit(cells)).is_null().all()).item():
        return None
    fitting = [
        written
        for written in FORMATS
        if not pl.select(times.seconds(pl.lit(cells), written).is_null().any()).item()
    ]
    if len(fitting) == 1:
        return fitting[0]
    either = f" ({' or '.join(fitting)})" if fitting else ""
    raise PreparationError(
        f"{look.name}: it is not known how the times in column {column} are written, such as"
        f" {cells.item(0)!r}{either}: say it as for strptime, --time-format '%d.%m.%Y %H:%M'"
    )


def decimal_of(look: FirstLook, columns: Iterable[Column]) -> Decimal:
    """What stands before the fraction of the numbers in these columns: a comma, where the first
    cells of any are whole numbers and such with a comma."""

    def has_comma(cells: pl.Series) -> bool:
        numbers = cells.str.contains(r"^[+-]?[0-9]+(?:,[0-9]+)?$").all()
        return bool(numbers and cells.str.contains(",", literal=True).any())

    return "," if look.format == "csv" and any(map(has_comma, map(look.column, columns))) else "."


def numbers_of(cells: pl.Series, decimal: Decimal) -> pl.Series:
    """The numbers in the cells; null for what is none."""
    text = pl.lit(cells) if decimal == "." else pointed(pl.lit(cells))
    return pl.select(text.cast(pl.Float64, strict=False)).to_series()


def scale_of(
    look: FirstLook, columns: Mapping[str, Column], decimal: Decimal
) -> tuple[float, float] | None:
    """The least and the largest rating of the first rows; None where there are none."""
    if "rating" not in columns:
        return None
    numbers = numbers_of(look.column(columns["rating"]), decimal).drop_nulls()
    numbers = numbers.filter(numbers.is_finite())
    if not len(numbers):
        return None
    low, high = pl.select(low=pl.lit(numbers).min(), high=pl.lit(numbers).max()).row(0)
    return low, high


def liked(scale: tuple[float, float] | None) -> float | None:
    """From which rating on someone liked it; None on a scale that is none of people's usual."""
    if scale is None or scale[0] < 0:
        return None
    return next((LIKED[top] for top in LIKED if top - 1 <= scale[1] <= top), None)
