"""What the embedded engine adds to GetSolutionMetrics in a header: how sure the metrics are.

Amazon Personalize gives the metrics alone, so there is no evidence for a model trained there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

# Personalize's names of metrics.
NDCG, COVERAGE = "normalized_discounted_cumulative_gain_at_25", "coverage"

HEADER = "x-batchrec-evidence"
ALL = "all"

EMBEDDED = "the embedded engine"
AMAZON = "Amazon Personalize"


def name_engine(answer: Mapping[str, Any], endpoint: str, *, on_aws: bool) -> str:
    """What answered GetSolutionMetrics, in words: the engine that trained and measured the model.

    endpoint: the client's URL.
    """
    if HEADER in answer["ResponseMetadata"]["HTTPHeaders"]:
        return EMBEDDED
    return AMAZON if on_aws else f"the Personalize at {endpoint}"


def read_evidence(answer: Mapping[str, Any]) -> dict[str, float]:
    """The header's numbers by GROUP/NAME, as `Evidence.read` takes them; empty without one."""
    numbers: dict[str, float] = json.loads(
        answer["ResponseMetadata"]["HTTPHeaders"].get(HEADER, "{}")
    )
    return numbers


@dataclass(frozen=True)
class MetricEstimate:
    """A mean over users and its 95 % interval; None with too few users."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Evidence:
    """NDCG at 25 of a group of tested users: the model's, popularity's, the model's lead."""

    group: str
    users: int
    ndcg: MetricEstimate
    popular: MetricEstimate
    difference: MetricEstimate

    @classmethod
    def read(cls, numbers: Mapping[str, float]) -> list[Self]:
        """The groups, all tested users (ALL) first; empty where nothing is known."""
        names = ("ndcg", "popular", "difference")
        return [
            cls(
                group,
                int(users),
                *(
                    MetricEstimate(
                        numbers[f"{group}/{name}"],
                        numbers.get(f"{group}/{name}_low"),
                        numbers.get(f"{group}/{name}_high"),
                    )
                    for name in names
                ),
            )
            for key, users in numbers.items()
            for group, _, of in [key.partition("/")]
            if of == "users"
        ]
