"""Whose lists a published table has: users, items that other items go with, or segments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple


class ListSubject(NamedTuple):
    """Those who have a list each."""

    name: str
    """What they are called: users, items, segments."""
    column: str
    """The column of their ids."""
    item_column: str
    """The column of the ids of the items on the lists; of a segment's users."""


USERS = ListSubject("users", "user_id", "item_id")
ITEMS = ListSubject("items", "item_id", "similar_item_id")
SUBJECTS: Mapping[str, ListSubject] = {
    "user": USERS,
    "item": ITEMS,
    "segment": ListSubject("segments", "segment", "user_id"),
}


def find_subject(columns: Collection[str]) -> ListSubject:
    """Whose lists a table with these columns has."""
    return ITEMS if ITEMS.item_column in columns else USERS
