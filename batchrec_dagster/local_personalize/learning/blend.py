"""The blend model: items scored for users by a weighted sum of components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from .components import (
    SCORER_TYPES,
    FactorScorer,
    ItemItemScorer,
    PopularityScorer,
    Scorer,
)
from .interactions import Float32, History, Ids, Int32
from .new_items import NewItems
from .repeated_items import Repeats
from .serving import UserModel
from .store import (
    Arrays,
    pack_ids,
    require_array,
    require_number,
    save_arrays,
    unpack_distinct_ids,
)

NEW_ITEMS = "new-items"  # prefix of the arrays of new items


@dataclass(frozen=True)
class BlendModel(UserModel):
    """The model of aws-user-personalization: a weighted sum of components.

    Users without a history get popular items.
    """

    kind: ClassVar[str] = "personalization"

    item_ids: Ids
    """(n_items,) distinct str, the most popular first, then the new ones."""

    popularity: Float32
    """(n_items without new ones,) log of the counts."""

    scorers: Mapping[str, Scorer]
    """The components by name."""

    recency_exponents: Mapping[str, float]
    """The recency exponent of each component, see `History.recency_weights`."""

    weights: Mapping[str, float]
    """The weight of each component's scores in the logits."""

    repeats: Repeats | None = None
    """How likely items come again; None if users seldom have an item again."""

    repeat_rates: Float32 | None = None
    """(n_items without new ones,) see `ComponentFitter.repeat_rates`."""

    new_items: NewItems | None = None
    """The last of `item_ids`, which nobody had in the training."""

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        all_logits = np.zeros((len(history.lengths), len(self.item_ids)), dtype=np.float32)
        whole_history = history
        # The model's own items are scored by its components, then the new ones by their features.
        logits = all_logits
        if self.new_items is not None:
            history = history.keep_items(len(self.popularity))
            logits = all_logits[:, : len(self.popularity)]
        for exponent, item_scorer in self._item_scorers.items():
            item_scorer.add(logits, history, exponent)
        for name, scorer in self.scorers.items():
            if isinstance(scorer, FactorScorer | PopularityScorer):
                scorer.add(logits, history, self.recency_exponents[name], self.weights[name])
            elif not isinstance(scorer, ItemItemScorer):
                scores = scorer.score(history, self.recency_exponents[name])
                scores *= np.float32(self.weights[name])
                logits += scores
        if self.repeats is not None:
            self.repeats.add(logits, history, self.repeat_rates)
        logits[history.lengths == 0] = self.popularity
        if self.new_items is not None:
            all_logits[:, logits.shape[1] :] = self.new_items.score(whole_history, logits)
        return all_logits

    @cached_property
    def _item_scorers(self) -> Mapping[float, ItemItemScorer]:
        """By recency exponent, one scorer for all item-item components that have it.

        Its weights are the weighted sum of theirs, so a history is multiplied once instead of once
        for each component.
        """
        sums: dict[float, csr_matrix] = {}
        for name, scorer in self.scorers.items():
            if isinstance(scorer, ItemItemScorer):
                exponent = self.recency_exponents[name]
                data = scorer.weights.data * np.float32(self.weights[name])
                arrays = data, scorer.weights.indices, scorer.weights.indptr
                weighted = csr_matrix(arrays, shape=scorer.weights.shape)
                sums[exponent] = sums[exponent] + weighted if exponent in sums else weighted
        return {exponent: ItemItemScorer(weights) for exponent, weights in sums.items()}

    def with_exploration(self, weight: float, max_age: float) -> BlendModel:
        """The model with only some of its new items.

        weight: the largest share of new items, see `NewItems.weight`.
        max_age: the largest age of an item in days; items of unknown age stay.
        """
        if self.new_items is None:
            return self
        ages = self.new_items.ages
        is_young = np.isnan(ages) | (ages <= max_age)
        if not weight or not is_young.any():
            return replace(self, item_ids=self.item_ids[: len(self.popularity)], new_items=None)
        is_own = np.ones(len(self.popularity), dtype=bool)
        ids = self.item_ids[np.concatenate([is_own, is_young])]
        return replace(self, item_ids=ids, new_items=self.new_items.select(is_young, weight))

    def choose_items(self, scores: Float32, num_results: int, had: History | None) -> Int32:
        if self.new_items is None:
            return super().choose_items(scores, num_results, had)
        return self.new_items.choose_items(scores, num_results, had)

    def save(self, folder: Path) -> None:
        save_arrays(folder, self.kind, *self.contents())

    def contents(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """What `load` needs: arrays, and facts for the manifest."""
        arrays = {**pack_ids(self.item_ids), "popularity": self.popularity}
        components: dict[str, dict[str, Any]] = {}
        for name, scorer in self.scorers.items():
            components[name] = {
                "kind": scorer.kind,
                "recency_exponent": self.recency_exponents[name],
                "weight": self.weights[name],
            }
            arrays |= {f"{name}.{key}": value for key, value in scorer.arrays().items()}
        if self.new_items is not None:
            components[NEW_ITEMS] = {"kind": NEW_ITEMS}
            for key, value in self.new_items.arrays().items():
                arrays[f"{NEW_ITEMS}.{key}"] = value
        facts: dict[str, Any] = {"components": components}
        if self.repeats is not None:
            facts["repeats"] = asdict(self.repeats)
            if self.repeat_rates is not None:
                arrays["repeat_rates"] = self.repeat_rates
        return arrays, facts

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> BlendModel:
        """The model that gave `contents`.

        Raises KeyError when something is missing, and ValueError that names the file when
        something does not fit together.
        """
        components = dict(facts["components"])
        has_new_items = components.pop(NEW_ITEMS, None) is not None
        popularity = require_array(arrays, "popularity", [np.float32], [None])
        own_items = len(popularity)
        scorers: dict[str, Scorer] = {}
        for name, fact in components.items():
            with _named_component(name):
                scorer = SCORER_TYPES[fact["kind"]].from_arrays(_select_arrays(arrays, name))
                _require_items(scorer.n_items, own_items)
                scorers[name] = scorer
        item_ids = unpack_distinct_ids(arrays)
        new_items = None
        if has_new_items:
            with _named_component(NEW_ITEMS):
                new_items = NewItems.from_arrays(_select_arrays(arrays, NEW_ITEMS))
                _require_items(new_items.scorer.n_items, own_items + len(new_items.ages))
        expected = own_items + (len(new_items.ages) if new_items else 0)
        if len(item_ids) != expected:
            raise ValueError(f"id_ends.npy has {len(item_ids)} items, expected {expected}")
        repeat_rates = None
        if "repeat_rates" in arrays:
            repeat_rates = require_array(arrays, "repeat_rates", [np.float32], [own_items])
        return cls(
            item_ids,
            popularity,
            scorers,
            {
                name: require_number(fact["recency_exponent"], name)
                for name, fact in components.items()
            },
            {name: require_number(fact["weight"], name) for name, fact in components.items()},
            repeats=Repeats.load(facts["repeats"]) if "repeats" in facts else None,
            repeat_rates=repeat_rates,
            new_items=new_items,
        )


@contextmanager
def _named_component(component: str) -> Iterator[None]:
    """A block in which the message of a ValueError, which starts with a file, gets the component's
    name before it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{component}.{error}") from error


def _require_items(n_items: int, expected: int) -> None:
    if n_items != expected:
        raise ValueError(f"*.npy are of {n_items} items, expected {expected}")


def _select_arrays(arrays: Arrays, name: str) -> Arrays:
    """The arrays of a component, by the names that the component gave them."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)
    }
