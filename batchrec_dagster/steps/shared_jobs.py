"""Which of a pipeline's lists share a batch inference job: those of the same users and filter."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION


def group_lists(pipeline: Pipeline) -> list[list[PublishedList]]:
    """The lists of users in groups that share a batch inference job."""
    groups: dict[tuple[Any, ...], list[PublishedList]] = {}
    for published in pipeline.user_lists:
        groups.setdefault(_make_job_key(published), []).append(published)
    return [*groups.values()]


def list_sharing_lists(published: PublishedList) -> list[PublishedList]:
    """The lists, this one among them, that share its job."""
    if published.subject != "user":
        return [published]
    key = _make_job_key(published)
    return [other for other in published.pipeline.user_lists if _make_job_key(other) == key]


def _make_job_key(published: PublishedList) -> tuple[Any, ...]:
    """What makes the list's job another one than those of other lists."""
    settings = published.settings
    # The job of an experiment is for some of the users.
    has_own_users = published.has_own_users or published.experiment is not None
    explored = None
    recipe, weight = published.pipeline.solution.recipe, settings.exploration_weight
    if recipe == USER_PERSONALIZATION and weight > 0:
        # How many new items are among the first results depends on how many there are. Lists with
        # rules ask for more.
        explored = (weight, settings.num_results, settings.applied_rules is None)
    return (
        published.name if has_own_users else None,
        settings.newcomers is not None,
        settings.filter_expression,
        explored,
    )
