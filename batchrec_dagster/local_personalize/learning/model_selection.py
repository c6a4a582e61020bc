"""Selects which components a model blends, from their NDCG on held-out users.

A held-out tenth of a small data set is a few dozen users, where the best of many options wins by
luck. So the options are few. Each component has the recency exponent with which it is best alone.
In a blend, where other components see the whole history, co-occurrence looks at newer items than
it does alone, unless the paired differences of the users' NDCG speak against it by half a standard
error.

Then the weights are selected. The options are single components, blends, each of these with some
popularity, which helps where histories say little, and popularity alone. The weights are the mean
of all options that the best one does not beat by a standard error.

Where held-out users are few, each is also evaluated at earlier cutoffs of the history. That tells
models apart about as well as more users would. Standard errors remain those of the users' means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.sparse import csr_matrix

from .components import (
    CONTENT,
    FACTORS,
    FACTORS_HIGH_REG,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
)
from .evaluation import MAX_DEPTH, ndcg_of_lists
from .interactions import Float32, Float64, History
from .ranking import top_k
from .repeated_items import Repeats
from .threads import ordered_map
from .validation import ScoredUsers, ValidationSet, Weights

Options = Mapping[str, Sequence[float]]  # the recency exponents to try, by name of the component

# The options for each component, the default first.
RECENCY_EXPONENTS: Options = {
    SEQUENCE: (0.9, 0.3, 0.6, 1.2),
    SYMMETRIC_COOC: (0.9, 0.3, 0.6, 1.2),
    FACTORS: (0.6, 0.0, 0.3, 0.9),
    FACTORS_HIGH_REG: (0.6, 0.0, 0.3, 0.9),
    CONTENT: (0.9, 0.3),
}

COOCCURRENCES = (SEQUENCE, SYMMETRIC_COOC)

# The blends to try, as weights of scores of the same spread. Of each blend with SEQUENCE there is
# another one with SYMMETRIC_COOC in its place.
BLEND_WEIGHTS: Sequence[Weights] = (
    {SEQUENCE: 0.6, FACTORS: 0.4},
    {SEQUENCE: 0.3, FACTORS: 0.7},
)
# The weights of popularity to add to each option; with more, popularity alone is an option.
POPULARITY_WEIGHTS = (0.3, 0.6)
# The weights of the items' features to try in the selected blend.
CONTENT_WEIGHTS = (0.15, 0.3, 0.6)

REPEAT_EXPONENTS = (0.6, 0.0, 0.3, 0.9)  # the default first
TEMPERATURE_USERS = 512  # in the demo, 64 users gave the same temperature as all of them
LEAST_REPEATS = 0.01  # where repeats are a smaller share of the next interactions, none are tried


@dataclass(frozen=True)
class Blend:
    """Which components a model uses, and how."""

    recency_exponents: Weights
    """The recency exponent of each component, see `History.recency_weights`."""

    weights: Weights
    """The weight of each component's scores."""

    ndcg: float
    """NDCG at 25, mean over the users that it was selected on."""


def select_blend(
    sets: Sequence[ValidationSet],
    *,
    recency: bool,
    options: Options = RECENCY_EXPONENTS,
) -> Blend:
    """The exponents and weights to serve with.

    sets: the components with the histories and next items of held-out users. Without users, the
        first component alone is selected.
    recency: whether recent items may weigh more. Otherwise all exponents are 0.
    options: the recency exponents to try, the default first, by name of the component.
    """
    names = [name for name in sets[0].scorers if name != POPULARITY]
    if not any(len(part.inputs.lengths) for part in sets):
        exponent = options[names[0]][0] if recency else 0.0
        return Blend({names[0]: exponent}, {names[0]: 1.0}, 0.0)
    users = ScoredUsers(sets)
    exponents, ndcg = _select_exponents(users, names, options if recency else None)
    if FACTORS in names and FACTORS_HIGH_REG in names:
        names.remove(min(FACTORS, FACTORS_HIGH_REG, key=lambda name: ndcg[name].mean()))
    if POPULARITY in sets[0].scorers:
        names.append(POPULARITY)
        exponents[POPULARITY] = 0.0
    recent_exponents = {
        name: _next_exponent(exponents[name])
        for name in COOCCURRENCES
        if name in names and recency and len(options[name]) > 1
    }
    keys = {*((name, exponents[name]) for name in names), *recent_exponents.items()}
    scales = {key: 1 / users.spread(*key) for key in sorted(keys)}
    chunks = users.candidates(list(scales))

    def evaluate(blends: Sequence[Weights], exponents: Weights) -> list[Float64]:
        """For each of the blends, the users' (users,) NDCG with these recency exponents."""
        weights_by_key = []
        for blend in blends:
            blend_keys = {(name, exponents[name]): weight for name, weight in blend.items()}
            weights_by_key.append({key: weight * scales[key] for key, weight in blend_keys.items()})
        return users.by_user(ordered_map(lambda chunk: chunk.ndcg(weights_by_key), chunks))

    blends = _list_blends([name for name in names if name != CONTENT])
    for name, exponent in recent_exponents.items():
        blend = next((option for option in blends if name in option and len(option) > 1), None)
        if blend is not None:
            [as_alone] = evaluate([blend], exponents)
            [more_recent] = evaluate([blend], {**exponents, name: exponent})
            if not _is_better(as_alone, more_recent, 0.5):
                exponents[name] = exponent
    weights, score = _average_best(blends, lambda options: evaluate(options, exponents))
    if CONTENT in names:
        weights, score = _add_content(weights, score, lambda options: evaluate(options, exponents))
    return Blend(
        {name: exponents[name] for name in weights},
        {name: weight * scales[name, exponents[name]] for name, weight in weights.items()},
        float(score.mean()),
    )


def _list_blends(names: Sequence[str]) -> list[Weights]:
    """The options for the weights of these components."""
    factors = FACTORS_HIGH_REG if FACTORS_HIGH_REG in names else FACTORS
    blends: list[Weights] = []
    for cooccurrence in COOCCURRENCES:
        substitutes = {FACTORS: factors, SEQUENCE: cooccurrence}
        for weights in BLEND_WEIGHTS:
            if cooccurrence == SEQUENCE or SEQUENCE in weights:
                blends.append(
                    {substitutes.get(name, name): weight for name, weight in weights.items()}
                )
    options: list[Weights] = [{name: 1.0} for name in names if name != POPULARITY]
    options += [option for option in blends if set(option) <= set(names)]
    if POPULARITY in names:
        options += [
            {name: (1 - share) * weight for name, weight in option.items()} | {POPULARITY: share}
            for share in POPULARITY_WEIGHTS
            for option in options
        ]
        options.append({POPULARITY: 1.0})
    return options


def _average_best(
    options: Sequence[Weights],
    evaluate: Callable[[Sequence[Weights]], list[Float64]],
) -> tuple[Weights, Float64]:
    """The mean of the options that may be the best, and the users' NDCG with it.

    Which of them is the best is chance, and their mean depends less on chance.
    """
    scores = evaluate(options)
    best = max(scores, key=lambda score: score.mean())
    beaten = [_is_better(best, score) for score in scores]
    weights = _average(
        [option for option, is_beaten in zip(options, beaten, strict=True) if not is_beaten]
    )
    [score] = evaluate([weights])
    return weights, score


def _add_content(
    weights: Weights, score: Float64, evaluate: Callable[[Sequence[Weights]], list[Float64]]
) -> tuple[Weights, Float64]:
    """The blend with the features of items if that is better by a standard error, else without.

    score: the users' (users,) NDCG with the weights, which the result has for its weights.
    """
    options = [
        {name: (1 - share) * weight for name, weight in weights.items()} | {CONTENT: share}
        for share in CONTENT_WEIGHTS
    ]
    scores = evaluate(options)
    best = max(range(len(scores)), key=lambda option: scores[option].mean())
    if _is_better(scores[best], score):
        return options[best], scores[best]
    return weights, score


def _average(options: Sequence[Weights]) -> Weights:
    """The mean of the options."""
    # Sorted as a saved model has them, since the sums of floats depend on the order.
    names = sorted(set(chain(*options)))
    return {name: sum(option.get(name, 0.0) for option in options) / len(options) for name in names}


def select_repeats(
    score: Callable[[History], Float32], held_out: ValidationSet, rates: Float32 | None
) -> Repeats | None:
    """The repeats with which lists of seen and unseen items are better for the held-out users.

    They must raise NDCG at 25 by more than a standard error of the users' paired differences. None
    if none do.

    score: gives (users, n_items) logits.
    held_out: users whose relevant items include seen ones.
    rates: (n_items,) see `Repeats.add`.
    """
    seen = held_out.truth.multiply(held_out.inputs.seen)
    share = min(0.99, seen.nnz / max(1, held_out.truth.nnz))
    if share < LEAST_REPEATS:
        return None
    options = [Repeats(share, exponent) for exponent in REPEAT_EXPONENTS]

    def evaluate(chunk: tuple[History, csr_matrix]) -> Float64:
        """(1 + options, users): NDCG at 25 without repeats, then with each option."""
        history, truth = chunk
        is_relevant = truth.toarray() > 0
        logits = score(history)
        rows = []
        for option in (None, *options):
            scores = logits.copy()
            if option is not None:
                option.add(scores, history, rates)
            items = top_k(scores, MAX_DEPTH)
            rows.append(ndcg_of_lists(items, is_relevant, is_relevant.sum(axis=1)))
        return np.stack(rows)

    ndcg = np.concatenate(list(ordered_map(evaluate, held_out.chunks())), axis=1)
    without, *scores = ndcg
    best = max(range(len(scores)), key=lambda index: scores[index].mean())
    best = best if _is_better(scores[best], scores[0], 0.5) else 0
    return options[best] if _is_better(scores[best], without) else None


def fit_temperature(score: Callable[[History], Float32], sets: Sequence[ValidationSet]) -> float:
    """The divisor of scores that makes the relevant items likeliest under a softmax.

    With it, softmax scores are about the probabilities that an item is next. Without users it is 1.

    score: gives (users, n_items) logits.
    """
    temperatures = np.geomspace(0.02, 5.0, 24)

    def log_likelihoods(chunk: tuple[History, csr_matrix]) -> Float64:
        """(temperatures,): the sum over the relevant items of a few users."""
        history, truth = chunk
        scores = score(history)
        scores -= scores.max(axis=1, keepdims=True)
        user, item = truth.nonzero()
        logits = np.empty_like(scores)
        sums = np.empty(len(temperatures))
        for i, temperature in enumerate(temperatures):
            np.divide(scores, np.float32(temperature), out=logits)
            relevant_logits = logits[user, item].astype(np.float64)
            np.exp(logits, out=logits)
            log_sums = np.log(logits.sum(axis=1)).astype(np.float64)
            sums[i] = (relevant_logits - log_sums[user]).sum()
        return sums

    chunks = chain(*(part.chunks(TEMPERATURE_USERS) for part in sets))
    total = sum(ordered_map(log_likelihoods, chunks), np.zeros(len(temperatures)))
    return float(temperatures[total.argmax()]) if total.any() else 1.0


def _select_exponents(
    users: ScoredUsers, names: Sequence[str], options: Options | None
) -> tuple[dict[str, float], dict[str, Float64]]:
    """The recency exponent of each component, and the users' (users,) NDCG with it.

    Without options, the exponents are 0. The scores that are not needed for blends are dropped.
    """
    selected, ndcg = {}, {}
    for name in names:
        exponents = options[name] if options else (0.0,)
        scores = users.ndcg(name, exponents)
        best = max(range(len(scores)), key=lambda index: scores[index].mean())
        selected[name] = exponents[best]
        ndcg[name] = scores[best]
        needed = {selected[name]}
        if name in COOCCURRENCES:
            needed.add(_next_exponent(selected[name]))
        users.drop(name, [exponent for exponent in exponents if exponent not in needed])
    return selected, ndcg


def _next_exponent(exponent: float) -> float:
    """The next larger exponent of co-occurrence, with which recent items weigh more."""
    larger = [other for other in RECENCY_EXPONENTS[SEQUENCE] if other > exponent]
    return min(larger, default=exponent)


def _is_better(ours: Float64, theirs: Float64, errors: float = 1.0) -> bool:
    """Whether our scores are better by more than `errors` standard errors of the mean difference.

    ours, theirs: (users,) the scores of the same users.
    """
    difference = ours - theirs
    if len(difference) < 2:
        return False
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() > errors * error)
