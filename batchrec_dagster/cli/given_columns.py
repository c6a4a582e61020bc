"""What the options of `batchrec new` give: columns, fields and the line of the names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from batchrec_dagster.cli.column_candidates import NO_COLUMN
from batchrec_dagster.personalize.schemas import make_field_name
from batchrec_dagster.preparation.layout import NO_HEADER, Column, Header

RATING_ROLES = ("user", "item", "timestamp", "rating", "event_type")
ITEM_ROLES = ("item", "title", "image", "link", "created")


def get_rating_columns(options: Mapping[str, Any]) -> dict[str, Column]:
    """The given columns of the ratings by role. Raises click.UsageError."""
    return _parse_columns({role: options[role] for role in RATING_ROLES})


def get_item_columns(options: Mapping[str, Any]) -> dict[str, Column]:
    """The given columns of the items by their setting, such as categories.GENRES.

    Raises click.UsageError.
    """
    return _parse_columns(
        {
            **{role: options[f"items_{role}"] for role in ITEM_ROLES},
            **dict(_parse_fields("categories", "--items-category", options["items_category"])),
            **dict(_parse_fields("numbers", "--items-number", options["items_number"])),
        }
    )


def get_user_columns(options: Mapping[str, Any]) -> dict[str, Column]:
    """The given columns of the users by their setting, such as categories.COUNTRY.

    Raises click.UsageError.
    """
    return _parse_columns(
        {
            "user": options["users_user"],
            **dict(_parse_fields("categories", "--users-category", options["users_category"])),
            **dict(_parse_fields("numbers", "--users-number", options["users_number"])),
        }
    )


def parse_header(text: str | None) -> Header | None:
    """The line that names the columns. Raises click.UsageError."""
    if text is None:
        return None
    if text == NO_HEADER:
        return NO_HEADER
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise click.UsageError(f"--header is {text!r}: write the number of a line, or none")
    return int(text)


def _parse_columns(given: Mapping[str, str | None]) -> dict[str, Column]:
    """The given columns, by name or position. Raises click.UsageError for a mix of both."""
    columns: dict[str, Column] = {
        role: int(text) if text.isascii() and text.isdecimal() else text
        for role, text in given.items()
        if text is not None
    }
    if len({type(column) for column in columns.values() if column != NO_COLUMN}) > 1:
        raise click.UsageError("give the columns all by name, or all by position")
    return columns


def _parse_fields(setting: str, option: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The setting of each [NAME=]COL, such as categories.GENRES, and the column."""
    for text in texts:
        name, equals, column = text.partition("=")
        if not equals and text.isdecimal():
            raise click.UsageError(f"a column by position needs a name: {option} NAME={text}")
        if equals:
            yield f"{setting}.{name}", column
        else:
            yield f"{setting}.{make_field_name(text)}", text
