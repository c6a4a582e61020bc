"""Selects which components a model blends, from their NDCG on held-out users.

A held-out tenth of a small data set is a few dozen users, where the best of many options wins by
luck. So the options are few, each choice has a default, and another option is taken only if it
beats the default by more than half a standard error of the users' paired differences. A blend must
beat its best component by a whole standard error. With few users, each is also evaluated at
earlier cutoffs of the history, which separates models about as well as more users would; standard
errors remain those of the users' means. Popularity is added last: it helps where histories say
little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning.components import (
    EASE,
    EASE_HIGH_REG,
    FACTORS,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
    ItemItemScorer,
    Scorer,
)
from batchrec_dagster.local_personalize.learning.evaluation import (
    MAX_DEPTH,
    Split,
    ndcg,
    with_earlier_cutoffs,
)
from batchrec_dagster.local_personalize.learning.interactions import Histories, History, Ids, Int32
from batchrec_dagster.local_personalize.learning.models import Repeats
from batchrec_dagster.local_personalize.learning.ranking import top_k
from batchrec_dagster.local_personalize.learning.threads import ordered_map

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Weights = Mapping[str, float]  # by name of the component

# The options for each component, the default first.
RECENCY_EXPONENTS: Mapping[str, Sequence[float]] = {
    EASE: (0.6, 0.3, 0.9, 1.2),
    EASE_HIGH_REG: (0.6, 0.3, 0.9, 1.2),
    SEQUENCE: (0.9, 0.3, 0.6, 1.2),
    SYMMETRIC_COOC: (0.9, 0.3, 0.6, 1.2),
    FACTORS: (0.6, 0.0, 0.3, 0.9),
}

# The options for a blend's weights, the default first; scores are scaled to the same spread.
BLEND_WEIGHTS: Sequence[Weights] = (
    {EASE: 0.35, SEQUENCE: 0.55, FACTORS: 0.1},
    {EASE: 0.4, SEQUENCE: 0.6},
    {EASE: 0.6, SEQUENCE: 0.4},
    {EASE: 0.2, SEQUENCE: 0.8},
    {EASE: 0.3, SEQUENCE: 0.4, FACTORS: 0.3},
    {EASE: 0.5, SEQUENCE: 0.25, FACTORS: 0.25},
    {EASE: 0.7, FACTORS: 0.3},
    {SEQUENCE: 0.6, FACTORS: 0.4},
    {SEQUENCE: 0.3, FACTORS: 0.7},
)

POPULARITY_WEIGHT = 0.6  # smaller weights did harm on data sets where they seemed to help

REPEAT_EXPONENTS = (0.6, 0.0, 0.3, 0.9)  # the default first
LEAST_REPEATS = 0.01  # share of the next interactions, below which repeats are not tried

MAX_USERS = 2_000  # enough to tell two models apart, and cheap compared with training
CHUNK = 64  # users
KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class Blend:
    """Which components a model uses: the recency exponent of each, and the weight of its scores."""

    recency_exponents: Weights
    weights: Weights
    ndcg: float  # at 25, mean over the users that it was selected on


@dataclass(frozen=True)
class ValidationSet:
    """Scorers that were trained without some users, with these users' histories and next items."""

    scorers: Mapping[str, Scorer]
    inputs: History
    truth: csr_matrix  # (users, n_items), nonzero for relevant items
    users: Int32  # (users,) user indices, to recognize a user in several sets

    def chunks(self) -> Iterator[tuple[History, csr_matrix]]:
        """The histories and relevant items of a few users at a time."""
        for start in range(0, len(self.inputs.lengths), CHUNK):
            stop = start + CHUNK
            yield self.inputs.slice(start, stop), self.truth[start:stop]


def validation_set(
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


def validation_sets(
    scorers: Mapping[str, Scorer], held_out: Split, item_ids: Ids
) -> list[ValidationSet]:
    """The validation set of a split; if its users are few, also those of earlier cutoffs."""
    return [validation_set(scorers, one, item_ids) for one in with_earlier_cutoffs(held_out)]


def select_blend(sets: Sequence[ValidationSet], *, recency: bool) -> Blend:
    """The exponents and weights to serve with; without `recency`, all exponents are 0."""
    names = [name for name in sets[0].scorers if name != POPULARITY]
    if not any(len(one.inputs.lengths) for one in sets):
        exponent = RECENCY_EXPONENTS[names[0]][0] if recency else 0.0
        return Blend({names[0]: exponent}, {names[0]: 1.0}, 0.0)
    chunks = _Chunks(sets)
    exponents, single = _select_exponents(chunks, names, recency)
    substitutes = {}
    if EASE_HIGH_REG in names:
        if _is_better(single[EASE], single[EASE_HIGH_REG], 0.5):
            names.remove(EASE_HIGH_REG)
        else:
            names.remove(EASE)
            substitutes = {EASE: EASE_HIGH_REG}
    best = max(names, key=lambda name: single[name].mean())
    if POPULARITY in sets[0].scorers:
        names.append(POPULARITY)
        exponents[POPULARITY] = 0.0
    scales = {name: 1 / chunks.spread(name, exponents[name]) for name in names}

    def evaluate(options: Sequence[Weights]) -> list[Float64]:
        blends = [
            {(name, exponents[name]): weight * scales[name] for name, weight in option.items()}
            for option in options
        ]
        return chunks.ndcg(lambda chunk: chunks.blends(chunk, blends))

    selected: Weights = {best: 1.0}
    score = single[best]
    options = [_substitute(option, substitutes) for option in BLEND_WEIGHTS]
    options = [option for option in options if set(option) <= set(names)]
    if options and SYMMETRIC_COOC in names:
        others = [_substitute(option, {SEQUENCE: SYMMETRIC_COOC}) for option in options]
        symmetric, forward = evaluate([others[0], options[0]])
        if _is_better(symmetric, forward, 0.5):
            options = others
    if options:
        scores = evaluate(options)
        at = _select(scores)
        if _is_better(scores[at], score):
            selected, score = options[at], scores[at]
    if POPULARITY in names:
        others_weight = 1 - POPULARITY_WEIGHT
        option = {name: others_weight * weight for name, weight in selected.items()}
        option[POPULARITY] = POPULARITY_WEIGHT
        [with_popularity] = evaluate([option])
        if _is_better(with_popularity, score, 0.5):
            selected, score = option, with_popularity
    return Blend(
        {name: exponents[name] for name in selected},
        {name: weight * scales[name] for name, weight in selected.items()},
        float(score.mean()),
    )


def select_repeats(score: Callable[[History], Float32], held_out: ValidationSet) -> Repeats | None:
    """The repeats with which lists of any items are better for the held-out users; None if none.

    `score` gives (users, n_items) logits. The relevant items include seen ones. Repeats must raise
    NDCG at 25 by more than a standard error of the users' paired differences.
    """
    seen = held_out.truth.multiply(held_out.inputs.seen)
    share = min(0.99, seen.nnz / max(1, held_out.truth.nnz))
    if share < LEAST_REPEATS:
        return None
    options = [Repeats(share, exponent) for exponent in REPEAT_EXPONENTS]

    def evaluate(part: tuple[History, csr_matrix]) -> Float64:
        """(1 + options, users): NDCG at 25 without repeats, then with each option."""
        history, truth = part
        is_relevant = truth.toarray() > 0
        logits = score(history)
        out = []
        for option in (None, *options):
            scores = logits.copy()
            if option is not None:
                option.add(scores, history)
            items = top_k(scores, MAX_DEPTH)
            hits = np.take_along_axis(is_relevant, np.maximum(items, 0), axis=1) & (items >= 0)
            out.append(ndcg(hits, is_relevant.sum(axis=1)))
        return np.stack(out)

    parts = list(ordered_map(evaluate, held_out.chunks()))
    without, *scores = np.concatenate(parts, axis=1)
    at = _select(scores)
    return options[at] if _is_better(scores[at], without) else None


def fit_temperature(score: Callable[[History], Float32], sets: Sequence[ValidationSet]) -> float:
    """The divisor of scores that makes the relevant items likeliest under a softmax.

    With it, softmax scores are about the probabilities that an item is next; 1 without users.
    """
    grid = np.geomspace(0.02, 5.0, 24)

    def likelihoods(chunk: tuple[History, csr_matrix]) -> Float64:
        history, truth = chunk
        scores = score(history)
        scores -= scores.max(axis=1, keepdims=True)
        user, item = truth.nonzero()
        logits = np.empty_like(scores)
        out = np.empty(len(grid))
        for i, value in enumerate(grid):
            np.divide(scores, np.float32(value), out=logits)
            of_truth = logits[user, item].astype(np.float64)
            np.exp(logits, out=logits)
            out[i] = (of_truth - np.log(logits.sum(axis=1)).astype(np.float64)[user]).sum()
        return out

    total = sum(
        ordered_map(likelihoods, chain(*(one.chunks() for one in sets))), np.zeros(len(grid))
    )
    return float(grid[total.argmax()]) if total.any() else 1.0


def _select_exponents(
    chunks: _Chunks, names: Sequence[str], recency: bool
) -> tuple[dict[str, float], dict[str, Float64]]:
    """The recency exponent of each component, and the users' NDCG with it alone."""
    exponents, single = {}, {}
    for name in names:
        options = RECENCY_EXPONENTS[name] if recency else (0.0,)
        scores = chunks.ndcg(partial(chunks.scores, name=name, exponents=options))
        at = _select(scores)
        exponents[name], single[name] = options[at], scores[at]
        chunks.drop(name, [option for option in options if option != options[at]])
    return exponents, single


def _substitute(option: Weights, names: Mapping[str, str]) -> dict[str, float]:
    return {names.get(name, name): weight for name, weight in option.items()}


def _select(scores: Sequence[Float64]) -> int:
    """The index with the best mean, if better than the first by half a standard error; else 0."""
    best = max(range(len(scores)), key=lambda i: scores[i].mean())
    return best if _is_better(scores[best], scores[0], 0.5) else 0


def _is_better(ours: Float64, theirs: Float64, errors: float = 1.0) -> bool:
    """Whether the mean paired difference exceeds so many of its standard errors."""
    difference = ours - theirs
    if len(difference) < 2:
        return False
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() > errors * error)


class _Chunk:
    """A few users of a validation set, with the scores that are kept."""

    def __init__(self, scorers: Mapping[str, Scorer], history: History, truth: csr_matrix) -> None:
        self.scorers, self.history, self.truth = scorers, history, truth
        self.kept: dict[tuple[str, float], Float32] = {}

    def scores(self, name: str, exponents: Sequence[float]) -> list[Float32]:
        """(users, n_items) of a component for each exponent."""
        scorer = self.scorers[name]
        if isinstance(scorer, ItemItemScorer):
            return scorer.scores(self.history, exponents)
        return [scorer.score(self.history, exponent) for exponent in exponents]

    def ndcg(self, scored: Iterable[Float32]) -> Float64:
        """(scores, users): NDCG at 25 with each of the scores."""
        seen = self.history.recency_weights(0.0).nonzero()
        is_relevant = self.truth.toarray() > 0
        relevant = is_relevant.sum(axis=1)
        out = []
        for scores in scored:
            of_seen = scores[seen]
            scores[seen] = -np.inf
            items = top_k(scores, MAX_DEPTH)
            scores[seen] = of_seen
            hits = np.take_along_axis(is_relevant, np.maximum(items, 0), axis=1) & (items >= 0)
            out.append(ndcg(hits, relevant))
        return np.stack(out)


class _Chunks:
    """All users of the validation sets. The scores of components are kept while they fit into
    KEPT_BYTES: several questions are asked of them."""

    def __init__(self, sets: Sequence[ValidationSet]) -> None:
        parts = [[_Chunk(one.scorers, *part) for part in one.chunks()] for one in sets]
        self._chunks = list(chain(*parts))
        self._of_one_set = next(part for part in parts if part)
        self._room = KEPT_BYTES
        _, self._user = np.unique(np.concatenate([one.users for one in sets]), return_inverse=True)

    def ndcg(self, scored: Callable[[_Chunk], Iterable[Float32]]) -> list[Float64]:
        """For each of the scores that `scored` makes, (users,) NDCG at 25, mean over the sets."""
        measured = ordered_map(lambda chunk: chunk.ndcg(scored(chunk)), self._chunks)
        times = np.bincount(self._user)
        return [
            np.bincount(self._user, weights=values) / times
            for values in np.concatenate(list(measured), axis=1)
        ]

    def scores(self, chunk: _Chunk, name: str, exponents: Sequence[float]) -> list[Float32]:
        """(users, n_items) of a component for each exponent, to be left as they are."""
        missing = [each for each in exponents if (name, each) not in chunk.kept]
        found = dict(zip(missing, chunk.scores(name, missing), strict=True)) if missing else {}
        for exponent, scores in found.items():
            if self._room >= scores.nbytes:
                self._room -= scores.nbytes
                chunk.kept[name, exponent] = scores
        return [found[each] if each in found else chunk.kept[name, each] for each in exponents]

    def drop(self, name: str, exponents: Sequence[float]) -> None:
        """Make room: the scores with these exponents are not asked for again."""
        for chunk, exponent in product(self._chunks, exponents):
            if (scores := chunk.kept.pop((name, exponent), None)) is not None:
                self._room += scores.nbytes

    def spread(self, name: str, exponent: float) -> float:
        """The standard deviation of a component's scores over the items, mean over users."""
        spreads = ordered_map(
            lambda chunk: self.scores(chunk, name, [exponent])[0].std(axis=1), self._of_one_set
        )
        return float(np.concatenate(list(spreads)).mean()) or 1.0

    def blends(
        self, chunk: _Chunk, options: Sequence[Mapping[tuple[str, float], float]]
    ) -> Iterator[Float32]:
        """The sums of each option {(component, exponent): factor}."""
        for option in options:
            scores = np.zeros(chunk.truth.shape, dtype=np.float32)
            for (name, exponent), factor in option.items():
                scores += np.float32(factor) * self.scores(chunk, name, [exponent])[0]
            yield scores
