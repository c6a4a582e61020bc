"""The recognition of ratings files, for `batchrec new`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.cli.column_contents import find_decimal
from batchrec_dagster.cli.rating_columns import (
    choose_min_rating,
    choose_rating_columns,
    find_other_times,
)
from batchrec_dagster.cli.recognised_source import (
    PREVIEWED,
    Doubt,
    RecognisedSource,
    UnknownColumnsError,
    build_settings,
    describe_bad_rows,
    list_columns,
    open_sample,
)
from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.preparation.file_form import (
    AUTO,
    DATETIME,
    EPOCH_UNITS,
    EXCEL_DAYS,
    NO_TIMES,
    Column,
    Columns,
    FileForm,
    PreparationError,
)
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import OpenedRatings, open_ratings
from batchrec_dagster.preparation.row_rules import (
    BELOW_MIN_RATING,
    InteractionCounts,
    PreparationResult,
    RowRules,
)
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.reporting.views.plain import align, escape_invisible
from batchrec_dagster.steps.data.checks import check_enough_interactions, check_timestamps_plausible
from batchrec_dagster.storage.durable import temporary_folder

ROLES = ("user", "item", "rating", "timestamp", "event_type", "event_value")


def recognise_ratings(
    source: str,
    files: Sequence[RawFile],
    given: Mapping[str, Column],
    *,
    time_form: str | None = None,
    min_rating: float | None = None,
    skip: bool = False,
    whole: bool = True,
) -> RecognisedSource:
    """Return the recognised settings, summary and doubts for the ratings in these files.

    source: the source, as declared.
    given: the columns that need not be recognised, by role; NO_TIMES as the timestamp if there are
        no times.
    time_form: the form of the times, as `Columns.time_form` has it; None to recognise it.
    min_rating: the lowest rating that counts; None to choose it by the scale of the ratings.
    skip: whether bad rows are dropped.
    whole: whether these are all files of the source.

    Raises UnknownColumnsError, and PreparationError, also for problems that would stop the
    pipeline.
    """
    declared = Columns({role: column for role, column in given.items() if column != NO_TIMES})
    with open_sample(files, declared) as (sample, form):
        roles = choose_rating_columns(sample, given)
        doubts = [*_list_doubts(sample, form, roles, given)]
        decimal = find_decimal(sample, [roles["rating"]] if "rating" in roles else [])
        if min_rating is None and "rating" in roles:
            min_rating = choose_min_rating(sample.read_cells(roles["rating"]), decimal)
    if min_rating is not None and "rating" not in roles:
        raise UnknownColumnsError(f"--min-rating {min_rating:g} needs the column: --rating COL")
    if min_rating is None and "rating" in roles:
        # All rows count, so the column is left out: a row without a rating does no harm then.
        column = roles.pop("rating")
        text = f"the rating in column {column} is on no scale of 5 or 10. All rows count"
        doubts.append(Doubt(f"{text}, unless you set --min-rating NUMBER", ("interactions",)))
    columns = Columns(
        {role: roles[role] for role in ROLES if role in roles},
        time_form=(time_form or AUTO) if "timestamp" in roles else NO_TIMES,
        decimal=decimal if "rating" in roles else ".",
    )
    rules = RowRules(
        min_rating=min_rating, on_bad_rows="skip", event_type="event_type" in columns.roles
    )
    with temporary_folder() as folder, open_ratings(files, form, columns, rules) as ratings:
        result = ratings.write_interactions(folder / "interactions.csv")
        preview = _render_preview(ratings)
        recognised = ratings.recognised
        rows = scan_interactions(folder / "interactions.csv")
        counts = count_rows(rows)
        ids = {
            role: rows.select(pl.col(name).unique()).collect(engine="streaming").to_series()
            for role, name in (("user", USER_ID), ("item", ITEM_ID))
        }
    doubts += [Doubt(text, ("ratings",)) for text in recognised.warnings]
    return RecognisedSource(
        _build_settings(source, recognised.form, recognised.columns),
        summary=[
            f"{hide_query(source)}: {result.rows_read:,} rows ({recognised.form.format})",
            f"{result.rows_kept:,} of them count: {counts.users:,} users and"
            f" {counts.items:,} items",
            _check_times(counts, result).text.partition(";")[0],
        ],
        doubts=[*doubts, *_list_doubts_of_rows(result, counts, skip=skip, whole=whole)],
        ids=ids,
        rules=[*_build_rating_rule(min_rating, result), *_build_filter(columns, counts)],
        preview=preview,
    )


def _list_doubts(
    sample: FileSample, form: FileForm, roles: Mapping[str, Column], given: Mapping[str, Column]
) -> Iterator[Doubt]:
    """Yield the doubts about the columns.

    roles: the chosen columns.
    given: the columns that the user gave.
    """
    if isinstance(form.header, int):
        line = f"line {form.header} was taken for the names of the columns: {list_columns(sample)}"
        yield Doubt(line, ("ratings", "header"))
    if not sample.table.has_header and not given:
        text = f"{sample.name} has no header. Check the first rows above, and the columns"
        yield Doubt(text, ("ratings", "columns"))
    other_times = find_other_times(sample, roles)
    if isinstance(roles.get("timestamp"), str) and "timestamp" not in given and other_times:
        yield Doubt(
            f"{', '.join(other_times)} {'has' if len(other_times) == 1 else 'have'} times too, and"
            f" {roles['timestamp']} was taken. If an interaction happened at another: --time"
            f" {other_times[0]}",
            ("ratings", "columns", "timestamp"),
        )


def _list_doubts_of_rows(
    result: PreparationResult, counts: InteractionCounts, *, skip: bool, whole: bool
) -> Iterator[Doubt]:
    """Yield the doubts about the rows.

    Raises PreparationError for problems that would stop the pipeline.
    """
    low = result.left_out.get(BELOW_MIN_RATING, 0)
    if bad := result.rows_read - result.rows_kept - low:
        first = result.bad_row_examples[0]
        yield describe_bad_rows(bad, result.rows_read, first, "ratings", skip=skip)
    enough_rows = check_enough_interactions(
        result.rows_kept, counts.users, counts.users_with_two, low
    )
    for check in (_check_times(counts, result), enough_rows):
        if not check.passed:
            if whole or check is not enough_rows:
                raise PreparationError(f"it could not run: {check.text}")
            yield Doubt(check.text, ("ratings", "source"))


def _check_times(counts: InteractionCounts, result: PreparationResult) -> Finding:
    now = datetime.now(UTC)
    return check_timestamps_plausible(counts.earliest, counts.latest, result.timestamp_unit, now)


def _render_preview(ratings: OpenedRatings) -> str:
    """Return the first rows as they are read, as a table that is safe for a terminal.

    Times are in UTC.
    """
    roles = ratings.columns.roles
    rows = ratings.tables[0].read_cells(roles).head(PREVIEWED).select(*roles).collect()
    if "timestamp" in roles:
        seconds = times.parse_seconds(pl.col("timestamp"), ratings.unit, ratings.columns.timezone)
        text = pl.from_epoch(seconds, "s").dt.strftime("%Y-%m-%d %H:%M:%S")
        rows = rows.with_columns(text.alias("timestamp"))
    names = [role.replace("timestamp", "time (UTC)") for role in roles]
    return align([names, *rows.cast(pl.String).fill_null("").rows()])


def _build_settings(source: str, form: FileForm, columns: Columns) -> dict[str, object]:
    """Return the block `ratings` of the YAML."""
    time_form = columns.time_form
    settings = build_settings(source, form, columns.roles, decimal=columns.decimal)
    if time_form == NO_TIMES:
        settings["columns"] = {**columns.roles, "timestamp": NO_TIMES}
    elif time_form in (EXCEL_DAYS, *EPOCH_UNITS):
        settings["timestamp_unit"] = time_form
    elif time_form not in (AUTO, DATETIME):
        settings["timestamp_format"] = time_form
    return settings


def _build_rating_rule(lowest: float | None, result: PreparationResult) -> list[str]:
    """Return the lines of the YAML that say which ratings count."""
    if lowest is None:
        return []
    counts = f"{result.rows_kept:,} of {result.rows_read:,}"
    return [f"# {counts} rows are {lowest:g} or more.", f"min_rating: {lowest:g}"]


def _build_filter(columns: Columns, counts: InteractionCounts) -> list[str]:
    """Return comments for the YAML that name the event types, and show how to filter the rows."""
    if "event_type" not in columns.roles or not counts.events:
        return []
    events = ", ".join(f"{name} ({count:,})" for name, count in counts.events.items())
    column, most_frequent = str(columns.roles["event_type"]), next(iter(counts.events))
    lines = [f"# Events: {events}"]
    if column.isidentifier() and "'" not in most_frequent:
        lines.append(f"# filter: {column} <> '{most_frequent}'")
    return [*map(escape_invisible, lines)]
