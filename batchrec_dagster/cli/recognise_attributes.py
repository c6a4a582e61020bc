"""What `batchrec new` recognises in a file of items or of users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import polars as pl

from batchrec_dagster.cli.column_candidates import open_sample, require_single_columns
from batchrec_dagster.cli.recognised_source import (
    ReadingOptions,
    RecognisedSource,
    choose_declared_delimiter,
    describe_bad_rows,
    leave_out_defaults,
)
from batchrec_dagster.preparation.attributes import (
    QUOTES_FIX,
    AttributesLayout,
    open_attributes_table,
    parse_attributes,
)
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import Columns
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.sources.source import hide_query


class AttributesBlock(Protocol):
    """What differs between the blocks `items` and `users`."""

    @property
    def roles(self) -> Sequence[str]:
        """The settings in the block's columns, in the order of the YAML. The first is the id."""

    def choose_layout(
        self,
        sample: FileSample,
        settings_of_ratings: Mapping[str, object],
    ) -> AttributesLayout:
        """How the file is read, with the columns that it shows. Raises UnknownColumnsError."""

    def list_rated_ids(self, ratings: RecognisedSource) -> pl.Series:
        """The ids that the ratings have."""

    def suggest_rules(self, layout: AttributesLayout, rows: pl.DataFrame) -> list[str]:
        """Comments for the YAML below the block."""


def recognise_attributes(
    block: AttributesBlock,
    source: str,
    file: RawFile,
    options: ReadingOptions,
    ratings: RecognisedSource,
) -> RecognisedSource:
    """What the items or users in this file are, and how many.

    ratings: what was recognised of the ratings.

    Raises UnknownColumnsError, PreparationError.
    """
    with open_sample([file], Columns(), open_attributes_table, QUOTES_FIX) as sample:
        layout = block.choose_layout(sample, ratings.settings)
        require_single_columns(sample, layout.roles)
        warnings = [*_describe_code(sample, layout)]
    columns: dict[str, object] = {layout.subject: layout.id}
    columns |= {role: getattr(layout, role) for role in block.roles[1:]}
    settings: dict[str, object] = {
        "source": source,
        "delimiter": choose_declared_delimiter(layout.delimiter, layout.id),
        "header": layout.header,
        "decimal": layout.decimal,
        "columns": leave_out_defaults(columns),
        "separator": layout.separator,
    }
    rows = parse_attributes(file, layout)
    if bad_rows := rows.bad.total:
        warnings.append(describe_bad_rows(bad_rows, rows.rows, rows.bad.examples[0], options))
        settings["on_bad_rows"] = "skip"
    ids = rows.good.get_column(layout.id_name)
    rated_ids = block.list_rated_ids(ratings)
    known_count = int(rated_ids.is_in(ids.implode()).sum())
    if known_count < len(rated_ids) / 2:
        warnings.append(
            f"{file.name} has only {known_count:,} of the {len(rated_ids):,} {layout.block} of"
            f" the ratings. Is {layout.id} the same id?"
        )
    return RecognisedSource(
        leave_out_defaults(settings),
        [f"{hide_query(source)}: {rows.rows:,} rows"],
        warnings,
        rules=block.suggest_rules(layout, rows.good),
    )


def _describe_code(sample: FileSample, layout: AttributesLayout) -> Iterator[str]:
    """A warning for each category of a text file whose cells are lists or objects, as of Python."""
    if sample.format != "csv":
        return
    for column in layout.categories.values():
        cells = sample.read_cells(column)
        for start, form in (("[", "a list"), ("{", "an object")):
            if len(cells) and cells.str.starts_with(start).all():
                name = f'"{column}"' if isinstance(column, str) else f"column_{column}"
                plain = f"regexp_replace({name}, '[\\[\\]{{}}''\"]', '', 'g') AS {name}"
                query = f"SELECT * REPLACE ({plain}) FROM source"  # noqa: S608
                yield (
                    f"{column} has {form} in each cell, such as {cells.item(0)[:60]!r}, with its"
                    f" brackets and quotes. To take these away, set {layout.block}.query: {query}"
                )
