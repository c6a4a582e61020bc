"""How sure the metrics of a model are: what the embedded engine adds to GetSolutionMetrics.

It comes in a header. Amazon Personalize gives the metrics alone, so there is no evidence for a
model trained there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient
    from types_boto3_personalize.type_defs import GetSolutionMetricsResponseTypeDef

# Personalize's names of metrics.
NDCG, COVERAGE = "normalized_discounted_cumulative_gain_at_25", "coverage"

# In a request, the types of events that the metrics are to count alone, as a JSON array. In the
# answer, the evidence for the metrics.
HEADER = "x-batchrec-evidence"
ALL = "all"

EMBEDDED = "the embedded engine"
AMAZON = "Amazon Personalize"


def name_engine(answer: Mapping[str, Any], endpoint: str, *, on_aws: bool) -> str:
    """In words, the engine that trained and measured the model.

    answer: that of GetSolutionMetrics.
    endpoint: the client's URL.
    """
    if HEADER in answer["ResponseMetadata"]["HTTPHeaders"]:
        return EMBEDDED
    return AMAZON if on_aws else f"the Personalize at {endpoint}"


def get_solution_metrics(
    client: PersonalizeClient,
    solution_version_arn: str,
    success: Sequence[str] = (),
) -> GetSolutionMetricsResponseTypeDef:
    """The answer of GetSolutionMetrics, which counts these events alone if the engine can.

    success: the types of events; empty for all. They are counted if there is evidence.
    """
    events = client.meta.events
    for event, handler in (
        ("before-parameter-build", _take_headers),
        ("before-call", _add_headers),
    ):
        # The same id again replaces nothing and adds nothing.
        events.register(
            f"{event}.personalize.GetSolutionMetrics",
            cast("Any", handler),
            unique_id=f"batchrec-headers-{event}",
        )
    # botocore knows no headers of single requests, so they travel as a parameter up to the handler.
    extra: Any = {_HEADERS_PARAMETER: {HEADER: json.dumps(list(success))}} if success else {}
    return client.get_solution_metrics(solutionVersionArn=solution_version_arn, **extra)


_HEADERS_PARAMETER = "batchrecHeaders"


def _take_headers(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    if _HEADERS_PARAMETER in params:
        context[_HEADERS_PARAMETER] = params.pop(_HEADERS_PARAMETER)


def _add_headers(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    params["headers"].update(context.get(_HEADERS_PARAMETER, {}))


def name_ndcg(success: Sequence[str]) -> str:
    """The name of NDCG@25, such as `NDCG@25 for purchase`.

    success: the types of events that it counts alone; empty if it counts all.
    """
    return f"NDCG@25 for {join_events(success)}" if success else "NDCG@25"


def join_events(events: Sequence[str]) -> str:
    """The types of events in words, such as `cart and purchase`; empty for none."""
    *others, last = events or ("",)
    return f"{', '.join(others)} and {last}" if others else last


def read_evidence(answer: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in the header by GROUP/NAME, as `Evidence.read` takes them; empty without a
    header.

    answer: that of GetSolutionMetrics.
    """
    numbers: dict[str, float] = json.loads(
        answer["ResponseMetadata"]["HTTPHeaders"].get(HEADER, "{}")
    )
    return numbers


@dataclass(frozen=True)
class MetricEstimate:
    """A mean over users, and the ends of its 95% interval, which are None with too few users."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ends of the interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Evidence:
    """NDCG at 25 of a group of tested users."""

    group: str
    users: int
    ndcg: MetricEstimate
    """The model's."""
    popular: MetricEstimate
    """That of recommending the most popular items."""
    difference: MetricEstimate
    """By how much the model is better."""

    @classmethod
    def read(cls, numbers: Mapping[str, float]) -> list[Self]:
        """The groups, all tested users (ALL) first; empty where nothing is known.

        numbers: as `read_evidence` returns them.
        """

        def read_estimate(group: str, name: str) -> MetricEstimate:
            return MetricEstimate(
                numbers[f"{group}/{name}"],
                numbers.get(f"{group}/{name}_low"),
                numbers.get(f"{group}/{name}_high"),
            )

        groups = [key.removesuffix("/users") for key in numbers if key.endswith("/users")]
        return [
            cls(
                group,
                int(numbers[f"{group}/users"]),
                read_estimate(group, "ndcg"),
                read_estimate(group, "popular"),
                read_estimate(group, "difference"),
            )
            for group in groups
        ]


class MeasuredNdcg(Protocol):
    """What was measured of recommending popular items."""

    @property
    def ndcg(self) -> float:
        """NDCG@25."""


class Measured(Protocol):
    """What was measured of a model: its record has it, and an edition that it made."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """By Personalize's names."""

    @property
    def evidence(self) -> Mapping[str, float]:
        """As `Evidence.read` takes it."""

    @property
    def recent_popularity(self) -> MeasuredNdcg | None:
        """What recommending popular items reaches; None if it was not measured."""


def read_ndcg(measured: Measured) -> MetricEstimate | None:
    """The NDCG@25 of a model, with an interval if one is known; None if it is not known."""
    for evidence in Evidence.read(measured.evidence):
        if evidence.group == ALL:
            return evidence.ndcg if evidence.users else None
    ndcg = measured.metrics.get(NDCG)
    return None if ndcg is None else MetricEstimate(ndcg)


def read_popular_ndcg(measured: Measured) -> float | None:
    """The NDCG@25 of recommending the most popular items; None if it is not known.

    Of the items of all time, as the engine measured them, and those of the last days, as batchrec
    did, it is that of the better ones: these are what a model has to beat.
    """
    evidence = measured.evidence
    recent = measured.recent_popularity
    popular_values = [evidence.get(f"{ALL}/popular"), recent.ndcg if recent is not None else None]
    if evidence.get(f"{ALL}/users") == 0:
        return None
    return max((ndcg for ndcg in popular_values if ndcg is not None), default=None)
