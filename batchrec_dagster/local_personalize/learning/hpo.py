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

# Takes a split, the hyperparameters that are fixed, a seed and a log. The result is a function from
# hyperparameters to NDCG at 25.
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
    """What performHPO searches: ranges by name of the hyperparameter.

    Without any, all hyperparameters of the recipe that can be tuned are searched.
    """

    max_jobs: int = DEFAULT_JOBS
    """How many trainings are tried at most; the first has the solution's own values."""

    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The least and the largest whole number."""

    continuous: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The least and the largest number."""

    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The values, as text."""


@dataclass(frozen=True)
class Range:
    """The values that a search may try."""

    values: Sequence[Value] = ()
    """All of them; if there are none, all numbers between the ends."""

    ends: tuple[float, float] = (0.0, 0.0)
    """The least and the largest number."""

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

    hyperparameters: the solution's own values, which are fixed unless they have a range.
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
    for name, (least, largest) in search.integers.items():
        _require_ends(name, allowed[name], least, largest, whole=True)
        ranges[name] = _number_range(least, largest, whole=True)
    for name, (low, high) in search.continuous.items():
        _require_ends(name, allowed[name], low, high, whole=False)
        ranges[name] = _number_range(low, high, whole=False)
    for name, texts in search.categories.items():
        ranges[name] = _category_range(name, allowed[name], texts)
    return ranges


def candidates(
    ranges: Mapping[str, Range], values: Values, jobs: int, seed: int
) -> Iterator[dict[str, Value]]:
    """Distinct hyperparameters to try: first the solution's own, then random ones.

    ranges: where they may be; the solution's own values out of them are replaced by random ones.
    values: the solution's own hyperparameters.
    jobs: how many to try at most. Small ranges may have fewer.
    """
    rng = np.random.default_rng(seed)
    own_values = {**DEFAULTS, **values}
    yielded: list[dict[str, Value]] = []
    redraws = MAX_REDRAWS
    while len(yielded) < jobs and redraws:
        candidate = {name: allowed.sample(rng) for name, allowed in ranges.items()}
        if not yielded:
            for name, allowed in ranges.items():
                if allowed.contains(own_values[name]):
                    candidate[name] = own_values[name]
        if candidate in yielded:
            redraws -= 1
            continue
        redraws = MAX_REDRAWS
        yielded.append(candidate)
        yield candidate


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

    It is the first candidate when no users can be held out. The arguments are those of `candidates`
    and of a Measure.
    """
    metrics_split = split(interactions, seed)
    held_out = split(metrics_split.train, seed) if metrics_split else None
    all_candidates = candidates(ranges, values, jobs, seed)
    if held_out is None:
        return next(all_candidates)
    measure_ndcg = measure(held_out, values, seed, log)
    best: dict[str, Value] = {}
    best_ndcg = -1.0
    for candidate in all_candidates:
        ndcg = measure_ndcg({**values, **candidate})
        log(f"tried {candidate}: NDCG at 25 of {ndcg:.4f}")
        if ndcg > best_ndcg:
            best, best_ndcg = candidate, ndcg
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


def _require_ends(
    name: str, kind: Number | Boolean, low: float, high: float, *, whole: bool
) -> None:
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
