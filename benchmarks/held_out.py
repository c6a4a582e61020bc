"""How a model ranks what held-out users had next: NDCG at 25 of each user."""

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
    """Lists that are made already, for the held-out users in their order."""

    item_ids: Ids
    """(n_items,) distinct str, the most popular first."""

    lists: Int32
    """(users, 25) item indices, best first."""


def split_users(data: Interactions, users: Int32) -> HeldOut:
    """The split that holds out the users with these indices."""
    is_tested_user = np.zeros(len(data.user_ids), bool)
    is_tested_user[users] = True
    held_out = hold_out_users(data, is_tested_user)
    assert held_out is not None
    return held_out


def measure_users(
    model: UserModel | GivenLists, held_out: HeldOut, *, include_seen: bool = False
) -> npt.NDArray[np.float64]:
    """(users,): NDCG at 25 of the held-out users who had something next that the training knows.

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
