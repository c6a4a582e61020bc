"""The metrics of a model, and what the embedded engine adds to GetSolutionMetrics in a header.

That is NDCG@25 by groups of tested users, which tells it from chance. Amazon Personalize gives the
metrics alone.
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

# In a request, the types of events that the metrics are to count alone, as a JSON array. In the
# answer, a JSON object with those that they count, and the groups.
HEADER = "x-batchrec-measurements"
# botocore knows no headers of single requests, so they travel as a parameter of this name up to the
# handler.
_HEADERS_PARAMETER = "batchrecHeaders"

EMBEDDED_ENGINE = "the embedded engine"
AMAZON = "Amazon Personalize"


def name_engine(answer: Mapping[str, Any], endpoint: str, *, on_aws: bool) -> str:
    """In words, the engine that trained and measured the model.

    answer: that of GetSolutionMetrics.
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
    """The answer of GetSolutionMetrics, which counts these events alone if the engine can.

    success: the types of events; empty for all. The header of the answer has those that count.
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
    extra: Any = {_HEADERS_PARAMETER: {HEADER: json.dumps(list(success))}} if success else {}
    return client.get_solution_metrics(solutionVersionArn=solution_version_arn, **extra)


def _take_headers(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    if _HEADERS_PARAMETER in params:
        context[_HEADERS_PARAMETER] = params.pop(_HEADERS_PARAMETER)


def _add_headers(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    params["headers"].update(context.get(_HEADERS_PARAMETER, {}))


def name_ndcg(success: Sequence[str]) -> str:
    """The name of NDCG@25, such as `NDCG@25 for purchase`.

    success: the types of events that it counts alone; empty if it counts all.
    """
    return f"NDCG@25 for {join_words(success)}" if success else "NDCG@25"


def join_words(words: Sequence[str]) -> str:
    """The words as a sentence has them, such as `view, cart and purchase`; empty for none."""
    *others, last = words or ("",)
    return f"{', '.join(others)} and {last}" if others else last


def read_header(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What the embedded engine adds: `groups` and `success`; empty from Amazon Personalize.

    answer: that of GetSolutionMetrics.
    """
    added: dict[str, Any] = json.loads(answer["ResponseMetadata"]["HTTPHeaders"].get(HEADER, "{}"))
    return added
