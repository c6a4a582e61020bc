"""The interactions that a solution version is trained on, and that it recommends from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from batchrec_dagster.personalize import schemas

from ..catalogue import Resource
from ..engine.content import ItemFeatures, read_features
from ..engine.data import WEIGHT, Interactions
from ..errors import JobFailedError
from ..imported_rows import DatasetReader
from ..jobs import Job
from ..trained_recipes import PERSONALIZATION, RECIPES
from .dataset_groups import read_schema


class EventRule(NamedTuple):
    """A rule that selects interactions and sets their weight."""

    conditions: dict[str, str | float]
    """The required EVENT_TYPE and the least EVENT_VALUE of a row. Either may be missing."""
    weight: float
    """The weight of the interactions. Only the ratios between the weights of rules matter."""


_EVERYTHING = [EventRule({}, 1.0)]


def read_training_data(job: Job) -> Interactions:
    """Return the interactions to train the job's solution version on.

    Raises JobFailedError if there are too few interactions or users.
    """
    version = job.resource
    recipe = RECIPES[version.body["recipeArn"]]
    reader = job.make_reader(full_imports_only=recipe.makes_segments)
    rules = _read_event_rules(version.body)
    if rules == _EVERYTHING:
        interactions = reader.read_interactions(version.state["dataset"])
    else:
        interactions = _select_events(reader, version.state["dataset"], rules)
    job.report_progress(f"{len(interactions):,} interactions")
    _check_minimums(interactions)
    return interactions


def read_histories(job: Job, version: Resource) -> Interactions:
    """Return the interactions to recommend from.

    By default, these are all interactions. If the version's event rules have different weights or
    least values, the rules select the interactions, as they do in training.

    version: the solution version that the job recommends with.
    """
    reader = job.make_reader()
    dataset_arn = reader.find_dataset(version.body["datasetGroupArn"], schemas.INTERACTIONS)
    rules = _read_event_rules(version.body)
    has_least_values = any(schemas.EVENT_VALUE in rule.conditions for rule in rules)
    if has_least_values or _has_different_weights(rules):
        return _select_events(reader, dataset_arn, rules)
    return reader.read_interactions(dataset_arn)


def read_item_features(job: Job) -> ItemFeatures | None:
    """Return the features of the Items dataset.

    Returns None if the dataset has no data, if no column tells items apart, or if the recipe does
    not read features.
    """
    version = job.resource.body
    if RECIPES[version["recipeArn"]].type != PERSONALIZATION:
        return None
    group_arn = version["datasetGroupArn"]
    with job.catalogue.open_for_reading() as transaction:
        dataset = transaction.find_dataset(group_arn, schemas.ITEMS)
        if dataset is None or not dataset.state["files"]:
            return None
        fields = read_schema(transaction, dataset).fields
    columns = dict.fromkeys([schemas.ITEM_ID, *(field.name for field in fields)])

    def take(rows: pl.LazyFrame) -> ItemFeatures | None:
        # One column at a time is in memory.
        return read_features(fields, lambda name: rows.select(schemas.ITEM_ID, name).collect())

    features = job.make_reader().read_rows(dataset.arn, list(columns), take)
    if features is not None:
        item_count, feature_count = features.matrix.shape
        job.report_progress(f"{item_count:,} items with {feature_count:,} features")
    return features


def add_event_types(job: Job, choices: pl.DataFrame) -> pl.DataFrame:
    """Return the choices without ids, with a list of the types of their events in EVENT_TYPE.

    If the data have no event types, the result has no such column. A chosen item is new to its
    user. So all events of the user with the item that match an event rule belong to the choice.

    choices: the table `Measurements.choices`.

    Raises JobFailedError if the data are gone or damaged.
    """
    version = job.resource
    rules = _read_event_rules(version.body)
    ids = [schemas.USER_ID, schemas.ITEM_ID]
    rule_columns = [name for rule in rules for name in rule.conditions]
    columns = list(dict.fromkeys([*ids, schemas.EVENT_TYPE, *rule_columns]))

    def find_types(rows: pl.LazyFrame) -> pl.DataFrame:
        # A lookup among the few user ids leaves out most rows before the join.
        users = choices.get_column(schemas.USER_ID).unique()
        matching = rows.filter(pl.col(schemas.USER_ID).is_in(users.implode()))
        if all(rule.conditions for rule in rules):
            conditions = [_make_condition(rule) for rule in rules]
            matching = matching.filter(pl.any_horizontal(conditions))
        types = matching.group_by(ids).agg(pl.col(schemas.EVENT_TYPE).str.to_lowercase().unique())
        return choices.lazy().join(types, on=ids, how="left").drop(ids).collect(engine="streaming")

    try:
        return job.make_reader().read_rows(version.state["dataset"], columns, find_types)
    except pl.exceptions.ColumnNotFoundError:
        return choices.drop(ids)


def _read_event_rules(version: Mapping[str, Any]) -> list[EventRule]:
    """Return the event rules in the configuration of a solution version.

    version: the version's members of Describe.
    """
    config = version.get("solutionConfig", {})
    events = config.get("eventsConfig", {}).get("eventParametersList")
    if not events:
        threshold = config.get("eventValueThreshold")
        events = [{"eventType": version.get("eventType"), "eventValueThreshold": threshold}]
    rules = []
    for event in events:
        if event.get("weight") == 0:
            continue
        conditions: dict[str, str | float] = {}
        if event.get("eventType") is not None:
            conditions[schemas.EVENT_TYPE] = event["eventType"]
        if event.get("eventValueThreshold") is not None:
            conditions[schemas.EVENT_VALUE] = event["eventValueThreshold"]
        rules.append(EventRule(conditions, float(event.get("weight", 1.0))))
    return rules


def _has_different_weights(rules: Sequence[EventRule]) -> bool:
    return len({rule.weight for rule in rules}) > 1


def _select_events(
    reader: DatasetReader, dataset_arn: str, rules: Sequence[EventRule]
) -> Interactions:
    """Return the interactions that match a rule, with weights if the rules' weights differ.

    An interaction that matches several rules gets the largest weight of these rules.

    Raises JobFailedError if the dataset lacks a column of the rules.
    """
    own_columns = [schemas.USER_ID, schemas.ITEM_ID, schemas.TIMESTAMP]
    rule_columns = [name for rule in rules for name in rule.conditions]
    largest_weight = max(rule.weight for rule in rules)
    weights = [
        pl.when(_make_condition(rule)).then(pl.lit(rule.weight / largest_weight, pl.Float32))
        for rule in rules
    ]
    needs_weight = _has_different_weights(rules)

    def take(rows: pl.LazyFrame) -> Interactions:
        weighted = rows.with_columns(pl.max_horizontal(weights).alias(WEIGHT))
        matching = weighted.filter(pl.col(WEIGHT).is_not_null())
        columns = [*own_columns, WEIGHT] if needs_weight else own_columns
        return Interactions.from_frame(matching.select(columns))

    needed_columns = list(dict.fromkeys([*own_columns, *rule_columns]))
    try:
        return reader.read_rows(dataset_arn, needed_columns, take)
    except pl.exceptions.ColumnNotFoundError as error:
        raise JobFailedError(f"Create failed. The interactions lack a column: {error}") from None


def _make_condition(rule: EventRule) -> pl.Expr:
    return pl.all_horizontal(
        pl.col(name) >= float(value) if name == schemas.EVENT_VALUE else pl.col(name) == value
        for name, value in rule.conditions.items()
    )


def _check_minimums(interactions: Interactions) -> None:
    """Raise JobFailedError for fewer interactions or users than Amazon Personalize needs."""
    if len(interactions) < schemas.MIN_INTERACTIONS:
        raise JobFailedError(
            f"Create failed. Dataset has {len(interactions)} interactions to train on, fewer than"
            f" {schemas.MIN_INTERACTIONS}."
        )
    active_users = np.count_nonzero(np.diff(interactions.starts) >= 2)
    if active_users < schemas.MIN_USERS_WITH_TWO_INTERACTIONS:
        raise JobFailedError(
            "Create failed. Dataset has fewer than"
            f" {schemas.MIN_USERS_WITH_TWO_INTERACTIONS} users with at least 2 interactions each."
        )
    user_count = len(interactions.user_ids)
    if active_users < schemas.MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS * user_count:
        raise JobFailedError(
            "Create failed. Fewer than 1 % of the users have at least 2 interactions each."
        )
