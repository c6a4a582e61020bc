"""The users and items of the report as its script reads them, in few characters.

Their rows are nearly all of the page's bytes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from batchrec_dagster.reporting.people import People


def pack_people(people: People) -> dict[str, Any]:
    """The users and items for the JSON in the page, which lookup.js reads.

    `items` has a list for each column of People.items. The columns title, image and link are
    missing if no item has any. Of the neighbours there are only those of items that have some, by
    the item's place. `people` has the rows of People.people, in whose histories each day but the
    newest is the number of days before the interaction that precedes it. `similar` is
    People.similar_items, and is missing if that is None.
    """
    data: dict[str, Any] = {
        "items": _pack_items(people.items),
        "people": [
            [user, interactions, _pack_history(history), items_listed]
            for user, interactions, history, items_listed in people.people
        ],
    }
    if people.similar_items is not None:
        data["similar"] = people.similar_items
    return data


def _pack_items(items: list[list[Any]]) -> dict[str, Any]:
    names = ("id", "title", "users", "lists", "near", "image", "link")
    columns: dict[str, Any] = {
        name: [item[number] for item in items] for number, name in enumerate(names)
    }
    for name in ("title", "image", "link"):
        if not any(columns[name]):
            del columns[name]
    columns["near"] = {
        place: neighbours for place, neighbours in enumerate(columns["near"]) if neighbours
    }
    return columns


def _pack_history(history: list[int]) -> list[int]:
    """The history, with the number of days between interactions in place of the days."""
    days = history[1::2]
    packed = [*history]
    packed[3::2] = [newer - older for newer, older in pairwise(days)]
    return packed
