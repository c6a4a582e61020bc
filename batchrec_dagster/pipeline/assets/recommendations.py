"""recommendations: every user's list, from a batch inference job to one table."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.formats.batch_inference import MAX_RESULTS, read_output
from batchrec_dagster.formats.interactions import FILTER_HISTORY, ITEM_ID, USER_ID
from batchrec_dagster.pipeline.assets.batch_output import has_output, output_folder, output_lines
from batchrec_dagster.pipeline.assets.filters import filter_arn
from batchrec_dagster.pipeline.assets.items import titles_of, titles_versions, with_titles
from batchrec_dagster.pipeline.assets.specs import column_schema, described, sample
from batchrec_dagster.pipeline.checks import (
    every_user_has_a_line,
    lists_full,
    no_duplicates,
    no_line_failed,
    none_seen,
    published,
    specs,
)
from batchrec_dagster.pipeline.settings import Pipeline, fingerprint
from batchrec_dagster.resources import PersonalizeResource, StorageResource
from batchrec_dagster.resources.kinds import BATCH_INFERENCE_JOB

CODE_VERSION = "1"

# Asking more of Personalize for the sake of the longest histories makes everyone's answer longer;
# this many rows in all are read in seconds.
MOST_ROWS = 10_000_000

COLUMNS = {
    "user_id": ("string", "The user's id."),
    "rank": ("int", "1 is the best."),
    "item_id": ("string", "The recommended item's id."),
    "title": ("string", "The item's title; null where the items file has none."),
    "score": ("float", "Personalize's score; of all items together a user's scores sum to 1."),
}


def recommendations(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
    wanted = pipeline.recommendations
    seen_checks = (
        {"none_seen": "No list holds what its user already interacted with."}
        if wanted.exclude_seen
        else {}
    )

    @dg.asset(
        **described(
            pipeline,
            description=f"The {wanted.num_results} best items for every user: one table of"
            " user_id, rank, item_id and score"
            f"{', with the titles of the items' if titles_of(pipeline) else ''}.",
            kinds={"personalize", "parquet"},
            storage_key=pipeline.places.recommendations,
            code_version=f"{CODE_VERSION}-{fingerprint(wanted, *titles_of(pipeline))}",
            io_manager="parquet_io",
        ),
        deps=titles_of(pipeline),
        check_specs=specs(
            "recommendations",
            pipeline.name,
            every_user_has_a_line="Each user was answered, once.",
            no_line_failed="No user's line has an error in place of items.",
            no_duplicates="No list holds an item twice.",
            **seen_checks,
            lists_full=f"Every user has all {wanted.num_results} items.",
        ),
    )
    def recommendations(
        context: dg.AssetExecutionContext,
        solution_version: dict[str, Any],
        batch_users: pl.DataFrame,
        interactions: pl.LazyFrame,
        storage: StorageResource,
        personalize: PersonalizeResource,
    ) -> Iterator[Any]:
        started = time.monotonic()
        places = pipeline.places
        version_arn = solution_version["solution_version_arn"]
        ensure = personalize.ensure(
            context.log,
            {**pipeline.tags, "batchrec:data-version": solution_version["data_version"]},
        )
        request: dict[str, Any] = {
            "solutionVersionArn": version_arn,
            "numResults": wanted.num_results,
            "jobInput": {"s3DataSource": {"path": storage.uri(places.batch_users)}},
            "roleArn": personalize.role_arn,
        }
        if wanted.filter_expression:
            # An expression cannot be changed, so that another one means another filter.
            own = fingerprint(wanted.filter_expression)[:8] if wanted.filter else None
            request["filterArn"] = filter_arn(
                ensure,
                solution_version,
                own or "exclude-seen",
                wanted.filter_expression,
                f"recommendations.{'filter' if own else 'exclude_seen'}",
            )
        if wanted.exclude_seen:
            request["numResults"] = min(
                personalize.max_results,
                max(MAX_RESULTS, MOST_ROWS // max(1, batch_users.height)),
                wanted.num_results + seen_beyond_filter(interactions),
            )

        def output(job: str) -> str:
            return storage.uri(places.batch_inference(job))

        users_version = storage.version(storage.uri(places.batch_users))
        job = ensure.ready(
            BATCH_INFERENCE_JOB,
            ensure.start_numbered(
                BATCH_INFERENCE_JOB,
                f"{pipeline.name}-{fingerprint(request, users_version)[:12]}",
                lambda name: {
                    **request,
                    "jobOutput": {"s3DataDestination": {"path": output(name)}},
                },
                usable=partial(has_output, storage),
                solutionVersionArn=version_arn,
            ),
        )
        lines = output_lines(storage, job.description, read_output)
        seen = interactions if wanted.exclude_seen else None
        ranked, dropped = recommendation_table(lines, seen, wanted.num_results)
        table = with_titles(ranked, pipeline, storage)

        checks = [
            every_user_has_a_line(batch_users, lines),
            no_line_failed(lines),
            no_duplicates(table),
            *([none_seen(table, interactions)] if wanted.exclude_seen else []),
            lists_full(
                table, batch_users.height, wanted.num_results, filtered=wanted.filter is not None
            ),
        ]
        yield from published(
            checks,
            dg.MaterializeResult(
                value=table,
                data_version=dg.DataVersion(
                    fingerprint(
                        job.arn,
                        users_version,
                        wanted,
                        CODE_VERSION,
                        *titles_versions(pipeline, storage),
                    )
                ),
                metadata={
                    "dagster/row_count": table.height,
                    "dagster/column_schema": column_schema(COLUMNS, table.columns),
                    "users": table.get_column("user_id").n_unique(),
                    "items": table.get_column("item_id").n_unique(),
                    "results_asked_for": request["numResults"],
                    "seen_items_dropped": dropped,
                    "table": storage.where(storage.uri(places.recommendations)),
                    "batch_inference_job_arn": job.arn,
                    "batch_inference_output": output_folder(job.description),
                    "status": job.description["status"],
                    "outcome": "inferred" if job.created else "unchanged: not inferred again",
                    "sample": sample(table.head(5)),
                    "seconds": time.monotonic() - started,
                },
            ),
        )

    return recommendations


def seen_beyond_filter(interactions: pl.LazyFrame) -> int:
    """How many seen items of a user the filter may overlook at most: those outside the latest
    interactions that it looks at."""
    longest = (
        interactions.group_by(USER_ID)
        .agg(pl.col(ITEM_ID).n_unique())
        .select(pl.col(ITEM_ID).max())
        .collect(engine="streaming")
        .item()
    )
    return max(0, int(longest or 0) - FILTER_HISTORY)


def recommendation_table(
    lines: pl.DataFrame, interactions: pl.LazyFrame | None, num_results: int
) -> tuple[pl.DataFrame, int]:
    """The best `num_results` items of each line as rows of user_id, rank, item_id and score, users
    in the lines' order; and how many items were dropped as seen.

    `interactions` tells what each user has seen; None drops nothing.
    """
    # Popularity-Count gives no scores: a list of nulls as long as the items stands in for them.
    scores = pl.coalesce("scores", pl.col("items").list.eval(pl.lit(None, dtype=pl.Float64)))
    offered = (
        lines.filter(pl.col("items").list.len() > 0)
        .select("user_id", item_id="items", score=scores)
        .explode("item_id", "score")
    )
    kept = offered
    if interactions is not None:
        seen = interactions.select(user_id=USER_ID, item_id=ITEM_ID).unique().collect()
        kept = offered.join(seen, on=["user_id", "item_id"], how="anti", maintain_order="left")
    table = (
        kept.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
        .filter(pl.col("rank") <= num_results)
        .select("user_id", "rank", "item_id", "score")
    )
    return table, offered.height - kept.height
