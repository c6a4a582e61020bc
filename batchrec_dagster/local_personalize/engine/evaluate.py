"""What is held out, and how well lists rank it: the metrics of GetSolutionMetrics.

Source: developer guide, "Evaluating a solution version with metrics".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize import split
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.storage.measured_ndcg import GroupSums

from .data import (
    Bool,
    Float32,
    Float64,
    History,
    Ids,
    Int32,
    Int64,
    Interactions,
    order_by_popularity,
    read_histories,
    starts_of,
    string_series,
)
from .serve import Exclude, UserModel, recommend

DEPTHS = (5, 10, 25)
DEPTH = max(DEPTHS)


@dataclass(frozen=True)
class Tested:
    """Tested users, in the numbers of a model's items."""

    history: History
    """What lists are made from."""

    truth: csr_matrix
    """(users, n_items) bool: what they had next, of what they had not had."""

    repeated: csr_matrix
    """(users, n_items) bool: what they had next, of what they had had."""

    @cached_property
    def is_relevant(self) -> Bool:
        """(users, n_items): the truth as a dense array."""
        return np.asarray(self.truth.toarray())

    def take(self, users: int) -> Tested:
        """The first of the users who had something next."""
        taken = np.flatnonzero(np.diff(self.truth.indptr) > 0)[:users]
        history = self.history.select(
            np.isin(self.history.owners, taken), starts_of(self.history.lengths[taken])
        )
        return Tested(history, self.truth[taken], self.repeated[taken])

    def take_items(self, items: int) -> Tested:
        """What the users had next of the first, most popular, items; their histories stay whole."""
        return Tested(self.history, self.truth[:, :items], self.repeated[:, :items])


@dataclass(frozen=True)
class HeldOut:
    """Three disjoint sets of interactions over the same ids."""

    train: Interactions
    """Those of all users who are not tested."""

    inputs: Interactions
    """The older part of the tested users' histories."""

    truth: Interactions
    """The newer part."""

    users: Int32
    """(tested,) sorted indices of the users."""

    def of_model(self, item_ids: Ids) -> Tested:
        """The tested users, in the numbers of these items."""
        history = read_histories(self.inputs, item_ids, self.users)
        next_items = read_histories(self.truth, item_ids, self.users).recency_weights(0.0) > 0
        seen = history.recency_weights(0.0) > 0
        repeated = next_items.multiply(seen).tocsr()
        return Tested(history, (next_items > repeated).tocsr(), repeated)


def hold_out(interactions: Interactions) -> HeldOut | None:
    """The split of `personalize/split.py`; None if nobody is tested, or nobody is left."""
    user_ids = string_series(interactions.user_ids)
    is_tested_user = split.choose_users(user_ids, np.diff(interactions.starts))
    return hold_out_users(interactions, is_tested_user)


def hold_out_users(interactions: Interactions, is_tested_user: Bool) -> HeldOut | None:
    """The split that tests some users; None if nobody is tested, or nobody is left.

    is_tested_user: (n_users,) bool.
    """
    user_ids = string_series(interactions.user_ids)
    is_tested = is_tested_user[interactions.users]
    if not is_tested.any() or is_tested.all():
        return None
    tested = interactions.take(is_tested)
    order = split.order_rows(
        tested.users,
        tested.timestamps,
        split.hash_ids(user_ids)[tested.users],
        split.hash_ids(string_series(interactions.item_ids))[tested.items],
    )
    tested = tested.take(order)
    is_input = split.mark_inputs(np.diff(interactions.starts)[is_tested_user])
    return HeldOut(
        interactions.take(~is_tested),
        tested.take(is_input),
        tested.take(~is_input),
        np.flatnonzero(is_tested_user).astype(np.int32),
    )


@dataclass(frozen=True)
class Measurements:
    """What is known of a model from tested users. It is empty if nobody was tested."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """By the names of GetSolutionMetrics."""

    groups: GroupSums | None = None
    """NDCG at 25 by groups of tested users; None for user segments."""

    choices: pl.DataFrame | None = None
    """A row for each item that a tested user had next and had not had: USER_ID, ITEM_ID, user (a
    number), group, and place (from 1, in the model's list of 25; 0 if it is not in it). None for
    user segments."""


def measure(model: UserModel, held_out: HeldOut) -> Measurements:
    """The metrics of a model that was not trained on the held-out users."""
    item_ids = held_out.train.item_ids[order_by_popularity(held_out.train)]
    tested = held_out.of_model(item_ids)
    user, item = tested.truth.nonzero()
    user_ids = held_out.train.user_ids[held_out.users]
    lists = _list_items(model, held_out, tested.history)
    choices = pl.DataFrame(
        {
            USER_ID: string_series(user_ids[user]),
            ITEM_ID: string_series(item_ids[item]),
            "user": user,
            "group": split.assign_groups(string_series(user_ids))[user],
            "place": _find_places(lists, user, item),
        }
    )
    metrics, groups = summarize_choices(choices)
    is_tested = np.diff(tested.truth.indptr) > 0
    listed = np.unique(lists[is_tested])
    coverage = np.count_nonzero(listed >= 0) / max(1, len(item_ids))
    return Measurements({"coverage": coverage, **metrics}, groups, choices)


def _list_items(model: UserModel, held_out: HeldOut, history: History) -> Int32:
    """(tested, 25): the best items that each tested user has not had; -1 pads.

    history: what they have had, in the numbers of the model's items.
    """
    ids = held_out.inputs.user_ids[held_out.users]
    chunks = recommend(model, ids, held_out.inputs, DEPTH, exclude_history(history))
    return np.concatenate([chunk.items for chunk in chunks])


def exclude_history(history: History) -> Exclude:
    """What takes the items of the users' histories out of their lists."""

    def exclude(block: slice, scores: Float32) -> None:
        had = history.of_users(block)
        scores[had.owners, had.items] = -np.inf

    return exclude


def _find_places(lists: Int32, users: Int32, items: Int32) -> Int64:
    """(choices,): the place of each item in its user's list, from 1; 0 if it is not in it."""
    is_item = lists[users] == items[:, None]
    return np.where(is_item.any(axis=1), 1 + is_item.argmax(axis=1), 0)


def summarize_choices(choices: pl.DataFrame) -> tuple[dict[str, float], GroupSums]:
    """The metrics of GetSolutionMetrics but for the coverage, and NDCG at 25 by groups.

    They are of the users who had any of the choices: others are left out. Without any, all is 0.

    choices: the columns user, group and place of `Measurements`.
    """
    _, first, users = np.unique(choices["user"].to_numpy(), return_index=True, return_inverse=True)
    places = choices["place"].to_numpy()
    relevant = np.bincount(users)
    is_hit = places > 0
    reciprocal = np.zeros(len(relevant))
    np.maximum.at(reciprocal, users[is_hit], 1 / places[is_hit])
    metrics = {f"mean_reciprocal_rank_at_{DEPTH}": _mean(reciprocal)}
    for depth in DEPTHS:
        ndcg = measure_ndcg(users, places, relevant, depth)
        metrics[f"normalized_discounted_cumulative_gain_at_{depth}"] = _mean(ndcg)
        hits = np.bincount(users, is_hit & (places <= depth))
        metrics[f"precision_at_{depth}"] = _mean(hits / depth)
    users_by_group, sums = split.sum_groups(choices["group"].to_numpy()[first], ndcg)
    return metrics, GroupSums(users=tuple(users_by_group), ndcg=tuple(sums))


def measure_ndcg(users: Int64, places: Int64, relevant: Int64, depth: int) -> Float64:
    """(users,): the gain 1 / log2(1 + place) of all hits, over that of the best possible list.

    users, places: (choices,) the user of each relevant item, and its place in the list from 1; 0 if
        it is not in it.
    relevant: (users,) how many items are relevant, at least 1.
    """
    is_hit = (places > 0) & (places <= depth)
    gains = np.bincount(users[is_hit], 1 / np.log2(1 + places[is_hit]), minlength=len(relevant))
    ideal = np.cumsum(1 / np.log2(2 + np.arange(depth)))
    return np.asarray(gains / ideal[np.minimum(relevant, depth) - 1])


def _mean(values: Float64) -> float:
    """The mean of the values; 0 if there are none."""
    return float(values.mean()) if len(values) else 0.0
