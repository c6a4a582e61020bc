"""The rule exclude_seen: what the user already had is left out."""

from __future__ import annotations

import numpy as np

from batchrec_dagster.config.rules import ExcludeSeen
from batchrec_dagster.personalize.filter_grammar import parse_condition
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.pairs import Mask, Numbers, Pairs

# Personalize is asked for as many results as are enough for this share of the users.
SHARE_SERVED = 0.999


class SeenItemsFilter:
    """The rule, for the users and items of a run."""

    name = "exclude_seen"

    def __init__(
        self, settings: ExcludeSeen, context: RuleContext, histories: Pairs, filter_history: int
    ) -> None:
        """Find which items users may have again.

        histories: what each user had, of the interactions that count.
        filter_history: how many of a user's latest interactions the filter in Personalize looks at;
            0 without one.
        """
        self._histories = histories
        catalogue = context.catalogue
        self._is_exempt = (
            None if settings.unless is None else catalogue.match(parse_condition(settings.unless))
        )
        self._filter_history = filter_history

    def allow(self, users: Numbers, items: Numbers) -> Mask:
        """Whether the user has not had the item, or may have it again."""
        unseen = ~self._histories.contain_numbers(users, items)
        return unseen if self._is_exempt is None else unseen | self._is_exempt[items]

    def count_more_results(self, num_results: int) -> int:
        """As many as the filter in Personalize forgets of nearly all users' histories."""
        lengths = self._histories.count_items()
        if not len(lengths):
            return 0
        longest = np.quantile(lengths, SHARE_SERVED, method="higher")
        return max(0, int(longest) - self._filter_history)
