"""What hyperparameter optimization (performHPO) may try, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DEFAULT_JOBS = 10
MOST_JOBS = 40  # HPOResourceConfig.maxNumberOfTrainingJobs


@dataclass(frozen=True)
class Search:
    """Ranges by hyperparameter name, both ends allowed; without any, the recipe's own serve.

    `max_jobs` trainings are tried at most, the first with the values that were given.
    """

    max_jobs: int = DEFAULT_JOBS
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    continuous: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
