"""What `batchrec new` recognises in files of ratings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from batchrec_dagster.cli.column_candidates import (
    describe_columns,
    list_columns,
    open_sample,
    recognise_time_format,
    require_single_columns,
)
from batchrec_dagster.cli.interaction_oddities import (
    count_repeated_rows,
    describe_frequent_ids,
    describe_repeated_rows,
    describe_similar_ids,
)
from batchrec_dagster.cli.liked_ratings import (
    LikedRatings,
    build_rating_rules,
    choose_liked_ratings,
)
from batchrec_dagster.cli.rating_columns import choose_rating_columns, find_other_times
from batchrec_dagster.cli.recognised_source import (
    ReadingOptions,
    RecognisedSource,
    choose_declared_delimiter,
    describe_bad_rows,
    leave_out_defaults,
)
from batchrec_dagster.cli.unused_columns import (
    UnusedColumn,
    find_unused_columns,
    name_columns,
    name_consent,
    suggest_filter,
)
from batchrec_dagster.personalize.file_formats import choose_csv_types
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    ITEM_ID,
    USER_ID,
    list_interactions_columns,
)
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import (
    AUTO,
    EPOCH_UNITS,
    EXCEL_DAYS,
    NO_TIMES,
    NULL_VALUES,
    Column,
    PreparationError,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import OpenedRatings, open_ratings
from batchrec_dagster.preparation.polars.time_units import find_first_unit
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    InteractionCounts,
    PreparationResult,
    Rules,
)
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.reporting.terminal import Column as TableColumn
from batchrec_dagster.reporting.terminal import TerminalTable, escape_invisible, render
from batchrec_dagster.steps.checks import (
    CheckResult,
    check_enough_interactions,
    check_timestamps_plausible,
)
from batchrec_dagster.storage.durable import temporary_folder

RATING_ROLES = ("user", "item", "rating", "timestamp", "event_type", "event_value")
# Rows that are shown as they were read.
PREVIEWED = 5


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
    reading, notes, unused = _recognise_reading(files, given_columns, options)
    has_event_types = "event_type" in reading.columns
    rules = Rules(on_bad_rows="skip", event_type=has_event_types)
    with temporary_folder() as folder:
        with open_ratings(files, reading, rules) as ratings:
            liked = choose_liked_ratings(ratings, options.min_rating)
            preview = _render_preview(ratings)
            ratings = _select_liked(ratings, liked)
            path = folder / "interactions.csv"
            result = ratings.write_interactions(path)
            recognised_layout = ratings.recognised_layout
        interactions = _describe_interactions(
            path, event_type=has_event_types, has_times=reading.timestamp_unit != NO_TIMES
        )
    counts = interactions.counts
    return RecognisedSource(
        _build_settings(source, reading, liked, options),
        summary=[
            f"{hide_query(source)}: {result.rows_read:,} rows ({recognised_layout.layout.format})",
            f"{result.rows_kept:,} of them count: {counts.users:,} users and"
            f" {counts.items:,} items",
            _check_times(counts, result).finding.partition(";")[0],
            *name_columns(unused),
            *name_consent(unused),
        ],
        warnings=[
            *notes,
            *recognised_layout.warnings,
            *_collect_warnings(liked, result, counts, options),
            *interactions.oddities,
        ],
        repeated_rows=interactions.repeated_rows,
        items=interactions.items,
        users=interactions.users,
        rules=[
            *build_rating_rules(liked, result),
            *_build_filter(reading.columns, interactions.event_counts, suggest_filter(unused)),
        ],
        preview=preview,
    )


def _recognise_reading(
    files: Sequence[RawFile], given_columns: Mapping[str, Column], options: ReadingOptions
) -> tuple[ReadSettings, list[str], list[UnusedColumn]]:
    """How the files are read, what people should check about that, and what is not used."""
    settings_given = ReadSettings(
        delimiter=options.delimiter,
        encoding=options.encoding,
        quoted=options.quoted,
        columns={role: column for role, column in given_columns.items() if column != NO_TIMES},
        header=options.header,
    )
    notes = []
    with open_sample(files, settings_given) as sample:
        columns = choose_rating_columns(sample, given_columns)
        require_single_columns(sample, columns)
        if options.header is None and sample.header is not None:
            names = list_columns(sample)
            notes.append(f"line {sample.header} was taken for the names of the columns: {names}")
        if not sample.has_header and not given_columns:
            notes.append(
                f"{sample.name} has no header. Its columns: {describe_columns(sample)}. Check"
                " the preview"
            )
        reading = _build_reading(sample, columns, options)
        if "timestamp" in columns and "timestamp" not in given_columns:
            notes += _describe_other_times(sample, columns)
        used = [column for column in columns.values() if column != NO_TIMES]
        return reading, notes, find_unused_columns(sample, used, reading.decimal)


def _describe_other_times(sample: FileSample, columns: Mapping[str, Column]) -> Iterator[str]:
    """The warning that other columns have times too; none if there are none."""
    names = find_other_times(sample, columns)
    if not names or not isinstance(columns["timestamp"], str):
        return
    chosen, user = columns["timestamp"], columns["user"]
    reason = ""
    if sample.is_same_for_each(user, chosen) and not sample.is_same_for_each(user, names[0]):
        reason = f". {chosen} is the same in all rows of a user, as the time of a registration is"
    verb = "has" if len(names) == 1 else "have"
    yield (
        f"{', '.join(names)} {verb} times too, and {chosen} was taken{reason}. If an interaction"
        f" happened at another: --time {names[0]}"
    )


def _select_liked(ratings: OpenedRatings, liked: LikedRatings) -> OpenedRatings:
    """The ratings, of which those that somebody liked become interactions."""
    layout = ratings.layout
    if liked.lowest is None:
        # All rows count, so a missing rating does no harm.
        layout = replace(layout, rating=None, decimal=".")
    return replace(
        ratings,
        recognised_layout=replace(ratings.recognised_layout, layout=layout),
        rules=replace(ratings.rules, min_rating=liked.lowest),
    )


@dataclass(frozen=True)
class _Interactions:
    """What is in a file of interactions."""

    counts: InteractionCounts

    users: pl.Series
    """The distinct user ids."""

    items: pl.Series
    """The distinct item ids."""

    event_counts: Sequence[tuple[str, int]]
    """The event types, and the number of interactions of each."""

    repeated_rows: int
    """How many rows are equal to an earlier one; 0 if the rows have no times."""

    oddities: Sequence[str]
    """What may not be meant, in words."""


def _describe_interactions(path: Path, *, event_type: bool, has_times: bool) -> _Interactions:
    """What is in this file of interactions.

    event_type: whether the file has event types.
    has_times: whether the rows have times of their own.
    """
    columns = list_interactions_columns(event_type=event_type)
    rows = pl.scan_csv(path, schema=choose_csv_types(columns), glob=False)
    users, items = (
        rows.select(pl.col(name).unique()).collect(engine="streaming").to_series()
        for name in (USER_ID, ITEM_ID)
    )
    event_counts = rows.group_by(EVENT_TYPE).len().collect().rows() if event_type else []
    counts = count_rows(rows)
    repeated_rows = count_repeated_rows(path, columns) if has_times else 0
    oddities = [
        *describe_repeated_rows(repeated_rows, int(rows.select(pl.len()).collect().item())),
        *describe_frequent_ids(path, columns),
        *describe_similar_ids("user", users),
        *describe_similar_ids("item", items),
    ]
    return _Interactions(counts, users, items, event_counts, repeated_rows, oddities)


def _collect_warnings(
    liked: LikedRatings,
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
        header=options.header or sample.header,
    )


def _build_settings(
    source: str, reading: ReadSettings, liked: LikedRatings, options: ReadingOptions
) -> dict[str, object]:
    left_out = () if liked.lowest is not None else ("rating",)
    columns = {role: c for role, c in reading.columns.items() if role not in left_out}
    has_times = reading.timestamp_unit != NO_TIMES
    unit = reading.timestamp_unit if has_times else AUTO
    is_of_numbers = unit in (EXCEL_DAYS, *EPOCH_UNITS)
    settings = {
        "source": source,
        "format": reading.format,
        "delimiter": choose_declared_delimiter(reading.delimiter, columns["item"]),
        "encoding": reading.encoding,
        "header": reading.header,
        "quotes": reading.quoted,
        "decimal": "." if left_out else reading.decimal,
        "columns": columns if has_times else {**columns, "timestamp": NO_TIMES},
        "timestamp_unit": unit if is_of_numbers else AUTO,
        "timestamp_format": AUTO if is_of_numbers else unit,
        "timezone": reading.timezone,
        "null_values": list(options.null_values),
    }
    return {**leave_out_defaults(settings), **({} if reading.quoted else {"quotes": False})}


def _build_filter(
    columns: Mapping[str, Column], event_counts: Sequence[tuple[str, int]], suggested: Sequence[str]
) -> list[str]:
    """Comments in the YAML that name the event types, and show how to filter the rows.

    suggested: conditions on columns that are not used.
    """
    lines, conditions = [], [*suggested]
    if event_counts:
        by_frequency = sorted(event_counts, key=lambda event: (-event[1], event[0]))
        events = ", ".join(f"{escape_invisible(name)} ({count:,})" for name, count in by_frequency)
        lines.append(f"# Events: {events}")
        column, most_frequent = str(columns["event_type"]), by_frequency[0][0]
        if column.isidentifier() and "'" not in most_frequent:
            conditions.insert(0, f"{column} <> '{most_frequent}'")
    if conditions:
        lines.append(escape_invisible(f"# filter: {' AND '.join(conditions)}"))
    return lines
