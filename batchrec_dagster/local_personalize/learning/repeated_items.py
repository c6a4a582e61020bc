"""How likely users are to have an item again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .interactions import Float32, History
from .serving import logsumexp
from .store import require_number


@dataclass(frozen=True)
class Repeats:
    """How likely the items of a history are to come again, as in groceries and music.

    An item's chance is in proportion to how often it occurred, and to how many of its users had it
    again, and falls with the number of items since: Anderson et al., "The dynamics of repeat
    consumption" (WWW 2014). It is added to that of the model, so the order of items that are new to
    a user does not depend on repeats.
    """

    share: float
    """The share of repeats in all interactions, 0 to less than 1."""

    exponent: float
    """The recency exponent, see `History.recency_weights`."""

    @classmethod
    def load(cls, facts: Mapping[str, Any]) -> Repeats:
        """From the facts of a manifest. Raises KeyError, ValueError."""
        share, exponent = (require_number(facts[name], name) for name in ("share", "exponent"))
        if not 0 <= share < 1:
            raise ValueError(f"the share of repeats is {share}, expected 0 to less than 1")
        return cls(share, exponent)

    def add(self, logits: Float32, history: History, rates: Float32 | None) -> None:
        """Raise the logits of the items of the histories, in place.

        logits: (users, n_items).
        rates: (n_items,) the repeat rates of the items, see `ComponentFitter.repeat_rates`. None
            means that they are all the same.
        """
        owner = np.repeat(np.arange(len(history.lengths)), history.lengths)
        chance = (1.0 + history.ranks) ** -self.exponent
        if history.counts is not None:
            chance *= history.counts
        if rates is not None:
            chance *= rates[history.items]
        chance /= np.bincount(owner, weights=chance)[owner]
        odds = self.share / (1 - self.share)
        repeated = np.log(odds * chance) + logsumexp(logits)[owner, 0]
        logits[owner, history.items] = np.logaddexp(logits[owner, history.items], repeated)
