"""The names that public data sets give their columns, and the files of theirs without any."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    """Which of the columns has which role, as far as a name tells."""
    plain = {_plain(column): column for column in reversed(columns)}
    found = {}
    for role, names in NAMES.items():
        name = next((name for name in names if name in plain), None)
        if name is not None:
            found[role] = plain[name]
    return found


def _plain(column: str) -> str:
    # RecBole writes the type behind the name: user_id:token.
    return re.sub(r"[\s_.-]", "", column.partition(":")[0]).lower()
