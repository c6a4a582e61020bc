"""How well scores of components, and blends of them, rank the items that held-out users chose next.

Scoring costs most, so the scores of a component are kept for several questions. A blend is searched
for among the best items of each component only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from .components import ItemItemScorer, Scorer
from .evaluation import MAX_DEPTH, Split, add_earlier_cutoffs, ndcg_of_lists
from .interactions import Float32, Float64, Histories, History, Ids, Int32, Int64
from .ranking import top_k
from .threads import ordered_map

Bool = npt.NDArray[np.bool_]
Weights = Mapping[str, float]  # by name of the component
Key = tuple[str, float]  # name and recency exponent of a component

MAX_USERS = 2_000  # enough to tell two models apart, and cheap compared with training
# Users in a chunk, and the most scores of a chunk, so that it has fewer users of a large catalogue:
# several arrays of this size are in use on each core.
CHUNK = 64
CHUNK_SCORES = 4 << 20
KEPT_BYTES = 256 << 20
# Items of each component that a blend is searched for among, for each user. Hardly another item
# reaches the first 25 of a blend.
CANDIDATES = 60


@dataclass(frozen=True)
class ValidationSet:
    """Scorers that were trained without some users, with these users' histories and next items."""

    scorers: Mapping[str, Scorer]
    """The components by name."""

    inputs: History
    """The histories of the users."""

    truth: csr_matrix
    """(users, n_items), nonzero for relevant items."""

    users: Int32
    """(users,) user indices, by which a user is recognized in several sets."""

    def chunks(self, max_users: int = MAX_USERS) -> Iterator[tuple[History, csr_matrix]]:
        """The histories and relevant items of a few users at a time.

        max_users: with how many users it ends.
        """
        size = max(1, min(CHUNK, CHUNK_SCORES // max(1, self.truth.shape[1])))
        users = min(max_users, len(self.inputs.lengths))
        for start in range(0, users, size):
            stop = min(start + size, users)
            yield self.inputs.slice(start, stop), self.truth[start:stop]


def make_validation_set(
    scorers: Mapping[str, Scorer], held_out: Split, item_ids: Ids, *, include_seen: bool = False
) -> ValidationSet:
    """Up to MAX_USERS users of a split who have a history and relevant items.

    item_ids: the items of the scorers, in their order.
    include_seen: whether items of the history may be relevant too.
    """
    users = held_out.users
    if len(users) > MAX_USERS:
        users = users[np.linspace(0, len(users) - 1, MAX_USERS).astype(np.int64)]
    inputs = Histories(held_out.inputs, item_ids).of_users(users)
    truth = Histories(held_out.truth, item_ids).of_users(users).recency_weights(0.0)
    if not include_seen:
        truth = (truth - truth.multiply(inputs.seen)).tocsr()
        truth.eliminate_zeros()
    is_usable = (np.diff(truth.indptr) > 0) & (inputs.lengths > 0)
    inputs = Histories(held_out.inputs, item_ids).of_users(users[is_usable])
    return ValidationSet(scorers, inputs, truth[is_usable], users[is_usable])


def make_validation_sets(
    scorers: Mapping[str, Scorer], held_out: Split, item_ids: Ids
) -> list[ValidationSet]:
    """The validation set of a split. If its users are few, also those of earlier cutoffs."""
    return [make_validation_set(scorers, part, item_ids) for part in add_earlier_cutoffs(held_out)]


class ScoredUsers:
    """All users of some validation sets, with the scores of the components for them.

    The scores are kept while they fit into KEPT_BYTES, because several questions are asked of them.
    """

    def __init__(self, sets: Sequence[ValidationSet]) -> None:
        chunks_by_set = [
            [_Chunk(part.scorers, history, truth) for history, truth in part.chunks()]
            for part in sets
        ]
        self._chunks = list(chain(*chunks_by_set))
        self._chunks_of_one_set = next(chunks for chunks in chunks_by_set if chunks)
        self._free_bytes = KEPT_BYTES
        all_users = np.concatenate([part.users for part in sets])
        # (rows of all sets,): which user it is, from 0 on.
        _, self._user = np.unique(all_users, return_inverse=True)

    def ndcg(self, name: str, exponents: Sequence[float]) -> list[Float64]:
        """For each of the exponents, (users,) NDCG at 25 of a component, mean over the sets."""

        def measure(chunk: _Chunk) -> Float64:
            return np.stack([chunk.ndcg(scores) for scores in self._scores(chunk, name, exponents)])

        return self.by_user(ordered_map(measure, self._chunks))

    def by_user(self, values_by_chunk: Iterable[Float64]) -> list[Float64]:
        """For each row, the users' (users,) means over the sets.

        values_by_chunk: for each chunk (rows, users in the chunk).
        """
        occurrences = np.bincount(self._user)
        return [
            np.bincount(self._user, weights=values) / occurrences
            for values in np.concatenate(list(values_by_chunk), axis=1)
        ]

    def drop(self, name: str, exponents: Sequence[float]) -> None:
        """Free the scores with these exponents, which are not needed any more."""
        for chunk in self._chunks:
            for exponent in exponents:
                scores = chunk.kept_scores.pop((name, exponent), None)
                if scores is not None:
                    self._free_bytes += scores.nbytes

    def spread(self, name: str, exponent: float) -> float:
        """The standard deviation of a component's scores over the items, mean over users."""
        spreads = ordered_map(
            lambda chunk: self._scores(chunk, name, [exponent])[0].std(axis=1),
            self._chunks_of_one_set,
        )
        return float(np.concatenate(list(spreads)).mean()) or 1.0

    def candidates(self, keys: Sequence[Key]) -> list[Candidates]:
        """The best items of each of the components, chunk by chunk."""

        def find_candidates(chunk: _Chunk) -> Candidates:
            scores = {
                (name, exponent): self._scores(chunk, name, [exponent])[0]
                for name, exponent in keys
            }
            return chunk.candidates(scores)

        return list(ordered_map(find_candidates, self._chunks))

    def _scores(self, chunk: _Chunk, name: str, exponents: Sequence[float]) -> list[Float32]:
        """(users, n_items) of a component for each exponent. They must not be changed."""
        missing = [exponent for exponent in exponents if (name, exponent) not in chunk.kept_scores]
        new_scores = dict(zip(missing, chunk.scores(name, missing), strict=True)) if missing else {}
        for exponent, scores in new_scores.items():
            if self._free_bytes >= scores.nbytes:
                self._free_bytes -= scores.nbytes
                chunk.kept_scores[name, exponent] = scores
        return [
            new_scores[exponent] if exponent in new_scores else chunk.kept_scores[name, exponent]
            for exponent in exponents
        ]


class _Chunk:
    """A few users of a validation set, with the scores that are kept of them."""

    def __init__(self, scorers: Mapping[str, Scorer], history: History, truth: csr_matrix) -> None:
        self.kept_scores: dict[Key, Float32] = {}
        self._scorers, self._history, self._truth = scorers, history, truth
        self._seen = history.seen.nonzero()

    def scores(self, name: str, exponents: Sequence[float]) -> list[Float32]:
        """(users, n_items) of a component for each exponent."""
        scorer = self._scorers[name]
        if isinstance(scorer, ItemItemScorer):
            return scorer.scores(self._history, exponents)
        return [scorer.score(self._history, exponent) for exponent in exponents]

    def ndcg(self, scores: Float32) -> Float64:
        """(users,): NDCG at 25 with the scores."""
        is_relevant = self._truth.toarray() > 0
        return ndcg_of_lists(self._best(scores, MAX_DEPTH), is_relevant, is_relevant.sum(axis=1))

    def candidates(self, scores_by_key: Mapping[Key, Float32]) -> Candidates:
        """The best items of each component, in the order of all items."""
        is_best = np.zeros(self._truth.shape, dtype=bool)
        for scores in scores_by_key.values():
            items = self._best(scores, CANDIDATES)
            user, _ = np.nonzero(items >= 0)
            is_best[user, items[items >= 0]] = True
        user, item = np.nonzero(is_best)
        lengths = is_best.sum(axis=1)
        place = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        shape = len(lengths), int(lengths.max(initial=0))
        candidate_scores = {}
        for key, scores in scores_by_key.items():
            candidate_scores[key] = np.full(shape, -np.inf, dtype=np.float32)
            candidate_scores[key][user, place] = scores[user, item]
        is_relevant = np.zeros(shape, dtype=bool)
        truth = self._truth.toarray() > 0
        is_relevant[user, place] = truth[user, item]
        return Candidates(candidate_scores, is_relevant, truth.sum(axis=1))

    def _best(self, scores: Float32, count: int) -> Int32:
        """(users, count): the unseen items with the highest scores, best first; -1 pads.

        The scores are changed meanwhile, and are the same afterwards.
        """
        scores_of_seen = scores[self._seen]
        scores[self._seen] = -np.inf
        items = top_k(scores, count)
        scores[self._seen] = scores_of_seen
        return items


@dataclass(frozen=True)
class Candidates:
    """The items that a blend may put first for a few users."""

    scores: Mapping[Key, Float32]
    """(users, width) of each component; -inf pads."""

    is_relevant: Bool
    """(users, width) whether a candidate is relevant."""

    relevant: Int64
    """(users,) the number of relevant items, whether they are candidates or not."""

    def ndcg(self, blends: Sequence[Mapping[Key, float]]) -> Float64:
        """(blends, users): NDCG at 25 with the weighted sums of scores.

        blends: the weights of the components' scores.
        """
        users, width = self.is_relevant.shape
        scores = np.zeros((len(blends), users, width), dtype=np.float32)
        for blend, weights in zip(scores, blends, strict=True):
            for key, weight in weights.items():
                blend += np.float32(weight) * self.scores[key]
        items = top_k(scores.reshape(-1, width), MAX_DEPTH)
        is_relevant = np.tile(self.is_relevant, (len(blends), 1))
        relevant = np.tile(self.relevant, len(blends))
        return ndcg_of_lists(items, is_relevant, relevant).reshape(len(blends), users)
