"""The selection of a blend's weights and exponents, by the NDCG for tested users.

In small data few users are tested, so the best of many options would win by luck. That is why
there are few options.

The recency exponents of co-occurrence and of factors are selected together. The weights are the
mean of all options that the best option does not beat by a standard error, because only chance
decides which option among them is the best.
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

# The names of the components in saved models and logs.
SEQUENCE = "sequence"  # Items that follow an item.
COOCCURRENCE = "cooccurrence"  # Items that follow or precede an item.
FACTORS = "factors"
FIRM_FACTORS = "firm-factors"  # Factors with more regularization and confidence.
POPULARITY = "popularity"
CONTENT = "content"  # The features of the Items dataset.

COMPONENTS = (SEQUENCE, COOCCURRENCE, FACTORS, FIRM_FACTORS, POPULARITY, CONTENT)
# The recency exponents to try. Content has the exponent of co-occurrence.
PAIR_EXPONENTS = (0.3, 0.6, 0.9, 1.2)
FACTOR_EXPONENTS = (0.0, 0.3, 0.6, 0.9)
DEFAULT_EXPONENT = 0.6  # The exponent for comparing the two kinds of factors.
FACTOR_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # The remaining share is co-occurrence.
POPULARITY_SHARES = (0.0, 0.15, 0.3)
CONTENT_SHARES = (0.15, 0.3, 0.6)

MOST_USERS = 2_000
MOST_SCORES = 2 << 20  # The limit of users times items. With many items, fewer users count.
MOST_ITEMS = 3_000  # Only the most popular items count. More items do not select better.
TEMPERATURE_USERS = 100
REPEAT_USERS = 400
LEAST_REPEATS = 0.01  # Repeats are ignored if they are a smaller share of the held-out items.
REPEAT_EXPONENTS = (0.0, 0.3, 0.6, 0.9)

T = TypeVar("T")
Weights = Mapping[str, float]  # Weights or exponents, by the name of the component.


class Scorer(Protocol):
    """A component that scores all items from histories weighted by recency.

    All implementations are dataclasses.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """Add the weighted scores of all items to `scores`, in place. Higher scores are better.

        scores: shape (users, n_items).
        exponent: the recency exponent of `History.recency_weights`. With a higher exponent, older
            items weigh less.
        weight: the factor of the component's scores.
        """


@dataclass(frozen=True)
class Blend:
    """The components that a model uses, with their weights and recency exponents."""

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
    """Select the blend with the best NDCG for tested users.

    The weights are for scores that are divided by their spread (`measure_spread`).

    scorers: the components by name. POPULARITY and SEQUENCE are required.
    recency: whether recent items may weigh more. If not, all exponents are 0.
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
        """Return each user's NDCG, of shape (users,), for each option."""
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
    """Select the exponents of co-occurrence and of factors that are best together.

    Co-occurrence and factors have equal weights here. The result is the middle of all pairs of
    exponents that the best pair does not beat by half a standard error.

    score_pairs, score_factors: return scores of shape (users, items) for an exponent, divided by
        their spread. Without factors, `score_factors` is None.
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
    """Return the options that the best option does not beat by `errors` standard errors."""
    best = ndcgs[_find_best(ndcgs)]
    return [
        option
        for option, ndcg in zip(options, ndcgs, strict=True)
        if not is_better(best, ndcg, errors)
    ]


def _find_best(ndcgs: Sequence[Float64]) -> int:
    """Return the index of the option with the highest mean NDCG over the users."""
    return max(range(len(ndcgs)), key=lambda number: ndcgs[number].mean())


def list_options(factors: str) -> list[Weights]:
    """Return the options for the weights of a blend, without content.

    factors: the name of the factors to use, FACTORS or FIRM_FACTORS.
    """
    options: list[Weights] = [{POPULARITY: 1.0}]
    for popularity in POPULARITY_SHARES:
        for share in FACTOR_SHARES:
            for name in (SEQUENCE, COOCCURRENCE) if share < 1 else (SEQUENCE,):
                option = {name: 1 - share, factors: share}
                options.append(_mix_in(POPULARITY, popularity, option))
    return options


def _mix_in(name: str, share: float, weights: Weights) -> Weights:
    """Return the weights with a share of another component. Zero weights are left out."""
    mixed = {other: (1 - share) * weight for other, weight in weights.items()} | {name: share}
    return {other: weight for other, weight in mixed.items() if weight}


def _average(options: Sequence[Weights]) -> Weights:
    """Return the mean weights of the options."""
    names = sorted(set(chain(*options)))
    return {name: sum(option.get(name, 0.0) for option in options) / len(options) for name in names}


def _add_up(weights: Weights, scores: Mapping[str, Float32]) -> Float32:
    """Return the weighted sum of the components' scores, of shape (users, n_items)."""
    first, *names = weights
    total = scores[first] * np.float32(weights[first])
    for name in names:
        total += scores[name] * np.float32(weights[name])
    return total


def score_users(
    scorer: Scorer, history: History, exponent: float, items: int | None = None
) -> Float32:
    """Score items for users, chunk by chunk on all cores, and return (users, items) scores.

    items: the number of first items to return scores of; None for all items.
    """
    users, n_items = len(history.lengths), history.n_items
    wanted = np.empty((users, n_items if items is None else items), np.float32)

    def score(block: slice) -> None:
        scores = np.zeros((block.stop - block.start, n_items), np.float32)
        scorer.add(scores, history.of_users(block), exponent, 1.0)
        wanted[block] = scores[:, :items]

    deque(ordered_map(score, split_requests(users, n_items)), maxlen=0)
    return wanted


def measure_users(scores: Float32, tested: Tested) -> Float64:
    """Return each user's NDCG at 25, of shape (users,).

    scores: shape (users, n_items), with -inf for the items that a user has had.
    """
    return measure_lists(top_k(scores, DEPTH), tested.is_relevant)


def measure_lists(items: Int32, is_relevant: Bool) -> Float64:
    """Return the NDCG of each user's list, of shape (users,).

    items: the lists of shape (users, k), best item first; -1 pads.
    is_relevant: shape (users, n_items).
    """
    is_hit = np.take_along_axis(is_relevant, np.maximum(items, 0), axis=1) & (items >= 0)
    users, places = np.nonzero(is_hit)
    return measure_ndcg(users, places + 1, is_relevant.sum(axis=1), items.shape[1])


def measure_spread(scores: Float32) -> float:
    """Return the standard deviation of a user's scores over the items, as a mean over the users.

    Returns 1 if the mean is 0.
    """
    return float(scores.std(axis=1).mean()) or 1.0


def is_better(ours: Float64, theirs: Float64, errors: float = 1.0) -> bool:
    """Return whether `ours` is better by `errors` standard errors of the mean difference.

    ours, theirs: two measurements of the same users, of shape (users,).
    """
    difference = ours - theirs
    if len(difference) < 2:
        return False
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() > errors * error)


def scale_blend(blend: Blend, scorers: Mapping[str, Scorer], tested: Tested) -> Blend:
    """Return the blend with weights for raw scores, so that their softmax gives probabilities.

    blend: a blend with weights for scores that are divided by their spread.
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
    """Return the divisor of the scores that makes the held-out items likeliest under a softmax.

    scores: shape (users, n_items).
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
    """The chance that items of a history come again, as groceries and music do.

    An item's chance is in proportion to the number of its interactions and to the weight of its
    events. It falls with the number of later items: Anderson et al., "The dynamics of repeat
    consumption" (WWW 2014). The chance is added to the probability that the model gives the item,
    so the order of items that are new to a user does not depend on repeats.
    """

    share: float
    """The share of repeats in all interactions, above 0 and below 1."""

    exponent: float
    """The exponent of `History.recency_weights`."""

    def add(self, logits: Float32, history: History) -> None:
        """Raise the logits of the items of each user's history, in place.

        logits: shape (users, n_items).
        """
        owners = history.owners
        chance = history.counts * history.recency_weights(self.exponent).data
        chance /= np.bincount(owners, weights=chance)[owners]
        odds = self.share / (1 - self.share)
        repeated = np.log(odds * chance) + logsumexp(logits)[owners, 0]
        logits[owners, history.items] = np.logaddexp(logits[owners, history.items], repeated)


def fit_repeats(score: Callable[[History], Float32], tested: Tested) -> Repeats | None:
    """Measure the share of repeats in the held-out items, and select the best exponent.

    Returns None if repeats are rare.

    score: returns logits of shape (users, n_items).
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
