"""Whether the blocks of a declaration fit each other and the columns that it declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from batchrec_dagster.config.expressions import (
    find_attributes_problem,
    find_column_problem,
    find_columns_problem,
    find_condition_problem,
    find_events_problem,
    find_filter_problem,
    find_similar_items_columns_problem,
    find_user_category_problem,
)
from batchrec_dagster.config.lists import ListSettings, PopularBy, RecommendationSettings
from batchrec_dagster.config.rules import ListRules
from batchrec_dagster.config.settings import Keys, raise_field_errors
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.personalize.conditions import add_age
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.schemas import ITEMS, USERS, Schema, parse_schema
from batchrec_dagster.storage.layout import SIMILAR_ITEMS

if TYPE_CHECKING:
    from batchrec_dagster.config.declaration import Pipeline


# The settings in blocks of lists that would have no effect, as what they decide is shared: their
# block and name, and the reason.
SHARED_BY_LISTS = {
    ("gate", "max_shrink"): "the data are compared once, before anything is imported",
    ("retention", "models"): "the models are those of the whole pipeline",
}


def require_fitting_blocks(pipeline: Pipeline) -> None:
    """Raise ValueError, or ValidationError with the keys of the settings, for blocks that do not
    fit each other."""
    for problem in _find_problems_of_several_blocks(pipeline):
        raise ValueError(problem)
    for find_problems in (
        _find_rows_that_spark_lacks,
        _find_missing_columns,
        _find_blocks_that_lists_replace,
        _find_settings_that_lists_share,
    ):
        raise_field_errors(find_problems(pipeline))


def _find_problems_of_several_blocks(pipeline: Pipeline) -> Iterator[str]:
    """What is wrong between two blocks, in sentences that name both."""
    ratings = pipeline.ratings
    columns = ratings.columns
    has_no_rating = columns and isinstance(columns.user, int) and columns.rating is None
    if pipeline.interactions.min_rating is not None and has_no_rating:
        yield "interactions.min_rating needs ratings.columns.rating: set it, or omit min_rating"
    needing_times = {
        "interactions.window": pipeline.interactions.window,
        "interactions.latest_per_pair": pipeline.interactions.latest_per_pair,
        "batch_users.active_since": pipeline.batch_users.active_since,
        "gate.max_age_days": pipeline.gate.max_age_days,
    }
    lists: dict[str, RecommendationSettings] = {"recommendations": pipeline.recommendations}
    for name, settings in pipeline.lists.items():
        lists[f"lists.{name}"] = settings
        if settings.users is not None:
            needing_times[f"lists.{name}.users.active_since"] = settings.users.active_since
        if settings.gate is not None:
            needing_times[f"lists.{name}.gate.max_age_days"] = settings.gate.max_age_days
    for name, value in needing_times.items() if not ratings.has_times else ():
        if value:
            yield (
                f"with ratings.columns.timestamp: none there are no times, which {name} needs:"
                " omit it. interactions.duplicates: drop keeps one row of each pair"
            )
    explores = pipeline.solution.recipe == USER_PERSONALIZATION
    for name, list_settings in lists.items():
        if list_settings.exploration_weight and not explores:
            yield (
                f"{name}.exploration_weight is for {USER_PERSONALIZATION} only: omit it, or set"
                f" solution.recipe: {USER_PERSONALIZATION}"
            )
    if pipeline.on_new_files.enabled and not ratings.has_visible_files:
        yield (
            "on_new_files sees new files at a path or in s3://, not at"
            f" {ratings.shown_source}: copy them there, or refresh by schedule"
        )


def _find_rows_that_spark_lacks(pipeline: Pipeline) -> Iterator[tuple[Keys, str]]:
    """The settings of the ratings whose rows only the local engine makes."""
    ratings, engine = pipeline.ratings, pipeline.preparation.engine
    if engine == "local":
        return
    fix = "write the rows as Parquet before, as in an upstream asset, or set engine: local"
    if ratings.query is not None:
        yield ("ratings", "query"), f"preparation.engine {engine} runs no query: {fix}"
    elif ratings.delta_tables:
        yield ("ratings", "format"), f"preparation.engine {engine} reads no Delta table: {fix}"


def _find_missing_columns(pipeline: Pipeline) -> Iterator[tuple[Keys, str]]:
    """The settings that need a column of the ratings which is not declared."""
    columns, solution = pipeline.ratings.columns, pipeline.solution
    if columns is not None and columns.event_type is None:
        needing_event_types = {
            ("solution", "event_weights"): solution.event_weights,
            ("solution", "success"): solution.success,
        }
        for keys, value in needing_event_types.items():
            if value:
                yield keys, "needs ratings.columns.event_type"
    has_event_values = columns is not None and columns.event_value is not None
    if solution.event_value_threshold is not None and not has_event_values:
        yield ("solution", "event_value_threshold"), "needs ratings.columns.event_value"


def _find_blocks_that_lists_replace(pipeline: Pipeline) -> Iterator[tuple[Keys, str]]:
    if not pipeline.lists:
        return
    for name in ("recommendations", "sinks", "experiment"):
        if name in pipeline.model_fields_set:
            yield (name,), "with `lists`, each list has its own: move it into a list"


def _find_settings_that_lists_share(pipeline: Pipeline) -> Iterator[tuple[Keys, str]]:
    """The settings of single lists that only the pipeline can have."""
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


def find_expression_problems(pipeline: Pipeline) -> dict[Keys, str]:
    """What is wrong with the expressions of the declaration, by the keys of the setting."""
    schemas = {kind: parse_schema(schema) for kind, schema in pipeline.schemas.items()}
    problems: dict[Keys, str] = {}
    for keys, problem in _find_all(pipeline, schemas):
        if problem:
            problems[keys] = f"{problems[keys]}; {problem}" if keys in problems else problem
    return problems


def _find_all(
    pipeline: Pipeline, schemas: Mapping[str, Schema]
) -> Iterator[tuple[Keys, str | None]]:
    # Without declared columns, the one of event types may be recognised.
    columns = pipeline.ratings.columns
    has_event_types = columns is None or columns.event_type is not None
    find_problem = partial(find_filter_problem, schemas=schemas, events=has_event_types)
    users_of: dict[Keys, str | None] = {("batch_users",): pipeline.batch_users.filter}
    lists_of: dict[Keys, RecommendationSettings] = {("recommendations",): pipeline.recommendations}
    for name, settings in pipeline.lists.items():
        lists_of["lists", name] = settings
        if settings.users is not None:
            users_of["lists", name, "users"] = settings.users.filter
    for keys, condition in users_of.items():
        if condition is not None:
            yield (*keys, "filter"), find_condition_problem(condition, USERS, schemas)
    for keys, lists in lists_of.items():
        if lists.filter and lists.filter_expression:
            yield (*keys, "filter"), find_problem(lists.filter_expression)
        if isinstance(lists.newcomers, PopularBy):
            column = lists.newcomers.popular_by
            problem = find_user_category_problem(column, schemas)
            yield (*keys, "newcomers", "popular_by"), problem
        if lists.columns is not None:
            layout = pipeline.items.layout if pipeline.items else None
            problem = find_columns_problem(lists.columns, layout, has_event_types=has_event_types)
            yield (*keys, "columns"), problem
        seen = lists.seen_items
        if seen is not None and seen.events is not None:
            problem = find_events_problem(seen.events, has_event_types=has_event_types)
            yield (*keys, "exclude_seen", "events"), problem
        if seen is not None and seen.unless is not None:
            problem = find_condition_problem(seen.unless, ITEMS, add_age(schemas))
            yield (*keys, "exclude_seen", "except"), problem
        if lists.rules is not None:
            in_rules = _find_in_rules(lists.rules, add_age(schemas), has_event_types)
            for rule_keys, problem in in_rules:
                yield (*keys, "rules", *rule_keys), problem
    if pipeline.similar_items is not None:
        yield from _find_in_similar_items(pipeline, pipeline.similar_items, schemas)
    if pipeline.segments:
        if pipeline.segments.filter:
            yield ("segments", "filter"), find_problem(pipeline.segments.filter)
        for expression in pipeline.segments.attributes:
            yield ("segments", "attributes"), find_attributes_problem(expression, schemas)


def _find_in_similar_items(
    pipeline: Pipeline, settings: SimilarItems, schemas: Mapping[str, Schema]
) -> Iterator[tuple[Keys, str | None]]:
    block = SIMILAR_ITEMS
    columns = pipeline.ratings.columns
    has_event_types = columns is None or columns.event_type is not None
    if settings.events:
        problem = find_events_problem(settings.events, has_event_types=has_event_types)
        yield (block, "events"), problem
    if settings.columns is not None:
        layout = pipeline.items.layout if pipeline.items else None
        yield (block, "columns"), find_similar_items_columns_problem(settings.columns, layout)
    if settings.rules is not None and settings.rules.only is not None:
        problem = find_condition_problem(settings.rules.only, ITEMS, add_age(schemas))
        yield (block, "rules", "only"), problem


def _find_in_rules(
    rules: ListRules, schemas: Mapping[str, Schema], has_event_types: bool
) -> Iterator[tuple[Keys, str | None]]:
    """What keeps a rule from working with the declared columns, by the keys of its setting."""
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
