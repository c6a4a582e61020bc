"""The assets interactions, which Personalize learns from, and batch_users, who get lists."""

import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from batchrec_dagster.config import Pipeline, PublishedList, fingerprint
from batchrec_dagster.config.batch_users import BatchUsers
from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.file_formats import USER_FIELD
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.pipeline.assets.raw import DataConfig, size_check
from batchrec_dagster.pipeline.declare_asset import (
    PREPARED,
    asset_options,
    preview_metadata,
    table_metadata,
)
from batchrec_dagster.pipeline.run_history import DagsterRuns
from batchrec_dagster.pipeline.run_step import (
    NOT_PREPARED_AGAIN,
    SUPPRESSED_USERS,
    AssetResult,
    add_checks,
    asset_step,
    get_work,
    materialization_with_checks,
    reusable_result,
)
from batchrec_dagster.pipeline.spark_jobs import choose_spark_engine
from batchrec_dagster.pipeline.upstream import find_upstream
from batchrec_dagster.preparation.rules import PreparationResult, Rules
from batchrec_dagster.reporting.markdown import escape, format_table
from batchrec_dagster.steps.checks import SOURCE_WITHOUT_ERASED
from batchrec_dagster.steps.data_sizes import NOT_SHRUNK, SizeComparison, read_size, remember_size
from batchrec_dagster.steps.interactions import PreparedInteractions, prepare_interactions
from batchrec_dagster.steps.raw_files import RawRecord, delete_copies
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.hashed_users import SuppressedUsers
from batchrec_dagster.storage.suppressed_users import SuppressionList

if TYPE_CHECKING:
    from batchrec_dagster.steps.batches import RequestedUsers

CODE_VERSION = "2"

COLUMNS = {
    schemas.USER_ID: ("string", "The user's id, as in the ratings file."),
    schemas.ITEM_ID: ("string", "The item's id, as in the ratings file."),
    schemas.TIMESTAMP: ("long", "When, in epoch seconds."),
    schemas.EVENT_TYPE: ("string", "The kind of interaction, for filters on interactions."),
    schemas.EVENT_VALUE: ("float", "A number that belongs to the event; may be missing."),
}


def interactions(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset of the ratings that count."""
    rules = pipeline.rules
    engine = pipeline.preparation.engine
    settings = fingerprint(pipeline.ratings.reading, rules)

    @dg.asset(
        **asset_options(
            pipeline,
            "interactions",
            description="What each user did with which item, and when: the ratings that count, as"
            f" the CSV file that Personalize imports and learns from. {_describe_rules(rules)}",
            kinds={"polars" if engine == "local" else "spark", "csv"},
            inputs=["raw_ratings"],
            stage=PREPARED,
            storage_key=pipeline.keys.interactions,
            code_version=f"{CODE_VERSION}-{settings}",
            io_manager="interactions_io",
            checks={
                "enough_interactions": "There are as many interactions and users as Personalize"
                " needs.",
                "timestamps_plausible": "The timestamps are between 1980 and now, in seconds.",
                "few_event_types": "There are as few event types as Personalize allows.",
                **size_check("interactions"),
            },
            warnings={
                SOURCE_WITHOUT_ERASED: "The source has no rows of people who were erased.",
            },
        )
    )
    @asset_step
    def interactions(
        context: dg.AssetExecutionContext, config: DataConfig, raw_ratings: RawRecord
    ) -> Iterator[AssetResult]:
        start = time.monotonic()
        work = get_work(pipeline, context)
        comparison = SizeComparison(work, "interactions", skip=config.skip_quality_gate)
        suppressed = SuppressionList(work.files).read()
        earlier_result = reusable_result(
            context,
            work.files.interactions_version,
            NOT_PREPARED_AGAIN,
            suppressed.version,
            not_repeated=[NOT_SHRUNK],
        )
        if earlier_result is not None:
            version = _read_version(earlier_result)
            size = read_size(work, "interactions", version)
            if size is not None:
                yield add_checks(earlier_result, [comparison.check(size)])
                _delete_copies_of_erased(context, work, raw_ratings, earlier_result)
                return
        spark = choose_spark_engine(pipeline.preparation)
        with prepare_interactions(
            work,
            raw_ratings,
            suppressed,
            partial(spark.run, context, work.storage) if spark else None,
            comparison.check,
            run=context.run.run_id,
            runs=DagsterRuns(context.instance),
        ) as preparation:
            _log_result(context, preparation.result, time.monotonic() - start)
            result = materialization_with_checks(
                preparation.checks,
                dg.MaterializeResult(
                    value=preparation.value,
                    data_version=dg.DataVersion(preparation.version),
                    metadata={
                        **_interactions_metadata(pipeline, preparation),
                        **_suppression_metadata(suppressed, preparation.result, raw_ratings),
                        "engine": engine,
                    },
                ),
            )
            yield result
            remember_size(work, "interactions", preparation.version, preparation.size)
            _delete_copies_of_erased(context, work, raw_ratings, result)

    return interactions


def _read_version(result: dg.MaterializeResult[Any]) -> str:
    """The data version of a result that has one."""
    assert result.data_version is not None
    return result.data_version.value


def _suppression_metadata(
    suppressed: SuppressedUsers, result: PreparationResult, raw: RawRecord
) -> dict[str, Any]:
    """Which list of erased users was obeyed, and what it means for the copies of the source."""
    if suppressed.version is None:
        return {}
    metadata: dict[str, Any] = {SUPPRESSED_USERS: suppressed.version}
    if result.erased_users:
        metadata["erased_users_in_source"] = result.erased_users
        if any(file.uri for file in raw.files):
            metadata["raw_copies"] = "deleted, because they have rows of erased people"
    return metadata


def _delete_copies_of_erased(
    context: dg.AssetExecutionContext,
    work: Work,
    raw: RawRecord,
    result: dg.MaterializeResult[Any],
) -> None:
    """Delete the copies of the source if they have rows of users who were erased.

    It is done once the interactions are published. If the run is killed before, the next one finds
    them unchanged and deletes the copies then.

    result: of the interactions that were made of the copies.
    """
    has_erased = any(
        check.check_name == SOURCE_WITHOUT_ERASED and not check.passed
        for check in result.check_results or []
    )
    if not has_erased:
        return
    pipeline = work.pipeline
    key = pipeline.keys.record("raw_ratings")
    delete_copies(pipeline.ratings.rows, raw, work.storage, pipeline.project, key)
    context.log.info("deleted the copies of the source: they have rows of erased people")


def _log_result(
    context: dg.AssetExecutionContext, result: PreparationResult, seconds: float
) -> None:
    context.log.debug(
        f"kept {result.rows_kept:,} of {result.rows_read:,} rows in {seconds:.1f} s"
        f" ({result.rows_read / seconds:,.0f} rows a second)"
    )
    for example in result.bad_row_examples:
        context.log.warning(f"left out {example}")


def _interactions_metadata(pipeline: Pipeline, preparation: PreparedInteractions) -> dict[str, Any]:
    result = preparation.result
    # Reasons with most rows come first, so that both engines show the same order.
    counts = sorted(result.left_out.items(), key=lambda item: (-item[1], item[0]))
    reasons = [[reason, f"{count:,}"] for reason, count in counts if count]
    return {
        "preview": preview_metadata(
            f"**{result.rows_kept:,} interactions** of {result.rows_read:,} rows.",
            *([format_table(["left out because", "rows"], reasons)] if reasons else []),
        ),
        **table_metadata(result.rows_kept, COLUMNS, pipeline.interactions_columns),
        "rows_read": result.rows_read,
        "rows_left_out": result.rows_read - result.rows_kept,
        "left_out_by_reason": dict(result.left_out),
        "bad_row_examples": list(result.bad_row_examples),
        "timestamp_unit": result.timestamp_unit,
        **preparation.job,
        "users": preparation.counts.users,
        "items": preparation.counts.items,
    }


def _describe_rules(rules: Rules) -> str:
    if rules.min_rating is None:
        return "All ratings count." if rules.filter is None else f"Only rows with {rules.filter}."
    return f"Ratings below {rules.min_rating:g} are left out."


def batch_users(published: PublishedList) -> dg.AssetsDefinition:
    """The asset of the users who get this list, and others without users of their own."""
    columns = {USER_FIELD: ("string", "The user's id.")}
    settings = published.batch_users

    @dg.asset(
        **asset_options(
            published,
            "batch_users",
            description="The users who get a list, as JSON Lines, the input of a batch inference"
            f" job. {_describe_users(settings)}, each once.",
            kinds={"polars", "json"},
            deps=[
                asset_key(published, "interactions"),
                *settings.upstream,
                *([asset_key(published, "users")] if settings.filter is not None else []),
            ],
            stage=PREPARED,
            storage_key=published.users_key,
            code_version=f"{CODE_VERSION}-{fingerprint(settings)}",
            io_manager="batch_users_io",
        )
    )
    @asset_step
    def batch_users(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        from batchrec_dagster.steps.batches import find_batch_users  # NumPy

        work = get_work(published.pipeline, context)
        # A source of the users may have changed, because Dagster knows no version of it.
        if settings.source is None:
            find_version = partial(work.storage.version, work.files.uri(published.users_key))
            earlier_result = reusable_result(context, find_version, NOT_PREPARED_AGAIN)
            if earlier_result is not None:
                return earlier_result
        source = settings.rows
        if source is not None:
            source = find_upstream(source, context)
        requested = find_batch_users(work, published, source)
        users = requested.users
        if requested.erased:
            context.log.warning(
                f"the source of the users still has {requested.erased:,} who were erased. They were"
                " left out: erase them there, too"
            )
        return dg.MaterializeResult(
            value=users,
            data_version=dg.DataVersion(requested.version),
            metadata={
                "preview": preview_metadata(
                    f"**{users.height:,} users** get a list.",
                    *_describe_not_matching(settings, requested),
                ),
                **_count_not_matching(settings, requested),
                **({"erased_users_in_source": requested.erased} if requested.erased else {}),
                **table_metadata(users.height, columns, users.columns),
                "users": users.height,
            },
        )

    return batch_users


def _describe_users(settings: BatchUsers) -> str:
    matching = "" if settings.filter is None else f" with {settings.filter}"
    if settings.source is not None:
        return f"Every user of {settings.shown_source}{matching}"
    since = "" if settings.active_since is None else f" since {settings.active_since}"
    return f"Every user of the interactions{since}{matching}"


def _describe_not_matching(settings: BatchUsers, requested: "RequestedUsers") -> Iterator[str]:
    """A sentence on the users whom batch_users.filter left out; none without a filter."""
    if settings.filter is not None:
        yield (
            f"{requested.not_matching:,} others do not, by {escape(settings.filter)};"
            f" {requested.unknown:,} of them are not in the file of users."
        )


def _count_not_matching(settings: BatchUsers, requested: "RequestedUsers") -> dict[str, int]:
    if settings.filter is None:
        return {}
    return {"left_out_by_filter": requested.not_matching, "not_in_users": requested.unknown}
