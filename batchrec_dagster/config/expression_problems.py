"""Whether filters, conditions and columns of a declaration fit the datasets that it declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from batchrec_dagster.config.filter_problems import (
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
from batchrec_dagster.config.recommendations import PopularBy, RecommendationSettings
from batchrec_dagster.config.rules import ListRules
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.config.validation import Keys
from batchrec_dagster.personalize.conditions import add_age
from batchrec_dagster.personalize.schemas import ITEMS, USERS, Schema, parse_schema
from batchrec_dagster.storage.layout import SIMILAR_ITEMS

if TYPE_CHECKING:
    from batchrec_dagster.config.pipeline import Pipeline


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
