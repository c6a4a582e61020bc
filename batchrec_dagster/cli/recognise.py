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
    recognise_columns,
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
# A column with more distinct values does not hold event types, nor ratings that are all listed.
MOST_DISTINCT = 30
# From the top of a rating scale to the lowest rating that says someone liked the item.
LIKED = {5: 3.5, 10: 7.0}
# On other scales the upper part, if that many are in it. With fewer it is more likely a count.
UPPER_PART, LEAST_SHARE_LIKED = 0.7, 0.05
# Rows that are shown as they were read.
PREVIEWED = 5
# Up to this many different ratings are listed.
MOST_RATINGS_LISTED = 11
ALL_RATINGS = "none"
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
    """What was recognised of a source."""

    settings: Mapping[str, object]
    """The block of the YAML that declares it."""

    summary: list[str]
    """Lines for people."""

    warnings: list[str]
    """What people should check."""

    items: pl.Series
    """The distinct item ids."""

    rules: Sequence[str] = ()
    """Lines of the block interactions of the YAML."""

    preview: str = ""
    """The first rows as they were read, as a table for people."""


@dataclass(frozen=True)
class ReadingOptions:
    """What is given of how to read the file. The rest is recognised."""

    delimiter: str | None = None
    time_format: str | None = None

    min_rating: str | None = None
    """The lowest rating that counts; ALL_RATINGS for all, None to go by their scale."""

    encoding: str = "auto"
    quoted: bool = True
    null_values: Sequence[str] = ()
    timezone: str | None = None

    skip: bool = False
    """Whether bad rows are dropped."""

    whole: bool = True
    """Whether these are all files of the source."""


def recognise_ratings(
    source: str,
    files: Sequence[RawFile],
    given_columns: Mapping[str, Column],
    options: ReadingOptions,
) -> RecognisedSource:
    """What the ratings in these files are, and how many.

    given_columns: the columns that need not be recognised, by role.

    Raises UnknownColumnsError, and PreparationError, also for what would stop the pipeline.
    """
    known_layout = parse_source(source).layout if not given_columns else None
    notes: list[str] = []
    if known_layout is not None:
        reading = ReadSettings.of(known_layout)
    else:
        given = ReadSettings(
            delimiter=options.delimiter,
            encoding=options.encoding,
            quoted=options.quoted,
            columns={role: column for role, column in given_columns.items() if column != NO_TIMES},
        )
        with open_sample(files, given) as sample:
            columns = _choose_columns(sample, given_columns)
            reading = _build_reading(sample, columns, options)
            if not sample.has_header and not given_columns:
                notes.append(
                    f"{sample.name} has no header. Its columns: {describe_columns(sample)}. Check"
                    " the preview"
                )
    rules = Rules(
        on_bad_rows="skip", event_type="event_type" in reading.columns and not known_layout
    )
    with temporary_folder() as folder:
        path = folder / "interactions.csv"
        with open_ratings(files, reading, rules) as read:
            if known_layout is not None:
                liked = _choose_for_known_layout(read, options.min_rating)
            else:
                liked = _choose_liked_ratings(read, options.min_rating)
            preview = _render_preview(read)
            layout, form = read.layout, read.layout.format
            if liked.lowest is None:
                # All rows count, so a missing rating does no harm.
                layout = replace(layout, rating=None, decimal=".")
            recognised = replace(read.recognised_layout, layout=layout)
            rules = replace(rules, min_rating=liked.lowest)
            ratings = replace(read, recognised_layout=recognised, rules=rules)
            result = ratings.write_interactions(path)
        types = choose_csv_types(list_interactions_columns(event_type=rules.event_type))
        rows = pl.scan_csv(path, schema=types, glob=False)
        counts = count_rows(rows)
        items = rows.select(pl.col(ITEM_ID).unique()).collect(engine="streaming").to_series()
        event_counts = []
        if rules.event_type:
            event_counts = rows.group_by(EVENT_TYPE).len().collect().rows()
    warnings = [*notes, *recognised.warnings, *_collect_warnings(liked, result, counts, options)]
    settings: dict[str, object] = {"source": source}
    if known_layout is None:
        settings = _build_settings(source, reading, liked, options)
    return RecognisedSource(
        settings,
        [
            f"{hide_query(source)}: {result.rows_read:,} rows, {form}, of which",
            f"{result.rows_kept:,} count, of {counts.users:,} users and {counts.items:,} items,",
            _check_times(counts, result).finding.partition(";")[0],
        ],
        warnings,
        items,
        [
            *_build_rating_rules(liked, result),
            *_build_event_rules(reading.columns, event_counts),
        ],
        preview,
    )


def _collect_warnings(
    liked: _LikedRatings,
    result: PreparationResult,
    counts: InteractionCounts,
    options: ReadingOptions,
) -> list[str]:
    """What to know of the rows. Raises PreparationError for what would stop the pipeline."""
    warnings = [liked.warning] if liked.warning else []
    low = result.left_out.get(BELOW_MIN_RATING, 0)
    if bad := result.rows_read - result.rows_kept - low:
        warnings.append(
            describe_bad_rows(bad, result.rows_read, result.bad_row_examples[0], options)
        )
    enough_rows = check_enough_interactions(
        result.rows_kept, counts.users, counts.users_with_two, low
    )
    for check in (_check_times(counts, result), enough_rows):
        if not check.passed:
            if options.whole or check is not enough_rows:
                raise PreparationError(f"it could not run: {check.finding}")
            warnings.append(check.finding)
    return warnings


def _render_preview(ratings: OpenedRatings) -> str:
    """The first rows as they are read: the cells, times in UTC; safe for a terminal."""
    layout, roles = ratings.layout, dict(ratings.layout.roles)
    unit = find_first_unit(ratings.tables, layout, ratings.rules)
    moment = pl.from_epoch(times.parse_seconds(pl.col("timestamp"), unit, layout.timezone), "s")
    rows = ratings.tables[0].read_cells(roles).head(PREVIEWED).select(*roles).collect()
    if layout.timestamp is not None:
        rows = rows.with_columns(moment.dt.strftime("%Y-%m-%d %H:%M:%S").alias("timestamp"))
    columns = [TableColumn(role.replace("timestamp", "time (UTC)")) for role in roles]
    return render([], [[TerminalTable("", columns, rows.rows())]], width=None).strip()


def _check_times(counts: InteractionCounts, result: PreparationResult) -> CheckResult:
    now = datetime.now(UTC)
    return check_timestamps_plausible(counts.earliest, counts.latest, result.timestamp_unit, now)


@dataclass(frozen=True)
class _LikedRatings:
    """Which ratings count as a sign that someone liked the item."""

    lowest: float | None
    """The lowest rating that counts; None if all rows count."""

    distribution: str | None = None
    """How often which ratings occur, in words; None if the ratings were not read."""

    highest: float | None = None
    """The highest rating; None if the ratings were not read."""

    warning: str | None = None
    """Why the choice may be wrong."""


def _choose_for_known_layout(read: OpenedRatings, min_rating: str | None) -> _LikedRatings:
    if min_rating is not None:
        return _LikedRatings(_parse_lowest(min_rating))
    return _LikedRatings(LIKED[5] if read.layout.rating else None)


def _parse_lowest(min_rating: str) -> float | None:
    return None if min_rating == ALL_RATINGS else float(min_rating)


def _choose_liked_ratings(read: OpenedRatings, min_rating: str | None) -> _LikedRatings:
    """Which ratings count: those that are given, or the upper ones of the scale.

    Raises UnknownColumnsError if the scale does not show which ones are meant.
    """
    column = read.layout.rating
    if column is None:
        if min_rating not in (None, ALL_RATINGS):
            raise UnknownColumnsError(f"--min-rating {min_rating} needs the column: --rating COL")
        return _LikedRatings(None)
    cells = pl.concat(
        table.read_cells({"rating": column}).select("rating") for table in read.tables
    )
    numbers = cells.select(parse_as(pl.col("rating"), "double")).drop_nulls()
    ratings = numbers.collect(engine="streaming").to_series().sort()
    name = f"the rating in column {column}"
    if ratings.is_empty():
        warning = f"{name} has no numbers such as 4.5 or 4,5. All rows count, whatever their rating"
        return _LikedRatings(None, warning=warning)
    distribution = _describe_distribution(ratings)
    bottom, top = ratings.item(0), ratings.item(-1)
    if min_rating is not None:
        return _LikedRatings(_parse_lowest(min_rating), distribution, top)
    if bottom == top:
        return _LikedRatings(
            None, distribution, top, f"{name} is {top:g} in every row. All rows count"
        )
    for end, liked in LIKED.items():
        if bottom >= 0 and end - 1 <= top <= end:
            return _LikedRatings(liked, distribution, top)
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
    return _LikedRatings(lowest, distribution, top, warning)


def _choose_lowest(ratings: pl.Series, at_least: float) -> float:
    """The lowest rating of a few different ones, else a round number."""
    distinct = ratings.unique().sort()
    if len(distinct) <= MOST_DISTINCT:
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


def _build_reading(
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
        decimal=sample.find_decimal([columns["rating"]] if "rating" in columns else []),
        null_values=[*NULL_VALUES, *options.null_values],
        timezone=options.timezone,
    )


def _build_settings(
    source: str, reading: ReadSettings, liked: _LikedRatings, options: ReadingOptions
) -> dict[str, object]:
    left_out = () if liked.lowest is not None else ("rating",)
    columns = {role: c for role, c in reading.columns.items() if role not in left_out}
    has_times = reading.timestamp_unit != NO_TIMES
    settings = {
        "source": source,
        "format": reading.format,
        "delimiter": choose_declared_delimiter(reading.delimiter, columns["item"]),
        "encoding": reading.encoding,
        "quotes": reading.quoted,
        "decimal": "." if left_out else reading.decimal,
        "columns": columns if has_times else {**columns, "timestamp": NO_TIMES},
        "timestamp_format": reading.timestamp_unit if has_times else AUTO,
        "timezone": reading.timezone,
        "null_values": list(options.null_values),
    }
    return {**leave_out_defaults(settings), **({} if reading.quoted else {"quotes": False})}


def _choose_columns(sample: FileSample, given_columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns by role: as given, else by their names, else by their contents."""
    without_times = given_columns.get("timestamp") == NO_TIMES
    given = {role: column for role, column in given_columns.items() if column != NO_TIMES}
    check_columns(sample, given)
    names = recognise_columns(sample.columns) if sample.has_header else {}
    if not sample.has_header and not given:
        return _choose_by_position(sample, without_times=without_times)
    if without_times:
        names.pop("timestamp", None)
    columns: dict[str, Column] = {
        **{role: name for role, name in names.items() if name not in given.values()},
        **given,
    }
    free = [name for name in sample.columns if name not in columns.values()]
    if sample.has_header and "timestamp" not in columns and not without_times:
        candidates = [name for name in sample.columns if has_times(sample, name)]
        if len(candidates) == 1 and candidates[0] in free:
            columns["timestamp"] = candidates[0]
    wanted = [role for role in OPTIONS if role != "timestamp" or not without_times]
    missing = [role for role in wanted if role not in columns]
    if missing:
        raise _build_unknown_columns_error(sample, missing, free)
    if "event_type" in columns and "event_type" not in given:
        event_types = sample.read_cells(columns["event_type"])
        if not len(event_types) or event_types.n_unique() > MOST_DISTINCT:
            del columns["event_type"]
    return columns


def _choose_by_position(sample: FileSample, *, without_times: bool) -> dict[str, Column]:
    """A user, an item, perhaps a rating, and a time, in columns of this order or nearly so."""
    positions = range(1, len(sample.columns) + 1)
    time_positions = [
        position for position, name in enumerate(sample.columns, 1) if has_times(sample, name)
    ]
    other_positions = [position for position in positions if position not in time_positions]
    if len(time_positions) != (0 if without_times else 1) or len(other_positions) not in (2, 3):
        raise _build_unknown_columns_error(sample, list(OPTIONS), [])
    columns = dict(zip(("user", "item", "rating"), other_positions, strict=False))
    if "rating" in columns and not sample.is_numeric(columns["rating"], "."):
        del columns["rating"]
    if time_positions:
        columns["timestamp"] = time_positions[0]
    return dict(columns)


def _build_unknown_columns_error(
    sample: FileSample, missing: Sequence[str], free: Sequence[str]
) -> UnknownColumnsError:
    no_times = " (or --time none)" if "timestamp" in missing else ""
    if not sample.has_header:
        needed = " ".join(f"{OPTIONS[role]} COL" for role in missing)
        return UnknownColumnsError(
            f"{sample.name} has no header. Its columns: {describe_columns(sample)}. Give them by"
            f" position, from 1: {needed}{no_times}, and --rating COL if there are ratings"
        )
    words = [role.replace("timestamp", "time") for role in missing]
    what = f"{', '.join(words[:-1])} and {words[-1]} columns" if words[1:] else f"{words[0]} column"
    dates = [
        name for name in free if has_times(sample, name) or matching_time_formats(sample, name)
    ]
    others = [name for name in free if name not in dates and not ORDER.search(name)]
    options = []
    for role in missing:
        candidates = dates if role == "timestamp" else others
        column = shlex.quote(candidates.pop(0)) if candidates else "COL"
        options.append(f"{OPTIONS[role]} {column}")
    return UnknownColumnsError(
        f"{sample.name}: couldn't recognise the {what}. Found: {list_columns(sample)}."
        f" Try: {' '.join(options)}{no_times}"
    )


def _build_rating_rules(liked: _LikedRatings, result: PreparationResult) -> list[str]:
    lines = [f"# {liked.distribution}."] if liked.distribution else []
    if liked.lowest is not None:
        counts = f"{result.rows_kept:,} of {result.rows_read:,}"
        lines.append(f"# {counts} rows are {liked.lowest:g} or more.")
        lines.append(f"min_rating: {liked.lowest:g}")
    elif liked.highest is not None:
        lines.append("# All ratings count. To drop low ones, set ratings.columns.rating, and:")
        lines.append(f"# min_rating: {liked.highest:g}")
    return lines


def _build_event_rules(
    columns: Mapping[str, Column], event_counts: Sequence[tuple[str, int]]
) -> list[str]:
    """Comments in the YAML that name the event types, and show how to filter them."""
    if not event_counts:
        return []
    by_frequency = sorted(event_counts, key=lambda event: (-event[1], event[0]))
    events = ", ".join(f"{escape_invisible(name)} ({count:,})" for name, count in by_frequency)
    lines = [f"# Events: {events}"]
    column, most_frequent = str(columns["event_type"]), by_frequency[0][0]
    if column.isidentifier() and "'" not in most_frequent:
        lines.append(escape_invisible(f"# filter: {column} <> '{most_frequent}'"))
    return lines


def leave_out_defaults(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that are given and differ from their defaults."""
    return {key: value for key, value in settings.items() if value and DEFAULTS.get(key) != value}


def choose_declared_delimiter(delimiter: str | None, item: Column) -> str | None:
    """The delimiter as it is declared; None for a comma in a file whose columns have names.

    item: the column of the item. By position it says that there are no names, without which a run
    may see another delimiter in the file.
    """
    return None if delimiter == "," and isinstance(item, str) else delimiter


def describe_bad_rows(bad: int, rows: int, first: str, options: ReadingOptions) -> str:
    """The warning that rows are dropped. Raises PreparationError if they are not to be."""
    warning = f"cannot read {bad:,} of {rows:,} rows; the first is {first}"
    if not options.skip:
        raise PreparationError(
            f"{warning}. Fix the file, or drop such rows with --on-bad-rows skip"
        )
    return f"{warning}. They are dropped (on_bad_rows: skip)"
