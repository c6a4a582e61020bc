"""Where in a file the columns are that are asked for; the same for every engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from batchrec_dagster.preparation.layout import Column, PreparationError

# As MovieLens, HetRec, Amazon reviews, Book-Crossing, Goodreads, Yelp, RetailRocket, REES46,
# RecBole and Amazon Personalize itself have them, in small letters without what joins words. Of
# several in one file the first in this list counts.
_WORDS = {
    "user": "userid user uid visitorid customerid reviewerid memberid accountid profileid",
    "item": "itemid item iid movieid productid asin isbn bookid animeid artistid trackid songid"
    " gameid businessid recipeid articleid newsid beerid contentid sku",
    "rating": "rating bookrating userrating reviewscore overall stars score",
    "timestamp": "timestamp unixreviewtime eventtime eventtimestamp ratingtimestamp createdat"
    " datetime time ts date",
    "event_type": "eventtype event",
}
NAMES = {role: words.split() for role, words in _WORDS.items()}


def recognise(columns: Sequence[str]) -> dict[str, str]:
    """The column of each role, as far as the names tell."""
    matches = {role: matching(columns, names) for role, names in NAMES.items()}
    return {role: found[0] for role, found in matches.items() if found}


def matching(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns with these names (lower case, no separators), in the order of the names."""
    plain = {_plain(column): column for column in reversed(columns)}
    return [plain[name] for name in names if name in plain]


def _plain(column: str) -> str:
    # RecBole writes the type behind the name: user_id:token.
    return re.sub(r"[\s_.-]", "", column.partition(":")[0]).lower()


def locate(
    wanted: Mapping[str, Column], columns: Sequence[str], name: str, hint: str = ""
) -> dict[str, int]:
    """Where each wanted column is, from 0. Raises PreparationError, with the hint behind."""
    found = {}
    for role, column in wanted.items():
        if isinstance(column, int):
            if column > len(columns):
                raise PreparationError(
                    f"{name}: {setting(role)} is column {column}, but line 1 has"
                    f" {len(columns)}{hint}"
                )
            found[role] = column - 1
        elif column not in columns:
            raise PreparationError(
                f"{name} has no column {column!r} ({setting(role)}); it has:"
                f" {', '.join(columns)}{hint}"
            )
        else:
            found[role] = list(columns).index(column)
    return found


def setting(role: str) -> str:
    """What names the column in the declaration."""
    return "interactions.filter" if role.startswith("filter ") else f"ratings.columns.{role}"
