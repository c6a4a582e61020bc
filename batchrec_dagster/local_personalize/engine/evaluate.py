"""The split into training and held-out interactions, and the metrics of GetSolutionMetrics.

The metrics say how well the lists of the tested users rank the held-out interactions.

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
from batchrec_dagster.personalize.measured_ndcg import GroupSums
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID

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
    """The histories and held-out items of tested users. Items are indices of a model's items."""

    history: History
    """The histories to make lists from."""

    truth: csr_matrix
    """The held-out items that are not in the user's history, bool of shape (users, n_items)."""

    repeated: csr_matrix
    """The held-out items that are in the user's history too, bool of shape (users, n_items)."""

    @cached_property
    def is_relevant(self) -> Bool:
        """The matrix `truth` as a dense array of shape (users, n_items)."""
        return np.asarray(self.truth.toarray())

    def take(self, users: int) -> Tested:
        """Return a sample of at most `users` users who have items in `truth`.

        The sample is spread evenly over all these users. They are in the order of their ids, which
        may say when or where a user joined.
        """
        taken = np.flatnonzero(np.diff(self.truth.indptr) > 0)
        if users < len(taken):
            taken = taken[np.linspace(0, len(taken) - 1, users).astype(np.int64)]
        history = self.history.select(
            np.isin(self.history.owners, taken), starts_of(self.history.lengths[taken])
        )
        return Tested(history, self.truth[taken], self.repeated[taken])

    def take_items(self, items: int) -> Tested:
        """Return only the first `items` (most popular) held-out items, with whole histories."""
        return Tested(self.history, self.truth[:, :items], self.repeated[:, :items])


@dataclass(frozen=True)
class HeldOut:
    """A split of interactions into three disjoint sets with the same `user_ids` and `item_ids`."""

    train: Interactions
    """The interactions of all users who are not tested."""

    inputs: Interactions
    """The older part of the tested users' interactions."""

    truth: Interactions
    """The newer part of the tested users' interactions."""

    users: Int32
    """The sorted indices of the tested users, of shape (tested,)."""

    def of_model(self, item_ids: Ids) -> Tested:
        """Return the tested users' data, with items as indices into `item_ids`."""
        history = read_histories(self.inputs, item_ids, self.users)
        next_items = read_histories(self.truth, item_ids, self.users).recency_weights(0.0) > 0
        seen = history.recency_weights(0.0) > 0
        repeated = next_items.multiply(seen).tocsr()
        return Tested(history, (next_items > repeated).tocsr(), repeated)


def hold_out(interactions: Interactions) -> HeldOut | None:
    """Split the interactions as `personalize/split.py` defines.

    Returns None if no user is tested, or no user is left to train on.
    """
    user_ids = string_series(interactions.user_ids)
    is_tested_user = split.choose_users(user_ids, np.diff(interactions.starts))
    return hold_out_users(interactions, is_tested_user)


def hold_out_users(interactions: Interactions, is_tested_user: Bool) -> HeldOut | None:
    """Split the interactions for given tested users.

    Returns None if no user is tested, or no user is left to train on.

    is_tested_user: bool of shape (n_users,).
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
    """The results of measuring a model on tested users. They are empty if nobody was tested."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """The metrics by their names in GetSolutionMetrics."""

    groups: GroupSums | None = None
    """NDCG at 25 by groups of tested users; None for user segments."""

    choices: pl.DataFrame | None = None
    """A row for each user and item in `Tested.truth`; None for user segments.

    The columns are USER_ID, ITEM_ID, user (a number), group, and place. The place counts from 1 in
    the model's list of 25 items. It is 0 if the list does not have the item.
    """


def measure(model: UserModel, held_out: HeldOut) -> Measurements:
    """Measure a model that was not trained on the held-out users."""
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
    """Return the best items that each tested user has not had, of shape (tested, 25); -1 pads.

    history: the tested users' histories, with items as indices into the model's items.
    """
    ids = held_out.inputs.user_ids[held_out.users]
    chunks = recommend(model, ids, held_out.inputs, DEPTH, exclude_history(history))
    return np.concatenate([chunk.items for chunk in chunks])


def exclude_history(history: History) -> Exclude:
    """Return a function that excludes the items of each user's history from the user's list."""

    def exclude(block: slice, scores: Float32) -> None:
        had = history.of_users(block)
        scores[had.owners, had.items] = -np.inf

    return exclude


def _find_places(lists: Int32, users: Int32, items: Int32) -> Int64:
    """Return the place of each item in its user's list, of shape (choices,).

    Places count from 1. The place is 0 if the list does not have the item.
    """
    is_item = lists[users] == items[:, None]
    return np.where(is_item.any(axis=1), 1 + is_item.argmax(axis=1), 0)


def summarize_choices(choices: pl.DataFrame) -> tuple[dict[str, float], GroupSums]:
    """Return the metrics of GetSolutionMetrics, without the coverage, and NDCG at 25 by groups.

    Only the users in `choices` count. Without choices, all metrics are 0.

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
    """Return the NDCG at a depth of each user's list, of shape (users,).

    A hit has the gain 1 / log2(1 + place). The sum of a user's gains is divided by the sum that the
    best possible list would have.

    users, places: the user of each relevant item, and the item's place in the user's list, counted
        from 1, or 0 if the list does not have the item. Both have shape (choices,).
    relevant: the number of each user's relevant items, at least 1, of shape (users,).
    """
    is_hit = (places > 0) & (places <= depth)
    gains = np.bincount(users[is_hit], 1 / np.log2(1 + places[is_hit]), minlength=len(relevant))
    ideal = np.cumsum(1 / np.log2(2 + np.arange(depth)))
    return np.asarray(gains / ideal[np.minimum(relevant, depth) - 1])


def _mean(values: Float64) -> float:
    """Return the mean of the values, or 0 if there are none."""
    return float(values.mean()) if len(values) else 0.0
