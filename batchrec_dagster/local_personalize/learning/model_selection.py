"""Selects which components a model blends, from their NDCG on held-out users.

A held-out tenth of a small data set is a few dozen users, where the best of many options wins by
luck. So the options are few, and defaults stay unless half a standard error of the users' paired
differences speaks against them: the recency exponents of single components, and that in a blend,
where others see the whole history, co-occurrence looks at newer items than it does alone. Items
that a user had several times weigh more only if that helps the components by a standard error.

The weights are the mean of all options that the best one does not beat by a standard error, or by
less, until it does not beat the mean by half of one. The options are single components, blends,
each of these with popularity, which helps where histories say little, and popularity alone. With
few users, each is also evaluated at earlier cutoffs of the history, which separates models about as
well as more users would; standard errors remain those of the users' means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from scipy.sparse import csr_matrix

from .components import (
    CONTENT,
    EASE,
    EASE_HIGH_REG,
    FACTORS,
    FACTORS_HIGH_REG,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
    USER_NEIGHBORS,
)
from .evaluation import MAX_DEPTH, ndcg_of_lists
from .interactions import Float32, Float64, History
from .models import Repeats
from .ranking import top_k
from .threads import ordered_map
from .validation import ScoredUsers, ValidationSet, Weights

Options = Mapping[str, Sequence[float]]  # the recency exponents to try, by name of the component

# The options for each component, the default first.
RECENCY_EXPONENTS: Options = {
    EASE: (0.6, 0.3, 0.9, 1.2),
    EASE_HIGH_REG: (0.6, 0.3, 0.9, 1.2),
    SEQUENCE: (0.9, 0.3, 0.6, 1.2),
    SYMMETRIC_COOC: (0.9, 0.3, 0.6, 1.2),
    FACTORS: (0.6, 0.0, 0.3, 0.9),
    FACTORS_HIGH_REG: (0.6, 0.0, 0.3, 0.9),
    USER_NEIGHBORS: (0.9, 0.3, 0.6, 1.2),
    CONTENT: (0.9, 0.3),
}

COOCCURRENCES = (SEQUENCE, SYMMETRIC_COOC)

# The options for a blend's weights, on scores of the same spread; of each there is another one with
# the symmetric co-occurrence in place of the sequence.
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
    {EASE: 0.3, SEQUENCE: 0.3, FACTORS: 0.2, USER_NEIGHBORS: 0.2},
    {EASE: 0.25, SEQUENCE: 0.25, FACTORS: 0.25, USER_NEIGHBORS: 0.25},
    {EASE: 0.4, USER_NEIGHBORS: 0.6},
    {FACTORS: 0.5, USER_NEIGHBORS: 0.5},
)
CONTENT_WEIGHTS = (0.15, 0.3, 0.6)  # added to the selected blend, where that is clearly better

REPEAT_EXPONENTS = (0.6, 0.0, 0.3, 0.9)  # the default first
TEMPERATURE_USERS = 512  # 64 of the demo's and all of them gave the same temperature
LEAST_REPEATS = 0.01  # share of the next interactions, below which repeats are not tried


@dataclass(frozen=True)
class SelectionRules:
    """The rules by which a blend is selected. Every training uses the defaults.

    This is the hook of `benchmarks/ablation.py`, which replaces one rule at a time to measure what
    it is worth. It is not a setting of users.
    """

    blend_weights: Sequence[Weights] = BLEND_WEIGHTS
    """The blends to try, besides each component alone."""

    popularity_weights: Sequence[float] = (0.3, 0.6)
    """The weights of popularity to add to each option; with more, popularity alone is an option."""

    tolerances: Sequence[float] = (1.0, 0.5, 0.25, 0.1, 0.0)
    """The options in the mean are beaten by the best one by at most this many standard errors.

    The first tolerance whose mean the best option does not clearly beat is taken.
    """

    least_weight: float = 0.05
    """Components with less weight leave the mean: they cost as much to fit and to serve as others,
    and change little.
    """

    exponent_tolerance: float = 0.5
    """A recency exponent replaces the default if it is better by this many standard errors."""

    recent_in_blends: bool = True
    """Whether co-occurrence may look at newer items in blends than it does alone."""

    count_exponent: float = 0.5
    """The exponent of the counts of items to try, see `History.weight_by_counts`; 0 tries none.

    In a shop, 0.3 and 0.6 did about the same.
    """


ALL_RULES = SelectionRules()


@dataclass(frozen=True)
class Blend:
    """Which components a model uses: the recency exponent of each, and the weight of its scores."""

    recency_exponents: Weights
    weights: Weights
    ndcg: float  # at 25, mean over the users that it was selected on
    count_exponent: float = 0.0  # see History.weight_by_counts


def select_blend(
    sets: Sequence[ValidationSet],
    *,
    recency: bool,
    options: Options = RECENCY_EXPONENTS,
    rules: SelectionRules = ALL_RULES,
) -> Blend:
    """The exponents and weights to serve with; without `recency`, all exponents are 0."""
    names = [name for name in sets[0].scorers if name != POPULARITY]
    if not any(len(one.inputs.lengths) for one in sets):
        exponent = options[names[0]][0] if recency else 0.0
        return Blend({names[0]: exponent}, {names[0]: 1.0}, 0.0)
    users = ScoredUsers(sets)
    first = {name: options[name][0] if recency else 0.0 for name in names}
    users, count_exponent = _select_count_exponent(users, sets, first, rules)
    exponents, single = _select_exponents(users, names, options if recency else None, rules)
    if EASE in names and EASE_HIGH_REG in names:
        low_is_better = _is_better(single[EASE], single[EASE_HIGH_REG], 0.5)
        names.remove(EASE_HIGH_REG if low_is_better else EASE)
    if FACTORS in names and FACTORS_HIGH_REG in names:
        names.remove(min(FACTORS, FACTORS_HIGH_REG, key=lambda name: single[name].mean()))
    if POPULARITY in sets[0].scorers:
        names.append(POPULARITY)
        exponents[POPULARITY] = 0.0
    newer = {
        name: _next_exponent(exponents[name])
        for name in COOCCURRENCES
        if name in names and recency and rules.recent_in_blends and len(options[name]) > 1
    }
    scored = {*((name, exponents[name]) for name in names), *newer.items()}
    scales = {key: 1 / users.spread(*key) for key in sorted(scored)}
    candidates = users.candidates(list(scales))

    def evaluate(blends: Sequence[Weights], exponents: Weights) -> list[Float64]:
        at = {name: (name, exponents[name]) for name in names}
        keyed = [
            {at[name]: weight * scales[at[name]] for name, weight in blend.items()}
            for blend in blends
        ]
        return users.by_user(ordered_map(lambda some: some.ndcg(keyed), candidates))

    blends = _list_blends([name for name in names if name != CONTENT], rules)
    for name, exponent in newer.items():
        blend = next((option for option in blends if name in option and len(option) > 1), None)
        if blend is not None:
            [before] = evaluate([blend], exponents)
            [after] = evaluate([blend], {**exponents, name: exponent})
            exponents[name] = exponents[name] if _is_better(before, after, 0.5) else exponent
    weights, score = _average_best(blends, lambda some: evaluate(some, exponents), rules)
    if CONTENT in names:
        weights, score = _add_content(weights, score, lambda some: evaluate(some, exponents))
    return Blend(
        {name: exponents[name] for name in weights},
        {name: weight * scales[name, exponents[name]] for name, weight in weights.items()},
        float(score.mean()),
        count_exponent,
    )


def _select_count_exponent(
    users: ScoredUsers,
    sets: Sequence[ValidationSet],
    exponents: Weights,
    rules: SelectionRules,
) -> tuple[ScoredUsers, float]:
    """The users to select on, and the exponent of their items' counts.

    It is 0 unless that of the rules is better by a standard error, in the mean over the components
    with these recency exponents.
    """
    if not rules.count_exponent or all(one.inputs.counts is None for one in sets):
        return users, 0.0
    weighted = ScoredUsers(
        [replace(one, inputs=one.inputs.weight_by_counts(rules.count_exponent)) for one in sets]
    )
    before, after = (
        np.mean([some.ndcg(name, [each])[0] for name, each in exponents.items()], axis=0)
        for some in (users, weighted)
    )
    return (weighted, rules.count_exponent) if _is_better(after, before) else (users, 0.0)


def _list_blends(names: Sequence[str], rules: SelectionRules) -> list[Weights]:
    """The weights to try for these components."""
    ease = EASE_HIGH_REG if EASE_HIGH_REG in names else EASE
    factors = FACTORS_HIGH_REG if FACTORS_HIGH_REG in names else FACTORS
    blends = [
        {
            {EASE: ease, FACTORS: factors, SEQUENCE: cooccurrence}.get(name, name): weight
            for name, weight in of.items()
        }
        for cooccurrence in COOCCURRENCES
        for of in rules.blend_weights
        if cooccurrence == SEQUENCE or SEQUENCE in of
    ]
    options: list[Weights] = [{name: 1.0} for name in names if name != POPULARITY]
    options += [option for option in blends if set(option) <= set(names)]
    if POPULARITY in names:
        options += [
            {name: (1 - share) * weight for name, weight in option.items()} | {POPULARITY: share}
            for share in rules.popularity_weights
            for option in options
        ]
        options.append({POPULARITY: 1.0})
    return options


def _average_best(
    options: Sequence[Weights],
    evaluate: Callable[[Sequence[Weights]], list[Float64]],
    rules: SelectionRules = ALL_RULES,
) -> tuple[Weights, Float64]:
    """The mean of the options that may be the best, and the users' NDCG with it.

    Which of them is the best is chance, and their mean depends on it less. It is of as many options
    as it can be without being worse than the best one by half a standard error.
    """
    scores = evaluate(options)
    best = max(scores, key=lambda score: score.mean())
    for errors in rules.tolerances:
        beaten = [_is_better(best, score, errors) for score in scores]
        weights = _average(
            [option for option, is_beaten in zip(options, beaten, strict=True) if not is_beaten],
            rules.least_weight,
        )
        [score] = evaluate([weights])
        if not _is_better(best, score, 0.5):
            break
    return weights, score


def _add_content(
    weights: Weights, score: Float64, evaluate: Callable[[Sequence[Weights]], list[Float64]]
) -> tuple[Weights, Float64]:
    """The blend with the features of items, if better by a standard error; else as it is."""
    options = [
        {name: (1 - share) * weight for name, weight in weights.items()} | {CONTENT: share}
        for share in CONTENT_WEIGHTS
    ]
    scores = evaluate(options)
    at = max(range(len(scores)), key=lambda i: scores[i].mean())
    return (options[at], scores[at]) if _is_better(scores[at], score) else (weights, score)


def _average(options: Sequence[Weights], least_weight: float) -> Weights:
    """The mean of the options, without weights below the least one."""
    names = sorted(set(chain(*options)))  # as a saved model has them: sums of floats depend on it
    mean = {name: sum(option.get(name, 0.0) for option in options) / len(options) for name in names}
    kept = {name: weight for name, weight in mean.items() if weight >= least_weight}
    return {name: weight / sum(kept.values()) for name, weight in kept.items()}


def select_repeats(
    score: Callable[[History], Float32], held_out: ValidationSet, rates: Float32 | None
) -> Repeats | None:
    """The repeats with which lists of any items are better for the held-out users; None if none.

    `score` gives (users, n_items) logits, `rates` are those of Repeats.add. The relevant items
    include seen ones. Repeats must raise NDCG at 25 by more than a standard error of the users'
    paired differences.
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
                option.add(scores, history, rates)
            items = top_k(scores, MAX_DEPTH)
            out.append(ndcg_of_lists(items, is_relevant, is_relevant.sum(axis=1)))
        return np.stack(out)

    parts = list(ordered_map(evaluate, held_out.chunks()))
    without, *scores = np.concatenate(parts, axis=1)
    at = _select_index(scores)
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

    chunks = chain(*(one.chunks(TEMPERATURE_USERS) for one in sets))
    total = sum(ordered_map(likelihoods, chunks), np.zeros(len(grid)))
    return float(grid[total.argmax()]) if total.any() else 1.0


def _select_exponents(
    users: ScoredUsers, names: Sequence[str], options: Options | None, rules: SelectionRules
) -> tuple[dict[str, float], dict[str, Float64]]:
    """The recency exponent of each component, 0 without options, and the users' NDCG with it."""
    exponents, single = {}, {}
    for name in names:
        tried = options[name] if options else (0.0,)
        scores = users.ndcg(name, tried)
        at = _select_index(scores, rules.exponent_tolerance)
        exponents[name], single[name] = tried[at], scores[at]
        needed = {tried[at], *([_next_exponent(tried[at])] if name in COOCCURRENCES else [])}
        users.drop(name, [each for each in tried if each not in needed])
    return exponents, single


def _next_exponent(exponent: float) -> float:
    """The next exponent of co-occurrence, which is for newer items."""
    return min((each for each in RECENCY_EXPONENTS[SEQUENCE] if each > exponent), default=exponent)


def _select_index(scores: Sequence[Float64], errors: float = 0.5) -> int:
    """The index with the best mean, if better than the first by so many standard errors; else 0."""
    best = max(range(len(scores)), key=lambda i: scores[i].mean())
    return best if _is_better(scores[best], scores[0], errors) else 0


def _is_better(ours: Float64, theirs: Float64, errors: float = 1.0) -> bool:
    """Whether the mean paired difference exceeds so many of its standard errors."""
    difference = ours - theirs
    if len(difference) < 2:
        return False
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() > errors * error)
