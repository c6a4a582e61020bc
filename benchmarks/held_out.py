"""NDCG at 25 of each held-out user, for the items that the user had next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.engine.data import (
    Ids,
    Int32,
    Interactions,
    order_by_popularity,
    read_histories,
)
from batchrec_dagster.local_personalize.engine.evaluate import (
    DEPTH,
    HeldOut,
    exclude_history,
    hold_out_users,
)
from batchrec_dagster.local_personalize.engine.select import measure_lists
from batchrec_dagster.local_personalize.engine.serve import UserModel, recommend


@dataclass(frozen=True)
class GivenLists:
    """Finished lists for the held-out users, in the order of the users."""

    item_ids: Ids
    """The distinct item ids, of shape (n_items,), the most popular first."""

    lists: Int32
    """The items' indices, of shape (users, 25), the best first."""


def split_users(data: Interactions, users: Int32) -> HeldOut:
    """Return the split that holds out the users with these indices."""
    is_tested_user = np.zeros(len(data.user_ids), bool)
    is_tested_user[users] = True
    held_out = hold_out_users(data, is_tested_user)
    assert held_out is not None
    return held_out


def measure_users(
    model: UserModel | GivenLists, held_out: HeldOut, *, include_seen: bool = False
) -> npt.NDArray[np.float64]:
    """Return NDCG at 25, of shape (users,), of the tested held-out users.

    A held-out user is tested if the training knows one of the items that the user had next.

    include_seen: whether items that a user had may be in the list, and count.
    """
    item_ids = held_out.train.item_ids[order_by_popularity(held_out.train)]
    tested = held_out.of_model(item_ids)
    if isinstance(model, GivenLists):
        lists = model.lists
    else:
        ids = held_out.inputs.user_ids[held_out.users]
        history = read_histories(held_out.inputs, model.item_ids, held_out.users)
        exclude = None if include_seen else exclude_history(history)
        chunks = recommend(model, ids, held_out.inputs, DEPTH, exclude)
        lists = np.concatenate([chunk.items for chunk in chunks])
    assert model.item_ids[: len(item_ids)].tolist() == item_ids.tolist()
    truth = tested.truth + tested.repeated if include_seen else tested.truth
    is_tested = np.diff(truth.indptr) > 0
    return measure_lists(lists[is_tested], truth[is_tested].toarray())
