"""The filters of lists in Personalize, and how the names of resources there end."""

from __future__ import annotations

from collections.abc import Iterator

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.personalize.filter_expressions import EXCLUDE_SEEN
from batchrec_dagster.steps.batch_jobs import (
    FilterDeclaration,
    declare_filter,
    fingerprint_solution,
)

# What the name of the filter for exclude_seen alone ends with.
EXCLUDE_SEEN_ENDING = "exclude-seen"


def declare_list_filter(published: PublishedList) -> FilterDeclaration | None:
    """The filter of a list; None if it contains what users have seen, and sets no filter."""
    settings, setting = published.settings, published.setting
    if settings.filter_expression is None:
        return None
    if settings.filter:
        return declare_filter(f"{setting}.filter", settings.filter_expression)
    setting = f"{setting}.exclude_seen"
    if settings.filter_expression != EXCLUDE_SEEN:
        return declare_filter(setting, settings.filter_expression)
    return FilterDeclaration(setting, settings.filter_expression, EXCLUDE_SEEN_ENDING)


def list_endings(pipeline: Pipeline) -> Iterator[str]:
    """What the names of the solutions and filters in use end with, after the dataset group's."""
    for training in pipeline.trainings.values():
        yield fingerprint_solution(training.recipe, training.parameters)
    # It stays while exclude_seen is off or another filter is tried: either may change back.
    yield EXCLUDE_SEEN_ENDING
    # Each list of the pipeline prunes what none of them needs.
    for published in pipeline.user_lists:
        list_filter = declare_list_filter(published)
        if list_filter is not None:
            yield list_filter.ending
    if pipeline.segments and pipeline.segments.filter:
        yield declare_filter("segments.filter", pipeline.segments.filter).ending
