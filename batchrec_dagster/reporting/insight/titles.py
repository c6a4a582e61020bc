"""Titles of items as people read them."""

from __future__ import annotations

TITLE_LENGTH = 160


def shorten_title(title: str | None) -> str | None:
    """Return the title in at most TITLE_LENGTH characters; None for a blank title."""
    if title is None or not title.strip():
        return None
    if len(title) <= TITLE_LENGTH:
        return title
    return title[: TITLE_LENGTH - 1] + "…"
