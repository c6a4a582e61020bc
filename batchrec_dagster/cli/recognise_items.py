"""What `batchrec new` recognises in a file of items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchrec_dagster.cli.attribute_columns import (
    build_unknown_columns_error,
    choose_attribute_columns,
    recognise_id,
)
from batchrec_dagster.cli.column_candidates import check_columns, open_sample
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
    name_suggestions,
    suggest_item_columns,
)
from batchrec_dagster.preparation.attributes import QUOTES_FIX, open_attributes_table
from batchrec_dagster.preparation.column_names import find_columns
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.items import HTTP_ADDRESS, ItemsLayout, parse_items
from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.sources.movielens import KNOWN_ITEMS
from batchrec_dagster.preparation.sources.source import hide_query

ITEM_NAMES = {
    "title": "title name itemtitle itemname movietitle producttitle productname booktitle",
    "categories": "genres genre categories category tags brand department producttype",
    "numbers": "year price releaseyear yearofpublication",
    "created": "createdat created creationtimestamp added addedat releasedate published",
    "image": "image imageurl imagelink img imgurl picture pictureurl photo photourl thumbnail"
    " thumbnailurl cover coverurl",
    "link": "link url href producturl productlink productpage itemurl itemlink page pageurl"
    " detailurl",
}
# What the address of a picture ends with, before the query.
PICTURE = r"(?i)^[^?#]+\.(?:avif|gif|jpe?g|png|webp)(?:[?#]|$)"


def recognise_items(
    source: str,
    file: RawFile,
    given_columns: Mapping[str, Column],
    options: ReadingOptions,
    ratings: RecognisedSource,
) -> RecognisedSource:
    """What the items in this file are, and how many.

    given_columns: the columns that need not be recognised, by their setting, such as
    categories.GENRES.
    ratings: what was recognised of the ratings of these items.

    Raises UnknownColumnsError, PreparationError.
    """
    layout = None
    if not given_columns and options.delimiter is None:
        layout = KNOWN_ITEMS.get(source)
    settings: dict[str, object] = {"source": source}
    unused: list[UnusedColumn] = []
    if layout is None:
        reading = ReadSettings(delimiter=options.delimiter, columns=given_columns)
        with open_sample([file], reading, open_attributes_table, QUOTES_FIX) as sample:
            layout = _choose_layout(sample, given_columns, ratings)
            unused = find_unused_columns(sample, [*layout.roles.values()], layout.decimal)
        columns = {
            role: getattr(layout, role)
            for role in ("item", "title", "image", "link", "created", "categories", "numbers")
        }
        settings |= {
            "delimiter": choose_declared_delimiter(layout.delimiter, layout.item),
            "decimal": layout.decimal,
            "columns": leave_out_defaults(columns),
            "separator": layout.separator,
        }
    items = parse_items(file, layout)
    item_ids = items.titles.get_column("item_id")
    warnings = []
    if bad_rows := items.bad.total:
        warnings.append(describe_bad_rows(bad_rows, items.rows, items.bad.examples[0], options))
        settings["on_bad_rows"] = "skip"
    known_count = int(ratings.items.is_in(item_ids.implode()).sum())
    if known_count < len(ratings.items) / 2:
        warnings.append(
            f"{file.name} has only {known_count:,} of the {len(ratings.items):,} rated items. Is"
            f" {layout.item} the same id?"
        )
    suggested = suggest_item_columns(unused, {*layout.categories, *layout.numbers})
    return RecognisedSource(
        leave_out_defaults(settings),
        [
            f"{hide_query(source)}: {items.rows:,} rows",
            *name_columns(unused),
            *name_suggestions(suggested),
        ],
        warnings,
        item_ids,
        suggested_columns=suggested,
    )


def _choose_layout(
    sample: FileSample, given_columns: Mapping[str, Column], ratings: RecognisedSource
) -> ItemsLayout:
    """How the file is read: with the given columns, and those that their names show."""
    check_columns(sample, given_columns)
    item = given_columns.get("item") or recognise_id(sample, "item", ratings.settings)
    free = [name for name in sample.columns if name not in (item, *given_columns.values())]
    candidates = {role: find_columns(free, words.split()) for role, words in ITEM_NAMES.items()}
    title, created = (
        given_columns.get(role, next(iter(candidates[role]), None)) for role in ("title", "created")
    )
    image, link = given_columns.get("image"), given_columns.get("link")
    if title is not None:
        image = image or _recognise_image(sample, free)
        link = link or _recognise_link(sample, [name for name in free if name != image])
    attributes = choose_attribute_columns(
        sample, given_columns, candidates["categories"], candidates["numbers"]
    )
    if item is None:
        raise build_unknown_columns_error(sample, "the column with the item's id", "--items-id COL")
    if not (title or created or attributes.categories or attributes.numbers):
        raise build_unknown_columns_error(
            sample,
            "a title, category or number",
            "--items-title, --items-category, --items-number",
        )
    return ItemsLayout(
        delimiter=sample.delimiter or ",",
        item=item,
        title=title,
        image=image,
        link=link,
        created=created,
        **vars(attributes),
    )


def _recognise_image(sample: FileSample, columns: Sequence[str]) -> str | None:
    """The column of addresses with the name of pictures, or else with addresses of pictures."""
    columns_of_addresses = [name for name in columns if _has_addresses(sample, name)]
    for name in find_columns(columns_of_addresses, ITEM_NAMES["image"].split()):
        return name
    for name in columns_of_addresses:
        if sample.read_cells(name).str.contains(PICTURE).all():
            return name
    return None


def _recognise_link(sample: FileSample, columns: Sequence[str]) -> str | None:
    """The column of addresses with the name of pages."""
    columns_of_addresses = [name for name in columns if _has_addresses(sample, name)]
    return next(iter(find_columns(columns_of_addresses, ITEM_NAMES["link"].split())), None)


def _has_addresses(sample: FileSample, column: str) -> bool:
    """Whether all cells of the column are http(s) addresses, and there are any."""
    cells = sample.read_cells(column)
    return len(cells) > 0 and bool(cells.str.contains(HTTP_ADDRESS).all())
