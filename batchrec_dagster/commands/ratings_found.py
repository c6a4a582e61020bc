"""What `batchrec new` finds out about ratings: which column is what, whether they are enough."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from batchrec_dagster.commands.first_look import FirstLook, first_look
from batchrec_dagster.formats.interactions import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID, csv_types
from batchrec_dagster.pipeline.checks import EARLIEST, enough, plausible
from batchrec_dagster.preparation import times
from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.layout import EPOCH_UNITS, Column
from batchrec_dagster.preparation.local import opened
from batchrec_dagster.preparation.names import recognise
from batchrec_dagster.preparation.opening import RawFile, open_file
from batchrec_dagster.preparation.recognition import Reading
from batchrec_dagster.preparation.rules import BELOW_MIN_RATING, Rules
from batchrec_dagster.preparation.sources import known_layout

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


@dataclass(frozen=True)
class Found:
    """What is declared of the ratings, and what it was found by.

    `columns` is empty for sources that are known. `kinds`: the kinds of events and how many there
    are, the most first. `items`: the ids. `warnings` are lines for people.
    """

    name: str
    format: str
    delimiter: str | None
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
    known = known_layout(source)
    if known is not None and not asked:
        reading, look, columns = Reading.of(known), None, {}
        scale = None
    else:
        look = _look(files, asked, delimiter)
        columns = _columns(look, asked)
        time_format = time_format or _time_format(look, columns["timestamp"])
        scale = _scale(look, columns)
        reading = Reading(
            format=look.format,
            delimiter=look.delimiter,
            columns=columns,
            timestamp_unit=time_format or times.AUTO,
        )
    min_rating = LIKED.get(_top(scale))
    if known is not None:
        min_rating = 3.5 if known.rating is not None else None
    if min_rating is None and "rating" in columns:
        # Where they do not count, those that are missing do no harm.
        columns = {role: column for role, column in columns.items() if role != "rating"}
        reading = Reading(**{**vars(reading), "columns": columns})
    kinds = "event_type" in columns
    rules = Rules(on_bad_rows="skip", min_rating=min_rating, event_type=kinds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.csv"
        with opened(files, reading, rules) as ratings:
            done = ratings.write_interactions(path)
            layout = ratings.layout
        with path.open() as file:
            header = file.readline().strip().split(",")
        rows = pl.scan_csv(path, schema=csv_types(header), glob=False)
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
        columns=columns,
        timestamp_unit=done.timestamp_unit,
        timestamp_format=time_format if columns else None,
        min_rating=min_rating,
        scale=scale,
        rows=done.rows_read,
        kept=done.rows_kept,
        users=len(users),
        items=items,
        first=_day(first),
        last=_day(last),
        kinds=dict(sorted(counts, key=lambda count: (-count[1], count[0]))),
        warnings=warnings,
    )


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


def _columns(look: FirstLook, asked: Mapping[str, Column]) -> dict[str, Column]:
    """The columns by role, as told, by their names, or by what is in them."""
    for role, column in asked.items():
        if isinstance(column, str) and column not in look.columns:
            raise UnknownColumnsError(
                f"{look.name} has no column {column!r} ({role}); it has: {_listed(look)}"
            )
        if isinstance(column, int) and not 1 <= column <= len(look.columns):
            raise UnknownColumnsError(
                f"{look.name} has {len(look.columns)} columns, and so no column {column} ({role})"
            )
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
    seconds = pl.select(times.seconds(pl.lit(cells), forms[0])).to_series()
    low, high = int(seconds.min() or 0), int(seconds.max() or 0)  # type: ignore[arg-type]
    return EARLIEST.timestamp() <= low and high <= datetime.now(UTC).timestamp() + 86_400


def _time_format(look: FirstLook, column: Column) -> str | None:
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


def _scale(look: FirstLook, columns: Mapping[str, Column]) -> tuple[float, float] | None:
    """The least and the largest rating of the first rows; None where there are none."""
    if "rating" not in columns:
        return None
    numbers = look.column(columns["rating"]).cast(pl.Float64, strict=False).drop_nulls()
    numbers = numbers.filter(numbers.is_finite())
    if not len(numbers):
        return None
    return float(str(numbers.min())), float(str(numbers.max()))


def _top(scale: tuple[float, float] | None) -> int:
    """Where the scale ends, of those that people rate on; 0 for any other."""
    if scale is None or scale[0] < 0:
        return 0
    return next((top for top in LIKED if top - 1 <= scale[1] <= top), 0)


def _day(seconds: int | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
