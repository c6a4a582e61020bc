"""Selects how components are blended, from their NDCG for tested users.

Few users are tested of small data, where the best of many options wins by luck. So the options are
few. The recency exponents of co-occurrence and factors are those that are best together. The
weights are the mean of all options that the best one does not beat by a standard error: which of
them is the best is chance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from .data import Bool, Float32, Float64, History, Int32
from .evaluate import DEPTH, Tested, measure_ndcg
from .parallel import ordered_map
from .serve import logsumexp, split_requests, top_k

# Names of components, as in saved models and logs.
SEQUENCE = "sequence"  # what follows an item
COOCCURRENCE = "cooccurrence"  # what follows or precedes it
FACTORS = "factors"
FIRM_FACTORS = "firm-factors"  # with more regularization and confidence
POPULARITY = "popularity"
CONTENT = "content"  # the features of the Items dataset

COMPONENTS = (SEQUENCE, COOCCURRENCE, FACTORS, FIRM_FACTORS, POPULARITY, CONTENT)
# The recency exponents to try. Content has that of co-occurrence.
PAIR_EXPONENTS = (0.3, 0.6, 0.9, 1.2)
FACTOR_EXPONENTS = (0.0, 0.3, 0.6, 0.9)
DEFAULT_EXPONENT = 0.6  # with which kinds of factors are compared
FACTOR_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # the rest is co-occurrence
POPULARITY_SHARES = (0.0, 0.15, 0.3)
CONTENT_SHARES = (0.15, 0.3, 0.6)

MOST_USERS = 2_000
MOST_SCORES = 2 << 20  # of all users, so that fewer are tested of a large catalogue
MOST_ITEMS = 3_000  # the most popular ones, in what is selected by; more select no better
TEMPERATURE_USERS = 100
REPEAT_USERS = 400
LEAST_REPEATS = 0.01  # as a share of what users had next
REPEAT_EXPONENTS = (0.0, 0.3, 0.6, 0.9)

T = TypeVar("T")
Weights = Mapping[str, float]  # by name of the component


class Scorer(Protocol):
    """Scores all items from histories that are weighted by recency. All of them are dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """Add the weighted scores of all items to the (users, n_items) ones; higher is better.

        exponent: how much more the recent items weigh, see `History.recency_weights`.
        """


@dataclass(frozen=True)
class Blend:
    """Which components a model uses, and how."""

    weights: Weights
    """The weight of each component's scores."""

    exponents: Weights
    """The recency exponent of each component."""

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {weight:.2f} (recency {self.exponents[name]})"
            for name, weight in self.weights.items()
        )


def select_blend(scorers: Mapping[str, Scorer], tested: Tested, *, recency: bool) -> Blend:
    """The exponents, and the weights of scores of the same spread.

    scorers: POPULARITY and SEQUENCE, and perhaps the others.
    recency: whether recent items may weigh more. Otherwise all exponents are 0.
    """
    items = min(MOST_ITEMS, tested.history.n_items)
    tested = tested.take_items(items).take(max(1, min(MOST_USERS, MOST_SCORES // items)))
    seen = tested.history.keep_items(items)

    def score(name: str, exponent: float) -> Float32:
        scores = score_users(scorers[name], tested.history, exponent if recency else 0.0, items)
        scores /= measure_spread(scores)
        scores[seen.owners, seen.items] = -np.inf
        return scores

    factors = FACTORS
    if FIRM_FACTORS in scorers:
        kinds = (FACTORS, FIRM_FACTORS)
        ndcgs = [measure_users(score(name, DEFAULT_EXPONENT), tested) for name in kinds]
        factors = kinds[_find_best(ndcgs)]
    pair_exponent, factor_exponent = 0.0, 0.0
    if recency:
        score_factors = partial(score, factors) if factors in scorers else None
        pair_exponent, factor_exponent = _select_exponents(
            partial(score, SEQUENCE), score_factors, tested
        )
    exponents = {
        SEQUENCE: pair_exponent,
        COOCCURRENCE: pair_exponent,
        factors: factor_exponent,
        POPULARITY: 0.0,
        CONTENT: pair_exponent,
    }
    scores = {name: score(name, exponents[name]) for name in exponents if name in scorers}

    def evaluate(options: Sequence[Weights]) -> list[Float64]:
        """For each option (users,) NDCG."""
        return list(
            ordered_map(lambda option: measure_users(_add_up(option, scores), tested), options)
        )

    options = [option for option in list_options(factors) if option.keys() <= scores.keys()]
    weights = _average(_keep_best(options, evaluate(options), 1.0))
    if CONTENT in scorers:
        with_content = [_mix_in(CONTENT, share, weights) for share in CONTENT_SHARES]
        without, *ndcgs = evaluate([weights, *with_content])
        best = _find_best(ndcgs)
        if is_better(ndcgs[best], without):
            weights = with_content[best]
    return Blend(weights, {name: exponents[name] for name in weights})


def _select_exponents(
    score_pairs: Callable[[float], Float32],
    score_factors: Callable[[float], Float32] | None,
    tested: Tested,
) -> tuple[float, float]:
    """The exponents of co-occurrence and of factors that are best together, in equal parts.

    They are the middle of all that may be the best.

    score_pairs, score_factors: give (users, items) scores of the same spread by exponent. Without
        factors the second is None.
    """
    by_factor_exponent = [np.zeros((1, 1), np.float32)]
    if score_factors is not None:
        by_factor_exponent = [score_factors(exponent) for exponent in FACTOR_EXPONENTS]
    numbers = list(product(range(len(PAIR_EXPONENTS)), range(len(by_factor_exponent))))
    ndcgs = []
    for exponent in PAIR_EXPONENTS:
        pair_scores = score_pairs(exponent)
        ndcgs += [measure_users(pair_scores + scores, tested) for scores in by_factor_exponent]
    pair, factor = np.rint(np.mean(_keep_best(numbers, ndcgs, 0.5), axis=0)).astype(int)
    return PAIR_EXPONENTS[pair], FACTOR_EXPONENTS[factor]


def _keep_best(options: Sequence[T], ndcgs: Sequence[Float64], errors: float) -> list[T]:
    """The options that the best one does not beat by this many standard errors."""
    best = ndcgs[_find_best(ndcgs)]
    return [
        option
        for option, ndcg in zip(options, ndcgs, strict=True)
        if not is_better(best, ndcg, errors)
    ]


def _find_best(ndcgs: Sequence[Float64]) -> int:
    """Which of the options has the highest mean of the users' NDCG."""
    return max(range(len(ndcgs)), key=lambda number: ndcgs[number].mean())


def list_options(factors: str) -> list[Weights]:
    """The weights to choose from.

    factors: the name of the factors to use.
    """
    options: list[Weights] = [{POPULARITY: 1.0}]
    for popularity in POPULARITY_SHARES:
        for share in FACTOR_SHARES:
            for name in (SEQUENCE, COOCCURRENCE) if share < 1 else (SEQUENCE,):
                option = {name: 1 - share, factors: share}
                options.append(_mix_in(POPULARITY, popularity, option))
    return options


def _mix_in(name: str, share: float, weights: Weights) -> Weights:
    """The weights with a share of another component, without those that are 0."""
    mixed = {other: (1 - share) * weight for other, weight in weights.items()} | {name: share}
    return {other: weight for other, weight in mixed.items() if weight}


def _average(options: Sequence[Weights]) -> Weights:
    """The mean of the options."""
    names = sorted(set(chain(*options)))
    return {name: sum(option.get(name, 0.0) for option in options) / len(options) for name in names}


def _add_up(weights: Weights, scores: Mapping[str, Float32]) -> Float32:
    """(users, n_items): the weighted sum of the components' scores."""
    first, *others = weights
    total = scores[first] * np.float32(weights[first])
    for name in others:
        total += scores[name] * np.float32(weights[name])
    return total


def score_users(
    scorer: Scorer, history: History, exponent: float, items: int | None = None
) -> Float32:
    """(users, items): the scores of the first items, or of all, chunk by chunk on all cores."""
    users, n_items = len(history.lengths), history.n_items
    wanted = np.empty((users, n_items if items is None else items), np.float32)

    def score(block: slice) -> None:
        scores = np.zeros((block.stop - block.start, n_items), np.float32)
        scorer.add(scores, history.of_users(block), exponent, 1.0)
        wanted[block] = scores[:, :items]

    deque(ordered_map(score, split_requests(users, n_items)), maxlen=0)
    return wanted


def measure_users(scores: Float32, tested: Tested) -> Float64:
    """(users,): NDCG at 25.

    scores: (users, n_items), -inf for the items that a user has had.
    """
    return measure_lists(top_k(scores, DEPTH), tested.is_relevant)


def measure_lists(items: Int32, is_relevant: Bool) -> Float64:
    """(users,): NDCG of lists.

    items: (users, k) best first; -1 pads.
    is_relevant: (users, n_items).
    """
    is_hit = np.take_along_axis(is_relevant, np.maximum(items, 0), axis=1) & (items >= 0)
    users, places = np.nonzero(is_hit)
    return measure_ndcg(users, places + 1, is_relevant.sum(axis=1), items.shape[1])


def measure_spread(scores: Float32) -> float:
    """The standard deviation of the scores over the items, mean over users."""
    return float(scores.std(axis=1).mean()) or 1.0


def is_better(ours: Float64, theirs: Float64, errors: float = 1.0) -> bool:
    """Whether our scores are better by this many standard errors of the mean difference.

    ours, theirs: (users,) the scores of the same users.
    """
    difference = ours - theirs
    if len(difference) < 2:
        return False
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() > errors * error)


def scale_blend(blend: Blend, scorers: Mapping[str, Scorer], tested: Tested) -> Blend:
    """The blend with weights of the scores as they are, so that their softmax gives probabilities.

    blend: its weights are of scores of the same spread.
    """
    tested = tested.take(TEMPERATURE_USERS)
    scores = {
        name: score_users(scorers[name], tested.history, blend.exponents[name])
        for name in blend.weights
    }
    weights = {
        name: weight / measure_spread(scores[name]) for name, weight in blend.weights.items()
    }
    temperature = fit_temperature(_add_up(weights, scores), tested)
    return Blend({name: weight / temperature for name, weight in weights.items()}, blend.exponents)


def fit_temperature(scores: Float32, tested: Tested) -> float:
    """The divisor of scores that makes what users had next likeliest under a softmax.

    scores: (users, n_items).
    """
    user, item = tested.truth.nonzero()
    temperatures = np.geomspace(0.02, 5.0, 24)

    def measure_likelihood(temperature: float) -> float:
        logits = scores / np.float32(temperature)
        return float((logits[user, item] - logsumexp(logits)[user, 0]).sum())

    likelihoods = list(ordered_map(measure_likelihood, temperatures))
    return float(temperatures[int(np.argmax(likelihoods))])


@dataclass(frozen=True)
class Repeats:
    """How likely the items of a history are to come again, as in groceries and music.

    An item's chance is in proportion to how often it occurred and to the weight of its events, and
    falls with the number of items since: Anderson et al., "The dynamics of repeat consumption" (WWW
    2014). It is added to that of the model, so the order of items that are new to a user does not
    depend on repeats.
    """

    share: float
    """The share of repeats in all interactions, more than 0 and less than 1."""

    exponent: float
    """The recency exponent, see `History.recency_weights`."""

    def add(self, logits: Float32, history: History) -> None:
        """Raise the (users, n_items) logits of the items of the histories, in place."""
        owners = history.owners
        chance = history.counts * history.recency_weights(self.exponent).data
        chance /= np.bincount(owners, weights=chance)[owners]
        odds = self.share / (1 - self.share)
        repeated = np.log(odds * chance) + logsumexp(logits)[owners, 0]
        logits[owners, history.items] = np.logaddexp(logits[owners, history.items], repeated)


def fit_repeats(score: Callable[[History], Float32], tested: Tested) -> Repeats | None:
    """The share of repeats in what users had next, and the exponent that ranks them best.

    None if they are few.

    score: gives (users, n_items) logits.
    """
    share = tested.repeated.nnz / max(1, tested.repeated.nnz + tested.truth.nnz)
    if share < LEAST_REPEATS:
        return None
    all_next = Tested(tested.history, tested.truth + tested.repeated, tested.repeated)
    sample = all_next.take(max(1, min(REPEAT_USERS, MOST_SCORES // tested.history.n_items)))
    logits = score(sample.history)

    def measure(option: Repeats) -> float:
        with_repeats = logits.copy()
        option.add(with_repeats, sample.history)
        return float(measure_lists(top_k(with_repeats, DEPTH), sample.is_relevant).mean())

    options = [Repeats(min(share, 0.99), exponent) for exponent in REPEAT_EXPONENTS]
    return max(options, key=measure)
