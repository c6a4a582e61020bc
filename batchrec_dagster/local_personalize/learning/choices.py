"""What the tested users chose, and the places of these items in their lists.

The metrics of all choices are measured in the training. With the choices, those of some types of
events can be measured later, without training again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .evaluation import MAX_DEPTH, Bool, Evaluation, measure_ranks, ndcg
from .evidence import summarize_evidence
from .interactions import Ids, Int32, Int64, ModelFileError, find_positions
from .store import LOAD_ERRORS, load_arrays, require_array, require_indices, save_arrays

CHOICES = "choices"  # a subfolder of the model's folder, and the kind in its manifest
MAX_TYPES = 62
"""How many types of events have a bit each in `EventChoices.types`."""
# The names of the arrays of the places.
_PLACES = ("users", "places", "popular_places", "lengths")


@dataclass(frozen=True)
class ListPlaces:
    """The choices, with the places of the items in lists. A choice is a user's relevant item."""

    users: Int32
    """(choices,) indices of the tested users, sorted."""

    places: Int32
    """(choices,) from 1, in the model's list of 25; 0 if the item is not in it."""

    popular_places: Int32
    """(choices,) the same for the most popular items."""

    lengths: Int64
    """(tested,) how many interactions the model saw of each user."""

    def measure(self, is_counted: Bool) -> tuple[dict[str, float], dict[str, float]]:
        """The metrics of these choices alone, but for the coverage, and the evidence for them.

        Users without such a choice are left out. The evidence has the keys of `summarize_evidence`.

        is_counted: (choices,) whether a choice counts.
        """
        users, numbers = np.unique(self.users[is_counted], return_inverse=True)
        relevant = np.bincount(numbers, minlength=len(users)).astype(np.int64)
        hits = _mark_hits(numbers, self.places[is_counted], len(users))
        popular_hits = _mark_hits(numbers, self.popular_places[is_counted], len(users))
        evidence = summarize_evidence(
            ndcg(hits, relevant), ndcg(popular_hits, relevant), self.lengths[users]
        )
        return measure_ranks(hits, relevant), evidence


def _mark_hits(users: npt.NDArray[np.intp], places: Int32, n_users: int) -> Bool:
    """(users, 25): whether the item at that position is relevant.

    users, places: (choices,) those of each choice; the place is 0 outside of the list.
    """
    hits = np.zeros((n_users, MAX_DEPTH), dtype=bool)
    is_listed = places > 0
    hits[users[is_listed], places[is_listed] - 1] = True
    return hits


@dataclass(frozen=True)
class HeldOutChoices:
    """The choices of the tested users, by the ids of these and of the items."""

    user_ids: Ids
    """(tested,)"""

    item_ids: Ids
    """(choices,)"""

    places: ListPlaces

    @property
    def users(self) -> Ids:
        """(choices,) the id of each choice's user."""
        return self.user_ids[self.places.users]


def list_choices(
    model: Evaluation, popular: Evaluation, user_ids: Ids, lengths: Int64
) -> HeldOutChoices:
    """The choices of the users that both evaluations tested.

    popular: that of the most popular items.
    user_ids: (n_users,) those of the interactions.
    lengths: (n_users,) how many interactions were seen of each user.
    """
    users, rows, popular_rows = np.intersect1d(model.users, popular.users, return_indices=True)
    chosen = model.chosen[rows]
    numbers = np.repeat(np.arange(len(users), dtype=np.int32), np.diff(chosen.indptr))
    items = chosen.indices
    # The same items by their index in the popular ones, -2 for those that are not among them.
    index = find_positions(popular.item_ids, model.item_ids)
    popular_items = np.where(index < 0, -2, index)[items]
    places = ListPlaces(
        numbers,
        _find_places(model.recommended[rows], numbers, items),
        _find_places(popular.recommended[popular_rows], numbers, popular_items),
        lengths[users],
    )
    return HeldOutChoices(user_ids[users], model.item_ids[items], places)


def _find_places(recommended: Int32, users: Int32, items: npt.NDArray[np.integer]) -> Int32:
    """(choices,): the place of each item in its user's list, from 1; 0 if it is not in it.

    recommended: (users, 25) item indices, best first; -1 pads.
    """
    is_item = recommended[users] == items[:, None]
    return np.where(is_item.any(axis=1), 1 + is_item.argmax(axis=1), 0).astype(np.int32)


@dataclass(frozen=True)
class EventChoices:
    """The choices with the types of the events of each, and without any ids."""

    places: ListPlaces

    types: Int64
    """(choices,) a bit for each of `names`: whether the user had such an event with the item."""

    names: Sequence[str]
    """The types of events, in the order of their bits."""

    def measure(self, events: Collection[str]) -> tuple[dict[str, float], dict[str, float]]:
        """The metrics and the evidence of the choices with such events; see `ListPlaces.measure`.

        events: types of events, in upper or lower case.
        """
        return self.places.measure((self.types & self._find_bits(events)) > 0)

    def _find_bits(self, events: Collection[str]) -> int:
        wanted = {name.lower() for name in events}
        return sum(1 << bit for bit, name in enumerate(self.names) if name.lower() in wanted)

    def save(self, model: Path) -> None:
        """Write them into the folder of a model."""
        arrays = {name: np.asarray(getattr(self.places, name)) for name in _PLACES}
        arrays["types"] = self.types
        save_arrays(model / CHOICES, CHOICES, arrays, {"event_types": list(self.names)})

    @classmethod
    def load(cls, model: Path) -> EventChoices | None:
        """What was saved with a model, None if nothing was.

        Raises ModelFileError when a file is missing or damaged.

        model: the model's folder.
        """
        folder = model / CHOICES
        if not folder.exists():
            return None
        kind, arrays, facts = load_arrays(folder)
        if kind != CHOICES:
            raise ModelFileError(f"{folder} contains {kind!r}, expected {CHOICES!r}")
        try:
            lengths = require_array(arrays, "lengths", [np.int64], [None])
            users = require_array(arrays, "users", [np.int32], [None])
            size = [len(users)]
            places = require_array(arrays, "places", [np.int32], size)
            popular_places = require_array(arrays, "popular_places", [np.int32], size)
            types = require_array(arrays, "types", [np.int64], size)
            require_indices(users, len(lengths), "users")
            require_indices(places, MAX_DEPTH + 1, "places")
            require_indices(popular_places, MAX_DEPTH + 1, "popular_places")
            names = facts["event_types"]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("event_types in the manifest is not a list of names")
            if len(names) > MAX_TYPES:
                raise ValueError(f"the manifest has more than {MAX_TYPES} event_types")
            return cls(ListPlaces(users, places, popular_places, lengths), types, names)
        except KeyError as error:
            raise ModelFileError(f"{folder} is incomplete: {error}") from error
        except LOAD_ERRORS as error:
            raise ModelFileError(f"{folder} is damaged: {error}") from error
