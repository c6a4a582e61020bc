"""What `batchrec new` finds out about ratings: which column is what, whether they are enough."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from batchrec_dagster.cli.first_look import FirstLook, first_look
from batchrec_dagster.cli.ratings_columns import (
    LIKED,
    columns_of,
    decimal_of,
    liked,
    scale_of,
    time_format_of,
)
from batchrec_dagster.personalize.datasets import (
    EVENT_TYPE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
    csv_types,
    interactions_columns,
)
from batchrec_dagster.preparation.layout import Column, PreparationError
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.decoding import RawFile, open_file
from batchrec_dagster.preparation.polars.prepare import opened
from batchrec_dagster.preparation.recognition import Reading
from batchrec_dagster.preparation.rules import BELOW_MIN_RATING, Rules
from batchrec_dagster.preparation.sources.source import known_layout
from batchrec_dagster.steps.checks import enough, plausible


@dataclass(frozen=True)
class Found:
    """What is declared of the ratings, and what it was found by.

    `columns` is empty for sources that are known. `kinds`: the kinds of events and how many there
    are, the most first. `items`: the ids. `warnings` are lines for people.
    """

    name: str
    format: str
    delimiter: str | None
    decimal: str
    columns: Mapping[str, Column]
    timestamp_unit: str
    timestamp_format: str | None
    min_rating: float | None
    scale: tuple[float, float] | None
    rows: int
    kept: int
    users: int
    items: pl.Series
    first: datetime | None
    last: datetime | None
    kinds: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class _Declared:
    """How to read the files, and what of it the declaration says."""

    reading: Reading
    columns: Mapping[str, Column] = field(default_factory=dict)
    time_format: str | None = None
    min_rating: float | None = None
    scale: tuple[float, float] | None = None


def find_out(
    source: str,
    files: Sequence[RawFile],
    asked: Mapping[str, Column],
    *,
    delimiter: str | None = None,
    time_format: str | None = None,
) -> Found:
    """Look at the files of a source. asked: the columns that someone has told, by role.

    Raises UnknownColumnsError, PreparationError.
    """
    declared = _declared(source, files, asked, delimiter, time_format)
    kinds = "event_type" in declared.columns
    rules = Rules(on_bad_rows="skip", min_rating=declared.min_rating, event_type=kinds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.csv"
        with opened(files, declared.reading, rules) as ratings:
            done = ratings.write_interactions(path)
            layout = ratings.layout
        rows = pl.scan_csv(
            path, schema=csv_types(interactions_columns(event_type=kinds)), glob=False
        )
        users = rows.group_by(USER_ID).len().collect(engine="streaming").get_column("len")
        items = rows.select(pl.col(ITEM_ID).unique()).collect(engine="streaming").to_series()
        time = pl.col(TIMESTAMP)
        first, last = rows.select(time.min().alias("first"), last=time.max()).collect().row(0)
        counts = rows.group_by(EVENT_TYPE).len().collect().rows() if kinds else []
    checks = [
        enough(done.rows_kept, len(users), int((users >= 2).sum())),
        plausible(first, last, done.timestamp_unit, datetime.now(UTC)),
    ]
    bad = done.rows_read - done.rows_kept - done.left_out.get(BELOW_MIN_RATING, 0)
    warnings = [check.found for check in checks if not check.passed]
    if "rating" in asked and "rating" not in declared.columns:
        warnings.append(_uncounted(asked["rating"], declared.scale))
    if bad:
        warnings.append(
            f"{bad:,} of {done.rows_read:,} rows cannot be read; the first:"
            f" {done.bad_row_examples[0]}: a run stops there, unless you set"
            " ratings.on_bad_rows: skip"
        )
    return Found(
        name=files[0].name if len(files) == 1 else f"{len(files):,} files",
        format=layout.format,
        delimiter=layout.delimiter if layout.format == "csv" else None,
        decimal=layout.decimal if declared.min_rating is not None else ".",
        columns=declared.columns,
        timestamp_unit=done.timestamp_unit,
        timestamp_format=declared.time_format,
        min_rating=declared.min_rating,
        scale=declared.scale,
        rows=done.rows_read,
        kept=done.rows_kept,
        users=len(users),
        items=items,
        first=_day(first),
        last=_day(last),
        kinds=dict(sorted(counts, key=lambda count: (-count[1], count[0]))),
        warnings=warnings,
    )


def _declared(
    source: str,
    files: Sequence[RawFile],
    asked: Mapping[str, Column],
    delimiter: str | None,
    time_format: str | None,
) -> _Declared:
    known = known_layout(source)
    if known is not None and not asked:
        return _Declared(Reading.of(known), min_rating=LIKED[5] if known.rating else None)
    look = _look(files, asked, delimiter)
    columns = columns_of(look, asked)
    decimal = decimal_of(look, [columns["rating"]] if "rating" in columns else [])
    scale = scale_of(look, columns, decimal)
    min_rating = liked(scale)
    if min_rating is None:
        # Where ratings do not count, those that are missing do no harm.
        columns.pop("rating", None)
    time_format = time_format or time_format_of(look, columns["timestamp"])
    reading = Reading(
        format=look.format,
        delimiter=look.delimiter,
        columns=columns,
        timestamp_unit=time_format or times.AUTO,
        decimal=decimal,
    )
    return _Declared(reading, columns, time_format, min_rating, scale)


def _uncounted(column: Column, scale: tuple[float, float] | None) -> str:
    """Why a column that someone told as the rating is not declared."""
    if scale is None:
        why = "has no numbers, such as 4.5 or 4,5"
    else:
        why = f"goes from {scale[0]:g} to {scale[1]:g}, which is no usual scale"
    return f"the rating in column {column} {why}: all rows count, whatever they hold there"


def _look(
    files: Sequence[RawFile], asked: Mapping[str, Column], delimiter: str | None
) -> FirstLook:
    positions = any(isinstance(column, int) for column in asked.values())
    with tempfile.TemporaryDirectory() as folder:
        # A file without a byte is none of many less.
        for file in files:
            found = open_file(file, "auto", Path(folder))
            if found.size:
                return first_look(found, delimiter=delimiter, positions=positions)
    raise PreparationError(f"{files[0].name} is empty")


def _day(seconds: int | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
