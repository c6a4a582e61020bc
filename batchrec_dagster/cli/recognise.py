"""What `batchrec new` recognises in files of ratings and items."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.cli.column_candidates import (
    UnknownColumnsError,
    check_columns,
    describe_columns,
    has_times,
    list_columns,
    matching_time_formats,
    open_sample,
    recognise_time_format,
)
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    ITEM_ID,
    VALUE_SEPARATOR,
    choose_csv_types,
    list_interactions_columns,
)
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import (
    AUTO,
    NO_TIMES,
    NULL_VALUES,
    Column,
    PreparationError,
    recognise,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import OpenedRatings, find_first_unit, open_ratings
from batchrec_dagster.preparation.polars.rows import parse_as
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    InteractionCounts,
    PreparationResult,
    Rules,
)
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.preparation.users import count_rows
from batchrec_dagster.reporting.terminal import Column as TableColumn
from batchrec_dagster.reporting.terminal import TerminalTable, escape_invisible, render
from batchrec_dagster.steps.checks import (
    CheckResult,
    check_enough_interactions,
    check_timestamps_plausible,
)
from batchrec_dagster.storage.durable import temporary_folder

# The options that give the columns that every source of ratings must have.
OPTIONS = {"user": "--user", "item": "--item", "timestamp": "--time"}
RATING_ROLES = ("user", "item", "rating", "timestamp", "event_type", "event_value")
# An order has a user and items, and is neither.
ORDER = re.compile("order|bestell|auftrag|rechnung|invoice", re.IGNORECASE)
# A column with more different values than this does not hold event types.
MOST_KINDS = 30
# From the top of a rating scale to the lowest rating that says someone liked the item.
LIKED = {5: 3.5, 10: 7.0}
# On other scales the upper part, if that many are in it. With fewer it is more likely a count.
UPPER, LEAST_LIKED = 0.7, 0.05
# Rows that are shown as they were read.
PREVIEWED = 5
# Up to as many different ratings are listed.
MOST_COUNTED = 11
ALL = "none"
# Settings with these values are left out of the YAML.
DEFAULTS = {
    "decimal": ".",
    "separator": VALUE_SEPARATOR,
    "timestamp_format": AUTO,
    "encoding": "auto",
    "quotes": True,
}


@dataclass(frozen=True)
class RecognisedSource:
    """What was recognised of a source.

    settings: its block of the YAML; rules: lines of the block interactions; summary, warnings:
    lines for people; preview: a table for them; items: the distinct item ids.
    """

    settings: Mapping[str, object]
    summary: list[str]
    warnings: list[str]
    items: pl.Series
    rules: Sequence[str] = ()
    preview: str = ""


@dataclass(frozen=True)
class ReadingOptions:
    """What was asked of how to read the file; the rest is found out.

    min_rating: the lowest that counts, ALL for all; skip: drop bad rows; whole: these are all the
    files.
    """

    delimiter: str | None = None
    time_format: str | None = None
    min_rating: str | None = None
    encoding: str = "auto"
    quoted: bool = True
    null_values: Sequence[str] = ()
    timezone: str | None = None
    skip: bool = False
    whole: bool = True


def recognise_ratings(
    source: str, files: Sequence[RawFile], asked: Mapping[str, Column], options: ReadingOptions
) -> RecognisedSource:
    """Recognise and count the ratings in these files. asked: the columns given, by role.

    Raises UnknownColumnsError, and PreparationError, also for what would stop the pipeline.
    """
    known = parse_source(source).layout if not asked else None
    notes: list[str] = []
    if known is not None:
        reading = ReadSettings.of(known)
    else:
        given = ReadSettings(
            delimiter=options.delimiter,
            encoding=options.encoding,
            quoted=options.quoted,
            columns={role: column for role, column in asked.items() if column != NO_TIMES},
        )
        with open_sample(files, given) as sample:
            columns = _rating_columns(sample, asked)
            reading = _reading(sample, columns, options)
            if not sample.has_header and not asked:
                notes.append(
                    f"{sample.name} has no header. Its columns: {describe_columns(sample)}. Check"
                    " the preview"
                )
    rules = Rules(on_bad_rows="skip", event_type="event_type" in reading.columns and not known)
    with temporary_folder() as folder:
        path = folder / "interactions.csv"
        with open_ratings(files, reading, rules) as read:
            liked = (_known_liked if known else _liked)(read, options.min_rating)
            preview = _preview(read)
            layout, form = read.layout, read.layout.format
            if liked.low is None:
                # Without it ratings do not count, and missing ones do no harm.
                layout = replace(layout, rating=None, decimal=".")
            found = replace(read.recognised_layout, layout=layout)
            done = replace(
                read, recognised_layout=found, rules=replace(rules, min_rating=liked.low)
            ).write_interactions(path)
        types = choose_csv_types(list_interactions_columns(event_type=rules.event_type))
        rows = pl.scan_csv(path, schema=types, glob=False)
        counts = count_rows(rows)
        items = rows.select(pl.col(ITEM_ID).unique()).collect(engine="streaming").to_series()
        kinds = rows.group_by(EVENT_TYPE).len().collect().rows() if rules.event_type else []
    warnings = [*notes, *found.warnings, *_warnings(liked, done, counts, options)]
    settings = {"source": source} if known else _settings(source, reading, liked, options)
    return RecognisedSource(
        settings,
        [
            f"{hide_query(source)}: {done.rows_read:,} rows, {form}, of which",
            f"{done.rows_kept:,} count, of {counts.users:,} users and {counts.items:,} items,",
            _span(counts, done).finding.partition(";")[0],
        ],
        warnings,
        items,
        [*_rating_rules(liked, done), *_event_rules(reading.columns, kinds)],
        preview,
    )


def _warnings(
    liked: _Liked, done: PreparationResult, counts: InteractionCounts, options: ReadingOptions
) -> list[str]:
    """What to know of the rows. Raises PreparationError for what would stop the pipeline."""
    warnings = [liked.warning] if liked.warning else []
    low = done.left_out.get(BELOW_MIN_RATING, 0)
    if bad := done.rows_read - done.rows_kept - low:
        warnings.append(unreadable(bad, done.rows_read, done.bad_row_examples[0], options))
    enough_rows = check_enough_interactions(
        done.rows_kept, counts.users, counts.users_with_two, low
    )
    for check in (_span(counts, done), enough_rows):
        if not check.passed:
            if options.whole or check is not enough_rows:
                raise PreparationError(f"it could not run: {check.finding}")
            warnings.append(check.finding)
    return warnings


def _preview(read: OpenedRatings) -> str:
    """The first rows as they are read: the cells, times in UTC; safe for a terminal."""
    layout, roles = read.layout, dict(read.layout.roles)
    unit = find_first_unit(read.tables, layout, read.rules)
    moment = pl.from_epoch(times.parse_seconds(pl.col("timestamp"), unit, layout.timezone), "s")
    rows = read.tables[0].read_cells(roles).head(PREVIEWED).select(*roles).collect()
    if layout.timestamp is not None:
        rows = rows.with_columns(moment.dt.strftime("%Y-%m-%d %H:%M:%S").alias("timestamp"))
    columns = [TableColumn(role.replace("timestamp", "time (UTC)")) for role in roles]
    return render([], [[TerminalTable("", columns, rows.rows())]], width=None).strip()


def _span(counts: InteractionCounts, done: PreparationResult) -> CheckResult:
    now = datetime.now(UTC)
    return check_timestamps_plausible(counts.earliest, counts.latest, done.timestamp_unit, now)


@dataclass(frozen=True)
class _Liked:
    """Which ratings count: of `low` or more, or all. `seen`: their distribution in words, None if
    it was not looked at; `top`: the highest."""

    low: float | None
    seen: str | None = None
    top: float | None = None
    warning: str | None = None


def _known_liked(read: OpenedRatings, min_rating: str | None) -> _Liked:
    low = LIKED[5] if read.layout.rating else None
    return _Liked(low if min_rating is None else _asked_low(min_rating))


def _asked_low(min_rating: str) -> float | None:
    return None if min_rating == ALL else float(min_rating)


def _liked(read: OpenedRatings, min_rating: str | None) -> _Liked:
    """Which ratings count: as asked, or by their scale. Raises UnknownColumnsError if the scale
    does not say it."""
    column = read.layout.rating
    if column is None:
        if min_rating not in (None, ALL):
            raise UnknownColumnsError(f"--min-rating {min_rating} needs the column: --rating COL")
        return _Liked(None)
    cells = pl.concat(
        table.read_cells({"rating": column}).select("rating") for table in read.tables
    )
    numbers = cells.select(parse_as(pl.col("rating"), "double")).drop_nulls()
    ratings = numbers.collect(engine="streaming").to_series().sort()
    name = f"the rating in column {column}"
    if ratings.is_empty():
        why = f"{name} has no numbers such as 4.5 or 4,5. All rows count, whatever their rating"
        return _Liked(None, warning=why)
    seen, bottom, top = _distribution(ratings), ratings.item(0), ratings.item(-1)
    if min_rating is not None:
        return _Liked(_asked_low(min_rating), seen, top)
    if bottom == top:
        return _Liked(None, seen, top, f"{name} is {top:g} in every row. All rows count")
    usual = [liked for end, liked in LIKED.items() if bottom >= 0 and end - 1 <= top <= end]
    if usual:
        return _Liked(usual[0], seen, top)
    low = _low(ratings, bottom + UPPER * (top - bottom))
    share = int((ratings >= low).sum()) / len(ratings)
    if share < LEAST_LIKED:
        raise UnknownColumnsError(
            f"{name} is on no usual scale. {seen}. Which ones say that someone liked the item? Set"
            f" --min-rating NUMBER, or --min-rating {ALL} if every row counts"
        )
    warning = (
        f"{name} is on no usual scale. {seen}. {share:.0%} of them, those of {low:g} or more,"
        f" count: check it, or set --min-rating NUMBER (or {ALL})"
    )
    return _Liked(low, seen, top, warning)


def _low(ratings: pl.Series, at_least: float) -> float:
    """The lowest rating of a few different ones, else a round number."""
    kinds = ratings.unique().sort()
    if len(kinds) <= MOST_KINDS:
        return float(kinds.filter(kinds >= at_least).item(0))
    return float(f"{at_least:.2g}")


def _distribution(ratings: pl.Series) -> str:
    """How often each of a few different ratings occurs, else their quartiles."""
    counts = ratings.value_counts().sort(ratings.name).rows()
    if len(counts) <= MOST_COUNTED:
        return "Ratings: " + ", ".join(f"{rating:g} ({count:,})" for rating, count in counts)
    quarters = [ratings.quantile(share, "nearest") for share in (0.25, 0.5, 0.75)]
    quarter, half, three = (f"{number:g}" for number in quarters)
    return (
        f"Ratings go from {ratings.item(0):g} to {ratings.item(-1):g}: a quarter are up to"
        f" {quarter}, half up to {half}, three quarters up to {three}"
    )


def _reading(
    sample: FileSample, columns: Mapping[str, Column], options: ReadingOptions
) -> ReadSettings:
    if "timestamp" in columns:
        unit = options.time_format or recognise_time_format(sample, columns["timestamp"]) or AUTO
    else:
        unit = NO_TIMES
    return ReadSettings(
        format=sample.format,
        delimiter=sample.delimiter,
        encoding=options.encoding,
        quoted=options.quoted,
        columns={role: columns[role] for role in RATING_ROLES if role in columns},
        timestamp_unit=unit,
        decimal=sample.decimal([columns["rating"]] if "rating" in columns else []),
        null_values=[*NULL_VALUES, *options.null_values],
        timezone=options.timezone,
    )


def _settings(
    source: str, reading: ReadSettings, liked: _Liked, options: ReadingOptions
) -> dict[str, object]:
    left_out = () if liked.low is not None else ("rating",)
    columns = {role: c for role, c in reading.columns.items() if role not in left_out}
    has_times = reading.timestamp_unit != NO_TIMES
    settings = {
        "source": source,
        "format": reading.format,
        "delimiter": declared_delimiter(reading.delimiter, columns["item"]),
        "encoding": reading.encoding,
        "quotes": reading.quoted,
        "decimal": "." if left_out else reading.decimal,
        "columns": columns if has_times else {**columns, "timestamp": NO_TIMES},
        "timestamp_format": reading.timestamp_unit if has_times else AUTO,
        "timezone": reading.timezone,
        "null_values": list(options.null_values),
    }
    return {**declared(settings), **({} if reading.quoted else {"quotes": False})}


def _rating_columns(sample: FileSample, asked: Mapping[str, Column]) -> dict[str, Column]:
    """The columns by role: as given, else by their names, else by their contents."""
    without_times = asked.get("timestamp") == NO_TIMES
    asked = {role: column for role, column in asked.items() if column != NO_TIMES}
    check_columns(sample, asked)
    names = recognise(sample.columns) if sample.has_header else {}
    if not sample.has_header and not asked:
        return _by_position(sample, without_times=without_times)
    if without_times:
        names.pop("timestamp", None)
    columns: dict[str, Column] = {
        **{role: name for role, name in names.items() if name not in asked.values()},
        **asked,
    }
    free = [name for name in sample.columns if name not in columns.values()]
    if sample.has_header and "timestamp" not in columns and not without_times:
        candidates = [name for name in sample.columns if has_times(sample, name)]
        if len(candidates) == 1 and candidates[0] in free:
            columns["timestamp"] = candidates[0]
    wanted = [role for role in OPTIONS if role != "timestamp" or not without_times]
    missing = [role for role in wanted if role not in columns]
    if missing:
        raise _not_recognised(sample, missing, free)
    if "event_type" in columns and "event_type" not in asked:
        kinds = sample.cells(columns["event_type"])
        if not len(kinds) or kinds.n_unique() > MOST_KINDS:
            del columns["event_type"]
    return columns


def _by_position(sample: FileSample, *, without_times: bool) -> dict[str, Column]:
    """A user, an item, perhaps a rating, and a time, in columns of this order or nearly so."""
    found = [at for at, name in enumerate(sample.columns, 1) if has_times(sample, name)]
    if without_times == bool(found) or len(found) > 1:
        raise _not_recognised(sample, list(OPTIONS), [])
    others = [at for at in range(1, len(sample.columns) + 1) if at not in found]
    if len(others) not in (2, 3):
        raise _not_recognised(sample, list(OPTIONS), [])
    roles = dict(zip(("user", "item", "rating"), others, strict=False))
    if "rating" in roles and not sample.is_numeric(roles["rating"], "."):
        del roles["rating"]
    return {**roles, **({"timestamp": found[0]} if found else {})}


def _not_recognised(
    sample: FileSample, missing: Sequence[str], free: Sequence[str]
) -> UnknownColumnsError:
    no_times = " (or --time none)" if "timestamp" in missing else ""
    if not sample.has_header:
        options = " ".join(f"{OPTIONS[role]} COL" for role in missing)
        return UnknownColumnsError(
            f"{sample.name} has no header. Its columns: {describe_columns(sample)}. Give them by"
            f" position, from 1: {options}{no_times}, and --rating COL if there are ratings"
        )
    words = [role.replace("timestamp", "time") for role in missing]
    what = f"{', '.join(words[:-1])} and {words[-1]} columns" if words[1:] else f"{words[0]} column"
    dates = [
        name for name in free if has_times(sample, name) or matching_time_formats(sample, name)
    ]
    others = [name for name in free if name not in dates and not ORDER.search(name)]
    options = " ".join(
        f"{OPTIONS[role]} {shlex.quote(rest.pop(0)) if rest else 'COL'}"
        for role in missing
        for rest in [dates if role == "timestamp" else others]
    )
    return UnknownColumnsError(
        f"{sample.name}: couldn't recognise the {what}. Found: {list_columns(sample)}."
        f" Try: {options}{no_times}"
    )


def _rating_rules(liked: _Liked, done: PreparationResult) -> list[str]:
    lines = [f"# {liked.seen}."] if liked.seen else []
    if liked.low is not None:
        lines.append(f"# {done.rows_kept:,} of {done.rows_read:,} rows are {liked.low:g} or more.")
        lines.append(f"min_rating: {liked.low:g}")
    elif liked.top is not None:
        lines.append("# All ratings count. To drop low ones, set ratings.columns.rating, and:")
        lines.append(f"# min_rating: {liked.top:g}")
    return lines


def _event_rules(columns: Mapping[str, Column], kinds: Sequence[tuple[str, int]]) -> list[str]:
    """Comments in the YAML that name the event types, and show how to filter them."""
    if not kinds:
        return []
    kinds = sorted(kinds, key=lambda kind: (-kind[1], kind[0]))
    lines = [
        "# Events: " + ", ".join(f"{escape_invisible(kind)} ({count:,})" for kind, count in kinds)
    ]
    column, first = str(columns["event_type"]), kinds[0][0]
    if column.isidentifier() and "'" not in first:
        lines.append(escape_invisible(f"# filter: {column} <> '{first}'"))
    return lines


def declared(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that are given and differ from their defaults."""
    return {key: value for key, value in settings.items() if value and DEFAULTS.get(key) != value}


def declared_delimiter(delimiter: str | None, item: Column) -> str | None:
    """The delimiter as it is declared; None for a comma in a file whose columns have names.

    item: the column of the item. By position it says that there are no names, without which a run
    may see another delimiter in the file.
    """
    return None if delimiter == "," and isinstance(item, str) else delimiter


def unreadable(bad: int, rows: int, first: str, options: ReadingOptions) -> str:
    """The warning that rows are dropped. Raises PreparationError if they are not to be."""
    found = f"cannot read {bad:,} of {rows:,} rows; the first is {first}"
    if not options.skip:
        raise PreparationError(f"{found}. Fix the file, or drop such rows with --on-bad-rows skip")
    return f"{found}. They are dropped (on_bad_rows: skip)"
