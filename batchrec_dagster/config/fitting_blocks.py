"""Checks that the blocks of a declaration fit each other and the declared columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from batchrec_dagster.config.expressions import (
    find_attributes_problem,
    find_column_problem,
    find_condition_problem,
    find_events_problem,
    find_filter_problem,
    find_user_category_problem,
)
from batchrec_dagster.config.list_columns import (
    find_columns_problem,
    find_similar_items_columns_problem,
)
from batchrec_dagster.config.list_table import ListTable
from batchrec_dagster.config.lists import ListSettings, PopularBy
from batchrec_dagster.config.problems import Keys
from batchrec_dagster.config.rules import RuleSettings
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.personalize.conditions import add_age
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.schemas import ITEMS, USERS, Schema, parse_schema

if TYPE_CHECKING:
    from batchrec_dagster.config.declaration import Pipeline

# Settings that only the pipeline's own blocks may have, because they affect all lists. The keys are
# the block and the setting, and the values are the reasons.
SHARED_BY_LISTS = {
    ("gate", "max_shrink"): "the data are compared once, before anything is imported",
    ("retention", "models"): "the models are those of the whole pipeline",
}

Problems = Iterator[tuple[Keys, str | None]]
"""Pairs of a setting's keys and the setting's problem; None without a problem."""


def find_misfits(pipeline: Pipeline) -> list[tuple[Keys, str]]:
    """Return a pair of keys and problem for each setting that conflicts with another block."""
    schemas = {kind: parse_schema(schema) for kind, schema in pipeline.schemas.items()}
    problems = [
        *_find_unreadable_ratings(pipeline),
        *_find_missing_columns(pipeline),
        *_find_missing_times(pipeline),
        *_find_settings_without_effect(pipeline),
    ]
    for published in pipeline.user_lists:
        problems += _find_in_list(published, schemas)
    if pipeline.similar_items is not None:
        problems += _find_in_similar_items(pipeline, pipeline.similar_items, schemas)
    if pipeline.segments is not None:
        problems += _find_in_segments(pipeline, pipeline.segments, schemas)
    return [(keys, problem) for keys, problem in problems if problem is not None]


def _has_event_types(pipeline: Pipeline) -> bool:
    """Return whether interactions may have event types.

    Without declared columns, a column of event types may be recognised.
    """
    columns = pipeline.ratings.columns
    return columns is None or columns.event_type is not None


def _find_unreadable_ratings(pipeline: Pipeline) -> Problems:
    """Yield settings of ratings that the engine or the sensor of new files cannot use."""
    ratings, engine = pipeline.ratings, pipeline.preparation.engine
    fix = "write the rows as Parquet before, as in an upstream asset, or set engine: local"
    if engine != "local" and ratings.query is not None:
        yield ("ratings", "query"), f"preparation.engine {engine} runs no query: {fix}"
    elif engine != "local" and ratings.delta_tables:
        yield ("ratings", "format"), f"preparation.engine {engine} reads no Delta table: {fix}"
    if pipeline.on_new_files.enabled and not ratings.has_visible_files:
        yield (
            ("on_new_files", "enabled"),
            "new files are seen at a path or in s3://, not at"
            f" {ratings.shown_source}: copy them there, or refresh by schedule",
        )


def _find_missing_columns(pipeline: Pipeline) -> Problems:
    """Yield the settings that need a column of the ratings that is not declared."""
    columns, solution = pipeline.ratings.columns, pipeline.solution
    has_no_rating = columns and isinstance(columns.user, int) and columns.rating is None
    if pipeline.interactions.min_rating is not None and has_no_rating:
        yield ("interactions", "min_rating"), "needs ratings.columns.rating: set it, or omit this"
    if not _has_event_types(pipeline):
        for name in ("event_weights", "success"):
            if getattr(solution, name):
                yield ("solution", name), "needs ratings.columns.event_type: set it, or omit this"
    if solution.event_value_threshold is not None and not pipeline.has_event_values:
        problem = "needs ratings.columns.event_value: set it, or omit this"
        yield ("solution", "event_value_threshold"), problem


def _find_missing_times(pipeline: Pipeline) -> Problems:
    """Yield the settings that need times, if the ratings have no times."""
    if pipeline.ratings.has_times:
        return
    needing_times: dict[Keys, object] = {
        ("interactions", "window"): pipeline.interactions.window,
        ("interactions", "latest_per_pair"): pipeline.interactions.latest_per_pair,
        ("batch_users", "active_since"): pipeline.batch_users.active_since,
        ("gate", "max_age_days"): pipeline.gate.max_age_days,
    }
    for name, settings in pipeline.lists.items():
        if settings.users is not None:
            needing_times["lists", name, "users", "active_since"] = settings.users.active_since
        if settings.gate is not None:
            needing_times["lists", name, "gate", "max_age_days"] = settings.gate.max_age_days
    for keys, value in needing_times.items():
        if value:
            yield (
                keys,
                "needs times, and with ratings.columns.timestamp: none there are none: omit this."
                " interactions.duplicates: drop keeps one row of each pair",
            )


def _find_settings_without_effect(pipeline: Pipeline) -> Problems:
    """Yield settings that `lists` replaces, and lists' settings that only the pipeline can have."""
    for name in ("recommendations", "sinks", "experiment"):
        if pipeline.lists and name in pipeline.model_fields_set:
            yield (name,), "with `lists`, each list has its own: move it into a list"
    lists: dict[Keys, ListSettings | SimilarItems] = {
        ("lists", name): settings for name, settings in pipeline.lists.items()
    }
    if pipeline.similar_items is not None:
        lists["similar_items",] = pipeline.similar_items
    for keys, settings in lists.items():
        for (block_name, name), reason in SHARED_BY_LISTS.items():
            block = getattr(settings, block_name)
            if block is not None and name in block.model_fields_set:
                yield (
                    (*keys, block_name, name),
                    f"{reason}: set the pipeline's {block_name}.{name}, and omit it here",
                )


def _find_in_list(published: ListTable, schemas: Mapping[str, Schema]) -> Problems:
    """Yield settings of a list of users that do not fit the declared columns, with the problems."""
    pipeline, settings = published.pipeline, published.settings
    keys: Keys = tuple(published.setting.split("."))
    has_event_types = _has_event_types(pipeline)
    if published.batch_users.filter is not None:
        problem = find_condition_problem(published.batch_users.filter, USERS, schemas)
        yield (*published.users_setting.split("."), "filter"), problem
    if settings.filter and settings.filter_expression:
        problem = find_filter_problem(
            settings.filter_expression, schemas, has_event_types=has_event_types
        )
        yield (*keys, "filter"), problem
    if settings.exploration_weight and pipeline.solution.recipe != USER_PERSONALIZATION:
        yield (
            (*keys, "exploration_weight"),
            f"is for {USER_PERSONALIZATION} only: omit it, or set solution.recipe:"
            f" {USER_PERSONALIZATION}",
        )
    if isinstance(settings.newcomers, PopularBy):
        problem = find_user_category_problem(settings.newcomers.popular_by, schemas)
        yield (*keys, "newcomers", "popular_by"), problem
    if settings.columns is not None:
        layout = pipeline.items.layout if pipeline.items else None
        problem = find_columns_problem(settings.columns, layout, has_event_types=has_event_types)
        yield (*keys, "columns"), problem
    seen = settings.seen_items
    if seen is not None and seen.events is not None:
        problem = find_events_problem(seen.events, has_event_types=has_event_types)
        yield (*keys, "exclude_seen", "events"), problem
    if seen is not None and seen.unless is not None:
        problem = find_condition_problem(seen.unless, ITEMS, add_age(schemas))
        yield (*keys, "exclude_seen", "except"), problem
    if settings.rules is not None:
        in_rules = _find_in_rules(settings.rules, add_age(schemas), has_event_types)
        for rule_keys, problem in in_rules:
            yield (*keys, "rules", *rule_keys), problem


def _find_in_rules(
    rules: RuleSettings, schemas: Mapping[str, Schema], has_event_types: bool
) -> Problems:
    """Yield rules that do not fit the declared columns, with the problems.

    The yielded keys start within the block of rules.
    """
    for keys, condition in rules.conditions_on_items.items():
        yield keys, find_condition_problem(condition, ITEMS, schemas)
    for keys, condition in rules.conditions_on_users.items():
        yield keys, find_condition_problem(condition, USERS, schemas)
    for category in rules.max_per:
        yield ("max_per", category), find_column_problem(category, "categories", schemas)
    if rules.price is not None:
        yield ("price", "of"), find_column_problem(rules.price.of, "numbers", schemas)
    if rules.price is not None and rules.price.events is not None:
        problem = find_events_problem(rules.price.events, has_event_types=has_event_types)
        yield ("price", "events"), problem


def _find_in_similar_items(
    pipeline: Pipeline, settings: SimilarItems, schemas: Mapping[str, Schema]
) -> Problems:
    if settings.events:
        has_event_types = _has_event_types(pipeline)
        problem = find_events_problem(settings.events, has_event_types=has_event_types)
        yield ("similar_items", "events"), problem
    if settings.columns is not None:
        layout = pipeline.items.layout if pipeline.items else None
        problem = find_similar_items_columns_problem(settings.columns, layout)
        yield ("similar_items", "columns"), problem
    if settings.rules is not None and settings.rules.only is not None:
        problem = find_condition_problem(settings.rules.only, ITEMS, add_age(schemas))
        yield ("similar_items", "rules", "only"), problem


def _find_in_segments(
    pipeline: Pipeline, settings: Segments, schemas: Mapping[str, Schema]
) -> Problems:
    if settings.filter:
        problem = find_filter_problem(
            settings.filter, schemas, has_event_types=_has_event_types(pipeline)
        )
        yield ("segments", "filter"), problem
    problems = (find_attributes_problem(expression, schemas) for expression in settings.attributes)
    sentences = [problem.removesuffix(".") for problem in problems if problem is not None]
    if sentences:
        yield ("segments", "attributes"), "; ".join(sentences)
