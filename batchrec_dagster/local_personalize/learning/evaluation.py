"""Amazon Personalize's split of the data into training, input and truth, and its offline metrics.

Source: developer guide, "Evaluating a solution version with metrics": train on 90 % of the users;
of the other 10 %, the oldest 90 % of each history is the input and the newest 10 % the truth. For
user segmentation, the oldest 80 % of each history are trained on and the newest 20 % are the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.split import choose_users, hash_ids, mark_inputs, order_rows

from .interactions import Float64, Histories, Ids, Int32, Int64, Interactions, find_positions
from .segmentation import SegmentationModel
from .serving import UserModel, exclude_entries

SEGMENT_INPUT_SHARE = 0.8  # of each history
EARLIER_CUTOFFS = (0.8, 0.7, 0.6, 0.5)  # shares of a history
MIN_QUERIES = 400  # pairs of a user and a cutoff to select a model on, if there are cutoffs enough
MAX_SEGMENT_USERS = 10_000_000  # in all segments of an evaluation

Bool = npt.NDArray[np.bool_]

DEPTHS = (5, 10, 25)
MAX_DEPTH = max(DEPTHS)


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of rows over the same ids.

    Interactions of a held-out user at the same second are ordered by `personalize/split.py`.
    """

    train: Interactions
    """The interactions to train on."""

    inputs: Interactions
    """The older part of the held-out users' histories, which recommendations are made from."""

    truth: Interactions
    """The newer part of them, which recommendations are compared with."""

    users: Int32
    """(held out,) sorted indices of the users."""


def split(interactions: Interactions, next_share: float = 0.0) -> Split | None:
    """Hold out the users of `personalize/split.py`, who have at least two interactions each.

    None when nobody is held out, or no user would be left to train on.

    next_share: of `choose_users`, for a second, disjoint split.
    """
    lengths = np.diff(interactions.starts)
    user_ids = pl.Series(interactions.user_ids.tolist(), dtype=pl.String)
    is_held_out = choose_users(user_ids, lengths, next_share)
    if not is_held_out.any() or np.count_nonzero(lengths) <= is_held_out.sum():
        return None
    return split_users(interactions, np.flatnonzero(is_held_out).astype(np.int32))


def split_users(interactions: Interactions, users: Int32) -> Split:
    """Hold out the users with these sorted indices."""
    is_held_out_user = np.zeros(len(interactions.user_ids), dtype=bool)
    is_held_out_user[users] = True
    is_held_out = is_held_out_user[interactions.users]
    rows = interactions.filter(is_held_out)
    user_hashes, item_hashes = (
        hash_ids(pl.Series(ids.tolist(), dtype=pl.String))
        for ids in (interactions.user_ids, interactions.item_ids)
    )
    ordered = rows.filter(
        order_rows(rows.users, rows.timestamps, user_hashes[rows.users], item_hashes[rows.items])
    )
    is_input = mark_inputs(np.diff(ordered.starts))
    return Split(
        train=interactions.filter(~is_held_out),
        inputs=ordered.filter(is_input),
        truth=ordered.filter(~is_input),
        users=users,
    )


def split_histories(interactions: Interactions) -> Split | None:
    """The split for segmentation: train on, and take as input, the oldest 80 % of each history.

    The users of the split have interactions in both parts. None when no user has.
    """
    is_input = _is_oldest(interactions, SEGMENT_INPUT_SHARE)
    train, truth = interactions.filter(is_input), interactions.filter(~is_input)
    users = np.intersect1d(train.users, truth.users).astype(np.int32)
    return Split(train, train, truth, users) if len(users) else None


def add_earlier_cutoffs(held_out: Split) -> list[Split]:
    """The split, and if its users are few, the same users cut off earlier in their history.

    That tells models apart about as well as more users would.
    """
    more_cutoffs = -(-MIN_QUERIES // len(held_out.users)) - 1
    shares = EARLIER_CUTOFFS[:more_cutoffs]
    return [held_out, *(cut_off_earlier(held_out, share) for share in shares)]


def cut_off_earlier(held_out: Split, share: float) -> Split:
    """The same users at an earlier time.

    The next tenth of each history after the input is the truth, but at least one interaction.

    share: the oldest part of each history that is the input, 0.8 at most.
    """
    data = held_out.inputs
    lengths = np.diff(data.starts) + np.diff(held_out.truth.starts)
    input_ends = np.floor(share * lengths)
    truth_ends = input_ends + np.maximum(1, np.floor(0.1 * lengths))
    place = np.arange(len(data)) - data.starts[data.users]
    is_input = place < input_ends[data.users]
    is_truth = ~is_input & (place < truth_ends[data.users])
    return Split(held_out.train, data.filter(is_input), data.filter(is_truth), held_out.users)


def _is_oldest(interactions: Interactions, share: float) -> npt.NDArray[np.bool_]:
    """(n,): whether a row is in the oldest share of its user's history, rounded down."""
    place = np.arange(len(interactions)) - interactions.starts[interactions.users]
    ends = np.floor(share * np.diff(interactions.starts)).astype(np.int64)
    return np.asarray(place < ends[interactions.users])


@dataclass(frozen=True)
class Evaluation:
    """A model's lists for held-out users, compared with what these users chose next."""

    hits: Bool
    """(users, 25) whether the item at that position is relevant."""

    relevant: Int64
    """(users,) how many items are relevant, at least 1."""

    recommended: Int32
    """(users, 25) item indices, best first; -1 pads."""

    users: Int32
    """(users,) their indices in the interactions."""

    chosen: csr_matrix
    """(users, n_items), nonzero for relevant items."""

    item_ids: Ids
    """(n_items,) the model's items."""

    def summary(self) -> dict[str, float]:
        """The metrics of GetSolutionMetrics; all 0 without users.

        `coverage` is the share of all items that were recommended to at least one user.
        """
        distinct = np.unique(self.recommended[self.recommended >= 0]).size
        n_items = len(self.item_ids)
        coverage = distinct / n_items if n_items else 0.0
        return {"coverage": coverage, **measure_ranks(self.hits, self.relevant)}

    def ndcg(self) -> Float64:
        """(users,): NDCG at 25 of each user, for paired comparisons of models."""
        return ndcg(self.hits, self.relevant)


def measure_ranks(hits: Bool, relevant: Int64) -> dict[str, float]:
    """The metrics of GetSolutionMetrics that follow from the hits; all 0 without users.

    hits: (users, 25).
    relevant: (users,) how many items are relevant, at least 1.
    """
    metrics = {f"mean_reciprocal_rank_at_{MAX_DEPTH}": mean(reciprocal_rank(hits))}
    for depth in DEPTHS:
        first_hits = hits[:, :depth]
        metrics[f"normalized_discounted_cumulative_gain_at_{depth}"] = mean(
            ndcg(first_hits, relevant)
        )
        metrics[f"precision_at_{depth}"] = mean(precision(first_hits))
    return metrics


def evaluate(model: UserModel, held_out: Split, *, include_seen: bool = False) -> Evaluation:
    """Recommend 25 items to each held-out user and look them up in the user's held-out rows.

    Users without a relevant item are left out.

    include_seen: whether items of the input are recommended, and relevant, too.
    """

    def item_matrix(rows: Interactions) -> csr_matrix:
        """(held out, n_items) float32: the items of each user."""
        history = Histories(rows, model.item_ids).of_users(held_out.users)
        return history.seen.astype(np.float32)

    seen, truth = item_matrix(held_out.inputs), item_matrix(held_out.truth)
    if not include_seen:
        truth = (truth - truth.multiply(seen)).tocsr()
        truth.eliminate_zeros()
    ids = held_out.inputs.user_ids[held_out.users]
    exclude = None if include_seen else exclude_entries(seen)
    lists = model.recommend(list(ids), held_out.inputs, MAX_DEPTH, exclude=exclude)
    recommended = np.concatenate([chunk.items for chunk in lists])
    relevant = np.diff(truth.indptr).astype(np.int64)
    rows = np.arange(len(ids))[:, None]
    hits = np.asarray(truth[rows, np.maximum(recommended, 0)].todense() > 0) & (recommended >= 0)
    is_tested = relevant > 0
    hits, relevant, recommended = hits[is_tested], relevant[is_tested], recommended[is_tested]
    chosen = truth[is_tested]
    users = held_out.users[is_tested]
    return Evaluation(hits, relevant, recommended, users, chosen, model.item_ids)


def reciprocal_rank(hits: Bool) -> Float64:
    """(users,): 1 / the position of the first hit in each list, 0 without a hit.

    hits: (users, K).
    """
    return np.where(hits.any(axis=1), 1.0 / (1 + hits.argmax(axis=1)), 0.0)


def ndcg(hits: Bool, relevant: Int64) -> Float64:
    """(users,): the gain 1 / log2(1 + position) of all hits, over that of the best possible list.

    hits: (users, K).
    relevant: (users,) how many items are relevant, at least 1.
    """
    depth = hits.shape[1]
    gains = 1.0 / np.log2(2 + np.arange(depth))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(relevant, depth)]
    return np.asarray(hits @ gains / ideal)


def ndcg_of_lists(items: Int32, is_relevant: Bool, relevant: Int64) -> Float64:
    """(lists,): the NDCG of lists of items.

    items: (lists, K) item indices, best first; -1 pads.
    is_relevant: (lists, n_items).
    relevant: (lists,) how many items are relevant, at least 1.
    """
    hits = np.take_along_axis(is_relevant, np.maximum(items, 0), axis=1) & (items >= 0)
    return ndcg(hits, relevant)


def precision(hits: Bool) -> Float64:
    """(users,): the number of hits in each list, over K.

    hits: (users, K).
    """
    return np.asarray(hits.mean(axis=1))


def mean(values: Float64) -> float:
    """The mean of the values; 0 if there are none."""
    return float(values.mean()) if len(values) else 0.0


def evaluate_segments(model: SegmentationModel, held_out: Split) -> dict[str, float]:
    """The metrics of GetSolutionMetrics: segments of the likeliest 1 % of users.

    There is a segment for each item, or for each attribute of items if the interactions have
    attributes, as a segment job has one for each line. Every user with a held-out interaction with
    the item, or with an item of the attribute, counts, also one who had it before: a segment job
    would have answered the same. Of very many segments, an even sample is measured.
    """
    data = held_out.truth
    n_users = len(data.user_ids)
    size = -(-n_users // 100)
    positions = find_positions(model.item_ids, data.item_ids)
    is_trained = held_out.train.item_counts > 0
    queries = _list_queries(data, positions, is_trained | (data.item_counts > 0))
    ones = np.ones(len(data), np.float32)
    shape = len(data.item_ids), n_users
    actual = (queries @ csr_matrix((ones, (data.items, data.users)), shape=shape)).tocsr()
    has_known_items = queries @ (positions >= 0) > 0
    measured = np.flatnonzero(has_known_items & (np.diff(actual.indptr) > 0))
    max_queries = max(1, MAX_SEGMENT_USERS // size)
    if len(measured) > max_queries:
        measured = measured[np.linspace(0, len(measured) - 1, max_queries).astype(np.int64)]
    answered = queries[measured]
    item_lists = np.split(positions[answered.indices], answered.indptr[1:-1])
    known_items = [items[items >= 0] for items in item_lists[: len(measured)]]
    segments = model.segment(known_items, held_out.inputs, size)
    actual = actual[measured]
    actual_rows = np.repeat(np.arange(len(measured)), np.diff(actual.indptr))
    predicted_rows = np.repeat(np.arange(len(measured)), [len(segment) for segment in segments])
    predicted = predicted_rows * n_users + np.concatenate([*segments, np.zeros(0, np.int32)])
    is_hit = np.isin(predicted, actual_rows * n_users + actual.indices)
    return segment_metrics(
        np.bincount(predicted_rows[is_hit], minlength=len(measured)),
        np.diff(actual.indptr).astype(np.int64),
        int(np.count_nonzero(queries @ is_trained)),
        queries.shape[0],
    )


def _list_queries(data: Interactions, positions: Int32, is_item: Bool) -> csr_matrix:
    """(queries, n_items) float32: 1 for the items that each segment is for.

    positions: (n_items,) the items' positions in the model, -1 for those that it does not know.
    is_item: (n_items,) which of them have a segment, if there are no attributes.
    """
    n = len(data.item_ids)
    if data.attributes is None:
        order = np.argsort(positions, kind="stable")
        chosen = order[is_item[order]]
        ones = np.ones(len(chosen), np.float32)
        return csr_matrix((ones, (np.arange(len(chosen)), chosen)), shape=(len(chosen), n))
    columns = find_positions(data.item_ids, data.attributes.item_ids)
    entries = data.attributes.matrix.tocoo()
    is_known = columns[entries.col] >= 0
    places = entries.row[is_known], columns[entries.col[is_known]]
    return csr_matrix((entries.data[is_known], places), shape=(entries.shape[0], n))


def segment_metrics(
    hits: Int64, actual: Int64, answerable: int, n_queries: int
) -> dict[str, float]:
    """The metrics of GetSolutionMetrics. All but the coverage are means over the segments.

    Source: developer guide, "Evaluating a solution version with metrics", which defines hits and
    recall as averages, and says nothing about the coverage of segments.

    hits: (segments,) how many of each segment's users have one of its items in the truth.
    actual: (segments,) how many users have one of its items in the truth in all, at least 1.
    answerable: for how many of the `n_queries` items, or attributes, the training had interactions.
    """
    return {
        "coverage": answerable / n_queries if n_queries else 0.0,
        "hits_at_1_percent": mean(hits.astype(np.float64)),
        "recall_at_1_percent": mean(hits / actual),
    }
