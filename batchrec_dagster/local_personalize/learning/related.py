"""The model behind aws-sims and aws-similar-items: items that the same users met.

An item is similar to another by the number of users who met both, over the other's popularity to
a power. Source: Sarwar et al., "Item-based collaborative filtering recommendation algorithms" (WWW
2001); Deshpande, Karypis, "Item-based top-N recommendation algorithms" (TOIS 2004).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, vstack

from batchrec_dagster.local_personalize.learning import serving
from batchrec_dagster.local_personalize.learning.interactions import Ids, positions
from batchrec_dagster.local_personalize.learning.pruning import largest, newest
from batchrec_dagster.local_personalize.learning.ranking import top
from batchrec_dagster.local_personalize.learning.serving import Forbid, Recommended
from batchrec_dagster.local_personalize.learning.store import Arrays, pack_ids, save_arrays
from batchrec_dagster.local_personalize.learning.threads import ordered_map

DISCOUNT = 0.5  # aws-sims' popularity_discount_factor
LEAST_SHARED = 3  # its min_cointeraction_count
KEPT = 500  # for each item
COUNTS = 4 << 20  # of pairs at once


@dataclass(frozen=True)
class RelatedItemsModel:
    """Recommends for an item what the same users met; the popular where that runs out."""

    kind: ClassVar[str] = "related-items"

    item_ids: Ids
    weights: csr_matrix  # (n_items, n_items) float32, row = the item asked for, all above 0

    def similar(
        self, item_ids: Sequence[str], num_results: int, *, forbid: Forbid | None = None
    ) -> Iterator[Recommended]:
        """See ItemModel."""
        asked = positions(self.item_ids, item_ids)
        n = len(self.item_ids)
        size = max(1, min(1024, serving.CHUNK_SCORES // max(1, n)))

        def chunk(start: int) -> Recommended:
            part = slice(start, start + size)
            known = np.flatnonzero(asked[part] >= 0)
            own = asked[part][known]
            # Items that are not similar tie at 0, and ties go to the more popular.
            scores = np.zeros((len(asked[part]), n), dtype=np.float32)
            scores[known] = self.weights[own].toarray()
            scores[known, own] = -np.inf
            if forbid is not None:
                forbid(part, scores)
            items = top(scores, num_results)
            return Recommended(items, np.zeros(items.shape))

        return ordered_map(chunk, range(0, len(asked), size))

    def save(self, folder: Path) -> None:
        """See Known."""
        weights = {name: getattr(self.weights, name) for name in ("data", "indices", "indptr")}
        save_arrays(folder, self.kind, {**pack_ids(self.item_ids), **weights}, {})

    @classmethod
    def load(cls, item_ids: Ids, arrays: Arrays, facts: dict[str, Any]) -> RelatedItemsModel:
        """The model whose arrays were saved."""
        weights = (arrays["data"], arrays["indices"], arrays["indptr"])
        return cls(item_ids, csr_matrix(weights, shape=(len(item_ids), len(item_ids))))


def fit(
    matrix: csr_matrix, *, discount: float = DISCOUNT, least_shared: int = LEAST_SHARED
) -> csr_matrix:
    """Weights (n_items, n_items) float32: users who met both, over those of the column^discount.

    `matrix` is (users, n_items), ones where a user met an item, from new to old; the newest of a
    user's pair (`cutting.newest`). A pair needs `least_shared` users, an item keeps its KEPT most
    similar, ties to the lower column.
    """
    n = matrix.shape[1]
    divisor = np.maximum(np.bincount(matrix.indices, minlength=n), 1) ** discount
    divisor = divisor.astype(np.float32)
    paired = newest(matrix)
    by_item = paired.T.tocsr()

    def rows(part: slice) -> csr_matrix:
        shared = by_item[part] @ paired
        own = np.repeat(np.arange(part.start, part.stop), np.diff(shared.indptr))
        shared.data[(shared.data < least_shared) | (shared.indices == own)] = 0
        shared.data /= divisor[shared.indices]
        return largest(shared, KEPT)

    step = max(1, COUNTS // max(1, n))
    parts = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    out: csr_matrix = vstack(list(ordered_map(rows, parts)), format="csr", dtype=np.float32)
    out.sort_indices()
    return out


def without_extreme_items(matrix: csr_matrix, kept: npt.NDArray[np.bool_]) -> csr_matrix:
    """The matrix with the columns of the other items empty."""
    out = matrix.copy()
    out.data[~kept[out.indices]] = 0
    out.eliminate_zeros()
    return out
