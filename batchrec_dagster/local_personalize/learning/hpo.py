"""What hyperparameter optimization (performHPO) tries: chosen at random, within ranges, seeded.

Source: Bergstra, Bengio, "Random search for hyper-parameter optimization" (JMLR 2012).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from batchrec_dagster.local_personalize.learning.hyperparameters import (
    Number,
    Truth,
    Value,
    hyperparameters_of,
    parse_hyperparameters,
)
from batchrec_dagster.local_personalize.learning.interactions import TrainingError

DEFAULT_JOBS = 10
MOST_JOBS = 40  # HPOResourceConfig.maxNumberOfTrainingJobs
PATIENCE = 20  # draws of what was tried before, until the ranges count as tried out

# Where a search begins when nothing else was given.
DEFAULTS: Mapping[str, Value] = {
    "hidden_dimension": 64,
    "bptt": 32,
    "recency_mask": True,
    "popularity_discount_factor": 0.5,
    "min_cointeraction_count": 3,
}


@dataclass(frozen=True)
class Search:
    """Ranges by hyperparameter name, both ends allowed; without any, the recipe's own serve.

    `max_jobs` trainings are tried at most, the first with the values that were given.
    """

    max_jobs: int = DEFAULT_JOBS
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    continuous: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Range:
    """The values that a hyperparameter may take: a list, or all between the two of `ends`."""

    values: Sequence[Value] = ()
    ends: tuple[float, float] = (0.0, 0.0)

    def holds(self, value: Value) -> bool:
        """Whether the value is one of them."""
        return value in self.values if self.values else self.ends[0] <= value <= self.ends[1]

    def draw(self, rng: np.random.Generator) -> Value:
        """One at random, all alike."""
        if self.values:
            return self.values[int(rng.integers(len(self.values)))]
        return round(float(rng.uniform(*self.ends)), 4)


def check_search(recipe: str, hyperparameters: Mapping[str, str], search: Search) -> None:
    """Raise TrainingError naming the range that is impossible, or that nothing can be tuned."""
    ranges_of(recipe, hyperparameters, search)


def ranges_of(recipe: str, hyperparameters: Mapping[str, str], search: Search) -> dict[str, Range]:
    """What may be tried for each hyperparameter that is searched for. Raises TrainingError."""
    parse_hyperparameters(recipe, hyperparameters)
    allowed = hyperparameters_of(recipe)
    tunable = [name for name, kind in allowed.items() if kind.tunable]
    if not 1 <= search.max_jobs <= MOST_JOBS:
        raise TrainingError(
            f"maxNumberOfTrainingJobs is {search.max_jobs}; allowed: 1 to {MOST_JOBS}"
        )
    if not tunable:
        raise TrainingError(f"{recipe} has no hyperparameter that performHPO can tune")
    asked = [*search.integers, *search.continuous, *search.categories]
    for name in asked:
        if asked.count(name) > 1:
            raise TrainingError(f"hyperparameter {name} has more than one range")
        if name not in tunable:
            raise TrainingError(
                f"{recipe} has no tunable hyperparameter {name}; tunable: {', '.join(tunable)}"
            )
    if not asked:
        names = [name for name in tunable if name not in hyperparameters]
        if not names:
            raise TrainingError(f"performHPO has nothing to tune: {recipe} was given all of it")
        return {name: _whole(allowed[name]) for name in names}
    return (
        {name: _integers(name, allowed[name], ends) for name, ends in search.integers.items()}
        | {name: _continuous(name, allowed[name], ends) for name, ends in search.continuous.items()}
        | {name: _categories(name, allowed[name], of) for name, of in search.categories.items()}
    )


def candidates(
    ranges: Mapping[str, Range], given: Mapping[str, Value], jobs: int, seed: int
) -> Iterator[dict[str, Value]]:
    """What to try, no two alike: first what was given, where it is in range, then at random."""
    rng = np.random.default_rng(seed)
    base = {**DEFAULTS, **given}
    tried: list[dict[str, Value]] = []
    patience = PATIENCE
    while len(tried) < jobs and patience:
        one = {name: of.draw(rng) for name, of in ranges.items()}
        if not tried:
            one |= {name: base[name] for name, of in ranges.items() if of.holds(base[name])}
        if one in tried:
            patience -= 1
            continue
        patience = PATIENCE
        tried.append(one)
        yield one


def as_text(value: Value) -> str:
    """The value as Personalize writes it."""
    return str(value).lower()


def _whole(kind: Number | Truth) -> Range:
    if isinstance(kind, Truth):
        return Range(values=(True, False))
    if kind.whole:
        return Range(values=range(int(kind.low), int(kind.high) + 1))
    return Range(ends=(kind.low, kind.high))


def _integers(name: str, kind: Number | Truth, ends: tuple[int, int]) -> Range:
    _check_ends(name, kind, ends, whole=True)
    return Range(values=range(ends[0], ends[1] + 1))


def _continuous(name: str, kind: Number | Truth, ends: tuple[float, float]) -> Range:
    _check_ends(name, kind, ends, whole=False)
    return Range(ends=ends)


def _check_ends(name: str, kind: Number | Truth, ends: tuple[float, float], *, whole: bool) -> None:
    low, high = ends
    fits = isinstance(kind, Number) and kind.whole == whole
    if not fits:
        raise TrainingError(
            f"hyperparameter {name} takes {kind}, so its range cannot be "
            f"{'an integer' if whole else 'a continuous'} one"
        )
    assert isinstance(kind, Number)
    if not (math.isfinite(low) and math.isfinite(high) and kind.low <= low <= high <= kind.high):
        raise TrainingError(
            f"the range of hyperparameter {name} is {low:g} to {high:g}; allowed: {kind}, "
            "the least first"
        )


def _categories(name: str, kind: Number | Truth, texts: Sequence[str]) -> Range:
    try:
        values = [kind.parse(text) for text in texts]
    except ValueError:
        values = []
    if not values:
        raise TrainingError(
            f"the categories of hyperparameter {name} are {list(texts)}; allowed: {kind}"
        )
    return Range(values=list(dict.fromkeys(values)))
