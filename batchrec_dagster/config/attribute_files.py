"""A file with a row for each item or user: where it is, and how to read it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from batchrec_dagster.config.ratings import check_delimiter, check_encoding, check_positions
from batchrec_dagster.config.settings import Settings
from batchrec_dagster.config.sources import SourceSettings
from batchrec_dagster.config.validation import validate_pattern, validate_with
from batchrec_dagster.personalize.schemas import VALUE_SEPARATOR
from batchrec_dagster.preparation.layout import NO_HEADER, Decimal, Encoding, TableFormat
from batchrec_dagster.preparation.sources.source import RatingsSource
from batchrec_dagster.preparation.sources.tables import TextForm


class AttributesFileSettings(SourceSettings):
    """What the blocks `items` and `users` have in common."""

    many = False
    # The name of the block, for messages.
    block: ClassVar[str]

    format: TableFormat | dict[str, TableFormat] | None = Field(
        default=None,
        description="delta: the source is the folder of a Delta table, as in ratings.",
        examples=["delta"],
    )
    delimiter: str | None = Field(
        default=None,
        description="The field separator: one character, or `::`. Default: the"
        " one that the declared columns and the first lines show. With a comma or a semicolon,"
        " fields may be in double quotes.",
        examples=[",", "\t", "::"],
    )
    decimal: Decimal = Field(default=".", description="The decimal separator: `,` for 4,5.")
    encoding: Encoding = Field(default="auto", description="The file's encoding, as in ratings.")
    columns: Settings | None = None
    separator: str = Field(
        default=VALUE_SEPARATOR, description="The separator between several values of a category."
    )
    on_bad_rows: Literal["fail", "skip"] = Field(
        default="fail",
        description="What to do with unreadable rows: fail names the first one, skip drops and"
        " counts them.",
    )

    _encoding_is_known = validate_with(check_encoding, "encoding")
    _delimiter_is_readable = validate_with(check_delimiter, "delimiter")

    _separator_separates = validate_pattern(
        "separator", pattern=r"(?s).+", or_else='write a character, such as "|"'
    )

    @model_validator(mode="after")
    def _columns_fit_the_header(self) -> Self:
        if self.file_header == NO_HEADER and self.columns is not None:
            layout: Any = self.columns
            check_positions([*layout.layout.roles.values()])
        return self

    @property
    def rows(self) -> RatingsSource:
        """Where the rows are: the file, or the result of the query on the files."""
        form = TextForm(self.delimiter, encoding=self.encoding)
        return self.rows_of(f"{self.block}.query", form)
