"""The asset interactions, which Personalize learns from, and batch_users, who get lists."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from batchrec_dagster.config import ListTable, Pipeline, fingerprint
from batchrec_dagster.config.items_and_users import BatchUsers
from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.formats import USER_FIELD
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.pipeline.assets.raw import DataConfig, build_size_check
from batchrec_dagster.pipeline.declare_asset import PREPARED, PipelineAsset, asset_of
from batchrec_dagster.pipeline.open_step import open_step
from batchrec_dagster.pipeline.results import build_table_metadata, result_to_dagster
from batchrec_dagster.pipeline.run_history import DagsterRuns
from batchrec_dagster.pipeline.spark_jobs import choose_spark
from batchrec_dagster.pipeline.upstream import find_upstream
from batchrec_dagster.preparation.row_rules import PreparationResult, RowRules
from batchrec_dagster.steps.data.checks import SOURCE_WITHOUT_ERASED
from batchrec_dagster.steps.data.data_sizes import SizeComparison
from batchrec_dagster.steps.data.interactions import fingerprint_preparation, prepare_interactions
from batchrec_dagster.steps.data.interactions_record import InteractionsRecord
from batchrec_dagster.steps.data.ratings import RawRatings

if TYPE_CHECKING:
    from batchrec_dagster.steps.data.batch_users import BatchUsersRecord

USERS_VERSION = "2"

COLUMNS = {
    schemas.USER_ID: ("string", "The user's id, as in the ratings file."),
    schemas.ITEM_ID: ("string", "The item's id, as in the ratings file."),
    schemas.TIMESTAMP: ("long", "When, in epoch seconds."),
    schemas.EVENT_TYPE: ("string", "The kind of interaction, for filters on interactions."),
    schemas.EVENT_VALUE: ("float", "A number that belongs to the event; may be missing."),
}


def interactions(pipeline: Pipeline) -> PipelineAsset:
    """Declare the asset of the ratings that count."""
    rules = pipeline.rules
    engine = pipeline.preparation.engine

    @asset_of(
        pipeline,
        "interactions",
        description="What each user did with which item, and when: the ratings that count, as"
        f" the CSV file that Personalize imports and learns from. {_describe_rules(rules)}",
        kinds={"polars" if engine == "local" else "spark", "csv"},
        inputs=["raw_ratings"],
        stage=PREPARED,
        storage_key=pipeline.keys.interactions,
        code_version=fingerprint_preparation(pipeline),
        io_manager="interactions_io",
        checks={
            "enough_interactions": "There are as many interactions and users as Personalize needs.",
            "timestamps_plausible": "The timestamps are between 1980 and now, in seconds.",
            "few_event_types": "There are as few event types as Personalize allows.",
            **build_size_check("interactions"),
        },
        warnings={
            SOURCE_WITHOUT_ERASED: "The source has no rows of people who were erased.",
        },
    )
    def interactions(
        context: dg.AssetExecutionContext, config: DataConfig, raw_ratings: RawRatings
    ) -> dg.MaterializeResult[Any]:
        start = time.monotonic()
        step = open_step(pipeline, context)
        spark = choose_spark(pipeline.preparation)
        result = prepare_interactions(
            step,
            raw_ratings,
            SizeComparison(step, "interactions", publish_anyway=config.publish_anyway),
            DagsterRuns(context.instance),
            partial(spark, context, step.storage) if spark else None,
        )
        if not result.is_unchanged:
            _log_result(context, result.record.rows, time.monotonic() - start)
        return result_to_dagster(
            result, step.files.interactions, _build_interactions_metadata(pipeline, result.record)
        )

    return interactions


def _log_result(
    context: dg.AssetExecutionContext, result: PreparationResult, seconds: float
) -> None:
    context.log.debug(
        f"kept {result.rows_kept:,} of {result.rows_read:,} rows in {seconds:.1f} s"
        f" ({result.rows_read / seconds:,.0f} rows a second)"
    )
    for example in result.bad_row_examples:
        context.log.warning(f"left out {example}")


def _build_interactions_metadata(pipeline: Pipeline, record: InteractionsRecord) -> dict[str, Any]:
    rows = record.rows
    return {
        **build_table_metadata(rows.rows_kept, COLUMNS, pipeline.interactions_columns),
        "rows_read": rows.rows_read,
        "rows_left_out": rows.rows_read - rows.rows_kept,
        "left_out_by_reason": dict(rows.left_out),
        "bad_row_examples": list(rows.bad_row_examples),
        "timestamp_unit": rows.timestamp_unit,
        **record.job,
        "users": record.counts.users,
        "items": record.counts.items,
        "erased_users_in_source": rows.erased_users or None,
        "engine": record.engine,
    }


def _describe_rules(rules: RowRules) -> str:
    if rules.min_rating is None:
        return "All ratings count." if rules.filter is None else f"Only rows with {rules.filter}."
    return f"Ratings below {rules.min_rating:g} are left out."


def batch_users(published: ListTable) -> PipelineAsset:
    """Declare the asset of the users who get this list.

    Lists without users of their own share this asset.
    """
    columns = {USER_FIELD: ("string", "The user's id.")}
    settings = published.batch_users
    code_version = f"{USERS_VERSION}-{fingerprint(settings)}"

    @asset_of(
        published,
        "batch_users",
        description="The users who get a list, as JSON Lines, the input of a batch inference"
        f" job. {_describe_users(settings)}, each once.",
        kinds={"polars", "json"},
        deps=[
            asset_key(published, "interactions"),
            *map(dg.AssetKey, settings.upstream),
            *([asset_key(published, "users")] if settings.filter is not None else []),
        ],
        stage=PREPARED,
        storage_key=published.users_key,
        code_version=code_version,
        io_manager="batch_users_io",
    )
    def batch_users(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        from batchrec_dagster.steps.data.batch_users import list_users  # NumPy

        step = open_step(published.pipeline, context)
        source = settings.declared_rows
        if source is not None:
            source = find_upstream(source, context)
        result = list_users(step, published, source, code_version)
        users = result.record
        if users.erased:
            context.log.warning(
                f"the source of the users still has {users.erased:,} who were erased. They were"
                " left out: erase them there, too"
            )
        return result_to_dagster(
            result,
            step.files.uri(published.users_key),
            {
                **_count_not_matching(settings, users),
                "erased_users_in_source": users.erased or None,
                **build_table_metadata(users.users, columns),
                "users": users.users,
            },
        )

    return batch_users


def _describe_users(settings: BatchUsers) -> str:
    """Return a description of the users who get a list."""
    matching = "" if settings.filter is None else f" with {settings.filter}"
    if settings.source is not None:
        return f"Every user of {settings.shown_source}{matching}"
    since = "" if settings.active_since is None else f" since {settings.active_since}"
    return f"Every user of the interactions{since}{matching}"


def _count_not_matching(settings: BatchUsers, users: "BatchUsersRecord") -> dict[str, int]:
    if settings.filter is None:
        return {}
    return {"left_out_by_filter": users.not_matching, "not_in_users": users.unknown}
