"""The filter of a batch job, in Personalize."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from batchrec_dagster.resources.ensure import Ensure
from batchrec_dagster.resources.kinds import FILTER


def filter_arn(
    ensure: Ensure, solution_version: Mapping[str, Any], name: str, expression: str, setting: str
) -> str:
    """The filter's ARN, made in the solution version's dataset group if there is none.

    Raises dg.Failure, which names the setting, when Personalize refuses it.
    """
    group = solution_version["dataset_group_arn"]
    try:
        return ensure.named(
            FILTER,
            f"{solution_version['dataset_group_name']}-{name}",
            {"datasetGroupArn": group, "filterExpression": expression},
            datasetGroupArn=group,
        ).arn
    except dg.Failure as failure:
        raise dg.Failure(
            f"{setting}: {failure.description}",
            metadata=failure.metadata,
            allow_retries=False,
        ) from failure
