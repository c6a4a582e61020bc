"""What `batchrec new` recognises in files of ratings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from batchrec_dagster.cli.column_candidates import (
    UnknownColumnsError,
    describe_columns,
    list_columns,
    open_sample,
    recognise_time_format,
    require_single_columns,
)
from batchrec_dagster.cli.rating_columns import (
    choose_min_rating,
    choose_rating_columns,
    find_other_times,
)
from batchrec_dagster.cli.recognised_source import (
    ReadingOptions,
    RecognisedSource,
    choose_declared_delimiter,
    describe_bad_rows,
    leave_out_defaults,
)
from batchrec_dagster.personalize.formats import choose_csv_types
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    ITEM_ID,
    USER_ID,
    make_interactions_schema,
)
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import (
    AUTO,
    EPOCH_UNITS,
    EXCEL_DAYS,
    NO_TIMES,
    Column,
    Columns,
    FileForm,
    PreparationError,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import OpenedRatings, open_ratings
from batchrec_dagster.preparation.polars.row_conditions import parse_as
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    InteractionCounts,
    PreparationResult,
    Rules,
)
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.reporting.views.plain import align, escape_invisible
from batchrec_dagster.steps.checks import (
    check_enough_interactions,
    check_timestamps_plausible,
)
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Finding

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
    form, columns, notes = _recognise_columns(files, given_columns, options)
    has_event_types = "event_type" in columns.roles
    rules = Rules(on_bad_rows="skip", event_type=has_event_types)
    with temporary_folder() as folder:
        with open_ratings(files, form, columns, rules) as ratings:
            lowest = _choose_lowest(ratings, options.min_rating)
            if lowest is None and "rating" in columns.roles:
                notes.append(
                    f"the rating in column {columns.roles['rating']} is on no scale of 5 or 10. All"
                    " rows count, unless you set --min-rating NUMBER"
                )
            preview = _render_preview(ratings)
            ratings = _select_liked(ratings, lowest)
            path = folder / "interactions.csv"
            result = ratings.write_interactions(path)
            recognised = ratings.recognised
        interactions = _describe_interactions(path, event_type=has_event_types)
    counts = interactions.counts
    return RecognisedSource(
        _build_settings(source, form, columns, has_rating=lowest is not None),
        summary=[
            f"{hide_query(source)}: {result.rows_read:,} rows ({recognised.form.format})",
            f"{result.rows_kept:,} of them count: {counts.users:,} users and"
            f" {counts.items:,} items",
            _check_times(counts, result).text.partition(";")[0],
        ],
        warnings=[
            *notes,
            *recognised.warnings,
            *_collect_warnings(result, counts, options),
        ],
        items=interactions.items,
        users=interactions.users,
        rules=[
            *_build_rating_rules(lowest, result),
            *_build_filter(columns.roles, interactions.event_counts),
        ],
        preview=preview,
    )


def _recognise_columns(
    files: Sequence[RawFile], given_columns: Mapping[str, Column], options: ReadingOptions
) -> tuple[FileForm, Columns, list[str]]:
    """How the files are read, and what people should check about that."""
    declared = Columns(
        {role: column for role, column in given_columns.items() if column != NO_TIMES}
    )
    notes = []
    with open_sample(files, declared) as sample:
        roles = choose_rating_columns(sample, given_columns)
        require_single_columns(sample, roles)
        if sample.header is not None:
            names = list_columns(sample)
            notes.append(f"line {sample.header} was taken for the names of the columns: {names}")
        if not sample.has_header and not given_columns:
            notes.append(
                f"{sample.name} has no header. Its columns: {describe_columns(sample)}. Check"
                " the preview"
            )
        if "timestamp" in roles and "timestamp" not in given_columns:
            notes += _describe_other_times(sample, roles)
        form = FileForm(sample.format, sample.delimiter, sample.header)
        return form, _build_columns(sample, roles, options), notes


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


def _choose_lowest(ratings: OpenedRatings, given: float | None) -> float | None:
    """The lowest rating that counts: as given, else by the scale; None if all rows count.

    Raises UnknownColumnsError if one is given, but no column of ratings.
    """
    column = ratings.columns.roles.get("rating")
    if column is None:
        if given is not None:
            raise UnknownColumnsError(f"--min-rating {given:g} needs the column: --rating COL")
        return None
    if given is not None:
        return given
    cells = pl.concat(
        table.read_cells({"rating": column}).select("rating") for table in ratings.tables
    )
    numbers = cells.select(parse_as(pl.col("rating"), "double")).drop_nulls()
    return choose_min_rating(numbers.collect(engine="streaming").to_series())


def _select_liked(ratings: OpenedRatings, lowest: float | None) -> OpenedRatings:
    """The ratings, of which those from the lowest on become interactions."""
    columns = ratings.columns
    if lowest is None:
        # All rows count, so a missing rating does no harm.
        roles = {role: column for role, column in columns.roles.items() if role != "rating"}
        columns = replace(columns, roles=roles, decimal=".")
    return replace(
        ratings,
        recognised=replace(ratings.recognised, columns=columns),
        rules=replace(ratings.rules, min_rating=lowest),
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


def _describe_interactions(path: Path, *, event_type: bool) -> _Interactions:
    """What is in this file of interactions.

    event_type: whether the file has event types.
    """
    columns = make_interactions_schema(event_type=event_type).columns
    rows = pl.scan_csv(path, schema=choose_csv_types(columns), glob=False)
    users, items = (
        rows.select(pl.col(name).unique()).collect(engine="streaming").to_series()
        for name in (USER_ID, ITEM_ID)
    )
    event_counts = rows.group_by(EVENT_TYPE).len().collect().rows() if event_type else []
    return _Interactions(count_rows(rows), users, items, event_counts)


def _collect_warnings(
    result: PreparationResult,
    counts: InteractionCounts,
    options: ReadingOptions,
) -> list[str]:
    """What to know of the rows. Raises PreparationError for what would stop the pipeline."""
    warnings = []
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
                raise PreparationError(f"it could not run: {check.text}")
            warnings.append(check.text)
    return warnings


def _render_preview(ratings: OpenedRatings) -> str:
    """The first rows as they are read: the cells, times in UTC; safe for a terminal."""
    columns, roles = ratings.columns, ratings.columns.wanted
    seconds = times.parse_seconds(pl.col("timestamp"), ratings.unit, columns.timezone)
    moment = pl.from_epoch(seconds, "s")
    rows = ratings.tables[0].read_cells(roles).head(PREVIEWED).select(*roles).collect()
    if "timestamp" in roles:
        rows = rows.with_columns(moment.dt.strftime("%Y-%m-%d %H:%M:%S").alias("timestamp"))
    names = [role.replace("timestamp", "time (UTC)") for role in roles]
    return align([names, *rows.cast(pl.String).fill_null("").rows()])


def _check_times(counts: InteractionCounts, result: PreparationResult) -> Finding:
    now = datetime.now(UTC)
    return check_timestamps_plausible(counts.earliest, counts.latest, result.timestamp_unit, now)


def _build_columns(
    sample: FileSample, roles: Mapping[str, Column], options: ReadingOptions
) -> Columns:
    time_form = NO_TIMES
    if "timestamp" in roles:
        time_form = options.time_format or recognise_time_format(sample, roles["timestamp"]) or AUTO
    return Columns(
        {role: roles[role] for role in RATING_ROLES if role in roles},
        time_form=time_form,
        decimal=sample.find_decimal([roles["rating"]] if "rating" in roles else []),
    )


def _build_settings(
    source: str, form: FileForm, columns: Columns, *, has_rating: bool
) -> dict[str, object]:
    """The block `ratings` of the YAML.

    has_rating: whether the rating decides which rows count.
    """
    roles = {role: c for role, c in columns.roles.items() if has_rating or role != "rating"}
    has_times = columns.time_form != NO_TIMES
    unit = columns.time_form if has_times else AUTO
    is_of_numbers = unit in (EXCEL_DAYS, *EPOCH_UNITS)
    settings = {
        "source": source,
        "format": form.format,
        "delimiter": choose_declared_delimiter(form.delimiter, roles["item"]),
        "header": form.header,
        "decimal": columns.decimal if has_rating else ".",
        "columns": roles if has_times else {**roles, "timestamp": NO_TIMES},
        "timestamp_unit": unit if is_of_numbers else AUTO,
        "timestamp_format": AUTO if is_of_numbers else unit,
    }
    return leave_out_defaults(settings)


def _build_rating_rules(lowest: float | None, result: PreparationResult) -> list[str]:
    """The lines of the YAML that say which ratings count."""
    if lowest is None:
        return []
    counts = f"{result.rows_kept:,} of {result.rows_read:,}"
    return [f"# {counts} rows are {lowest:g} or more.", f"min_rating: {lowest:g}"]


def _build_filter(
    columns: Mapping[str, Column], event_counts: Sequence[tuple[str, int]]
) -> list[str]:
    """Comments in the YAML that name the event types, and show how to filter the rows."""
    if not event_counts:
        return []
    by_frequency = sorted(event_counts, key=lambda event: (-event[1], event[0]))
    events = ", ".join(f"{escape_invisible(name)} ({count:,})" for name, count in by_frequency)
    lines = [f"# Events: {events}"]
    column, most_frequent = str(columns["event_type"]), by_frequency[0][0]
    if column.isidentifier() and "'" not in most_frequent:
        lines.append(escape_invisible(f"# filter: {column} <> '{most_frequent}'"))
    return lines
