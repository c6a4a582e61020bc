"""The file of ratings: where it is, and how to read it."""

from __future__ import annotations

from typing import Literal, Self

import dagster as dg
from pydantic import Field, field_validator, model_validator

from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.sources import SourceError, check_source, known_layout

Column = str | int


class Columns(dg.Model):
    """Which column holds what: all by name in the header, or all by position (the first is 1)."""

    user: Column = Field(description="The column with the user's id.", examples=["userId", 1])
    item: Column = Field(description="The column with the item's id.", examples=["movieId", 2])
    rating: Column | None = Field(
        default=None,
        description="The column with the rating, a number. Leave it out when there is none.",
        examples=["rating", 3],
    )
    timestamp: Column = Field(
        description="The column with the time of the interaction, in whole epoch seconds or"
        " milliseconds.",
        examples=["timestamp", 4],
    )

    @model_validator(mode="after")
    def _names_or_positions(self) -> Self:
        columns = [c for c in (self.user, self.item, self.rating, self.timestamp) if c is not None]
        if len({type(column) for column in columns}) > 1:
            raise ValueError(
                "give either names for all columns (the file has a header) or positions for all"
                " of them (it has none)"
            )
        if len(set(columns)) < len(columns):
            raise ValueError("user, item, rating and timestamp must be different columns")
        if any(isinstance(column, int) and column < 1 for column in columns):
            raise ValueError("positions count from 1")
        return self


class Ratings(dg.Model):
    """The file of ratings, and how to read it."""

    source: str = Field(
        description="Where the ratings are: sample://hetrec (generated), movielens://NAME"
        " (downloaded from GroupLens), a path, s3://bucket/key or https://…; a file inside a zip"
        " is written ARCHIVE.zip!/path/in/it.csv. A relative path starts at the project's folder.",
        examples=["sample://hetrec", "data/ratings.csv", "s3://shop/ratings.zip!/ratings.csv"],
    )
    delimiter: str | None = Field(
        default=None,
        description="What separates the fields: one character, or `::`. Default: a comma, or what"
        " a known source has.",
        examples=[",", "\t", "::"],
    )
    columns: Columns | None = Field(
        default=None,
        description="Which column holds what. Needed for files of your own; known sources have it.",
    )
    timestamp_unit: Literal["auto", "s", "ms"] = Field(
        default="auto",
        description="Whether the timestamps are seconds or milliseconds; auto decides by their"
        " size and says what it decided.",
    )
    on_bad_rows: Literal["fail", "skip"] = Field(
        default="fail",
        description="What to do about rows that cannot be read: fail names the first of them,"
        " skip leaves them out and counts them.",
    )

    @field_validator("source")
    @classmethod
    def _source_is_known(cls, source: str) -> str:
        if "{{" not in source:
            try:
                check_source(source)
            except SourceError as error:
                raise ValueError(str(error)) from None
        return source

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_readable(cls, delimiter: str | None) -> str | None:
        if delimiter not in (None, "::") and (
            len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'
        ):
            raise ValueError('write one ASCII character, such as "," or "\\t", or "::"')
        return delimiter

    @model_validator(mode="after")
    def _columns_are_told(self) -> Self:
        if self.columns is None and "{{" not in self.source and known_layout(self.source) is None:
            raise ValueError(
                "columns is missing: say which column is the user, the item, the rating and the"
                " timestamp, for example columns: {user: userId, item: movieId, rating: rating,"
                " timestamp: timestamp}"
            )
        return self

    @property
    def layout(self) -> Layout:
        """How to read the file: what is declared here, else what is known of the source."""
        known = known_layout(self.source)
        if self.columns is None:
            if known is None:
                raise ValueError(f"columns is missing for {self.source}")
            return known.replaced(self.delimiter, self.timestamp_unit)
        delimiter = self.delimiter or (known.delimiter if known else ",")
        return Layout(
            delimiter=delimiter,
            user=self.columns.user,
            item=self.columns.item,
            rating=self.columns.rating,
            timestamp=self.columns.timestamp,
            timestamp_unit=self.timestamp_unit,
        )
