"""The settings of ratings: their source, their columns, and the rules for interactions."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self, cast

from pydantic import Field, model_validator

from batchrec_dagster.config.settings import Settings, accepted_by
from batchrec_dagster.config.sources import TableSource, require_names_or_positions
from batchrec_dagster.preparation.file_form import (
    EPOCH_UNITS,
    NO_TIMES,
    NULL_VALUES,
    Column,
    Columns,
    FileForm,
    Format,
    TableFormat,
)
from batchrec_dagster.preparation.polars.row_conditions import list_filter_columns
from batchrec_dagster.preparation.polars.times import require_time_format, require_timezone
from batchrec_dagster.preparation.row_rules import RowRules


class Window(Settings):
    """The period of interactions to use, counted back from the newest interaction."""

    days: int = Field(
        ge=1,
        description="Drop interactions more than this many days older than the newest one.",
        examples=[365],
    )


class InteractionSettings(Settings):
    """The rules that choose which ratings count as interactions, applied in this order."""

    min_rating: float | None = Field(
        default=None, description="Drop ratings below this. Default: keep all.", examples=[3.5]
    )
    filter: Annotated[str, accepted_by(list_filter_columns)] | None = Field(
        default=None,
        description="A SQL condition on the columns of the file; only rows that match are kept."
        " Columns of a file without a header are column_1, column_2 and so on.",
        examples=["event IN ('cart', 'purchase') AND price > 0"],
    )
    window: Window | None = Field(
        default=None, description="Keep only the interactions of the last days of the data."
    )
    duplicates: Literal["keep", "drop"] = Field(
        default="keep",
        description="Whether rows that are equal in every column Personalize gets count each time"
        " (keep) or once (drop).",
    )
    latest_per_pair: bool = Field(
        default=False, description="Keep only the latest interaction of each user with each item."
    )
    min_interactions_per_user: int | None = Field(
        default=None, ge=1, description="Drop users with fewer interactions.", examples=[5]
    )
    min_interactions_per_item: int | None = Field(
        default=None, ge=1, description="Drop items with fewer interactions.", examples=[5]
    )

    def rules(self, on_bad_rows: Literal["fail", "skip"], *, event_type: bool) -> RowRules:
        """Return the rules in the form that the preparation uses.

        event_type: whether interactions get a column EVENT_TYPE.
        """
        return RowRules(
            on_bad_rows=on_bad_rows,
            window_days=self.window.days if self.window else None,
            event_type=event_type,
            **self.model_dump(exclude={"window"}),
        )


def _require_iso_or_format(text: str) -> None:
    if text != "iso8601":
        require_time_format(text)


class RatingColumns(Settings):
    """The columns of the ratings, all by name in the header or all by position (the first is 1)."""

    user: Column | None = Field(
        default=None, description="The column with the user's id.", examples=["userId", 1]
    )
    item: Column | None = Field(
        default=None, description="The column with the item's id.", examples=["movieId", 2]
    )
    rating: Column | None = Field(
        default=None,
        description="The column with the rating, a number. Omit it if there is none.",
        examples=["rating", 3],
    )
    timestamp: Column | None = Field(
        default=None,
        description="The column with the time of the interaction. none: there is none; every row"
        " gets the same time, and what is recent counts no more than what is old.",
        examples=["timestamp", 4, "none"],
    )
    event_type: Column | None = Field(
        default=None,
        description="The column with the kind of interaction, such as view or buy; it becomes"
        " Personalize's EVENT_TYPE.",
        examples=["event"],
    )
    event_value: Column | None = Field(
        default=None,
        description="The column with a number that belongs to the event, such as a price; it"
        " becomes Personalize's EVENT_VALUE.",
        examples=["price"],
    )

    @model_validator(mode="after")
    def _names_or_positions(self) -> Self:
        columns = list(self.declared.values())
        require_names_or_positions(columns)
        if len(set(columns)) < len(columns):
            raise ValueError(f"{', '.join(self.declared)} must be different columns")
        missing = [role for role in ("user", "item", "timestamp") if getattr(self, role) is None]
        if columns and isinstance(columns[0], int) and missing:
            raise ValueError(
                f"set the position of {' and '.join(missing)} too: a file without a header needs it"
            )
        return self

    @property
    def declared(self) -> dict[str, Column]:
        """The declared columns by the names of their settings, such as user."""
        columns = self.model_dump(exclude_none=True)
        if not self.has_times:
            del columns["timestamp"]
        return columns

    @property
    def has_times(self) -> bool:
        """Whether the rows have times: false only if `timestamp: none` is declared."""
        return self.timestamp != NO_TIMES


class RatingsSettings(TableSource):
    """The file or files of ratings, and how to read them."""

    block = "ratings"

    source: str | dict[str, str] = Field(
        description="Where the ratings are: sample://hetrec (generated), a path, s3://bucket/key or"
        " https://…; a file of several in a zip is written ARCHIVE.zip!/path/in/it.csv, a sheet"
        " BOOK.xlsx!/SHEET. Many files: a folder (data/ or s3://bucket/prefix/) or a pattern"
        " (data/2026-*.csv, **/ for folders within). gzip and zstd are unpacked. A relative path"
        " starts at the project's folder. Several, for a query: the name of each table, and its"
        " source. A database, for a query of it: sql+env://VARIABLE, the environment variable that"
        " holds its URL. Another asset of the project: asset://KEY.",
        examples=["sample://hetrec", "data/ratings.csv", "s3://shop/orders/**/*.parquet"],
    )
    format: Format | TableFormat | dict[str, TableFormat] | None = Field(
        default=None,
        description="csv (with any delimiter), json (JSON Lines: an object a line) or parquet."
        " Excel is read as csv, a JSON array as json."
        " Default: detected from the first file. delta: the source is the folder of a Delta table;"
        " of several sources, the name of each that is one.",
        examples=["delta", {"orders": "delta"}],
    )
    quotes: bool = Field(
        default=True,
        description='Whether " quotes fields of csv; if false it is like any other character.',
    )
    columns: RatingColumns | None = Field(
        default=None,
        description="Which column holds what. Omitted ones are recognised by the names that public"
        " data sets use, such as userId, item_id, rating, timestamp.",
    )
    timestamp_unit: Literal["auto", "s", "ms", "us", "ns", "excel"] = Field(
        default="auto",
        description="The unit of timestamps since 1970: seconds to nanoseconds; excel: the days"
        " that Excel counts. auto decides between the former by their size, also reads ISO 8601,"
        " 20240131, and the usual formats of text where only one fits. The run reports which.",
    )
    timestamp_format: Annotated[str, accepted_by(_require_iso_or_format)] | None = Field(
        default=None,
        description="The format of timestamps that are text, if it is not recognised: iso8601, or a"
        " strptime format.",
        examples=["iso8601", "%d.%m.%Y %H:%M"],
    )
    timezone: Annotated[str, accepted_by(require_timezone)] | None = Field(
        default=None,
        description="The time zone of timestamps that do not say theirs. Default: UTC.",
        examples=["Europe/Berlin"],
    )
    null_values: list[str] | None = Field(
        default=None,
        description="Texts that mean no value, as well as NULL, \\N, nan, None, (null), N/A,"
        " undefined and their spellings; [] for none of these, if they are real ids. A row with one"
        " for its user, item, time or rating is a bad row. Those of ids hold for the items and a"
        " list of users too.",
        examples=[["-1", "anonymous"]],
    )

    @model_validator(mode="after")
    def _timestamps_have_one_form(self) -> Self:
        if self.timestamp_format is not None and self.timestamp_unit != "auto":
            raise ValueError("set timestamp_unit or timestamp_format, not both")
        if (self.timestamp_form != "auto" or self.timezone) and not self.has_times:
            raise ValueError(
                "with columns.timestamp: none there are no times: omit timestamp_unit,"
                " timestamp_format and timezone"
            )
        if self.timezone and ("%z" in self.timestamp_form or self.timestamp_form in EPOCH_UNITS):
            raise ValueError(f"timestamps as {self.timestamp_form} have a zone: omit timezone")
        return self

    @model_validator(mode="after")
    def _query_has_no_format(self) -> Self:
        if self.query is not None and (self._file_format is not None or self.decimal != "."):
            raise ValueError("format and decimal are of files, not of a query: omit them")
        return self

    @property
    def declared_columns(self) -> list[Column]:
        return [*self.columns.declared.values()] if self.columns else []

    @property
    def has_times(self) -> bool:
        """Whether the rows have times: false only if `timestamp: none` is declared."""
        return self.columns is None or self.columns.has_times

    @property
    def timestamp_form(self) -> str:
        """The declared form of timestamps: a format or a unit."""
        return self.timestamp_format or self.timestamp_unit

    @property
    def _file_format(self) -> Format | None:
        """The declared format of the files.

        None for a Delta table, because its folder decides the format.
        """
        names_files = isinstance(self.format, str) and not self.delta_tables
        return cast(Format, self.format) if names_files else None

    @property
    def all_null_values(self) -> tuple[str, ...]:
        """Every text that means no value."""
        if self.null_values is None:
            return NULL_VALUES
        return tuple(dict.fromkeys([*NULL_VALUES, *self.null_values])) if self.null_values else ()

    @property
    def file_form(self) -> FileForm:
        return replace(super().file_form, format=self._file_format, quoted=self.quotes)

    @property
    def file_columns(self) -> Columns:
        """The declared columns of the files, and the forms of their values."""
        return Columns(
            roles=self.columns.declared if self.columns else {},
            time_form=self.timestamp_form if self.has_times else NO_TIMES,
            timezone=self.timezone,
            decimal=self.decimal,
            null_values=self.all_null_values,
        )
