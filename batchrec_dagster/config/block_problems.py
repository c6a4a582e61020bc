"""Whether the blocks of a declaration fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchrec_dagster.config.lists import ListSettings
from batchrec_dagster.config.recommendations import RecommendationSettings
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.config.validation import Keys, raise_field_errors
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION

if TYPE_CHECKING:
    from batchrec_dagster.config.pipeline import Pipeline

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
