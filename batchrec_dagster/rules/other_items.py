"""No item is on its own list: what pins obey in lists of similar items."""

from __future__ import annotations

import numpy as np

from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.pairs import Mask, Numbers

NO_ITEM = -1


class OtherItemsFilter:
    """Leaves out the item whose list it is. The model's own results never have it."""

    name = "other_items"

    def __init__(self, context: RuleContext) -> None:
        # The entry after the last is for items that no list was requested for.
        self._own_items = np.append(context.own_items, NO_ITEM)

    def allow(self, users: Numbers, items: Numbers) -> Mask:
        """Whether the item is another one than that whose list it is."""
        is_other: Mask = self._own_items[users] != items
        return is_other

    def count_more_results(self, num_results: int) -> int:
        """None, as no result is left out."""
        return 0
