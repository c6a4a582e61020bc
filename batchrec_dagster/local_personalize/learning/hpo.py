"""Hyperparameter optimization (performHPO): a seeded random search within ranges.

Source: Bergstra, Bengio, "Random search for hyper-parameter optimization" (JMLR 2012).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from batchrec_dagster.personalize.recipes import (
    Boolean,
    HyperparameterError,
    Number,
    Value,
    Values,
    find_hyperparameters,
)

from .evaluation import Split, split
from .interactions import Interactions

Log = Callable[[str], None]

# From a split, fixed values, a seed and a log: a function from values to NDCG at 25.
Measure = Callable[[Split, Values, int, Log], Callable[[Values], float]]

DEFAULT_JOBS = 10
MAX_JOBS = 40  # HPOResourceConfig.maxNumberOfTrainingJobs
MAX_REDRAWS = 20  # repeated draws in a row after which the ranges count as exhausted

# Where a search begins.
DEFAULTS: Values = {
    "hidden_dimension": 64,
    "bptt": 32,
    "recency_mask": True,
    "popularity_discount_factor": 0.5,
    "min_cointeraction_count": 3,
}


@dataclass(frozen=True)
class Search:
    """Ranges by hyperparameter name, ends included; without any, all of the recipe's are searched.

    At most `max_jobs` trainings are tried, the first with the solution's own values.
    """

    max_jobs: int = DEFAULT_JOBS
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    continuous: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Range:
    """The values that a search may try: a list, or all numbers between two ends."""

    values: Sequence[Value] = ()
    ends: tuple[float, float] = (0.0, 0.0)

    def contains(self, value: Value) -> bool:
        """Whether the search may try this value."""
        return value in self.values if self.values else self.ends[0] <= value <= self.ends[1]

    def sample(self, rng: np.random.Generator) -> Value:
        """One value, uniformly at random."""
        if self.values:
            return self.values[int(rng.integers(len(self.values)))]
        return round(float(rng.uniform(*self.ends)), 4)


def search_ranges(
    recipe: str, hyperparameters: Mapping[str, str], search: Search
) -> dict[str, Range]:
    """The range of each hyperparameter that is searched.

    Raises HyperparameterError for an impossible range, or when there is nothing to tune.
    """
    allowed = find_hyperparameters(recipe)
    tunable = [name for name, kind in allowed.items() if kind.tunable]
    if not tunable:
        raise HyperparameterError(f"{recipe} has no hyperparameter that performHPO can tune")
    searched = [*search.integers, *search.continuous, *search.categories]
    for name in searched:
        if searched.count(name) > 1:
            raise HyperparameterError(f"hyperparameter {name} has more than one range")
        if name not in tunable:
            raise HyperparameterError(
                f"{recipe} has no tunable hyperparameter {name}; tunable: {', '.join(tunable)}"
            )
    if not searched:
        names = [name for name in tunable if name not in hyperparameters]
        if not names:
            raise HyperparameterError(
                f"performHPO has nothing to tune: all hyperparameters of {recipe} are fixed"
            )
        return {name: _full_range(allowed[name]) for name in names}
    ranges = {}
    for whole, given in ((True, search.integers), (False, search.continuous)):
        for name, (low, high) in given.items():
            _check_ends(name, allowed[name], low, high, whole=whole)
            ranges[name] = _number_range(low, high, whole=whole)
    for name, texts in search.categories.items():
        ranges[name] = _category_range(name, allowed[name], texts)
    return ranges


def candidates(
    ranges: Mapping[str, Range], given: Values, jobs: int, seed: int
) -> Iterator[dict[str, Value]]:
    """Distinct values to try: first the given ones that are in range, then random ones."""
    rng = np.random.default_rng(seed)
    base = {**DEFAULTS, **given}
    tried: list[dict[str, Value]] = []
    patience = MAX_REDRAWS
    while len(tried) < jobs and patience:
        one = {name: of.sample(rng) for name, of in ranges.items()}
        if not tried:
            one |= {name: base[name] for name, of in ranges.items() if of.contains(base[name])}
        if one in tried:
            patience -= 1
            continue
        patience = MAX_REDRAWS
        tried.append(one)
        yield one


def tune(
    measure: Measure,
    interactions: Interactions,
    values: Values,
    ranges: Mapping[str, Range],
    jobs: int,
    seed: int,
    log: Log,
) -> dict[str, Value]:
    """The candidate with the best NDCG at 25, on other users than those of the metrics.

    The first candidate when no users can be held out.
    """
    outer = split(interactions, seed)
    held_out = split(outer.train, seed) if outer else None
    tries = candidates(ranges, values, jobs, seed)
    if held_out is None:
        return next(tries)
    ndcg_of = measure(held_out, values, seed, log)
    best: dict[str, Value] = {}
    best_ndcg = -1.0
    for tried in tries:
        ndcg = ndcg_of({**values, **tried})
        log(f"tried {tried}: NDCG at 25 of {ndcg:.4f}")
        if ndcg > best_ndcg:
            best, best_ndcg = tried, ndcg
    return best


def format_value(value: Value) -> str:
    """The value as Personalize writes it, as text."""
    return str(value).lower()


def _full_range(kind: Number | Boolean) -> Range:
    if isinstance(kind, Boolean):
        return Range(values=(True, False))
    return _number_range(kind.low, kind.high, whole=kind.whole)


def _number_range(low: float, high: float, *, whole: bool) -> Range:
    return Range(values=range(int(low), int(high) + 1)) if whole else Range(ends=(low, high))


def _check_ends(name: str, kind: Number | Boolean, low: float, high: float, *, whole: bool) -> None:
    if not isinstance(kind, Number) or kind.whole != whole:
        raise HyperparameterError(
            f"hyperparameter {name} takes {kind}, so its range cannot be "
            f"{'an integer' if whole else 'a continuous'} one"
        )
    if not (math.isfinite(low) and math.isfinite(high) and kind.low <= low <= high <= kind.high):
        raise HyperparameterError(
            f"the range of hyperparameter {name} is {low:g} to {high:g}; allowed: {kind}, "
            "in rising order"
        )


def _category_range(name: str, kind: Number | Boolean, texts: Sequence[str]) -> Range:
    try:
        values = [kind.parse(text) for text in texts]
    except ValueError:
        values = []
    if not values:
        raise HyperparameterError(
            f"the categories of hyperparameter {name} are {list(texts)}; allowed: {kind}"
        )
    return Range(values=list(dict.fromkeys(values)))
