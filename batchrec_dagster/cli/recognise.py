"""What `batchrec new` recognises in files of ratings and items."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from batchrec_dagster.cli.sample import Sample, UnknownColumnsError, read_sample
from batchrec_dagster.personalize.datasets import (
    EVENT_TYPE,
    ITEM_ID,
    VALUE_SEPARATOR,
    csv_types,
    field_name,
    interactions_columns,
)
from batchrec_dagster.preparation.column_aliases import matching, recognise
from batchrec_dagster.preparation.counting import Counts, count_rows
from batchrec_dagster.preparation.items import ItemsFile, ItemsLayout
from batchrec_dagster.preparation.layout import Column, PreparationError
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import Preparation, opened
from batchrec_dagster.preparation.recognition import Reading
from batchrec_dagster.preparation.rules import BELOW_MIN_RATING, Rules
from batchrec_dagster.preparation.sources.movielens import KNOWN_ITEMS
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.reporting.terminal import plain
from batchrec_dagster.steps.checks import enough, plausible

# The options that give the columns that every source of ratings must have.
OPTIONS = {"user": "--user", "item": "--item", "timestamp": "--time"}
RATING_ROLES = ("user", "item", "rating", "timestamp", "event_type", "event_value")
# A column with more different values than this does not hold event types.
MOST_KINDS = 30
# From the top of a rating scale to the lowest rating that says someone liked the item.
LIKED = {5: 3.5, 10: 7.0}
ITEM_NAMES = {
    "title": "title name itemtitle itemname movietitle producttitle productname booktitle",
    "categories": "genres genre categories category tags brand department producttype",
    "numbers": "year price releaseyear yearofpublication",
    "created": "createdat created creationtimestamp added addedat releasedate published",
}
# Settings with these values are left out of the YAML.
DEFAULTS = {"delimiter": ",", "decimal": ".", "separator": VALUE_SEPARATOR}


@dataclass(frozen=True)
class Recognised:
    """What was recognised of a source.

    settings: its block of the YAML; rules, notes: further lines of YAML, and comments for its top;
    summary, warnings: lines for people; items: the distinct item ids.
    """

    settings: Mapping[str, object]
    format: str
    rows: int
    summary: Sequence[str]
    warnings: Sequence[str]
    items: pl.Series
    rules: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Ratings:
    """How to read ratings. columns: those to declare, none if the layout of the source is known;
    scale: the lowest and highest rating of the first rows."""

    reading: Reading
    columns: Mapping[str, Column]
    min_rating: float | None
    scale: tuple[float, float] | None = None


def recognise_ratings(
    source: str,
    files: Sequence[RawFile],
    asked: Mapping[str, Column],
    *,
    delimiter: str | None = None,
    time_format: str | None = None,
) -> Recognised:
    """Recognise and count the ratings in these files. asked: the columns given, by role.

    Raises UnknownColumnsError, PreparationError.
    """
    ratings = _ratings(source, files, asked, delimiter, time_format)
    has_kinds = "event_type" in ratings.columns
    rules = Rules(on_bad_rows="skip", min_rating=ratings.min_rating, event_type=has_kinds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.csv"
        with opened(files, ratings.reading, rules) as read:
            done = read.write_interactions(path)
            form = read.layout.format
        types = csv_types(interactions_columns(event_type=has_kinds))
        rows = pl.scan_csv(path, schema=types, glob=False)
        counts = count_rows(rows)
        items = rows.select(pl.col(ITEM_ID).unique()).collect(engine="streaming").to_series()
        kinds = rows.group_by(EVENT_TYPE).len().collect().rows() if has_kinds else []
    kinds.sort(key=lambda kind: (-kind[1], kind[0]))
    reading, columns = ratings.reading, ratings.columns
    settings: dict[str, object] = {"source": source}
    if columns:
        settings |= {"format": form, "delimiter": reading.delimiter, "decimal": reading.decimal}
        settings["columns"] = {role: columns[role] for role in RATING_ROLES if role in columns}
        if reading.timestamp_unit != times.AUTO:
            settings["timestamp_format"] = reading.timestamp_unit
    span = _span(counts)
    return Recognised(
        settings=_declared(settings),
        rows=done.rows_read,
        format=form,
        summary=_summary(ratings, done, counts, kinds, span),
        warnings=_warnings(ratings, asked, done, counts),
        items=items,
        rules=[*_min_rating(ratings, done), *_filter(columns, kinds)],
        notes=[
            f"Written by batchrec new, from"
            f" {plain(files[0].name) if len(files) == 1 else f'{len(files):,} files'}:"
            f" {done.rows_read:,} rows, of which",
            f"{done.rows_kept:,} count, of {counts.users:,} users and {counts.items:,} items,"
            f" {span or 'at no time'}.",
        ],
    )


def _ratings(
    source: str,
    files: Sequence[RawFile],
    asked: Mapping[str, Column],
    delimiter: str | None,
    time_format: str | None,
) -> _Ratings:
    known = parse_source(source).layout
    if known is not None and not asked:
        return _Ratings(Reading.of(known), {}, LIKED[5] if known.rating else None)
    sample = read_sample(files, asked, delimiter)
    columns = _rating_columns(sample, asked)
    decimal, scale, min_rating = sample.decimal([]), None, None
    if rating := columns.pop("rating", None):
        decimal = sample.decimal([rating])
        numbers = sample.numbers(rating, decimal).drop_nulls().sort()
        if len(numbers):
            scale = (numbers.item(0), numbers.item(-1))
            if scale[0] >= 0:
                fits = (low for top, low in LIKED.items() if top - 1 <= scale[1] <= top)
                min_rating = next(fits, None)
    if rating and min_rating is not None:
        # Otherwise ratings do not count, and missing ones do no harm.
        columns["rating"] = rating
    else:
        decimal = "."
    reading = Reading(
        format=sample.format,
        delimiter=sample.delimiter,
        columns=columns,
        timestamp_unit=time_format or sample.time_format(columns["timestamp"]) or times.AUTO,
        decimal=decimal,
    )
    return _Ratings(reading, columns, min_rating, scale)


def _rating_columns(sample: Sample, asked: Mapping[str, Column]) -> dict[str, Column]:
    """The columns by role: as given, else by their names, else by their contents."""
    sample.check_columns(asked)
    names = recognise(sample.columns) if sample.has_header else {}
    columns: dict[str, Column] = {
        **{role: name for role, name in names.items() if name not in asked.values()},
        **asked,
    }
    free = [name for name in sample.columns if name not in columns.values()]
    if sample.has_header and "timestamp" not in columns:
        candidates = [name for name in sample.columns if sample.is_time(name)]
        if len(candidates) == 1 and candidates[0] in free:
            columns["timestamp"] = candidates[0]
    missing = [role for role in OPTIONS if role not in columns]
    if missing:
        raise _not_recognised(sample, missing, free)
    if "event_type" in columns and "event_type" not in asked:
        kinds = sample.column(columns["event_type"])
        if not len(kinds) or kinds.n_unique() > MOST_KINDS:
            del columns["event_type"]
    return columns


def _not_recognised(
    sample: Sample, missing: Sequence[str], free: Sequence[str]
) -> UnknownColumnsError:
    if not sample.has_header:
        options = " ".join(f"{OPTIONS[role]} COL" for role in missing)
        return UnknownColumnsError(
            f"{sample.name} has no header; line 1 is: {', '.join(sample.cells.row(0))}. Give the"
            f" columns by position, from 1: {options}, and --rating COL if there are ratings"
        )
    words = [role.replace("timestamp", "time") for role in missing]
    what = f"{', '.join(words[:-1])} and {words[-1]} columns" if words[1:] else f"{words[0]} column"
    dates = [name for name in free if sample.is_time(name) or sample.time_formats(name)]
    others = [name for name in free if name not in dates]
    options = " ".join(
        f"{OPTIONS[role]} {shlex.quote(rest.pop(0)) if rest else 'COL'}"
        for role in missing
        for rest in [dates if role == "timestamp" else others]
    )
    return UnknownColumnsError(
        f"{sample.name}: couldn't recognise the {what}. Found: {', '.join(sample.columns)}."
        f" Try: {options}"
    )


def _min_rating(ratings: _Ratings, done: Preparation) -> list[str]:
    """The lines of YAML that say which ratings count."""
    low = ratings.min_rating
    if low is not None:
        scale = ratings.scale and f"# Ratings go from {ratings.scale[0]:g} to {ratings.scale[1]:g}."
        return [
            *([scale] if scale else []),
            f"# {done.rows_kept:,} of {done.rows_read:,} rows are {low:g} or more.",
            f"min_rating: {low:g}",
        ]
    if ratings.scale is None:
        return []
    return [
        "# All ratings count. To drop low ones, set ratings.columns.rating, and:",
        f"# min_rating: {ratings.scale[1]:g}",
    ]


def _filter(columns: Mapping[str, Column], kinds: Sequence[tuple[str, int]]) -> list[str]:
    """Comments in the YAML that name the event types, and show how to filter them."""
    if not kinds:
        return []
    lines = ["# Events: " + ", ".join(f"{plain(kind)} ({count:,})" for kind, count in kinds)]
    column, first = str(columns["event_type"]), kinds[0][0]
    if column.isidentifier() and "'" not in first:
        lines.append(plain(f"# filter: {column} <> '{first}'"))
    return lines


def _summary(
    ratings: _Ratings,
    done: Preparation,
    counts: Counts,
    kinds: Sequence[tuple[str, int]],
    span: str | None,
) -> list[str]:
    where = {role: f" in column {column}" for role, column in ratings.columns.items()}
    units = {"s": "seconds", "ms": "milliseconds"}
    unit = units.get(done.timestamp_unit, done.timestamp_unit)
    lines = [
        f"users    {counts.users:,}{where.get('user', '')}",
        f"items    {counts.items:,}{where.get('item', '')}",
    ]
    if (low := ratings.min_rating) is not None:
        lines.append(f"ratings  {done.rows_kept:,} are {low:g} or more{where.get('rating', '')}")
    if kinds:
        events = ", ".join(f"{kind} {count:,}" for kind, count in kinds)
        lines.append(f"events   {events}{where['event_type']}")
    return [*lines, f"times    {span or 'unknown'}, as {unit}{where.get('timestamp', '')}"]


def _warnings(
    ratings: _Ratings, asked: Mapping[str, Column], done: Preparation, counts: Counts
) -> list[str]:
    checks = [
        enough(done.rows_kept, counts.users, counts.users_with_two),
        plausible(counts.earliest, counts.latest, done.timestamp_unit, datetime.now(UTC)),
    ]
    warnings = [check.found for check in checks if not check.passed]
    if "rating" in asked and "rating" not in ratings.columns:
        why = "has no numbers such as 4.5 or 4,5"
        if ratings.scale is not None:
            low, high = ratings.scale
            why = f"goes from {low:g} to {high:g}, which is no usual scale"
        warnings.append(
            f"the rating in column {asked['rating']} {why}. All rows count, whatever their rating"
        )
    bad = done.rows_read - done.rows_kept - done.left_out.get(BELOW_MIN_RATING, 0)
    if bad:
        warnings.append(_unreadable("ratings", bad, done.rows_read, done.bad_row_examples[0]))
    return warnings


def _span(counts: Counts) -> str | None:
    """From the first day to the last; None if there are no rows, or no such days."""
    if counts.earliest is None or counts.latest is None:
        return None
    try:
        days = [datetime.fromtimestamp(time, UTC) for time in (counts.earliest, counts.latest)]
    except (ValueError, OverflowError, OSError):
        return None
    return f"{days[0]:%Y-%m-%d} to {days[1]:%Y-%m-%d}"


def recognise_items(
    source: str,
    file: RawFile,
    asked: Mapping[str, Column],
    *,
    delimiter: str | None,
    ids: Collection[str],
    rated: pl.Series,
) -> Recognised:
    """Recognise and read the items in this file. asked: the columns given, by setting, such as
    categories.GENRES; ids: further names of the id's column; rated: the ids of the rated items.

    Raises UnknownColumnsError, PreparationError.
    """
    layout = KNOWN_ITEMS.get(source) if not asked and delimiter is None else None
    settings: dict[str, object] = {"source": source}
    summary = []
    if layout is None:
        layout = _items_layout(file, asked, delimiter, ids)
        columns = {
            "item": layout.item,
            "title": layout.title,
            "created": layout.created,
            "categories": layout.categories,
            "numbers": layout.numbers,
        }
        settings |= {"delimiter": layout.delimiter, "decimal": layout.decimal}
        settings |= {"columns": _declared(columns), "separator": layout.separator}
        lines = {
            "ids": layout.item,
            "titles": layout.title,
            "categories": ", ".join(map(str, layout.categories.values())),
            "numbers": ", ".join(map(str, layout.numbers.values())),
            "created": layout.created,
        }
        summary = [f"{role:<11}{column}" for role, column in lines.items() if column]
    read = ItemsFile(file.path, file.name, layout).read()
    items = read.titles.get_column("item_id")
    warnings = []
    if bad := read.bad.total:
        warnings.append(_unreadable("items", bad, read.rows, read.bad.examples[0]))
    there = int(rated.is_in(items.implode()).sum())
    if there < len(rated) / 2:
        warnings.append(
            f"{file.name} has only {there:,} of the {len(rated):,} rated items. Is {layout.item}"
            " the same id?"
        )
    return Recognised(_declared(settings), "csv", read.rows, summary, warnings, items)


def _items_layout(
    file: RawFile, asked: Mapping[str, Column], delimiter: str | None, ids: Collection[str]
) -> ItemsLayout:
    sample = read_sample([file], asked, delimiter)
    if sample.format != "csv":
        raise PreparationError(f"{file.name} is {sample.format}. Items are read from CSV")
    sample.check_columns(asked)
    called_id = [name for name in sample.columns if name in ids or matching([name], ["id"])]
    names = [recognise(sample.columns).get("item"), *called_id]
    item = asked.get("item") or next((name for name in names if name), None)
    taken = {item, *asked.values()}
    known = {
        role: [name for name in matching(sample.columns, words.split()) if name not in taken]
        for role, words in ITEM_NAMES.items()
    }
    title = asked.get("title") or next(iter(known["title"]), None)
    created = asked.get("created") or next(iter(known["created"]), None)
    given: dict[str, dict[str, Column]] = {"categories": {}, "numbers": {}}
    for role, column in asked.items():
        kind, dot, field = role.partition(".")
        if dot:
            given[kind][field] = column
    decimal = sample.decimal([*known["numbers"], *given["numbers"].values()])
    numeric = []
    for name in known["numbers"]:
        cells = sample.numbers(name, decimal)
        if len(cells) and not cells.null_count():
            numeric.append(name)
    categories = {**{field_name(name): name for name in known["categories"]}, **given["categories"]}
    numbers = {**{field_name(name): name for name in numeric}, **given["numbers"]}
    if item is None or not (title or created or categories or numbers):
        what, option = (
            "a title, category or number",
            "--items-title, --items-category, --items-number",
        )
        if item is None:
            what, option = "the column with the item's id", "--items-id COL"
        raise UnknownColumnsError(
            f"{file.name}: couldn't recognise {what}. Found: {', '.join(sample.columns)}. Give it"
            f" by name, or by position, from 1, if there is no header: {option}"
        )
    return ItemsLayout(
        delimiter=sample.delimiter or ",",
        item=item,
        title=title,
        created=created,
        categories=categories,
        numbers=numbers,
        separator=_separator(sample, list(categories.values())),
        decimal=decimal,
    )


def _separator(sample: Sample, categories: Sequence[Column]) -> str:
    """What separates several values of a category."""
    cells = [sample.column(name) for name in categories]
    for separator in ("|", ";", ","):
        if any(column.str.contains(separator, literal=True).any() for column in cells):
            return separator
    return VALUE_SEPARATOR


def _declared(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that are given and differ from their defaults."""
    return {key: value for key, value in settings.items() if value and DEFAULTS.get(key) != value}


def _unreadable(block: str, bad: int, rows: int, first: str) -> str:
    return (
        f"cannot read {bad:,} of {rows:,} rows; the first is {first}. The pipeline stops there,"
        f" unless you set {block}.on_bad_rows: skip"
    )
