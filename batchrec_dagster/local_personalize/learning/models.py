"""The models: items scored for users by a blend of components or by popularity, users for items.

Segments rank users by how often they will probably interact with one of the items: the softmax
probability of the items, times the user's activity. Customers of a bakery buy the same again,
visitors of a cinema do not: what items of the history count is measured on held-out interactions.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.recipes import HYPERPARAMETERS, Values

from .components import (
    SCORER_TYPES,
    SEQUENCE,
    SYMMETRIC_COOC,
    FactorScorer,
    ItemItemScorer,
    PopularityScorer,
    Scorer,
)
from .interactions import Float32, Histories, History, Ids, Int32, Interactions, ModelFileError
from .new_items import NewItems
from .ranking import StreamingTopK
from .related import RelatedItemsModel
from .serving import UserModel, chunk_size, logsumexp
from .store import (
    Arrays,
    load_arrays,
    pack_ids,
    require_array,
    save_arrays,
    unpack_distinct_ids,
)
from .threads import ordered_map

NEW_ITEMS = "new-items"  # prefix of the arrays of new items
HELD_OUT = "held-out"  # a subfolder of the model's folder, and the kind in its manifest
# Hyperparameters by name. Those of the same name are the same in all recipes.
_HYPERPARAMETERS = {
    name: kind for of_recipe in HYPERPARAMETERS.values() for name, kind in of_recipe.items()
}
# What loading may raise if a value in a manifest has another type than expected.
_LOAD_ERRORS = ValueError, TypeError, AttributeError, OverflowError


@dataclass(frozen=True)
class PopularityModel(UserModel):
    """Recommends the items with the most interactions, the same to all users."""

    kind: ClassVar[str] = "popularity"

    item_ids: Ids
    """(n_items,) distinct str, the most popular first."""

    popularity: Float32
    """(n_items,) log of the counts."""

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        return np.tile(self.popularity, (len(history.lengths), 1))

    def save(self, folder: Path) -> None:
        arrays = {**pack_ids(self.item_ids), "popularity": self.popularity}
        save_arrays(folder, self.kind, arrays, {})

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> PopularityModel:
        """The model that was saved. Raises KeyError, or ValueError that names the file."""
        item_ids = unpack_distinct_ids(arrays)
        return cls(item_ids, require_array(arrays, "popularity", [np.float32], [len(item_ids)]))


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
        share, exponent = (_require_number(facts[name], name) for name in ("share", "exponent"))
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


@dataclass(frozen=True)
class BlendModel(UserModel):
    """The model of aws-user-personalization: a weighted sum of components.

    Users without a history get popular items. An update also needs `held_out`, which `save`
    writes and `load` ignores.
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

    held_out: HeldOut | None = None
    """What an update needs; None in a model that cannot be updated, and in one that was loaded."""

    repeats: Repeats | None = None
    """How likely items come again; None if users seldom have an item again."""

    repeat_rates: Float32 | None = None
    """(n_items without new ones,) see `ComponentFitter.repeat_rates`."""

    count_exponent: float = 0.0
    """See `History.weight_by_counts`; above 0 only in models of earlier versions."""

    new_items: NewItems | None = None
    """The last of `item_ids`, which nobody had in the training."""

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        all_logits = np.zeros((len(history.lengths), len(self.item_ids)), dtype=np.float32)
        whole_history = history.weight_by_counts(self.count_exponent)
        # The model's own items are scored by its components, then the new ones by their features.
        history = whole_history
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

        weight: the share of a list that new items may have.
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

    def limit(self, scores: Float32, num_results: int) -> None:
        if self.new_items is not None:
            self.new_items.limit(scores, num_results)

    def save(self, folder: Path) -> None:
        # What an earlier save left must not be loaded with this model.
        shutil.rmtree(folder / HELD_OUT, ignore_errors=True)
        if self.held_out is not None:
            self.held_out.save(folder / HELD_OUT)
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
            # Among the components, so that versions that do not know new items refuse the model.
            components[NEW_ITEMS] = {"kind": NEW_ITEMS}
            for key, value in self.new_items.arrays().items():
                arrays[f"{NEW_ITEMS}.{key}"] = value
        facts: dict[str, Any] = {"components": components}
        if self.repeats is not None:
            facts["repeats"] = asdict(self.repeats)
            if self.repeat_rates is not None:
                arrays["repeat_rates"] = self.repeat_rates
        if self.count_exponent:
            facts["count_exponent"] = self.count_exponent
        return arrays, facts

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> BlendModel:
        """The model that gave `contents`.

        Raises KeyError when something is missing, and ValueError that names the file when
        something does not fit together.
        """
        if "parts" in facts:
            arrays, facts = _translate_old_names(arrays, facts)
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
                name: _require_number(fact["recency_exponent"], name)
                for name, fact in components.items()
            },
            {name: _require_number(fact["weight"], name) for name, fact in components.items()},
            repeats=Repeats.load(facts["repeats"]) if "repeats" in facts else None,
            repeat_rates=repeat_rates,
            count_exponent=_require_number(facts.get("count_exponent", 0.0), "count_exponent"),
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


def _require_number(value: Any, name: str) -> float:
    """The value if it is a finite number. Raises ValueError.

    name: what the manifest calls it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} has {value!r} in the manifest, expected a number")
    return value


def _select_arrays(arrays: Arrays, name: str) -> Arrays:
    """The arrays of a component, by the names that the component gave them."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)
    }


def _translate_old_names(arrays: Arrays, facts: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """What `contents` would return now for a model that an earlier version saved.

    That version called components parts, the recency exponent power and the weight share.
    """
    new_names = {"either-way": SYMMETRIC_COOC}
    components = {
        new_names.get(name, name): {
            "kind": fact["kind"],
            "recency_exponent": fact["power"],
            "weight": fact["share"],
        }
        for name, fact in facts["parts"].items()
    }
    new_arrays = {}
    for key, array in arrays.items():
        name, dot, suffix = key.partition(".")
        new_arrays[new_names.get(name, name) + dot + suffix] = array
    return new_arrays, {"components": components}


@dataclass(frozen=True)
class HeldOut:
    """What an update needs to be measured on the same held-out users as the training before it."""

    model: BlendModel
    """The model trained without the held-out users."""

    users: Ids
    """(held out,) distinct str."""

    hyperparameters: Values

    def save(self, folder: Path) -> None:
        """Write it into the folder, without the weights of co-occurrence.

        An update counts co-occurrence again.
        """
        n = len(self.model.popularity)
        no_weights = ItemItemScorer(csr_matrix((n, n), dtype=np.float32))
        scorers = {
            name: no_weights if name in (SEQUENCE, SYMMETRIC_COOC) else scorer
            for name, scorer in self.model.scorers.items()
        }
        arrays, facts = replace(self.model, scorers=scorers).contents()
        arrays |= pack_ids(self.users, "user_")
        facts["hyperparameters"] = dict(self.hyperparameters)
        save_arrays(folder, HELD_OUT, arrays, facts)

    @classmethod
    def load(cls, model: Path) -> HeldOut | None:
        """What was saved with a model, None if nothing was.

        Raises ModelFileError when a file is missing or damaged.

        model: the model's folder.
        """
        folder = model / HELD_OUT
        if not folder.exists():
            return None
        kind, arrays, facts = load_arrays(folder)
        if kind != HELD_OUT:
            raise ModelFileError(f"{folder} contains {kind!r}, expected {HELD_OUT!r}")
        try:
            test_model = BlendModel.load(arrays, facts)
            values = {
                name: _HYPERPARAMETERS[name].parse(str(value))
                for name, value in facts["hyperparameters"].items()
            }
            return cls(test_model, unpack_distinct_ids(arrays, "user_"), values)
        except KeyError as error:
            raise ModelFileError(f"{folder} is incomplete: {error}") from error
        except _LOAD_ERRORS as error:
            raise ModelFileError(f"{folder} is damaged: {error}") from error


@dataclass(frozen=True)
class SegmentationModel:
    """Ranks users by their affinity to items."""

    kind: ClassVar[str] = "segmentation"

    model: BlendModel
    repeat_factor: float = 1.0
    """The factor of the probabilities of the items in a user's history."""

    @property
    def item_ids(self) -> Ids:
        return self.model.item_ids

    def segment(
        self,
        queries: Sequence[Int32],
        interactions: Interactions,
        size: int,
        *,
        users: npt.NDArray[np.bool_] | None = None,
        checkpoint: Callable[[int], None] = lambda _: None,
    ) -> list[Int32]:
        """For each query, indices of the users with the highest affinity, best first.

        Ties go to the user with the lower id. Memory is in proportion to queries x size, and there
        is one chunk of users besides.

        queries: indices into `item_ids`, of one item or of all items with an attribute.
        size: how many users there are for each query, or fewer.
        users: a mask over `interactions.user_ids` of the users to consider; all if None.
        checkpoint: is called after every chunk with its number of users.
        """
        is_selected = np.ones(len(interactions.user_ids), bool) if users is None else users
        selected = np.flatnonzero(is_selected).astype(np.int32)
        indicator = _build_indicator(queries, len(self.item_ids))
        histories = Histories(interactions, self.item_ids)
        best = StreamingTopK(len(queries), min(size, len(selected)))
        users_per_chunk = chunk_size(max(len(self.item_ids), len(queries)))

        def score_chunk(start: int) -> tuple[Int32, Float32]:
            chunk = selected[start : start + users_per_chunk]
            history = histories.of_users(chunk)
            return chunk, np.asarray(indicator @ self._compute_affinities(history).T)

        starts = range(0, len(selected), users_per_chunk)
        for chunk, affinities in ordered_map(score_chunk, starts):
            best.add(chunk, affinities)
            checkpoint(len(chunk))
        return best.sort_labels()

    def _compute_affinities(self, history: History) -> Float32:
        """(users, n_items): expected numbers of interactions, up to a common factor."""
        affinities = probabilities(self.model, history)
        affinities[history.recency_weights(0.0).nonzero()] *= np.float32(self.repeat_factor)
        # The square root, because the most active users of the past are not quite so active later.
        affinities *= np.sqrt(np.maximum(history.lengths, 1), dtype=np.float32)[:, None]
        return affinities

    def save(self, folder: Path) -> None:
        arrays, facts = self.model.contents()
        save_arrays(folder, self.kind, arrays, {**facts, "repeat_factor": self.repeat_factor})

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> SegmentationModel:
        """The model that was saved. Earlier versions named its factor `again`."""
        factor = facts["again"] if "again" in facts else facts["repeat_factor"]
        return cls(BlendModel.load(arrays, facts), _require_number(factor, "repeat_factor"))


def probabilities(model: BlendModel, history: History) -> Float32:
    """(users, n_items): the softmax of the scores over all items."""
    scores = model.score(history)
    scores -= scores.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def _build_indicator(queries: Sequence[Int32], n_items: int) -> csr_matrix:
    """(queries, n_items) float32: 1 for the distinct items of each query."""
    distinct = [np.unique(items) for items in queries]
    starts = np.cumsum([0, *(len(items) for items in distinct)])
    items = np.concatenate([*distinct, np.zeros(0, np.int32)]).astype(np.int32)
    ones = np.ones(len(items), np.float32)
    return csr_matrix((ones, items, starts), shape=(len(queries), n_items))


_SavedModel = BlendModel | PopularityModel | RelatedItemsModel | SegmentationModel
MODELS: dict[str, type[_SavedModel]] = {model.kind: model for model in get_args(_SavedModel)}
AnyModel = UserModel | RelatedItemsModel | SegmentationModel


def load_model(folder: Path) -> AnyModel:
    """Load a saved model. Raises ModelFileError when a file is missing or damaged."""
    kind, arrays, facts = load_arrays(folder)
    if not isinstance(kind, str) or kind not in MODELS:
        raise ModelFileError(f"the model in {folder} has the unknown kind {kind!r}")
    try:
        return MODELS[kind].load(arrays, facts)
    except KeyError as error:
        raise ModelFileError(f"the model in {folder} is incomplete: {error}") from error
    except _LOAD_ERRORS as error:
        raise ModelFileError(f"the model in {folder} is damaged: {error}") from error
