"""The recognition of item and user files, for `batchrec new`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from batchrec_dagster.cli.column_contents import find_decimal, has_addresses, has_recognised_times
from batchrec_dagster.cli.recognised_source import (
    Doubt,
    RecognisedSource,
    UnknownColumnsError,
    build_settings,
    describe_bad_rows,
    list_columns,
    open_sample,
    preview_rows,
    require_columns,
)
from batchrec_dagster.config.new_declaration import format_escaped
from batchrec_dagster.personalize.schemas import VALUE_SEPARATOR, make_field_name
from batchrec_dagster.preparation.attributes import (
    AttributesLayout,
    AttributeSubject,
    open_attributes_table,
    parse_attributes,
)
from batchrec_dagster.preparation.column_names import find_columns, recognise_columns
from batchrec_dagster.preparation.file_form import Columns, Decimal
from batchrec_dagster.preparation.file_sample import FileSample, are_all
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.sources.query_tables import quote_identifier
from batchrec_dagster.preparation.sources.source import hide_query

# Known names of columns, by the setting that such a column can be used for, in the order of the
# YAML.
ITEM_NAMES = {
    "title": "title name itemtitle itemname movietitle producttitle productname booktitle",
    "image": "image imageurl imagelink img imgurl picture pictureurl photo photourl thumbnail"
    " thumbnailurl cover coverurl",
    "link": "link url href producturl productlink productpage itemurl itemlink page pageurl"
    " detailurl",
    "created": "createdat created creationtimestamp added addedat releasedate publishedat"
    " published",
    "categories": "genres genre categories category tags brand department producttype",
    "numbers": "year price releaseyear yearofpublication",
}
CONSENT_NAMES = (
    "consent newsletter newsletterconsent marketingconsent emailconsent optin emailoptin"
    " newsletteroptin marketingoptin subscribed subscriber"
)
USER_NAMES = {
    "categories": "country countrycode region state city language locale gender sex occupation"
    " segment customergroup customertype tier membership plan loyalty agegroup " + CONSENT_NAMES,
    "numbers": "age birthyear yearofbirth",
}
# The address of a picture has one of these extensions, perhaps before a query.
PICTURE = r"(?i)^[^?#]+\.(?:avif|gif|jpe?g|png|webp)(?:[?#]|$)"
# Values that mean that somebody agreed, in lower case.
AGREED = ("yes", "y", "true", "1", "ja", "oui", "si", "sí", "opt-in", "optin", "subscribed")


def recognise_attributes(
    subject: AttributeSubject, source: str, file: RawFile, ratings: RecognisedSource, *, skip: bool
) -> RecognisedSource:
    """Return the recognised settings, summary and doubts for the items or users in this file.

    ratings: the recognised ratings.
    skip: whether bad rows are dropped.

    Raises UnknownColumnsError, PreparationError.
    """
    with open_sample([file], Columns(), open_attributes_table) as (sample, form):
        id_column = _recognise_id(sample, subject, ratings)
        if id_column is None:
            what = f"the column with the {subject}'s id"
            raise _build_unknown_columns_error(sample, what, subject, source)
        columns, decimal = _choose_columns(sample, subject, id_column)
        if not any(columns.values()):
            what = "a title, category or number" if subject == "item" else "a category or number"
            raise _build_unknown_columns_error(sample, what, subject, source, id_column)
        layout = AttributesLayout(
            subject,
            id_column,
            **columns,
            separator=_find_separator(sample, columns["categories"].values()),
            form=form,
            decimal=decimal,
        )
        require_columns(sample, layout.columns_by_setting)
        doubts = [*_describe_nested_cells(sample, layout)]
    rows = parse_attributes(file, layout)
    settings = build_settings(
        source,
        # The format of item and user files is not declared.
        replace(form, format=None),
        {subject: id_column, **columns},
        decimal=decimal,
        separator=layout.separator,
    )
    if bad := rows.bad.total:
        example = rows.bad.examples[0]
        doubts.append(describe_bad_rows(bad, rows.rows, example, layout.block, skip=skip))
        settings["on_bad_rows"] = "skip"
    rated_ids = ratings.ids[subject]
    ids = rows.good.get_column(layout.id_name)
    known_count = int(rated_ids.is_in(ids.implode()).sum())
    if known_count < len(rated_ids) / 2:
        text = (
            f"{file.name} has only {known_count:,} of the {len(rated_ids):,} {layout.block} of the"
            f" ratings. Is {id_column} the same id?"
        )
        doubts.append(Doubt(text, (layout.block, "columns", subject)))
    return RecognisedSource(
        settings,
        [f"{hide_query(source)}: {rows.rows:,} rows"],
        doubts,
        rules=_suggest_consent(layout, rows.good) if subject == "user" else [],
    )


def _recognise_id(
    sample: FileSample, subject: AttributeSubject, ratings: RecognisedSource
) -> str | None:
    """Return the column with the id; None if there is no such column.

    The column has a known name, or the name of the id's column in the ratings, or the name `id`.
    """
    columns_of_ratings = ratings.settings["columns"]
    assert isinstance(columns_of_ratings, Mapping)
    recognised = recognise_columns(sample.columns).get(subject)
    candidates = [recognised, columns_of_ratings[subject], *find_columns(sample.columns, ["id"])]
    for name in candidates:
        if name in sample.columns:
            return str(name)
    return None


def _choose_columns(
    sample: FileSample, subject: AttributeSubject, id_column: str
) -> tuple[dict[str, Any], Decimal]:
    """Return the columns of the YAML except the id, and the decimal separator of the numbers.

    Columns are chosen by their names, if their cells fit. A column of picture addresses is chosen
    under any name.
    """
    free = [name for name in sample.columns if name != id_column and len(sample.read_cells(name))]
    names = ITEM_NAMES if subject == "item" else USER_NAMES
    named = {setting: find_columns(free, words.split()) for setting, words in names.items()}
    decimal = find_decimal(sample, named["numbers"])
    checks: dict[str, Callable[[str], bool]] = {
        "image": lambda name: has_addresses(sample, name),
        "link": lambda name: has_addresses(sample, name),
        "created": lambda name: has_recognised_times(sample, name),
        "numbers": lambda name: are_all(sample.read_cells(name), "double", decimal),
    }
    fitting = {
        setting: [name for name in columns if setting not in checks or checks[setting](name)]
        for setting, columns in named.items()
    }
    if "image" in fitting:
        fitting["image"] += [name for name in free if has_addresses(sample, name, PICTURE)]
    columns: dict[str, Any] = {
        setting: {make_field_name(name): name for name in column_names}
        if setting in ("categories", "numbers")
        else next(iter(column_names), None)
        for setting, column_names in fitting.items()
    }
    if not columns.get("title"):
        # The report shows pictures and links only together with titles.
        columns |= {setting: None for setting in ("image", "link") if setting in columns}
    return columns, decimal


def _find_separator(sample: FileSample, categories: Iterable[str]) -> str:
    """Return the text that separates several values in a cell of a category."""
    cells = [sample.read_cells(name) for name in categories]
    for separator in (VALUE_SEPARATOR, ";", ","):
        if any(column.str.contains(separator, literal=True).any() for column in cells):
            return separator
    return VALUE_SEPARATOR


def _describe_nested_cells(sample: FileSample, layout: AttributesLayout) -> Iterator[Doubt]:
    """Yield a doubt for each category of a CSV file that has lists or objects in its cells.

    Such cells look like Python, for example `['a', 'b']`.
    """
    for column in layout.categories.values() if isinstance(sample.table, CsvTable) else ():
        cells = sample.read_cells(column)
        for start, form in (("[", "a list"), ("{", "an object")):
            if cells.str.starts_with(start).all():
                name = quote_identifier(str(column))
                plain = f"regexp_replace({name}, '[\\[\\]{{}}''\"]', '', 'g') AS {name}"
                query = f"SELECT * REPLACE ({plain}) FROM source"  # noqa: S608
                text = (
                    f"{column} has {form} in each cell, such as {cells.item(0)[:60]!r}, with its"
                    f" brackets and quotes. To take these away, set {layout.block}.query: {query}"
                )
                yield Doubt(text, (layout.block, "source"))


def _suggest_consent(layout: AttributesLayout, users: pl.DataFrame) -> list[str]:
    """Return comments for the YAML that show how to send lists only to people who agreed.

    Returns nothing if no column says who agreed.
    """
    names = [str(column) for column in layout.categories.values()]
    columns_of_consent = find_columns(names, CONSENT_NAMES.split())
    for field, column in layout.categories.items():
        values = users.get_column(field).drop_nulls().value_counts(sort=True).get_column(field)
        agreed = [value for value in values if value.lower() in AGREED]
        if column in columns_of_consent and agreed:
            condition = f'USERS.{field} = "{agreed[0]}"'
            return ["# batch_users:", f"#   filter: {condition}  # who gets a list"]
    return []


def _build_unknown_columns_error(
    sample: FileSample, what: str, subject: AttributeSubject, source: str, id_column: str = "COL"
) -> UnknownColumnsError:
    """Return the error for columns that were not recognised, with the block to write by hand."""
    title = "title: COL, " if subject == "item" else ""
    columns = f"{title}categories: {{NAME: COL}}, numbers: {{NAME: COL}}"
    block = (
        f"{subject}s: {{source: {format_escaped(hide_query(source))},"
        f" columns: {{{subject}: {format_escaped(id_column)}, {columns}}}}}"
    )
    return UnknownColumnsError(
        f"{sample.name}: couldn't recognise {what}. Found: {list_columns(sample)}. Leave out"
        f" --{subject}s, and write those that you need into defs.yaml:\n  {block}"
        f"\n\n{preview_rows(sample)}"
    )
