"""Interactions made ready to fit parts on, and the parts put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import cooccurrence, ease, factorization
from batchrec_dagster.local_personalize.learning.blend_model import PersonalizationModel
from batchrec_dagster.local_personalize.learning.components import ItemWeights, Part, Popular
from batchrec_dagster.local_personalize.learning.histories import Histories
from batchrec_dagster.local_personalize.learning.hyperparameters import Value
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions
from batchrec_dagster.local_personalize.learning.model_selection import (
    EASE,
    EITHER,
    FACTORS,
    POPULARITY,
    SEQUENCE,
    SHRUNK,
    Choice,
)
from batchrec_dagster.local_personalize.learning.popularity import log_popularity, popular_first

DENSE_LIMIT = 12_000  # EASE takes n^2 memory and n^3 time of items or users, the fewer
WIDE_LIMIT = 30_000  # and n^2 time of the items even where users are few
REGULARIZATION = 300.0
MORE_REGULARIZATION = 1_000.0
KEPT_WEIGHTS = 200  # of EASE, for each item scored
KEPT_FOLLOWERS = 500  # of the co-occurrence, for each item met

Values = Mapping[str, Value]


@dataclass(frozen=True)
class Fitted:
    """Parts fitted on the same interactions."""

    item_ids: Ids
    popularity: npt.NDArray[np.float32]
    parts: Mapping[str, Part]

    def blend(self, choice: Choice, heat: float) -> PersonalizationModel:
        """The model of what was chosen; its logits are the scores over `heat`."""
        return PersonalizationModel(
            self.item_ids,
            self.popularity,
            {name: self.parts[name] for name in choice.shares},
            choice.powers,
            {name: share / heat for name, share in choice.shares.items()},
        )


class Fitting:
    """Interactions to fit parts on; what two sets of hyperparameters share is fitted once."""

    def __init__(
        self, interactions: Interactions, values: Values, seed: int, log: Callable[[str], None]
    ) -> None:
        order = popular_first(interactions)
        self.item_ids = interactions.item_ids[order]
        self.popularity = log_popularity(interactions, order)
        learned_from = without_extreme_users(interactions, values)
        users = np.unique(learned_from.users)
        self.history = Histories(learned_from, self.item_ids).of(users)
        self.matrix: csr_matrix = self.history.weights(0.0)
        self._counts = interactions.item_counts[order].astype(np.float32)
        self._rows = len(learned_from)
        self._seed = seed
        self._log = log
        self._made: dict[tuple[str, int], Part] = {}

    def parts(self, names: Sequence[str], values: Values) -> Fitted:
        """The parts of those names."""
        parts = {name: self._part(name, values) for name in names}
        return Fitted(self.item_ids, self.popularity, parts)

    def _part(self, name: str, values: Values) -> Part:
        window = int(values.get("bptt", cooccurrence.WINDOW))
        dimension = int(values.get("hidden_dimension", factorization.DIMENSION))
        key = name, {SEQUENCE: window, EITHER: window, FACTORS: dimension}.get(name, 0)
        if key in self._made:
            return self._made[key]
        began = time.monotonic()
        part: Part
        if name == POPULARITY:
            part = Popular(self._counts)
        elif name in (EASE, SHRUNK):
            part = ItemWeights(
                ease.fit(
                    self.matrix,
                    core=core(len(self.history.lengths)),
                    regularization=regularization(name),
                    kept=KEPT_WEIGHTS,
                    log=self._log,
                )
            )
        elif name in (SEQUENCE, EITHER):
            either_way = name == EITHER
            part = ItemWeights(
                cooccurrence.fit(
                    self.history, window=window, kept=KEPT_FOLLOWERS, either_way=either_way
                )
            )
        else:
            part = factorization.fit(self.matrix, dimension=dimension, seed=self._seed)
        self._log(f"{name}: {self._rows:,} interactions in {time.monotonic() - began:.1f} s")
        self._made[key] = part
        return part


def regularization(name: str) -> float:
    """That of the item-item regression of this name."""
    return MORE_REGULARIZATION if name == SHRUNK else REGULARIZATION


def core(users: int) -> int:
    """How many of the most popular items at most are regressed on each other together."""
    return WIDE_LIMIT if users <= DENSE_LIMIT else DENSE_LIMIT


def without_extreme_users(interactions: Interactions, values: Values) -> Interactions:
    """Leave out users with shorter or longer histories than the percentiles asked for."""
    fit = within_percentiles(np.diff(interactions.starts), "user_history_length", values)
    return interactions.of(fit[interactions.users])


def within_percentiles(
    counts: npt.NDArray[np.int64], what: str, values: Values
) -> npt.NDArray[np.bool_]:
    """Which counts lie within `min_<what>_percentile` and `max_...` of those above 0."""
    low, high = np.quantile(
        counts[counts > 0],
        [values.get(f"min_{what}_percentile", 0.0), values.get(f"max_{what}_percentile", 1.0)],
    )
    return np.asarray((counts >= low) & (counts <= high))
