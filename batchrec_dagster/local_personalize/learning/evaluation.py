"""A model measured on users it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import metrics
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions, positions
from batchrec_dagster.local_personalize.learning.model import Model
from batchrec_dagster.local_personalize.learning.serving import forbidding
from batchrec_dagster.local_personalize.learning.split import Split, matrix_rows


@dataclass(frozen=True)
class Evaluated:
    """What a model did for the held-out users that had something left to find."""

    hits: npt.NDArray[np.bool_]  # (users, 25) whether the item in that position was in the truth
    relevant: npt.NDArray[np.int64]  # (users,) how many items there were to find
    recommended: npt.NDArray[np.int32]  # (users, 25)
    n_items: int

    def summary(self) -> dict[str, float]:
        """GetSolutionMetrics' numbers."""
        return metrics.summary(self.hits, self.relevant, self.recommended, self.n_items)

    def ndcg(self) -> npt.NDArray[np.float64]:
        """(users,): NDCG at 25 of each user, to compare models user by user."""
        return metrics.ndcg(self.hits, self.relevant)


def evaluate(model: Model, held_out: Split) -> Evaluated:
    """Recommend 25 new items to each held-out user, and look for them in the truth.

    Items of the input are not recommended again, and not looked for; a user for whom nothing is
    left to look for is left out.
    """
    seen = presence(held_out.inputs, held_out, model.item_ids)
    truth = presence(held_out.truth, held_out, model.item_ids)
    truth = (truth - truth.multiply(seen)).tocsr()
    truth.eliminate_zeros()
    ids = held_out.inputs.user_ids[held_out.users]
    lists = model.recommend(list(ids), held_out.inputs, metrics.DEEPEST, forbid=forbidding(seen))
    recommended = np.concatenate([chunk.items for chunk in lists])
    relevant = np.diff(truth.indptr).astype(np.int64)
    rows = np.arange(len(ids))[:, None]
    hits = np.asarray(truth[rows, np.maximum(recommended, 0)].todense() > 0) & (recommended >= 0)
    some = relevant > 0
    return Evaluated(hits[some], relevant[some], recommended[some], len(model.item_ids))


def presence(interactions: Interactions, held_out: Split, item_ids: Ids) -> csr_matrix:
    """(held-out users, len(item_ids)) float32: 1 where a user met an item."""
    columns = positions(item_ids, interactions.item_ids)[interactions.items]
    rows = matrix_rows(interactions, held_out.users)
    known = columns >= 0
    out = csr_matrix(
        (np.ones(known.sum(), np.float32), (rows[known], columns[known])),
        shape=(len(held_out.users), len(item_ids)),
    )
    out.data[:] = 1
    return out
