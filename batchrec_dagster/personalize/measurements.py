"""The metrics of a model, and the measurements that the embedded engine adds to them.

The embedded engine adds NDCG@25 by groups of tested users, in a header of its answer to
GetSolutionMetrics. The groups help to tell a model's NDCG from chance. Amazon Personalize gives
only the metrics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient
    from types_boto3_personalize.type_defs import GetSolutionMetricsResponseTypeDef

# Personalize's names of metrics.
NDCG, COVERAGE = "normalized_discounted_cumulative_gain_at_25", "coverage"

# In a request, the header holds the only types of events that the metrics shall count, as a JSON
# array. In the answer, it holds a JSON object with the types that were counted, and the groups.
HEADER = "x-batchrec-measurements"
# botocore cannot set headers for a single request. So the headers travel to the handler as a
# parameter of this name.
_HEADERS_PARAMETER = "batchrecHeaders"

EMBEDDED_ENGINE = "the embedded engine"
AMAZON = "Amazon Personalize"


def name_engine(answer: Mapping[str, Any], endpoint: str, *, on_aws: bool) -> str:
    """Return the name of the engine that trained and measured the model, in words.

    answer: the answer of GetSolutionMetrics.
    endpoint: the client's URL.
    """
    if HEADER in answer["ResponseMetadata"]["HTTPHeaders"]:
        return EMBEDDED_ENGINE
    return AMAZON if on_aws else f"the Personalize at {endpoint}"


def get_solution_metrics(
    client: PersonalizeClient,
    solution_version_arn: str,
    success: Sequence[str] = (),
) -> GetSolutionMetricsResponseTypeDef:
    """Return the answer of GetSolutionMetrics, counting only these events if the engine can.

    success: the types of events to count; empty for all. A header of the answer names the types
        that were counted.
    """
    events = client.meta.events
    for event, handler in (
        ("before-parameter-build", _take_headers),
        ("before-call", _add_headers),
    ):
        # A second registration with the same id has no effect.
        events.register(
            f"{event}.personalize.GetSolutionMetrics",
            cast("Any", handler),
            unique_id=f"batchrec-headers-{event}",
        )
    extra: Any = {_HEADERS_PARAMETER: {HEADER: json.dumps(list(success))}} if success else {}
    return client.get_solution_metrics(solutionVersionArn=solution_version_arn, **extra)


def _take_headers(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    if _HEADERS_PARAMETER in params:
        context[_HEADERS_PARAMETER] = params.pop(_HEADERS_PARAMETER)


def _add_headers(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    params["headers"].update(context.get(_HEADERS_PARAMETER, {}))


def name_ndcg(success: Sequence[str]) -> str:
    """Return the name of the metric NDCG@25, such as `NDCG@25 for purchase`.

    success: the only types of events that the metric counts; empty if it counts all.
    """
    return f"NDCG@25 for {join_words(success)}" if success else "NDCG@25"


def join_words(words: Sequence[str]) -> str:
    """Join words as in a sentence, such as `view, cart and purchase`; empty for no words."""
    *first_words, last = words or ("",)
    return f"{', '.join(first_words)} and {last}" if first_words else last


def read_header(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the embedded engine's additions: `groups` and `success`.

    The dict is empty for Amazon Personalize, which adds nothing.

    answer: the answer of GetSolutionMetrics.
    """
    added: dict[str, Any] = json.loads(answer["ResponseMetadata"]["HTTPHeaders"].get(HEADER, "{}"))
    return added
