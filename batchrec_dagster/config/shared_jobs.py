"""The grouping of a pipeline's lists that share a batch inference job.

Lists share a job if they have the same users and the same filter. With the recipe
User-Personalization, lists with an exploration weight above 0 must also have the same weight and
the same num_results, and all or none of them must have rules. A list with an experiment has its own
job.
"""

from __future__ import annotations

from typing import Any

from batchrec_dagster.config.declaration import Pipeline
from batchrec_dagster.config.list_table import ListTable
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION


def group_lists(pipeline: Pipeline) -> list[list[ListTable]]:
    """Return the pipeline's lists of users, in groups that share a batch inference job."""
    groups: dict[tuple[Any, ...], list[ListTable]] = {}
    for published in pipeline.user_lists:
        groups.setdefault(_make_job_key(published), []).append(published)
    return [*groups.values()]


def list_sharing_lists(published: ListTable) -> list[ListTable]:
    """Return the lists that share this list's batch job, including this list.

    Only lists for users share jobs.
    """
    if not published.is_for_people:
        return [published]
    key = _make_job_key(published)
    return [other for other in published.pipeline.user_lists if _make_job_key(other) == key]


def _make_job_key(published: ListTable) -> tuple[Any, ...]:
    """Return the settings that decide the list's job. Lists with equal keys share a job."""
    settings = published.settings
    # The job of a list with an experiment is for some of the users only.
    has_own_users = published.has_own_users or published.experiment is not None
    explored = None
    recipe, weight = published.pipeline.solution.recipe, settings.exploration_weight
    if recipe == USER_PERSONALIZATION and weight > 0:
        # With exploration, the number of new items among the first results depends on the number
        # of results that are asked for. Lists with rules ask for more results.
        explored = (weight, settings.num_results, settings.applied_rules is None)
    return (
        published.name if has_own_users else None,
        settings.newcomers is not None,
        settings.filter_expression,
        explored,
    )
