"""Open-source models to compare with, and the grids of their options.

Each model is fitted on a matrix of ones, of shape (users, n_items), the most popular items first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np
import numpy.typing as npt
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix, diags, vstack

from batchrec_dagster.local_personalize.engine.data import (
    History,
    Ids,
    Int32,
    Interactions,
    order_by_popularity,
    read_histories,
)
from batchrec_dagster.local_personalize.engine.parallel import (
    count_cores,
    one_blas_thread,
    ordered_map,
)
from batchrec_dagster.local_personalize.engine.serve import top_k

Float32 = npt.NDArray[np.float32]
Options = Mapping[str, Any]
# A function from a history and the exponent of History.recency_weights to scores.
Score = Callable[[History, float], Float32]

PLAIN, RECENT = (0.0,), (0.3, 0.5, 0.7, 0.9, 1.2)
IALS, OWN_ITEMS = "iALS (implicit)", "own items, recent first"
# SLIST cuts a history before each interaction, into past and future. It uses this many interactions
# before and after the cut.
WINDOW = 20
NEAREST = 200  # candidate items of SLIM for each item


@dataclass(frozen=True)
class Family:
    """A kind of model and the grid of its options. The tuning tries all combinations."""

    fit: Callable[[csr_matrix, Options], Score]
    grid: Mapping[str, Sequence[Any]]
    recency: Sequence[float] = PLAIN
    needs: str | None = None  # a module outside of this project's dependencies


@dataclass(frozen=True)
class Peer:
    """A fitted model that recommends items to users."""

    item_ids: Ids
    scorer: Score
    recency: float

    def score(self, history: History, out: Float32 | None = None) -> Float32:
        """Return scores of shape (users, n_items)."""
        return self.scorer(history, self.recency)

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """Return the k items with the highest scores, of shape (users, k), the best first."""
        return top_k(scores, k)


def fit_family(family: Family, data: Interactions, options: Options) -> Callable[[float], Peer]:
    """Return a function from the recency exponent to the family's fitted model."""
    item_ids = data.item_ids[order_by_popularity(data)]
    matrix = read_histories(data, item_ids, np.unique(data.users)).recency_weights(0.0)
    score = family.fit(matrix, options)
    return lambda recency: Peer(item_ids, score, recency)


def fit_ials(matrix: csr_matrix, options: Options) -> Score:
    """Fit implicit-feedback matrix factorization (Hu, Koren, Volinsky 2008) by `implicit`."""
    with one_blas_thread():  # implicit runs its own threads and asks for a single BLAS thread
        model = AlternatingLeastSquares(
            iterations=15, random_state=0, num_threads=count_cores(), use_gpu=False, **options
        )
        model.fit(matrix, show_progress=False)

    def score(history: History, recency: float) -> Float32:
        weights = history.recency_weights(recency)
        factors = model.recalculate_user(np.arange(weights.shape[0]), weights)
        return np.asarray(factors @ model.item_factors.T, dtype=np.float32)

    return score


def fit_irspack(matrix: csr_matrix, options: Options) -> Score:
    """Fit irspack's iALS with regularization proportional to frequency (Rendle et al. 2022)."""
    from irspack import IALSRecommender

    model = IALSRecommender(matrix, n_threads=count_cores(), random_seed=0, **options)
    with one_blas_thread(), redirect_stdout(StringIO()):  # no progress bar
        model.learn()

    def score(history: History, recency: float) -> Float32:
        return np.asarray(
            model.get_score_cold_user(history.recency_weights(recency)), dtype=np.float32
        )

    return score


def fit_ease(matrix: csr_matrix, options: Options) -> Score:
    """Fit EASE (Steck 2019) and keep all its weights."""
    gram = (matrix.T @ matrix).toarray().astype(np.float32)
    gram[np.diag_indices_from(gram)] += options["regularization"]
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diagonal(inverse)
    np.fill_diagonal(weights, 0)
    return score_by_item(csr_matrix(weights))


def fit_knn(matrix: csr_matrix, options: Options) -> Score:
    """Fit item-kNN with cosine similarity (Sarwar 2001; Deshpande and Karypis 2004)."""
    return score_by_item(_find_nearest(matrix, options["neighbours"]).T.tocsr())


def fit_slim(matrix: csr_matrix, options: Options) -> Score:
    """Fit SLIM (Ning and Karypis 2011) on the nearest items (fsSLIM) by ElasticNet."""
    from sklearn.linear_model import ElasticNet

    near = _find_nearest(matrix, NEAREST)
    columns = matrix.tocsc()
    users = matrix.shape[0]
    whole = options["l1"] + options["l2"]

    def fit_weights(item: int) -> csr_matrix:
        neighbours = near.indices[near.indptr[item] : near.indptr[item + 1]]
        coefficients = np.zeros(0)
        if len(neighbours):
            model = ElasticNet(
                alpha=whole / users,
                l1_ratio=options["l1"] / whole,
                positive=True,
                fit_intercept=False,
                max_iter=300,
                tol=1e-3,
            )
            target = columns[:, [item]].toarray().ravel()
            coefficients = model.fit(columns[:, neighbours].toarray(order="F"), target).coef_
        place = (np.zeros(len(neighbours), np.int32), neighbours)
        return csr_matrix((coefficients.astype(np.float32), place), shape=(1, matrix.shape[1]))

    weights_by_target = vstack(list(ordered_map(fit_weights, range(matrix.shape[1]))), format="csr")
    weights_by_target.eliminate_zeros()
    return score_by_item(weights_by_target.T.tocsr())


def fit_slist(matrix: csr_matrix, options: Options) -> Score:
    """Fit SLIST (Choi et al., WWW 2021): which items follow within WINDOW, or occur together.

    The loss weighs co-occurrence by `share`, and order by 1 - `share`. Weights fall with the
    distance in a history by exp(-1 / `decay`).
    """
    n = matrix.shape[1]
    share = options["share"]
    regularization = options["regularization"]
    owner = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))[::-1]
    items = matrix.indices[::-1]  # from old to new, with a cut before each
    past, future = [], []
    for k in range(WINDOW):
        # These interactions are followed, k + 1 places later, by one of the same user.
        ahead = np.flatnonzero(owner[k + 1 :] == owner[: len(owner) - k - 1])
        weight = np.float32(np.exp(-k / options["decay"]))
        past.append((np.full(len(ahead), weight), ahead + k + 1, items[ahead]))  # value, cut, item
        cuts_with_past = np.flatnonzero(owner[1:] == owner[:-1]) + 1  # cuts with a past
        cuts_with_past = cuts_with_past[cuts_with_past + k < len(owner)]
        cuts_with_past = cuts_with_past[owner[cuts_with_past + k] == owner[cuts_with_past]]
        future.append(
            (np.full(len(cuts_with_past), weight), cuts_with_past, items[cuts_with_past + k])
        )

    def stack(parts: list[tuple[Any, ...]]) -> csr_matrix:
        value, cut, item = (np.concatenate(column) for column in zip(*parts, strict=True))
        return csr_matrix((value, (cut, item)), shape=(len(owner), n))

    before, after = stack(past), stack(future)
    joint_counts = (before.T @ before).toarray() * (1 - share)
    inverse = np.linalg.inv(
        share * (matrix.T @ matrix).toarray()
        + joint_counts
        + regularization * np.eye(n, dtype=np.float32)
    )
    difference = joint_counts - (before.T @ after).toarray() * (1 - share)
    difference[np.arange(n), np.arange(n)] += regularization
    weights = np.eye(n, dtype=np.float32) - (inverse @ difference).astype(np.float32)
    return lambda history, recency: np.asarray(history.recency_weights(recency) @ weights)


def fit_own_items(matrix: csr_matrix, options: Options) -> Score:
    """Fit a model that ranks a user's items by count and recency before popular items."""
    popularity = np.asarray(matrix.sum(axis=0)).ravel() / (1e6 * matrix.shape[0])

    def score(history: History, recency: float) -> Float32:
        out = np.tile(popularity.astype(np.float32), (len(history.lengths), 1))
        out[history.owners, history.items] += history.counts * (1 + history.ranks) ** -recency
        return out

    return score


def _find_nearest(matrix: csr_matrix, neighbours: int) -> csr_matrix:
    """Return the cosines of each item and its nearest neighbours, of shape (n_items, n_items).

    An item has more neighbours if several have the same cosine as the last one.
    """
    lengths = np.sqrt(np.maximum(np.diff(matrix.tocsc().indptr), 1))
    unit = (matrix @ diags(1 / lengths)).astype(np.float32).tocsr()
    near = (unit.T @ unit).tocsr()
    near.setdiag(0)
    near.eliminate_zeros()
    for row in range(near.shape[0]):
        part = near.data[near.indptr[row] : near.indptr[row + 1]]
        if len(part) > neighbours:
            part[part < np.partition(part, -neighbours)[-neighbours]] = 0
    near.eliminate_zeros()
    return near


def score_by_item(weights: csr_matrix) -> Score:
    """Return a function that multiplies histories by the weights.

    An interaction in a history counts (1 + rank)^-recency.
    """
    return lambda history, recency: (history.recency_weights(recency) @ weights).toarray()


REGULARIZATION = (20.0, 50.0, 100.0, 200.0, 400.0, 800.0)
NEIGHBOURS = (20, 50, 100, 200, 400)

FAMILIES: dict[str, Family] = {
    IALS: Family(
        fit_ials,
        {
            "factors": (32, 64, 128),
            "regularization": (1.0, 3.0, 10.0, 30.0, 100.0),
            "alpha": (1.0, 3.0, 10.0, 30.0),
        },
    ),
    "iALS (irspack)": Family(
        fit_irspack,
        {
            "n_components": (32, 64, 128),
            "alpha0": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
            "reg": (0.0001, 0.0003, 0.001, 0.003, 0.01),
        },
        needs="irspack",
    ),
    "EASE": Family(fit_ease, {"regularization": REGULARIZATION}),
    "EASE, recent first": Family(fit_ease, {"regularization": REGULARIZATION}, RECENT),
    "item-kNN": Family(fit_knn, {"neighbours": NEIGHBOURS}),
    "item-kNN, recent first": Family(fit_knn, {"neighbours": NEIGHBOURS}, RECENT),
    "SLIST": Family(
        fit_slist,
        {"share": (0.2, 0.8), "regularization": (10.0, 100.0, 1000.0), "decay": (2.0, 8.0)},
        RECENT,
    ),
    OWN_ITEMS: Family(fit_own_items, {}, (0.0, *RECENT)),
    "SLIM": Family(fit_slim, {"l1": (0.5, 2.0), "l2": (5.0, 50.0)}, needs="sklearn"),
}


def list_available() -> dict[str, Family]:
    """Return the families with an installed library, and print the missing libraries."""
    families = {}
    for name, family in FAMILIES.items():
        if family.needs and find_spec(family.needs) is None:
            print(f"skipped: {name}. To include it: pip install -r benchmarks/requirements.lock")
        else:
            families[name] = family
    return families
