"""The rule only: lists have only items that meet a condition, such as those in stock."""

from __future__ import annotations

from batchrec_dagster.personalize.filter_grammar import parse_condition
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.pairs import Mask, Numbers
from batchrec_dagster.rules.rule import estimate_more_results


class MatchingItemsFilter:
    """The rule, for the items of a run.

    condition: what an item must meet. An item without a value, or that is not in the items file,
        does not.
    """

    name = "only"

    def __init__(self, condition: str, context: RuleContext) -> None:
        self._matches = context.catalogue.match(parse_condition(condition))
        self._share_removed = context.catalogue.measure_share(~self._matches)

    def allow(self, users: Numbers, items: Numbers) -> Mask:
        """Whether the item meets the condition."""
        return self._matches[items]

    def count_more_results(self, num_results: int) -> int:
        """As many as the share of other items makes likely."""
        return estimate_more_results(num_results, self._share_removed)
