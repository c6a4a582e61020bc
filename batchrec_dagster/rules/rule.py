"""What a rule is, once it is prepared for the users and items of a run.

A filter says which items a user may get at all, whatever else is on the list. max_per says which
items still fit on a list, by what is on it already. Filters come first, so that it counts only
items that may stay.

Users and items are numbers: the position of a user in `RuleContext.user_ids`, the number after the
last for any other user, and the item's number in the catalogue. All arrays have an entry for each
pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from batchrec_dagster.rules.pairs import Mask, Numbers


class ItemFilter(Protocol):
    """A rule that says which items a user may get."""

    name: str
    """Its key in the declaration."""

    def allow(self, users: Numbers, items: Numbers) -> Mask:
        """Whether each of these users may get the item."""

    def count_more_results(self, num_results: int) -> int:
        """How many more results it may need to leave so many."""


@dataclass
class RuleCounts:
    """What a rule did to the lists of a run."""

    rule: str
    """Its key in the declaration."""
    removed: int = 0
    """How many results it left out: of a filter all that it does not allow, of max_per those that
    it refused on a list with free places."""
    added: int = 0
    """How many rows it put on lists."""
    emptied: int = 0
    """On how many lists it left out the last result of the model."""
    unmet: int = 0
    """How many lists cannot have what it asks for."""


def estimate_more_results(num_results: int, share_removed: float) -> int:
    """How many more results leave `num_results`, twice the expected number.

    share_removed: which share of the results is removed.
    """
    if share_removed <= 0:
        return 0
    return round(min(1e6, 2 * num_results * share_removed / max(1e-6, 1 - share_removed)))
