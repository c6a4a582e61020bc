"""The recognition of columns by their names, and the positions of named columns.

A column's role is its use, such as user, item or timestamp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from batchrec_dagster.preparation.file_form import FILTER, Column, PreparationError

# The names of columns in MovieLens, HetRec, Amazon reviews, Book-Crossing, Goodreads, Yelp,
# RetailRocket, REES46, RecBole and Amazon Personalize itself, in lower case and without separators.
# If a file has several names for a role, the first name in this list counts.
_WORDS = {
    "user": "userid user uid visitorid customerid customer reviewerid memberid accountid profileid",
    "item": "itemid item iid movieid productid asin isbn bookid animeid artistid trackid songid"
    " gameid businessid recipeid articleid newsid beerid contentid sku product",
    "rating": "rating bookrating userrating reviewscore overall stars score",
    "timestamp": "timestamp unixreviewtime eventtime eventtimestamp ratingtimestamp createdat"
    " orderedat orderdate purchasedat datetime time ts date",
    "event_type": "eventtype event",
}
NAMES = {role: words.split() for role, words in _WORDS.items()}


def recognise_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return the column for each role that has a column with a known name."""
    matches = {role: find_columns(columns, names) for role, names in NAMES.items()}
    return {role: names[0] for role, names in matches.items() if names}


def find_columns(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the columns with these names, in the order of the names.

    names: the wanted names, in lower case and without separators.
    """
    by_simple_name = {simplify_name(column): column for column in reversed(columns)}
    return [by_simple_name[name] for name in names if name in by_simple_name]


def simplify_name(column: str) -> str:
    """Return the name in lower case and without separators, as in NAMES."""
    # RecBole writes the type after the name: user_id:token.
    return re.sub(r"[\s_.-]", "", column.partition(":")[0]).lower()


def locate_columns(
    columns_by_role: Mapping[str, Column], columns: Sequence[str], name: str, hint: str = ""
) -> dict[str, int]:
    """Return the index of each wanted column, by its role.

    columns_by_role: each role's column, by its name or by its position from 1.
    columns: the names of all columns of the file.
    name: the file's name in messages.
    hint: the text that messages end with.

    Raises PreparationError if a column is missing, or if several columns have the wanted name.
    """
    indexes = {}
    for role, column in columns_by_role.items():
        if isinstance(column, int):
            if column > len(columns):
                raise PreparationError(
                    f"{name}: {format_setting_name(role)} is column {column}, but line 1 has"
                    f" {len(columns)}{hint}"
                )
            indexes[role] = column - 1
        elif column not in columns:
            raise PreparationError(
                f"{name} has no column {column!r} ({format_setting_name(role)}); it has:"
                f" {list_names(columns)}{hint}"
            )
        elif list(columns).count(column) > 1:
            raise PreparationError(
                f"{name} has several columns {column!r} ({format_setting_name(role)}): rename them,"
                " or set the columns by position, and header to the number of the line with the"
                " names"
            )
        else:
            indexes[role] = list(columns).index(column)
    return indexes


def list_names(columns: Sequence[str]) -> str:
    """Return the names of the columns, for messages.

    A first line with a number in it is a row of data. Its fields are not shown, because they may
    contain a user's id.
    """
    cells = [cell for column in columns for cell in re.split(r"[;|\t,]", column)]
    if any(re.fullmatch(r"[-+]?[0-9.]+", cell.strip()) for cell in cells):
        return "no names, as line 1 has numbers"
    return ", ".join(filter(None, columns))


def format_setting_name(role: str) -> str:
    """Return the setting that names a role's column, for messages."""
    if role.startswith(FILTER):
        return "interactions.filter"
    return role if "." in role else f"ratings.columns.{role}"
