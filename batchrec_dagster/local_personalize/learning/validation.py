"""How well scores of components, and blends of them, rank the items that held-out users chose next.

Scoring costs most, so the scores of a component are kept for several questions, and a blend is
looked for among the best items of each component only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product

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
CHUNK = 64  # users
CHUNK_SCORES = 4 << 20  # of a large catalogue fewer users: several such arrays are in use per core
KEPT_BYTES = 256 << 20
CANDIDATES = 60  # of each component, for a user; hardly another item reaches a blend's first 25


@dataclass(frozen=True)
class ValidationSet:
    """Scorers that were trained without some users, with these users' histories and next items."""

    scorers: Mapping[str, Scorer]
    inputs: History
    truth: csr_matrix  # (users, n_items), nonzero for relevant items
    users: Int32  # (users,) user indices, to recognize a user in several sets

    def chunks(self, most: int = MAX_USERS) -> Iterator[tuple[History, csr_matrix]]:
        """The histories and relevant items of a few users at a time, of so many at most."""
        size = max(1, min(CHUNK, CHUNK_SCORES // max(1, self.truth.shape[1])))
        users = min(most, len(self.inputs.lengths))
        for start in range(0, users, size):
            stop = min(start + size, users)
            yield self.inputs.slice(start, stop), self.truth[start:stop]


def make_validation_set(
    scorers: Mapping[str, Scorer], held_out: Split, item_ids: Ids, *, include_seen: bool = False
) -> ValidationSet:
    """Up to MAX_USERS users of a split who have a history and relevant items.

    With `include_seen`, items of the history may be relevant too.
    """
    users = held_out.users
    if len(users) > MAX_USERS:
        users = users[np.linspace(0, len(users) - 1, MAX_USERS).astype(np.int64)]
    inputs = Histories(held_out.inputs, item_ids).of_users(users)
    truth = Histories(held_out.truth, item_ids).of_users(users).recency_weights(0.0)
    if not include_seen:
        truth = (truth - truth.multiply(inputs.seen)).tocsr()
        truth.eliminate_zeros()
    some = (np.diff(truth.indptr) > 0) & (inputs.lengths > 0)
    inputs = Histories(held_out.inputs, item_ids).of_users(users[some])
    return ValidationSet(scorers, inputs, truth[some], users[some])


def make_validation_sets(
    scorers: Mapping[str, Scorer], held_out: Split, item_ids: Ids
) -> list[ValidationSet]:
    """The validation set of a split; if its users are few, also those of earlier cutoffs."""
    return [make_validation_set(scorers, one, item_ids) for one in add_earlier_cutoffs(held_out)]


class ScoredUsers:
    """All users of the validation sets. The scores of components are kept while they fit into
    KEPT_BYTES: several questions are asked of them."""

    def __init__(self, sets: Sequence[ValidationSet]) -> None:
        parts = [[_Chunk(one.scorers, *part) for part in one.chunks()] for one in sets]
        self._chunks = list(chain(*parts))
        self._of_one_set = next(part for part in parts if part)
        self._room = KEPT_BYTES
        _, self._user = np.unique(np.concatenate([one.users for one in sets]), return_inverse=True)

    def ndcg(self, name: str, exponents: Sequence[float]) -> list[Float64]:
        """For each of the exponents, (users,) NDCG at 25 of a component, mean over the sets."""

        def measured(chunk: _Chunk) -> Float64:
            return np.stack([chunk.ndcg(each) for each in self._scores(chunk, name, exponents)])

        return self.by_user(ordered_map(measured, self._chunks))

    def by_user(self, measured: Iterable[Float64]) -> list[Float64]:
        """The (users,) means over the sets of each row, from (rows, users) of each chunk."""
        times = np.bincount(self._user)
        return [
            np.bincount(self._user, weights=values) / times
            for values in np.concatenate(list(measured), axis=1)
        ]

    def drop(self, name: str, exponents: Sequence[float]) -> None:
        """Make room: the scores with these exponents are not asked for again."""
        for chunk, exponent in product(self._chunks, exponents):
            if (scores := chunk.kept.pop((name, exponent), None)) is not None:
                self._room += scores.nbytes

    def spread(self, name: str, exponent: float) -> float:
        """The standard deviation of a component's scores over the items, mean over users."""
        spreads = ordered_map(
            lambda chunk: self._scores(chunk, name, [exponent])[0].std(axis=1), self._of_one_set
        )
        return float(np.concatenate(list(spreads)).mean()) or 1.0

    def candidates(self, keys: Sequence[Key]) -> list[Candidates]:
        """The best items of each of the components, chunk by chunk."""

        def of(chunk: _Chunk) -> Candidates:
            return chunk.candidates(
                {(name, each): self._scores(chunk, name, [each])[0] for name, each in keys}
            )

        return list(ordered_map(of, self._chunks))

    def _scores(self, chunk: _Chunk, name: str, exponents: Sequence[float]) -> list[Float32]:
        """(users, n_items) of a component for each exponent, to be left as they are."""
        missing = [each for each in exponents if (name, each) not in chunk.kept]
        found = dict(zip(missing, chunk.scores(name, missing), strict=True)) if missing else {}
        for exponent, scores in found.items():
            if self._room >= scores.nbytes:
                self._room -= scores.nbytes
                chunk.kept[name, exponent] = scores
        return [found[each] if each in found else chunk.kept[name, each] for each in exponents]


class _Chunk:
    """A few users of a validation set, with the scores that are kept."""

    def __init__(self, scorers: Mapping[str, Scorer], history: History, truth: csr_matrix) -> None:
        self.kept: dict[Key, Float32] = {}
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

    def candidates(self, scored: Mapping[Key, Float32]) -> Candidates:
        """The best items of each component, in the order of all items."""
        is_best = np.zeros(self._truth.shape, dtype=bool)
        for scores in scored.values():
            items = self._best(scores, CANDIDATES)
            user, _ = np.nonzero(items >= 0)
            is_best[user, items[items >= 0]] = True
        user, item = np.nonzero(is_best)
        lengths = is_best.sum(axis=1)
        place = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        shape = len(lengths), int(lengths.max(initial=0))
        of_best = {key: np.full(shape, -np.inf, dtype=np.float32) for key in scored}
        for key, scores in scored.items():
            of_best[key][user, place] = scores[user, item]
        is_relevant = np.zeros(shape, dtype=bool)
        truth = self._truth.toarray() > 0
        is_relevant[user, place] = truth[user, item]
        return Candidates(of_best, is_relevant, truth.sum(axis=1))

    def _best(self, scores: Float32, count: int) -> Int32:
        """(users, count): the unseen items of the highest scores; -1 pads."""
        of_seen = scores[self._seen]
        scores[self._seen] = -np.inf
        items = top_k(scores, count)
        scores[self._seen] = of_seen
        return items


@dataclass(frozen=True)
class Candidates:
    """The items that a blend may put first for a few users."""

    scores: Mapping[Key, Float32]  # (users, width) of each component; -inf pads
    is_relevant: Bool  # (users, width)
    relevant: Int64  # (users,) relevant items, candidates or not

    def ndcg(self, blends: Sequence[Mapping[Key, float]]) -> Float64:
        """(blends, users): NDCG at 25 with the weighted sums of scores."""
        users, width = self.is_relevant.shape
        scores = np.zeros((len(blends), users, width), dtype=np.float32)
        for blend, weights in zip(scores, blends, strict=True):
            for key, weight in weights.items():
                blend += np.float32(weight) * self.scores[key]
        items = top_k(scores.reshape(-1, width), MAX_DEPTH)
        is_relevant = np.tile(self.is_relevant, (len(blends), 1))
        relevant = np.tile(self.relevant, len(blends))
        return ndcg_of_lists(items, is_relevant, relevant).reshape(len(blends), users)
