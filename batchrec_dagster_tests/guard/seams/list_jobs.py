"""Batch inference jobs of lists: a pipeline in, what they ask for out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.config import Pipeline
from batchrec_dagster.steps import list_jobs, shared_jobs


@dataclass(frozen=True)
class PersonalizeLimits:
    """How many results a job gives at most, and how many interactions of a user a filter sees."""

    max_results: int = 500
    filter_interactions: int = 100


def count_results(
    attributes: Mapping[str, Any], *, users: int, history: int, some_untitled: bool = False
) -> int:
    """How many results a job for all lists of a pipeline is asked for, for each user.

    history: how many items the user with the most had.
    some_untitled: whether lists show titles, which some items do not have.
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
    """The names of the lists that share a batch inference job, for each job.

    attributes: those of a pipeline with `lists`.
    """
    pipeline = Pipeline.model_validate(attributes)
    groups = shared_jobs.group_lists(pipeline)
    return [[published.name for published in group] for group in groups]
