"""The rule at_least: a list has some items that meet a condition, such as new ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from batchrec_dagster.personalize.filter_grammar import parse_condition
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.pairs import Mask, Numbers
from batchrec_dagster.rules.rule import RuleCounts
from batchrec_dagster.rules.settings import AtLeast

NAME = "at_least"


class RequiredItems:
    """The rule, for the items of a run."""

    def __init__(self, settings: Sequence[AtLeast], context: RuleContext) -> None:
        self._matches = [
            context.catalogue.match(parse_condition(requirement.of)) for requirement in settings
        ]
        self._required = [requirement.count for requirement in settings]
        self._shares = [context.catalogue.measure_share(matches) for matches in self._matches]

    def start(self, lists: int, counts: RuleCounts) -> RequirementCounter:
        """The counter of this many lists.

        counts: where it counts the items that it moves up.
        """
        return RequirementCounter(self._matches, self._required, lists, counts)

    def count_more_results(self, num_results: int) -> int:
        """Enough to find twice as many as are required among the results, if any item matches."""
        needed = [
            2 * required / share
            for required, share in zip(self._required, self._shares, strict=True)
            if share
        ]
        return max(0, round(min(1e6, max(needed, default=0.0))) - num_results)


class RequirementCounter:
    """What the lists of a piece still require.

    Once a list has no more free places than it requires items, only such items fit.
    """

    name = NAME

    def __init__(
        self, matches: Sequence[Mask], required: Sequence[int], lists: int, counts: RuleCounts
    ) -> None:
        self._matches = matches
        self._unmet = np.tile(np.array(required, dtype=np.int64)[:, None], lists)
        self._has_skipped = np.zeros(lists, dtype=bool)
        self._counts = counts

    @property
    def unmet(self) -> Mask:
        """Which lists still require items."""
        return np.asarray(self._unmet.any(axis=0))

    def count_unmet(self) -> Numbers:
        """How many items each list still requires."""
        return np.asarray(self._unmet.sum(axis=0))

    def admit(self, lists: Numbers, items: Numbers, places: Numbers) -> Mask:
        """Whether the list has a place to spare, or the item is one that it requires."""
        admitted: Mask = self._unmet[:, lists].sum(axis=0) < places
        for matches, unmet in zip(self._matches, self._unmet, strict=True):
            admitted |= matches[items] & (unmet[lists] > 0)
        self._has_skipped[lists[~admitted]] = True
        return admitted

    def add(self, lists: Numbers, items: Numbers) -> None:
        """Count the item for each requirement that it meets."""
        is_required = np.zeros(len(lists), dtype=bool)
        for matches, unmet in zip(self._matches, self._unmet, strict=True):
            meets = matches[items] & (unmet[lists] > 0)
            unmet[lists[meets]] -= 1
            is_required |= meets
        # Before these, an item was skipped that the list would have had without the rule.
        self._counts.added += int((self._has_skipped[lists] & is_required).sum())
