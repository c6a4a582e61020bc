"""What `batchrec new` recognises in a file of items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchrec_dagster.cli.column_candidates import (
    UnknownColumnsError,
    check_columns,
    list_columns,
    open_sample,
)
from batchrec_dagster.cli.recognise import (
    ReadingOptions,
    RecognisedSource,
    declared,
    declared_delimiter,
    unreadable,
)
from batchrec_dagster.personalize.schemas import VALUE_SEPARATOR, make_field_name
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.items import (
    QUOTES_FIX,
    ItemsLayout,
    open_items_table,
    parse_items,
)
from batchrec_dagster.preparation.layout import Column, matching, recognise
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.sources.movielens import KNOWN_ITEMS
from batchrec_dagster.preparation.sources.source import hide_query

ITEM_NAMES = {
    "title": "title name itemtitle itemname movietitle producttitle productname booktitle",
    "categories": "genres genre categories category tags brand department producttype",
    "numbers": "year price releaseyear yearofpublication",
    "created": "createdat created creationtimestamp added addedat releasedate published",
}


def recognise_items(
    source: str,
    file: RawFile,
    asked: Mapping[str, Column],
    options: ReadingOptions,
    ratings: RecognisedSource,
) -> RecognisedSource:
    """Recognise and read the items in this file. asked: the columns given, by setting, such as
    categories.GENRES.

    Raises UnknownColumnsError, PreparationError.
    """
    delimiter = options.delimiter
    layout = KNOWN_ITEMS.get(source) if not asked and delimiter is None else None
    settings: dict[str, object] = {"source": source}
    if layout is None:
        layout = _items_layout(file, asked, delimiter, ratings)
        columns = {
            role: getattr(layout, role)
            for role in ("item", "title", "created", "categories", "numbers")
        }
        delimiter = declared_delimiter(layout.delimiter, layout.item)
        settings |= {"delimiter": delimiter, "decimal": layout.decimal}
        settings |= {"columns": declared(columns), "separator": layout.separator}
    read = parse_items(file, layout)
    items, rated = read.titles.get_column("item_id"), ratings.items
    warnings = []
    if bad := read.bad.total:
        warnings.append(unreadable(bad, read.rows, read.bad.examples[0], options))
        settings["on_bad_rows"] = "skip"
    there = int(rated.is_in(items.implode()).sum())
    if there < len(rated) / 2:
        warnings.append(
            f"{file.name} has only {there:,} of the {len(rated):,} rated items. Is {layout.item}"
            " the same id?"
        )
    summary = [f"{hide_query(source)}: {read.rows:,} rows"]
    return RecognisedSource(declared(settings), summary, warnings, items)


def _items_layout(
    file: RawFile, asked: Mapping[str, Column], delimiter: str | None, ratings: RecognisedSource
) -> ItemsLayout:
    reading = ReadSettings(delimiter=delimiter, columns=asked)
    with open_sample([file], reading, open_items_table, QUOTES_FIX) as sample:
        return _recognise_items_layout(sample, asked, ratings)


def _recognise_items_layout(
    sample: FileSample, asked: Mapping[str, Column], ratings: RecognisedSource
) -> ItemsLayout:
    check_columns(sample, asked)
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
    categories = {make_field_name(name): name for name in known_as["categories"]} | fields[
        "categories"
    ]
    decimal = sample.decimal([*known_as["numbers"], *fields["numbers"].values()])
    numeric = [name for name in known_as["numbers"] if sample.is_numeric(name, decimal)]
    numbers = {make_field_name(name): name for name in numeric} | fields["numbers"]
    if item is None or not (title or created or categories or numbers):
        what, option = "the column with the item's id", "--items-id COL"
        if item is not None:
            what = "a title, category or number"
            option = "--items-title, --items-category, --items-number"
        raise UnknownColumnsError(
            f"{sample.name}: couldn't recognise {what}. Found: {list_columns(sample)}. Give it"
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


def _separator(sample: FileSample, categories: Sequence[Column]) -> str:
    cells = [sample.cells(name) for name in categories]
    for separator in ("|", ";", ","):
        if any(column.str.contains(separator, literal=True).any() for column in cells):
            return separator
    return VALUE_SEPARATOR
