"""recommendations: every user's list, from a batch inference job to one table."""

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.formats.batch_inference import MAX_RESULTS, OUTPUT_SUFFIX, read_output
from batchrec_dagster.formats.filters import EXCLUDE_SEEN
from batchrec_dagster.formats.interactions import FILTER_HISTORY, ITEM_ID, USER_ID
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
from batchrec_dagster.resources.ensure import Description
from batchrec_dagster.resources.kinds import BATCH_INFERENCE_JOB, FILTER

CODE_VERSION = "1"

# Asking more of Personalize for the sake of the longest histories makes everyone's answer longer;
# this many rows in all are read in seconds.
MOST_ROWS = 10_000_000

COLUMNS = {
    "user_id": ("string", "The user's id."),
    "rank": ("int", "1 is the best."),
    "item_id": ("string", "The recommended item's id."),
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
            " user_id, rank, item_id and score.",
            kinds={"personalize", "parquet"},
            storage_key=pipeline.places.recommendations,
            code_version=f"{CODE_VERSION}-{fingerprint(wanted)}",
            io_manager="parquet_io",
        ),
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
        if wanted.exclude_seen:
            request["filterArn"] = ensure.named(
                FILTER,
                f"{solution_version['dataset_group_name']}-exclude-seen",
                {
                    "datasetGroupArn": solution_version["dataset_group_arn"],
                    "filterExpression": EXCLUDE_SEEN,
                },
                datasetGroupArn=solution_version["dataset_group_arn"],
            ).arn
            request["numResults"] = min(
                personalize.max_results,
                max(MAX_RESULTS, MOST_ROWS // max(1, batch_users.height)),
                wanted.num_results + seen_beyond_filter(interactions),
            )

        def output(job: str) -> str:
            return storage.uri(places.batch_inference(job))

        def has_output(description: Description) -> bool:
            """Whether a finished job's files are still there; one under way will write them."""
            return description["status"] != "ACTIVE" or bool(
                _output_files(storage, description["jobOutput"]["s3DataDestination"]["path"])
            )

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
                usable=has_output,
                solutionVersionArn=version_arn,
            ),
        )
        out = job.description["jobOutput"]["s3DataDestination"]["path"]
        lines = _lines(storage, out)
        seen = interactions if wanted.exclude_seen else None
        table, dropped = recommendation_table(lines, seen, wanted.num_results)

        checks = [
            every_user_has_a_line(batch_users, lines),
            no_line_failed(lines),
            no_duplicates(table),
            *([none_seen(table, interactions)] if wanted.exclude_seen else []),
            lists_full(table, batch_users.height, wanted.num_results),
        ]
        yield from published(
            checks,
            dg.MaterializeResult(
                value=table,
                data_version=dg.DataVersion(
                    fingerprint(job.arn, users_version, wanted, CODE_VERSION)
                ),
                metadata={
                    "dagster/row_count": table.height,
                    "dagster/column_schema": column_schema(COLUMNS),
                    "users": table.get_column("user_id").n_unique(),
                    "items": table.get_column("item_id").n_unique(),
                    "results_asked_for": request["numResults"],
                    "seen_items_dropped": dropped,
                    "table": storage.where(storage.uri(places.recommendations)),
                    "batch_inference_job_arn": job.arn,
                    "batch_inference_output": out,
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


def _output_files(storage: StorageResource, folder: str) -> list[str]:
    return [file.uri for file in storage.store.list(folder) if file.uri.endswith(OUTPUT_SUFFIX)]


def _lines(storage: StorageResource, folder: str) -> pl.DataFrame:
    """What a batch inference job answered; raises dg.Failure when that cannot be read."""
    files = _output_files(storage, folder)
    if not files:
        raise dg.Failure(
            f"the batch inference job left no {OUTPUT_SUFFIX} file in {folder}: run it again",
            allow_retries=False,
        )
    answers = []
    for uri in files:
        try:
            answers.append(read_output(storage.store.get(uri)))
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise dg.Failure(
                f"{storage.where(uri)}: {reason}; delete it and start the run again",
                allow_retries=False,
            ) from error
    return pl.concat(answers)
