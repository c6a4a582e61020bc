"""The subjects of published lists: users, items that other items go with, or segments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple


class ListSubject(NamedTuple):
    """A kind of subject that lists are for, and the columns of its tables."""

    noun: str
    """The singular noun for a subject: user, item or segment."""
    name: str
    """The plural noun for the subjects: users, items or segments."""
    column: str
    """The column with the subjects' ids."""
    member_column: str
    """The column with the ids on the lists: items or, for a segment, users."""

    @property
    def names_users(self) -> bool:
        """Whether the table has ids of users, as subjects or on the lists."""
        return "user_id" in (self.column, self.member_column)


USERS = ListSubject("user", "users", "user_id", "item_id")
ITEMS = ListSubject("item", "items", "item_id", "similar_item_id")
SEGMENTS = ListSubject("segment", "segments", "segment", "user_id")
SUBJECTS: Mapping[str, ListSubject] = {
    subject.noun: subject for subject in (USERS, ITEMS, SEGMENTS)
}


def find_subject(columns: Collection[str]) -> ListSubject:
    """Return ITEMS if a table with these columns has similar items, or else USERS."""
    return ITEMS if ITEMS.member_column in columns else USERS
