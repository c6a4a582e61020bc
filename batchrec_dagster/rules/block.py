"""The rule block: items of a file are in no list."""

from __future__ import annotations

import numpy as np

from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.pairs import Mask, Numbers
from batchrec_dagster.rules.rule import estimate_more_results


class BlockedItemsFilter:
    """The rule, for the items of a run."""

    name = "block"

    def __init__(self, context: RuleContext) -> None:
        self._is_blocked = np.zeros(context.catalogue.other + 1, dtype=bool)
        if context.blocked is not None:
            self._is_blocked[context.catalogue.find_numbers(context.blocked)] = True
        self._share = context.catalogue.measure_share(self._is_blocked)

    def allow(self, users: Numbers, items: Numbers) -> Mask:
        """Whether the item is not blocked."""
        return ~self._is_blocked[items]

    def count_more_results(self, num_results: int) -> int:
        """As many as the share of blocked items makes likely."""
        return estimate_more_results(num_results, self._share)
