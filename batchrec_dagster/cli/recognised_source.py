"""What `batchrec new` has recognised of a source, and what the user gave it to go by.

The modules of ratings, items and users share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID, VALUE_SEPARATOR
from batchrec_dagster.preparation.layout import AUTO, Column, PreparationError

# Settings with these values are left out of the YAML.
DEFAULTS = {
    "decimal": ".",
    "separator": VALUE_SEPARATOR,
    "timestamp_unit": AUTO,
    "timestamp_format": AUTO,
}


@dataclass(frozen=True)
class RecognisedSource:
    """What was recognised of a source."""

    settings: Mapping[str, object]
    """The block of the YAML that declares it."""

    summary: list[str]
    """Lines for people."""

    warnings: list[str]
    """What people should check."""

    items: pl.Series = field(default_factory=lambda: pl.Series(ITEM_ID, [], pl.String))
    """The distinct item ids of ratings; empty for others."""

    users: pl.Series = field(default_factory=lambda: pl.Series(USER_ID, [], pl.String))
    """The distinct user ids of ratings; empty for others."""

    rules: Sequence[str] = ()
    """Lines of the YAML on what counts: of the block interactions for ratings, comments below their
    block for users."""

    preview: str = ""
    """The first rows as they were read, as a table for people."""


@dataclass(frozen=True)
class ReadingOptions:
    """What is given of how to read the file. The rest is recognised."""

    time_format: str | None = None

    min_rating: float | None = None
    """The lowest rating that counts; None to go by their scale."""

    skip: bool = False
    """Whether bad rows are dropped."""

    whole: bool = True
    """Whether these are all files of the source."""


def leave_out_defaults(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that are given and differ from their defaults."""
    return {key: value for key, value in settings.items() if value and DEFAULTS.get(key) != value}


def choose_declared_delimiter(delimiter: str | None, id_column: Column) -> str | None:
    """The delimiter as it is declared; None for a comma in a file whose columns have names.

    id_column: the column of an id. By position it says that there are no names, without which a run
    may see another delimiter in the file.
    """
    return None if delimiter == "," and isinstance(id_column, str) else delimiter


def describe_bad_rows(bad: int, rows: int, first: str, options: ReadingOptions) -> str:
    """The warning that rows are dropped. Raises PreparationError if they are not to be."""
    warning = f"cannot read {bad:,} of {rows:,} rows; the first is {first}"
    if not options.skip:
        raise PreparationError(
            f"{warning}. Fix the file, or drop such rows with --on-bad-rows skip"
        )
    return f"{warning}. They are dropped (on_bad_rows: skip)"
