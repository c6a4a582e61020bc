"""The options of `batchrec new` that tell of a file of items what cannot be seen in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Column = str | int

OPTIONS = (
    ("--items-id", "COL", "In the file of items: the column with the item's id."),
    ("--items-title", "COL", "… with the title."),
    ("--items-created", "COL", "… with the time that the item came out."),
    ("--items-category", "[NAME=]COL", "… with text for Personalize, called so there; repeatable."),
    ("--items-number", "[NAME=]COL", "… with numbers for Personalize; repeatable."),
    ("--items-delimiter", "CHAR", "What separates the fields of the file of items."),
)


@dataclass(frozen=True)
class AskedItems:
    """What someone has told of the items: the columns by role (item, title, created); those of
    categories and of numbers by their name in Personalize."""

    columns: Mapping[str, Column] = field(default_factory=dict)
    categories: Mapping[str, Column] = field(default_factory=dict)
    numbers: Mapping[str, Column] = field(default_factory=dict)
    delimiter: str | None = None

    @property
    def roles(self) -> dict[str, Column]:
        """All columns that were told, each by the setting that it becomes."""
        return {
            **self.columns,
            **{f"categories.{name}": column for name, column in self.categories.items()},
            **{f"numbers.{name}": column for name, column in self.numbers.items()},
        }


def items_options(command: Command) -> Command:
    """Add the options to a command; it hands what they are given to `asked`."""
    for name, metavar, told in reversed(OPTIONS):
        many = metavar.startswith("[")
        command = click.option(name, metavar=metavar, multiple=many, help=told)(command)
    return command


def asked(
    items: str | None,
    items_id: str | None,
    items_title: str | None,
    items_created: str | None,
    items_category: Sequence[str],
    items_number: Sequence[str],
    items_delimiter: str | None,
) -> AskedItems:
    """What the options were given. Raises click.UsageError."""
    told = {"item": items_id, "title": items_title, "created": items_created}
    found = AskedItems(
        {role: column(text) for role, text in told.items() if text is not None},
        dict(_named("--items-category", text) for text in items_category),
        dict(_named("--items-number", text) for text in items_number),
        items_delimiter,
    )
    if items is None and found != AskedItems():
        raise click.UsageError("the items' columns are told, but not their file: --items FILE")
    if len({type(each) for each in found.roles.values()}) > 1:
        raise click.UsageError("give the items' columns all by name, or all by position")
    return found


def column(text: str) -> Column:
    """A column by name, or by position."""
    return int(text) if text.isascii() and text.isdecimal() else text


def field_name(column: str) -> str:
    """A name for Personalize: capital letters, digits and _."""
    return re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_").upper()


def _named(option: str, text: str) -> tuple[str, Column]:
    name, told, rest = text.partition("=")
    found = column(rest if told else text)
    if told:
        return name, found
    if isinstance(found, int):
        raise click.UsageError(f"a column by position has no name: write {option} NAME={text}")
    return field_name(found), found
