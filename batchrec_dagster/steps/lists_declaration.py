"""What a declaration says of its published lists: worked out once, when it is loaded.

Its runs store it with the lists, and name their resources in Personalize by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.config import Pipeline, PublishedList, fingerprint
from batchrec_dagster.personalize.filter_expressions import EXCLUDE_SEEN
from batchrec_dagster.steps.batch_jobs import (
    FilterDeclaration,
    declare_filter,
    fingerprint_solution,
)

# What the name of the filter for exclude_seen alone ends with.
EXCLUDE_SEEN_ENDING = "exclude-seen"


@dataclass(frozen=True)
class ListsDeclaration:
    """What all runs say of a pipeline's list."""

    source: str
    """The sources of the ratings, without the secrets of URLs."""
    settings: Mapping[str, Any]
    """The settings that decide what is in the lists, by path such as interactions.min_rating."""
    measured_on: str
    """A fingerprint of the settings that select the interactions."""
    how_to_skip_gate: str
    """How to start a run that publishes even if the quality gate fails."""
    filter: FilterDeclaration | None
    """The filter of the lists; None if they contain what users have seen, and set no filter."""
    endings_in_use: frozenset[str]
    """What the names of the solutions and filters of all lists end with, after the dataset group's
    name."""


def describe_lists(published: PublishedList) -> ListsDeclaration:
    """What the declaration says of a list of users, or of the lists of similar items."""
    pipeline, is_of_users = published.pipeline, published.subject == "user"
    return ListsDeclaration(
        source=pipeline.ratings.shown_source,
        settings=published.deciding_settings,
        measured_on=fingerprint(pipeline.interactions),
        how_to_skip_gate=explain_skipping(pipeline),
        filter=_declare_lists_filter(published),
        endings_in_use=frozenset(_list_endings(pipeline)) if is_of_users else frozenset(),
    )


def explain_skipping(pipeline: Pipeline) -> str:
    """How to start a run that no gate stops."""
    return (
        f"`batchrec run {pipeline.name} --publish-anyway` (in Dagster's Launchpad:"
        " publish_anyway: true)"
    )


def _declare_lists_filter(published: PublishedList) -> FilterDeclaration | None:
    settings, setting = published.settings, published.setting
    if settings.filter_expression is None:
        return None
    if settings.filter:
        return declare_filter(f"{setting}.filter", settings.filter_expression)
    setting = f"{setting}.exclude_seen"
    if settings.filter_expression != EXCLUDE_SEEN:
        return declare_filter(setting, settings.filter_expression)
    return FilterDeclaration(setting, settings.filter_expression, EXCLUDE_SEEN_ENDING)


def _list_endings(pipeline: Pipeline) -> Iterator[str]:
    for training in pipeline.trainings.values():
        yield fingerprint_solution(training.recipe, training.parameters)
    # It stays while exclude_seen is off or another filter is tried: either may change back.
    yield EXCLUDE_SEEN_ENDING
    # Each list of the pipeline prunes what none of them needs.
    for published in pipeline.user_lists:
        lists_filter = _declare_lists_filter(published)
        if lists_filter is not None:
            yield lists_filter.ending
    if pipeline.segments and pipeline.segments.filter:
        yield declare_filter("segments.filter", pipeline.segments.filter).ending
