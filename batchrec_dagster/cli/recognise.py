"""What `batchrec new` recognises in files of ratings and items."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from batchrec_dagster.cli.sample import Sample, UnknownColumnsError, read_sample
from batchrec_dagster.personalize.datasets import (
    VALUE_SEPARATOR,
    csv_types,
    field_name,
    interactions_columns,
)
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID
from batchrec_dagster.preparation.items import ItemsFile, ItemsLayout
from batchrec_dagster.preparation.layout import AUTO, Column, PreparationError, matching, recognise
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import Preparation, opened
from batchrec_dagster.preparation.recognition import Reading
from batchrec_dagster.preparation.rules import BELOW_MIN_RATING, Rules
from batchrec_dagster.preparation.sources.movielens import KNOWN_ITEMS
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.preparation.users import count_rows
from batchrec_dagster.reporting.terminal import plain
from batchrec_dagster.steps.checks import enough_interactions, timestamps_plausible

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
DEFAULTS = {
    "delimiter": ",",
    "decimal": ".",
    "separator": VALUE_SEPARATOR,
    "timestamp_format": AUTO,
}


@dataclass(frozen=True)
class Recognised:
    """What was recognised of a source.

    settings: its block of the YAML; rules: lines of the block interactions; summary, warnings:
    lines for people; items: the distinct item ids.
    """

    settings: Mapping[str, object]
    summary: list[str]
    warnings: list[str]
    items: pl.Series
    rules: Sequence[str] = ()


def recognise_ratings(
    source: str,
    files: Sequence[RawFile],
    asked: Mapping[str, Column],
    delimiter: str | None = None,
    time_format: str | None = None,
) -> Recognised:
    """Recognise and count the ratings in these files. asked: the columns given, by role.

    Raises UnknownColumnsError, PreparationError.
    """
    layout, scale = parse_source(source).layout, None
    settings: dict[str, object] = {"source": source}
    if layout is not None and not asked:
        reading, low = Reading.of(layout), LIKED[5] if layout.rating else None
    else:
        sample = read_sample(files, asked, delimiter)
        reading, scale, low = _reading(sample, asked, time_format)
        settings = _settings(source, reading)
    columns = reading.columns if "columns" in settings else {}
    rules = Rules(on_bad_rows="skip", min_rating=low, event_type="event_type" in columns)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.csv"
        with opened(files, reading, rules) as read:
            done = read.write_interactions(path)
            form = read.layout.format
        types = csv_types(interactions_columns(event_type=rules.event_type))
        rows = pl.scan_csv(path, schema=types, glob=False)
        counts = count_rows(rows)
        items = rows.select(pl.col(ITEM_ID).unique()).collect(engine="streaming").to_series()
        kinds = rows.group_by(EVENT_TYPE).len().collect().rows() if rules.event_type else []
    enough_rows = enough_interactions(done.rows_kept, counts.users, counts.users_with_two)
    span = timestamps_plausible(
        counts.earliest, counts.latest, done.timestamp_unit, datetime.now(UTC)
    )
    warnings = [check.found for check in (enough_rows, span) if not check.passed]
    if "rating" in asked and low is None:
        why = "has no numbers such as 4.5 or 4,5"
        if scale is not None:
            why = f"goes from {scale[0]:g} to {scale[1]:g}, which is no usual scale"
        warnings.append(
            f"the rating in column {asked['rating']} {why}. All rows count, whatever their rating"
        )
    if bad := done.rows_read - done.rows_kept - done.left_out.get(BELOW_MIN_RATING, 0):
        warnings.append(_unreadable("ratings", bad, done.rows_read, done.bad_row_examples[0]))
    return Recognised(
        settings,
        [
            f"{hide_query(source)}: {done.rows_read:,} rows, {form}, of which",
            f"{done.rows_kept:,} count, of {counts.users:,} users and {counts.items:,} items,",
            span.found.partition(";")[0],
        ],
        warnings,
        items,
        [*_rating_rules(scale, low, done), *_event_rules(columns, kinds)],
    )


def _reading(
    sample: Sample, asked: Mapping[str, Column], time_format: str | None
) -> tuple[Reading, tuple[float, float] | None, float | None]:
    """How to read the files; the scale of the ratings; the lowest that says someone liked it."""
    columns = _rating_columns(sample, asked)
    unit = time_format or sample.time_format(columns["timestamp"]) or AUTO
    rating, scale, low, decimal = columns.pop("rating", None), None, None, sample.decimal([])
    if rating is not None:
        comma = sample.decimal([rating])
        numbers = sample.numbers(rating, comma).drop_nulls().sort()
        if len(numbers):
            scale = (numbers.item(0), numbers.item(-1))
            fits = (liked for top, liked in LIKED.items() if top - 1 <= scale[1] <= top)
            low = next(fits, None) if scale[0] >= 0 else None
        if low is not None:
            # Without it ratings do not count, and missing ones do no harm.
            columns["rating"], decimal = rating, comma
    reading = Reading(
        format=sample.format,
        delimiter=sample.delimiter,
        columns={role: columns[role] for role in RATING_ROLES if role in columns},
        timestamp_unit=unit,
        decimal=decimal,
    )
    return reading, scale, low


def _settings(source: str, reading: Reading) -> dict[str, object]:
    settings = {
        "source": source,
        "format": reading.format,
        "delimiter": reading.delimiter,
        "decimal": reading.decimal,
        "columns": reading.columns,
        "timestamp_format": reading.timestamp_unit,
    }
    return _declared(settings)


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


def _rating_rules(
    scale: tuple[float, float] | None, low: float | None, done: Preparation
) -> list[str]:
    """The lines of YAML that say which ratings count."""
    lines = []
    if low is not None:
        if scale is not None:
            lines.append(f"# Ratings go from {scale[0]:g} to {scale[1]:g}.")
        lines.append(f"# {done.rows_kept:,} of {done.rows_read:,} rows are {low:g} or more.")
        lines.append(f"min_rating: {low:g}")
    elif scale is not None:
        lines.append("# All ratings count. To drop low ones, set ratings.columns.rating, and:")
        lines.append(f"# min_rating: {scale[1]:g}")
    return lines


def _event_rules(columns: Mapping[str, Column], kinds: Sequence[tuple[str, int]]) -> list[str]:
    """Comments in the YAML that name the event types, and show how to filter them."""
    if not kinds:
        return []
    kinds = sorted(kinds, key=lambda kind: (-kind[1], kind[0]))
    lines = ["# Events: " + ", ".join(f"{plain(kind)} ({count:,})" for kind, count in kinds)]
    column, first = str(columns["event_type"]), kinds[0][0]
    if column.isidentifier() and "'" not in first:
        lines.append(plain(f"# filter: {column} <> '{first}'"))
    return lines


def recognise_items(
    source: str,
    file: RawFile,
    asked: Mapping[str, Column],
    delimiter: str | None,
    ratings: Recognised,
) -> Recognised:
    """Recognise and read the items in this file. asked: the columns given, by setting, such as
    categories.GENRES.

    Raises UnknownColumnsError, PreparationError.
    """
    layout = KNOWN_ITEMS.get(source) if not asked and delimiter is None else None
    settings: dict[str, object] = {"source": source}
    if layout is None:
        layout = _items_layout(file, asked, delimiter, ratings)
        columns = {
            role: getattr(layout, role)
            for role in ("item", "title", "created", "categories", "numbers")
        }
        settings |= {"delimiter": layout.delimiter, "decimal": layout.decimal}
        settings |= {"columns": _declared(columns), "separator": layout.separator}
    read = ItemsFile(file.path, file.name, layout).read()
    items, rated = read.titles.get_column("item_id"), ratings.items
    warnings = []
    if bad := read.bad.total:
        warnings.append(_unreadable("items", bad, read.rows, read.bad.examples[0]))
    there = int(rated.is_in(items.implode()).sum())
    if there < len(rated) / 2:
        warnings.append(
            f"{file.name} has only {there:,} of the {len(rated):,} rated items. Is {layout.item}"
            " the same id?"
        )
    summary = [f"{hide_query(source)}: {read.rows:,} rows"]
    return Recognised(_declared(settings), summary, warnings, items)


def _items_layout(
    file: RawFile, asked: Mapping[str, Column], delimiter: str | None, ratings: Recognised
) -> ItemsLayout:
    sample = read_sample([file], asked, delimiter)
    if sample.format != "csv":
        raise PreparationError(f"{file.name} is {sample.format}. Items are read from CSV")
    sample.check_columns(asked)
    of_ratings = ratings.settings.get("columns")
    same_name = [of_ratings["item"]] if isinstance(of_ratings, dict) else []
    ids = [
        *([known] if (known := recognise(sample.columns).get("item")) else []),
        *(name for name in sample.columns if name in same_name or matching([name], ["id"])),
    ]
    item = asked.get("item", ids[0] if ids else None)
    free = [name for name in sample.columns if name not in (item, *asked.values())]
    known_as = {role: matching(free, words.split()) for role, words in ITEM_NAMES.items()}
    title, created = (
        asked.get(role, next(iter(known_as[role]), None)) for role in ("title", "created")
    )
    fields: dict[str, dict[str, Column]] = {"categories": {}, "numbers": {}}
    for role, column in asked.items():
        kind, dot, field = role.partition(".")
        if dot:
            fields[kind][field] = column
    categories = {field_name(name): name for name in known_as["categories"]} | fields["categories"]
    decimal = sample.decimal([*known_as["numbers"], *fields["numbers"].values()])
    numeric = [name for name in known_as["numbers"] if sample.is_numeric(name, decimal)]
    numbers = {field_name(name): name for name in numeric} | fields["numbers"]
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
