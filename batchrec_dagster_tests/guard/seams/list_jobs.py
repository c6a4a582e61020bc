"""Batch inference jobs for the lists of a pipeline: numbers of results, and shared jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.config import Pipeline, shared_jobs
from batchrec_dagster.steps.lists import job as list_jobs


@dataclass(frozen=True)
class PersonalizeLimits:
    """The maximum numbers of a job's results and of a user's interactions that a filter sees."""

    max_results: int = 500
    filter_interactions: int = 100


def count_results(
    attributes: Mapping[str, Any], *, users: int, history: int, some_untitled: bool = False
) -> int:
    """Return the number of results per user that a job for all lists of a pipeline asks for.

    attributes: the attributes of the pipeline, as its YAML has them.
    users: the number of users that get lists.
    history: the number of items of the user with the longest history.
    some_untitled: whether lists show titles and some items have no title.
    """
    pipeline = Pipeline.model_validate(attributes)
    limits: Any = PersonalizeLimits()
    return max(
        list_jobs.choose_num_results_of_list(
            limits, published, users, history, leaves_out_untitled=some_untitled
        )
        for published in pipeline.user_lists
    )


def group_lists(attributes: Mapping[str, Any]) -> list[list[str]]:
    """Return, for each batch inference job, the names of the lists that share the job.

    attributes: the attributes of a pipeline with the block `lists`.
    """
    pipeline = Pipeline.model_validate(attributes)
    groups = shared_jobs.group_lists(pipeline)
    return [[published.name for published in group] for group in groups]
