"""The offline metrics of a solution version, by Amazon Personalize's formulas.

Source: Amazon Personalize developer guide, "Evaluating an Amazon Personalize solution version with
metrics".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

DEPTHS = (5, 10, 25)
DEEPEST = max(DEPTHS)


def reciprocal_rank(hits: Bool) -> Float64:
    """(users,): 1 / the position of the first hit in each row of (users, K), 0 without one."""
    return np.where(hits.any(axis=1), 1.0 / (1 + hits.argmax(axis=1)), 0.0)


def ndcg(hits: Bool, relevant: Int64) -> Float64:
    """(users,): gain 1 / log(1 + position) of each hit, over that of the best possible list.

    `hits` is (users, K); `relevant` (users,) counts the items that could have been hit, >= 1.
    """
    depth = hits.shape[1]
    gains = 1.0 / np.log2(2 + np.arange(depth))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(relevant, depth)]
    return np.asarray(hits @ gains / ideal)


def precision(hits: Bool) -> Float64:
    """(users,): hits in each row of (users, K), over K."""
    return np.asarray(hits.mean(axis=1))


def summary(hits: Bool, relevant: Int64, recommended: Int32, n_items: int) -> dict[str, float]:
    """GetSolutionMetrics' numbers for recommendations to users held out.

    `hits` and `recommended` are (users, 25), best first, the latter -1 where a list is short;
    `coverage` is the share of all items that were recommended to anyone.
    """
    distinct = np.unique(recommended[recommended >= 0]).size
    out = {"coverage": distinct / n_items if n_items else 0.0}
    out[f"mean_reciprocal_rank_at_{DEEPEST}"] = _mean(reciprocal_rank(hits))
    for depth in DEPTHS:
        at = hits[:, :depth]
        out[f"normalized_discounted_cumulative_gain_at_{depth}"] = _mean(ndcg(at, relevant))
        out[f"precision_at_{depth}"] = _mean(precision(at))
    return out


def segment_summary(hits: Int64, actual: Int64, known: int, n_items: int) -> dict[str, float]:
    """GetSolutionMetrics' numbers for segments of the likeliest 1 % of the users.

    Each item that somebody met in the test set has (items,) `hits`, the users of its segment who
    did, and `actual`, all who did, >= 1. Both metrics are means over these items. `known` of
    `n_items` items can be asked for.
    """
    return {
        "coverage": known / n_items if n_items else 0.0,
        "hits_at_1_percent": _mean(hits.astype(np.float64)),
        "recall_at_1_percent": _mean(hits / actual),
    }


def _mean(values: Float64) -> float:
    return float(values.mean()) if len(values) else 0.0
