"""The users and items of a report's page, as rows again."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any


def unpack_page_data(text: str) -> dict[str, Any]:
    """The JSON of the page, with the rows of People.items and People.people.

    It does in Python what the page's script does.
    """
    data: dict[str, Any] = json.loads(text)
    columns = data["items"]
    blank = [None] * len(columns["id"])
    near = [columns["near"].get(str(place), []) for place in range(len(blank))]
    columns |= {"near": near}
    names = ("id", "title", "users", "lists", "near", "image", "link")
    rows = zip(*(columns.get(name, blank) for name in names), strict=True)
    data["items"] = [[*row] for row in rows]
    for _, _, history, _ in data["people"]:
        history[1::2] = accumulate(history[1::2], lambda day, earlier: day - earlier)
    return data
