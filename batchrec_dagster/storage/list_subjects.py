"""The subjects of published lists: users, items that other items go with, or segments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple


class ListSubject(NamedTuple):
    """A kind of subject that lists are for, and the columns of its tables."""

    name: str
    """The plural noun for the subjects: users, items or segments."""
    column: str
    """The column with the subjects' ids."""
    item_column: str
    """The column with the ids on the lists: items or, for a segment, users."""


USERS = ListSubject("users", "user_id", "item_id")
ITEMS = ListSubject("items", "item_id", "similar_item_id")
SUBJECTS: Mapping[str, ListSubject] = {
    "user": USERS,
    "item": ITEMS,
    "segment": ListSubject("segments", "segment", "user_id"),
}


def find_subject(columns: Collection[str]) -> ListSubject:
    """Return ITEMS if a table with these columns has similar items, or else USERS."""
    return ITEMS if ITEMS.item_column in columns else USERS
